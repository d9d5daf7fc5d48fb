//! Sums over rows that don't depend on the number of threads: fixed chunks, added in order.

use rayon::prelude::*;
use std::ops::Range;

const CHUNK: usize = 1 << 14;

/// `sums` of every chunk of `0..n`, added in the order of the chunks.
pub(crate) fn chunked_sums<const D: usize>(
    n: usize,
    sums: impl Fn(Range<usize>) -> [f64; D] + Sync,
) -> [f64; D] {
    let chunk = |c: usize| sums(c * CHUNK..n.min((c + 1) * CHUNK));
    let parts: Vec<[f64; D]> = (0..n.div_ceil(CHUNK)).into_par_iter().map(chunk).collect();
    parts.iter().fold([0.0; D], |mut total, part| {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
        total
    })
}

/// As [`chunked_sums`] for any number of sums: `add` adds a chunk's to zeros.
pub(crate) fn chunked_vector_sums(
    n: usize,
    width: usize,
    add: impl Fn(Range<usize>, &mut [f64]) + Sync,
) -> Vec<f64> {
    let chunk = |c: usize| {
        let mut sums = vec![0.0; width];
        add(c * CHUNK..n.min((c + 1) * CHUNK), &mut sums);
        sums
    };
    let parts: Vec<Vec<f64>> = (0..n.div_ceil(CHUNK)).into_par_iter().map(chunk).collect();
    let mut total = vec![0.0; width];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}
