//! Units of several rows: both methods that the plan may choose, and the one that it does.

use super::curves::{A, Curve, D, certified, outcome, planned, three_classes};
use super::{ALPHA, Cell, DELTA, Finding, Outcome, control, mean, repeat, uniform, validity};
use stage1_calibration::bounds::wsr_p;
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{SelectRows, shape};
use stage1_core::certificate::{GroupRisk, Plan, UnitRule};
use stage1_core::logits::LogitSet;

/// Units in a sample.
const UNITS: u64 = 200;

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for correlation in [0.1, 0.5] {
        for curve in [A, D] {
            let units = Units {
                curve,
                correlation,
                sizes: Sizes::Ten,
            };
            let name = format!("groups-{}-correlation{correlation}", curve.name);
            cells.push(Cell::new(name, move |n| methods(units, n)));
        }
    }
    let heavy = Units {
        curve: D,
        correlation: 0.5,
        sizes: Sizes::Heavy,
    };
    cells.push(Cell::new("groups-heavy-tailed", move |n| methods(heavy, n)));
    cells.push(Cell::new("groups-by-row", by_row));
    cells.push(Cell::new("groups-hashed-order", |n| {
        in_order(Order::Hashed, n)
    }));
    let clustered = Units {
        curve: D,
        correlation: 0.5,
        sizes: Sizes::Ten,
    };
    cells.push(Cell::new("groups-equal-rows", equal_rows));
    cells.push(Cell::new("control-equal-rows-as-one", equal_rows_as_one));
    cells.push(Cell::new("control-rows-as-independent", move |n| {
        as_independent(clustered, n)
    }));
    cells.push(Cell::new("control-units-by-size", |n| {
        in_order(Order::BySize, n)
    }));
    cells
}

#[derive(Clone, Copy)]
enum Sizes {
    /// Ten rows each.
    Ten,
    /// min(100, ⌊1/U⌋); units of one row, half of them, err at .02 and the others at .0802: .0501 of a random unit.
    Heavy,
    /// The same sizes; units of one row err at .3, the others at .02344: .0501 of a random row.
    HeavyByRow,
}

#[derive(Clone, Copy)]
struct Units {
    curve: Curve,
    /// Of the errors of two rows of a unit.
    correlation: f64,
    sizes: Sizes,
}

/// Units of ten rows each.
pub(super) fn of_ten(curve: Curve, correlation: f64, stream: u64) -> LogitSet {
    let units = Units {
        curve,
        correlation,
        sizes: Sizes::Ten,
    };
    units.draw(stream)
}

impl Units {
    fn draw(self, stream: u64) -> LogitSet {
        let (mut rows, mut units) = (Vec::new(), Vec::new());
        for unit in 0..UNITS {
            let at = |index: u64| uniform(stream, unit << 12 | index);
            let size = match self.sizes {
                Sizes::Ten => 10,
                _ => ((1.0 / (1.0 - at(1))).floor() as u64).min(100),
            };
            for row in 0..size {
                let s = at(16 + 4 * row);
                // With this probability the unit's own luck decides, else the row's: two rows share it with its square.
                let shares = at(17 + 4 * row) < self.correlation.sqrt();
                let luck = if shares { at(0) } else { at(18 + 4 * row) };
                rows.push((s, luck < self.rate(s, size)));
                units.push(unit);
            }
        }
        let mut set = three_classes(rows.into_iter());
        set.ids = (0..set.n()).map(|i| format!("{stream}-{i}")).collect();
        set.units = Some(units);
        set
    }

    fn rate(self, s: f64, size: u64) -> f64 {
        match self.sizes {
            Sizes::Ten => (self.curve.error)(1.0 - s),
            Sizes::Heavy if size == 1 => 0.02,
            Sizes::Heavy => 0.0802,
            Sizes::HeavyByRow if size == 1 => 0.3,
            Sizes::HeavyByRow => 0.02344,
        }
    }
}

/// The plan as it is, and the same plan with either method.
fn methods(units: Units, repetitions: u64) -> Finding {
    let outcomes = repeat(repetitions, |repetition| {
        let (plan, calib) = planned(|stream| units.draw(stream), repetition);
        let by = |unit_rule| {
            let plan = Plan {
                unit_rule,
                ..plan.clone()
            };
            outcome(units.curve, &plan.score, certified(&plan, &calib))
        };
        [
            by(plan.unit_rule),
            by(UnitRule::OnePerUnit),
            by(UnitRule::Betting),
        ]
    });
    let names = ["as planned", "one per unit", "betting"];
    let of = |method: usize| {
        let outcomes: Vec<Outcome> = outcomes.iter().map(|of| of[method]).collect();
        let violations = outcomes.iter().filter(|outcome| outcome.violated).count() as u64;
        let coverage = mean(outcomes.iter().map(|outcome| outcome.coverage)).0;
        let found = validity(violations, repetitions, None);
        (
            found.ok,
            format!(
                "{}: {}, coverage {coverage:.3}",
                names[method], found.detail
            ),
        )
    };
    let first = of(0);
    let finding = Finding {
        ok: first.0,
        detail: first.1,
    };
    (1..3).fold(finding, |finding, method| {
        let (ok, detail) = of(method);
        finding.and(ok, &detail)
    })
}

