//! Which patches of the large parts the student doesn't see: blocks of them, as BEiT and DINOv2 draw them.

use crate::random::SplitMix;
use stage1_core::config::MaskConfig;

/// Smallest block in patches.
const SMALLEST: usize = 4;
/// Of a block's height divided by its width, and of the inverse.
const FLATTEST: f64 = 0.3;
/// Draws of a block before it is given up.
const ATTEMPTS: usize = 10;

/// A grid of patches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// Its rows.
    pub(crate) rows: usize,
    /// Its columns.
    pub(crate) columns: usize,
}

/// The hidden patches of a batch of large parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Masks {
    /// For each part, row by row, whether each patch is hidden.
    pub(crate) hidden: Vec<Vec<bool>>,
}

impl Masks {
    /// For `parts` of them: a share is masked at all, at ratios spread over the configured range, in random order.
    pub(crate) fn draw(
        config: &MaskConfig,
        grid: Grid,
        parts: usize,
        numbers: &mut SplitMix,
    ) -> Self {
        let masked = (parts as f64 * config.probability) as usize;
        let [low, high] = config.ratio;
        let bound = |i: usize| low + (high - low) * i as f64 / masked.max(1) as f64;
        let patches = (grid.rows * grid.columns) as f64;
        let mut hidden: Vec<_> = (0..masked)
            .map(|i| {
                let ratio = numbers.between(bound(i), bound(i + 1));
                blocks(grid, (patches * ratio) as usize, numbers)
            })
            .collect();
        hidden.resize(parts, vec![false; grid.rows * grid.columns]);
        numbers.shuffle(&mut hidden);
        Self { hidden }
    }

    /// The places of the hidden patches, counted through all parts, and for each 1 / (hidden patches of its part).
    pub(crate) fn places(&self) -> (Vec<i64>, Vec<f32>) {
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        let mut first = 0;
        for part in &self.hidden {
            let count = part.iter().filter(|hidden| **hidden).count();
            for (at, _) in part.iter().enumerate().filter(|(_, hidden)| **hidden) {
                places.push((first + at) as i64);
                weights.push(1.0 / count as f32);
            }
            first += part.len();
        }
        (places, weights)
    }
}

/// Blocks until about `wanted` patches are hidden, never more.
fn blocks(grid: Grid, wanted: usize, numbers: &mut SplitMix) -> Vec<bool> {
    let mut hidden = vec![false; grid.rows * grid.columns];
    let mut count = 0;
    while count < wanted {
        let most = (wanted - count).min(hidden.len() / 2);
        match block(grid, most, &mut hidden, numbers) {
            0 => break,
            new => count += new,
        }
    }
    hidden
}

/// Hides one more block of at most `most` patches that were seen before; how many they are, 0 if none was found.
fn block(grid: Grid, most: usize, hidden: &mut [bool], numbers: &mut SplitMix) -> usize {
    let logarithm = FLATTEST.ln();
    for _ in 0..ATTEMPTS {
        let area = numbers.between(SMALLEST.min(most) as f64, most as f64);
        let ratio = numbers.between(logarithm, -logarithm).exp();
        let rows = (area * ratio).sqrt().round() as usize;
        let columns = (area / ratio).sqrt().round() as usize;
        if rows == 0 || columns == 0 || rows >= grid.rows || columns >= grid.columns {
            continue;
        }
        let top = numbers.below(grid.rows - rows + 1);
        let left = numbers.below(grid.columns - columns + 1);
        let inside = (top..top + rows)
            .flat_map(|y| (left..left + columns).map(move |x| y * grid.columns + x));
        let new: Vec<_> = inside.filter(|&at| !hidden[at]).collect();
        if (1..=most).contains(&new.len()) {
            new.iter().for_each(|&at| hidden[at] = true);
            return new.len();
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draw;

    #[test]
    fn a_share_is_masked_within_the_range_of_ratios() {
        let grid = Grid {
            rows: 16,
            columns: 14,
        };
        let config = MaskConfig {
            probability: 0.5,
            ratio: [0.1, 0.5],
        };
        let (mut sum, mut firsts) = (0, 0);
        for place in 0..50 {
            let mut numbers = Draw::Mask { epoch: 1, place }.numbers(3);
            let masks = Masks::draw(&config, grid, 8, &mut numbers);
            let counts: Vec<_> = masks
                .hidden
                .iter()
                .map(|part| part.iter().filter(|hidden| **hidden).count())
                .collect();
            assert_eq!(counts.iter().filter(|n| **n > 0).count(), 4, "{counts:?}");
            assert!(counts.iter().all(|&n| n <= 112), "{counts:?}");
            sum += counts.iter().sum::<usize>();
            firsts += usize::from(counts[0] > 0);
            let (places, weights) = masks.places();
            assert_eq!(places.len(), counts.iter().sum::<usize>());
            let total: f32 = weights.iter().sum();
            assert!((total - 4.0).abs() < 1e-4, "one per masked part: {total}");
            assert!(places.is_sorted() && places.iter().all(|&p| p < 8 * 224));
        }
        // Blocks may miss their target a little, so that the mean is somewhat below 0.3.
        let mean = sum as f64 / (200.0 * 224.0);
        assert!((0.26..=0.31).contains(&mean), "{mean}");
        assert!(
            (15..=35).contains(&firsts),
            "any part may be masked: {firsts}"
        );
    }

    #[test]
    fn masks_are_blocks() {
        let grid = Grid {
            rows: 12,
            columns: 12,
        };
        let mut numbers = Draw::Mask { epoch: 1, place: 0 }.numbers(1);
        let hidden = blocks(grid, 40, &mut numbers);
        let beside = |at: usize| {
            let (y, x) = (at / 12, at % 12);
            let right = x < 11 && hidden[at + 1];
            let below = y < 11 && hidden[at + 12];
            usize::from(right) + usize::from(below)
        };
        let count = hidden.iter().filter(|hidden| **hidden).count();
        let pairs: usize = (0..144).filter(|&at| hidden[at]).map(beside).sum();
        // Forty single places at random would have 22 pairs on average.
        assert!(pairs > count, "{pairs} pairs of {count}");
    }

    #[test]
    fn small_grids_and_no_masking_are_no_trouble() {
        let small = Grid {
            rows: 2,
            columns: 2,
        };
        let all = MaskConfig {
            probability: 1.0,
            ratio: [0.5, 1.0],
        };
        let mut numbers = Draw::Mask { epoch: 1, place: 0 }.numbers(1);
        let masks = Masks::draw(&all, small, 4, &mut numbers);
        assert!(masks.hidden.iter().all(|part| part.len() == 4));
        let none = MaskConfig {
            probability: 0.0,
            ..all
        };
        let masks = Masks::draw(&none, small, 4, &mut numbers);
        assert_eq!(masks.places(), (Vec::new(), Vec::new()));
    }
}
