//! The schema is made from the types; unknown keys are found by walking it, so that there is no second list of keys.

use super::{Config, Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// The JSON Schema of the configuration.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    schema["title"] = "Stage1 configuration".into();
    schema
}

/// Fails on the first key of `document` that `schema` doesn't know.
pub(super) fn refuse_unknown_keys(schema: &Value, document: &Value, origin: &str) -> Result<()> {
    walk(schema, schema, document, "").map_err(|(key, nearest)| Error::UnknownKey {
        origin: origin.to_owned(),
        key,
        nearest,
    })
}

type Unknown = (String, Option<String>);

fn walk(root: &Value, schema: &Value, document: &Value, path: &str) -> Result<(), Unknown> {
    let Value::Object(object) = document else {
        return Ok(());
    };
    let objects = object_schemas(root, schema);
    if objects.is_empty() {
        return Ok(());
    }
    for (key, value) in object {
        let below = join(path, key);
        let inner = objects
            .iter()
            .find_map(|schema| schema["properties"].get(key));
        let Some(inner) = inner else {
            let known = objects
                .iter()
                .flat_map(|schema| property_names(schema))
                .collect();
            return Err((below, nearest(key, &known).map(|key| join(path, &key))));
        };
        walk(root, inner, value, &below)?;
    }
    Ok(())
}

/// The schemas with properties that `schema` stands for, through references and alternatives.
fn object_schemas<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let mut found = Vec::new();
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix("#/$defs/"))
    {
        found.extend(object_schemas(root, &root["$defs"][name]));
    }
    if schema["properties"].is_object() {
        found.push(schema);
    }
    for alternatives in ["anyOf", "oneOf", "allOf"] {
        let list = schema[alternatives].as_array().into_iter().flatten();
        found.extend(list.flat_map(|schema| object_schemas(root, schema)));
    }
    found
}

fn property_names(schema: &Value) -> impl Iterator<Item = String> {
    schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys().cloned())
}

fn nearest(key: &str, known: &BTreeSet<String>) -> Option<String> {
    let similarity = |name: &String| strsim::jaro_winkler(key, name);
    let best = known
        .iter()
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(best) > 0.7).then(|| best.clone())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
