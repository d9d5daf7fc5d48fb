//! Metrics against scikit-learn and the NumPy reference.

use crate::golden::{Node, all_close, check_files, close, is_json_named};
use stage1_calibration::metrics::agreement::{auroc_one_vs_one, f1_weighted, kappa};
use stage1_calibration::metrics::calibration_error::{Bins, bin_errors};
use stage1_calibration::metrics::curves::{Point, precision_recall, roc};
use stage1_calibration::metrics::decomposition::{binned, corp};
use stage1_calibration::metrics::selective::areas;
use stage1_calibration::metrics::{Predictions, Ranking, compute};
use stage1_core::metrics::Confusion;

#[test]
fn metrics_are_those_of_the_references() {
    let exceptions = [(
        "*.mapie_ece_uniform15",
        "informational: another rule for the edges of bins",
    )];
    check_files(
        "metrics",
        |path| is_json_named(path, "metrics"),
        &exceptions,
        |file| {
            let tolerance = file.get("tolerance");
            for (_, set) in file.get("sets").members() {
                let check = Check {
                    predictions: predictions(&set),
                    expected: set.get("expected"),
                    abs: tolerance.f64("abs"),
                    nll_abs: tolerance.f64("nll_abs"),
                };
                check.common();
                if set.find("p").is_some() {
                    check.binary(&set.floats("p"))
                } else {
                    check.multi()
                }
            }
        },
    );
}

fn predictions(set: &Node<'_>) -> Predictions {
    let labels = set.counts("y");
    if set.find("p").is_some() {
        return Predictions::from_positive_probabilities(&set.floats("p"), labels);
    }
    let (logits, classes) = set.matrix("logits");
    let rows = logits.chunks(classes).flat_map(rounded_softmax).collect();
    Predictions::from_probabilities(classes, rows, labels)
}

/// As the file's note says: rounded to 6 digits, then renormalised.
fn rounded_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let rounded = powers
        .iter()
        .map(|e| (e / sum * 1e6).round_ties_even() / 1e6);
    let rounded: Vec<f64> = rounded.collect();
    let sum = numpy_sum(&rounded);
    rounded.iter().map(|p| p / sum).collect()
}

/// NumPy adds up to 128 numbers in eight strands. The last bit decides which of the rounded probabilities stay tied
/// across rows, and so the AUROC.
fn numpy_sum(values: &[f64]) -> f64 {
    assert!(values.len() <= 128, "longer rows are halved first");
    let (eights, rest) = values.as_chunks::<8>();
    let Some((first, more)) = eights.split_first() else {
        return values.iter().sum();
    };
    let r = more
        .iter()
        .fold(*first, |r, chunk| std::array::from_fn(|i| r[i] + chunk[i]));
    let strands = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(strands, |sum, x| sum + x)
}

struct Check<'a> {
    predictions: Predictions,
    expected: Node<'a>,
    abs: f64,
    nll_abs: f64,
}

