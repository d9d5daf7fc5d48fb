use super::*;
use crate::artifact::json;

fn binary(calibrator: Calibrator) -> Policy {
    let threshold = Threshold::TwoSided {
        low: -1.0,
        high: 2.0,
    };
    Policy::new(
        2,
        Score::BinaryMargin,
        threshold,
        calibrator,
        Digest::of_bytes(b"plan"),
    )
}

fn multi(at_least: f64) -> Policy {
    let score = Score::MaxProbability { temperature: 2.0 };
    let threshold = Threshold::OneSided { at_least };
    Policy::new(
        3,
        score,
        threshold,
        Calibrator::Temperature { t: 1.5 },
        Digest::of_bytes(b"plan"),
    )
}

#[test]
fn the_side_is_the_label_and_ties_are_answered() {
    struct Case {
        logits: [f32; 2],
        outcome: Outcome,
        label: usize,
    }
    let answer = |label| Outcome::Answer { label };
    let cases = [
        Case {
            logits: [0.0, 2.0],
            outcome: answer(1),
            label: 1,
        },
        Case {
            logits: [1.0, 0.0],
            outcome: answer(0),
            label: 0,
        },
        Case {
            logits: [0.0, 1.999],
            outcome: Outcome::Defer,
            label: 1,
        },
        Case {
            logits: [0.5, 0.0],
            outcome: Outcome::Defer,
            label: 0,
        },
        Case {
            logits: [0.0, 0.0],
            outcome: Outcome::Defer,
            label: 0,
        },
    ];
    // A calibrator that moves the crossing of one half changes no decision.
    for calibrator in [Calibrator::None, Calibrator::Platt { a: 0.1, b: -9.0 }] {
        for case in &cases {
            let decision = binary(calibrator.clone()).decide(&case.logits).unwrap();
            assert_eq!(decision.outcome, case.outcome, "{:?}", case.logits);
            assert_eq!(decision.label, case.label, "{:?}", case.logits);
        }
    }
}

#[test]
fn the_side_may_differ_from_the_largest_logit() {
    let mut policy = binary(Calibrator::None);
    policy.threshold = Threshold::TwoSided {
        low: -2.0,
        high: -1.0,
    };
    let decision = policy.decide(&[0.5, 0.0]).unwrap();
    assert_eq!(decision.outcome, Outcome::Answer { label: 1 });
    assert!(
        decision.probability < 0.5,
        "the probability of the answered label: {decision:?}"
    );
}

#[test]
fn many_classes_answer_the_first_largest_logit_at_or_above_the_threshold() {
    let logits = [1.0, 3.0, 3.0];
    let score = Score::MaxProbability { temperature: 2.0 }.value(&logits);
    let at = multi(score).decide(&logits).unwrap();
    assert_eq!(at.outcome, Outcome::Answer { label: 1 });
    assert!((at.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-15);
    let above = multi(score.next_up()).decide(&logits).unwrap();
    assert_eq!((above.outcome, above.label), (Outcome::Defer, 1));
}

#[test]
fn the_score_is_the_largest_softmax_probability() {
    let logits = [1.0f32, -2.0, 4.0];
    let mut p = Vec::new();
    softmax_into(&logits, 2.0, &mut p);
    let score = Score::MaxProbability { temperature: 2.0 }.value(&logits);
    assert!((score - p[2]).abs() < 1e-15);
    let extreme = Score::MaxProbability { temperature: 1.0 }.value(&[f32::MAX, f32::MIN]);
    assert!((extreme - 1.0).abs() < 1e-15);
}

#[test]
fn bad_logits_are_errors_and_never_answers() {
    let policy = binary(Calibrator::None);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let got = policy.decide(&[0.0, value]);
        assert!(
            matches!(got, Err(PolicyError::NonFinite { class: 1, .. })),
            "{got:?}"
        );
    }
    assert_eq!(
        policy.decide(&[0.0; 3]),
        Err(PolicyError::ClassCount { want: 2, got: 3 })
    );
}

