//! Calibrators against scikit-learn, betacal and SciPy.

use crate::golden::{Node, all_close, check_files, close, is_json_named};
use stage1_calibration::calibrate::{
    affine, beta, isotonic, platt, quadratic, sms, svs, temperature, ts_mix, vector,
};
use stage1_calibration::rows::Labelled;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Calibrator, Fallback, IsotonicCurve, sigmoid, softplus};

#[test]
fn binary_calibrators_are_those_of_the_references() {
    check_files(
        "binary calibrators",
        |path| is_json_named(path, "calib_binary"),
        &[],
        |file| {
            for (_, model) in file.get("models").members() {
                let tolerance = Tolerance::new(&file.get("tolerance"));
                Binary::new(&model).check(&model.get("expected"), &tolerance);
            }
        },
    );
}

struct Tolerance {
    params_rel: f64,
    nll_abs: f64,
    p_abs: f64,
    betacal_nll_abs: f64,
    isotonic_abs: f64,
}

impl Tolerance {
    fn new(node: &Node<'_>) -> Self {
        Self {
            params_rel: node.f64("params_rel"),
            nll_abs: node.f64("nll_abs"),
            p_abs: node.f64("p_abs"),
            betacal_nll_abs: node.f64("betacal_nll_abs"),
            isotonic_abs: node.f64("isotonic_abs"),
        }
    }
}

struct Binary {
    calib: Vec<f64>,
    y_calib: Vec<bool>,
    test: Vec<f64>,
    y_test: Vec<bool>,
}

impl Binary {
    fn new(model: &Node<'_>) -> Self {
        let inputs = model.get("inputs");
        let labels = |key| inputs.counts(key).into_iter().map(|y| y == 1).collect();
        Self {
            calib: inputs.floats("logit_calib"),
            y_calib: labels("y_calib"),
            test: inputs.floats("logit_test"),
            y_test: labels("y_test"),
        }
    }

    fn check(&self, expected: &Node<'_>, tolerance: &Tolerance) {
        let scores = expected.get("test_scores");
        let raw = self.on_test(&Calibrator::None);
        self.scores(&raw, &scores.get("raw"), tolerance);
        self.platt(expected, tolerance);
        self.affine(&expected.get("affine_mle"), tolerance);
        self.quadratic(&expected.get("quadratic_mle"), tolerance);
        self.temperature(expected, tolerance);
        self.isotonic(
            &expected.get("isotonic_sklearn"),
            &scores.get("iso"),
            tolerance,
        );
        self.beta(expected, tolerance);
    }

    fn platt(&self, expected: &Node<'_>, tolerance: &Tolerance) {
        let want = expected.get("platt_on_logits_sklearn");
        let (a, b) = platt(&self.calib, &self.y_calib).unwrap();
        close(a, -want.f64("A"), tolerance.params_rel, 0.0, want.path());
        close(b, -want.f64("B"), tolerance.params_rel, 0.0, want.path());
        let p = self.on_test(&Calibrator::Platt { a, b });
        all_close(&p, &want.floats("p_test"), tolerance.p_abs, want.path());
        self.scores(&p, &expected.get("test_scores").get("platt"), tolerance);
    }

    fn affine(&self, want: &Node<'_>, tolerance: &Tolerance) {
        let reference = Calibrator::Affine {
            a: want.f64("a"),
            b: want.f64("b"),
        };
        let Some((a, b)) = self.exists(affine(&self.calib, &self.y_calib), &reference, want) else {
            return;
        };
        self.optimum(&Calibrator::Affine { a, b }, &reference, want, tolerance);
        close(a, want.f64("a"), tolerance.params_rel, 0.0, want.path());
        close(b, want.f64("b"), tolerance.params_rel, 0.0, want.path());
    }

    fn quadratic(&self, want: &Node<'_>, tolerance: &Tolerance) {
        let coefficients = want.floats("coef");
        let reference = Calibrator::Quadratic {
            c: coefficients[..].try_into().unwrap(),
        };
        let fitted = quadratic(&self.calib, &self.y_calib);
        let Some(c) = self.exists(fitted, &reference, want) else {
            return;
        };
        self.optimum(&Calibrator::Quadratic { c }, &reference, want, tolerance);
        for (got, want_c) in c.into_iter().zip(coefficients) {
            close(got, want_c, tolerance.params_rel, 0.0, want.path());
        }
    }

