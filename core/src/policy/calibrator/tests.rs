use super::*;
use crate::artifact::Document;
use crate::policy::{Policy, Score, Threshold};
use serde_json::{Value, json};

const MIXTURE: Mixture = Mixture {
    t: 1.5,
    uniform: 0.01,
};

/// One of each kind, with the number of its classes.
fn one_of_each() -> Vec<(usize, Calibrator)> {
    let curve = IsotonicCurve {
        knots: vec![[-1.0, 0.0], [0.0, 0.4], [2.0, 0.4], [3.0, 1.0]],
        rows: 98,
    };
    let steps = VennAbersSteps {
        p0: vec![[-1.0, 0.1], [2.0, 0.6]],
        p1: vec![[0.0, 0.2], [1.0, 0.7]],
    };
    vec![
        (3, Calibrator::None),
        (3, Calibrator::Temperature { t: 2.0 }),
        (3, Calibrator::TsMix(MIXTURE)),
        (
            3,
            Calibrator::Vector {
                weights: vec![0.5, 1.0, 2.0],
                biases: vec![0.1, 0.0, -0.1],
            },
        ),
        (
            3,
            Calibrator::Svs {
                mixture: MIXTURE,
                weights: vec![0.5, 1.0, 2.0],
                biases: vec![0.1, 0.0, -0.1],
            },
        ),
        (
            3,
            Calibrator::Sms {
                mixture: MIXTURE,
                matrix: vec![1.0, 0.2, 0.0, -0.1, 0.9, 0.0, 0.0, 0.3, 1.1],
                biases: vec![0.1, 0.0, -0.1],
            },
        ),
        (2, Calibrator::Platt { a: 0.5, b: 0.1 }),
        (2, Calibrator::Affine { a: 0.5, b: 0.1 }),
        (
            2,
            Calibrator::Beta {
                a: 0.5,
                b: 0.1,
                c: 0.2,
            },
        ),
        (
            2,
            Calibrator::Quadratic {
                c: [0.1, 1.0, -0.2],
            },
        ),
        (2, Calibrator::Isotonic(curve)),
        (2, Calibrator::VennAbers(steps)),
    ]
}

fn policy(classes: usize, calibrator: Calibrator) -> Policy {
    let (score, threshold) = if classes == 2 {
        let threshold = Threshold::TwoSided {
            low: -1.0,
            high: 1.0,
        };
        (Score::BinaryMargin, threshold)
    } else {
        let score = Score::MaxProbability { temperature: 1.0 };
        (score, Threshold::OneSided { at_least: 0.5 })
    };
    let digest = crate::artifact::Digest::of_bytes(b"plan");
    Policy::new(classes, score, threshold, calibrator, digest)
}

#[test]
fn probabilities_sum_to_one_and_losses_are_theirs() {
    for (classes, calibrator) in one_of_each() {
        calibrator.validate(classes).unwrap();
        for values in [[0.0, 0.0, 0.0], [1.0, -0.5, 0.7], [3.0, 2.5, -4.0]] {
            let logits = &values[..classes];
            let p = calibrator.probabilities(logits);
            assert_eq!(p.len(), classes);
            assert!(
                (p.iter().sum::<f64>() - 1.0).abs() < 1e-14,
                "{calibrator:?}"
            );
            for (label, p) in p.iter().enumerate() {
                let loss = calibrator.log_loss(logits, label);
                assert!((loss + p.ln()).abs() < 1e-12, "{calibrator:?}: {loss} {p}");
            }
        }
        for big in [1e30, f32::MAX, f32::MIN] {
            let logits = [big, -big, 0.0];
            let p = calibrator.probabilities(&logits[..classes]);
            assert!(
                p.iter().all(|p| (0.0..=1.0).contains(p)),
                "{calibrator:?} {p:?}"
            );
            assert!(
                (p.iter().sum::<f64>() - 1.0).abs() < 1e-12,
                "{calibrator:?} {p:?}"
            );
            for label in 0..classes {
                assert!(!calibrator.log_loss(&logits[..classes], label).is_nan());
            }
        }
    }
}

