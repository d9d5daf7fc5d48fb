use super::*;
use crate::counter::{below, uniform};
use CalibratorChoice as C;
use Fallback::*;
use stage1_core::logits::LogitSet;

struct Case {
    name: &'static str,
    /// `[n, classes]`
    logits: Vec<f32>,
    classes: usize,
    labels: Vec<usize>,
    /// In the order of [`BINARY`] or [`MULTI`].
    want: Vec<Option<Fallback>>,
}

const BINARY: [C; 9] = [
    C::Temperature,
    C::TsMix,
    C::Platt,
    C::Affine,
    C::Beta,
    C::Quadratic,
    C::Isotonic,
    C::VennAbers,
    C::Auto,
];
const MULTI: [C; 6] = [C::Temperature, C::TsMix, C::Vector, C::Svs, C::Sms, C::Auto];

/// None of the families can be fitted, for one reason.
fn all(reason: Fallback, families: usize) -> Vec<Option<Fallback>> {
    vec![Some(reason); families]
}

fn check(families: &[C], case: &Case) {
    let rows = Labelled {
        logits: &case.logits,
        classes: case.classes,
        labels: &case.labels,
    };
    assert_eq!(families.len(), case.want.len(), "{}", case.name);
    for (choice, want) in families.iter().zip(&case.want) {
        let fit = fit(rows, None, 1, *choice).unwrap();
        let name = format!("{}, {choice:?}: {fit:?}", case.name);
        assert_eq!(fit.fallback, *want, "{name}");
        assert!(
            want.is_none() || fit.calibrator == Calibrator::None,
            "{name}"
        );
        fit.calibrator.validate(case.classes).expect(&name);
        for value in [0.0, 1.0, -1e30, f32::MAX] {
            let mut logits = vec![0.0; case.classes];
            logits[1] = value;
            let p = fit.calibrator.probabilities(&logits);
            assert!(p.iter().all(|p| (0.0..=1.0).contains(p)), "{name}: {p:?}");
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{name}: {p:?}");
            let losses = (0..case.classes).map(|label| fit.calibrator.log_loss(&logits, label));
            assert!(losses.into_iter().all(|loss| loss > -1e-12), "{name}");
        }
    }
}

fn binary(
    name: &'static str,
    margins: &[f32],
    labels: Vec<usize>,
    want: Vec<Option<Fallback>>,
) -> Case {
    Case {
        name,
        logits: LogitSet::binary_columns(margins),
        classes: 2,
        labels,
        want,
    }
}

#[test]
fn degenerate_data_of_two_classes_gives_a_reason_and_never_nan() {
    let alternating: Vec<usize> = (0..40).map(|i| i % 2).collect();
    // Four of forty are wrong.
    let sure = |size: f32| -> Vec<f32> {
        let margin = |(i, y): (usize, &usize)| if (i < 4) ^ (*y == 1) { size } else { -size };
        alternating.iter().enumerate().map(margin).collect()
    };
    let slope = Some(SlopeNotPositive);
    let separable = Some(Separable);
    let border = Some(AtBoundary);
    let cases = [
        binary("no rows", &[], vec![], all(NoRows, 9)),
        binary(
            "one class",
            &[1.0, -2.0, 3.0],
            vec![1, 1, 1],
            all(OneClass, 9),
        ),
        binary(
            "one row",
            &[1.0],
            vec![1],
            [all(OneClass, 8), vec![Some(TooFewRows)]].concat(),
        ),
        binary(
            "all correct",
            &[1.0, 2.0, -1.0, -2.0],
            vec![1, 1, 0, 0],
            // Smoothed targets and pooled rates have an optimum even here.
            vec![
                separable, separable, None, separable, separable, separable, None, None, None,
            ],
        ),
        binary(
            "all wrong",
            &[1.0, 2.0, -1.0, -2.0],
            vec![0, 0, 1, 1],
            all(SlopeNotPositive, 9),
        ),
        binary(
            "constant logits",
            &[0.0; 40],
            alternating.clone(),
            vec![
                border, border, slope, slope, slope, slope, slope, slope, border,
            ],
        ),
        binary(
            "two huge logits",
            &sure(1e30),
            alternating.clone(),
            vec![
                border,
                border,
                None,
                None,
                None,
                Some(TooFewValues),
                None,
                None,
                None,
            ],
        ),
        binary(
            "two tiny logits",
            &sure(1e-30),
            alternating.clone(),
            vec![
                border,
                border,
                None,
                None,
                None,
                Some(TooFewValues),
                None,
                None,
                None,
            ],
        ),
        binary(
            "a class in the middle",
            &[-2.0, -1.0, 0.0, 1.0, 1.5],
            vec![0, 0, 1, 1, 0],
            vec![None, None, None, None, None, separable, None, None, None],
        ),
    ];
    for case in cases {
        check(&BINARY, &case);
    }
}

