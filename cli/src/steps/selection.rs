//! How `calibrate.calibrator: auto` chose the family of the reported probability.

use serde::{Deserialize, Serialize};
use stage1_calibration::calibrate::{Candidate, Selection, Verdict};
use stage1_core::{
    artifact::{Digest, Document},
    config::{CalibratorChoice, Config},
};
use std::path::PathBuf;

/// `calibrator.json`: what the policy can't say of its calibrator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalibratorRecord {
    pub(crate) schema_version: u32,
    /// Of the policy that reports the probability.
    pub(crate) policy_digest: Digest,
    /// What the configuration asked for.
    pub(crate) asked: CalibratorChoice,
    /// None unless `auto` was asked for.
    pub(crate) selection: Option<Selection>,
}

impl Document for CalibratorRecord {
    const KIND: &'static str = "calibrator.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        let is_auto = self.asked == CalibratorChoice::Auto;
        match is_auto == self.selection.is_some() {
            true => Ok(()),
            false => Err(format!(
                "selection: a choice among families belongs to `auto` and to nothing else, but asked is {:?}",
                self.asked
            )),
        }
    }
}

/// Where a run keeps it.
pub(crate) fn path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("calibrator", variant)
}

/// In a sentence: what was chosen, how, and on what.
pub(crate) fn heading(selection: &Selection) -> (String, String) {
    let chosen = selection
        .candidates
        .iter()
        .find(|candidate| candidate.verdict == Verdict::Chosen);
    match chosen {
        Some(chosen) => (
            name(chosen.choice),
            format!(
                "chosen by {}-fold cross-validation on {} independent rows: the simplest within one standard error of the best",
                selection.folds, selection.rows
            ),
        ),
        None => (
            name(CalibratorChoice::None),
            format!(
                "{} independent rows are too few to choose by cross-validation",
                selection.rows
            ),
        ),
    }
}

/// Each family and what became of it, from the simplest to the most complex.
pub(crate) fn lines(selection: &Selection) -> impl Iterator<Item = (String, String)> {
    selection.candidates.iter().map(line)
}

fn line(candidate: &Candidate) -> (String, String) {
    let verdict = verdict(candidate.verdict);
    let note = match candidate.score {
        Some(score) if score.excess > 0.0 => format!(
            "NLL {:.4} ± {:.4}, {:.4} ± {:.4} above the best: {verdict}",
            score.mean, score.standard_error, score.excess, score.excess_standard_error
        ),
        Some(score) => format!(
            "NLL {:.4} ± {:.4}, the best: {verdict}",
            score.mean, score.standard_error
        ),
        None => verdict,
    };
    (name(candidate.choice), note)
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Chosen => "chosen".to_owned(),
        Verdict::NotSimplest => "not chosen, a simpler one is as good".to_owned(),
        Verdict::Worse => "worse by more than one standard error".to_owned(),
        Verdict::TooFewRows {
            units,
            of_each_class: 0,
        } => format!("not tried, it takes {units} independent rows"),
        Verdict::TooFewRows {
            units,
            of_each_class,
        } => format!(
            "not tried, it takes {units} independent rows and {of_each_class} of each class"
        ),
        Verdict::TooManyClasses { most } => format!("not tried, it takes at most {most} classes"),
        Verdict::NotFitted { reason } => {
            format!("could not be fitted ({})", word(&reason).replace('_', " "))
        }
        other => format!("{other:?}"),
    }
}

fn name(choice: CalibratorChoice) -> String {
    word(&choice)
}

/// The word that stands for it in documents.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => unreachable!("these are written as words"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_calibration::calibrate::Score;
    use stage1_core::policy::Fallback;

    #[test]
    fn every_candidate_says_what_became_of_it() {
        let score = |excess| {
            Some(Score {
                mean: 0.5 + excess,
                standard_error: 0.01,
                excess,
                excess_standard_error: 0.002,
            })
        };
        let reason = Fallback::SlopeNotPositive;
        let few = |of_each_class| Verdict::TooFewRows {
            units: 300,
            of_each_class,
        };
        for (candidate, want) in [
            (
                (score(0.25), Verdict::Worse),
                "NLL 0.7500 ± 0.0100, 0.2500 ± 0.0020 above the best: worse by more than one standard error",
            ),
            (
                (score(0.0), Verdict::Chosen),
                "NLL 0.5000 ± 0.0100, the best: chosen",
            ),
            (
                (score(0.0), Verdict::NotSimplest),
                "NLL 0.5000 ± 0.0100, the best: not chosen, a simpler one is as good",
            ),
            (
                (None, few(30)),
                "not tried, it takes 300 independent rows and 30 of each class",
            ),
            ((None, few(0)), "not tried, it takes 300 independent rows"),
            (
                (None, Verdict::TooManyClasses { most: 20 }),
                "not tried, it takes at most 20 classes",
            ),
            (
                (None, Verdict::NotFitted { reason }),
                "could not be fitted (slope not positive)",
            ),
        ] {
            let (score, verdict) = candidate;
            let choice = CalibratorChoice::TsMix;
            let got = line(&Candidate {
                choice,
                score,
                verdict,
            });
            assert_eq!(got, ("ts_mix".to_owned(), want.to_owned()));
        }
    }

    #[test]
    fn only_auto_has_a_choice_to_tell() {
        let empty = Selection {
            rows: 1,
            units: 1,
            folds: 1,
            candidates: Vec::new(),
        };
        for (asked, selection, is_valid) in [
            (CalibratorChoice::Auto, Some(empty.clone()), true),
            (CalibratorChoice::Temperature, None, true),
            (CalibratorChoice::Auto, None, false),
            (CalibratorChoice::Temperature, Some(empty.clone()), false),
        ] {
            let record = CalibratorRecord {
                schema_version: 1,
                policy_digest: Digest::of_bytes(b"policy"),
                asked,
                selection,
            };
            assert_eq!(record.validate().is_ok(), is_valid, "{record:?}");
        }
        assert_eq!(heading(&empty).0, "none");
    }
}
