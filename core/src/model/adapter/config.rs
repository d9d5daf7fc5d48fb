//! `adapter_config.json`: everything about an adapter that isn't in its tensors, first of all its scale.

use super::AdapterError as E;
use crate::{artifact, model::Result};
use serde_json::{Map, Value};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Keys that say nothing about what a merged layer computes, whatever their value: where the adapter comes from, how it
/// was trained, and which modules it was meant for (the tensors say which it has).
const IRRELEVANT: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Heads that PEFT saves whole beside an adapter. A backbone has none, so that they are left out, as they are when a
/// model's own file holds them.
const HEADS: [&str; 2] = ["classifier", "score"];

pub(super) struct Config {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| artifact::Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let keys = serde_json::from_slice(&bytes).map_err(|error| artifact::Error::Json {
            path: path.to_owned(),
            kind: "adapter_config.json",
            field: ".".to_owned(),
            reason: error.to_string(),
        })?;
        let config = Self {
            path: path.to_owned(),
            keys,
        };
        config.check()?;
        Ok(config)
    }

    /// Each key is read, irrelevant, or must have a value that turns it off.
    fn check(&self) -> Result<()> {
        for (key, value) in &self.keys {
            let (fine, want) = match key.as_str() {
                "peft_type" => (value == "LORA", "\"LORA\""),
                "bias" => (value == "none", "\"none\""),
                "init_lora_weights" => (is_init(value), "true, false or \"gaussian\""),
                "modules_to_save" => (is_heads(value), "null, or a classifier"),
                "r" | "lora_alpha" | "rank_pattern" | "alpha_pattern" | "target_modules"
                | "use_rslora" | "use_dora" => (true, ""),
                key if IRRELEVANT.contains(&key) => (true, ""),
                _ => (is_off(value), "null, false or nothing"),
            };
            if !fine {
                return Err(E::UnsupportedValue {
                    path: self.path.clone(),
                    key: key.clone(),
                    got: value.to_string(),
                    want: want.to_owned(),
                })?;
            }
        }
        self.required("peft_type")?;
        self.flag("use_rslora")?;
        self.flag("use_dora")?;
        Ok(())
    }

    /// Whether a tensor belongs to a module that was saved whole and is left out.
    pub(super) fn is_saved_whole(&self, name: &str) -> bool {
        let saved = self.keys.get("modules_to_save").and_then(Value::as_array);
        let mut saved = saved.into_iter().flatten().filter_map(Value::as_str);
        saved.any(|module| {
            name.strip_prefix(module)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    pub(super) fn use_dora(&self) -> bool {
        self.keys.get("use_dora") == Some(&Value::Bool(true))
    }

    /// A list of target modules must name the module; a pattern can't be checked without PEFT, and needn't be, since PEFT
    /// saves what it adapted.
    pub(super) fn check_target(&self, module: &str) -> Result<()> {
        let Some(Value::Array(targets)) = self.keys.get("target_modules") else {
            return Ok(());
        };
        let targets: Vec<_> = targets.iter().filter_map(Value::as_str).collect();
        if targets.iter().any(|target| names(target, module)) {
            return Ok(());
        }
        Err(E::NotATarget {
            path: self.path.clone(),
            module: module.to_owned(),
            targets: targets.into_iter().map(str::to_owned).collect(),
        })?
    }

    /// The rank of a module's change, and what B A is multiplied with.
    pub(super) fn rank_and_scale(&self, module: &str) -> Result<(usize, f64)> {
        let (key, rank) = self.of_module("rank_pattern", "r", module)?;
        let count = rank.as_u64().and_then(|rank| usize::try_from(rank).ok());
        let Some(rank @ 1..) = count else {
            return Err(self.invalid(key, rank, "a positive integer"))?;
        };
        let (key, alpha) = self.of_module("alpha_pattern", "lora_alpha", module)?;
        let Some(alpha) = alpha.as_f64() else {
            return Err(self.invalid(key, alpha, "a number"))?;
        };
        let scale = match self.flag("use_rslora")? {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        };
        Ok((rank, scale))
    }

    /// The value for a module: the pattern's, if one names it, else the general one.
    fn of_module(
        &self,
        pattern: &'static str,
        general: &'static str,
        module: &str,
    ) -> Result<(&'static str, &Value)> {
        let patterns = match self.keys.get(pattern) {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(other) => return Err(self.invalid(pattern, other, "an object"))?,
        };
        for (name, value) in patterns.into_iter().flatten() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            if !name.chars().all(plain) {
                return Err(E::UnsupportedValue {
                    path: self.path.clone(),
                    key: pattern.to_owned(),
                    got: format!("`{name}`"),
                    want: "names of modules, or what they end in, without wildcards".to_owned(),
                })?;
            }
            if names(name, module) {
                return Ok((pattern, value));
            }
        }
        Ok((general, self.required(general)?))
    }

    fn required(&self, key: &'static str) -> Result<&Value> {
        match self.keys.get(key) {
            Some(value) => Ok(value),
            None => Err(self.invalid(key, "missing", "a value"))?,
        }
    }

    fn flag(&self, key: &'static str) -> Result<bool> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.invalid(key, other, "true or false"))?,
        }
    }

    fn invalid(&self, key: &str, got: impl ToString, want: &'static str) -> E {
        E::InvalidValue {
            path: self.path.clone(),
            key: key.to_owned(),
            got: got.to_string(),
            want,
        }
    }
}

/// PEFT's rule: the whole name, or what it ends in after a dot.
fn names(target: &str, module: &str) -> bool {
    match module.strip_suffix(target) {
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    }
}

/// Other initialisations (PiSSA, OLoRA, LoftQ, CorDA) change the base weights that the adapter belongs to.
fn is_init(value: &Value) -> bool {
    value.is_boolean() || value.is_null() || value == "gaussian"
}

fn is_heads(value: &Value) -> bool {
    let head = |value: &Value| value.as_str().is_some_and(|name| HEADS.contains(&name));
    match value {
        Value::Array(modules) => modules.iter().all(head),
        other => other.is_null(),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    }
}