#[test]
fn huge_logits_of_many_values_are_fitted() {
    for size in [1e30, 1e-30] {
        let margins: Vec<f32> = (0..60).map(|i| (i as f32 - 30.0) * size).collect();
        let labels: Vec<usize> = (0..60)
            .map(|i| usize::from((i > 30) ^ (i % 7 == 0)))
            .collect();
        let border = Some(AtBoundary);
        let want = vec![border, border, None, None, None, None, None, None, None];
        check(&BINARY, &binary("many values", &margins, labels, want));
    }
}

#[test]
fn degenerate_data_of_several_classes_gives_a_reason_and_never_nan() {
    /// Rows of three classes whose logit `size` is at the label, but for every fifth row.
    fn noisy(n: usize, size: f32) -> (Vec<f32>, Vec<usize>) {
        let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
        let mut logits = vec![0.0; 3 * n];
        for (i, label) in labels.iter().enumerate() {
            let at = if i % 5 == 0 {
                label + 1 + i / 5 % 2
            } else {
                *label
            };
            logits[3 * i + at % 3] = size * (1.0 + (i % 4) as f32);
        }
        (logits, labels)
    }
    let case = |name, (logits, labels): (Vec<f32>, Vec<usize>), want| Case {
        name,
        logits,
        classes: 3,
        labels,
        want,
    };
    let only = |i: usize, reason: Fallback| {
        let mut want = vec![None; 6];
        want[i] = Some(reason);
        want
    };
    let rows = |logits: &[[f32; 3]], labels: &[usize]| (logits.concat(), labels.to_vec());
    let (mut third_apart, labels) = noisy(60, 1.0);
    for (i, label) in labels.iter().enumerate() {
        // Class 2 and no other has a third logit above 9.
        third_apart[3 * i + 2] = if *label == 2 { 10.0 } else { -10.0 } + (i % 7) as f32 / 10.0;
    }
    let (mut reference, _) = noisy(60, 1.0);
    reference
        .iter_mut()
        .skip(2)
        .step_by(3)
        .for_each(|z| *z = 0.0);
    let (logits, two_labels) = noisy(60, 1.0);
    let two_labels: Vec<usize> = two_labels.iter().map(|label| label % 2).collect();
    let right = rows(
        &[[3.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 4.0]],
        &[0, 1, 2],
    );
    let wrong = rows(
        &[[-3.0, 0.0, 1.0], [0.0, -2.0, 1.0], [0.0, 1.0, -4.0]],
        &[0, 1, 2],
    );
    let constant = (vec![1.5; 90], (0..30).map(|i| i % 3).collect());
    let cases = [
        case("no rows", (vec![], vec![]), all(NoRows, 6)),
        case(
            "one class",
            rows(&[[1.0, 2.0, 3.0]; 9], &[2; 9]),
            all(OneClass, 6),
        ),
        case("all correct", right, all(Separable, 6)),
        case("all wrong", wrong, all(SlopeNotPositive, 6)),
        case("constant logits", constant, all(AtBoundary, 6)),
        case("huge logits", noisy(60, 1e30), all(AtBoundary, 6)),
        case("tiny logits", noisy(60, 1e-38), all(AtBoundary, 6)),
        case(
            "a class without rows",
            (logits, two_labels),
            only(2, ClassWithoutRows),
        ),
        case(
            "a class apart",
            (third_apart, labels.clone()),
            only(2, Separable),
        ),
        case(
            "a constant column",
            (reference, labels),
            only(2, TooFewValues),
        ),
        case("fine", noisy(60, 1.0), vec![None; 6]),
    ];
    for case in cases {
        check(&MULTI, &case);
    }
}

#[test]
fn many_classes_are_too_many_for_a_matrix_and_more_for_unpenalised_weights() {
    many_classes(4000, MOST_SMS_CLASSES + 50, None);
    many_classes(2000, MOST_VECTOR_CLASSES + 50, Some(TooManyClasses));
}

