//! What holds for every calibrator on all data.

use proptest::prelude::*;
use stage1_calibration::calibrate::fit;
use stage1_calibration::fit::{PolicyFit, fit_policy};
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{CalibRows, Labelled, SelectRows};
use stage1_core::config::CalibratorChoice as C;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Calibrator, argmax};

const RISING: [C; 8] = [
    C::None,
    C::Temperature,
    C::TsMix,
    C::Platt,
    C::Affine,
    C::Beta,
    C::Isotonic,
    C::VennAbers,
];
const BINARY: [C; 10] = [
    C::None,
    C::Temperature,
    C::TsMix,
    C::Platt,
    C::Affine,
    C::Beta,
    C::Quadratic,
    C::Isotonic,
    C::VennAbers,
    C::Auto,
];
const MULTI: [C; 7] = [
    C::None,
    C::Temperature,
    C::TsMix,
    C::Vector,
    C::Svs,
    C::Sms,
    C::Auto,
];

fn choices(classes: usize) -> &'static [C] {
    if classes == 2 { &BINARY } else { &MULTI }
}

#[derive(Debug, Clone)]
struct Rows {
    logits: Vec<f32>,
    classes: usize,
    labels: Vec<usize>,
}

impl Rows {
    fn labelled(&self) -> Labelled<'_> {
        Labelled {
            logits: &self.logits,
            classes: self.classes,
            labels: &self.labels,
        }
    }

    fn calibrator(&self, choice: C) -> Calibrator {
        fit(self.labelled(), None, 1, choice).unwrap().calibrator
    }
}

/// Rows with many ties (logits in quarters), of which two thirds are right.
fn rows(classes: impl Strategy<Value = usize>) -> impl Strategy<Value = Rows> {
    (classes, 2_usize..200).prop_flat_map(|(classes, n)| {
        let row = (
            prop::collection::vec(-30_i8..30, classes),
            0_u8..3,
            0..classes,
        );
        prop::collection::vec(row, n).prop_map(move |rows| {
            let (mut logits, mut labels) = (Vec::new(), Vec::new());
            for (row, luck, other) in rows {
                let row: Vec<f32> = row.into_iter().map(|z| f32::from(z) / 4.0).collect();
                labels.push(if luck == 0 { other } else { argmax(&row) });
                logits.extend(row);
            }
            Rows {
                logits,
                classes,
                labels,
            }
        })
    })
}

/// Any finite logits, near the ends of their range too.
fn wild_rows() -> impl Strategy<Value = Rows> {
    let value = prop_oneof![
        prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
        -5.0_f32..5.0,
        Just(1e30_f32),
        Just(f32::MIN),
    ];
    (2_usize..5, 0_usize..60).prop_flat_map(move |(classes, n)| {
        let logits = prop::collection::vec(value.clone(), n * classes);
        let labels = prop::collection::vec(0..classes, n);
        (logits, labels).prop_map(move |(logits, labels)| Rows {
            logits,
            classes,
            labels,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rising_calibrators_keep_the_ranking(rows in rows(Just(2))) {
        for choice in RISING {
            let calibrator = rows.calibrator(choice);
            let p = |s: f32| calibrator.probabilities(&[0.0, s])[1];
            let at: Vec<f64> = (-160..160).map(|s| p(s as f32 / 8.0)).collect();
            for (i, pair) in at.windows(2).enumerate() {
                // 1/(1+e⁻ˢ) is rounded at each step.
                prop_assert!(pair[0] <= pair[1] + 1e-15, "{choice:?} {i} {pair:?} {calibrator:?}");
            }
        }
    }

    #[test]
    fn temperatures_keep_the_order_of_classes(rows in rows(2_usize..6)) {
        for choice in [C::Temperature, C::TsMix] {
            let calibrator = rows.calibrator(choice);
            for i in 0..rows.labels.len() {
                let z = rows.labelled().row(i);
                let p = calibrator.probabilities(z);
                for (a, b) in (0..z.len()).flat_map(|a| (0..z.len()).map(move |b| (a, b))) {
                    prop_assert!(z[a] > z[b] || p[a] <= p[b], "{choice:?} {z:?} {p:?}");
                }
            }
        }
    }

    #[test]
    fn permuting_rows_changes_rounding_only(rows in rows(2_usize..5), seed in any::<u64>()) {
        let mut order: Vec<usize> = (0..rows.labels.len()).collect();
        order.sort_by_key(|i| (*i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shuffled = Rows {
            logits: order.iter().flat_map(|i| rows.labelled().row(*i)).copied().collect(),
            labels: order.iter().map(|i| rows.labels[*i]).collect(),
            ..rows
        };
        // Not auto: its folds follow the order, which is canonical where it is used.
        for choice in choices(rows.classes).iter().filter(|choice| **choice != C::Auto) {
            let of = |rows: &Rows| fit(rows.labelled(), None, 1, *choice).unwrap();
            let (one, other) = (of(&rows), of(&shuffled));
            prop_assert_eq!(one.fallback, other.fallback, "{:?}", choice);
            for i in 0..rows.labels.len().min(20) {
                let z = rows.labelled().row(i);
                let pairs = std::iter::zip(one.calibrator.probabilities(z), other.calibrator.probabilities(z));
                for (a, b) in pairs {
                    prop_assert!((a - b).abs() < 1e-6, "{:?} {} {}", choice, a, b);
                }
            }
        }
    }

    #[test]
    fn any_finite_logits_give_probabilities(rows in wild_rows()) {
        for choice in choices(rows.classes) {
            let fit = fit(rows.labelled(), None, 1, *choice).unwrap();
            fit.calibrator.validate(rows.classes).unwrap();
            for i in 0..rows.labels.len() {
                let p = fit.calibrator.probabilities(rows.labelled().row(i));
                prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)), "{fit:?} {p:?}");
                prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{fit:?} {p:?}");
            }
        }
    }

    #[test]
    fn in_canonical_order_no_bit_depends_on_the_file(rows in rows(2_usize..4), seed in any::<u64>()) {
        let n = rows.labels.len();
        let set = LogitSet {
            logits: rows.logits.clone(),
            classes: rows.classes,
            labels: rows.labels.iter().map(|label| *label as i64).collect(),
            ids: (0..n).map(|i| format!("{i}.png")).collect(),
            ..LogitSet::default()
        };
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|i| (*i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let select = SelectRows::new(&set, 5).unwrap();
        let plan = plan(&select, n as u64, &Target::new(0.45, 0.45), None).unwrap();
        for choice in choices(rows.classes) {
            let of = |set: &LogitSet| fit_policy(&plan, &CalibRows::new(set, 5).unwrap(), *choice).unwrap();
            let (one, other) = (of(&set), of(&set.subset(&order)));
            prop_assert_eq!(&one, &other);
            if let PolicyFit::Certified { policy, .. } = one {
                prop_assert!(policy.calibrator.validate(rows.classes).is_ok());
            }
        }
    }
}
