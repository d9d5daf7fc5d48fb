use serde::{Deserialize, Serialize};

/// How odd a label looks, given the probabilities of all of them; larger is odder.
///
/// Labels are ranked by falling probability, equal ones by their index.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum SetScore {
    /// 1 − p: the smallest sets on average.
    Lac,
    /// The probability of all labels ranked before, plus U·p: larger sets where the model is unsure.
    Aps,
    /// As [`SetScore::Aps`], plus `lambda`·max(rank − `free_ranks`, 0): large sets are cut.
    Raps {
        /// What every further rank costs, at least 0.
        lambda: f64,
        /// Ranks (from 1) that cost nothing.
        free_ranks: usize,
    },
}

impl SetScore {
    /// The scores of all labels of one row into `out`. `u` in `[0, 1]` is the share of a label's own probability that
    /// counts: a uniform draw for randomised sets, 1 for sets that aren't. [`SetScore::Lac`] doesn't look at it.
    pub fn scores(&self, probabilities: &[f64], u: f64, out: &mut Vec<f64>) {
        out.clear();
        let (lambda, free_ranks) = match *self {
            Self::Lac => {
                out.extend(probabilities.iter().map(|p| 1.0 - p));
                return;
            }
            Self::Aps => (0.0, 0),
            Self::Raps { lambda, free_ranks } => (lambda, free_ranks),
        };
        out.resize(probabilities.len(), 0.0);
        let mut before = 0.0;
        for (place, label) in by_falling(probabilities).into_iter().enumerate() {
            let p = probabilities[label];
            let beyond = (place + 1).saturating_sub(free_ranks);
            out[label] = before + u * p + lambda * beyond as f64;
            before += p;
        }
    }
}

fn by_falling(probabilities: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    // The sort is stable: equal labels stay in the order of their indices.
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_papers() {
        struct Case {
            name: &'static str,
            score: SetScore,
            u: f64,
            want: [f64; 4],
        }
        let p = [0.125, 0.5, 0.25, 0.125];
        let raps = SetScore::Raps {
            lambda: 0.5,
            free_ranks: 2,
        };
        let cases = [
            Case {
                name: "least ambiguous",
                score: SetScore::Lac,
                u: 0.3,
                want: [0.875, 0.5, 0.75, 0.875],
            },
            Case {
                name: "adaptive; of equals the first is ranked before",
                score: SetScore::Aps,
                u: 1.0,
                want: [0.875, 0.5, 0.75, 1.0],
            },
            Case {
                name: "randomised",
                score: SetScore::Aps,
                u: 0.5,
                want: [0.8125, 0.25, 0.625, 0.9375],
            },
            Case {
                name: "regularised",
                score: raps,
                u: 1.0,
                want: [1.375, 0.5, 0.75, 2.0],
            },
        ];
        let mut got = Vec::new();
        for Case {
            name,
            score,
            u,
            want,
        } in cases
        {
            score.scores(&p, u, &mut got);
            assert_eq!(got, want, "{name}");
        }
    }
}