fn many_classes(n: usize, classes: usize, vector: Option<Fallback>) {
    let labels: Vec<usize> = (0..n).map(|i| i % classes).collect();
    let mut logits: Vec<f32> = (0..n * classes)
        .map(|i| 3.0 * uniform(1, 0, i as u64) as f32)
        .collect();
    for (i, label) in labels.iter().enumerate() {
        logits[i * classes + label] += 1.5;
    }
    let mut want = vec![None; 6];
    (want[2], want[4]) = (vector, Some(TooManyClasses));
    check(
        &MULTI,
        &Case {
            name: "many classes",
            logits,
            classes,
            labels,
            want,
        },
    );
}

#[test]
fn a_choice_that_does_not_go_with_the_classes_is_refused() {
    let of = |classes: usize, choice| {
        let logits = vec![0.0; classes];
        let rows = Labelled {
            logits: &logits,
            classes,
            labels: &[0],
        };
        fit(rows, None, 1, choice)
    };
    for choice in [
        C::Platt,
        C::Affine,
        C::Beta,
        C::Quadratic,
        C::Isotonic,
        C::VennAbers,
    ] {
        assert!(matches!(
            of(3, choice),
            Err(Error::Calibrator { classes: 3, .. })
        ));
        assert!(of(2, choice).is_ok());
    }
    for choice in [C::Vector, C::Svs, C::Sms] {
        assert!(matches!(
            of(2, choice),
            Err(Error::Calibrator { classes: 2, .. })
        ));
        assert!(of(3, choice).is_ok());
    }
    for (classes, choice) in [(2, C::Auto), (3, C::Auto), (2, C::TsMix), (3, C::None)] {
        assert!(of(classes, choice).is_ok());
    }
    let rows = Labelled {
        logits: &[0.0; 4],
        classes: 2,
        labels: &[0, 1],
    };
    assert!(matches!(
        fit(rows, Some(&[7]), 1, C::Auto),
        Err(Error::Units { rows: 2, units: 1 })
    ));
}

/// Labels drawn from softmax(scale ⊙ z + shift) of logits z between −4 and 4.
struct Drawn {
    logits: Vec<f32>,
    classes: usize,
    labels: Vec<usize>,
}

impl Drawn {
    fn new(n: usize, seed: u64, scale: &[f64], shift: &[f64]) -> Self {
        let classes = scale.len();
        let logits: Vec<f32> = (0..n * classes)
            .map(|i| (8.0 * uniform(seed, 0, i as u64) - 4.0) as f32)
            .collect();
        let truth = Calibrator::Vector {
            weights: scale.to_vec(),
            biases: shift.to_vec(),
        };
        let label = |(i, row): (usize, &[f32])| {
            let mut left = uniform(seed, 1, i as u64);
            let p = truth.probabilities(row);
            p.iter()
                .position(|p| {
                    left -= p;
                    left < 0.0
                })
                .unwrap_or(classes - 1)
        };
        let labels = logits
            .chunks_exact(classes)
            .enumerate()
            .map(label)
            .collect();
        Self {
            logits,
            classes,
            labels,
        }
    }

    fn rows(&self) -> Labelled<'_> {
        Labelled {
            logits: &self.logits,
            classes: self.classes,
            labels: &self.labels,
        }
    }
}

fn chosen(selection: &Selection) -> C {
    let mut chosen = selection
        .candidates
        .iter()
        .filter(|c| c.verdict == Verdict::Chosen);
    let one = chosen.next().expect("one is chosen").choice;
    assert!(chosen.next().is_none(), "{selection:?}");
    one
}

#[test]
fn auto_takes_the_simplest_that_is_good_enough() {
    struct Case<'a> {
        name: &'a str,
        n: usize,
        scale: &'a [f64],
        shift: &'a [f64],
        want: C,
    }
    let case = |name, n, scale, shift, want| Case {
        name,
        n,
        scale,
        shift,
        want,
    };
    let crooked = [0.3, 1.0, 0.6, 0.8];
    let cases = [
        case(
            "calibrated, two classes",
            2000,
            &[1.0; 2],
            &[0.0; 2],
            C::None,
        ),
        case(
            "overconfident, two classes",
            2000,
            &[0.4; 2],
            &[0.0; 2],
            C::Temperature,
        ),
        case(
            "shifted, two classes",
            2000,
            &[0.5; 2],
            &[0.0, 1.5],
            C::Platt,
        ),
        case("calibrated", 2000, &[1.0; 4], &[0.0; 4], C::None),
        case("overconfident", 2000, &[0.4; 4], &[0.0; 4], C::TsMix),
        case("crooked", 3000, &crooked, &[1.0, -1.0, 0.5, 0.0], C::Svs),
    ];
    // Of ten draws: the one-standard-error rule itself errs now and then.
    for Case {
        name,
        n,
        scale,
        shift,
        want,
    } in cases
    {
        let draws: Vec<C> = (0..10)
            .map(|seed| {
                let drawn = Drawn::new(n, seed, scale, shift);
                let fit = fit(drawn.rows(), None, 3, C::Auto).unwrap();
                assert_eq!(fit.fallback, None, "{name}");
                chosen(&fit.selection.expect("auto says how it chose"))
            })
            .collect();
        let hits = draws.iter().filter(|choice| **choice == want).count();
        assert!(hits >= 8, "{name}: {draws:?}");
    }
}

