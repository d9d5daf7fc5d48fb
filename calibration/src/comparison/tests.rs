use super::*;
use crate::counter::uniform;

/// An arm that errs with this rate, at random by row and seed, with scores that know of errors a little.
fn arm(name: &str, rows: &Rows, seeds: usize, rate: f64, stream: u64) -> Arm {
    let n = rows.labels.len() as u64;
    let run = |seed: u64| {
        let draw = |row: u64, what| uniform(stream * 1000 + seed, row, what);
        let wrong = |row: &u64| draw(*row, 0) < rate;
        Answers {
            predicted: (0..n)
                .map(|row| rows.labels[row as usize] ^ usize::from(wrong(&row)))
                .collect(),
            score: (0..n)
                .map(|row| draw(row, 1) - 0.3 * f64::from(u8::from(wrong(&row))))
                .collect(),
        }
    };
    Arm {
        name: name.to_owned(),
        runs: (0..seeds as u64).map(run).collect(),
    }
}

fn rows(n: usize, units: Option<Vec<u64>>) -> Rows {
    Rows {
        classes: 2,
        labels: (0..n).map(|row| row % 2).collect(),
        units,
    }
}

fn settings(resamples: usize) -> Settings {
    let mut settings = Settings::new(Measure::Mcc, 0.1, 3);
    settings.bootstrap.resamples = resamples;
    settings
}

#[test]
fn a_clear_difference_is_found_in_its_direction_for_each_measure() {
    let rows = rows(600, None);
    let arms = [
        arm("plain", &rows, 3, 0.2, 1),
        arm("better", &rows, 3, 0.05, 2),
        arm("worse", &rows, 3, 0.4, 3),
        arm("same", &rows, 3, 0.2, 4),
    ];
    let found = compare(&rows, &[1, 2, 3], &arms, 0, &settings(500)).unwrap();
    let verdicts: Vec<_> = found.arms.iter().map(|arm| arm.verdict).collect();
    use Verdict::{Better, Undecided, Worse};
    assert_eq!(verdicts, [None, Some(Better), Some(Worse), Some(Undecided)]);
    for measure in Measure::ALL {
        let of = |arm: usize| &found.arms[arm].differences[&measure];
        assert_eq!(of(1).verdict, Better, "{measure:?}");
        assert_eq!(of(2).verdict, Worse, "{measure:?}");
        assert_eq!(of(1).seeds_agree, 3);
        let inside = |d: &Difference| d.low <= d.estimate && d.estimate <= d.high;
        assert!((1..4).all(|arm| inside(of(arm))), "{measure:?}");
    }
    assert!(
        found
            .arms
            .iter()
            .all(|arm| arm.measures[&Measure::Augrc].mean >= 0.0)
    );
    assert_eq!((found.rows, found.units), (600, 600));
    assert!(found.arms[1].mcnemar.iter().all(|test| test.p < 0.001));
}

/// Equal arms: of many comparisons, few may find a difference, whatever the number of arms.
#[test]
fn equal_arms_are_rarely_told_apart() {
    let (mut found, comparisons) = (0, 60);
    for round in 0..comparisons {
        let rows = rows(200, None);
        let arms: Vec<_> = (0..4)
            .map(|n| arm("any", &rows, 3, 0.2, 10 + round * 10 + n))
            .collect();
        let result = compare(&rows, &[1, 2, 3], &arms, 0, &settings(200)).unwrap();
        let decided = |arm: &ArmResult| !matches!(arm.verdict, None | Some(Verdict::Undecided));
        found += u32::from(result.arms.iter().any(decided));
    }
    // The percentile bootstrap is a little too sure of itself: at 8 %, more than 12 of 60 have a chance below 1 %.
    assert!(found <= 12, "{found} of {comparisons}");
}

