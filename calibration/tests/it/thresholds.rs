//! Risk control at many thresholds against MAPIE and SciPy: which thresholds Bonferroni and Holm certify, and the
//! false-positive rate in closed form.

use crate::golden::{Node, check_files, close, is_json_named};
use stage1_calibration::binomial::{cdf, min_rows};
use stage1_calibration::certify::count;
use stage1_calibration::monotone::{Threshold, false_positive_threshold};
use stage1_calibration::procedure;
use stage1_core::certificate::{Constraint, Procedure};
use stage1_core::policy::Threshold as Sides;

#[test]
fn certified_thresholds_are_those_of_the_reference() {
    let exceptions = [(
        "*#sets.cases.mapie*",
        "informational: the code rounds n·(k/n) up and compares strictly",
    )];
    check_files(
        "thresholds",
        |path| is_json_named(path, "ltt_thresholds"),
        &exceptions,
        |file| {
            // Read, so that a file of another convention is seen.
            assert_eq!(file.str("rule"), "predict positive iff p>=t");
            assert_eq!(file.str("tolerance"), "threshold sets exact");
            for set in file.list("sets") {
                let rows = Rows::of(&set);
                set.list("cases").iter().for_each(|case| rows.grid(case));
                let closed = set.list("fpr_fixed_sequence");
                closed.iter().for_each(|case| rows.closed_form(case));
            }
        },
    );
}

struct Rows {
    p: Vec<f64>,
    labels: Vec<usize>,
}

impl Rows {
    fn of(set: &Node<'_>) -> Self {
        let rows = Self {
            p: set.floats("p"),
            labels: set.counts("y"),
        };
        assert_eq!(set.u64("n"), rows.p.len() as u64);
        rows
    }

    /// The answers where nobody is deferred.
    fn answers(&self, high: f64) -> impl Iterator<Item = (Option<usize>, usize)> {
        let sides = Sides::TwoSided {
            low: high.next_down(),
            high,
        };
        let rows = self.p.iter().zip(&self.labels);
        rows.map(move |(p, label)| (sides.answer(*p, 0), *label))
    }

    /// The thresholds 0, .01, … .99, all tested.
    fn grid(&self, case: &Node<'_>) {
        let level = case.f64("level");
        let constraint = match case.str("risk") {
            "precision" => Constraint::Precision {
                class: 1,
                alpha: 1.0 - level,
            },
            "recall" => Constraint::Fnr {
                alpha: 1.0 - level,
                defer_as_error: false,
            },
            "fpr" => Constraint::Fpr {
                alpha: level,
                defer_as_error: false,
            },
            "accuracy" => Constraint::SelectiveError { alpha: 1.0 - level },
            other => panic!("risk {other}"),
        };
        let procedure = match case.str("fwer") {
            "bonferroni" => Procedure::Bonferroni,
            "bonferroni_holm" | "holm" => Procedure::Holm,
            other => panic!("fwer {other}"),
        };
        let delta = 1.0 - case.f64("confidence");
        let grid: Vec<f64> = (0..100).map(|j| f64::from(j) / 100.0).collect();
        let p = |t: &f64| {
            let count = count(constraint, self.answers(*t));
            cdf(count.errors, count.total, constraint.alpha())
        };
        let p: Vec<f64> = grid.iter().map(p).collect();
        let order: Vec<usize> = (0..grid.len()).collect();
        let tested = procedure::test(procedure, &p, &order, &[], delta);
        let mut valid: Vec<f64> = tested
            .iter()
            .filter(|one| one.rejected)
            .map(|one| grid[one.candidate])
            .collect();
        valid.sort_unstable_by(f64::total_cmp);
        let name = format!(
            "{constraint:?} at {delta} by {procedure:?}, {} rows",
            self.p.len()
        );
        assert_eq!(valid, case.floats("valid_thresholds"), "{name}");
        let least = p.iter().copied().fold(1.0, f64::min);
        close(least, case.f64("min_p"), 1e-9, 0.0, &name);
    }

    fn closed_form(&self, case: &Node<'_>) {
        let (alpha, delta) = (case.f64("alpha"), case.f64("delta"));
        let rows = self.p.iter().zip(&self.labels);
        let negatives: Vec<f64> = rows.filter(|row| *row.1 == 0).map(|row| *row.0).collect();
        let name = format!("fpr {alpha} at {delta}, {} negatives", negatives.len());
        assert_eq!(case.u64("n_neg"), negatives.len() as u64, "{name}");
        assert_eq!(
            case.u64("needed_n_neg"),
            min_rows(0, alpha, delta),
            "{name}"
        );
        let got = false_positive_threshold(&negatives, alpha, delta).unwrap();
        match (got, case.bool("feasible")) {
            (
                Threshold::Found {
                    at_least, errors, ..
                },
                true,
            ) => {
                assert_eq!(errors, case.u64("false_pos"), "{name}");
                // The reference names the smallest score of any row that is not below.
                let named = self.p.iter().copied().filter(|p| *p >= at_least);
                let named = named.reduce(f64::min);
                assert_eq!(named, case.optional("threshold"), "{name}");
            }
            (Threshold::TooFew { needed }, false) => {
                assert_eq!(needed, case.u64("needed_n_neg"), "{name}");
                assert_eq!(case.optional("threshold"), None, "{name}");
                assert_eq!(case.optional("false_pos"), None, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}
