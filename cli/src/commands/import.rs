//! `stage1 import`: ONNX weights back into a Hugging Face folder.

use crate::{
    args::ImportArgs,
    output::{Answer, Output},
};
use anyhow::bail;
use serde_json::json;
use stage1_exporter::ImportReport;

pub(crate) fn run(args: &ImportArgs, output: &Output) -> anyhow::Result<Answer> {
    let there = ["config.json", "model.safetensors"].map(|name| args.out.join(name));
    if let Some(file) = there.iter().find(|file| file.exists() && !args.overwrite) {
        bail!(
            "{} exists; choose another folder with --out, or replace it with --overwrite",
            file.display()
        );
    }
    output.note(&format!("reading {}", args.onnx.display()));
    let report = stage1_exporter::import_onnx(&args.onnx, &args.out)?;
    let document = json!({
        "folder": args.out,
        "source_digest": report.source,
        "backbone_digest": report.backbone,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "left_out": report.left_out,
        "backbone": report.spec,
    });
    output.answer(&document, &text(args, &report))?;
    Ok(Answer::Yes)
}

fn text(args: &ImportArgs, report: &ImportReport) -> String {
    let spec = &report.spec;
    let left_out = match report.left_out.len() {
        0 => String::new(),
        n => format!("\n  left out    {n} tensors that are no part of the backbone"),
    };
    format!(
        "wrote {}\n  model       {}, {} layers, width {}, {} heads, patches of {} pixels\n  tensors     {}\n  \
         parameters  {:.1} M\n  digest      {}{left_out}",
        args.out.display(),
        spec.family.model_type(),
        spec.layers,
        spec.hidden,
        spec.heads,
        spec.patch,
        report.tensors,
        report.parameters as f64 / 1e6,
        report.backbone,
    )
}
