//! The contract of splits, as types: [`SelectRows`] choose, [`CalibRows`] certify, [`TestRows`] validate. A function
//! that takes one can't be given another, and none of them can be made but by the unit rule below.
//!
//! **Unit rule.** Exact binomial tests need independent draws. Rows of one unit (a patient, a video, duplicates) aren't:
//! one row of each unit is kept, by a seeded hash of the row's id (without ids: of its bytes), before any score is
//! computed. The kept rows are then put in the order of that hash, so that permuting the input changes nothing. Betting
//! tests use all rows, one loss per unit; units are ordered by a seeded hash of their number, on which nothing in them
//! has an influence (the smallest hash among a unit's rows would put large units first, and such an order is not valid).
//!
//! **Halves.** A score that was fitted on val_calib can't be certified there. [`halves`] divides val_calib by unit into
//! rows that fit ([`FitHalf`]) and rows that certify ([`CertifyHalf`]); each type is accepted only where it may be used.
//! Fitting on val_select is as valid and leaves val_calib whole: that is what the command does (`calibrate.score`).
//!
//! What the types can't know: whether the units are what you say (images of one patient under two group names are taken
//! for independent), whether val_calib is a random sample of what will come, and whether you looked at its labels before.
//! Exchangeability of units is all that is used of the data's order (split conformal prediction: Papadopoulos et al. 2002;
//! Lei et al. 2018, 1604.04173); the greedy balancing of group sizes would destroy it.
//!
//! ```
//! use stage1_calibration::rows::{CalibRows, halves, shape};
//! use stage1_core::certificate::UnitRule;
//! use stage1_core::logits::LogitSet;
//!
//! // Twelve images of four patients.
//! let set = LogitSet {
//!     classes: 2,
//!     logits: (0..12).flat_map(|i| [0.0, i as f32]).collect(),
//!     labels: vec![1; 12],
//!     ids: (0..12).map(|i| format!("{i}.png")).collect(),
//!     units: Some((0..12).map(|i| i / 3).collect()),
//!     ..LogitSet::default()
//! };
//! assert_eq!((shape(&set).rows, shape(&set).units, shape(&set).largest), (12, 4, 3));
//! let calib = CalibRows::new(&set, 7)?;
//! assert_eq!((calib.size().rule, calib.size().units), (UnitRule::OnePerUnit, 4));
//! // The order of rows changes nothing.
//! let backward: Vec<usize> = (0..12).rev().collect();
//! assert_eq!(CalibRows::new(&set.subset(&backward), 7)?, calib);
//! // No patient is in both halves.
//! let (_, certify) = halves(&set, 7)?;
//! assert_eq!((certify.size().units, certify.size().rows), (2, 6));
//! # Ok::<(), stage1_calibration::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::metrics::Ranking;
use rayon::prelude::*;
use stage1_core::artifact::{Digest, Hasher};
use stage1_core::certificate::{SampleSize, UnitRule};
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Row, Score};
use std::collections::BTreeMap;
use std::ops::Range;

/// Logits `[n, classes]` with labels `[n]`, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// Row-major logits.
    pub logits: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// Class indices below `classes`.
    pub labels: &'a [usize],
}

impl<'a> Labelled<'a> {
    /// Number of rows.
    pub fn n(&self) -> usize {
        self.labels.len()
    }

    /// The logits of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.logits[i * self.classes..(i + 1) * self.classes]
    }
}

/// What the model says of rows, and their labels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Block {
    logits: Vec<f32>,
    gate: Option<Vec<f32>>,
    pub(crate) labels: Vec<usize>,
    pub(crate) classes: usize,
}

impl Block {
    fn of(set: &LogitSet, rows: &[usize]) -> Self {
        Self {
            logits: gathered(set, rows),
            gate: set
                .gate
                .as_ref()
                .map(|gate| rows.iter().map(|i| gate[*i]).collect()),
            labels: rows.par_iter().map(|i| class(set.labels[*i])).collect(),
            classes: set.classes,
        }
    }

    pub(crate) fn n(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn has_gate(&self) -> bool {
        self.gate.is_some()
    }

    pub(crate) fn row(&self, i: usize) -> Row<'_> {
        Row {
            logits: self.labelled().row(i),
            gate: self.gate.as_ref().map(|gate| gate[i]),
        }
    }