#[test]
fn auto_tries_what_the_rows_are_enough_for() {
    let tried = |n: usize, scale: &[f64]| -> Vec<C> {
        let drawn = Drawn::new(n, 5, scale, &vec![0.0; scale.len()]);
        let fit = fit(drawn.rows(), None, 3, C::Auto).unwrap();
        let candidates = fit.selection.expect("auto says how it chose").candidates;
        let scored = candidates.iter().filter(|c| c.score.is_some());
        scored.map(|c| c.choice).collect()
    };
    let half = |classes: usize| vec![0.5; classes];
    assert_eq!(tried(299, &half(2)), [C::None, C::Temperature, C::Platt]);
    assert_eq!(
        tried(300, &half(2)),
        [C::None, C::Temperature, C::Platt, C::Beta]
    );
    assert_eq!(tried(39, &half(4)), [C::None, C::TsMix]);
    assert_eq!(tried(40, &half(4)), [C::None, C::TsMix, C::Svs]);
    assert_eq!(tried(200, &half(4)), [C::None, C::TsMix, C::Svs, C::Sms]);
    assert_eq!(tried(1100, &half(21)), [C::None, C::TsMix, C::Svs]);
    // Few rows of one class.
    let drawn = Drawn::new(400, 5, &half(2), &[0.0, -4.0]);
    let ones = drawn.labels.iter().sum::<usize>();
    assert!((5..30).contains(&ones), "{ones}");
    let fit = fit(drawn.rows(), None, 3, C::Auto).unwrap();
    let verdict = fit.selection.unwrap().candidates[3].verdict;
    let want = Verdict::TooFewRows {
        units: 300,
        of_each_class: 30,
    };
    assert_eq!(verdict, want);
}

#[test]
fn auto_keeps_units_together_and_errors_know_it() {
    // Each row eight times, as one unit: the standard errors are those of the rows once.
    let once = Drawn::new(500, 9, &[0.5, 0.5], &[0.0, 0.3]);
    let eight = |i: usize| i / 8;
    let rows = 8 * once.labels.len();
    let logits: Vec<f32> = (0..rows)
        .flat_map(|i| once.rows().row(eight(i)).to_vec())
        .collect();
    let labels: Vec<usize> = (0..rows).map(|i| once.labels[eight(i)]).collect();
    let repeated = Labelled {
        logits: &logits,
        classes: 2,
        labels: &labels,
    };
    let units: Vec<u64> = (0..rows).map(|i| eight(i) as u64).collect();
    let of = |rows, units| fit(rows, units, 3, C::Auto).unwrap().selection.unwrap();
    let single = of(once.rows(), None);
    let grouped = of(repeated, Some(&units));
    assert_eq!((grouped.rows, grouped.units, grouped.folds), (4000, 500, 5));
    for (a, b) in single.candidates.iter().zip(&grouped.candidates) {
        assert_eq!((a.choice, a.verdict), (b.choice, b.verdict));
        let (a, b) = (a.score.unwrap(), b.score.unwrap());
        // Platt's smoothing counts rows: it is a little weaker on eight times as many.
        for (a, b) in [
            (a.mean, b.mean),
            (a.standard_error, b.standard_error),
            (a.excess_standard_error, b.excess_standard_error),
        ] {
            assert!((a - b).abs() < 2e-3, "{a} {b}");
        }
    }
    let ignoring = of(repeated, None);
    let [careful, careless] = [&grouped, &ignoring].map(|s| s.candidates[0].score.unwrap());
    assert!(careless.standard_error < 0.5 * careful.standard_error);
}