/// Arms that differ in the answers to a few rows, right or wrong alike in all seeds.
fn few(rows: &Rows, gained: &[usize], lost: &[usize]) -> [Arm; 2] {
    let plain = arm("plain", rows, 1, 0.2, 1).runs.remove(0);
    let (mut base, mut other) = (plain.clone(), plain);
    for row in gained {
        (base.predicted[*row], other.predicted[*row]) = (1 - rows.labels[*row], rows.labels[*row]);
    }
    for row in lost {
        (base.predicted[*row], other.predicted[*row]) = (rows.labels[*row], 1 - rows.labels[*row]);
    }
    [("base", base), ("other", other)].map(|(name, run)| Arm {
        name: name.to_owned(),
        runs: vec![run; 3],
    })
}

#[test]
fn few_rows_on_one_side_are_as_likely_as_so_many_coins() {
    let rows = rows(400, None);
    for k in 1..=8 {
        let arms = few(&rows, &(0..2 * k).step_by(2).collect::<Vec<_>>(), &[]);
        let found = compare(&rows, &[1, 2, 3], &arms, 0, &settings(2000)).unwrap();
        let difference = &found.arms[1].differences[&Measure::Mcc];
        // All of one class: then the exchange moves MCC one way. 2 of 2ᵏ exchanges are as far.
        let want = 2.0_f64.powi(1 - k as i32);
        assert!(
            (difference.p_exchange - want).abs() < 1e-12,
            "{k}: {difference:?}"
        );
        assert!(difference.p >= want && difference.p >= difference.p_bootstrap);
        let verdict = if want <= LEVEL {
            Verdict::Better
        } else {
            Verdict::Undecided
        };
        assert_eq!(difference.verdict, verdict, "{k}: {difference:?}");
    }
    let arms = few(&rows, &[], &[]);
    let none = compare(&rows, &[1, 2, 3], &arms, 0, &settings(200)).unwrap();
    for difference in none.arms[1].differences.values() {
        assert_eq!(
            (difference.p_exchange, difference.verdict),
            (1.0, Verdict::Undecided)
        );
    }
}

/// Where four to nine rows differ, by the toss of a coin each, the bootstrap alone finds a difference in more than a
/// twentieth of comparisons.
#[test]
fn few_rows_that_differ_by_chance_are_rarely_a_difference() {
    let rounds = 300;
    let (mut found, mut by_bootstrap) = ([0; 3], [0; 3]);
    for round in 0..rounds {
        let rows = rows(200, None);
        let differing = 4 + round % 6;
        let (gained, lost): (Vec<usize>, Vec<usize>) = (0..differing)
            .map(|n| 13 * n)
            .partition(|n| uniform(77, round as u64, *n as u64) < 0.5);
        let arms = few(&rows, &gained, &lost);
        let result = compare(&rows, &[1, 2, 3], &arms, 0, &settings(400)).unwrap();
        for (place, measure) in Measure::ALL.into_iter().enumerate() {
            let difference = &result.arms[1].differences[&measure];
            found[place] += u32::from(difference.verdict != Verdict::Undecided);
            by_bootstrap[place] += u32::from(difference.p_bootstrap <= LEVEL);
        }
    }
    // A twentieth of 300 is 15; 23 and more have a chance of 3 %.
    assert!(
        found.iter().all(|count| *count < 23),
        "{found:?} {by_bootstrap:?}"
    );
    assert!(
        found
            .iter()
            .zip(&by_bootstrap)
            .all(|(both, one)| both <= one)
    );
    assert!(by_bootstrap[0] > found[0], "{by_bootstrap:?} {found:?}");
}

#[test]
fn an_exchange_is_of_whole_units() {
    // Five patients of ten images each: all ten gained, or none. Fifty images look like much, five patients aren't.
    let one = rows(200, Some((0..200).map(|row| row / 10).collect()));
    let gained: Vec<_> = (0..50).collect();
    let arms = few(&one, &gained, &[]);
    let p = |rows: &Rows| {
        let found = compare(rows, &[1, 2, 3], &arms, 0, &settings(500)).unwrap();
        found.arms[1].differences[&Measure::Mcc].p_exchange
    };
    assert!((p(&one) - 2.0 / 32.0).abs() < 1e-12);
    assert!(p(&rows(200, None)) < 0.01);
}

