use super::ConformalError;
use super::quantile::{Quantile, check_level};
use super::score::SetScore;
use crate::counter::uniform;
use crate::crc::Selection;
use crate::rows::{CalibRows, Labelled};
use serde::{Deserialize, Serialize};
use stage1_core::artifact::Digest;
use stage1_core::certificate::{Guarantee, SampleSize};
use stage1_core::policy::softmax_into;

/// For whom the coverage is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    /// For a random row.
    Marginal,
    /// For a random row of each class ("Mondrian"): one threshold per class, +∞ for a class of fewer than ⌈1/α⌉ − 1 rows.
    PerClass,
}

/// How sets are made; all of it is fixed before val_calib is looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMethod {
    /// How odd a label looks.
    pub score: SetScore,
    /// Probabilities are softmax(z / `temperature`); fitted on val_select, positive.
    pub temperature: f64,
    /// For whom the coverage is promised.
    pub conditioning: Conditioning,
    /// Randomises the adaptive scores: U is a seeded hash of the row's logits, so that a row has one set. None: U = 1.
    pub seed: Option<u64>,
}

impl SetMethod {
    /// Marginal, not randomised, at temperature 1; set the public fields for the rest.
    pub fn new(score: SetScore) -> Self {
        Self {
            score,
            temperature: 1.0,
            conditioning: Conditioning::Marginal,
            seed: None,
        }
    }

    fn check(&self) -> Result<(), ConformalError> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(ConformalError::Parameter {
                name: "temperature",
                value: self.temperature,
                want: "a positive number",
            });
        }
        match self.score {
            SetScore::Raps { lambda, .. } if !(lambda.is_finite() && lambda >= 0.0) => {
                Err(ConformalError::Parameter {
                    name: "lambda",
                    value: lambda,
                    want: "a number of at least 0",
                })
            }
            _ => Ok(()),
        }
    }

    /// The scores of all labels of one row of finite logits.
    fn scores(&self, logits: &[f32], out: &mut Vec<f64>) {
        let mut probabilities = Vec::with_capacity(logits.len());
        softmax_into(logits, self.temperature, &mut probabilities);
        self.score.scores(&probabilities, self.share(logits), out);
    }

    /// A function of the row alone: scores stay exchangeable, and the same image gets the same set.
    fn share(&self, logits: &[f32]) -> f64 {
        let Some(seed) = self.seed else { return 1.0 };
        let bytes: Vec<u8> = logits.iter().flat_map(|z| z.to_be_bytes()).collect();
        uniform(seed, 0, Digest::of_bytes(&bytes).as_u64())
    }
}

/// The thresholds of a predictor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Thresholds {
    /// One for all labels.
    Marginal {
        /// The threshold.
        quantile: Quantile,
    },
    /// One for each label.
    PerClass {
        /// By class.
        quantiles: Vec<Quantile>,
    },
}

/// Turns logits into prediction sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPredictor {
    /// Always [`Guarantee::Expectation`].
    pub guarantee: Guarantee,
    /// Miscoverage.
    pub alpha: f64,
    /// Number of classes.
    pub classes: usize,
    /// How sets are made.
    pub method: SetMethod,
    /// Which rows get a set; none: all of them.
    pub selection: Option<Selection>,
    /// val_calib.
    pub calib: SampleSize,
    /// Thresholds on the scores.
    pub thresholds: Thresholds,
}

impl SetPredictor {
    /// Sets for every row.
    ///
    /// # Errors
    /// [`ConformalError::Level`] or [`ConformalError::Parameter`].
    pub fn fit(method: &SetMethod, calib: &CalibRows, alpha: f64) -> Result<Self, ConformalError> {
        Self::fit_where(method, None, calib, alpha)
    }

    /// Sets for the rows that `selection` takes; it was fixed on val_select, so that selected rows of val_calib and a new
    /// selected row are exchangeable: the coverage 1 − α holds *given* that a row is selected (selective conformal risk
    /// control with the loss "the set misses").
    ///
    /// # Errors
    /// As [`SetPredictor::fit`].
    pub fn fit_selected(
        method: &SetMethod,
        selection: &Selection,
        calib: &CalibRows,
        alpha: f64,
    ) -> Result<Self, ConformalError> {
        Self::fit_where(method, Some(selection.clone()), calib, alpha)
    }