    pub(crate) fn labelled(&self) -> Labelled<'_> {
        Labelled {
            logits: &self.logits,
            classes: self.classes,
            labels: &self.labels,
        }
    }
}

/// All rows of all units, units in the order of their hash.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grouped {
    pub(crate) rows: Block,
    /// Where each unit ends.
    ends: Vec<usize>,
}

impl Grouped {
    fn of(set: &LogitSet, units: &[u64], seed: u64) -> Self {
        let key = |i: &usize| {
            (
                unit_key(units[*i], "bet", seed),
                row_key(set, *i, "order", seed),
                *i,
            )
        };
        let mut order: Vec<usize> = (0..set.n()).collect();
        order.sort_by_cached_key(key);
        let is_last = |at: &usize| {
            let next = order.get(at + 1).map(|i| units[*i]);
            next != Some(units[order[*at]])
        };
        Self {
            ends: (0..order.len()).filter(is_last).map(|at| at + 1).collect(),
            rows: Block::of(set, &order),
        }
    }

    /// The rows of each unit.
    pub(crate) fn units(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        (0..self.ends.len()).map(|g| (if g == 0 { 0 } else { self.ends[g - 1] })..self.ends[g])
    }
}

/// The rows of a split under the unit rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// One row of each unit, in canonical order: independent draws, as far as units are.
    pub(crate) kept: Block,
    /// All rows, where some unit has more than one.
    pub(crate) grouped: Option<Grouped>,
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
}

impl Sample {
    /// The only way to make them.
    fn new(set: &LogitSet, seed: u64) -> Result<Self> {
        set.validate()?;
        let kept = keep(set, seed);
        let shape = shape(set);
        let grouped = match &set.units {
            Some(units) if shape.is_grouped() => Some(Grouped::of(set, units, seed)),
            _ => None,
        };
        Ok(Self {
            kept: Block::of(set, &kept),
            grouped,
            seed,
            shape,
        })
    }

    pub(crate) fn labelled(&self) -> Labelled<'_> {
        self.kept.labelled()
    }

    /// Under `rule`; the rule of one row per unit is `rows` where that is all rows, and `rows` that of one row per unit
    /// where it isn't.
    pub(crate) fn size(&self, rule: UnitRule) -> SampleSize {
        SampleSize {
            rule: match (&self.grouped, rule) {
                (None, _) => UnitRule::Rows,
                (Some(_), UnitRule::Rows) => UnitRule::OnePerUnit,
                (Some(_), rule) => rule,
            },
            rows: self.shape.rows,
            units: self.shape.units,
        }
    }
}

/// How many rows and units a set has: what a plan needs to know of val_calib, without its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub rows: u64,
    /// Units.
    pub units: u64,
    /// Rows of the largest unit.
    pub largest: u64,
}

impl Shape {
    /// Whether some unit has more than one row.
    pub fn is_grouped(&self) -> bool {
        self.rows > self.units
    }
}

/// That many rows, each its own unit.
impl From<u64> for Shape {
    fn from(rows: u64) -> Self {
        Self {
            rows,
            units: rows,
            largest: rows.min(1),
        }
    }
}

/// The shape of a set.
pub fn shape(set: &LogitSet) -> Shape {
    let rows = set.n() as u64;
    let Some(units) = &set.units else {
        return rows.into();
    };
    let mut units = units.clone();
    units.sort_unstable();
    let runs = units.chunk_by(|a, b| a == b);
    let (count, largest) = runs.fold((0, 0), |(count, largest), run| {
        (count + 1, largest.max(run.len() as u64))
    });
    Shape {
        rows,
        units: count,
        largest,
    }
}

/// Validated logit sets have labels in `0..classes`.
pub(crate) fn class(label: i64) -> usize {
    usize::try_from(label).expect("a validated label is a class")
}

fn gathered(set: &LogitSet, rows: &[usize]) -> Vec<f32> {
    let mut logits = vec![0.0; rows.len() * set.classes];
    let places = logits.par_chunks_mut(set.classes).zip(rows);
    places.for_each(|(place, row)| place.copy_from_slice(set.row(*row)));
    logits
}

