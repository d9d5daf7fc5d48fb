//! `stage1 predict`: one record per image, as soon as it is there.

use super::{images, session};
use crate::{
    args::PredictArgs,
    output::{Answer, Output},
    progress::Steps,
};
use stage1_core::{
    bundle::{DecisionKind, Prediction},
    progress::{Progress, Silent},
};
use stage1_runtime::{CancelToken, Summary};
use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

/// Exits 0 if at least one image was judged; those that couldn't be are records with `decision: error`, and counted on
/// standard error. If no image could be judged that is a failure.
pub(crate) fn run(args: &PredictArgs, output: &Output) -> anyhow::Result<Answer> {
    let output = *output;
    let paths = images::list(&args.paths)?;
    let predictor = session::open(
        &args.bundle,
        args.variant.as_deref(),
        &args.session,
        args.allow_uncertified,
        output,
    )?;
    output.note(&format!("variant {}", predictor.scorer().variant()));
    let labels = &predictor.bundle().manifest().labels;
    let table = (!output.is_json()).then(|| Table::new(&paths, labels));
    if let Some(table) = &table {
        output.raw(&table.header())?;
    }
    let progress = progress(output);
    progress.start("predict", paths.len() as u64);
    let mut records = predictor.stream(paths, &CancelToken::new());
    for prediction in &mut records {
        print(&prediction?, table.as_ref(), output)?;
        progress.advance(1);
    }
    progress.finish();
    conclude(&records.summary(), output)
}

/// On a terminal the records themselves show how far it is.
fn progress(output: Output) -> Box<dyn Progress> {
    if io::stdout().is_terminal() {
        Box::new(Silent)
    } else {
        Box::new(Steps::new(output))
    }
}

fn print(prediction: &Prediction, table: Option<&Table>, output: Output) -> anyhow::Result<()> {
    match table {
        Some(table) => output.raw(&table.row(prediction)),
        None => output.raw(&serde_json::to_string(prediction)?),
    }
}

fn conclude(summary: &Summary, output: Output) -> anyhow::Result<Answer> {
    let Summary {
        images,
        answered,
        deferred,
        errors,
        ..
    } = *summary;
    if errors == images {
        output.failure(&format!(
            "none of the images ({images}) could be judged; each record says why"
        ));
        return Ok(Answer::Failed);
    }
    output.note(&format!(
        "{images} images: {answered} answered, {deferred} deferred, {errors} not judged"
    ));
    if errors > 0 {
        output.warn(&format!(
            "{errors} of {images} images could not be judged; see the records with decision `error`"
        ));
    }
    Ok(Answer::Yes)
}

/// Columns wide enough for every path and label: known before the first record.
struct Table {
    path: usize,
    label: usize,
}

impl Table {
    fn new(paths: &[PathBuf], labels: &[String]) -> Self {
        let widest = |texts: &mut dyn Iterator<Item = usize>, title: &str| {
            texts.max().unwrap_or(0).max(title.len())
        };
        Self {
            path: widest(
                &mut paths
                    .iter()
                    .map(|path| path.display().to_string().chars().count()),
                "path",
            ),
            label: widest(
                &mut labels.iter().map(|label| label.chars().count()),
                "label",
            ),
        }
    }

    fn header(&self) -> String {
        self.line("path", "decision", "label", "probability")
    }

    /// A deferred or failed image has its reason where an answer has its label.
    fn row(&self, prediction: &Prediction) -> String {
        let Prediction {
            path,
            decision,
            label,
            probability,
            reason,
            error,
            certified,
            ..
        } = prediction;
        let probability = probability.map_or_else(String::new, |p| format!("{p:.4}"));
        match decision {
            DecisionKind::Answer => {
                let standing = if *certified { "" } else { "  not certified" };
                let label = label.as_deref().unwrap_or("");
                self.line(path, "answer", label, &format!("{probability}{standing}"))
            }
            DecisionKind::Defer => self.line(
                path,
                "defer",
                "-",
                &format!("{probability}  {}", reason.as_deref().unwrap_or("")),
            ),
            DecisionKind::Error => self.line(path, "error", "-", error.as_deref().unwrap_or("")),
        }
    }

    fn line(&self, path: &str, decision: &str, label: &str, rest: &str) -> String {
        let Self { path: p, label: l } = *self;
        format!("{path:<p$}  {decision:<8}  {label:<l$}  {rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_the_record() {
        let table = Table::new(
            &["a.png".into(), "ordner/ä.png".into()],
            &["cat".to_owned(), "aardvark".to_owned()],
        );
        let answer = Prediction {
            path: "a.png".to_owned(),
            decision: DecisionKind::Answer,
            label: Some("cat".to_owned()),
            probability: Some(0.98765),
            logits: Some(vec![1.0, 2.0]),
            gate: None,
            certified: true,
            reason: None,
            error: None,
        };
        let defer = Prediction {
            path: "ordner/ä.png".to_owned(),
            decision: DecisionKind::Defer,
            label: None,
            reason: Some("score 0.5 is below 0.9".to_owned()),
            ..answer.clone()
        };
        let failed = Prediction::failed("a.png", "not an image");
        let uncertified = Prediction {
            certified: false,
            ..answer.clone()
        };
        let lines = [
            table.header(),
            table.row(&answer),
            table.row(&uncertified),
            table.row(&defer),
            table.row(&failed),
        ];
        let want = [
            "path          decision  label     probability",
            "a.png         answer    cat       0.9877",
            "a.png         answer    cat       0.9877  not certified",
            "ordner/ä.png  defer     -         0.9877  score 0.5 is below 0.9",
            "a.png         error     -         not an image",
        ];
        assert_eq!(lines, want);
    }
}
