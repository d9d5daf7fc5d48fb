//! One class against the rest, of the rows as they are.
//!
//! One pass over the rows bins the probabilities of several classes, and turns each into a word whose order is the
//! order of the probabilities and whose last bit is the outcome: once sorted, words need no row beside them.

use super::Predictions;
use super::calibration_error::{BinErrors, EqualWidth};
use super::decomposition::{Bin, BinSums, Binned, Corp, Pool};
use super::ranking::{Areas, falling};
use super::sorting::sort;
use rayon::prelude::*;
use std::ops::Range;

/// Bins of calibration errors.
pub(super) const BINS: usize = 15;
/// Bins of the Brier score's decomposition.
const DECOMPOSITION_BINS: usize = 10;
/// Their edges are all among those of that many bins.
const FINE: usize = 30;
const _: () = assert!(FINE.is_multiple_of(BINS) && FINE.is_multiple_of(DECOMPOSITION_BINS));

/// Classes that one pass takes together: their bins fit into a processor's nearest memory.
const TOGETHER: usize = 16;
/// Rows of a block, at least,
const BLOCK: usize = 1 << 12;
/// and blocks, at most: a block's sums are added after those of the ones before.
const BLOCKS: usize = 64;

/// What the probabilities of one class come to.
pub(super) struct Class {
    /// AUROC and average precision.
    pub(super) areas: (Option<f64>, Option<f64>),
    pub(super) ece: Option<f64>,
    pub(super) binned: Option<Binned>,
    pub(super) corp: Option<Corp>,
}

/// Each of `classes`.
pub(super) fn classes(predictions: &Predictions, classes: Range<usize>) -> Vec<Class> {
    let of_group = |start: usize| {
        let columns = Columns::gather(predictions, start..classes.end.min(start + TOGETHER));
        let of_class = |(k, sums): (usize, &Sums)| Class::new(columns.words_of(k), sums);
        columns
            .sums
            .par_iter()
            .enumerate()
            .map(of_class)
            .collect::<Vec<_>>()
    };
    classes
        .clone()
        .step_by(TOGETHER)
        .flat_map(of_group)
        .collect()
}

impl Class {
    fn new(mut words: Vec<u64>, sums: &Sums) -> Self {
        sort(&mut words, &mut Vec::new());
        let (mut areas, mut pool) = (Areas::default(), Pool::default());
        each_group(&words, |all, hits| {
            areas.add(all, hits);
            pool.add(all, hits);
        });
        let bins = sums.bins();
        Self {
            areas: areas.finish(),
            ece: ece(&joined(&bins, BINS)),
            binned: Binned::of(&joined(&bins, DECOMPOSITION_BINS), sums.square_errors),
            corp: pool.corp(sums.square_errors),
        }
    }
}

/// Visits groups of equal probabilities, largest first: rows, and hits among them. Neighbouring groups without a hit are
/// visited as one, which no sum over them can tell.
fn each_group(words: &[u64], mut visit: impl FnMut(f64, f64)) {
    let (mut rows, mut hits, mut misses) = (0u32, 0u32, 0u32);
    for (word, next) in words
        .iter()
        .zip(words.iter().skip(1).map(Some).chain([None]))
    {
        rows += 1;
        hits += (word & 1) as u32;
        if next.is_some_and(|next| next >> 1 == word >> 1) {
            continue;
        }
        if hits == 0 {
            misses += rows;
        } else {
            if misses > 0 {
                visit(f64::from(misses), 0.0);
            }
            visit(f64::from(rows), f64::from(hits));
            misses = 0;
        }
        (rows, hits) = (0, 0);
    }
    if misses > 0 {
        visit(f64::from(misses), 0.0);
    }
}

fn ece(bins: &[Bin]) -> Option<f64> {
    let sums = bins
        .iter()
        .map(|bin| [bin.rows, bin.rows * bin.score, bin.hits]);
    BinErrors::of(&sums.collect::<Vec<_>>()).map(|errors| errors.ece)
}

/// Neighbouring bins as `count` wider ones.
fn joined(bins: &[Bin; FINE], count: usize) -> Vec<Bin> {
    bins.chunks(FINE / count).map(Bin::joined).collect()
}

/// The probabilities of some classes, class by class within each block of rows.
struct Columns {
    words: Vec<u64>,
    /// Words of a block; the last one may have fewer.
    block: usize,
    /// Of each class.
    sums: Vec<Sums>,
}

impl Columns {
    fn gather(predictions: &Predictions, classes: Range<usize>) -> Self {
        let (n, count) = (predictions.n(), classes.len());
        let rows = BLOCK.max(n.div_ceil(BLOCKS));
        let width = EqualWidth::new(FINE);
        let mut words = vec![0; n * count];
        let blocks = words.par_chunks_mut(rows * count).enumerate();
        let parts: Vec<Vec<Sums>> = blocks
            .map(|(block, words)| {
                let mut sums = vec![Sums::default(); count];
                let len = words.len() / count;
                for at in 0..len {
                    let row = block * rows + at;
                    let probabilities = &predictions.row(row)[classes.clone()];
                    // The label may lie outside of these classes.
                    let label = predictions.labels[row].wrapping_sub(classes.start);
                    for ((k, p), sums) in probabilities.iter().enumerate().zip(&mut sums) {
                        words[k * len + at] = word(*p, k == label);
                        sums.add(&width, *p, k == label);
                    }
                    if let (Some(p), Some(sums)) = (probabilities.get(label), sums.get_mut(label)) {
                        sums.add_hit(&width, *p);
                    }
                }
                sums
            })
            .collect();
        let mut sums = vec![Sums::default(); count];
        for part in parts {
            sums.iter_mut()
                .zip(&part)
                .for_each(|(sum, part)| sum.join(part));
        }
        Self {
            words,
            block: rows * count,
            sums,
        }
    }

    /// The words of the `k`-th class, in row order.
    fn words_of(&self, k: usize) -> Vec<u64> {
        let count = self.sums.len();
        let mut words = Vec::with_capacity(self.words.len() / count);
        for block in self.words.chunks(self.block) {
            let rows = block.len() / count;
            words.extend_from_slice(&block[k * rows..][..rows]);
        }
        words
    }
}

/// Rises where the probability falls; the last bit is the outcome. Below zero there are no probabilities.
fn word(p: f64, is: bool) -> u64 {
    falling(p.max(0.0)) << 1 | u64::from(is)
}

/// Sums over the rows, for one class.
#[derive(Clone)]
struct Sums {
    bins: [BinSums; FINE],
    /// Σ (p − outcome)².
    square_errors: f64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            bins: [BinSums::default(); FINE],
            square_errors: 0.0,
        }
    }
}

impl Sums {
    #[inline]
    fn add(&mut self, width: &EqualWidth, p: f64, is: bool) {
        let bin = width.bin(p);
        self.bins[bin].add(p - width.lower(bin));
        let miss = p - f64::from(is);
        self.square_errors += miss * miss;
    }

    fn add_hit(&mut self, width: &EqualWidth, p: f64) {
        let bin = width.bin(p);
        self.bins[bin].add_hit(p - width.lower(bin));
    }

    fn join(&mut self, other: &Self) {
        self.bins
            .iter_mut()
            .zip(&other.bins)
            .for_each(|(bin, other)| bin.join(other));
        self.square_errors += other.square_errors;
    }

    fn bins(&self) -> [Bin; FINE] {
        let width = EqualWidth::new(FINE);
        std::array::from_fn(|bin| self.bins[bin].bin(width.lower(bin)))
    }
}