    /// The fit; none if the data are separable, and then the reference's parameters, wherever its search stopped, must
    /// separate them.
    fn exists<T>(
        &self,
        fitted: Result<T, Fallback>,
        reference: &Calibrator,
        want: &Node<'_>,
    ) -> Option<T> {
        match fitted {
            Ok(fit) => Some(fit),
            Err(Fallback::Separable) => {
                want.f64("nll");
                let separated = self.calib.iter().zip(&self.y_calib).all(|(s, y)| {
                    let logit = reference.binary_logit(*s).unwrap();
                    logit.abs() < 1.0 || (logit > 0.0) == *y
                });
                assert!(separated, "{}: not separable", want.path());
                None
            }
            Err(reason) => panic!("{}: {reason:?}", want.path()),
        }
    }

    /// As likely as the reference's optimum, by its own account and by ours.
    fn optimum(
        &self,
        fitted: &Calibrator,
        reference: &Calibrator,
        want: &Node<'_>,
        tolerance: &Tolerance,
    ) {
        let nll = |calibrator: &Calibrator| nll(calibrator, &self.calib, &self.y_calib);
        let (ours, theirs) = (nll(fitted), want.f64("nll"));
        close(ours, theirs, 0.0, tolerance.nll_abs, want.path());
        close(nll(reference), theirs, 0.0, tolerance.nll_abs, want.path());
        assert!(ours <= nll(reference) + 1e-13, "{}", want.path());
    }

    fn temperature(&self, expected: &Node<'_>, tolerance: &Tolerance) {
        let want = expected.get("temperature");
        let margins: Vec<f32> = self.calib.iter().map(|s| *s as f32).collect();
        let labels: Vec<usize> = self.y_calib.iter().map(|y| usize::from(*y)).collect();
        let logits = LogitSet::binary_columns(&margins);
        let rows = Labelled {
            logits: &logits,
            classes: 2,
            labels: &labels,
        };
        let t = temperature(rows).unwrap();
        for key in ["T", "sklearn_T"] {
            close(t, want.f64(key), tolerance.params_rel, 0.0, want.path());
        }
        let fitted = Calibrator::Temperature { t };
        let nll = nll(&fitted, &self.calib, &self.y_calib);
        close(nll, want.f64("nll"), 0.0, tolerance.nll_abs, want.path());
        let p = self.on_test(&fitted);
        all_close(&p, &want.floats("p_test"), tolerance.p_abs, want.path());
        self.scores(&p, &expected.get("test_scores").get("temp"), tolerance);
    }

    fn isotonic(&self, want: &Node<'_>, scores: &Node<'_>, tolerance: &Tolerance) {
        let curve = isotonic(&self.calib, &self.y_calib).unwrap();
        let reference = IsotonicCurve {
            knots: std::iter::zip(want.floats("knots_x"), want.floats("knots_y"))
                .map(|(x, y)| [x, y])
                .collect(),
            rows: curve.rows,
        };
        // The same function: each passes through the other's knots.
        for (one, other) in [(&curve, &reference), (&reference, &curve)] {
            let [x, y] = [0, 1].map(|j| one.knots.iter().map(|k| k[j]).collect::<Vec<f64>>());
            let there: Vec<f64> = x.iter().map(|x| other.rate(*x)).collect();
            all_close(&there, &y, tolerance.isotonic_abs, want.path());
        }
        let p: Vec<f64> = self.test.iter().map(|s| curve.rate(*s)).collect();
        all_close(
            &p,
            &want.floats("p_test"),
            tolerance.isotonic_abs,
            want.path(),
        );
        // The reference keeps rates of 0 and 1 from its logarithms by this much, and not at all from its squares.
        let kept: Vec<f64> = p.iter().map(|p| p.clamp(1e-12, 1.0 - 1e-12)).collect();
        self.scores(&kept, scores, tolerance);
        let reported = self.on_test(&Calibrator::Isotonic(curve.clone()));
        let least = 1.0 / (self.calib.len() as f64 + 2.0);
        let clipped: Vec<f64> = p.iter().map(|p| p.clamp(least, 1.0 - least)).collect();
        all_close(&reported, &clipped, 1e-12, "clipped");
    }

