//! `stage1 import`: weights in other forms into a Hugging Face folder.

use crate::{
    args::ImportArgs,
    output::{Answer, Output},
    steps::export,
};
use anyhow::bail;
use serde_json::json;
use stage1_core::model::{self, BackboneSpec};
use stage1_exporter::ImportReport;
use std::path::Path;

pub(crate) fn run(args: &ImportArgs, output: &Output) -> anyhow::Result<Answer> {
    let there = ["config.json", "model.safetensors"].map(|name| args.out.join(name));
    if let Some(file) = there.iter().find(|file| file.exists() && !args.overwrite) {
        bail!(
            "{} exists; choose another folder with --out, or replace it with --overwrite",
            file.display()
        );
    }
    if args.file.to_string_lossy().ends_with(".index.json") {
        bail!(
            "{} names the files of a Hugging Face folder, which needs no import: point backbone.path at the folder",
            args.file.display()
        );
    }
    let wanted = args.config.as_deref().map(architecture).transpose()?;
    output.note(&format!("reading {}", args.file.display()));
    let report = stage1_exporter::import(&args.file, &args.out, wanted.as_ref())?;
    let document = json!({
        "folder": args.out,
        "format": report.format,
        "source_digest": report.source,
        "backbone_digest": report.backbone,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "left_out": report.left_out,
        "backbone": report.spec,
    });
    output.answer(&document, &text(args, &report))?;
    if export::licences(&args.out)?.is_empty() {
        output.note(&format!(
            "put the licence of these weights into {} (LICENSE…): it then goes with every bundle",
            args.out.display()
        ));
    }
    Ok(Answer::Yes)
}

/// A preset's name, or the path of a `config.json`.
fn architecture(name: &str) -> anyhow::Result<BackboneSpec> {
    if let Some(spec) = model::preset(name) {
        return Ok(spec);
    }
    let path = Path::new(name);
    if path.is_file() {
        return Ok(BackboneSpec::from_hf_config(path)?);
    }
    bail!(
        "--config {name} is neither a file nor a preset; presets: {}",
        model::PRESETS.map(|(name, _)| name).join(", ")
    )
}

fn text(args: &ImportArgs, report: &ImportReport) -> String {
    let left_out = match report.left_out.len() {
        0 => String::new(),
        n => format!("\n  left out    {n} tensors that are no part of the backbone"),
    };
    format!(
        "wrote {}\n  from        {}\n  model       {}\n  tensors     {}\n  \
         parameters  {:.1} M\n  digest      {}{left_out}",
        args.out.display(),
        report.format,
        report.spec,
        report.tensors,
        report.parameters as f64 / 1e6,
        report.backbone,
    )
}
