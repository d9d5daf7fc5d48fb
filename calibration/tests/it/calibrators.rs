//! Calibrators against scikit-learn, betacal and SciPy.

use crate::golden::{Node, all_close, check_files, close, is_json_named};
use stage1_calibration::calibrate::{beta, platt, temperature};
use stage1_calibration::rows::Labelled;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Calibrator, log_sum_exp, sigmoid, softplus};

const LATER: &str = "issue on calibration";

#[test]
fn binary_calibrators_are_those_of_the_references() {
    let exceptions = [
        ("*.affine_mle.*", LATER),
        ("*.quadratic_mle.*", LATER),
        ("*.isotonic_sklearn.*", LATER),
        ("*.test_scores.iso.*", LATER),
        ("*#tolerance.isotonic_abs", LATER),
        (
            "*.temperature.sklearn_T",
            "informational: another optimiser's last digits",
        ),
        (
            "*.beta_betacal_pkg.a",
            "the note asks to compare its likelihood",
        ),
        (
            "*.beta_betacal_pkg.b",
            "the note asks to compare its likelihood",
        ),
        (
            "*.beta_betacal_pkg.m",
            "the note asks to compare its likelihood",
        ),
        (
            "*.beta_betacal_pkg.p_test",
            "the note asks to compare its likelihood",
        ),
    ];
    check_files(
        "binary calibrators",
        |path| is_json_named(path, "calib_binary"),
        &exceptions,
        |file| {
            for (_, model) in file.get("models").members() {
                Binary::new(&model).check(&model.get("expected"), &file.get("tolerance"));
            }
        },
    );
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

    fn check(&self, expected: &Node<'_>, tolerance: &Node<'_>) {
        let rel = tolerance.f64("params_rel");
        let fitted = self.platt(&expected.get("platt_on_logits_sklearn"), rel);
        self.probabilities(&fitted, &expected.get("platt_on_logits_sklearn"), tolerance);
        self.scores(
            &fitted,
            &expected.get("test_scores").get("platt"),
            tolerance,
        );

        let want = expected.get("temperature");
        let fitted = self.temperature(&want, rel);
        close(
            nll(&fitted, &self.calib, &self.y_calib),
            want.f64("nll"),
            0.0,
            tolerance.f64("nll_abs"),
            want.path(),
        );
        self.probabilities(&fitted, &want, tolerance);
        self.scores(&fitted, &expected.get("test_scores").get("temp"), tolerance);

        let want = expected.get("beta_constrained_mle");
        let fitted = self.beta(&want, rel);
        let nll = nll(&fitted, &self.calib, &self.y_calib);
        close(
            nll,
            want.f64("nll"),
            0.0,
            tolerance.f64("nll_abs"),
            want.path(),
        );
        let package = expected.get("beta_betacal_pkg");
        close(
            nll,
            package.f64("nll_calib"),
            0.0,
            tolerance.f64("betacal_nll_abs"),
            package.path(),
        );
        self.probabilities(&fitted, &want, tolerance);
        self.scores(&fitted, &expected.get("test_scores").get("beta"), tolerance);
        self.scores(
            &Calibrator::None,
            &expected.get("test_scores").get("raw"),
            tolerance,
        );
    }

    fn platt(&self, want: &Node<'_>, rel: f64) -> Calibrator {
        let (a, b) = platt(&self.calib, &self.y_calib).unwrap();
        close(a, -want.f64("A"), rel, 0.0, want.path());
        close(b, -want.f64("B"), rel, 0.0, want.path());
        Calibrator::Platt { a, b }
    }

    fn temperature(&self, want: &Node<'_>, rel: f64) -> Calibrator {
        let margins: Vec<f32> = self.calib.iter().map(|s| *s as f32).collect();
        let labels: Vec<usize> = self.y_calib.iter().map(|y| usize::from(*y)).collect();
        let logits = LogitSet::binary_columns(&margins);
        let t = temperature(Labelled {
            logits: &logits,
            classes: 2,
            labels: &labels,
        })
        .unwrap();
        close(t, want.f64("T"), rel, 0.0, want.path());
        Calibrator::Temperature { t }
    }

    fn beta(&self, want: &Node<'_>, rel: f64) -> Calibrator {
        let [a, b, c] = beta(&self.calib, &self.y_calib).unwrap();
        for (got, key) in [(a, "a"), (b, "b"), (c, "c")] {
            close(got, want.f64(key), rel, 0.0, want.path());
        }
        Calibrator::Beta { a, b, c }
    }

    fn probabilities(&self, fitted: &Calibrator, want: &Node<'_>, tolerance: &Node<'_>) {
        let got: Vec<f64> = self
            .test
            .iter()
            .map(|s| sigmoid(fitted.binary_logit(*s)))
            .collect();
        all_close(
            &got,
            &want.floats("p_test"),
            tolerance.f64("p_abs"),
            want.path(),
        );
    }

    fn scores(&self, fitted: &Calibrator, want: &Node<'_>, tolerance: &Node<'_>) {
        let abs = tolerance
            .f64("nll_abs")
            .max(1e-6 * tolerance.f64("params_rel"));
        let squares = self.test.iter().zip(&self.y_test).map(|(s, y)| {
            let hit = if *y { 1.0 } else { 0.0 };
            (sigmoid(fitted.binary_logit(*s)) - hit).powi(2)
        });
        let brier = squares.sum::<f64>() / self.test.len() as f64;
        // Parameters that agree to params_rel leave this much room in scores of held-out rows.
        let room = abs.max(tolerance.f64("p_abs"));
        close(brier, want.f64("brier"), 0.0, room, want.path());
        close(
            nll(fitted, &self.test, &self.y_test),
            want.f64("nll"),
            0.0,
            room,
            want.path(),
        );
    }
}

