//! What the calibrators of two classes have in common.

use crate::rows::Labelled;
use stage1_core::policy::{Fallback, Score};

/// Margins z₁ − z₀, and whether the label is 1.
pub(crate) fn binary_columns(rows: Labelled<'_>) -> (Vec<f64>, Vec<bool>) {
    let margin = |i| Score::BinaryMargin.value(rows.row(i));
    (
        (0..rows.n()).map(margin).collect(),
        rows.labels.iter().map(|label| *label == 1).collect(),
    )
}

/// Two-class data with both classes in it.
pub(super) fn check_two_classes(labels: &[bool]) -> Result<(), Fallback> {
    match labels.split_first() {
        None => Err(Fallback::NoRows),
        Some((first, rest)) if rest.iter().all(|label| label == first) => Err(Fallback::OneClass),
        Some(_) => Ok(()),
    }
}

/// Two classes that no threshold separates.
pub(super) fn check_overlap(margins: &[f64], labels: &[bool]) -> Result<(), Fallback> {
    check_two_classes(labels)?;
    // Falling first: constant margins separate both ways, and rank nothing.
    let falling = margins.iter().map(|s| -s).collect::<Vec<_>>();
    if separates(&falling, labels) {
        return Err(Fallback::SlopeNotPositive);
    }
    if separates(margins, labels) {
        return Err(Fallback::Separable);
    }
    Ok(())
}

/// Whether no row of class 0 lies above a row of class 1: then steeper is always likelier.
fn separates(margins: &[f64], labels: &[bool]) -> bool {
    let of = |class: bool| {
        margins
            .iter()
            .zip(labels)
            .filter(move |(_, label)| **label == class)
            .map(|(s, _)| *s)
    };
    of(false).fold(f64::NEG_INFINITY, f64::max) <= of(true).fold(f64::INFINITY, f64::min)
}

/// Rows of one margin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tied {
    /// Their margin.
    pub(super) margin: f64,
    /// How many of them are of class 1.
    pub(super) ones: u64,
    /// How many they are.
    pub(super) rows: u64,
}

/// Tie groups by rising margin.
pub(super) fn tie_groups(margins: &[f64], labels: &[bool]) -> Vec<Tied> {
    let mut rows: Vec<(f64, bool)> = margins
        .iter()
        .copied()
        .zip(labels.iter().copied())
        .collect();
    rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut groups: Vec<Tied> = Vec::new();
    for (margin, label) in rows {
        match groups.last_mut() {
            // Not the order's equality: 0 and −0 are one margin.
            Some(group) if group.margin >= margin => {
                group.rows += 1;
                group.ones += u64::from(label);
            }
            _ => groups.push(Tied {
                margin,
                ones: u64::from(label),
                rows: 1,
            }),
        }
    }
    groups
}
