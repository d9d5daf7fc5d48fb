//! Curves over all thresholds of a score: a point for each distinct one, in scikit-learn's order.

use super::Ranking;

/// A point of a curve: everything scored at least `threshold` is called positive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The threshold; +∞ calls nothing positive.
    pub threshold: f64,
    /// Horizontal: false positive rate, or recall.
    pub x: f64,
    /// Vertical: true positive rate, or precision.
    pub y: f64,
}

/// (false positive rate, true positive rate), from (0, 0) to (1, 1). None without both classes.
pub fn roc(scores: &[f64], positive: &[bool]) -> Option<Vec<Point>> {
    let counts = counts(scores, positive);
    let all = counts.last().filter(|all| all.tp > 0.0 && all.fp > 0.0)?;
    let point = |c: &Count| Point {
        threshold: c.threshold,
        x: c.fp / all.fp,
        y: c.tp / all.tp,
    };
    let origin = Point {
        threshold: f64::INFINITY,
        x: 0.0,
        y: 0.0,
    };
    Some(
        std::iter::once(origin)
            .chain(counts.iter().map(point))
            .collect(),
    )
}

/// (recall, precision), from the lowest threshold to the one that calls nothing positive, where precision is put at 1.
/// None without a positive row.
pub fn precision_recall(scores: &[f64], positive: &[bool]) -> Option<Vec<Point>> {
    let counts = counts(scores, positive);
    let all = counts.last().filter(|all| all.tp > 0.0)?;
    let point = |c: &Count| Point {
        threshold: c.threshold,
        x: c.tp / all.tp,
        y: c.tp / (c.tp + c.fp),
    };
    let end = Point {
        threshold: f64::INFINITY,
        x: 0.0,
        y: 1.0,
    };
    Some(
        counts
            .iter()
            .rev()
            .map(point)
            .chain(std::iter::once(end))
            .collect(),
    )
}

/// True and false positives at one threshold.
struct Count {
    threshold: f64,
    tp: f64,
    fp: f64,
}

/// At each distinct score, from the largest.
fn counts(scores: &[f64], positive: &[bool]) -> Vec<Count> {
    let ranking = Ranking::new(scores);
    let (mut tp, mut fp) = (0.0, 0.0);
    let count = |group: &[u32]| {
        let hits = group.iter().filter(|row| positive[**row as usize]).count() as f64;
        tp += hits;
        fp += group.len() as f64 - hits;
        Count {
            threshold: scores[group[0] as usize],
            tp,
            fp,
        }
    };
    ranking.groups().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_without_a_class_do_not_exist() {
        assert_eq!(roc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(roc(&[], &[]), None);
        assert_eq!(precision_recall(&[0.1], &[false]), None);
    }

    #[test]
    fn a_perfect_score_makes_a_corner() {
        let points = roc(&[0.9, 0.8, 0.2, 0.1], &[true, true, false, false]).unwrap();
        let xy: Vec<_> = points.iter().map(|p| (p.x, p.y)).collect();
        assert_eq!(
            xy,
            [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0)]
        );
    }
}
