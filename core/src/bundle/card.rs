//! The model card: what a person reads before using a bundle.

use super::BundleManifest;
use crate::{certificate::Certificate, preprocess::PixelFormat};
use std::{collections::BTreeMap, fmt::Write};

/// The card's Markdown.
pub(super) fn render(
    manifest: &BundleManifest,
    certificates: &BTreeMap<String, Vec<Certificate>>,
) -> String {
    let mut out = String::new();
    head(manifest, &mut out).expect("writing to a string can't fail");
    for name in manifest.variants.keys() {
        let of_variant = certificates.get(name).map_or(&[][..], Vec::as_slice);
        variant(name, of_variant, &mut out).expect("writing to a string can't fail");
    }
    tail(manifest, &mut out).expect("writing to a string can't fail");
    out
}

fn head(manifest: &BundleManifest, out: &mut String) -> std::fmt::Result {
    writeln!(out, "# A stage-1 image classifier\n")?;
    writeln!(
        out,
        "For each image it either **answers** with a class or **defers** to something slower.\n"
    )?;
    writeln!(out, "    stage1 predict --bundle <this folder> <images>\n")?;
    writeln!(out, "## Classes\n")?;
    for (k, label) in manifest.labels.iter().enumerate() {
        writeln!(out, "{k}. `{label}`")?;
    }
    writeln!(out, "\n## What it can be trusted with")
}

fn variant(name: &str, certificates: &[Certificate], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n### Variant `{name}`\n")?;
    let [certificate, further @ ..] = certificates else {
        return writeln!(
            out,
            "Not calibrated: there is no policy, so it gives no answers. `stage1 calibrate` makes one."
        );
    };
    writeln!(out, "{}\n", certificate.statement)?;
    writeln!(
        out,
        "This is about stage 1's answers, on average over images drawn like those it was calibrated on. It is not about\n\
         a single image, not about each class, not about images of another kind (other cameras, sites, times, class\n\
         shares), and says nothing about deferred images.\n"
    )?;
    for assumption in &certificate.assumptions {
        writeln!(out, "- Assumed: {assumption}")?;
    }
    if let Some(fingerprint) = &certificate.fingerprint {
        writeln!(
            out,
            "\nIt holds for what was measured: provider `{}` ({}), precision `{}`, instruction set `{}`. Elsewhere the\n\
             runtime refuses, unless `--allow-uncertified` is given, and then every answer says `\"certified\": false`.",
            fingerprint.provider,
            fingerprint.provider_version,
            fingerprint.precision,
            fingerprint.cpu_isa
        )?;
    }
    for fingerprint in further.iter().filter_map(|one| one.fingerprint.as_ref()) {
        writeln!(
            out,
            "\nThe same policy was certified through provider `{}` ({}), instruction set `{}`, too, by a certificate of its own.",
            fingerprint.provider, fingerprint.provider_version, fingerprint.cpu_isa
        )?;
    }
    Ok(())
}

fn tail(manifest: &BundleManifest, out: &mut String) -> std::fmt::Result {
    if !manifest.metrics.is_empty() {
        writeln!(
            out,
            "\n## Metrics of the model alone (on val_select, which also chose it)\n"
        )?;
        writeln!(out, "| metric | value |\n|---|---|")?;
        for (name, value) in &manifest.metrics {
            writeln!(out, "| {name} | {value:.4} |")?;
        }
    }
    let input = &manifest.input;
    let images = input.batch.map_or("N".to_owned(), |n| n.to_string());
    writeln!(out, "\n## Input and output\n")?;
    writeln!(
        out,
        "`{}`: {}, made from image bytes by this preprocessing{} (digest {}):\n",
        input.name,
        match input.pixels {
            PixelFormat::Float32 =>
                format!("float32 `[{images}, 3, {}, {}]`", input.height, input.width),
            PixelFormat::Uint8 =>
                format!("uint8 `[{images}, {}, {}, 3]`", input.height, input.width),
        },
        match input.pixels {
            PixelFormat::Float32 => "",
            PixelFormat::Uint8 => ", whose normalisation by `mean` and `std` the model does itself",
        },
        manifest.preprocessing_digest().short()
    )?;
    let preprocess =
        serde_json::to_string_pretty(&manifest.preprocess).expect("plain data has a JSON form");
    writeln!(out, "```json\n{preprocess}\n```\n")?;
    writeln!(
        out,
        "`{}`: raw logits `[{images}, {}]`.\n",
        manifest.output,
        manifest.labels.len()
    )?;
    let from = &manifest.provenance;
    writeln!(out, "## Provenance\n\n| of | SHA-256 |\n|---|---|")?;
    for (what, digest) in [
        ("splits.json", from.splits_digest),
        ("checkpoint.json", from.checkpoint_digest),
        ("backbone", from.backbone_digest),
        (
            "configuration (without paths, `calibrate`, `validate`)",
            from.config_digest,
        ),
    ] {
        writeln!(out, "| {what} | `{digest}` |")?;
    }
    if let Some(init) = from.init_digest {
        writeln!(
            out,
            "| checkpoint.json that training started from | `{init}` |"
        )?;
    }
    if !manifest.licences.is_empty() {
        writeln!(out, "\n## Licences\n")?;
        for file in &manifest.licences {
            writeln!(out, "- `{}`", file.path)?;
        }
    }
    Ok(())
}