#[test]
fn formulas_are_those_of_the_documentation() {
    let z = [1.0, -0.5, 0.7];
    let softmax = |u: [f64; 3]| {
        let e = u.map(f64::exp);
        e.map(|x| x / e.iter().sum::<f64>())
    };
    let tempered = softmax(z.map(|z| z / 1.5));
    let mixed = tempered.map(|p| 0.99 * p + 0.01 / 3.0);
    let logs = mixed.map(f64::ln);
    let l = logs.map(|x| x - logs.iter().sum::<f64>() / 3.0);
    let want = [
        softmax(z),
        softmax(z.map(|z| z / 2.0)),
        mixed,
        softmax([0.5 * z[0] + 0.1, z[1], 2.0 * z[2] - 0.1]),
        softmax([0.5 * l[0] + 0.1, l[1], 2.0 * l[2] - 0.1]),
        softmax([
            l[0] + 0.2 * l[1] + 0.1,
            -0.1 * l[0] + 0.9 * l[1],
            0.3 * l[1] + 1.1 * l[2] - 0.1,
        ]),
    ];
    for ((_, calibrator), want) in one_of_each().into_iter().zip(want) {
        let got = calibrator.probabilities(&z.map(|z| z as f32));
        for (got, want) in got.iter().zip(want) {
            // The logit 0.7 isn't a float's.
            assert!((got - want).abs() < 1e-7, "{calibrator:?}: {got} {want}");
        }
    }
    let binary = one_of_each().split_off(6);
    let s = 1.5_f64;
    let p = 1.0 / (1.0 + (-s).exp());
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let want = [
        0.5 * s + 0.1,
        0.5 * s + 0.1,
        0.5 * p.ln() - 0.1 * (1.0 - p).ln() + 0.2,
        0.1 + s - 0.2 * s * s,
        logit(0.4),
        logit(1.0 / (1.0 - 0.1 + 1.0)),
    ];
    for ((_, calibrator), want) in binary.into_iter().zip(want) {
        let got = calibrator.binary_logit(s).unwrap();
        assert!((got - want).abs() < 1e-12, "{calibrator:?}: {got} {want}");
        let p = calibrator.probabilities(&[0.5, 2.0]);
        assert!(
            (p[1] - 1.0 / (1.0 + (-want).exp())).abs() < 1e-12,
            "{calibrator:?}"
        );
    }
}

#[test]
fn steps_are_read_on_the_right_side() {
    let steps = VennAbersSteps {
        p0: vec![[-1.0, 0.1], [2.0, 0.6]],
        p1: vec![[0.0, 0.2], [1.0, 0.7]],
    };
    for (s, want) in [
        (-2.0, (0.0, 0.2)),
        (-1.0, (0.1, 0.2)),
        (0.0, (0.1, 0.2)),
        (0.5, (0.1, 0.7)),
        (1.0, (0.1, 0.7)),
        (1.5, (0.1, 1.0)),
        (2.0, (0.6, 1.0)),
    ] {
        assert_eq!(steps.interval(s), want, "{s}");
    }
}

#[test]
fn a_saved_calibrator_is_the_same_bit_by_bit() {
    for (classes, calibrator) in one_of_each() {
        let policy = policy(classes, calibrator);
        let text = serde_json::to_vec(&policy).unwrap();
        assert_eq!(serde_json::from_slice::<Policy>(&text).unwrap(), policy);
        let kind: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(kind["calibrator"]["kind"], policy.calibrator.name());
    }
}

/// Reading and validating, as loading does.
fn refusal(classes: usize, calibrator: &Value) -> Option<String> {
    let mut document = serde_json::to_value(policy(classes, Calibrator::None)).unwrap();
    document["calibrator"] = calibrator.clone();
    match serde_json::from_value::<Policy>(document) {
        Err(error) => Some(error.to_string()),
        Ok(policy) => policy.validate().err(),
    }
}