/// Indices of the kept rows in canonical order.
pub(crate) fn keep(set: &LogitSet, seed: u64) -> Vec<usize> {
    let key = |i: usize| row_key(set, i, "order", seed);
    match &set.units {
        None => sorted_by_digest(set.n(), key),
        Some(units) => {
            let keys = (0..set.n()).into_par_iter().map(|i| (key(i), units[i], i));
            let mut keys: Vec<Key> = keys.collect();
            if set.ids.is_empty() {
                tell_equal_rows_apart(&mut keys);
            }
            let mut kept = smallest_of_each_unit(keys);
            kept.par_sort_unstable();
            kept.into_iter().map(|(_, _, i)| i).collect()
        }
    }
}

/// `0..n` by digest, those of equal digests in their order. Sorted are the first eight bytes; digests are made again where
/// these are equal.
fn sorted_by_digest(n: usize, key: impl Fn(usize) -> Digest + Sync) -> Vec<usize> {
    let prefix = |i: usize| key(i).as_u64();
    let prefixes: Vec<u64> = (0..n).into_par_iter().map(prefix).collect();
    let mut order = Vec::with_capacity(n);
    for group in Ranking::of_keys(&prefixes).groups() {
        let start = order.len();
        order.extend(group.iter().map(|i| *i as usize));
        if group.len() > 1 {
            order[start..].sort_by_cached_key(|i| key(*i));
        }
    }
    order
}

type Key = (Digest, u64, usize);

/// Gives rows of equal bytes keys of their own: were they one, a unit's row would be drawn among what is different in it,
/// and not among its rows. The unit is part of the key, so that units of equal rows draw independently.
fn tell_equal_rows_apart(keys: &mut [Key]) {
    keys.par_sort_unstable_by_key(|(row, unit, i)| (*unit, *row, *i));
    let (mut last, mut count) = (None, 0_u64);
    for (row, unit, _) in keys {
        let this = Some((*unit, *row));
        count = if last == this { count + 1 } else { 0 };
        last = this;
        let mut hasher = Hasher::new();
        hasher
            .field(&row.0)
            .field(&unit.to_be_bytes())
            .field(&count.to_be_bytes());
        *row = hasher.finish();
    }
}

fn smallest_of_each_unit(keys: Vec<Key>) -> Vec<Key> {
    let mut best: BTreeMap<u64, Key> = BTreeMap::new();
    for key in keys {
        best.entry(key.1)
            .and_modify(|kept| *kept = key.min(*kept))
            .or_insert(key);
    }
    best.into_values().collect()
}

/// The seeded hash of a row: of its id, or of its bytes (logits and label) if it has none.
fn row_key(set: &LogitSet, i: usize, purpose: &str, seed: u64) -> Digest {
    // What a `Hasher` would be fed by fields, hashed at once: there are many rows.
    let mut message = Vec::with_capacity(128 + 4 * set.classes);
    field(&mut message, purpose.as_bytes());
    field(&mut message, &seed.to_be_bytes());
    match set.ids.get(i) {
        Some(id) => {
            field(&mut message, b"id");
            field(&mut message, id.as_bytes());
        }
        None => {
            field(&mut message, b"row");
            let row = set.row(i);
            message.extend_from_slice(&(4 * row.len() as u64).to_be_bytes());
            for z in row {
                message.extend_from_slice(&z.to_be_bytes());
            }
            field(&mut message, &set.labels[i].to_be_bytes());
        }
    }
    Digest::of_bytes(&message)
}

/// Adds what [`Hasher::field`] hashes.
fn field(message: &mut Vec<u8>, bytes: &[u8]) {
    message.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    message.extend_from_slice(bytes);
}

fn unit_key(unit: u64, purpose: &str, seed: u64) -> Digest {
    let mut hasher = Hasher::new();
    hasher
        .field(purpose.as_bytes())
        .field(&seed.to_be_bytes())
        .field(b"unit")
        .field(&unit.to_be_bytes());
    hasher.finish()
}

/// Divides the rows of a set that names no splits: a third of the units, by seeded hash, to select, the others to
/// certify. Returns row indices in input order.
///
/// # Errors
/// As [`LogitSet::validate`].
pub fn divide(set: &LogitSet, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    cut(set, "divide", seed, |units| (units + 1) / 3)
}

