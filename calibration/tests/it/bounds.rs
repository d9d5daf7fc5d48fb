//! Exact binomial tests and bounds for bounded losses against SciPy, and the reference code of LTT, RCPS and MAPIE.

use crate::golden::{Node, check_files, close, is_json_named};
use stage1_calibration::binomial::{
    cdf, clopper_pearson, ln_cdf, lower_bound, min_rows, survival, upper_bound,
};
use stage1_calibration::bounds::{
    hoeffding_bentkus_ln_parts, hoeffding_bentkus_p, hoeffding_bentkus_upper, wsr_p, wsr_upper,
    wsr_wealth,
};

/// Logarithms below this were written as −∞: the probability itself had underflowed.
const UNDERFLOW: f64 = -700.0;

#[test]
fn bounds_are_those_of_the_references() {
    let exceptions = [
        (
            "*#p_values.ltt_code",
            "informational: the code rounds n·(k/n) up",
        ),
        (
            "*#p_values.mapie*",
            "informational: the code rounds n·(k/n) up",
        ),
        ("*#fractional_losses.ltt_code", "informational"),
        (
            "*#fractional_losses.ceil_sum",
            "a part of p_hb, which is compared",
        ),
    ];
    check_files(
        "bounds",
        |path| is_json_named(path, "bounds_"),
        &exceptions,
        |file| {
            let tolerance = file.get("tolerance");
            for case in file.list("intervals") {
                interval(&case, &tolerance);
            }
            for case in file.list("binomial_p_values") {
                p_value(&case, &tolerance);
            }
            for case in file.list("min_n_zero_or_few_errors") {
                let got = min_rows(case.u64("errors"), case.f64("alpha"), case.f64("delta"));
                assert_eq!(got, case.u64("n_min"));
            }
            for case in file
                .list("p_values")
                .iter()
                .chain(&file.list("fractional_losses"))
            {
                hoeffding_bentkus(case, &tolerance);
            }
            for case in file.list("rcps_ucb") {
                upper_bound_of_bentkus(&case, &tolerance);
            }
            for case in file.list("cases") {
                betting(&case, &tolerance);
            }
        },
    );
}

fn interval(case: &Node<'_>, tolerance: &Node<'_>) {
    let (k, n, delta) = (case.u64("k"), case.u64("n"), case.f64("delta"));
    let (rel, abs) = (tolerance.f64("rel"), tolerance.f64("abs"));
    let name = format!("{k}/{n} at {delta}");
    close(
        upper_bound(k, n, delta),
        case.f64("upper_one_sided"),
        rel,
        abs,
        &name,
    );
    close(
        lower_bound(k, n, delta),
        case.f64("lower_one_sided"),
        rel,
        abs,
        &name,
    );
    let (low, high) = clopper_pearson(k, n, delta);
    let want = case.floats("two_sided");
    close(low, want[0], rel, abs, &name);
    close(high, want[1], rel, abs, &name);
}

fn p_value(case: &Node<'_>, tolerance: &Node<'_>) {
    let (k, n, alpha) = (case.u64("k"), case.u64("n"), case.f64("alpha"));
    let (rel, abs) = (tolerance.f64("rel"), tolerance.f64("abs"));
    let name = format!("{k}/{n} against {alpha}");
    close(cdf(k, n, alpha), case.f64("p_le"), rel, abs, &name);
    close(survival(k, n, alpha), case.f64("p_ge"), rel, abs, &name);
    logarithm(
        ln_cdf(k, n, alpha),
        case.f64("log_p_le"),
        tolerance.f64("log_p_abs"),
        &name,
    );
}

fn logarithm(got: f64, want: f64, abs: f64, name: &str) {
    if want.is_infinite() {
        assert!(got < UNDERFLOW, "{name}: {got}");
    } else {
        // A logarithm of some thousand has no more digits than these.
        close(got, want, 1e-12, abs, name);
    }
}

fn hoeffding_bentkus(case: &Node<'_>, tolerance: &Node<'_>) {
    let (n, sum, alpha) = (case.u64("n"), case.f64("sum_loss"), case.f64("alpha"));
    let name = format!("{sum}/{n} against {alpha}");
    let got = hoeffding_bentkus_p(sum, n, alpha);
    close(
        got,
        case.f64("p_hb"),
        tolerance.f64("rel"),
        tolerance.f64("abs"),
        &name,
    );
    if case.find("log_p_bentkus").is_some() {
        let parts = hoeffding_bentkus_ln_parts(sum, n, alpha);
        let abs = tolerance.f64("rel");
        logarithm(parts.hoeffding, case.f64("log_p_hoeffding"), abs, &name);
        logarithm(parts.bentkus, case.f64("log_p_bentkus"), abs, &name);
    }
}

/// The code behind these rounds n·μ̂ down, and its Hoeffding part is 1 throughout: what is left is Bentkus's part, and
/// ours, which takes the better of both, is at most that.
fn upper_bound_of_bentkus(case: &Node<'_>, tolerance: &Node<'_>) {
    let (n, delta) = (case.u64("n"), case.f64("delta"));
    let sum = (case.f64("muhat") * n as f64).floor();
    let rejected = |mean: f64| hoeffding_bentkus_ln_parts(sum, n, mean).bentkus <= delta.ln();
    let (mut low, mut high) = (sum / n as f64, 1.0);
    while high - low > 1e-14 {
        let middle = low + (high - low) / 2.0;
        *if rejected(middle) {
            &mut high
        } else {
            &mut low
        } = middle;
    }
    let bentkus = high.min(case.f64("hoeffding_mu_plus"));
    let name = format!("{sum}/{n} at {delta}");
    let (rel, abs) = (tolerance.f64("rel"), tolerance.f64("abs"));
    close(bentkus, case.f64("hb_mu_plus"), rel, abs, &name);
    assert!(
        hoeffding_bentkus_upper(sum, n, delta) <= bentkus + 1e-12,
        "{name}"
    );
}

fn betting(case: &Node<'_>, tolerance: &Node<'_>) {
    let (name, losses) = (case.str("name"), case.floats("losses"));
    for (level, _) in case.get("ucb").members() {
        let got = wsr_upper(&losses, level.parse().unwrap());
        close(
            got,
            case.get("ucb").f64(level),
            0.0,
            tolerance.f64("ucb_abs"),
            name,
        );
    }
    // The bets behind the p-values are tuned to δ = .1.
    for (alpha, want) in case.get("pvals").members() {
        let alpha: f64 = alpha.parse().unwrap();
        let abs = tolerance.f64("log_wealth_abs");
        let wealth = wsr_wealth(&losses, alpha, 0.1);
        close(
            wealth.ln_final,
            want.f64("log_wealth_final"),
            0.0,
            abs,
            name,
        );
        close(wealth.ln_max, want.f64("log_wealth_max"), 0.0, abs, name);
        close(
            wsr_p(&losses, alpha, 0.1).ln(),
            want.f64("p").ln(),
            0.0,
            abs,
            name,
        );
    }
}