#[test]
fn rows_of_a_unit_are_one_draw() {
    let n = 400;
    let width = |units: Option<Vec<u64>>, copies: usize| {
        let one = rows(n, None);
        let arms = [arm("a", &one, 3, 0.2, 1), arm("b", &one, 3, 0.1, 2)];
        // Each row several times over: nothing new is learnt from a copy.
        let repeat = |v: &[f64]| v.iter().flat_map(|x| vec![*x; copies]).collect();
        let again =
            |v: &[usize]| -> Vec<usize> { v.iter().flat_map(|x| vec![*x; copies]).collect() };
        let arms = arms.map(|arm| Arm {
            name: arm.name,
            runs: arm
                .runs
                .iter()
                .map(|run| Answers {
                    predicted: again(&run.predicted),
                    score: repeat(&run.score),
                })
                .collect(),
        });
        let rows = Rows {
            classes: 2,
            labels: again(&one.labels),
            units,
        };
        let found = compare(&rows, &[1, 2, 3], &arms, 0, &settings(500)).unwrap();
        let difference = &found.arms[1].differences[&Measure::Mcc];
        (difference.high - difference.low, found.units)
    };
    let (alone, _) = width(None, 1);
    let units = (0..4 * n as u64).map(|row| row / 4).collect();
    let (grouped, count) = width(Some(units), 4);
    let (ignored, _) = width(None, 4);
    assert_eq!(count, n as u64);
    assert!((grouped / alone - 1.0).abs() < 0.15, "{grouped} {alone}");
    // Counted as independent, four copies look like four times the rows: half the width.
    assert!((ignored / alone - 0.5).abs() < 0.1, "{ignored} {alone}");
}

#[test]
fn the_order_of_rows_and_the_number_of_threads_change_nothing() {
    for units in [
        None,
        Some((0..300).map(|row| row % 37).collect::<Vec<u64>>()),
    ] {
        let rows = rows(300, units);
        let arms = [arm("a", &rows, 3, 0.2, 1), arm("b", &rows, 3, 0.15, 2)];
        let one = compare(&rows, &[1, 2, 3], &arms, 0, &settings(100)).unwrap();
        let order: Vec<_> = (0..300).map(|row| row * 101 % 300).rev().collect();
        let pick = |v: &[usize]| order.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let shuffled = Rows {
            classes: 2,
            labels: pick(&rows.labels),
            units: rows
                .units
                .as_ref()
                .map(|u| order.iter().map(|i| u[*i]).collect()),
        };
        let moved = arms.map(|arm| Arm {
            name: arm.name.clone(),
            runs: arm
                .runs
                .iter()
                .map(|run| Answers {
                    predicted: pick(&run.predicted),
                    score: order.iter().map(|i| run.score[*i]).collect(),
                })
                .collect(),
        });
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        let two = pool
            .install(|| compare(&shuffled, &[1, 2, 3], &moved, 0, &settings(100)))
            .unwrap();
        assert_eq!(one.arms[1].differences, two.arms[1].differences);
    }
}

#[test]
fn holm_steps_down_and_never_falls() {
    let near = |got: Vec<f64>, want: [f64; 4]| {
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{got} for {want}");
        }
    };
    // statsmodels' multipletests(method="holm").
    near(holm(&[0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]);
    near(holm(&[0.5, 0.9, 0.001, 0.6]), [1.0, 1.0, 0.004, 1.0]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn what_does_not_go_together_is_refused() {
    let rows = rows(10, None);
    let fine = [arm("a", &rows, 3, 0.2, 1), arm("b", &rows, 3, 0.2, 2)];
    let mut short = fine.clone();
    short[1].runs[2].predicted.pop();
    let mut fewer = fine.clone();
    fewer[1].runs.pop();
    let mut infinite = fine.clone();
    infinite[0].runs[0].score[3] = f64::NAN;
    let cases = [
        (&short, 0, "b didn't answer all of the 10 rows"),
        (&fewer, 0, "b has 2 trainings for 3 seeds"),
        (&infinite, 0, "a has a score that is no finite number"),
        (&fine, 2, "arm 2 of 2 is no reference"),
    ];
    for (arms, reference, want) in cases {
        let error = compare(&rows, &[1, 2, 3], arms, reference, &settings(10)).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}
