//! Arms of an A/B test: the configuration with some keys changed, under a name.

use super::{Error, Result};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// One way to train: overrides of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// Lower-case letters, digits, `-`, `_` and `.`: it names a folder.
    pub name: String,
    /// As `--set` takes them.
    pub overrides: Vec<String>,
}

impl Arm {
    /// Of `NAME:KEY=VALUE,KEY=VALUE`; commas inside of brackets, braces and quotes belong to a value.
    ///
    /// # Errors
    /// [`Error::Arm`].
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, keys)) = text.split_once(':') else {
            return Err(refused(text, "expected NAME:KEY=VALUE,KEY=VALUE"));
        };
        let overrides: Vec<_> = parts(keys).map(str::to_owned).collect();
        if let Some(part) = overrides.iter().find(|part| !part.contains('=')) {
            let reason = format!(
                "`{part}` isn't KEY=VALUE; put lists in brackets, and what has a comma in quotes"
            );
            return Err(refused(text, &reason));
        }
        Self::new(name.trim(), overrides).map_err(|reason| refused(text, &reason))
    }

    /// All arms of a YAML file: names, each with the keys that it changes, nested or with dots.
    ///
    /// ```yaml
    /// lora: {phase: peft, peft: {target_modules: [query, value], r: 8}}
    /// wide: {head.kind: mlp, head.hidden: 1024}
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Yaml`] and [`Error::Arm`].
    pub fn load_all(path: &Path) -> Result<Vec<Self>> {
        let text = fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let arms: BTreeMap<String, BTreeMap<String, Value>> = serde_saphyr::from_str(&text)
            .map_err(|error| Error::Yaml {
                path: path.to_owned(),
                reason: error.render_with_formatter(&serde_saphyr::UserMessageFormatter),
            })?;
        let arm = |(name, keys): (String, BTreeMap<String, Value>)| {
            let keys = keys.into_iter();
            // JSON is YAML.
            let overrides = keys.map(|(key, value)| format!("{key}={value}")).collect();
            let origin = format!("{} ({name})", path.display());
            Self::new(&name, overrides).map_err(|reason| refused(&origin, &reason))
        };
        arms.into_iter().map(arm).collect()
    }

    fn new(name: &str, overrides: Vec<String>) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
            return Err(format!(
                "the name is `{name}`, expected lower-case letters, digits, `-`, `_` and `.`: it names a folder"
            ));
        }
        if overrides.is_empty() {
            return Err(
                "it changes nothing; the configuration itself is the arm `base`".to_owned(),
            );
        }
        let name = name.to_owned();
        Ok(Self { name, overrides })
    }
}

fn refused(arm: &str, reason: &str) -> Error {
    Error::Arm {
        arm: arm.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Splits at the commas that aren't inside of anything; empty parts are left out.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut quote) = (0_i32, None);
    text.split(move |c: char| {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, _) => {}
        }
        c == ',' && depth == 0 && quote.is_none()
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_inside_of_values_do_not_divide() {
        let cases = [
            ("a:x=1", "a", vec!["x=1"]),
            ("a: x=1, y=2", "a", vec!["x=1", "y=2"]),
            (
                "lora-8:phase=peft,peft.target_modules=[q_proj, v_proj],peft.r=8",
                "lora-8",
                vec![
                    "phase=peft",
                    "peft.target_modules=[q_proj, v_proj]",
                    "peft.r=8",
                ],
            ),
            (
                "a:x={y: [1, 2], z: 3},w=\"1,2\"",
                "a",
                vec!["x={y: [1, 2], z: 3}", "w=\"1,2\""],
            ),
        ];
        for (text, name, overrides) in cases {
            let arm = Arm::parse(text).unwrap();
            assert_eq!(
                (arm.name.as_str(), arm.overrides),
                (name, overrides.iter().map(|s| (*s).to_owned()).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_holds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arms.yaml");
        fs::write(
            &path,
            "lora: {phase: peft, peft: {target_modules: [query, value], r: 8}}\nwide: {head.kind: mlp, head.hidden: 1024}\n",
        )
        .unwrap();
        let arms = Arm::load_all(&path).unwrap();
        let names: Vec<_> = arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["lora", "wide"]);
        assert_eq!(arms[1].overrides, ["head.hidden=1024", "head.kind=\"mlp\""]);
        let document = serde_json::json!({
            "version": 1, "data": {"source": "images"}, "backbone": {"path": "weights"},
        });
        for arm in arms {
            super::super::Config::from_document(document.clone(), "a test", &arm.overrides)
                .unwrap();
        }
    }

    #[test]
    fn what_is_no_arm_is_refused_with_what_is_expected() {
        let cases = [
            ("phase=peft", "expected NAME:KEY=VALUE"),
            ("a:", "it changes nothing"),
            ("A b:x=1", "the name is `A b`"),
            ("../up:x=1", "the name is `../up`"),
            (
                "a:peft.target_modules=q_proj,v_proj",
                "`v_proj` isn't KEY=VALUE",
            ),
        ];
        for (text, want) in cases {
            let message = Arm::parse(text).unwrap_err().to_string();
            assert!(
                message.contains(want) && message.contains(text),
                "{message}"
            );
        }
    }
}