    fn fit_where(
        method: &SetMethod,
        selection: Option<Selection>,
        calib: &CalibRows,
        alpha: f64,
    ) -> Result<Self, ConformalError> {
        check_level("alpha", alpha)?;
        method.check()?;
        let of_class = true_scores(method, selection.as_ref(), calib.0.labelled());
        let thresholds = match method.conditioning {
            Conditioning::Marginal => Thresholds::Marginal {
                quantile: Quantile::of(&of_class.concat(), alpha)?,
            },
            Conditioning::PerClass => {
                let quantiles = of_class.iter().map(|scores| Quantile::of(scores, alpha));
                Thresholds::PerClass {
                    quantiles: quantiles.collect::<Result<_, _>>()?,
                }
            }
        };
        Ok(Self {
            guarantee: Guarantee::Expectation,
            alpha,
            classes: calib.classes(),
            method: method.clone(),
            selection,
            calib: calib.size(),
            thresholds,
        })
    }

    /// The labels that can't be ruled out, ascending; none if the row isn't selected.
    ///
    /// # Errors
    /// [`ConformalError::Classes`] or [`ConformalError::NonFinite`].
    pub fn predict(&self, logits: &[f32]) -> Result<Option<Vec<usize>>, ConformalError> {
        self.check_classes("the row", logits.len())?;
        if let Some(class) = logits.iter().position(|z| !z.is_finite()) {
            let value = logits[class];
            return Err(ConformalError::NonFinite { class, value });
        }
        if self.selection.as_ref().is_some_and(|s| !s.takes(logits)) {
            return Ok(None);
        }
        let mut scores = Vec::new();
        self.method.scores(logits, &mut scores);
        let in_set = |label: &usize| match &self.thresholds {
            Thresholds::Marginal { quantile } => quantile.admits(scores[*label]),
            Thresholds::PerClass { quantiles } => quantiles[*label].admits(scores[*label]),
        };
        Ok(Some((0..self.classes).filter(in_set).collect()))
    }

    /// The promise in words.
    pub fn statement(&self) -> String {
        let whom = match (&self.selection, self.method.conditioning) {
            (None, Conditioning::Marginal) => "images",
            (None, Conditioning::PerClass) => "images of each class",
            (Some(_), Conditioning::Marginal) => "selected images",
            (Some(_), Conditioning::PerClass) => "selected images of each class",
        };
        format!(
            "On average over calibrations and over {whom} drawn like those of val_calib, the set lacks the true label \
             with probability at most {}. This is an expectation: one calibration may cover less, and nothing is said \
             with confidence 1 − δ.",
            self.alpha
        )
    }

    pub(super) fn check_classes(
        &self,
        what: &'static str,
        got: usize,
    ) -> Result<(), ConformalError> {
        if got == self.classes {
            return Ok(());
        }
        Err(ConformalError::Classes {
            what,
            got,
            want: self.classes,
        })
    }
}

