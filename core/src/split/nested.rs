//! A fold of train, to judge by without looking at val_select.

use super::order::{Use, seeded_hash};
use super::{Split, SplitManifest, manifest};
use std::collections::{BTreeMap, BTreeSet};

impl SplitManifest {
    /// The same images with `share` of train's units taken out of it as val_select, label by label, by a hash of `seed`. What
    /// was val_select lies with val_calib: whoever trains on the result opens images of the old train alone.
    ///
    /// Each label keeps a unit on either side if it has two; none, where train hasn't two units of any label.
    pub fn nested_fold(&self, share: f64, seed: u64) -> Option<Self> {
        let mut strata: BTreeMap<usize, BTreeMap<u64, &str>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for sample in self.of(Split::Train) {
            // Samples are sorted by path: a unit is known by its first one.
            if seen.insert(sample.unit) {
                let units = strata.entry(sample.label).or_default();
                units.insert(sample.unit, &sample.path);
            }
        }
        let mut fold = BTreeSet::new();
        for units in strata.values() {
            let mut order: Vec<_> = units.iter().collect();
            order.sort_by_key(|(_, path)| (seeded_hash(seed, Use::Fold, path), **path));
            let most = order.len().saturating_sub(1);
            let count = ((order.len() as f64 * share).round() as usize).max(1);
            fold.extend(order[..count.min(most)].iter().map(|(unit, _)| **unit));
        }
        if fold.is_empty() {
            return None;
        }
        let mut nested = self.clone();
        for sample in &mut nested.samples {
            sample.split = match sample.split {
                Split::Train if fold.contains(&sample.unit) => Split::ValSelect,
                Split::ValSelect => Split::ValCalib,
                other => other,
            };
        }
        nested.counts = manifest::counts(&nested.samples, nested.labels.len());
        Some(nested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        artifact::{Digest, Document as _},
        data::Content,
        split::SplitSample,
    };

    /// Units of two rows; every tenth unit is of the rare class.
    fn splits(units: u64) -> SplitManifest {
        let sample = |row: u64| SplitSample {
            path: format!("{row:05}.png"),
            label: usize::from((row / 2).is_multiple_of(10)),
            group: None,
            unit: row / 2,
            split: match row / 2 {
                0 => Split::ValSelect,
                1 => Split::ValCalib,
                2 => Split::ValTest,
                _ => Split::Train,
            },
            digest: None,
        };
        let samples: Vec<_> = (0..2 * units).map(sample).collect();
        SplitManifest {
            schema_version: 1,
            inputs_digest: Digest::of_bytes(b"by hand"),
            seed: 1,
            ratios: None,
            content: Content::None,
            labels: vec!["common".to_owned(), "rare".to_owned()],
            counts: manifest::counts(&samples, 2),
            warnings: Vec::new(),
            samples,
        }
    }

    #[test]
    fn a_fold_is_whole_units_of_train_with_every_label() {
        let all = splits(203);
        let nested = all.nested_fold(0.25, 7).unwrap();
        nested.validate().unwrap();
        for (before, after) in all.samples.iter().zip(&nested.samples) {
            let may = match before.split {
                Split::Train => [Split::Train, Split::ValSelect].as_slice(),
                Split::ValSelect | Split::ValCalib => &[Split::ValCalib],
                Split::ValTest => &[Split::ValTest],
            };
            assert!(
                may.contains(&after.split),
                "{} {}",
                before.split,
                after.split
            );
        }
        // A quarter of 180 common units and of 20 rare ones, of two rows each.
        assert_eq!(nested.counts[&Split::ValSelect], [90, 10]);
        assert_eq!(nested, all.nested_fold(0.25, 7).unwrap());
        assert_ne!(nested, all.nested_fold(0.25, 8).unwrap());
    }

    #[test]
    fn a_label_with_one_unit_stays_in_train() {
        let nested = splits(15).nested_fold(0.25, 7).unwrap();
        assert_eq!(nested.counts[&Split::Train][1], 2);
        assert_eq!(splits(4).nested_fold(0.25, 7), None);
    }
}
