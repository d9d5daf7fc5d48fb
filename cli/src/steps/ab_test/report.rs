//! `ab-test.json` and `ab-test.md`.

use super::{JudgedOn, Plan, judged_images};
use serde::{Deserialize, Serialize};
use stage1_calibration::comparison::{
    ArmResult, Comparison, Difference, McNemarTest, Measure, Verdict,
};
use stage1_core::{
    artifact::{Digest, Document},
    split::SplitManifest,
};
use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf};

pub(super) const MARKDOWN: &str = "ab-test.md";
pub(super) const DIFFERENCES: &str = "differences.svg";
pub(super) const CURVES: &str = "risk-over-coverage.svg";

/// What was compared, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AbTest {
    schema_version: u32,
    /// The images that arms were judged by.
    on: String,
    /// How many of them there are; the comparison says how many could be read.
    images: u64,
    /// The digest of the splits, as they were divided from the images.
    inputs_digest: Digest,
    /// Whether an arm trained on unlabelled folders, in which copies of held-out images are looked for.
    looks_for_copies: bool,
    arms: Vec<ArmRecord>,
    pub(crate) comparison: Comparison,
    /// The arm to go on with: the best one that is better than the reference, else the reference.
    pub(crate) recommended: String,
    /// Whether any arm is better than the reference.
    pub(crate) any_better: bool,
}

/// What an arm is, and its trainings.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArmRecord {
    pub(super) name: String,
    pub(super) overrides: Vec<String>,
    pub(super) trainings: Vec<Training>,
}

/// One training of an arm.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Training {
    pub(super) seed: u64,
    pub(super) run_dir: PathBuf,
    pub(super) config_digest: Digest,
    pub(super) checkpoint_digest: Digest,
    /// The epoch that was kept.
    pub(super) epoch: usize,
    /// What said how sure it is: the score of its logits, or `gate`.
    pub(super) score: String,
    /// Logits of each image.
    pub(super) predictions: PathBuf,
}

impl Document for AbTest {
    const KIND: &'static str = "ab-test.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        match self.arms.len() == self.comparison.arms.len() {
            true => Ok(()),
            false => Err("arms and comparison name different arms".to_owned()),
        }
    }
}

/// The name of a difference, for people.
pub(super) fn difference_name(measure: Measure, risk: f64) -> String {
    match measure {
        Measure::Mcc => "ΔMCC".to_owned(),
        Measure::Augrc => "ΔAUGRC (less is better)".to_owned(),
        Measure::Coverage => format!("Δcoverage at {} % errors", 100.0 * risk),
    }
}

fn name(measure: Measure, risk: f64) -> String {
    match measure {
        Measure::Mcc => "MCC".to_owned(),
        Measure::Augrc => "AUGRC".to_owned(),
        Measure::Coverage => format!("coverage at {} %", 100.0 * risk),
    }
}

impl AbTest {
    pub(super) fn new(
        plan: &Plan,
        splits: &SplitManifest,
        looks_for_copies: bool,
        arms: Vec<ArmRecord>,
        comparison: Comparison,
    ) -> Self {
        let primary = comparison.primary;
        let value = |arm: &ArmResult| arm.measures[&primary].mean * primary.sign();
        let better = comparison
            .arms
            .iter()
            .filter(|arm| arm.verdict == Some(Verdict::Better));
        let best = better.max_by(|a, b| value(a).total_cmp(&value(b)));
        Self {
            schema_version: Self::SCHEMA_VERSION,
            on: plan.on.name().to_owned(),
            images: judged_images(splits),
            inputs_digest: splits.inputs_digest,
            looks_for_copies,
            arms,
            any_better: best.is_some(),
            recommended: best.map_or(&comparison.reference, |arm| &arm.name).clone(),
            comparison,
        }
    }

    /// One line per arm, and the verdict.
    pub(crate) fn text(&self, out: &std::path::Path) -> String {
        let found = &self.comparison;
        let mut text = format!(
            "{} arms, {} seeds, {} images of {} ({} independent)\n",
            found.arms.len(),
            found.seeds.len(),
            found.rows,
            self.on,
            found.units
        );
        let widest = found.arms.iter().map(|arm| arm.name.len()).max();
        let width = widest.unwrap_or(0).max(4);
        for arm in &found.arms {
            let spread = |measure| {
                let spread = &arm.measures[&measure];
                format!("{:.4} ± {:.4}", spread.mean, spread.deviation)
            };
            _ = writeln!(
                text,
                "  {:<width$}  mcc {}  augrc {}  coverage {}",
                arm.name,
                spread(Measure::Mcc),
                spread(Measure::Augrc),
                spread(Measure::Coverage)
            );
        }
        text.push_str("  (± is the standard deviation over seeds)\n");
        for arm in &found.arms {
            if let Some(difference) = arm.differences.get(&found.primary) {
                _ = writeln!(text, "{}", self.sentence(arm, difference));
            }
        }
        _ = writeln!(
            text,
            "go on with: {}\nreport: {}",
            self.recommended,
            out.join(MARKDOWN).display()
        );
        text
    }

    /// An arm's verdict in a sentence.
    fn sentence(&self, arm: &ArmResult, difference: &Difference) -> String {
        let found = &self.comparison;
        let what = match difference.verdict {
            Verdict::Better => "is better than",
            Verdict::Worse => "is worse than",
            Verdict::Undecided => "can't be told from",
        };
        format!(
            "{} {what} {}: {} {:+.4} [{:+.4}, {:+.4}], p {:.4} (Holm, {} arms), the same sign for {} of {} seeds",
            arm.name,
            found.reference,
            difference_name(found.primary, found.risk),
            difference.estimate,
            difference.low,
            difference.high,
            difference.p_holm,
            found.arms.len() - 1,
            difference.seeds_agree,
            found.seeds.len()
        )
    }

