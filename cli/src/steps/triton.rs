//! A model repository for NVIDIA's Triton Inference Server: one model per variant of the bundle.
//!
//! Triton runs the model, not the policy: its answers are logits, which no certificate covers.

use anyhow::{Context, bail, ensure};
use stage1_core::{
    bundle::{Bundle, BundleManifest, Variant},
    certificate::BatchMode,
    preprocess::PixelFormat,
};
use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process,
};

/// Images that Triton puts together, where the model takes any number.
const MAX_BATCH: usize = 8;

/// The memory that TensorRT may use while it builds: 1 GiB.
const WORKSPACE: usize = 1 << 30;

/// Writes the repository `dir`, whole or not at all; the models are named `<name>_<variant>`.
pub(crate) fn write(
    bundle: &Bundle,
    name: &str,
    dir: &Path,
    overwrite: bool,
) -> anyhow::Result<Vec<String>> {
    ensure!(
        overwrite || !dir.exists(),
        "{} exists; choose another folder with --triton, or replace it with --overwrite",
        dir.display()
    );
    let partial = beside(dir, "partial")?;
    _ = fs::remove_dir_all(&partial);
    let written = fill(bundle, name, &partial).and_then(|models| {
        put(&partial, dir)?;
        Ok(models)
    });
    if written.is_err() {
        _ = fs::remove_dir_all(&partial);
    }
    written.with_context(|| format!("cannot write the model repository {}", dir.display()))
}

/// A name in the same folder, so that renaming moves no bytes.
fn beside(dir: &Path, what: &str) -> anyhow::Result<PathBuf> {
    let Some(name) = dir.file_name() else {
        bail!("{} is not the name of a folder", dir.display());
    };
    let name = format!(".{}.{what}-{}", name.display(), process::id());
    Ok(dir.with_file_name(name))
}

/// Puts the folder in its place; what was there is gone only when the new one is.
fn put(partial: &Path, dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        return Ok(fs::rename(partial, dir)?);
    }
    let old = beside(dir, "old")?;
    fs::rename(dir, &old)?;
    if let Err(error) = fs::rename(partial, dir) {
        fs::rename(&old, dir)?;
        return Err(error.into());
    }
    Ok(fs::remove_dir_all(&old)?)
}

fn fill(bundle: &Bundle, name: &str, dir: &Path) -> anyhow::Result<Vec<String>> {
    let manifest = bundle.manifest();
    let mut models = Vec::new();
    for (variant, of) in &manifest.variants {
        let model = format!("{name}_{variant}");
        let folder = dir.join(&model);
        fs::create_dir_all(folder.join("1"))?;
        fs::write(folder.join("1/model.onnx"), bundle.read(&of.model)?)?;
        if let Some(data) = &of.data {
            // The model refers to it by this name.
            let file = data.path.rsplit('/').next().unwrap_or(&data.path);
            fs::write(folder.join("1").join(file), bundle.read(data)?)?;
        }
        fs::write(folder.join("labels.txt"), labels(manifest)?)?;
        fs::write(folder.join("config.pbtxt"), config(&model, manifest, of))?;
        for licence in &manifest.licences {
            // Triton leaves files alone that it doesn't know.
            let name = licence.path.rsplit('/').next().unwrap_or(&licence.path);
            fs::write(folder.join(name), bundle.read(licence)?)?;
        }
        models.push(model);
    }
    Ok(models)
}

/// One per line, so that none may hold a line's end: bundles have no such labels.
fn labels(manifest: &BundleManifest) -> anyhow::Result<String> {
    let labels = &manifest.labels;
    if let Some(label) = labels.iter().find(|label| label.contains(['\n', '\r'])) {
        bail!("label {label:?} doesn't fit on a line of labels.txt");
    }
    Ok(labels.iter().map(|label| format!("{label}\n")).collect())
}

/// `config.pbtxt`: protobuf's text form of `inference.ModelConfig`.
fn config(name: &str, manifest: &BundleManifest, variant: &Variant) -> String {
    let input = &manifest.input;
    let fixed = input.batch.map(NonZero::get);
    let max_batch = match (fixed, variant.batch_mode) {
        (Some(_), _) => 0,
        (None, BatchMode::Any) => MAX_BATCH,
        (None, BatchMode::Single) => 1,
    };
    let (kind, image) = match input.pixels {
        PixelFormat::Float32 => ("TYPE_FP32", [3, input.height, input.width]),
        PixelFormat::Uint8 => ("TYPE_UINT8", [input.height, input.width, 3]),
    };
    // Without batching the dimensions are the tensor's own.
    let dims = |own: &[usize]| {
        let all: Vec<_> = fixed.iter().chain(own).map(ToString::to_string).collect();
        format!("[ {} ]", all.join(", "))
    };
    let mut text = format!(
        "name: {}\nbackend: \"onnxruntime\"\nmax_batch_size: {max_batch}\n",
        quoted(name)
    );
    text += &format!(
        "input {{\n  name: {}\n  data_type: {kind}\n  dims: {}\n}}\n",
        quoted(&input.name),
        dims(&image)
    );
    text += &format!(
        "output {{\n  name: {}\n  data_type: TYPE_FP32\n  dims: {}\n  label_filename: \"labels.txt\"\n}}\n",
        quoted(&manifest.output),
        dims(&[manifest.labels.len()])
    );
    if let Some(gate) = &manifest.gate {
        // One number per image. Dimensions can't be empty, so that Triton is told to leave this one out.
        let shape = match fixed {
            Some(_) => format!("dims: {}", dims(&[])),
            None => "dims: [ 1 ]\n  reshape {\n    shape: [ ]\n  }".to_owned(),
        };
        text += &format!(
            "output {{\n  name: {}\n  data_type: TYPE_FP32\n  {shape}\n}}\n",
            quoted(gate)
        );
    }
    if max_batch > 1 {
        text += "dynamic_batching {\n  max_queue_delay_microseconds: 2000\n}\n";
    }
    text + &device(variant)
}

/// TensorRT for what GPUs compute; models in integers are made for CPUs.
fn device(variant: &Variant) -> String {
    let precision = match variant.precision.as_str() {
        "fp32" => "FP32",
        "fp16" => "FP16",
        _ => return "instance_group {\n  count: 1\n  kind: KIND_CPU\n}\n".to_owned(),
    };
    let parameter = |key: &str, value: &str| {
        format!(
            "      parameters {{\n        key: \"{key}\"\n        value: \"{value}\"\n      }}\n"
        )
    };
    let parameters = [
        parameter("precision_mode", precision),
        parameter("max_workspace_size_bytes", &WORKSPACE.to_string()),
    ];
    format!(
        "instance_group {{\n  count: 1\n  kind: KIND_GPU\n}}\noptimization {{\n  execution_accelerators {{\n    \
         gpu_execution_accelerator {{\n      name: \"tensorrt\"\n{}    }}\n  }}\n}}\n",
        parameters.concat()
    )
}

/// A string of protobuf's text form.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