/// The rows before and after the cut at `first(units)` units in the order of a seeded hash.
fn cut(
    set: &LogitSet,
    purpose: &str,
    seed: u64,
    first: impl Fn(usize) -> usize,
) -> Result<(Vec<usize>, Vec<usize>)> {
    set.validate()?;
    let keys = division_keys(set, purpose, seed);
    let mut units = keys.clone();
    units.sort_unstable();
    units.dedup();
    let Some(first_after) = units.get(first(units.len())) else {
        return Ok((Vec::new(), Vec::new()));
    };
    Ok((0..set.n()).partition(|i| keys[*i] < *first_after))
}

/// A seeded hash for each unit; rows without units are told apart by their ids, or else by their bytes and a count among
/// rows of equal bytes. The count matters: were equal rows kept together, logits and label would steer the division, and
/// rows of a model with few distinct outputs would not be divided at random.
fn division_keys(set: &LogitSet, purpose: &str, seed: u64) -> Vec<Digest> {
    if let Some(units) = &set.units {
        let key = |unit: &u64| unit_key(*unit, purpose, seed);
        return units.iter().map(key).collect();
    }
    let mut seen: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut key = |i| {
        let row = row_key(set, i, purpose, seed);
        let count = seen.entry(row).or_default();
        *count += 1;
        let mut hasher = Hasher::new();
        hasher.field(&row.0).field(&count.to_be_bytes());
        hasher.finish()
    };
    (0..set.n()).map(&mut key).collect()
}

macro_rules! split_rows {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name(pub(crate) Sample);

        impl $name {
            /// Applies the unit rule with `seed`.
            ///
            /// # Errors
            /// As [`LogitSet::validate`].
            pub fn new(set: &LogitSet, seed: u64) -> Result<Self> {
                Sample::new(set, seed).map(Self)
            }

            /// Rows given, units, and the rule of exact tests.
            pub fn size(&self) -> SampleSize {
                self.0.size(UnitRule::OnePerUnit)
            }

            /// Number of classes.
            pub fn classes(&self) -> usize {
                self.0.kept.classes
            }
        }
    };
}

split_rows! {
    /// Rows of val_select: they choose score, thresholds, order and start.
    SelectRows
}
split_rows! {
    /// Rows of val_calib: they certify, and fit the reported probability.
    CalibRows
}
split_rows! {
    /// Rows of val_test: the verdict.
    TestRows
}

/// The half of val_calib's units that a score may be fitted on. It certifies nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct FitHalf(pub(crate) Sample);

/// The other half: it certifies a policy whose score was fitted on [`FitHalf`].
#[derive(Debug, Clone, PartialEq)]
pub struct CertifyHalf(pub(crate) CalibRows);

impl CertifyHalf {
    /// Rows given, units, and the rule of exact tests.
    pub fn size(&self) -> SampleSize {
        self.0.size()
    }

    /// What a plan for this half needs to know.
    pub fn shape(&self) -> Shape {
        self.0.0.shape
    }
}

/// Divides val_calib in halves by unit, by a seeded hash.
///
/// # Errors
/// As [`LogitSet::validate`], and [`Error::OneUnit`] where there are fewer than two units.
pub fn halves(set: &LogitSet, seed: u64) -> Result<(FitHalf, CertifyHalf)> {
    let (fit, certify) = cut(set, "halves", seed, |units| units / 2)?;
    if fit.is_empty() {
        return Err(Error::OneUnit);
    }
    Ok((
        FitHalf(Sample::new(&set.subset(&fit), seed)?),
        CertifyHalf(CalibRows::new(&set.subset(&certify), seed)?),
    ))
}

impl CalibRows {
    /// Whether they have what a plan's score reads.
    pub(crate) fn check_columns(&self, classes: usize, score: &Score) -> Result<()> {
        if self.classes() != classes {
            return Err(Error::Classes {
                what: "val_calib",
                got: self.classes(),
                want: classes,
            });
        }
        if *score == Score::Gate && !self.0.kept.has_gate() {
            return Err(Error::NoGate { what: "val_calib" });
        }
        Ok(())
    }

