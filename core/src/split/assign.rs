//! Units to splits: in seeded order within a class, by cumulative shares.

use super::{
    Split,
    order::{Use, seeded_hash},
};

/// A unit, as far as its split depends on it: its size doesn't count, else the units of a split would be no random sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit<'a> {
    /// The first of its ids.
    pub(super) name: &'a str,
    /// The label of the row that stands for it.
    pub(super) stratum: usize,
}

/// The split of each unit. Every split gets a unit of every class with enough of them.
///
/// `labels[stratum]` names the class: its remainders are rounded by the hash of that name.
pub(super) fn assign(
    units: &[Unit<'_>],
    labels: &[String],
    shares: &[(Split, f64)],
    seed: u64,
) -> Vec<Split> {
    let mut order: Vec<_> = (0..units.len())
        .map(|unit| {
            let Unit { name, stratum } = units[unit];
            (stratum, seeded_hash(seed, Use::Order, name), name, unit)
        })
        .collect();
    order.sort_unstable();
    let mut splits = vec![shares[0].0; units.len()];
    for class in order.chunk_by(|a, b| a.0 == b.0) {
        let offset = seeded_hash(seed, Use::Round, &labels[class[0].0]);
        let counts = counts(class.len(), shares, offset as f64 / 2f64.powi(64));
        let assigned = shares
            .iter()
            .zip(counts)
            .flat_map(|((split, _), n)| std::iter::repeat_n(*split, n));
        for (entry, split) in class.iter().zip(assigned) {
            splits[entry.3] = split;
        }
    }
    splits
}

/// How many of `units` go to each split.
///
/// The cumulative shares are rounded after adding one `offset` in [0, 1): each count is its share rounded down or up, and
/// over classes (hashed offsets) no split is favoured. A split that got none takes one from the split that is furthest
/// above its share.
fn counts(units: usize, shares: &[(Split, f64)], offset: f64) -> Vec<usize> {
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    let exact: Vec<f64> = shares
        .iter()
        .map(|(_, share)| share / total * units as f64)
        .collect();
    let mut sum = 0.0;
    let mut before = 0;
    let mut counts: Vec<usize> = exact
        .iter()
        .map(|share| {
            sum += share;
            let end = (snapped(sum) + offset)
                .floor()
                .clamp(before as f64, units as f64) as usize;
            end - std::mem::replace(&mut before, end)
        })
        .collect();
    let last = counts.len() - 1;
    counts[last] += units - before;
    while let Some(empty) = counts.iter().position(|n| *n == 0) {
        let excess = |i: &usize| counts[*i] as f64 - exact[*i];
        let givers = (0..counts.len()).filter(|i| counts[*i] > 1);
        let Some(giver) = givers.max_by(|a, b| excess(a).total_cmp(&excess(b)).then(b.cmp(a)))
        else {
            break;
        };
        counts[giver] -= 1;
        counts[empty] += 1;
    }
    counts
}

/// Sums of shares such as .1 + .2 miss whole numbers by rounding errors.
fn snapped(x: f64) -> f64 {
    if (x - x.round()).abs() < 1e-6 {
        x.round()
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(values: [f64; 4]) -> Vec<(Split, f64)> {
        Split::ALL.into_iter().zip(values).collect()
    }

    #[test]
    fn counts_are_the_shares_rounded_and_never_zero() {
        let cases = [
            (1000, [0.5, 0.1, 0.1, 0.3], 0.0, [500, 100, 100, 300]),
            (1000, [0.5, 0.1, 0.1, 0.3], 0.999, [500, 100, 100, 300]),
            (4, [0.7, 0.1, 0.1, 0.1], 0.0, [1, 1, 1, 1]),
            (4, [0.97, 0.01, 0.01, 0.01], 0.5, [1, 1, 1, 1]),
            (5, [0.5, 0.1, 0.1, 0.3], 0.0, [2, 1, 1, 1]),
            (5, [0.5, 0.1, 0.1, 0.3], 0.9, [2, 1, 1, 1]),
            (3, [0.5, 0.1, 0.1, 0.3], 0.0, [1, 1, 0, 1]),
        ];
        for (units, values, offset, want) in cases {
            let got = counts(units, &shares(values), offset);
            let enough = units >= 4;
            assert_eq!(
                got.iter().sum::<usize>(),
                units,
                "{units} {values:?} {offset}"
            );
            if enough {
                assert_eq!(got, want, "{units} {values:?} {offset}");
            }
        }
    }

    #[test]
    fn rounding_favours_no_split() {
        // 10,000 classes of 6 units at .45/.15/.15/.25: the mean counts are the shares, 2.7, .9, .9 and 1.5, before the
        // rule that no split is empty moves some from train.
        let labels: Vec<String> = (0..10_000).map(|i| format!("c{i}")).collect();
        let names: Vec<String> = (0..60_000).map(|i| format!("u{i}")).collect();
        let units: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| Unit {
                name,
                stratum: i / 6,
            })
            .collect();
        let splits = assign(&units, &labels, &shares([0.4, 0.2, 0.2, 0.2]), 5);
        for (split, share) in [
            (Split::Train, 0.4),
            (Split::ValSelect, 0.2),
            (Split::ValCalib, 0.2),
            (Split::ValTest, 0.2),
        ] {
            let got = splits.iter().filter(|s| **s == split).count() as f64 / 60_000.0;
            // One class's count has a standard deviation below .5 of 6: 5 standard errors of the mean are .0042.
            assert!((got - share).abs() < 0.0042, "{split}: {got}");
        }
    }
}
