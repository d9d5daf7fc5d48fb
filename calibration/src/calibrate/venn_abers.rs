//! Inductive Venn–Abers prediction (Vovk, Petej & Fedorova 2015).

use super::binary::{Tied, check_two_classes, tie_groups};
use super::isotonic::ranks;
use stage1_core::policy::{Fallback, VennAbersSteps};

/// The steps of p₀ and p₁ for margins s = z₁ − z₀; `labels` says whether the class is 1.
///
/// For two classes only: with more, one predictor per class gives no probabilities that sum to one, and dividing by their
/// sum gives up what Venn–Abers promises.
///
/// # Errors
/// A [`Fallback`]: no rows, one class, or margins that don't rank the labels.
pub fn venn_abers(margins: &[f64], labels: &[bool]) -> Result<VennAbersSteps, Fallback> {
    check_two_classes(labels)?;
    let groups = tie_groups(margins, labels);
    if !ranks(&groups) {
        return Err(Fallback::SlopeNotPositive);
    }
    let margin = |i: usize| groups[i].margin;
    let with_one = with_a_one(&groups);
    // Turned around, with the classes exchanged, a row of class 0 is a row of class 1.
    let turned: Vec<Tied> = groups
        .iter()
        .rev()
        .map(|group| Tied {
            margin: -group.margin,
            ones: group.rows - group.ones,
            ..*group
        })
        .collect();
    let with_zero = with_a_one(&turned).into_iter().rev();
    // A new margin between two tie groups joins the upper one with label 1, and the lower one with label 0.
    let p1 = with_one
        .iter()
        .map(|slope| slope.rise as f64 / slope.run as f64);
    let p0 = with_zero.map(|slope| (slope.run - slope.rise) as f64 / slope.run as f64);
    let mut p1 = steps(p1.enumerate().map(|(i, p)| [margin(i), p]).rev());
    p1.reverse();
    Ok(VennAbersSteps {
        p0: steps(p0.enumerate().map(|(i, p)| [margin(i), p])),
        p1,
    })
}

/// The first of each run of equal values.
fn steps(values: impl Iterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    let mut steps: Vec<[f64; 2]> = Vec::new();
    for [margin, p] in values {
        if steps
            .last()
            .is_none_or(|last| last[1].total_cmp(&p).is_ne())
        {
            steps.push([margin, p]);
        }
    }
    steps
}

/// A point of a cumulative sum diagram, or the way from one to another: rows, and rows of class 1 among them.
#[derive(Clone, Copy)]
struct Way {
    run: i64,
    rise: i64,
}

impl Way {
    fn to(self, other: Self) -> Self {
        Self {
            run: other.run - self.run,
            rise: other.rise - self.rise,
        }
    }

    /// Positive if `next` turns left of `self`.
    fn turn(self, next: Self) -> i128 {
        i128::from(self.run) * i128::from(next.rise) - i128::from(self.rise) * i128::from(next.run)
    }
}

/// For each tie group, the isotonic rate there if one more row of class 1 joins it: the slope over the group of the
/// greatest convex minorant of the cumulative sum diagram with that row. Algorithms 1 and 2 of the paper: as the row
/// moves from group to group, what lies before it sinks by (1, 1), and only the minorant's corner before it changes.
fn with_a_one(groups: &[Tied]) -> Vec<Way> {
    let mut ends = vec![Way { run: 0, rise: 0 }];
    for group in groups {
        let Way { run, rise } = ends[ends.len() - 1];
        ends.push(Way {
            run: run + group.rows as i64,
            rise: rise + group.ones as i64,
        });
    }
    let sunk = |end: Way| Way {
        run: end.run - 1,
        rise: end.rise - 1,
    };
    let mut corners = vec![sunk(ends[0])];
    for end in &ends[1..] {
        push_corner(&mut corners, *end);
    }
    // The first corner last, where a stack has its top.
    corners.reverse();
    let mut rates = Vec::with_capacity(groups.len());
    for end in &ends[1..] {
        let [.., after, before] = corners[..] else {
            unreachable!("the diagram's end is a corner that is never popped")
        };
        rates.push(before.to(after));
        let moved = sunk(*end);
        if before.to(after).turn(before.to(moved)) < 0 {
            corners.pop();
            push_corner(&mut corners, moved);
        }
    }
    rates
}

/// Puts `point` on the stack of a convex chain, taking off what isn't a corner any more.
fn push_corner(corners: &mut Vec<Way>, point: Way) {
    while let [.., second, first] = corners[..] {
        let turn = if second.run < first.run {
            second.to(first).turn(first.to(point))
        } else {
            point.to(first).turn(first.to(second))
        };
        if turn > 0 {
            break;
        }
        corners.pop();
    }
    corners.push(point);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::isotonic::isotonic;
    use crate::counter::below;

    /// By definition: isotonic regression with the new row in it.
    fn slow(margins: &[f64], labels: &[bool], s: f64, label: bool) -> f64 {
        let margins = [margins, &[s]].concat();
        let labels = [labels, &[label]].concat();
        match isotonic(&margins, &labels) {
            Ok(curve) => curve.rate(s),
            // One pool.
            Err(_) => labels.iter().filter(|one| **one).count() as f64 / labels.len() as f64,
        }
    }

    #[test]
    fn the_steps_are_isotonic_regressions_with_one_more_row() {
        for seed in 0..200 {
            let n = 2 + below(30, seed, 0, 0);
            // Few distinct margins on even seeds, so that there are many ties.
            let values = if seed % 2 == 0 { 6 } else { 1000 };
            let margins: Vec<f64> = (0..n).map(|i| below(values, seed, 1, i) as f64).collect();
            let labels: Vec<bool> = margins
                .iter()
                .enumerate()
                .map(|(i, s)| below(values, seed, 2, i as u64) as f64 * 0.7 < *s)
                .collect();
            let Ok(steps) = venn_abers(&margins, &labels) else {
                assert!(isotonic(&margins, &labels).is_err(), "{seed}");
                continue;
            };
            let tries = margins.iter().flat_map(|s| [*s, s - 0.5, s + 0.5]);
            for s in tries.chain([-1e9, 1e9]) {
                let (p0, p1) = steps.interval(s);
                let want = [false, true].map(|label| slow(&margins, &labels, s, label));
                assert!(
                    (p0 - want[0]).abs() < 1e-12 && (p1 - want[1]).abs() < 1e-12,
                    "{seed}: at {s}: {p0} {p1}, want {want:?}"
                );
            }
        }
    }
}
