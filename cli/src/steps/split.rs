//! Divides the images, once: whoever looks at the results must not be able to divide again.

use super::Run;
use anyhow::bail;
use rayon::prelude::*;
use serde_json::{Value, json};
use stage1_calibration::forecast::{ASSUMED_SHARE, forecast};
use stage1_core::{
    artifact::{self, Digest},
    certificate::{Constraint, Guarantee},
    data::{self, Dataset},
    progress::Progress,
    split::{self, Split, SplitManifest, SplitSample},
};
use std::{collections::BTreeSet, fmt::Write, path::PathBuf};

/// The splits of a run, and where its images are.
pub(crate) struct Splits {
    pub(crate) manifest: SplitManifest,
    /// The digest of `splits.json`.
    pub(crate) digest: Digest,
    pub(crate) root: PathBuf,
}

/// The run's splits: those that are there, or the first ones. A step that comes after the split never divides again.
pub(crate) fn ensure(run: &Run) -> anyhow::Result<Splits> {
    let dataset = data::open(&run.config.data.source, &run.config.data.options)?;
    match run.config.splits_path().exists() {
        true => reuse(run, dataset),
        false => divide(run, dataset),
    }
}

/// As [`ensure`], but with --overwrite images that have changed are divided again.
pub(crate) fn ensure_or_replace(run: &Run) -> anyhow::Result<Splits> {
    let path = run.config.splits_path();
    if !(run.overwrite && path.exists()) {
        return ensure(run);
    }
    let dataset = data::open(&run.config.data.source, &run.config.data.options)?;
    let known = artifact::json::load::<SplitManifest>(&path).ok();
    if known.is_some_and(|(known, _)| is_current(run, &known, &dataset)) {
        return reuse(run, dataset);
    }
    let splits = divide(run, dataset)?;
    run.output.warn(
        "the images were divided again: val_calib and val_test are new, and what certificates and verdicts were made in this \
         run directory before are void",
    );
    Ok(splits)
}

fn divide(run: &Run, dataset: Dataset) -> anyhow::Result<Splits> {
    let path = run.config.splits_path();
    if let Some(others) = dataset.skipped.clone().non_empty() {
        run.output.warn(&format!(
            "left out, because their names end as no image's that is read here: {others}"
        ));
    }
    let manifest = split::make_splits(&dataset, &run.config.split, &run.progress)?;
    run.progress.finish();
    let digest = artifact::json::save(&manifest, &path)?;
    let splits = Splits {
        manifest,
        digest,
        root: dataset.root,
    };
    tell(run, &splits)?;
    Ok(splits)
}

fn reuse(run: &Run, dataset: Dataset) -> anyhow::Result<Splits> {
    let path = run.config.splits_path();
    let (manifest, digest) = artifact::json::load::<SplitManifest>(&path)?;
    if !is_current(run, &manifest, &dataset) {
        bail!(
            "{} was made from other images, labels or settings{}; restore them, set another run_dir, or divide again with \
             `stage1 split --overwrite`, which makes val_calib and val_test anew",
            path.display(),
            difference(&manifest, &dataset)
        );
    }
    run.reused("split");
    Ok(Splits {
        manifest,
        digest,
        root: dataset.root,
    })
}

fn is_current(run: &Run, manifest: &SplitManifest, dataset: &Dataset) -> bool {
    let now = split::inputs_digest(dataset, &run.config.split, &run.progress);
    run.progress.finish();
    manifest.inputs_digest == now
}