    /// Whether they are as many units, ordered by the same seed, as a plan was made for.
    pub(crate) fn check_units(&self, want: u64, want_seed: u64) -> Result<()> {
        let (got, got_seed) = (self.0.shape.units, self.0.seed);
        if got == want && got_seed == want_seed {
            return Ok(());
        }
        Err(Error::OtherRows {
            want,
            got,
            want_seed,
            got_seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(n: usize, with_ids: bool, units: Option<Vec<u64>>) -> LogitSet {
        LogitSet {
            logits: (0..2 * n).map(|i| (i * 37 % 101) as f32 / 7.0).collect(),
            classes: 2,
            labels: (0..n).map(|i| (i % 2) as i64).collect(),
            ids: if with_ids {
                (0..n).map(|i| format!("{i}.png")).collect()
            } else {
                Vec::new()
            },
            units,
            ..LogitSet::default()
        }
    }

    #[test]
    fn a_row_is_hashed_field_by_field() {
        let (with_ids, without) = (set(9, true, None), set(9, false, None));
        let start = || {
            let mut hasher = Hasher::new();
            hasher.field(b"order").field(&7u64.to_be_bytes());
            hasher
        };
        let mut of_id = start();
        of_id.field(b"id").field(b"5.png");
        assert_eq!(row_key(&with_ids, 5, "order", 7), of_id.finish());
        let [a, b] = [0, 1].map(|k| without.row(5)[k].to_be_bytes());
        let mut of_bytes = start();
        of_bytes
            .field(b"row")
            .field(&[a, b].concat())
            .field(&1i64.to_be_bytes());
        assert_eq!(row_key(&without, 5, "order", 7), of_bytes.finish());
    }

    /// Nine of ten rows of a unit are the same wrong one: it is drawn nine times in ten, with ids and without.
    #[test]
    fn a_unit_of_equal_rows_draws_among_its_rows() {
        let units = 2000_u64;
        let n = 10 * units as usize;
        let mut rows = LogitSet {
            classes: 2,
            logits: (0..n)
                .flat_map(|i| [f32::from(u8::from(i % 10 == 0)), 0.5])
                .collect(),
            labels: vec![0; n],
            units: Some((0..n as u64).map(|i| i / 10).collect()),
            ..LogitSet::default()
        };
        let right = |rows: &LogitSet| {
            let kept = keep(rows, 7);
            kept.iter().filter(|i| rows.row(**i)[0] > 0.5).count()
        };
        // 200 are expected, with a standard deviation of 13.
        assert!((140..260).contains(&right(&rows)), "{}", right(&rows));
        // The order of the file changes nothing.
        let backward: Vec<usize> = (0..n).rev().collect();
        let turned = rows.subset(&backward);
        let contents = |set: &LogitSet| -> Vec<Vec<f32>> {
            keep(set, 7)
                .into_iter()
                .map(|i| set.row(i).to_vec())
                .collect()
        };
        assert_eq!(contents(&turned), contents(&rows));
        rows.ids = (0..n).map(|i| i.to_string()).collect();
        assert!((140..260).contains(&right(&rows)), "{}", right(&rows));
    }

    #[test]
    fn one_row_of_each_unit_is_kept_and_both_numbers_are_told() {
        let rows =
            CalibRows::new(&set(90, true, Some((0..90).map(|i| i / 9).collect())), 1).unwrap();
        assert_eq!(
            rows.size(),
            SampleSize {
                rule: UnitRule::OnePerUnit,
                rows: 90,
                units: 10
            }
        );
        assert_eq!(rows.0.kept.n(), 10);
        let rows = CalibRows::new(&set(90, true, Some((0..90).collect())), 1).unwrap();
        assert_eq!(
            rows.size(),
            SampleSize {
                rule: UnitRule::Rows,
                rows: 90,
                units: 90
            }
        );
    }

    #[test]
    fn the_kept_row_depends_on_the_seed_and_not_on_the_order() {
        for with_ids in [true, false] {
            let straight = set(60, with_ids, Some((0..60).map(|i| i / 6).collect()));
            let backward: Vec<usize> = (0..60).rev().collect();
            let of = |set: &LogitSet, seed| CalibRows::new(set, seed).unwrap();
            assert_eq!(of(&straight, 1), of(&straight.subset(&backward), 1));
            assert_ne!(of(&straight, 1).0.kept, of(&straight, 2).0.kept);
        }
    }

    #[test]
    fn dividing_is_one_to_two_by_unit_and_free_of_order() {
        let plain = set(300, true, None);
        let (select, calib) = divide(&plain, 7).unwrap();
        assert_eq!((select.len(), calib.len()), (100, 200));
        let grouped = set(300, true, Some((0..300).map(|i| i % 30).collect()));
        let (select, calib) = divide(&grouped, 7).unwrap();
        assert_eq!((select.len(), calib.len()), (100, 200));
        assert!(
            select
                .iter()
                .all(|i| calib.iter().all(|j| i % 30 != j % 30)),
            "no unit is in both"
        );
        let backward: Vec<usize> = (0..300).rev().collect();
        let (other, _) = divide(&plain.subset(&backward), 7).unwrap();
        let mut other: Vec<usize> = other.into_iter().map(|i| backward[i]).collect();
        other.sort_unstable();
        assert_eq!(other, divide(&plain, 7).unwrap().0);
        assert_eq!(divide(&set(0, true, None), 7).unwrap(), (vec![], vec![]));
    }

    /// Logits and label must not steer the division: a model of two outputs, without ids, is divided like any other.
    #[test]
    fn rows_that_look_alike_are_divided_at_random() {
        let n = 1200;
        let alike = LogitSet {
            logits: (0..n).flat_map(|i| [0.0, (i % 2) as f32]).collect(),
            classes: 2,
            labels: (0..n).map(|i| (i % 3 == 0).into()).collect(),
            ..LogitSet::default()
        };
        let kind = |i: usize| (i % 2, i.is_multiple_of(3));
        for seed in 0..20 {
            let (select, calib) = divide(&alike, seed).unwrap();
            assert_eq!((select.len(), calib.len()), (400, 800), "seed {seed}");
            for of in [(0, true), (0, false), (1, true), (1, false)] {
                let total = (0..n).filter(|i| kind(*i) == of).count() as f64;
                let selected = select.iter().filter(|i| kind(**i) == of).count() as f64;
                // Five standard deviations of a share of a third.
                let slack = 5.0 * (2.0 / 9.0 / total).sqrt();
                assert!(
                    (selected / total - 1.0 / 3.0).abs() < slack,
                    "seed {seed}, {of:?}: {selected} of {total}"
                );
            }
        }
    }

    #[test]
    fn units_keep_their_rows_and_their_order_ignores_what_is_in_them() {
        let sizes: Vec<u64> = (0..40).flat_map(|g| vec![g; 1 + g as usize % 7]).collect();
        let rows = CalibRows::new(&set(sizes.len(), true, Some(sizes.clone())), 1).unwrap();
        let grouped = rows.0.grouped.unwrap();
        let mut found: Vec<usize> = grouped.units().map(|unit| unit.len()).collect();
        let order_of_sizes = found.clone();
        found.sort_unstable();
        let mut want: Vec<usize> = (0..40).map(|g| 1 + g % 7).collect();
        // One row more in some unit moves none of the others.
        let mut more = sizes;
        more.push(5);
        let other = CalibRows::new(&set(more.len(), true, Some(more)), 1).unwrap();
        let other: Vec<usize> = other.0.grouped.unwrap().units().map(|u| u.len()).collect();
        let moved = other
            .iter()
            .zip(&order_of_sizes)
            .filter(|(a, b)| a != b)
            .count();
        assert_eq!(moved, 1);
        want.sort_unstable();
        assert_eq!(found, want);
        let shape = rows.0.shape;
        assert_eq!((shape.units, shape.largest), (40, 7));
    }

    #[test]
    fn halves_share_no_unit() {
        let set = set(90, true, Some((0..90).map(|i| i / 3).collect()));
        let (fit, certify) = halves(&set, 1).unwrap();
        assert_eq!((fit.0.shape.units, certify.size().units), (15, 15));
        assert_eq!(fit.0.shape.rows + certify.shape().rows, 90);
        let one = self::set(9, true, Some(vec![1; 9]));
        assert!(matches!(halves(&one, 1), Err(Error::OneUnit)));
    }
}