#[test]
fn many_rows_are_chosen_on_a_sample_and_fitted_whole() {
    let drawn = Drawn::new(60_000, 2, &[0.5, 0.5, 0.5], &[0.0; 3]);
    let fit_all = fit(drawn.rows(), None, 3, C::Auto).unwrap();
    let selection = fit_all.selection.clone().unwrap();
    assert_eq!(selection.rows, 50_000);
    let whole = fit(drawn.rows(), None, 3, chosen(&selection)).unwrap();
    // Searched from another start.
    for i in 0..100 {
        let p = |fit: &Fit| fit.calibrator.probabilities(drawn.rows().row(i));
        let pairs = std::iter::zip(p(&fit_all), p(&whole));
        pairs
            .into_iter()
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-7, "{selection:?}"));
    }
    // Whole units only.
    let units: Vec<u64> = (0..60_000).map(|i| i / 7000).collect();
    let selection = fit(drawn.rows(), Some(&units), 3, C::Auto)
        .unwrap()
        .selection
        .unwrap();
    assert!(
        [0, 4000].contains(&(selection.rows % 7000)),
        "{selection:?}"
    );
    assert!(selection.rows <= 50_000);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let multi = Drawn::new(40_000, 4, &[0.3, 1.0, 0.6], &[1.0, -1.0, 0.0]);
    let two = Drawn::new(40_000, 4, &[0.3, 0.9], &[1.0, -1.0]);
    let fits = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let of = |rows, choice| fit(rows, None, 3, choice).unwrap();
            let multi =
                [C::Temperature, C::Vector, C::Svs, C::Sms, C::Auto].map(|c| of(multi.rows(), c));
            let two = [C::Beta, C::Quadratic, C::Auto].map(|c| of(two.rows(), c));
            (multi, two)
        })
    };
    assert_eq!(fits(1), fits(3));
}

#[test]
fn a_similar_fit_shortens_the_search_and_changes_nothing() {
    let drawn = Drawn::new(3000, 6, &[0.3, 1.0, 0.6], &[1.0, -1.0, 0.0]);
    let other = Drawn::new(2000, 7, &[0.5, 0.8, 0.6], &[0.0, -1.0, 0.0]);
    for choice in [C::Svs, C::Sms] {
        let similar = family(other.rows(), choice, None).unwrap();
        let warm = family(drawn.rows(), choice, Some(&similar)).unwrap();
        let cold = family(drawn.rows(), choice, None).unwrap();
        for i in 0..50 {
            let row = drawn.rows().row(i);
            let pairs = warm
                .probabilities(row)
                .into_iter()
                .zip(cold.probabilities(row));
            pairs
                .into_iter()
                .for_each(|(a, b)| assert!((a - b).abs() < 1e-7, "{choice:?} {a} {b}"));
        }
    }
}

#[test]
fn scaling_that_made_the_labels_is_found_again() {
    let (scale, shift) = ([0.4, 1.1, 0.7], [0.5, -0.7, 0.2]);
    let drawn = Drawn::new(60_000, 8, &scale, &shift);
    let (weights, biases) = vector(drawn.rows()).unwrap();
    for k in 0..3 {
        // Standard errors are about 0.01.
        assert!((weights[k] - scale[k]).abs() < 0.04, "{weights:?}");
        assert!((biases[k] - shift[k]).abs() < 0.06, "{biases:?}");
    }
    // Logits far from zero are told from biases.
    let far: Vec<f32> = drawn.logits.iter().map(|z| z + 512.0).collect();
    let rows = Labelled {
        logits: &far,
        ..drawn.rows()
    };
    let (moved, _) = vector(rows).unwrap();
    for (a, b) in moved.iter().zip(&weights) {
        // f32 keeps 1/16,384 of logits near 512.
        assert!((a - b).abs() < 1e-4, "{moved:?} {weights:?}");
    }
}

#[test]
fn every_row_may_be_its_own_tie() {
    // 1,000 rows without ties and 1,000 with many: curves have a knot or two per pool, and no more.
    for values in [u64::MAX, 10] {
        let margins: Vec<f64> = (0..1000)
            .map(|i| below(values, 3, 0, i) as f64 / values as f64)
            .collect();
        let labels: Vec<bool> = (0..1000)
            .map(|i| uniform(3, 1, i) < margins[i as usize])
            .collect();
        let curve = isotonic(&margins, &labels).unwrap();
        Calibrator::Isotonic(curve.clone()).validate(2).unwrap();
        let steps = venn_abers(&margins, &labels).unwrap();
        assert!(
            steps.p1.len() < 900 && curve.knots.len() < 200,
            "{}",
            steps.p1.len()
        );
        Calibrator::VennAbers(steps).validate(2).unwrap();
    }
}
