//! Units: images that must stay together.

/// Disjoint sets of rows.
pub(super) struct Sets {
    parents: Vec<u32>,
}

impl Sets {
    pub(super) fn new(rows: usize) -> Self {
        let rows = u32::try_from(rows).expect("checked against MAX_ROWS before");
        Self {
            parents: (0..rows).collect(),
        }
    }

    /// The smallest row of the set of `row`.
    pub(super) fn find(&mut self, row: u32) -> u32 {
        let mut root = row;
        while self.parents[root as usize] != root {
            root = self.parents[root as usize];
        }
        let mut row = row;
        while self.parents[row as usize] != root {
            row = std::mem::replace(&mut self.parents[row as usize], root);
        }
        root
    }

    pub(super) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        // The smaller row becomes the root: a unit is named by its first row, whatever the order of the joins.
        let (low, high) = (a.min(b), a.max(b));
        self.parents[high as usize] = low;
    }

    /// Joins all rows with the same key; rows without a key stay as they are.
    pub(super) fn join_equal<K: Ord>(&mut self, keys: impl IntoIterator<Item = Option<K>>) {
        let keyed = (0u32..)
            .zip(keys)
            .filter_map(|(row, key)| Some((key?, row)));
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_unstable();
        for pair in keyed.windows(2) {
            if pair[0].0 == pair[1].0 {
                self.join(pair[0].1, pair[1].1);
            }
        }
    }

    /// The rows of each set, sets in the order of their first rows.
    pub(super) fn into_groups(mut self) -> Vec<Vec<u32>> {
        let mut places = vec![u32::MAX; self.parents.len()];
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for row in 0..self.parents.len() as u32 {
            let root = self.find(row) as usize;
            if places[root] == u32::MAX {
                places[root] = groups.len() as u32;
                groups.push(Vec::with_capacity(1));
            }
            groups[places[root] as usize].push(row);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_transitive_and_named_by_the_first_row() {
        let mut sets = Sets::new(8);
        sets.join_equal([
            None,
            Some("x"),
            None,
            Some("y"),
            Some("x"),
            None,
            Some("y"),
            None,
        ]);
        sets.join(7, 6);
        sets.join(4, 5);
        assert_eq!(sets.find(7), 3);
        assert_eq!(
            sets.into_groups(),
            [vec![0], vec![1, 4, 5], vec![2], vec![3, 6, 7]]
        );
    }
}
