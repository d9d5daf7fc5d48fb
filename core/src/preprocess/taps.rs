//! Which pixels a resized one is made of.

use super::Filter;

/// Neighbouring pixels (or rows) of the source, and how much of each there is in one of the target. The weights add up to 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taps {
    pub(super) start: usize,
    pub(super) weights: Vec<f32>,
}

/// Those of every pixel along a side that is brought from `source` to `target` pixels. Where it shrinks, the filter is as much
/// wider: antialiasing as torchvision and Pillow have it. Neither size may be zero.
pub(super) fn of(source: u32, target: u32, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(source) / f64::from(target);
    let stretch = scale.max(1.0);
    let reach = reach(filter) * stretch;
    let at = |i: u32| {
        let centre = (f64::from(i) + 0.5) * scale;
        let start = (centre - reach).floor().max(0.0);
        let end = (centre + reach).ceil().min(f64::from(source));
        let (start, end) = (start as usize, end as usize);
        let weigh = |pixel: usize| weight(filter, (pixel as f64 + 0.5 - centre) / stretch);
        let sum: f64 = (start..end).map(weigh).sum();
        let weights = (start..end).map(|pixel| (weigh(pixel) / sum) as f32);
        Taps {
            start,
            weights: weights.collect(),
        }
    };
    (0..target).map(at).collect()
}

/// The distance, in pixels of the target, from which on a filter is zero.
fn reach(filter: Filter) -> f64 {
    match filter {
        Filter::Bilinear => 1.0,
        Filter::Bicubic => 2.0,
    }
}

/// The filter at a distance in pixels of the target; `Bicubic` is Catmull and Rom's, with a = -0.5.
fn weight(filter: Filter, distance: f64) -> f64 {
    let x = distance.abs();
    match filter {
        Filter::Bilinear => (1.0 - x).max(0.0),
        Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        Filter::Bicubic => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_of_the_same_size_is_copied() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (i, taps) in of(5, 5, filter).into_iter().enumerate() {
                for (pixel, weight) in (taps.start..).zip(taps.weights) {
                    let want = if pixel == i { 1.0 } else { 0.0 };
                    assert!((weight - want).abs() == 0.0, "{filter:?}: {pixel} of {i}");
                }
            }
        }
    }

    #[test]
    fn weights_add_up_to_one_inside_the_source() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (source, target) in [(1, 7), (7, 1), (1920, 224), (224, 225), (3, 1000)] {
                for taps in of(source, target, filter) {
                    let sum: f32 = taps.weights.iter().sum();
                    assert!(
                        (sum - 1.0).abs() < 1e-5,
                        "{filter:?} {source} to {target}: {sum}"
                    );
                    assert!(taps.start + taps.weights.len() <= source as usize);
                }
            }
        }
    }

    #[test]
    fn halving_bilinearly_weighs_four_pixels() {
        let taps = of(6, 3, Filter::Bilinear);
        let want = Taps {
            start: 1,
            weights: vec![0.125, 0.375, 0.375, 0.125],
        };
        assert_eq!(taps[1], want);
    }
}
