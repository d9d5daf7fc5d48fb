/// The commented default configuration that `stage1 init` writes, with the source of images and the backbone filled in.
pub fn template(source: &str, backbone: &str) -> String {
    let quote = |text: &str| serde_json::to_string(text).expect("a string has a JSON form");
    TEMPLATE
        .replace("$SOURCE", &quote(source))
        .replace("$BACKBONE", &quote(backbone))
}

// JSON strings are YAML strings, so that any path survives.
const TEMPLATE: &str = include_str!("template.yaml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, json_schema};
    use serde_json::Value;

    #[test]
    fn the_template_holds_the_defaults_and_every_key() {
        let text = template("C:\\im: ages", "weights # 1");
        let document: Value = serde_saphyr::from_str(&text).unwrap();
        let config = Config::from_document(document.clone(), "template", &[]).unwrap();
        assert_eq!(config.data.source.to_str(), Some("C:\\im: ages"));
        assert_eq!(config.backbone.path.to_str(), Some("weights # 1"));
        let resolved: Value = serde_saphyr::from_str(&config.to_yaml()).unwrap();
        assert_eq!(
            document, resolved,
            "the template leaves out a key, or differs from a default"
        );
        assert!(json_schema()["properties"]["train"].is_object());

        let mut bare = document;
        for optional in [
            "split",
            "preprocess",
            "head",
            "train",
            "export",
            "calibrate",
            "validate",
            "seed",
            "threads",
            "phase",
            "run_dir",
        ] {
            bare.as_object_mut().unwrap().remove(optional);
        }
        bare["data"]
            .as_object_mut()
            .unwrap()
            .retain(|key, _| key == "source");
        assert_eq!(Config::from_document(bare, "bare", &[]).unwrap(), config);
    }
}
