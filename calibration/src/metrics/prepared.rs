//! What the metrics of one table have in common: sorted once, weighed as often as a bootstrap asks.

use super::calibration_error::{BinErrors, Bins, weighed_bin_errors};
use super::one_vs_rest::{self, BINS, Class};
use super::ranking::{Marked, Once, Weights};
use super::smooth::smooth_ece;
use super::{Levels, Predictions, Ranking};
use rayon::prelude::*;
use stage1_core::metrics::Confusion;
use std::borrow::Cow;

type Named = Vec<(Cow<'static, str>, Option<f64>)>;

/// Everything about the rows that doesn't depend on their weights.
pub(super) struct Prepared<'a> {
    predictions: &'a Predictions,
    levels: &'a Levels,
    confidence: Vec<f64>,
    right: Vec<bool>,
    /// By confidence; wrong rows are marked.
    surest_first: Marked,
    equal_mass: Bins,
    brier: Vec<f64>,
    /// Class 1 of two, else all.
    classes: Vec<Class>,
    /// By the probability of each of these classes, its rows marked; kept for resampling only.
    ranked: Vec<Marked>,
}

impl<'a> Prepared<'a> {
    /// Sorts and bins; `resampling` keeps each class's order (4 bytes a row and class) for [`Self::resampled`].
    pub(super) fn new(predictions: &'a Predictions, levels: &'a Levels, resampling: bool) -> Self {
        let seen = if predictions.classes == 2 {
            1..2
        } else {
            0..predictions.classes
        };
        let wrong = predictions.wrong();
        let confidence = predictions.confidence();
        let by_class = |k| {
            Marked::new(
                &Ranking::new(&predictions.of_class(k)),
                &predictions.is_class(k),
            )
        };
        let (by_confidence, classes) = rayon::join(
            || {
                let ranking = Ranking::new(&confidence);
                let equal_mass = Bins::equal_mass_whole_ties(&ranking, BINS);
                (Marked::new(&ranking, &wrong), equal_mass)
            },
            || one_vs_rest::classes(predictions, seen.clone()),
        );
        Self {
            predictions,
            levels,
            right: wrong.iter().map(|wrong| !wrong).collect(),
            surest_first: by_confidence.0,
            equal_mass: by_confidence.1,
            confidence,
            brier: predictions.brier(),
            classes,
            ranked: if resampling {
                seen.into_par_iter().map(by_class).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Metrics that may be resampled, by name.
    pub(super) fn estimates(&self) -> Named {
        let areas = self.classes.iter().map(|class| class.areas);
        let values = self.weighed(Once, areas, BinErrors::rms_debiased);
        self.names().into_iter().zip(values).collect()
    }

    /// The same under row weights, in the same order.
    ///
    /// # Panics
    /// If it wasn't prepared for resampling.
    pub(super) fn resampled(&self, weights: &[u32]) -> Vec<Option<f64>> {
        assert_eq!(
            self.ranked.len(),
            self.classes.len(),
            "prepared for resampling"
        );
        let areas = self.ranked.iter().map(|ranked| ranked.areas(weights));
        self.weighed(weights, areas, BinErrors::rms_debiased_twice)
    }

    fn names(&self) -> Vec<Cow<'static, str>> {
        let fixed = [
            "accuracy",
            "balanced_accuracy",
            "mcc",
            "f1",
            "auroc",
            "average_precision",
            "nll",
            "brier",
            "ece_debiased",
            "aurc",
            "e_aurc",
            "augrc",
        ];
        let answered: &[_] = match self.predictions.answers {
            Some(_) => &["coverage", "selective_risk"],
            None => &[],
        };
        let at_risk = self
            .levels
            .risks
            .iter()
            .map(|risk| Cow::from(format!("coverage_at_risk_{risk}")));
        let at_coverage = self
            .levels
            .coverages
            .iter()
            .map(|share| Cow::from(format!("risk_at_coverage_{share}")));
        let fixed = fixed.iter().chain(answered).map(|name| Cow::from(*name));
        fixed.chain(at_risk).chain(at_coverage).collect()
    }

    /// In the order of `names`; `areas` are AUROC and average precision of each class.
    fn weighed(
        &self,
        weights: impl Weights,
        areas: impl Iterator<Item = (Option<f64>, Option<f64>)>,
        debiased: impl Fn(&BinErrors) -> f64,
    ) -> Vec<Option<f64>> {
        let confusion = self.confusion(weights);
        let defined = |value: f64| (confusion.total() > 0).then_some(value);
        let (auroc, average_precision): (Vec<_>, Vec<_>) = areas.unzip();
        let errors = weighed_bin_errors(&self.equal_mass, &self.confidence, &self.right, weights);
        let curve = self.surest_first.selective_areas(weights);
        let mut values = vec![
            defined(confusion.accuracy()),
            defined(confusion.balanced_accuracy()),
            defined(confusion.mcc()),
            defined(confusion.f1_default()),
            mean_where_defined(&auroc),
            mean_where_defined(&average_precision),
            mean(&self.predictions.nll, weights),
            mean(&self.brier, weights),
            errors.as_ref().map(debiased),
            curve.map(|areas| areas.aurc),
            curve.map(|areas| areas.e_aurc),
            curve.map(|areas| areas.augrc),
        ];
        values.extend(self.answered(weights));
        let at_risk = |risk: &f64| self.surest_first.coverage_at_risk(weights, *risk);
        values.extend(self.levels.risks.iter().map(at_risk));
        let at_coverage = |share: &f64| self.surest_first.risk_at_coverage(weights, *share);
        values.extend(self.levels.coverages.iter().map(at_coverage));
        values
    }

    fn confusion(&self, weights: impl Weights) -> Confusion {
        let Predictions {
            classes,
            labels,
            predicted,
            ..
        } = self.predictions;
        let mut confusion = Confusion::new(*classes);
        for (row, (label, predicted)) in labels.iter().zip(predicted).enumerate() {
            confusion.add_times(*label, *predicted, weights.of(row));
        }
        confusion
    }

    /// Coverage and selective risk of the policy's answers; nothing without a policy.
    fn answered(&self, weights: impl Weights) -> Vec<Option<f64>> {
        let Some(answers) = &self.predictions.answers else {
            return Vec::new();
        };
        let (mut all, mut answered, mut wrong) = (0u64, 0u64, 0u64);
        for (row, (answer, label)) in answers.iter().zip(&self.predictions.labels).enumerate() {
            let weight = weights.of(row);
            all += weight;
            answered += if answer.is_some() { weight } else { 0 };
            let is_wrong = answer.is_some_and(|answer| answer != *label);
            wrong += if is_wrong { weight } else { 0 };
        }
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        vec![ratio(answered, all), ratio(wrong, answered)]
    }

    /// Plug-in errors and the parts of the Brier score, by name: of the rows as they are.
    pub(super) fn described(&self) -> Named {
        let ece =
            |bins: &Bins| Some(weighed_bin_errors(bins, &self.confidence, &self.right, Once)?.ece);
        let width = Bins::equal_width(&self.confidence, BINS);
        let classwise: Vec<_> = self.classes.iter().map(|class| class.ece).collect();
        let named = [
            ("ece", ece(&width)),
            ("ece_equal_mass", ece(&self.equal_mass)),
            ("ece_classwise", mean_where_defined(&classwise)),
            ("smooth_ece", smooth_ece(&self.confidence, &self.right)),
            (
                "brier_reliability",
                self.part(|class| class.binned?.reliability.into()),
            ),
            (
                "brier_resolution",
                self.part(|class| class.binned?.resolution.into()),
            ),
            (
                "brier_uncertainty",
                self.part(|class| class.binned?.uncertainty.into()),
            ),
            (
                "brier_within_bin_variance",
                self.part(|class| class.binned?.within_variance.into()),
            ),
            (
                "brier_within_bin_covariance",
                self.part(|class| class.binned?.within_covariance.into()),
            ),
            (
                "brier_miscalibration",
                self.part(|class| class.corp?.miscalibration.into()),
            ),
            (
                "brier_discrimination",
                self.part(|class| class.corp?.discrimination.into()),
            ),
        ];
        named
            .into_iter()
            .map(|(name, value)| (Cow::from(name), value))
            .collect()
    }

    /// A part of the Brier score: the sum over classes, as the score itself is. Of two classes the other one's part is
    /// the same.
    fn part(&self, of: impl Fn(&Class) -> Option<f64>) -> Option<f64> {
        let sum: Option<f64> = self.classes.iter().map(of).sum();
        let times = if self.predictions.classes == 2 {
            2.0
        } else {
            1.0
        };
        sum.map(|sum| times * sum)
    }
}

/// The mean of those that are defined.
fn mean_where_defined(values: &[Option<f64>]) -> Option<f64> {
    let defined: Vec<f64> = values.iter().copied().flatten().collect();
    (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
}

fn mean(values: &[f64], weights: impl Weights) -> Option<f64> {
    let total: u64 = (0..values.len()).map(|row| weights.of(row)).sum();
    let weighted = values.iter().enumerate();
    let sum: f64 = weighted
        .map(|(row, value)| value * weights.of(row) as f64)
        .sum();
    (total > 0).then(|| sum / total as f64)
}
