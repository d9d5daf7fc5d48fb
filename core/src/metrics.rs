//! Counts of a classifier's hits and misses, and the rates that follow from them.
//!
//! Conventions for 0/0 are scikit-learn's (`zero_division=0`); each method names its own. With no samples at all,
//! every rate is NaN: nothing was measured.

/// The margins and the diagonal of a confusion matrix: how often each class occurred, was predicted, and was predicted
/// rightly. All rates here follow from them, and they stay small for a thousand classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    hits: Vec<u64>,
    labelled: Vec<u64>,
    predicted: Vec<u64>,
}

impl Confusion {
    /// Empty counts for `classes` classes, numbered from 0.
    pub fn new(classes: usize) -> Self {
        Self {
            hits: vec![0; classes],
            labelled: vec![0; classes],
            predicted: vec![0; classes],
        }
    }

    /// Counts one sample.
    ///
    /// # Panics
    /// When a class isn't below the number of classes.
    pub fn add(&mut self, label: usize, predicted: usize) {
        self.add_times(label, predicted, 1);
    }

    /// Counts a sample as if it had occurred `times` times.
    ///
    /// # Panics
    /// When a class isn't below the number of classes.
    pub fn add_times(&mut self, label: usize, predicted: usize, times: u64) {
        let classes = self.classes();
        assert!(
            label < classes && predicted < classes,
            "class {label} or {predicted} of {classes}"
        );
        self.labelled[label] += times;
        self.predicted[predicted] += times;
        if label == predicted {
            self.hits[label] += times;
        }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.hits.len()
    }

    /// The number of samples.
    pub fn total(&self) -> u64 {
        self.labelled.iter().sum()
    }

    /// How many samples have the label `class`.
    pub fn labelled(&self, class: usize) -> u64 {
        self.labelled[class]
    }

    /// How many samples were taken for `class`.
    pub fn predicted(&self, class: usize) -> u64 {
        self.predicted[class]
    }

    /// The share of samples whose class was found.
    pub fn accuracy(&self) -> f64 {
        ratio(self.correct(), self.total()).unwrap_or(f64::NAN)
    }

    /// The recall of a class; `None` when no sample has it.
    pub fn recall(&self, class: usize) -> Option<f64> {
        ratio(self.hits[class], self.labelled[class])
    }

    /// The mean recall over the classes that have samples.
    pub fn balanced_accuracy(&self) -> f64 {
        mean((0..self.classes()).filter_map(|class| self.recall(class)))
    }

    /// F1 of one class: `2 TP / (2 TP + FP + FN)`; 0 when the class has neither samples nor predictions.
    pub fn f1(&self, class: usize) -> f64 {
        if self.total() == 0 {
            return f64::NAN;
        }
        ratio(
            2 * self.hits[class],
            self.labelled(class) + self.predicted(class),
        )
        .unwrap_or(0.0)
    }

    /// The mean F1 over the classes that have samples or predictions.
    pub fn f1_macro(&self) -> f64 {
        let seen = |class: &usize| self.labelled(*class) + self.predicted(*class) > 0;
        mean((0..self.classes()).filter(seen).map(|class| self.f1(class)))
    }

    /// The field's `f1`: of class 1 for two classes, else the macro mean.
    pub fn f1_default(&self) -> f64 {
        if self.classes() == 2 {
            self.f1(1)
        } else {
            self.f1_macro()
        }
    }

    /// Matthews' correlation coefficient, for more than two classes as Gorodkin (2004) extends it; 0 when the labels or
    /// the predictions are all of one class.
    pub fn mcc(&self) -> f64 {
        let total = self.total();
        if total == 0 {
            return f64::NAN;
        }
        // Products of counts in u128: exact, so that "all of one class" is found exactly.
        let sum = |f: &dyn Fn(usize) -> u128| (0..self.classes()).map(f).sum::<u128>();
        let n = u128::from(total);
        let labelled = |k| u128::from(self.labelled(k));
        let predicted = |k| u128::from(self.predicted(k));
        let label_spread = n * n - sum(&|k| labelled(k) * labelled(k));
        let prediction_spread = n * n - sum(&|k| predicted(k) * predicted(k));
        if label_spread == 0 || prediction_spread == 0 {
            return 0.0;
        }
        let agreement =
            n as f64 * self.correct() as f64 - sum(&|k| labelled(k) * predicted(k)) as f64;
        let mcc = agreement / ((label_spread as f64).sqrt() * (prediction_spread as f64).sqrt());
        // The roots are rounded: the last bit may lie outside.
        mcc.clamp(-1.0, 1.0)
    }

    fn correct(&self) -> u64 {
        self.hits.iter().sum()
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The mean; NaN of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0_u64), |(sum, n), x| (sum + x, n + 1));
    sum / n as f64
}

/// Rows from the surest to the least sure; equally sure ones form a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurestFirst {
    order: Vec<usize>,
    /// Where each group ends in `order`.
    ends: Vec<usize>,
}

impl SurestFirst {
    /// Of scores, one to the row; larger is surer.
    pub fn new(score: &[f64]) -> Self {
        let mut order: Vec<_> = (0..score.len()).collect();
        order.sort_by(|a, b| score[*b].total_cmp(&score[*a]));
        let new = |end: &usize| {
            *end == order.len() || score[order[end - 1]].total_cmp(&score[order[*end]]).is_ne()
        };
        let ends = (1..=order.len()).filter(new).collect();
        Self { order, ends }
    }

