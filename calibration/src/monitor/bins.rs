use super::MonitorError;
use serde::{Deserialize, Serialize};
use stage1_core::policy::Threshold;

/// About so many bins of equal shares of val_select.
const COUNT: usize = 50;

/// Bins of the raw score, fixed before the first row that is monitored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bins {
    /// Ascending; a score belongs to the bin of as many edges as are at most it.
    edges: Vec<f64>,
}

impl Bins {
    /// Bins of equal shares of the finite `scores`, and edges at `threshold`, so that no bin is both answered and
    /// deferred.
    ///
    /// # Errors
    /// [`MonitorError::EmptySelect`].
    pub fn new(scores: &[f64], threshold: &Threshold) -> Result<Self, MonitorError> {
        if scores.is_empty() {
            return Err(MonitorError::EmptySelect);
        }
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let mut edges: Vec<f64> = (1..COUNT)
            .map(|i| sorted[i * sorted.len() / COUNT])
            .collect();
        match *threshold {
            // A score equal to `low` is answered: the edge is just above it.
            Threshold::TwoSided { low, high } => edges.extend([low.next_up(), high]),
            Threshold::OneSided { at_least } => edges.push(at_least),
            // Bins are valid wherever their edges are: one of another kind only adds none.
            _ => {}
        }
        Ok(Self::at(edges))
    }

    /// Bins between these finite edges.
    pub fn at(mut edges: Vec<f64>) -> Self {
        edges.sort_unstable_by(f64::total_cmp);
        edges.dedup();
        Self { edges }
    }

    /// Number of bins, at least one.
    pub fn count(&self) -> usize {
        self.edges.len() + 1
    }

    /// The bin of a score.
    pub fn of(&self, score: f64) -> usize {
        self.edges.partition_point(|edge| *edge <= score)
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let ascending = self.edges.windows(2).all(|pair| pair[0] < pair[1]);
        if ascending && self.edges.iter().all(|edge| edge.is_finite()) {
            return Ok(());
        }
        Err("bins: edges must be finite and ascend".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_divide_bins_as_they_divide_scores() {
        let scores: Vec<f64> = (0..1000).map(|i| f64::from(i) / 100.0 - 5.0).collect();
        let two_sided = Threshold::TwoSided {
            low: -1.0,
            high: 2.0,
        };
        let one_sided = Threshold::OneSided { at_least: 0.123 };
        for threshold in [two_sided, one_sided] {
            let bins = Bins::new(&scores, &threshold).unwrap();
            assert!((50..=53).contains(&bins.count()));
            bins.validate().unwrap();
            let mut answered = vec![None; bins.count()];
            for score in scores.iter().copied().chain([-1.0, 2.0, 0.123]) {
                let is = threshold.answer(score, 0).is_some();
                let seen = answered[bins.of(score)].get_or_insert(is);
                assert_eq!(*seen, is, "{score} {threshold:?}");
            }
        }
    }

    #[test]
    fn ties_leave_fewer_bins() {
        let bins = Bins::new(&[1.0; 200], &Threshold::OneSided { at_least: 1.0 }).unwrap();
        assert_eq!(
            (bins.count(), bins.of(0.9), bins.of(1.0), bins.of(7.0)),
            (2, 0, 1, 1)
        );
    }
}