    fn beta(&self, expected: &Node<'_>, tolerance: &Tolerance) {
        let want = expected.get("beta_constrained_mle");
        let [a, b, c] = beta(&self.calib, &self.y_calib).unwrap();
        for (got, key) in [(a, "a"), (b, "b"), (c, "c")] {
            close(got, want.f64(key), tolerance.params_rel, 0.0, want.path());
        }
        let fitted = Calibrator::Beta { a, b, c };
        let ours = nll(&fitted, &self.calib, &self.y_calib);
        close(ours, want.f64("nll"), 0.0, tolerance.nll_abs, want.path());
        let p = self.on_test(&fitted);
        all_close(&p, &want.floats("p_test"), tolerance.p_abs, want.path());
        self.scores(&p, &expected.get("test_scores").get("beta"), tolerance);
        self.betacal(&expected.get("beta_betacal_pkg"), ours, tolerance);
    }

    /// The package's parameters (m is where the curve crosses one half) make its probabilities and its likelihood by our
    /// formula; ours may be likelier.
    fn betacal(&self, package: &Node<'_>, ours: f64, tolerance: &Tolerance) {
        let (a, b, m) = (package.f64("a"), package.f64("b"), package.f64("m"));
        let c = b * (1.0 - m).ln() - a * m.ln();
        let theirs = Calibrator::Beta { a, b, c };
        let p = self.on_test(&theirs);
        all_close(
            &p,
            &package.floats("p_test"),
            tolerance.p_abs,
            package.path(),
        );
        let nll = nll(&theirs, &self.calib, &self.y_calib);
        for nll in [nll, ours] {
            close(
                nll,
                package.f64("nll_calib"),
                0.0,
                tolerance.betacal_nll_abs,
                package.path(),
            );
        }
    }

    fn on_test(&self, fitted: &Calibrator) -> Vec<f64> {
        let p = |s: &f64| sigmoid(fitted.binary_logit(*s).unwrap());
        self.test.iter().map(p).collect()
    }

    fn scores(&self, p: &[f64], want: &Node<'_>, tolerance: &Tolerance) {
        let n = p.len() as f64;
        let hit = |y: &bool| if *y { 1.0 } else { 0.0 };
        let rows = || p.iter().zip(&self.y_test);
        let brier = rows().map(|(p, y)| (p - hit(y)).powi(2)).sum::<f64>() / n;
        let nll = rows()
            .map(|(p, y)| -(1.0 - hit(y) - p).abs().ln())
            .sum::<f64>()
            / n;
        // Parameters that agree to params_rel leave this much room in scores of held-out rows.
        let room = tolerance.nll_abs.max(tolerance.p_abs);
        close(brier, want.f64("brier"), 0.0, room, want.path());
        close(nll, want.f64("nll"), 0.0, room, want.path());
    }
}

fn nll(fitted: &Calibrator, margins: &[f64], labels: &[bool]) -> f64 {
    let of = |(s, y): (&f64, &bool)| {
        let logit = fitted.binary_logit(*s).unwrap();
        softplus(if *y { -logit } else { logit })
    };
    margins.iter().zip(labels).map(of).sum::<f64>() / margins.len() as f64
}

#[test]
fn multiclass_calibrators_are_those_of_the_references() {
    check_files(
        "multi-class calibrators",
        |path| is_json_named(path, "calib_multiclass"),
        &[],
        |file| {
            let inputs = file.get("inputs");
            let sides = Sides {
                calib: Multi::new(&inputs, "logits_calib", "y_calib"),
                test: Multi::new(&inputs, "logits_test", "y_test"),
            };
            let (expected, tolerance) = (file.get("expected"), file.get("tolerance"));
            sides.raw(&expected.get("raw"), &tolerance);
            sides.temperature(&expected.get("temperature"), &tolerance);
            sides.ts_mix(&expected.get("temperature_laplace_mix"), &tolerance);
            sides.vector(&expected.get("vector_scaling_mle"), &tolerance);
            sides.structured(&expected, &tolerance);
        },
    );
}

struct Sides {
    calib: Multi,
    test: Multi,
}

impl Sides {
    fn raw(&self, want: &Node<'_>, tolerance: &Node<'_>) {
        self.likelihoods(&Calibrator::None, want, tolerance.f64("nll_abs"));
        close(
            self.test.accuracy(),
            want.f64("acc_test"),
            0.0,
            1e-12,
            want.path(),
        );
    }

