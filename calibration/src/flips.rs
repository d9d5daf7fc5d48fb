//! How often a variant (another precision, another provider) says something else than the reference: a gate that may
//! withhold a variant, never choose one.
//!
//! On val_calib, whose labels aren't used, the flip rate has an exact upper bound (Clopper–Pearson) with confidence
//! 1 − δ_f; that of decisions at a threshold which was chosen among m on the same rows has one at 1 − δ_f/m. On
//! val_select, which also stopped training, only the observed rate means something.
//!
//! What the bound says: over draws of val_calib it is exceeded with probability at most δ_f; it counts one row of each unit,
//! holds for images like val_calib's on that very session, and says nothing about which of the two is right. Picking the
//! variant with the fewest flips would need δ_f divided among all that were looked at. The bound is Clopper & Pearson's
//! (1934), the division by m Bonferroni's.
//!
//! ```
//! use stage1_calibration::flips::Pairs;
//! use stage1_core::logits::LogitSet;
//!
//! let rows = |error: f32| LogitSet {
//!     classes: 2,
//!     logits: (0..200).flat_map(|i| [0.0, (i % 40) as f32 / 10.0 - 1.95 + error]).collect(),
//!     labels: vec![0; 200],
//!     ids: (0..200).map(|i| format!("{i}.png")).collect(),
//!     ..LogitSet::default()
//! };
//! let (float32, int8) = (rows(0.0), rows(0.1));
//! let flips = Pairs::new(&float32, &int8, 7)?.of_labels(0.05)?;
//! assert_eq!((flips.rows, flips.flips), (200, 5));
//! // 2.5 % were seen, 5.2 % can't be ruled out.
//! assert!((flips.upper_bound - 0.052).abs() < 1e-3);
//! # Ok::<(), stage1_calibration::Error>(())
//! ```

use crate::binomial;
use crate::error::{Error, Result, level};
use crate::rows::keep;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Score, Threshold, argmax};
use std::collections::BTreeMap;

/// Rows of two sessions, one of each unit, matched by id.
#[derive(Debug)]
pub struct Pairs<'a> {
    reference: &'a LogitSet,
    variant: &'a LogitSet,
    /// (row of the reference, row of the variant).
    rows: Vec<(usize, usize)>,
}

/// Flips among rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flips {
    /// Rows compared.
    pub rows: u64,
    /// Rows about which the two differ.
    pub flips: u64,
    /// Upper bound of the flip rate.
    pub upper_bound: f64,
}

impl Flips {
    fn new(flips: usize, rows: usize, level: f64) -> Self {
        let (flips, rows) = (flips as u64, rows as u64);
        Self {
            rows,
            flips,
            upper_bound: binomial::upper_bound(flips, rows, level),
        }
    }

    /// The observed rate; 0 if there are no rows.
    pub fn rate(&self) -> f64 {
        self.flips as f64 / self.rows.max(1) as f64
    }
}

impl<'a> Pairs<'a> {
    /// Matches the rows of two sessions by id and keeps one of each unit, by a hash seeded with `seed`.
    ///
    /// # Errors
    /// As [`LogitSet::validate`], [`Error::Classes`], and [`Error::Unpaired`] when ids are missing or differ.
    pub fn new(reference: &'a LogitSet, variant: &'a LogitSet, seed: u64) -> Result<Self> {
        reference.validate()?;
        variant.validate()?;
        if reference.classes != variant.classes {
            return Err(Error::Classes {
                what: "the variant",
                got: variant.classes,
                want: reference.classes,
            });
        }
        let unpaired = |reason: String| Error::Unpaired {
            what: "the variant",
            reason,
        };
        if reference.ids.len() != reference.n() || variant.n() != reference.n() {
            return Err(unpaired(format!(
                "{} rows with {} ids, and {} rows",
                reference.n(),
                reference.ids.len(),
                variant.n()
            )));
        }
        let places: BTreeMap<&str, usize> = variant
            .ids
            .iter()
            .enumerate()
            .map(|(i, id)| (&**id, i))
            .collect();
        let pair = |i: usize| {
            let id = &*reference.ids[i];
            let other = places.get(id);
            other
                .map(|j| (i, *j))
                .ok_or_else(|| unpaired(format!("`{id}` is missing")))
        };
        Ok(Self {
            reference,
            variant,
            rows: keep(reference, seed)
                .into_iter()
                .map(pair)
                .collect::<Result<_>>()?,
        })
    }

