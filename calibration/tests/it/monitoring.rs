//! Alarms against a NumPy reference, and their level by simulation.

use crate::golden::{Node, check_files, close, is_json_named};
use stage1_calibration::binomial::survival;
use stage1_calibration::monitor::simulation::{Bag, NullStream};
use stage1_calibration::monitor::{Risk, SimpleJumper};

/// The reference raises its alarm at a wealth of 20.
const LEVEL: f64 = 0.05;

#[test]
fn alarms_are_those_of_the_reference() {
    check_files(
        "monitoring",
        |path| is_json_named(path, "monitoring"),
        &[],
        |file| {
            assert_eq!(file.get("tolerance").str("alarm"), "exact");
            let abs = file.get("tolerance").f64("log_abs");
            for case in file.list("cases") {
                if case.find("x").is_some() {
                    with_labels(&case, abs);
                } else {
                    without_labels(&case, abs);
                }
            }
        },
    );
}

fn with_labels(case: &Node<'_>, abs: f64) {
    let name = case.str("name");
    let mut risk = Risk::with_lambdas(case.f64("p0"), LEVEL, &case.floats("lambdas")).unwrap();
    case.floats("x")
        .into_iter()
        .for_each(|loss| risk.observe(loss));
    close(risk.ln_wealth(), case.f64("log_e_final"), 0.0, abs, name);
    close(
        risk.ln_max().unwrap(),
        case.f64("log_e_max"),
        0.0,
        abs,
        name,
    );
    let alarm_at = case.optional("first_alarm_at").map(|at| at as u64);
    assert_eq!(risk.alarm_at(), alarm_at, "{name}");
}

fn without_labels(case: &Node<'_>, abs: f64) {
    let name = case.str("name");
    let mut jumper = SimpleJumper::new(case.f64("J"));
    for p in case.floats("p") {
        jumper.bet(p);
    }
    close(
        jumper.ln_wealth(),
        case.f64("log_martingale_final"),
        0.0,
        abs,
        name,
    );
    close(
        jumper.ln_max().unwrap(),
        case.f64("log_martingale_max"),
        0.0,
        abs,
        name,
    );
}

const REPETITIONS: u64 = 600;
const STREAM: NullStream = NullStream {
    reference: 200,
    steps: 20_000,
    level: 0.01,
};

/// A cell fails when its alarms are as many as chance gives once in 10,000 times.
fn flagged(alarms: u64) -> bool {
    survival(alarms, REPETITIONS, STREAM.level) <= 1e-4
}

#[test]
fn the_growing_bag_keeps_its_level() {
    let alarms = STREAM.alarms(Bag::Growing, REPETITIONS);
    assert!(!flagged(alarms), "{alarms} of {REPETITIONS}");
}

/// The negative control: about a fifth of all streams (848 of 4,000) raise an alarm.
#[test]
fn a_fixed_reference_is_flagged() {
    let alarms = STREAM.alarms(Bag::Fixed, REPETITIONS);
    assert!(flagged(alarms), "{alarms} of {REPETITIONS}");
    let share = alarms as f64 / REPETITIONS as f64;
    assert!((0.15..0.27).contains(&share), "{share}");
}