    fn temperature(&self, want: &Node<'_>, tolerance: &Node<'_>) {
        let t = temperature(self.calib.labelled()).unwrap();
        for key in ["T", "sklearn_T"] {
            close(t, want.f64(key), tolerance.f64("T_rel"), 0.0, want.path());
        }
        let fitted = Calibrator::Temperature { t };
        self.likelihoods(&fitted, want, tolerance.f64("nll_abs"));
    }

    fn ts_mix(&self, want: &Node<'_>, tolerance: &Node<'_>) {
        let fitted = Calibrator::TsMix(ts_mix(self.calib.labelled()).unwrap());
        self.likelihoods(&fitted, want, tolerance.f64("nll_abs"));
        self.first_rows(&fitted, want, tolerance);
    }

    fn vector(&self, want: &Node<'_>, tolerance: &Node<'_>) {
        let (weights, biases) = vector(self.calib.labelled()).unwrap();
        let fitted = Calibrator::Vector { weights, biases };
        self.likelihoods(&fitted, want, tolerance.f64("vs_nll_abs"));
        // No tolerance is given for the parameters: they must make the same probabilities.
        let reference = Calibrator::Vector {
            weights: want.floats("w"),
            biases: want.floats("b_centered"),
        };
        self.likelihoods(&reference, want, tolerance.f64("vs_nll_abs"));
        for i in 0..self.test.labels.len() {
            let row = self.test.labelled().row(i);
            let (got, want_p) = (fitted.probabilities(row), reference.probabilities(row));
            all_close(&got, &want_p, tolerance.f64("p_abs"), want.path());
        }
    }

    fn structured(&self, expected: &Node<'_>, tolerance: &Node<'_>) {
        let calib = self.calib.labelled();
        for (key, fit) in [("svs", svs(calib).unwrap()), ("sms", sms(calib).unwrap())] {
            let want = expected.get(key);
            close(
                fit.objective,
                want.f64("objective"),
                0.0,
                tolerance.f64("sms_objective_abs"),
                want.path(),
            );
            let (mixture, biases) = (fit.mixture, fit.biases);
            let fitted = match key {
                "svs" => Calibrator::Svs {
                    mixture,
                    weights: fit.weights,
                    biases,
                },
                _ => Calibrator::Sms {
                    mixture,
                    matrix: fit.weights,
                    biases,
                },
            };
            // The objective is flat at its minimum: probabilities are told to p_abs.
            self.likelihoods(&fitted, &want, tolerance.f64("p_abs"));
            self.first_rows(&fitted, &want, tolerance);
        }
    }

    /// `nll_test`, and `nll_calib` where it is given.
    fn likelihoods(&self, fitted: &Calibrator, want: &Node<'_>, abs: f64) {
        close(
            self.test.nll(fitted),
            want.f64("nll_test"),
            0.0,
            abs,
            want.path(),
        );
        if want.find("nll_calib").is_some() {
            close(
                self.calib.nll(fitted),
                want.f64("nll_calib"),
                0.0,
                abs,
                want.path(),
            );
        }
    }

    fn first_rows(&self, fitted: &Calibrator, want: &Node<'_>, tolerance: &Node<'_>) {
        let (p, classes) = want.matrix("p_test_first20");
        for (i, p) in p.chunks_exact(classes).enumerate() {
            let got = fitted.probabilities(self.test.labelled().row(i));
            all_close(&got, p, tolerance.f64("p_abs"), want.path());
        }
    }
}

struct Multi {
    logits: Vec<f32>,
    classes: usize,
    labels: Vec<usize>,
}

impl Multi {
    fn new(inputs: &Node<'_>, logits: &str, labels: &str) -> Self {
        let (values, classes) = inputs.matrix(logits);
        let logits = values.iter().map(|z| *z as f32).collect();
        Self {
            logits,
            classes,
            labels: inputs.counts(labels),
        }
    }

    fn labelled(&self) -> Labelled<'_> {
        Labelled {
            logits: &self.logits,
            classes: self.classes,
            labels: &self.labels,
        }
    }

    fn nll(&self, fitted: &Calibrator) -> f64 {
        let rows = self.labelled();
        let of = |i: usize| fitted.log_loss(rows.row(i), self.labels[i]);
        (0..rows.n()).map(of).sum::<f64>() / rows.n() as f64
    }

    fn accuracy(&self) -> f64 {
        let rows = self.labelled();
        let right =
            (0..rows.n()).filter(|i| stage1_core::policy::argmax(rows.row(*i)) == self.labels[*i]);
        right.count() as f64 / rows.n() as f64
    }
}