fn nll(fitted: &Calibrator, margins: &[f64], labels: &[bool]) -> f64 {
    let of = |(s, y): (&f64, &bool)| {
        let logit = fitted.binary_logit(*s);
        softplus(if *y { -logit } else { logit })
    };
    margins.iter().zip(labels).map(of).sum::<f64>() / margins.len() as f64
}

#[test]
fn multiclass_temperature_is_that_of_the_references() {
    let exceptions = [
        ("*#expected.temperature_laplace_mix.*", LATER),
        ("*#expected.vector_scaling_mle.*", LATER),
        ("*#expected.svs.*", LATER),
        ("*#expected.sms.*", LATER),
        ("*#tolerance.vs_nll_abs", LATER),
        ("*#tolerance.sms_objective_abs", LATER),
        ("*#tolerance.p_abs", LATER),
        (
            "*#expected.temperature.sklearn_T",
            "informational: another optimiser's last digits",
        ),
    ];
    check_files(
        "multi-class calibrators",
        |path| is_json_named(path, "calib_multiclass"),
        &exceptions,
        |file| {
            let (inputs, expected, tolerance) = (
                file.get("inputs"),
                file.get("expected"),
                file.get("tolerance"),
            );
            let calib = Multi::new(&inputs, "logits_calib", "y_calib");
            let test = Multi::new(&inputs, "logits_test", "y_test");
            let want = expected.get("temperature");
            let t = temperature(calib.labelled()).unwrap();
            close(t, want.f64("T"), tolerance.f64("T_rel"), 0.0, "T");
            let abs = tolerance.f64("nll_abs");
            close(calib.nll(t), want.f64("nll_calib"), 0.0, abs, "nll_calib");
            close(test.nll(t), want.f64("nll_test"), 0.0, abs, "nll_test");
            let raw = expected.get("raw");
            close(
                calib.nll(1.0),
                raw.f64("nll_calib"),
                0.0,
                abs,
                "raw nll_calib",
            );
            close(test.nll(1.0), raw.f64("nll_test"), 0.0, abs, "raw nll_test");
            close(
                test.accuracy(),
                raw.f64("acc_test"),
                0.0,
                1e-12,
                "raw acc_test",
            );
        },
    );
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

    fn nll(&self, t: f64) -> f64 {
        let rows = self.labelled();
        let of =
            |i: usize| log_sum_exp(rows.row(i), t) - f64::from(rows.row(i)[self.labels[i]]) / t;
        (0..rows.n()).map(of).sum::<f64>() / rows.n() as f64
    }

    fn accuracy(&self) -> f64 {
        let rows = self.labelled();
        let right =
            (0..rows.n()).filter(|i| stage1_core::policy::argmax(rows.row(*i)) == self.labels[*i]);
        right.count() as f64 / rows.n() as f64
    }
}
