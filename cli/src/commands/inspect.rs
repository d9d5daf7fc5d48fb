//! `stage1 export --inspect`: what models consist of and what they cost to run.

use crate::output::{Answer, Output};
use anyhow::Context;
use serde_json::{Value, json};
use stage1_core::bundle::{Bundle, Variant};
use stage1_exporter::{Inspection, inspect};
use std::{collections::BTreeMap, fs, path::Path};

/// Models by the variant's name; a model that is no variant has none.
pub(crate) type Found = BTreeMap<String, Inspection>;

/// Inspects an ONNX file, or every variant of a bundle.
pub(crate) fn run(path: &Path, output: &Output) -> anyhow::Result<Answer> {
    let (found, kind) = match path.is_dir() {
        true => (bundle(&Bundle::open(path)?)?, "bundle"),
        false => {
            let bytes = fs::read(path);
            let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
            let found = model(&bytes);
            let found = found.with_context(|| format!("cannot inspect {}", path.display()))?;
            (found, "model")
        }
    };
    let document = json!({ kind: path });
    let (document, text) = append(Some(found), document, path.display().to_string());
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}

/// The one model in `bytes`.
pub(crate) fn model(bytes: &[u8]) -> anyhow::Result<Found> {
    Ok(BTreeMap::from([(String::new(), inspect(bytes)?)]))
}

/// The variants of a bundle.
pub(crate) fn bundle(bundle: &Bundle) -> anyhow::Result<Found> {
    let variant = |(name, variant): (&String, &Variant)| {
        let bytes = bundle.read(&variant.model)?;
        let found = inspect(&bytes).with_context(|| format!("cannot inspect variant {name}"))?;
        Ok((name.clone(), found))
    };
    bundle.manifest().variants.iter().map(variant).collect()
}

/// An answer with what was found, if that was asked for.
pub(crate) fn append(found: Option<Found>, mut document: Value, text: String) -> (Value, String) {
    let Some(found) = found else {
        return (document, text);
    };
    document["inspection"] = match found.get("") {
        Some(one) => json!(one),
        None => json!(found),
    };
    let lines = found.iter().map(|(name, found)| describe(name, found));
    let text = lines.fold(text, |text, lines| format!("{text}\n{lines}"));
    (document, text)
}

fn describe(name: &str, found: &Inspection) -> String {
    let nodes: Vec<_> = found
        .nodes
        .iter()
        .map(|(op, count)| format!("{count} {op}"))
        .collect();
    let total: usize = found.nodes.values().sum();
    let flops = found.flops_per_image.map_or_else(
        || "unknown".to_owned(),
        |flops| format!("{:.3} G", flops as f64 / 1e9),
    );
    let folded = match found.folded.is_empty() {
        true => "not noted in the file".to_owned(),
        false => found.folded.join("; "),
    };
    let mut lines = vec![
        format!("  nodes           {total}: {}", nodes.join(", ")),
        format!("  parameters      {}", found.parameters),
        format!("  FLOPs per image {flops}"),
        format!("  bytes           {}", found.bytes),
        format!("  folded          {folded}"),
    ];
    if !name.is_empty() {
        lines.insert(0, format!("variant {name}"));
    }
    lines.join("\n")
}