    /// The report for people.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::from("# A/B test\n\n");
        for arm in &self.comparison.arms {
            if let Some(difference) = arm.differences.get(&self.comparison.primary) {
                _ = writeln!(text, "- **{}**", self.sentence(arm, difference));
            }
        }
        _ = writeln!(text, "- Go on with **{}**.\n", self.recommended);
        self.arms_table(&mut text);
        self.differences_table(&mut text);
        self.mcnemar_table(&mut text);
        self.meaning(&mut text);
        text
    }

    fn arms_table(&self, text: &mut String) {
        let found = &self.comparison;
        text.push_str("## Arms\n\n| arm | keys | score |");
        for measure in Measure::ALL {
            _ = write!(text, " {} | by seed |", name(measure, found.risk));
        }
        text.push_str("\n|---|---|---|---|---|---|---|---|---|\n");
        for (arm, record) in found.arms.iter().zip(&self.arms) {
            let keys = match record.overrides.is_empty() {
                true => "the configuration as it is".to_owned(),
                false => format!("`{}`", record.overrides.join("`, `")),
            };
            let scores: BTreeSet<_> = record.trainings.iter().map(|t| t.score.as_str()).collect();
            let scores: Vec<_> = scores.into_iter().collect();
            _ = write!(text, "| {} | {keys} | {} |", arm.name, scores.join(", "));
            for measure in Measure::ALL {
                let spread = &arm.measures[&measure];
                let each: Vec<_> = spread.by_seed.iter().map(|x| format!("{x:.4}")).collect();
                _ = write!(
                    text,
                    " {:.4} ± {:.4} | {} |",
                    spread.mean,
                    spread.deviation,
                    each.join(", ")
                );
            }
            text.push('\n');
        }
        _ = writeln!(
            text,
            "\nSeeds {}; ± is the standard deviation over them.\n\n![error rate over coverage]({CURVES})\n",
            found
                .seeds
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }

    fn differences_table(&self, text: &mut String) {
        let found = &self.comparison;
        _ = writeln!(
            text,
            "## Differences from {}\n\n| arm | measure | difference | 95 % interval | p, resampled | p, exchanged | p (Holm) | seeds of \
             the same sign | verdict |\n|---|---|---|---|---|---|---|---|---|",
            found.reference
        );
        for arm in &found.arms {
            for (measure, d) in &arm.differences {
                let verdict = match d.verdict {
                    Verdict::Better => "better",
                    Verdict::Worse => "worse",
                    Verdict::Undecided => "undecided",
                };
                let primary = if *measure == found.primary { "**" } else { "" };
                _ = writeln!(
                    text,
                    "| {} | {} | {:+.4} | {:+.4} to {:+.4} | {:.4} | {:.4} | {:.4} | {} of {} | {primary}{verdict}{primary} |",
                    arm.name,
                    difference_name(*measure, found.risk),
                    d.estimate,
                    d.low,
                    d.high,
                    d.p_bootstrap,
                    d.p_exchange,
                    d.p_holm,
                    d.seeds_agree,
                    found.seeds.len()
                );
            }
        }
        _ = writeln!(
            text,
            "\n![differences, with the seeds' own as circles]({DIFFERENCES})\n"
        );
    }

    fn mcnemar_table(&self, text: &mut String) {
        let found = &self.comparison;
        text.push_str(
            "## McNemar's test, seed by seed\n\n| arm | seed | only the arm is right | only the reference is right | test | p |\n\
             |---|---|---|---|---|---|\n",
        );
        for arm in &found.arms {
            for (seed, test) in found.seeds.iter().zip(&arm.mcnemar) {
                let how = match test.test {
                    McNemarTest::Exact => "exact",
                    McNemarTest::ChiSquared => "χ²",
                };
                _ = writeln!(
                    text,
                    "| {} | {seed} | {} | {} | {how} | {:.4} |",
                    arm.name, test.gained, test.lost, test.p
                );
            }
        }
        if found.units < found.rows {
            text.push_str(
                "\nImages come in groups here, which this test takes for independent: its p-values are too small.\n",
            );
        }
        text.push('\n');
    }

    fn meaning(&self, text: &mut String) {
        let found = &self.comparison;
        _ = writeln!(
            text,
            "## What this says\n\n\
             Judged on {} images of {} ({} independent units), which trained no arm{}. \
             The verdict is by {}; the other measures are told beside it. Each measure is averaged over the seeds; intervals \
             come from {} paired resamples of whole units, the same for all arms. p is the larger one of two: that of the resamples, \
             which are too sure of themselves where few images make the difference, and that of exchanging the arm's answers with the \
             reference's, unit by unit (all exchanges where they are few). It is adjusted for {} arms (Holm, measure by measure). They are about other images, for these seeds: how much seeds matter is the ± above.{} \
             Coverage at a risk is descriptive: its threshold is found on the images that it describes. \"Undecided\" doesn't mean \
             equal. A certificate needs `stage1 calibrate` on val_calib.",
            found.rows,
            self.on,
            found.units,
            match self.looks_for_copies {
                false => "; val_calib and val_test were not opened",
                true =>
                    "; nothing was trained on images of val_calib or val_test or judged by them, but an arm trains on unlabelled folders, \
                     and they were opened to leave their copies out",
            },
            name(found.primary, found.risk),
            found.resamples,
            found.arms.len() - 1,
            match self.on == JudgedOn::ValSelect.name() {
                true => " The same images stopped the trainings early, all arms alike.",
                false =>
                    " The fold also stopped the trainings early, all arms alike; val_select was not opened.",
            }
        );
    }
}
