//! Generated problems against SciPy 1.17 (BFGS to a gradient of 1e-12, then Newton steps) and scikit-learn's isotonic
//! regression: numbers of others, beside those of the golden files.

use crate::golden::close;
use stage1_calibration::calibrate::{
    Structured, affine, beta, isotonic, platt, quadratic, sms, svs, temperature, vector, venn_abers,
};
use stage1_calibration::rows::Labelled;
use stage1_core::logits::LogitSet;
use stage1_core::policy::Calibrator;

/// Knuth's linear congruential generator: anyone can draw the same numbers in [0, 1).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }
}

/// Margins in sixteenths, with ties; log-odds 0.4 + 0.6·s − 0.03·s².
fn two_classes(n: usize, seed: u64) -> (Vec<f64>, Vec<bool>) {
    let mut draws = Draws(seed);
    let row = |_| {
        let s = (160.0 * draws.next() - 70.0).floor() / 16.0;
        let logit = 0.6 * s - 0.03 * s * s + 0.4;
        (s, draws.next() < 1.0 / (1.0 + (-logit).exp()))
    };
    (0..n).map(row).unzip()
}

/// Logits in sixteenths; labels drawn from a softmax that scales each logit otherwise and mixes in its neighbour.
fn several_classes(n: usize, classes: usize, seed: u64) -> (Vec<f32>, Vec<usize>) {
    let mut draws = Draws(seed);
    let (mut logits, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let z: Vec<f64> = (0..classes)
            .map(|_| (128.0 * draws.next() - 64.0).floor() / 16.0)
            .collect();
        let scaled = |k: usize| {
            (0.3 + 0.1 * (k % 4) as f64) * z[k] + 0.15 * z[(k + 1) % classes] + 0.2 * (k % 3) as f64
        };
        let scaled: Vec<f64> = (0..classes).map(scaled).collect();
        let max = scaled.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scaled.iter().map(|u| (u - max).exp()).collect();
        let mut left = draws.next() * weights.iter().sum::<f64>();
        let mut label = 0;
        while label < classes - 1 && left >= weights[label] {
            left -= weights[label];
            label += 1;
        }
        logits.extend(z.iter().map(|z| *z as f32));
        labels.push(label);
    }
    (logits, labels)
}

const ABS: f64 = 1e-7;

#[test]
fn two_classes_have_the_optima_of_scipy() {
    let (margins, labels) = two_classes(400, 11);
    assert_eq!(labels.iter().filter(|y| **y).count(), 250);
    let same = |got: &[f64], want: &[f64], what: &str| {
        std::iter::zip(got, want).for_each(|(got, want)| close(*got, *want, 0.0, ABS, what));
    };
    let (a, b) = platt(&margins, &labels).unwrap();
    same(&[a, b], &PLATT, "platt");
    let (a, b) = affine(&margins, &labels).unwrap();
    same(&[a, b], &AFFINE, "affine");
    same(
        &quadratic(&margins, &labels).unwrap(),
        &QUADRATIC,
        "quadratic",
    );
    same(&beta(&margins, &labels).unwrap(), &BETA, "beta");

    let columns: Vec<f32> = margins.iter().map(|s| *s as f32).collect();
    let classes: Vec<usize> = labels.iter().map(|y| usize::from(*y)).collect();
    let t = temperature(Labelled {
        logits: &LogitSet::binary_columns(&columns),
        classes: 2,
        labels: &classes,
    });
    close(t.unwrap(), 1.636892303796, 0.0, ABS, "temperature");

    let curve = isotonic(&margins, &labels).unwrap();
    let steps = venn_abers(&margins, &labels).unwrap();
    // s, the isotonic rate there, and the rates after one more row of class 0 or 1 at s.
    let at = [
        (-4.4, 0.0, 0.0, 0.133333333333),
        (-3.01, 0.222222222222, 0.214285714286, 0.234375),
        (-1.7, 0.368421052632, 0.35, 0.4),
        (0.03, 0.611111111111, 0.594594594595, 0.621621621622),
        (0.5, 0.611111111111, 0.594594594595, 0.621621621622),
        (1.9, 0.769230769231, 0.740740740741, 0.777777777778),
        (3.3, 0.957526881720, 0.901639344262, 0.96875),
        (5.6, 1.0, 0.981818181818, 1.0),
    ];
    for (s, rate, p0, p1) in at {
        close(curve.rate(s), rate, 0.0, 1e-11, "isotonic");
        let got = steps.interval(s);
        same(&[got.0, got.1], &[p0, p1], "venn-abers");
        close(
            steps.probability(s),
            p1 / (1.0 - p0 + p1),
            0.0,
            1e-11,
            "venn-abers",
        );
    }
}

