use serde::{Deserialize, Serialize};

/// Counts by bin, with sums over all higher bins in logarithmic time (Fenwick 1994). Stored as plain counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub(super) struct Fenwick {
    /// One-based: node i holds the sum of the `i & −i` counts that end at i.
    tree: Vec<u64>,
    total: u64,
}

impl Fenwick {
    pub(super) fn empty(bins: usize) -> Self {
        Self {
            tree: vec![0; bins + 1],
            total: 0,
        }
    }

    pub(super) fn bins(&self) -> usize {
        self.tree.len() - 1
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn add(&mut self, bin: usize, count: u64) {
        self.total += count;
        let mut node = bin + 1;
        while node < self.tree.len() {
            self.tree[node] += count;
            node += lowest_bit(node);
        }
    }

    /// Sum over the bins below `bin`.
    pub(super) fn below(&self, bin: usize) -> u64 {
        let (mut node, mut sum) = (bin, 0);
        while node > 0 {
            sum += self.tree[node];
            node -= lowest_bit(node);
        }
        sum
    }

    /// (in higher bins, in this bin).
    pub(super) fn above_and_in(&self, bin: usize) -> (u64, u64) {
        let up_to = self.below(bin + 1);
        (self.total - up_to, up_to - self.below(bin))
    }
}

fn lowest_bit(node: usize) -> usize {
    node & node.wrapping_neg()
}

impl From<Vec<u64>> for Fenwick {
    fn from(counts: Vec<u64>) -> Self {
        let mut tree = Self::empty(counts.len());
        for (bin, count) in counts.into_iter().enumerate() {
            tree.add(bin, count);
        }
        tree
    }
}

impl From<Fenwick> for Vec<u64> {
    fn from(tree: Fenwick) -> Self {
        (0..tree.bins())
            .map(|bin| tree.above_and_in(bin).1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_counts() {
        for bins in [1, 2, 7, 8, 50] {
            let counts: Vec<u64> = (0..bins as u64).map(|i| i * 7 % 5).collect();
            let tree = Fenwick::from(counts.clone());
            for bin in 0..bins {
                let above: u64 = counts[bin + 1..].iter().sum();
                assert_eq!(tree.above_and_in(bin), (above, counts[bin]), "{bins} {bin}");
            }
            assert_eq!(tree.total(), counts.iter().sum::<u64>());
            assert_eq!(Vec::from(tree), counts);
        }
    }
}
