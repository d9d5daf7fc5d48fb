//! What the metrics of one table have in common: sorted once, weighed as often as a bootstrap asks.

use super::calibration_error::{BinErrors, Bins, bin_errors};
use super::decomposition::{Binned, Corp, binned, corp_of_ranked};
use super::ranking::{Marked, Once};
use super::smooth::smooth_ece;
use super::{Levels, Predictions, Ranking};
use rayon::prelude::*;
use stage1_core::metrics::Confusion;
use std::borrow::Cow;

/// Bins of calibration errors.
const BINS: usize = 15;
/// Bins of the Brier score's decomposition.
const DECOMPOSITION_BINS: usize = 10;

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
        let of_class = |k| Class::new(predictions, k, resampling);
        let (by_confidence, classes) = rayon::join(
            || {
                let ranking = Ranking::new(&confidence);
                let equal_mass = Bins::equal_mass_whole_ties(&ranking, BINS);
                (Marked::new(&ranking, &wrong), equal_mass)
            },
            || seen.into_par_iter().map(of_class).collect(),
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
        }
    }

    /// Metrics that may be resampled, by name.
    pub(super) fn estimates(&self) -> Named {
        let areas = self.classes.iter().map(|class| class.areas);
        let values = self.weighed(
            &vec![1; self.predictions.n()],
            areas,
            BinErrors::rms_debiased,
        );
        self.names().into_iter().zip(values).collect()
    }

    /// The same under row weights, in the same order.
    ///
    /// # Panics
    /// If it wasn't prepared for resampling.
    pub(super) fn resampled(&self, weights: &[u32]) -> Vec<Option<f64>> {
        let areas = self.classes.iter().map(|class| {
            let ranked = class.ranked.as_ref().expect("prepared for resampling");
            ranked.areas(weights)
        });
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
        weights: &[u32],
        areas: impl Iterator<Item = (Option<f64>, Option<f64>)>,
        debiased: impl Fn(&BinErrors) -> f64,
    ) -> Vec<Option<f64>> {
        let confusion = self.confusion(weights);
        let defined = |value: f64| (confusion.total() > 0).then_some(value);
        let (auroc, average_precision): (Vec<_>, Vec<_>) = areas.unzip();
        let errors = bin_errors(&self.equal_mass, &self.confidence, &self.right, weights);
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

    fn confusion(&self, weights: &[u32]) -> Confusion {
        let Predictions {
            classes,
            labels,
            predicted,
            ..
        } = self.predictions;
        let mut confusion = Confusion::new(*classes);
        for ((label, predicted), weight) in labels.iter().zip(predicted).zip(weights) {
            confusion.add_times(*label, *predicted, u64::from(*weight));
        }
        confusion
    }

    /// Coverage and selective risk of the policy's answers; nothing without a policy.
    fn answered(&self, weights: &[u32]) -> Vec<Option<f64>> {
        let Some(answers) = &self.predictions.answers else {
            return Vec::new();
        };
        let (mut all, mut answered, mut wrong) = (0u64, 0u64, 0u64);
        for ((answer, label), weight) in answers.iter().zip(&self.predictions.labels).zip(weights) {
            let weight = u64::from(*weight);
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
        let weights = vec![1; self.predictions.n()];
        let ece =
            |bins: &Bins| Some(bin_errors(bins, &self.confidence, &self.right, &weights)?.ece);
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

/// One class against the rest.
struct Class {
    /// AUROC and average precision.
    areas: (Option<f64>, Option<f64>),
    ece: Option<f64>,
    binned: Option<Binned>,
    corp: Option<Corp>,
    /// By the probability of the class, its rows marked; kept for resampling only.
    ranked: Option<Marked>,
}

impl Class {
    fn new(predictions: &Predictions, k: usize, resampling: bool) -> Self {
        let (p, is) = (predictions.of_class(k), predictions.is_class(k));
        let ranked = Marked::new(&Ranking::new(&p), &is);
        let weights = vec![1; p.len()];
        Self {
            areas: ranked.areas(Once),
            ece: bin_errors(&Bins::equal_width(&p, BINS), &p, &is, &weights)
                .map(|errors| errors.ece),
            binned: binned(&p, &is, DECOMPOSITION_BINS),
            corp: corp_of_ranked(&ranked, &p, &is),
            ranked: resampling.then_some(ranked),
        }
    }
}

/// The mean of those that are defined.
fn mean_where_defined(values: &[Option<f64>]) -> Option<f64> {
    let defined: Vec<f64> = values.iter().copied().flatten().collect();
    (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
}

fn mean(values: &[f64], weights: &[u32]) -> Option<f64> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let weighted = values.iter().zip(weights);
    let sum: f64 = weighted
        .map(|(value, weight)| value * f64::from(*weight))
        .sum();
    (total > 0).then(|| sum / total as f64)
}
