//! A few random operations of one strength: RandAugment's (Cubuk et al., arXiv 1909.13719), with torchvision's ranges.

use super::{colour, shape};
use crate::random::SplitMix;
use stage1_core::{config::AugmentPolicy, preprocess::RgbImage};

type Operation = fn(&mut RgbImage, Strength);

/// How strong an operation is.
#[derive(Clone, Copy)]
struct Strength {
    /// 0 to 1.
    amount: f64,
    /// −1 or 1, for those that have a direction.
    sign: f64,
}

impl Strength {
    fn signed(self, most: f64) -> f64 {
        self.sign * self.amount * most
    }
}

const OPERATIONS: [Operation; 14] = [
    |_, _| {},
    |picture, s| shape::warp(picture, [1.0, s.signed(0.3), 0.0, 0.0, 1.0, 0.0]),
    |picture, s| shape::warp(picture, [1.0, 0.0, 0.0, s.signed(0.3), 1.0, 0.0]),
    |picture, s| {
        let shift = s.signed(150.0 / 331.0) * f64::from(picture.width());
        shape::warp(picture, [1.0, 0.0, shift, 0.0, 1.0, 0.0]);
    },
    |picture, s| {
        let shift = s.signed(150.0 / 331.0) * f64::from(picture.height());
        shape::warp(picture, [1.0, 0.0, 0.0, 0.0, 1.0, shift]);
    },
    |picture, s| {
        let (sin, cos) = s.signed(30.0).to_radians().sin_cos();
        shape::warp(picture, [cos, sin, 0.0, -sin, cos, 0.0]);
    },
    |picture, s| colour::brighten(picture, 1.0 + s.signed(0.9)),
    |picture, s| colour::saturate(picture, 1.0 + s.signed(0.9)),
    |picture, s| colour::contrast(picture, 1.0 + s.signed(0.9)),
    |picture, s| shape::sharpen(picture, 1.0 + s.signed(0.9)),
    |picture, s| colour::posterise(picture, 8 - (4.0 * s.amount).round() as u32),
    |picture, s| colour::solarise(picture, (255.0 * (1.0 - s.amount)).round() as u8),
    |picture, _| colour::stretch(picture),
    |picture, _| colour::equalise(picture),
];

pub(super) fn apply(picture: &mut RgbImage, policy: &AugmentPolicy, numbers: &mut SplitMix) {
    for _ in 0..policy.operations {
        let operation = OPERATIONS[numbers.below(OPERATIONS.len())];
        let sign = if numbers.chance(0.5) { 1.0 } else { -1.0 };
        let amount = policy.magnitude / 10.0;
        operation(picture, Strength { amount, sign });
    }
}
