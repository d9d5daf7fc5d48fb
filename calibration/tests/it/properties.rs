//! What holds for all data.

use proptest::prelude::*;
use stage1_calibration::certify::{Certification, certify};
use stage1_calibration::fit::{Circumstances, PolicyFit, certificate, fit_policy};
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{CalibRows, SelectRows, shape};
use stage1_core::artifact::Document;
use stage1_core::certificate::{Constraint, GroupRisk, Plan, TestKind, UnitRule};
use stage1_core::config::CalibratorChoice;
use stage1_core::ledger::LedgerState;
use stage1_core::logits::LogitSet;

prop_compose! {
    /// Rows of two or three classes with many ties (logits in quarters), mostly right when sure.
    fn logit_sets()(classes in 2_usize..4, with_ids in any::<bool>(), n in 30_usize..300)(
        classes in Just(classes),
        with_ids in Just(with_ids),
        rows in prop::collection::vec((prop::collection::vec(-20_i8..20, classes), 0_u8..30, 0..classes), n),
    ) -> LogitSet {
        let mut set = LogitSet { classes, ..LogitSet::default() };
        for (i, (logits, luck, other)) in rows.into_iter().enumerate() {
            let logits: Vec<f32> = logits.into_iter().map(|z| f32::from(z) / 4.0).collect();
            let best = stage1_core::policy::argmax(&logits);
            set.labels.push(if luck == 0 { other } else { best } as i64);
            set.logits.extend(logits);
            if with_ids {
                set.ids.push(format!("{i}.png"));
            }
        }
        set
    }
}

fn halves(set: &LogitSet) -> (LogitSet, LogitSet) {
    let middle = set.n() / 2;
    let (select, calib): (Vec<_>, Vec<_>) = (0..set.n()).partition(|i| *i < middle);
    (set.subset(&select), set.subset(&calib))
}

fn fitted(select: &LogitSet, calib_set: &LogitSet) -> (Plan, PolicyFit) {
    fitted_for(&Target::new(0.1, 0.2), select, calib_set)
}

fn fitted_for(target: &Target, select: &LogitSet, calib_set: &LogitSet) -> (Plan, PolicyFit) {
    let calib = CalibRows::new(calib_set, 5).unwrap();
    let select = SelectRows::new(select, 5).unwrap();
    let plan = plan(&select, shape(calib_set), target, None).unwrap();
    let fit = fit_policy(&plan, &calib, CalibratorChoice::Auto).unwrap();
    (plan, fit)
}

/// The candidates that a frozen plan rejects at other levels.
fn rejected(plan: &Plan, calib: &CalibRows, alpha: f64, delta: f64) -> Vec<usize> {
    let plan = Plan {
        constraints: vec![Constraint::SelectiveError { alpha }],
        delta,
        level: delta,
        ..plan.clone()
    };
    let run = match certify(&plan, calib).unwrap() {
        Certification::Certified(certified) => certified.run,
        Certification::NotCertified(not) => not.run,
    };
    run.iter()
        .filter(|step| step.passed)
        .map(|step| step.candidate)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn permuting_rows_changes_nothing(set in logit_sets(), groups in any::<bool>(), seed in any::<u64>()) {
        let mut set = set;
        if groups {
            set.units = Some((0..set.n() as u64).map(|i| i / 2).collect());
        }
        let (select, calib) = halves(&set);
        let shuffled = |set: &LogitSet| {
            let mut order: Vec<usize> = (0..set.n()).collect();
            order.sort_by_key(|i| (*i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            set.subset(&order)
        };
        prop_assert_eq!(fitted(&select, &calib), fitted(&shuffled(&select), &shuffled(&calib)));
    }

    #[test]
    fn a_frozen_plan_rejects_more_at_larger_levels(
        set in logit_sets(), alpha in 0.02_f64..0.3, delta in 0.02_f64..0.3, more in 1.0_f64..3.0,
    ) {
        let (select, calib) = halves(&set);
        let (plan, _) = fitted(&select, &calib);
        let calib = CalibRows::new(&calib, 5).unwrap();
        let few = rejected(&plan, &calib, alpha, delta);
        for (alpha, delta) in [(alpha * more, delta), (alpha, delta * more), (alpha * more, delta * more)] {
            let many = rejected(&plan, &calib, alpha, delta);
            prop_assert!(few.iter().all(|candidate| many.contains(candidate)), "{:?} {:?}", few, many);
        }
    }

    #[test]
    fn clustered_rows_never_yield_a_binomial_certificate_on_rows(
        set in logit_sets(), size in 2_u64..9, by_row in any::<bool>(),
    ) {
        let (mut select, mut calib) = halves(&set);
        for set in [&mut select, &mut calib] {
            set.units = Some((0..set.n() as u64).map(|i| i / size).collect());
        }
        let shape = shape(&calib);
        let mut target = Target::new(0.2, 0.3);
        if by_row {
            target.group_risk = GroupRisk::Row { max_group_size: size };
        }
        let (plan, fit) = fitted_for(&target, &select, &calib);
        prop_assert_eq!(plan.calib_units, shape.units);
        let (calib, answered) = match fit {
            PolicyFit::Certified { policy, certified, .. } => {
                let circumstances = Circumstances::new(LedgerState::Unknown { reason: String::new() }, None);
                let mut certificate = certificate(&plan, &policy, &certified, circumstances);
                prop_assert!(certificate.validate().is_ok());
                // No document may claim otherwise.
                certificate.calib.rule = UnitRule::Rows;
                certificate.test = Some(TestKind::Binomial);
                prop_assert!(certificate.validate().is_err());
                (certified.calib, certified.step.answered)
            }
            PolicyFit::NotCertified(not) => (not.calib, not.best.answered),
        };
        prop_assert!(calib.units == shape.units && calib.units < calib.rows);
        match calib.rule {
            UnitRule::OnePerUnit => prop_assert!(answered <= calib.units && !by_row),
            rule => prop_assert_eq!(rule, UnitRule::Betting),
        }
    }

    #[test]
    fn what_is_certified_was_tested(set in logit_sets()) {
        let (select, calib) = halves(&set);
        let (plan, fit) = fitted(&select, &calib);
        if let PolicyFit::Certified { policy, certified, .. } = fit {
            prop_assert!(certified.step.p_value <= plan.level);
            prop_assert!(certified.step.candidate >= plan.starts[0]);
            prop_assert_eq!(policy.threshold, plan.candidates[certified.step.candidate].threshold);
            prop_assert!(stage1_core::artifact::Document::validate(&policy).is_ok());
        }
    }
}
