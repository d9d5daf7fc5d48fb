//! What the Brier score of one class consists of.

use super::Ranking;

/// REL − RES + UNC + WBV − WBC over bins (Stephenson, Coelho & Jolliffe 2008): with the two within-bin terms the sum is
/// the Brier score exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Binned {
    /// Mean squared distance of bin means from bin rates.
    pub reliability: f64,
    /// Mean squared distance of bin rates from the base rate.
    pub resolution: f64,
    /// Variance of the outcome.
    pub uncertainty: f64,
    /// Mean within-bin variance of the probabilities.
    pub within_variance: f64,
    /// Twice the mean within-bin covariance of probabilities and outcomes.
    pub within_covariance: f64,
    /// Mean (p − outcome)².
    pub brier: f64,
}

impl Binned {
    /// What the identity leaves: zero, but for rounding.
    pub fn residual(&self) -> f64 {
        let sum = self.reliability - self.resolution + self.uncertainty + self.within_variance
            - self.within_covariance;
        self.brier - sum
    }
}

/// Decomposes over `count` right-closed bins of equal width; none without rows.
pub fn binned(p: &[f64], outcome: &[bool], count: usize) -> Option<Binned> {
    if p.is_empty() {
        return None;
    }
    let n = p.len() as f64;
    let y = |i: usize| if outcome[i] { 1.0 } else { 0.0 };
    let base = (0..p.len()).map(y).sum::<f64>() / n;
    let mut bins = vec![Vec::new(); count];
    for (i, p) in p.iter().enumerate() {
        let bin = (1..count)
            .filter(|edge| *edge as f64 / (count as f64) < *p)
            .count();
        bins[bin].push(i);
    }
    let mut parts = Binned {
        reliability: 0.0,
        resolution: 0.0,
        uncertainty: base * (1.0 - base),
        within_variance: 0.0,
        within_covariance: 0.0,
        brier: (0..p.len())
            .map(|i| (p[i] - y(i)) * (p[i] - y(i)))
            .sum::<f64>()
            / n,
    };
    for bin in bins.into_iter().filter(|bin| !bin.is_empty()) {
        let size = bin.len() as f64;
        let mean = bin.iter().map(|i| p[*i]).sum::<f64>() / size;
        let rate = bin.iter().map(|i| y(*i)).sum::<f64>() / size;
        parts.reliability += size * (mean - rate) * (mean - rate) / n;
        parts.resolution += size * (rate - base) * (rate - base) / n;
        for i in bin {
            parts.within_variance += (p[i] - mean) * (p[i] - mean) / n;
            parts.within_covariance += 2.0 * (p[i] - mean) * (y(i) - rate) / n;
        }
    }
    Some(parts)
}

/// MCB − DSC + UNC (Dimitriadis, Gneiting & Jordan 2021): miscalibration and discrimination against the isotonic fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Corp {
    /// Brier score minus that of the isotonic fit.
    pub miscalibration: f64,
    /// Brier score of the base rate minus that of the isotonic fit.
    pub discrimination: f64,
    /// Brier score of the base rate.
    pub uncertainty: f64,
}

/// Decomposes by pooling adjacent violators; none without rows.
pub fn corp(p: &[f64], outcome: &[bool]) -> Option<Corp> {
    if p.is_empty() {
        return None;
    }
    let n = p.len() as f64;
    let rate = outcome.iter().filter(|y| **y).count() as f64 / n;
    let square = |p: f64, y: bool| (p - if y { 1.0 } else { 0.0 }).powi(2);
    let brier = p
        .iter()
        .zip(outcome)
        .map(|(p, y)| square(*p, *y))
        .sum::<f64>()
        / n;
    let isotonic = pooled(p, outcome)
        .iter()
        .map(|(rows, hits)| hits * (1.0 - hits / rows))
        .sum::<f64>()
        / n;
    let uncertainty = rate * (1.0 - rate);
    Some(Corp {
        miscalibration: brier - isotonic,
        discrimination: uncertainty - isotonic,
        uncertainty,
    })
}

/// Blocks (rows, hits) of the isotonic fit; within a block its value is hits / rows.
fn pooled(p: &[f64], outcome: &[bool]) -> Vec<(f64, f64)> {
    let weights = vec![1; p.len()];
    let ranking = Ranking::new(p);
    let mut groups: Vec<_> = ranking.weighed(outcome, &weights).collect();
    groups.reverse();
    let mut blocks: Vec<(f64, f64)> = Vec::new();
    for mut block in groups {
        // Compared crosswise, in integers: no rounding decides a tie.
        while let Some(last) = blocks.pop_if(|last| last.1 * block.0 >= block.1 * last.0) {
            block = (block.0 + last.0, block.1 + last.1);
        }
        blocks.push(block);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_close() {
        let p: Vec<f64> = (0..97).map(|i| f64::from(i * 37 % 97) / 96.0).collect();
        let y: Vec<bool> = (0..97).map(|i| i * 53 % 97 < i).collect();
        let parts = binned(&p, &y, 10).unwrap();
        assert!(parts.residual().abs() < 1e-12);
        let corp = corp(&p, &y).unwrap();
        assert!(
            (corp.miscalibration - corp.discrimination + corp.uncertainty - parts.brier).abs()
                < 1e-12
        );
        assert!(corp.miscalibration >= 0.0 && corp.discrimination >= 0.0);
    }

    #[test]
    fn violators_are_pooled() {
        assert_eq!(
            pooled(&[0.1, 0.2, 0.3, 0.4], &[true, false, false, true]),
            [(3.0, 1.0), (1.0, 1.0)]
        );
    }
}