impl Check<'_> {
    /// What sets of two and of more classes have in common.
    fn common(&self) {
        let table = compute(&self.predictions, None);
        let named = |name: &str| table[name].unwrap().estimate();
        self.is("acc", named("accuracy"));
        self.is("mcc", named("mcc"));
        close(
            named("nll"),
            self.expected.f64("nll"),
            0.0,
            self.nll_abs,
            "nll",
        );

        let (confidence, wrong) = (self.predictions.confidence(), self.predictions.wrong());
        let right: Vec<bool> = wrong.iter().map(|wrong| !wrong).collect();
        let width = Bins::equal_width(&confidence, 15);
        self.errors("ece_top_width15", &width, &confidence, &right);
        self.errors(
            "ece_top_mass15",
            &Bins::equal_mass(&confidence, 15),
            &confidence,
            &right,
        );
        self.is_at(&self.expected.get("ece_top_width15"), "ece", named("ece"));
        self.selective(&confidence, &wrong, named("accuracy"));
    }

    fn selective(&self, confidence: &[f64], wrong: &[bool], accuracy: f64) {
        let want = self.expected.get("selective");
        // The reference sorts stably: ties count in the order of the rows.
        let got = areas(
            &Ranking::ties_in_row_order(confidence),
            wrong,
            &vec![1; wrong.len()],
        )
        .unwrap();
        self.is_at(&want, "aurc", got.aurc);
        self.is_at(&want, "e_aurc", got.e_aurc);
        self.is_at(&want, "e_aurc_geifman", got.e_aurc_geifman);
        self.is_at(&want, "risk_full", 1.0 - accuracy);
    }

    fn binary(&self, p: &[f64]) {
        let y = self.predictions.is_class(1);
        let table = compute(&self.predictions, None);
        let named = |name: &str| table[name].unwrap().estimate();
        self.is("auroc", named("auroc"));
        self.is("ap", named("average_precision"));
        self.is("f1", named("f1"));
        self.is("bacc", named("balanced_accuracy"));
        // The file's Brier score is of class 1; ours adds both classes.
        self.is("brier", named("brier") / 2.0);
        self.is("kappa", kappa(&self.confusion()).unwrap());
        self.is("n_distinct_scores", distinct(p) as f64);
        self.errors("ece_pos_width15", &Bins::equal_width(p, 15), p, &y);
        self.is_at(
            &self.expected.get("ece_pos_width15"),
            "ece",
            named("ece_classwise"),
        );
        self.errors("ece_pos_mass15", &Bins::equal_mass(p, 15), p, &y);
        self.decompositions(p, &y);
        self.curves(p, &y);
    }

    fn decompositions(&self, p: &[f64], y: &[bool]) {
        let (want, got) = (
            self.expected.get("brier_decomposition10"),
            binned(p, y, 10).unwrap(),
        );
        self.is_at(&want, "reliability", got.reliability);
        self.is_at(&want, "resolution", got.resolution);
        self.is_at(&want, "uncertainty", got.uncertainty);
        self.is_at(&want, "wbv", got.within_variance);
        self.is_at(&want, "wbc", got.within_covariance);
        self.is_at(&want, "brier", got.brier);
        // The table adds both classes.
        let table = compute(&self.predictions, None);
        let halved = |name: &str| table[name].unwrap().estimate() / 2.0;
        self.is_at(&want, "reliability", halved("brier_reliability"));
        self.is_at(&want, "resolution", halved("brier_resolution"));
        self.is_at(&want, "uncertainty", halved("brier_uncertainty"));
        self.is_at(&want, "wbv", halved("brier_within_bin_variance"));
        self.is_at(&want, "wbc", halved("brier_within_bin_covariance"));
        let isotonic = self.expected.get("corp");
        self.is_at(&isotonic, "mcb", halved("brier_miscalibration"));
        self.is_at(&isotonic, "dsc", halved("brier_discrimination"));
        close(
            got.residual(),
            want.f64("identity_residual"),
            0.0,
            1e-12,
            "the identity closes",
        );
        let (want, got) = (self.expected.get("corp"), corp(p, y).unwrap());
        self.is_at(&want, "mcb", got.miscalibration);
        self.is_at(&want, "dsc", got.discrimination);
        self.is_at(&want, "unc", got.uncertainty);
    }

    /// The file keeps every so-many-th point of the full curves.
    fn curves(&self, p: &[f64], y: &[bool]) {
        let (want, got) = (self.expected.get("roc"), roc(p, y).unwrap());
        let got = thinned(&got, &want.floats("thr"));
        self.points(&want, "fpr", got.iter().map(|p| p.x));
        self.points(&want, "tpr", got.iter().map(|p| p.y));
        self.points(&want, "thr", got.iter().map(|p| p.threshold));
        let (want, got) = (self.expected.get("pr"), precision_recall(p, y).unwrap());
        let got = thinned(&got, &want.floats("thr"));
        self.points(&want, "precision", got.iter().map(|p| p.y));
        self.points(&want, "recall", got.iter().map(|p| p.x));
        // scikit-learn names no threshold that calls nothing positive.
        let named = got.iter().map(|p| p.threshold).filter(|t| t.is_finite());
        self.points(&want, "thr", named);
    }

    fn points(&self, want: &Node<'_>, key: &str, got: impl Iterator<Item = f64>) {
        let what = format!("{}.{key}", want.path());
        all_close(&got.collect::<Vec<_>>(), &want.floats(key), self.abs, &what);
    }

    fn multi(&self) {
        let table = compute(&self.predictions, None);
        let named = |name: &str| table[name].unwrap().estimate();
        self.is("brier_multi", named("brier"));
        self.is("f1_macro", named("f1"));
        // Every row has one label and one prediction: micro-averaged F1 is the accuracy.
        self.is("f1_micro", named("accuracy"));
        self.is("f1_weighted", f1_weighted(&self.confusion()).unwrap());
        self.is("auroc_ovr_macro", named("auroc"));
        self.is(
            "auroc_ovo_macro",
            auroc_one_vs_one(&self.predictions).unwrap(),
        );
        let ece = |k: usize| {
            let p = self.predictions.of_class(k);
            let weights = vec![1; p.len()];
            bin_errors(
                &Bins::equal_width(&p, 15),
                &p,
                &self.predictions.is_class(k),
                &weights,
            )
            .unwrap()
            .ece
        };
        let classwise: Vec<f64> = (0..self.predictions.classes).map(ece).collect();
        all_close(
            &classwise,
            &self.expected.floats("classwise_ece15"),
            self.abs,
            "classwise_ece15",
        );
        self.is("classwise_ece15_mean", named("ece_classwise"));
    }

    fn errors(&self, key: &str, bins: &Bins, scores: &[f64], outcomes: &[bool]) {
        let got = bin_errors(bins, scores, outcomes, &vec![1; scores.len()]).unwrap();
        let want = self.expected.get(key);
        self.is_at(&want, "ece", got.ece);
        self.is_at(&want, "mce", got.mce);
        self.is_at(&want, "rmsce_l2sq", got.l2_squared);
        self.is_at(&want, "debiased_l2sq_kumar", got.l2_squared_debiased);
    }

    fn confusion(&self) -> Confusion {
        let mut confusion = Confusion::new(self.predictions.classes);
        for (label, predicted) in self
            .predictions
            .labels
            .iter()
            .zip(&self.predictions.predicted)
        {
            confusion.add(*label, *predicted);
        }
        confusion
    }

    #[track_caller]
    fn is(&self, key: &str, got: f64) {
        self.is_at(&self.expected, key, got);
    }

    #[track_caller]
    fn is_at(&self, want: &Node<'_>, key: &str, got: f64) {
        close(
            got,
            want.f64(key),
            0.0,
            self.abs,
            &format!("{}.{key}", want.path()),
        );
    }
}

/// Every so-many-th point, by where the file's second threshold lies.
fn thinned(points: &[Point], thresholds: &[f64]) -> Vec<Point> {
    let second = thresholds[1];
    let step = points
        .iter()
        .position(|p| (p.threshold - second).abs() < 1e-12);
    points.iter().step_by(step.unwrap()).copied().collect()
}

fn distinct(values: &[f64]) -> usize {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values.len()
}
