use super::MonitorError;
use serde::{Deserialize, Serialize};

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
    /// Bins of equal shares of the finite `scores`. They know nothing of val_calib, nor of a threshold that it chose: its
    /// rows and those of the stream stay exchangeable.
    ///
    /// # Errors
    /// [`MonitorError::EmptySelect`].
    pub fn new(scores: &[f64]) -> Result<Self, MonitorError> {
        if scores.is_empty() {
            return Err(MonitorError::EmptySelect);
        }
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let edge = |i: usize| sorted[i * sorted.len() / COUNT];
        Ok(Self::at((1..COUNT).map(edge).collect()))
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
    fn bins_have_equal_shares() {
        let scores: Vec<f64> = (0..1000).map(|i| f64::from(i * 7 % 1000)).collect();
        let bins = Bins::new(&scores).unwrap();
        bins.validate().unwrap();
        assert_eq!(bins.count(), COUNT);
        let mut counts = vec![0; COUNT];
        scores.iter().for_each(|score| counts[bins.of(*score)] += 1);
        assert_eq!(counts, [20; COUNT]);
        assert_eq!((bins.of(-1e300), bins.of(1e300)), (0, COUNT - 1));
    }

    #[test]
    fn ties_leave_fewer_bins() {
        let bins = Bins::new(&[1.0; 200]).unwrap();
        let of = [0.9, 1.0, 7.0].map(|score| bins.of(score));
        assert_eq!((bins.count(), of), (2, [0, 1, 1]));
    }
}