/// What can be seen of the difference, for the message.
fn difference(manifest: &SplitManifest, dataset: &Dataset) -> String {
    let listed: BTreeSet<_> = dataset
        .samples
        .iter()
        .map(|sample| sample.id.as_str())
        .collect();
    let is_changed = |sample: &&SplitSample| {
        let file = dataset.root.join(&sample.path);
        !listed.contains(sample.path.as_str())
            || sample
                .digest
                .is_some_and(|digest| digest.verify_file(&file).is_err())
    };
    let changed: Vec<_> = manifest.samples.par_iter().filter(is_changed).collect();
    match changed.first() {
        Some(first) => format!(
            " ({} of its images changed or are gone, e.g. {})",
            changed.len(),
            first.path
        ),
        None if listed.len() != manifest.samples.len() => {
            format!(
                " (it has {} images, there are {})",
                manifest.samples.len(),
                listed.len()
            )
        }
        None => " (its images are unchanged)".to_owned(),
    }
}

fn tell(run: &Run, splits: &Splits) -> anyhow::Result<()> {
    for warning in &splits.manifest.warnings {
        run.output.warn(&warning.to_string());
    }
    let (calibrate, gamma) = (&run.config.calibrate, run.config.validate.gamma);
    // An expectation has no verdict to be foreseen.
    if calibrate.guarantee == Guarantee::Expectation {
        return Ok(());
    }
    // What can be foreseen of other promises depends on the classes' shares and on the model.
    let promised = calibrate.promised();
    let selective = promised
        .iter()
        .find(|one| matches!(one, Constraint::SelectiveError { .. }));
    let Some(alpha) = selective.map(Constraint::alpha) else {
        return Ok(());
    };
    let units = |split| units(&splits.manifest, split);
    let (calib, test) = (units(Split::ValCalib), units(Split::ValTest));
    let forecast = forecast(calib, test, alpha, calibrate.delta, gamma, ASSUMED_SHARE)?;
    let share = 100.0 * ASSUMED_SHARE;
    if forecast.max_errors.is_none() {
        run.output.warn(&format!(
            "val_calib has {calib} independent images: nothing can be certified at alpha {} and delta {} (at least {} are needed, {share:.0} % of \
             them answered without an error)",
            alpha, calibrate.delta, forecast.calib_units_needed
        ));
    } else if forecast.held < 0.5 {
        let needed = forecast
            .test_units_for_one_half
            .map_or_else(String::new, |n| format!("; {n} would give an even chance"));
        run.output.warn(&format!(
            "val_test has {test} independent images: the chance that it confirms the certificate (HELD) is {:.0} %, if {share:.0} % are answered{needed}",
            100.0 * forecast.held
        ));
    }
    Ok(())
}

fn units(manifest: &SplitManifest, split: Split) -> u64 {
    manifest
        .of(split)
        .map(|sample| sample.unit)
        .collect::<BTreeSet<_>>()
        .len() as u64
}

/// The answer of `stage1 split --json`.
pub(crate) fn summary(run: &Run, splits: &Splits) -> Value {
    let per_split = |split: Split| {
        let counts = &splits.manifest.counts[&split];
        let classes: serde_json::Map<_, _> = splits
            .manifest
            .labels
            .iter()
            .cloned()
            .zip(counts.iter().map(|n| Value::from(*n)))
            .collect();
        let total: u64 = counts.iter().sum();
        (
            split.name().to_owned(),
            json!({"images": total, "units": units(&splits.manifest, split), "classes": classes}),
        )
    };
    json!({
        "splits": run.config.splits_path(),
        "digest": splits.digest,
        "counts": Split::ALL.into_iter().map(per_split).collect::<serde_json::Map<_, _>>(),
        "warnings": splits.manifest.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The answer of `stage1 split` for people.
pub(crate) fn table(run: &Run, splits: &Splits) -> String {
    let mut text = format!(
        "{} (digest {})\n",
        run.config.splits_path().display(),
        splits.digest.short()
    );
    _ = writeln!(text, "  {:<12}{:>10}{:>10}", "", "images", "units");
    for split in Split::ALL {
        let images: u64 = splits.manifest.counts[&split].iter().sum();
        _ = writeln!(
            text,
            "  {:<12}{images:>10}{:>10}",
            split.name(),
            units(&splits.manifest, split)
        );
    }
    text
}