    /// AUGRC (Traub et al. 2024): the area under wrong answers among all rows, over coverage, by trapezoids from the origin; tied
    /// rows are averaged over all their orders. A row counts `times` times.
    pub fn augrc(&self, wrong: impl Fn(usize) -> bool, times: impl Fn(usize) -> u64) -> f64 {
        let (mut seen, mut errors, mut area, mut start) = (0, 0, 0.0, 0);
        for &end in &self.ends {
            let group = &self.order[start..end];
            let all: u64 = group.iter().map(|row| times(*row)).sum();
            let missed = group
                .iter()
                .filter(|row| wrong(**row))
                .map(|row| times(*row));
            let missed: u64 = missed.sum();
            area += all as f64 * (errors as f64 + missed as f64 / 2.0);
            (seen, errors, start) = (seen + all, errors + missed, end);
        }
        area / (seen as f64 * seen as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        classes: usize,
        labels: &'static [usize],
        predicted: &'static [usize],
        /// accuracy, balanced accuracy, MCC, F1 (as `f1_default`), macro F1: scikit-learn 1.7's values.
        want: [f64; 5],
    }

    #[test]
    fn rates_are_those_of_scikit_learn() {
        let cases = [
            Case {
                name: "binary",
                classes: 2,
                labels: &[0, 0, 0, 1, 1, 1, 1],
                predicted: &[0, 1, 0, 1, 1, 0, 1],
                want: [
                    5.0 / 7.0,
                    (2.0 / 3.0 + 0.75) / 2.0,
                    5.0 / 12.0,
                    0.75,
                    (2.0 / 3.0 + 0.75) / 2.0,
                ],
            },
            Case {
                name: "three classes",
                classes: 3,
                labels: &[0, 1, 2, 0, 1, 2],
                predicted: &[0, 2, 1, 0, 0, 1],
                want: [1.0 / 3.0, 1.0 / 3.0, 0.0, 0.8 / 3.0, 0.8 / 3.0],
            },
            Case {
                name: "one prediction for all",
                classes: 2,
                labels: &[0, 0, 1],
                predicted: &[0, 0, 0],
                want: [2.0 / 3.0, 0.5, 0.0, 0.0, 0.4],
            },
            Case {
                name: "a class without samples, once predicted",
                classes: 3,
                labels: &[0, 0, 1, 1],
                predicted: &[0, 2, 1, 1],
                // MCC: (4·3 − (2·1 + 2·2 + 0)) / √(16−8) / √(16−6)
                want: [
                    0.75,
                    0.75,
                    6.0 / 80_f64.sqrt(),
                    (2.0 / 3.0 + 1.0) / 3.0,
                    (2.0 / 3.0 + 1.0) / 3.0,
                ],
            },
            Case {
                name: "a class with neither",
                classes: 3,
                labels: &[0, 1],
                predicted: &[0, 1],
                want: [1.0; 5],
            },
            Case {
                name: "all wrong",
                classes: 2,
                labels: &[0, 1],
                predicted: &[1, 0],
                want: [0.0, 0.0, -1.0, 0.0, 0.0],
            },
        ];
        for case in cases {
            let c = count(case.classes, case.labels, case.predicted);
            let got = [
                c.accuracy(),
                c.balanced_accuracy(),
                c.mcc(),
                c.f1_default(),
                c.f1_macro(),
            ];
            for (got, want) in got.iter().zip(case.want) {
                assert!(
                    (got - want).abs() < 1e-12,
                    "{}: {got} for {want}",
                    case.name
                );
            }
        }
    }

    #[test]
    fn nothing_measured_is_nan() {
        let c = Confusion::new(2);
        for value in [
            c.accuracy(),
            c.balanced_accuracy(),
            c.mcc(),
            c.f1(1),
            c.f1_macro(),
        ] {
            assert!(value.is_nan());
        }
    }

    #[test]
    fn agreement_is_never_more_than_perfect() {
        for (zeros, ones) in (1..60).flat_map(|z| (1..60).map(move |o| (z, o))) {
            for (flip, want) in [(0, 1.0), (1, -1.0)] {
                let mut c = Confusion::new(2);
                c.add_times(0, flip, zeros);
                c.add_times(1, 1 - flip, ones);
                let mcc = c.mcc();
                assert!(
                    (-1.0..=1.0).contains(&mcc) && (mcc - want).abs() < 1e-12,
                    "{zeros} and {ones}: {mcc}"
                );
            }
        }
    }

    #[test]
    fn large_counts_stay_exact() {
        let mut c = Confusion::new(2);
        c.add_times(0, 0, 3_000_000_000);
        c.add(1, 0);
        assert_eq!(c.mcc().to_bits(), 0.0_f64.to_bits());
    }

    fn count(classes: usize, labels: &[usize], predicted: &[usize]) -> Confusion {
        let mut confusion = Confusion::new(classes);
        for (&label, &prediction) in labels.iter().zip(predicted) {
            confusion.add(label, prediction);
        }
        confusion
    }

    #[test]
    fn augrc_is_an_area_with_ties_averaged_and_weights_as_repetitions() {
        let score = [0.9, 0.7, 0.7, 0.1];
        let wrong = [false, true, false, true];
        let augrc = |score: &[f64], wrong: &[bool], times: &[u64]| {
            SurestFirst::new(score).augrc(|row| wrong[row], |row| times[row])
        };
        // Trapezoids: 0, then half an error over the two tied rows, then one and a half.
        let once = augrc(&score, &wrong, &[1; 4]);
        assert!((once - (2.0 * 0.5 + 1.5) / 16.0).abs() < 1e-15, "{once}");
        let twice = augrc(
            &[0.9, 0.7, 0.7, 0.7, 0.1],
            &[false, true, true, false, true],
            &[1; 5],
        );
        let weighed = augrc(&score, &wrong, &[1, 2, 1, 1]);
        assert!((twice - weighed).abs() < 1e-15);
        assert!(augrc(&[], &[], &[]).is_nan());
    }
}