const PLATT: [f64; 2] = [0.607535433503, 0.487279036503];
const AFFINE: [f64; 2] = [0.620626854252, 0.492112021092];
const QUADRATIC: [f64; 3] = [0.308562412304, 0.638430146087, 0.041355028467];
const BETA: [f64; 3] = [0.397533827711, 0.882600532858, -0.045819574331];

struct Problem {
    classes: usize,
    rows: usize,
    seed: u64,
    temperature: f64,
    /// Mean negative log-likelihood at the optimum, then the first parameters.
    vector: (f64, [f64; 4]),
    svs: (f64, [f64; 4]),
    sms: (f64, [f64; 4]),
    /// The first biases of SMS.
    sms_biases: [f64; 3],
}

#[test]
fn several_classes_have_the_optima_of_scipy() {
    let problems = [
        Problem {
            classes: 5,
            rows: 500,
            seed: 12,
            temperature: 2.9305518293740,
            vector: (
                1.3726148018073,
                [
                    0.1684800384427,
                    0.2921501526960,
                    0.4913090614283,
                    0.4472542311616,
                ],
            ),
            svs: (
                1.3864645068902,
                [
                    0.6214819597990,
                    0.9738410647708,
                    1.2551035115826,
                    1.2139394712199,
                ],
            ),
            sms: (
                1.3652284695943,
                [
                    0.6616603544442,
                    0.1392623405634,
                    -0.0275369610643,
                    -0.0189627357779,
                ],
            ),
            sms_biases: [-0.1029010586262, -0.0978854064312, 0.2003032884406],
        },
        Problem {
            classes: 20,
            rows: 3000,
            seed: 13,
            temperature: 2.2197460427027,
            vector: (
                2.5489606069494,
                [
                    0.2453930954797,
                    0.4221800541485,
                    0.4442192353382,
                    0.5891531065169,
                ],
            ),
            svs: (
                2.5618739233551,
                [
                    0.6729536422965,
                    0.9838066565171,
                    1.0182679757297,
                    1.1429690096388,
                ],
            ),
            sms: (
                2.5429904452236,
                [
                    0.6742266639237,
                    0.0491345910133,
                    0.0155320284376,
                    -0.0237365891220,
                ],
            ),
            sms_biases: [-0.0907853155757, -0.0039211634870, 0.2251022486173],
        },
    ];
    for problem in &problems {
        check(problem);
    }
}

fn check(problem: &Problem) {
    let (logits, labels) = several_classes(problem.rows, problem.classes, problem.seed);
    let rows = Labelled {
        logits: &logits,
        classes: problem.classes,
        labels: &labels,
    };
    let t = temperature(rows).unwrap();
    close(t, problem.temperature, 0.0, ABS, "temperature");
    let (weights, biases) = vector(rows).unwrap();
    assert!(biases.iter().sum::<f64>().abs() < 1e-9, "{biases:?}");
    let parameters = |got: &[f64], want: &[f64], what: &str| {
        std::iter::zip(got, want).for_each(|(got, want)| close(*got, *want, 0.0, 1e-6, what));
    };
    parameters(&weights, &problem.vector.1, "vector");
    let fitted = Calibrator::Vector { weights, biases };
    let losses = (0..rows.n()).map(|i| fitted.log_loss(rows.row(i), labels[i]));
    let nll = losses.sum::<f64>() / rows.n() as f64;
    close(nll, problem.vector.0, 0.0, 1e-12, "vector");

    let structured = |fit: &Structured, want: &(f64, [f64; 4]), what: &str| {
        close(fit.objective, want.0, 0.0, 1e-12, what);
        parameters(&fit.weights, &want.1, what);
    };
    structured(&svs(rows).unwrap(), &problem.svs, "svs");
    let fit = sms(rows).unwrap();
    structured(&fit, &problem.sms, "sms");
    parameters(&fit.biases, &problem.sms_biases, "sms");
}