/// The risk of a random row, though units of one row err most often.
fn by_row(repetitions: u64) -> Finding {
    let units = Units {
        curve: D,
        correlation: 0.5,
        sizes: Sizes::HeavyByRow,
    };
    let is_certified = |repetition: u64| {
        let (select, calib) = (units.draw(2 * repetition), units.draw(2 * repetition + 1));
        let target = Target {
            group_risk: GroupRisk::Row {
                max_group_size: 100,
            },
            ..Target::new(ALPHA, DELTA)
        };
        let select = SelectRows::new(&select, 0).unwrap();
        let plan = plan(&select, shape(&calib), &target, None).unwrap();
        certified(&plan, &calib).is_some()
    };
    let violations = repeat(repetitions, is_certified)
        .into_iter()
        .filter(|c| *c)
        .count();
    validity(violations as u64, repetitions, None)
}

/// Exact tests on the rows of units.
fn as_independent(units: Units, repetitions: u64) -> Finding {
    let is_certified = |repetition: u64| {
        let draw = |stream| {
            let mut set = units.draw(stream);
            set.units = None;
            set
        };
        let (plan, calib) = planned(draw, repetition);
        certified(&plan, &calib).is_some()
    };
    let violations = repeat(repetitions, is_certified)
        .into_iter()
        .filter(|c| *c)
        .count();
    control(violations as u64, repetitions, DELTA)
}

/// Units of ten rows without ids, of which every fourth has two equal rows that are wrong: .0501 of a random row of a random
/// unit, and .0278 of what is different in a unit.
fn with_equal_rows(stream: u64) -> (LogitSet, Vec<usize>) {
    let (mut rows, mut units, mut different) = (Vec::new(), Vec::new(), Vec::new());
    for unit in 0..UNITS {
        let at = |index: u64| uniform(stream, unit << 4 | index);
        let has_wrong = at(0) < 0.2505;
        for row in 0..10 {
            let wrong = has_wrong && row < 2;
            if !(wrong && row == 1) {
                different.push(rows.len());
            }
            rows.push((at(if wrong { 1 } else { 2 + row }), wrong));
            units.push(unit);
        }
    }
    let mut set = three_classes(rows.into_iter());
    set.units = Some(units);
    (set, different)
}

fn equal_rows(repetitions: u64) -> Finding {
    let is_certified = |repetition: u64| {
        let (plan, calib) = planned(|stream| with_equal_rows(stream).0, repetition);
        let plan = Plan {
            unit_rule: UnitRule::OnePerUnit,
            ..plan
        };
        certified(&plan, &calib).is_some()
    };
    let found = repeat(repetitions, is_certified);
    validity(
        found.into_iter().filter(|c| *c).count() as u64,
        repetitions,
        None,
    )
}

/// One of the rows that differ is drawn, as a hash of their bytes would.
fn equal_rows_as_one(repetitions: u64) -> Finding {
    let is_certified = |repetition: u64| {
        let draw = |stream| {
            let (set, different) = with_equal_rows(stream);
            set.subset(&different)
        };
        let (plan, calib) = planned(draw, repetition);
        let plan = Plan {
            unit_rule: UnitRule::OnePerUnit,
            ..plan
        };
        certified(&plan, &calib).is_some()
    };
    let found = repeat(repetitions, is_certified);
    control(
        found.into_iter().filter(|c| *c).count() as u64,
        repetitions,
        DELTA,
    )
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Hashed,
    BySize,
}

/// Units of 1 or 20 rows, equally likely; only the large ones err, at .1002: .0501 of a random unit. Betting is valid in an
/// order that knows nothing of the sizes, and not with the small ones first.
fn in_order(order: Order, repetitions: u64) -> Finding {
    let rejects = |repetition: u64| {
        let at = |unit: u64, row: u64| uniform(repetition, unit << 8 | row);
        let loss = |unit: u64| {
            if at(unit, 100) < 0.5 {
                return (1, 0.0);
            }
            let errors = (0..20).filter(|row| at(unit, *row) < 0.1002).count();
            (20, errors as f64 / 20.0)
        };
        let mut units: Vec<(u64, f64)> = (0..UNITS).map(loss).collect();
        if order == Order::BySize {
            units.sort_by_key(|unit| unit.0);
        }
        let losses: Vec<f64> = units.into_iter().map(|unit| unit.1).collect();
        wsr_p(&losses, ALPHA, DELTA) <= DELTA
    };
    let rejections = repeat(repetitions, rejects)
        .into_iter()
        .filter(|r| *r)
        .count() as u64;
    match order {
        Order::Hashed => validity(rejections, repetitions, None),
        Order::BySize => control(rejections, repetitions, DELTA),
    }
}
