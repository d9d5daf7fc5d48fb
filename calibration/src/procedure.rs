//! Which thresholds a set of p-values certifies: with probability 1 − `level`, none of them wrongly.
//!
//! A fixed sequence and several starts are graphical procedures in the sense of Bauer (1991) and of "Learn then Test"
//! (Angelopoulos et al. 2021, 2110.01052); Holm is step-down Bonferroni (Holm 1979). See
//! [`Procedure`] for when each is worth it.
//!
//! What is promised is about the whole set: at most a share `level` of such val_calibs certify *anything* wrongly. It takes
//! p-values that are valid one by one (independent units), an order that was fixed beforehand, and one attempt; how the
//! p-values depend on one another doesn't matter. Testing every threshold at `level` and taking the laxest that passes
//! promises nothing of the kind (the control `pointwise` of `tests/simulation` shows it).
//!
//! ```
//! use stage1_calibration::procedure::test;
//! use stage1_core::certificate::Procedure;
//!
//! // Five thresholds from strict to lax.
//! let p = [0.001, 0.02, 0.06, 0.2, 0.04];
//! let rejected = |procedure, starts: &[usize]| -> Vec<usize> {
//!     let tested = test(procedure, &p, &[0, 1, 2, 3, 4], starts, 0.1);
//!     tested.iter().filter(|one| one.rejected).map(|one| one.candidate).collect()
//! };
//! // Each at 0.1, to the first failure: the last one isn't reached.
//! assert_eq!(rejected(Procedure::FixedSequence, &[0]), [0, 1, 2]);
//! // All at 0.1 / 5; Holm goes on at 0.1 / 4 after the first rejection.
//! assert_eq!(rejected(Procedure::Bonferroni, &[]), [0, 1]);
//! assert_eq!(rejected(Procedure::Holm, &[]), [0, 1]);
//! // Two sequences at 0.05 each.
//! assert_eq!(rejected(Procedure::MultiStart { starts: 2 }, &[0, 4]), [0, 1, 4]);
//! ```

use stage1_core::certificate::Procedure;

/// A threshold that was tested, and whether its hypothesis "the constraints don't hold" was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tested {
    /// Index into the p-values.
    pub candidate: usize,
    /// Whether it was rejected.
    pub rejected: bool,
}

/// Tests the candidates that `order` lists, by their `p` values, and returns them in the order of testing. `starts` are
/// positions in `order` where sequences start, each tested at `level` / starts; procedures without sequences ignore it.
///
/// The order and the starts must have been fixed without looking at what the p-values were computed from.
///
/// # Panics
/// If `order` or `starts` name what isn't there.
pub fn test(
    procedure: Procedure,
    p: &[f64],
    order: &[usize],
    starts: &[usize],
    level: f64,
) -> Vec<Tested> {
    match procedure {
        Procedure::Bonferroni => bonferroni(p, order, level),
        Procedure::Holm => holm(p, order, level),
        _ => sequences(p, order, starts, level / starts.len().max(1) as f64),
    }
}

/// The level of one test where `tests` are planned; for Holm the first.
pub fn level_of_one(procedure: Procedure, tests: usize, level: f64) -> f64 {
    let share = match procedure {
        Procedure::FixedSequence => 1,
        Procedure::MultiStart { starts } => starts.clamp(1, tests.max(1)),
        _ => tests.max(1),
    };
    level / share as f64
}

/// From each start onward to the first failure. What an earlier sequence has tested ends a later one: both go on from a
/// rejection alike.
fn sequences(p: &[f64], order: &[usize], starts: &[usize], level: f64) -> Vec<Tested> {
    let mut is_tested = vec![false; order.len()];
    let mut tested = Vec::new();
    for start in starts {
        for (at, candidate) in order.iter().enumerate().skip(*start) {
            if std::mem::replace(&mut is_tested[at], true) {
                break;
            }
            let rejected = p[*candidate] <= level;
            tested.push(Tested {
                candidate: *candidate,
                rejected,
            });
            if !rejected {
                break;
            }
        }
    }
    tested
}

fn bonferroni(p: &[f64], order: &[usize], level: f64) -> Vec<Tested> {
    let one = |candidate: &usize| Tested {
        candidate: *candidate,
        rejected: p[*candidate] <= level / order.len() as f64,
    };
    order.iter().map(one).collect()
}

fn holm(p: &[f64], order: &[usize], level: f64) -> Vec<Tested> {
    let mut rising = order.to_vec();
    rising.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let m = rising.len();
    let passes = |(i, candidate): &(usize, &usize)| p[**candidate] <= level / (m - i) as f64;
    let rejections = rising.iter().enumerate().take_while(passes).count();
    let one = |(i, candidate)| Tested {
        candidate,
        rejected: i < rejections,
    };
    rising.into_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(procedure: Procedure, p: &[f64], starts: &[usize]) -> Vec<usize> {
        let order: Vec<usize> = (0..p.len()).collect();
        let tested = test(procedure, p, &order, starts, 0.1);
        let mut rejected: Vec<usize> = tested
            .iter()
            .filter(|t| t.rejected)
            .map(|t| t.candidate)
            .collect();
        rejected.sort_unstable();
        rejected
    }

    #[test]
    fn each_procedure_rejects_what_its_definition_says() {
        let p = [0.09, 0.001, 0.024, 0.04, 0.2, 0.012];
        let several = Procedure::MultiStart { starts: 2 };
        let cases = [
            (
                Procedure::FixedSequence,
                vec![0],
                vec![0, 1, 2, 3],
                "to the first failure",
            ),
            (Procedure::FixedSequence, vec![4], vec![], "a bad start"),
            (several, vec![0, 1], vec![1, 2, 3], "each at half the level"),
            (several, vec![1, 2], vec![1, 2, 3], "overlapping"),
            (Procedure::Bonferroni, vec![], vec![1, 5], "p ≤ 0.1 / 6"),
            (
                Procedure::Holm,
                vec![],
                vec![1, 2, 5],
                "0.1/6, 0.1/5, 0.1/4, then 0.04 > 0.1/3",
            ),
        ];
        for (procedure, starts, want, name) in cases {
            assert_eq!(rejected(procedure, &p, &starts), want, "{name}");
        }
    }

    #[test]
    fn what_is_not_in_the_order_is_not_tested() {
        for procedure in [Procedure::Holm, Procedure::Bonferroni] {
            let tested = test(procedure, &[0.0, 0.0, 0.04], &[2, 0], &[], 0.1);
            assert!(tested.iter().all(|t| t.rejected && t.candidate != 1));
            assert_eq!(tested.len(), 2);
        }
    }
}
