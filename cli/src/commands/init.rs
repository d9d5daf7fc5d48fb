use crate::{
    args::InitArgs,
    output::{Answer, Output},
};
use anyhow::bail;
use serde_json::json;
use stage1_core::{artifact::atomic, config};
use std::path::Path;

pub(crate) fn run(args: &InitArgs, output: &Output) -> anyhow::Result<Answer> {
    let out = args.out.display();
    if args.out.exists() && !args.overwrite {
        bail!("{out} exists; choose another name with --out, or replace it with --overwrite");
    }
    let (source, backbone) = (
        text(args.source.as_deref(), "images"),
        text(args.backbone.as_deref(), "models/backbone"),
    );
    atomic::write_bytes(&args.out, config::template(&source, &backbone).as_bytes())?;
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

fn text(path: Option<&Path>, default: &str) -> String {
    path.map_or_else(|| default.to_owned(), |path| path.display().to_string())
}