#[test]
fn hostile_calibrators_are_refused() {
    let mixture = json!({"t": 1.0, "uniform": 0.1});
    let with = |mut calibrator: Value, key: &str, value: Value| {
        calibrator[key] = value;
        calibrator
    };
    let vector = json!({"kind": "vector", "weights": [1, 1, 1], "biases": [0, 0, 0]});
    let svs = with(
        with(vector.clone(), "kind", json!("svs")),
        "mixture",
        mixture.clone(),
    );
    let sms = json!({
        "kind": "sms", "mixture": mixture, "biases": [0, 0, 0], "matrix": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    });
    let isotonic = json!({"kind": "isotonic", "knots": [[0, 0.1], [1, 0.9]], "rows": 10});
    let abers = json!({"kind": "venn_abers", "p0": [[0, 0.1]], "p1": [[0, 0.2]]});
    for (classes, fine) in [
        (3, &vector),
        (3, &svs),
        (3, &sms),
        (2, &isotonic),
        (2, &abers),
    ] {
        assert_eq!(refusal(classes, fine), None, "{fine}");
    }
    let cases = [
        (
            3,
            with(vector.clone(), "weights", json!([1, 1])),
            "weights holds 2 numbers, 3 are needed",
        ),
        (
            3,
            with(vector.clone(), "biases", json!([])),
            "biases holds 0 numbers",
        ),
        (4, vector.clone(), "4 are needed"),
        (
            3,
            with(vector.clone(), "weights", json!([1, 1, 1e101])),
            "finite numbers",
        ),
        (
            3,
            with(vector.clone(), "weights", json!([1, 1, null])),
            "null",
        ),
        (3, with(vector.clone(), "extra", json!(1)), "unknown field"),
        (
            3,
            with(svs.clone(), "mixture", json!({"t": 0, "uniform": 0.1})),
            "t is 0",
        ),
        (
            3,
            with(svs.clone(), "mixture", json!({"t": 1, "uniform": 0})),
            "uniform is 0",
        ),
        (
            3,
            with(svs.clone(), "mixture", json!({"t": 1, "uniform": 1})),
            "uniform is 1",
        ),
        (
            3,
            with(
                svs.clone(),
                "mixture",
                json!({"t": 1, "uniform": 0.1, "x": 0}),
            ),
            "unknown field",
        ),
        (
            3,
            json!({"kind": "ts_mix", "t": -1, "uniform": 0.1}),
            "t is -1",
        ),
        (
            3,
            json!({"kind": "ts_mix", "t": 1, "uniform": 0.1, "x": 0}),
            "unknown field",
        ),
        (
            3,
            with(sms.clone(), "matrix", json!([1, 0, 0, 1])),
            "matrix holds 4 numbers, 9 are needed",
        ),
        (usize::MAX, sms, "9 numbers, more are needed"),
        (3, isotonic.clone(), "for 2 classes, there are 3"),
        (
            2,
            with(isotonic.clone(), "knots", json!([])),
            "there must be one",
        ),
        (
            2,
            with(isotonic.clone(), "knots", json!([[1, 0.1], [1, 0.9]])),
            "rise strictly",
        ),
        (
            2,
            with(isotonic.clone(), "knots", json!([[0, 0.9], [1, 0.1]])),
            "not fall",
        ),
        (
            2,
            with(isotonic.clone(), "knots", json!([[0, -0.1], [1, 0.1]])),
            "[0, 1]",
        ),
        (
            2,
            with(isotonic.clone(), "knots", json!([[0, 0.1], [1e40, 0.9]])),
            "finite",
        ),
        (
            2,
            with(isotonic.clone(), "knots", json!([[0, 0.1, 0.2]])),
            "invalid length 3",
        ),
        (2, with(isotonic.clone(), "rows", json!(0)), "rows is 0"),
        (2, with(isotonic.clone(), "rows", json!(u64::MAX)), "2^50"),
        (2, with(isotonic, "x", json!(0)), "unknown field"),
        (3, abers.clone(), "for 2 classes, there are 3"),
        (
            2,
            with(abers.clone(), "p0", json!([[0, 1.0]])),
            "[0, 1) for p0",
        ),
        (
            2,
            with(abers.clone(), "p1", json!([[0, 0.0]])),
            "(0, 1] for p1",
        ),
        (
            2,
            with(abers.clone(), "p1", json!([[0, 0.5], [1, 0.4]])),
            "must not fall",
        ),
        (
            2,
            with(abers.clone(), "p1", json!([[0, 0.5], [0, 0.6]])),
            "rise strictly",
        ),
        (2, with(abers.clone(), "p0", json!([])), "there must be one"),
        (2, with(abers, "x", json!(0)), "unknown field"),
        (2, json!({"kind": "quadratic", "c": [0, 1]}), "length"),
        (
            2,
            json!({"kind": "quadratic", "c": [0, 1, 1e200]}),
            "finite numbers",
        ),
        (
            3,
            json!({"kind": "quadratic", "c": [0, 1, 1]}),
            "for 2 classes",
        ),
        (2, json!({"kind": "affine", "a": -1, "b": 0}), "at least 0"),
        (2, json!({"kind": "temperature", "t": 0}), "t is 0"),
        (2, json!({"kind": "no_such"}), "unknown variant"),
    ];
    for (classes, calibrator, message) in cases {
        let got = refusal(classes, &calibrator);
        let fits = got.as_ref().is_some_and(|got| got.contains(message));
        assert!(fits, "{calibrator} for {classes}: {got:?}, want {message}");
    }
}

