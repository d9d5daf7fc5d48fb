//! Further figures of a confusion matrix and of class pairs.

use super::{Predictions, Ranking};
use stage1_core::metrics::Confusion;

/// Cohen's kappa: agreement beyond what the margins give by chance; none where chance agrees always, or without rows.
pub fn kappa(confusion: &Confusion) -> Option<f64> {
    let n = confusion.total() as f64;
    let by_chance = (0..confusion.classes())
        .map(|k| confusion.labelled(k) as f64 * confusion.predicted(k) as f64);
    let chance = by_chance.sum::<f64>() / (n * n);
    (chance < 1.0).then(|| (confusion.accuracy() - chance) / (1.0 - chance))
}

/// F1 weighted by how often each class occurs; none without rows.
pub fn f1_weighted(confusion: &Confusion) -> Option<f64> {
    let sum: f64 = (0..confusion.classes())
        .map(|k| confusion.f1(k) * confusion.labelled(k) as f64)
        .sum();
    (confusion.total() > 0).then(|| sum / confusion.total() as f64)
}

/// The mean AUROC over pairs of classes, each pair seen from both sides (Hand & Till 2001); pairs of which a class
/// doesn't occur are left out, none if all are.
pub fn auroc_one_vs_one(predictions: &Predictions) -> Option<f64> {
    let classes = 0..predictions.classes;
    let pairs = classes.clone().flat_map(|a| {
        classes
            .clone()
            .filter(move |b| a != *b)
            .map(move |b| (a, b))
    });
    let areas: Vec<f64> = pairs
        .filter_map(|(a, b)| one_against_one(predictions, a, b))
        .collect();
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

/// How well the probability of `a` ranks rows of `a` above rows of `b`.
fn one_against_one(predictions: &Predictions, a: usize, b: usize) -> Option<f64> {
    let labels = predictions.labels.iter();
    let weights: Vec<u32> = labels
        .map(|label| u32::from(*label == a || *label == b))
        .collect();
    Ranking::new(&predictions.of_class(a)).auroc(&predictions.is_class(a), &weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_rows_or_disagreement_there_is_nothing_to_tell() {
        assert_eq!(
            (kappa(&Confusion::new(2)), f1_weighted(&Confusion::new(2))),
            (None, None)
        );
        let mut one = Confusion::new(2);
        one.add(1, 1);
        assert_eq!(kappa(&one), None);
    }
}
