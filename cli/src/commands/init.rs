use crate::{
    args::InitArgs,
    output::{Answer, Output},
};
use anyhow::bail;
use serde_json::json;
use stage1_core::{
    artifact::atomic,
    config::{self, Published},
    model::BackboneSpec,
};
use std::path::Path;

pub(crate) fn run(args: &InitArgs, output: &Output) -> anyhow::Result<Answer> {
    let out = args.out.display();
    if args.out.exists() && !args.overwrite {
        bail!("{out} exists; choose another name with --out, or replace it with --overwrite");
    }
    let (source, backbone) = (
        text(args.source.as_deref(), "images")?,
        text(args.backbone.as_deref(), "models/backbone")?,
    );
    let text = config::template(&source, &backbone, published(Path::new(&backbone), output));
    atomic::write_bytes(&args.out, text.as_bytes())?;
    let missing = [("data.source", &source), ("backbone.path", &backbone)]
        .into_iter()
        .filter(|(_, path)| !Path::new(path).exists());
    for (key, path) in missing {
        output.warn(&format!(
            "{key}: {path} does not exist yet; put it there, or edit {out}"
        ));
    }
    let next = format!("stage1 run -c {out}");
    output.answer(
        &json!({"config": args.out, "next": next}),
        &format!("wrote {out}\nnext: {next}"),
    )?;
    Ok(Answer::Yes)
}

/// The preprocessing of a backbone that is there already.
fn published(backbone: &Path, output: &Output) -> Published {
    let config = backbone.join("config.json");
    if !config.is_file() {
        return Published::default();
    }
    match BackboneSpec::from_hf_config(&config) {
        Ok(spec) => Published::of(&spec),
        Err(error) => {
            output.warn(&format!("backbone.path: {error}"));
            Published::default()
        }
    }
}

/// A path as the configuration holds it.
fn text(path: Option<&Path>, default: &str) -> anyhow::Result<String> {
    let path = path.unwrap_or(Path::new(default));
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!(
            "{} is not UTF-8, as YAML must be; rename the folder, or link to it under another name",
            path.display()
        ),
    }
}