#[test]
fn extreme_logits_give_finite_probabilities() {
    let calibrators = [
        Calibrator::None,
        Calibrator::Temperature { t: 1e-7 },
        Calibrator::Platt { a: 2.0, b: 1.0 },
        Calibrator::Beta {
            a: 3.0,
            b: 0.0,
            c: -1.0,
        },
    ];
    for calibrator in calibrators {
        for logits in [[f32::MAX, f32::MIN], [f32::MIN, f32::MAX], [0.0, 0.0]] {
            let p = calibrator.probabilities(&logits);
            assert!(
                p.iter().all(|p| (0.0..=1.0).contains(p)),
                "{calibrator:?} {logits:?} {p:?}"
            );
            assert!((p[0] + p[1] - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn beta_with_equal_weights_is_platt() {
    let beta = Calibrator::Beta {
        a: 0.7,
        b: 0.7,
        c: 0.2,
    };
    let platt = Calibrator::Platt { a: 0.7, b: 0.2 };
    for s in [-30.0, -1.0, 0.0, 0.5, 40.0] {
        let of = |calibrator: &Calibrator| calibrator.binary_logit(s).unwrap();
        assert!((of(&beta) - of(&platt)).abs() < 1e-12);
    }
}

#[test]
fn a_saved_policy_is_the_same_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    let mut policy = multi(0.1 + 0.2);
    policy.calibrator_fallback = Some(Fallback::OneClass);
    policy.calibrator = Calibrator::None;
    let digest = json::save(&policy, &path).unwrap();
    assert_eq!(json::load::<Policy>(&path).unwrap(), (policy, digest));
}

#[test]
fn contradictory_policies_are_refused() {
    type Edit = (&'static str, fn(&mut Policy));
    let edits: [Edit; 7] = [
        ("kind is Gate", |p| p.kind = PolicyKind::Gate),
        ("classes is 1", |p| p.classes = 1),
        ("2 classes", |p| p.classes = 3),
        ("does not go with", |p| {
            p.threshold = Threshold::OneSided { at_least: 0.5 }
        }),
        ("low < high", |p| {
            p.threshold = Threshold::TwoSided {
                low: 1.0,
                high: 1.0,
            }
        }),
        ("slopes at least 0", |p| {
            p.calibrator = Calibrator::Platt { a: -1.0, b: 0.0 }
        }),
        ("positive", |p| {
            p.score = Score::MaxProbability { temperature: 0.0 }
        }),
    ];
    for (message, edit) in edits {
        let mut policy = binary(Calibrator::None);
        edit(&mut policy);
        let got = policy.validate().unwrap_err();
        assert!(got.contains(message), "{got}");
    }
}

fn gate(at_least: f64) -> Policy {
    Policy::new(
        3,
        Score::Gate,
        Threshold::OneSided { at_least },
        Calibrator::None,
        Digest::of_bytes(b"plan"),
    )
}

#[test]
fn a_gate_decides_and_the_label_is_the_largest_logit() {
    let policy = gate(0.5);
    policy.validate().unwrap();
    assert_eq!(policy.kind, PolicyKind::Gate);
    let decide = |gate| {
        policy.decide(Row {
            logits: &[0.0, 3.0, 1.0],
            gate,
        })
    };
    let answer = decide(Some(0.5)).unwrap();
    assert_eq!(answer.outcome, Outcome::Answer { label: 1 });
    assert_eq!(decide(Some(0.49)).unwrap().outcome, Outcome::Defer);
    assert_eq!(decide(None), Err(PolicyError::NoGate));
    let damaged = decide(Some(f32::NAN));
    assert!(
        matches!(damaged, Err(PolicyError::NonFiniteGate { .. })),
        "{damaged:?}"
    );
}

#[test]
fn scores_without_parameters_are_those_of_their_papers() {
    let logits = [1.0_f32, -2.0, 4.0];
    assert!((Score::Margin.value(&logits) - 3.0).abs() < 1e-15);
    let energy = (1.0_f64.exp() + (-2.0_f64).exp() + 4.0_f64.exp()).ln();
    assert!((Score::Energy.value(&logits) - energy).abs() < 1e-14);
    assert!(
        Score::Margin.value(&[2.0, 2.0]).abs() < 1e-15,
        "a tie has no margin"
    );
}

#[test]
fn a_policy_that_selects_answers_from_its_threshold_on() {
    let plain = multi(0.9);
    let policy = plain.clone().selecting(0.6);
    policy.validate().unwrap();
    assert_eq!(policy.kind, PolicyKind::Scrc);
    for logits in [[0.0, 9.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.1, 0.0]] {
        assert_eq!(policy.decide(&logits), plain.decide(&logits));
    }
    type Edit = (&'static str, fn(&mut Policy));
    let edits: [Edit; 3] = [
        ("needs Scrc", |p| p.kind = PolicyKind::Softmax),
        ("needs Softmax", |p| p.selected_from = None),
        ("needs one_sided from there on", |p| {
            p.selected_from = Some(0.91)
        }),
    ];
    for (message, edit) in edits {
        let mut policy = policy.clone();
        edit(&mut policy);
        let got = policy.validate().unwrap_err();
        assert!(got.contains(message), "{got}");
    }
    let written = String::from_utf8(json::to_bytes(&plain)).unwrap();
    assert!(!written.contains("selected_from"), "{written}");
}

/// Where a calibrator reorders the classes, its largest probability isn't that of the answer.
#[test]
fn a_calibrated_score_is_the_probability_of_the_answer() {
    let by = Calibrator::Vector {
        weights: vec![1.0; 3],
        biases: vec![0.0, 0.0, 5.0],
    };
    let score = Score::Calibrated { by: by.clone() };
    let logits = [0.0, 3.0, 1.0];
    let probabilities = by.probabilities(&logits);
    assert!(probabilities[2] > probabilities[1]);
    assert_eq!(score.value(&logits).to_bits(), probabilities[1].to_bits());
    let policy = |by| {
        Policy::new(
            3,
            Score::Calibrated { by },
            Threshold::OneSided { at_least: 0.5 },
            Calibrator::None,
            Digest::of_bytes(b"plan"),
        )
    };
    policy(by).validate().unwrap();
    for (message, by) in [
        (
            "score.by is temperature",
            Calibrator::Temperature { t: 2.0 },
        ),
        (
            "3",
            Calibrator::Vector {
                weights: vec![1.0; 2],
                biases: vec![0.0; 2],
            },
        ),
    ] {
        let got = policy(by).validate().unwrap_err();
        assert!(got.contains(message), "{got}");
    }
}
