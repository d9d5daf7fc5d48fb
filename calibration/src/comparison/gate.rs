//! Whether a learned gate ranks answers better than the logits do. Learned selection often doesn't, once classifiers are equal
//! (Feng et al. 2023, "Towards Better Selective Classification"): so it is asked each time.

use super::{Answers, Arm, Measure, Rows, Settings, compare};
use crate::{
    error::{Error, Result},
    metrics::Bootstrap,
    rows::class,
};
use stage1_core::{
    artifact::{Digest, Document as _},
    config::GateLoss,
    gate::{GateDecision, GateRival},
    logits::LogitSet,
    policy::{Score, argmax},
};

/// The scores of logits that a gate is compared with.
const RIVALS: [(&str, Score); 3] = [
    (
        "max_probability",
        Score::MaxProbability { temperature: 1.0 },
    ),
    ("margin", Score::Margin),
    ("energy", Score::Energy),
];

/// Compares the gate of `set` (rows of val_select) with scores of its logits by AUGRC. The gate ships if it is better than
/// each of them: if the 95 % interval of the difference, by paired resamples of units, lies below 0 each time. All of them
/// must agree, so that their number needs no correction.
///
/// # Errors
/// As [`LogitSet::validate`]; [`Error::Arms`] when there is no gate, or nothing to compare on.
pub fn judge_gate(
    set: &LogitSet,
    checkpoint_digest: Digest,
    loss: GateLoss,
    bootstrap: Bootstrap,
) -> Result<GateDecision> {
    set.validate()?;
    if set.gate.is_none() {
        return Err(Error::Arms {
            reason: "there is no gate among the logits".to_owned(),
        });
    }
    let rows = Rows {
        classes: set.classes,
        labels: set.labels.iter().map(|label| class(*label)).collect(),
        units: set.units.clone(),
    };
    let predicted: Vec<_> = (0..set.n()).map(|row| argmax(set.row(row))).collect();
    let arm = |name: &str, score: &Score| Arm {
        name: name.to_owned(),
        runs: vec![Answers {
            predicted: predicted.clone(),
            score: (0..set.n())
                .map(|row| score.value(set.model_row(row)))
                .collect(),
        }],
    };
    let mut arms = vec![arm("gate", &Score::Gate)];
    arms.extend(RIVALS.iter().map(|(name, score)| arm(name, score)));
    let settings = Settings {
        primary: Measure::Augrc,
        // Coverage isn't asked for here.
        risk: 0.05,
        bootstrap,
    };
    let found = compare(&rows, &[0], &arms, 0, &settings)?;
    let augrc = |arm: usize| found.arms[arm].measures[&Measure::Augrc].mean;
    let rivals = (1..arms.len()).map(|rival| {
        let difference = &found.arms[rival].differences[&Measure::Augrc];
        let against = GateRival {
            augrc: augrc(rival),
            // Not its negative: that of no difference would be -0.
            difference: 0.0 - difference.estimate,
            interval: [0.0 - difference.high, 0.0 - difference.low],
        };
        (arms[rival].name.clone(), against)
    });
    let rivals: std::collections::BTreeMap<_, _> = rivals.collect();
    Ok(GateDecision {
        schema_version: GateDecision::SCHEMA_VERSION,
        checkpoint_digest,
        loss,
        images: found.rows,
        units: found.units,
        resamples: bootstrap.resamples,
        augrc: augrc(0),
        ships: rivals.values().all(GateRival::is_beaten),
        rivals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{counter::uniform, testing::binary_set};

    /// Rows whose logits say little of errors, with a gate that knows `share` of them.
    fn set(share: f64) -> LogitSet {
        let mut set = binary_set(800, 5);
        let gate = (0..set.n()).map(|row| {
            let right = argmax(set.row(row)) as i64 == set.labels[row];
            let told = uniform(9, row as u64, 0) < share;
            let known = if told {
                f64::from(u8::from(right))
            } else {
                0.5
            };
            (known + 0.1 * uniform(9, row as u64, 1)) as f32
        });
        set.gate = Some(gate.collect());
        set
    }

    fn judge(set: &LogitSet) -> GateDecision {
        let bootstrap = Bootstrap {
            resamples: 300,
            seed: 1,
        };
        judge_gate(set, Digest::of_bytes(b""), GateLoss::CrossFitted, bootstrap).unwrap()
    }

    #[test]
    fn a_gate_ships_only_if_it_is_better_than_every_score() {
        let knowing = judge(&set(0.95));
        assert!(knowing.ships, "{knowing:?}");
        knowing.validate().unwrap();
        assert!(knowing.sentence().contains("is deployed"));
        let guessing = judge(&set(0.0));
        assert!(!guessing.ships, "{guessing:?}");
        guessing.validate().unwrap();
        assert!(guessing.sentence().contains("isn't deployed"));
        let names: Vec<_> = guessing.rivals.keys().map(String::as_str).collect();
        assert_eq!(names, ["energy", "margin", "max_probability"]);
        for decision in [&knowing, &guessing] {
            for rival in decision.rivals.values() {
                assert!(rival.augrc >= 0.0 && decision.augrc >= 0.0);
                assert!((decision.augrc - rival.augrc - rival.difference).abs() < 1e-12);
                assert!(
                    rival.interval[0] <= rival.difference && rival.difference <= rival.interval[1]
                );
            }
        }
    }

    #[test]
    fn a_gate_that_says_what_a_score_says_does_not_ship() {
        let mut same = binary_set(800, 5);
        let score = Score::MaxProbability { temperature: 1.0 };
        let gate = (0..same.n()).map(|row| score.value(same.row(row)) as f32);
        same.gate = Some(gate.collect());
        let decision = judge(&same);
        assert!(!decision.ships);
        // No difference, and none that is less than nothing.
        let rival = &decision.rivals["max_probability"];
        for number in [rival.difference, rival.interval[0], rival.interval[1]] {
            assert_eq!(number.to_bits(), 0.0_f64.to_bits());
        }
    }

    #[test]
    fn without_a_gate_nothing_is_decided() {
        let bootstrap = Bootstrap {
            resamples: 10,
            seed: 1,
        };
        let error = judge_gate(
            &binary_set(10, 1),
            Digest::of_bytes(b""),
            GateLoss::CrossFitted,
            bootstrap,
        )
        .unwrap_err();
        assert!(error.to_string().contains("no gate"), "{error}");
    }
}