#[test]
fn what_is_accepted_is_never_nan() {
    let extremes = [
        Calibrator::Temperature { t: 5e-324 },
        Calibrator::Temperature { t: f64::MAX },
        Calibrator::Platt {
            a: f64::MAX,
            b: f64::MIN,
        },
        Calibrator::Beta {
            a: f64::MAX,
            b: f64::MAX,
            c: f64::MIN,
        },
        Calibrator::Quadratic {
            c: [-1e100, 1e100, -1e100],
        },
        Calibrator::TsMix(Mixture {
            t: 5e-324,
            uniform: 1e-20,
        }),
        Calibrator::Vector {
            weights: vec![1e100, -1e100],
            biases: vec![-1e100, 1e100],
        },
        Calibrator::Sms {
            mixture: Mixture {
                t: 5e-324,
                uniform: 1e-20,
            },
            matrix: vec![1e100, -1e100, 1e100, 1e100],
            biases: vec![1e100, 1e100],
        },
        Calibrator::Isotonic(IsotonicCurve {
            knots: vec![[-f64::from(f32::MAX), 0.0], [f64::from(f32::MAX), 1.0]],
            rows: 1 << 50,
        }),
        Calibrator::VennAbers(VennAbersSteps {
            p0: vec![[0.0, 1.0_f64.next_down()]],
            p1: vec![[0.0, 2e-20]],
        }),
    ];
    for calibrator in extremes {
        calibrator.validate(2).unwrap();
        for a in [0.0, 1e-45, 1.0, -3.0, f32::MAX, f32::MIN] {
            for b in [0.0, 1e-45, 1.0, f32::MAX, f32::MIN] {
                let p = calibrator.probabilities(&[a, b]);
                assert!(
                    p.iter().all(|p| (0.0..=1.0).contains(p)),
                    "{calibrator:?} {a} {b} {p:?}"
                );
                assert!(
                    (p[0] + p[1] - 1.0).abs() < 1e-9,
                    "{calibrator:?} {a} {b} {p:?}"
                );
                assert!(
                    !calibrator.log_loss(&[a, b], 0).is_nan(),
                    "{calibrator:?} {a} {b}"
                );
            }
        }
    }
}