    /// How often the class with the largest logit differs, with an upper bound at confidence 1 − `delta`.
    ///
    /// # Errors
    /// [`Error::Level`].
    pub fn of_labels(&self, delta: f64) -> Result<Flips> {
        level("delta", delta)?;
        let differs = |(i, j): &&(usize, usize)| {
            argmax(self.reference.row(*i)) != argmax(self.variant.row(*j))
        };
        let flips = self.rows.iter().filter(differs).count();
        Ok(Flips::new(flips, self.rows.len(), delta))
    }

    /// How often the decision differs (another class, or one of them defers), with an upper bound at confidence
    /// 1 − `delta` for a threshold that was chosen among `thresholds` on these rows.
    ///
    /// # Errors
    /// [`Error::Level`], or [`Error::NoGate`].
    pub fn of_decisions(
        &self,
        score: &Score,
        threshold: Threshold,
        delta: f64,
        thresholds: usize,
    ) -> Result<Flips> {
        level("delta", delta)?;
        for (what, set) in [
            ("the reference", self.reference),
            ("the variant", self.variant),
        ] {
            if *score == Score::Gate && set.gate.is_none() {
                return Err(Error::NoGate { what });
            }
        }
        let decision = |set: &LogitSet, i: usize| {
            threshold.answer(score.value(set.model_row(i)), argmax(set.row(i)))
        };
        let differs =
            |(i, j): &&(usize, usize)| decision(self.reference, *i) != decision(self.variant, *j);
        let flips = self.rows.iter().filter(differs).count();
        Ok(Flips::new(
            flips,
            self.rows.len(),
            delta / thresholds.max(1) as f64,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::multi_set;

    /// The same rows backward, with `changed` of them scaled to another answer.
    fn variant(of: &LogitSet, changed: usize) -> LogitSet {
        let mut set = of.subset(&(0..of.n()).rev().collect::<Vec<_>>());
        for row in set.logits.chunks_mut(3).take(changed) {
            row.rotate_left(1);
        }
        set
    }

    #[test]
    fn flips_are_counted_by_id_and_bounded_exactly() {
        let set = multi_set(400, 1);
        let other = variant(&set, 7);
        let pairs = Pairs::new(&set, &other, 1).unwrap();
        let labels = pairs.of_labels(0.05).unwrap();
        assert_eq!((labels.flips, labels.rows), (7, 400));
        assert!((labels.upper_bound - binomial::upper_bound(7, 400, 0.05)).abs() < 1e-15);
        let threshold = Threshold::OneSided { at_least: 3.0 };
        let decisions = pairs
            .of_decisions(&Score::Margin, threshold, 0.05, 50)
            .unwrap();
        // Rotating changes no margin: only answered rows differ.
        assert!(decisions.flips <= 7);
        let want = binomial::upper_bound(decisions.flips, 400, 0.05 / 50.0);
        assert!((decisions.upper_bound - want).abs() < 1e-15);
    }

    #[test]
    fn one_row_of_each_unit_is_compared() {
        let mut set = multi_set(400, 1);
        set.units = Some((0..400).map(|i| i / 8).collect());
        let other = variant(&set, 400);
        let pairs = Pairs::new(&set, &other, 1).unwrap();
        assert_eq!(pairs.of_labels(0.05).unwrap().rows, 50);
    }

    #[test]
    fn other_rows_are_refused() {
        let (set, other) = (multi_set(50, 1), multi_set(50, 2));
        let refused = Pairs::new(&set, &other, 1);
        assert!(
            matches!(refused, Err(Error::Unpaired { .. })),
            "{refused:?}"
        );
        let mut nameless = set.clone();
        nameless.ids.clear();
        assert!(Pairs::new(&nameless, &nameless, 1).is_err());
        assert!(matches!(
            Pairs::new(&set, &set, 1).unwrap().of_decisions(
                &Score::Gate,
                Threshold::OneSided { at_least: 0.0 },
                0.1,
                1
            ),
            Err(Error::NoGate { .. })
        ));
    }
}