/// Scores of the true labels of the rows that are selected, by class.
fn true_scores(
    method: &SetMethod,
    selection: Option<&Selection>,
    rows: Labelled<'_>,
) -> Vec<Vec<f64>> {
    let mut of_class = vec![Vec::new(); rows.classes];
    let mut scores = Vec::new();
    for i in 0..rows.n() {
        if selection.is_none_or(|selection| selection.takes(rows.row(i))) {
            method.scores(rows.row(i), &mut scores);
            of_class[rows.labels[i]].push(scores[rows.labels[i]]);
        }
    }
    of_class
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformal::SetVerdict;
    use crate::rows::{SelectRows, TestRows};
    use crate::testing::{multi_set, with_error_rate};
    use stage1_core::policy::Score;

    fn methods() -> Vec<SetMethod> {
        let scores = [
            SetScore::Lac,
            SetScore::Aps,
            SetScore::Raps {
                lambda: 0.05,
                free_ranks: 1,
            },
        ];
        let mut all = Vec::new();
        for score in scores {
            for conditioning in [Conditioning::Marginal, Conditioning::PerClass] {
                for seed in [None, Some(3)] {
                    all.push(SetMethod {
                        conditioning,
                        seed,
                        ..SetMethod::new(score)
                    });
                }
            }
        }
        all
    }

    #[test]
    fn sets_cover_and_a_shift_is_refuted() {
        let calib = CalibRows::new(&multi_set(2000, 1), 1).unwrap();
        let test = TestRows::new(&multi_set(4000, 2), 1).unwrap();
        let shifted = TestRows::new(&with_error_rate(4000, 3, 0.5), 1).unwrap();
        for method in methods() {
            let sets = SetPredictor::fit(&method, &calib, 0.1).unwrap();
            assert_eq!(sets.guarantee, Guarantee::Expectation);
            let got = sets.validate(&test, 0.01).unwrap();
            assert_eq!(got.verdict, SetVerdict::Consistent, "{method:?} {got:?}");
            assert!(got.coverage.unwrap() > 0.87, "{method:?} {got:?}");
            assert_eq!(got.judged, 4000);
            let refuted = sets.validate(&shifted, 0.01).unwrap();
            assert_eq!(refuted.verdict, SetVerdict::Refuted, "{method:?}");
        }
    }

    /// The mean coverage over calibrations is r / (n + 1), and about half of them cover less than that.
    #[test]
    fn the_promise_is_one_on_average() {
        let test = multi_set(20_000, 9);
        let method = SetMethod {
            seed: Some(5),
            ..SetMethod::new(SetScore::Aps)
        };
        let test = TestRows::new(&test, 1).unwrap();
        let coverages: Vec<f64> = (0..100)
            .map(|i| {
                let calib = CalibRows::new(&multi_set(99, 100 + i), 1).unwrap();
                let sets = SetPredictor::fit(&method, &calib, 0.1).unwrap();
                sets.validate(&test, 0.05).unwrap().coverage.unwrap()
            })
            .collect();
        let mean = coverages.iter().sum::<f64>() / 100.0;
        // Beta(90, 10) has standard deviation .03.
        assert!((mean - 0.9).abs() < 0.012, "{mean}");
        let below = coverages.iter().filter(|c| **c < 0.9).count();
        assert!((30..=65).contains(&below), "{below} of 100");
    }

    #[test]
    fn selected_rows_are_covered_and_the_others_have_no_set() {
        let select = SelectRows::new(&multi_set(2000, 7), 1).unwrap();
        let score = Score::MaxProbability { temperature: 1.0 };
        let selection = Selection::at_share(&select, score, 0.5).unwrap();
        let calib = CalibRows::new(&multi_set(2000, 1), 1).unwrap();
        let test = TestRows::new(&multi_set(4000, 2), 1).unwrap();
        let method = SetMethod::new(SetScore::Lac);
        let sets = SetPredictor::fit_selected(&method, &selection, &calib, 0.02).unwrap();
        let Thresholds::Marginal { quantile } = sets.thresholds else {
            panic!()
        };
        assert!((900..1100).contains(&quantile.n), "{quantile:?}");
        let got = sets.validate(&test, 0.01).unwrap();
        assert!((1800..2200).contains(&got.judged), "{got:?}");
        assert_eq!(got.verdict, SetVerdict::Consistent, "{got:?}");
        assert_eq!(sets.predict(&[0.0, 0.0, 0.0]).unwrap(), None);
        assert!(sets.statement().contains("selected images"));
    }

    #[test]
    fn few_rows_rule_nothing_out() {
        let calib = CalibRows::new(&multi_set(8, 1), 1).unwrap();
        for method in methods() {
            let sets = SetPredictor::fit(&method, &calib, 0.1).unwrap();
            assert_eq!(sets.predict(&[9.0, 0.0, 0.0]).unwrap(), Some(vec![0, 1, 2]));
        }
    }

    #[test]
    fn what_makes_no_sets_is_refused() {
        let calib = CalibRows::new(&multi_set(50, 1), 1).unwrap();
        let lac = SetMethod::new(SetScore::Lac);
        let sets = SetPredictor::fit(&lac, &calib, 0.1).unwrap();
        let broken = SetMethod {
            temperature: 0.0,
            ..lac.clone()
        };
        let negative = SetMethod::new(SetScore::Raps {
            lambda: -1.0,
            free_ranks: 2,
        });
        let cases = [
            (
                "alpha is 1",
                SetPredictor::fit(&lac, &calib, 1.0).map(|_| ()),
            ),
            (
                "temperature is 0",
                SetPredictor::fit(&broken, &calib, 0.1).map(|_| ()),
            ),
            (
                "lambda is -1",
                SetPredictor::fit(&negative, &calib, 0.1).map(|_| ()),
            ),
            (
                "the row has 2 classes",
                sets.predict(&[0.0, 1.0]).map(|_| ()),
            ),
            (
                "logit 1 is NaN",
                sets.predict(&[0.0, f32::NAN, 1.0]).map(|_| ()),
            ),
        ];
        for (want, got) in cases {
            let got = got.unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        }
    }
}
