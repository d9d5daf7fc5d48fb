//! What counts as one independent draw, and so what is tested and how.

use super::{Constraint, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What counts as one independent draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitRule {
    /// Every row is its own unit: exact binomial tests.
    Rows,
    /// Some units have several rows: one row of each was kept, by seeded hash. Exact binomial tests.
    OnePerUnit,
    /// Some units have several rows, and all of them are used: betting tests on one loss per unit.
    Betting,
}

impl UnitRule {
    /// The test that goes with it.
    pub fn test(self) -> TestKind {
        match self {
            Self::Rows | Self::OnePerUnit => TestKind::Binomial,
            Self::Betting => TestKind::Betting,
        }
    }
}

/// How a p-value came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TestKind {
    /// P(Bin(n, α) ≤ k), exact.
    Binomial,
    /// The inverse of the largest wealth of a bettor (Waudby-Smith & Ramdas 2020, 2010.09686).
    Betting,
}

/// The rate that is controlled where units have several rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupRisk {
    /// Of a random image of a random unit: every unit weighs the same.
    #[default]
    Unit,
    /// Of a random image: every image weighs the same. It needs a bound on the size of units, declared beforehand.
    Row {
        /// The most rows that a unit has.
        max_group_size: u64,
    },
}

/// The rate that a certificate controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlledRisk {
    /// Of a random image; every image is its own unit.
    Image,
    /// Of a random image of a random unit.
    ImageOfUnit,
    /// Of a random image, though images come in units; exact as long as no unit has more than `max_group_size` rows.
    Row {
        /// The bound that was declared.
        max_group_size: u64,
    },
    /// Of a random image with weights min(1, `max_group_size` / rows of its unit), because val_calib has larger units.
    WeightedRow {
        /// The bound that was declared.
        max_group_size: u64,
    },
}

impl ControlledRisk {
    /// What follows from the rule, the rate asked for, and the largest unit of val_calib.
    pub fn of(rule: UnitRule, risk: GroupRisk, largest_unit: u64) -> Self {
        match (rule, risk) {
            (UnitRule::Rows, _) => Self::Image,
            (_, GroupRisk::Unit) => Self::ImageOfUnit,
            (_, GroupRisk::Row { max_group_size }) if largest_unit > max_group_size => {
                Self::WeightedRow { max_group_size }
            }
            (_, GroupRisk::Row { max_group_size }) => Self::Row { max_group_size },
        }
    }

    /// In words.
    pub fn statement(self) -> String {
        match self {
            Self::Image => "the rate is that of a random image".to_owned(),
            Self::ImageOfUnit => "the rate is that of a random image of a random unit".to_owned(),
            Self::Row { max_group_size } => format!(
                "the rate is that of a random image, and no unit has more than {max_group_size} images"
            ),
            Self::WeightedRow { max_group_size } => format!(
                "val_calib has units of more than {max_group_size} images: the rate is that of a random image with weight \
                 min(1, {max_group_size} / images of its unit)"
            ),
        }
    }
}

/// Rows and units of one split, and the rule that made draws of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSize {
    /// The rule.
    pub rule: UnitRule,
    /// Rows given.
    pub rows: u64,
    /// Independent units.
    pub units: u64,
}

impl SampleSize {
    /// How many things are counted: units, or rows where all of them enter.
    pub fn counted(&self) -> u64 {
        match self.rule {
            UnitRule::Betting => self.rows,
            _ => self.units,
        }
    }

    /// Whether `test` may be used, and `errors` of `answered` can be counts of this sample.
    ///
    /// # Errors
    /// What contradicts what. More rows than units never go with a binomial test on rows.
    pub(super) fn check(&self, errors: u64, answered: u64) -> Result<(), String> {
        let Self { rule, rows, units } = *self;
        if rule == UnitRule::Rows && rows != units {
            return Err(format!(
                "unit rule `rows` with {rows} rows of {units} units: rows of one unit are not independent"
            ));
        }
        if errors <= answered && answered <= self.counted() && units <= rows {
            return Ok(());
        }
        Err(format!(
            "{errors} errors of {answered} answered of {units} units of {rows} rows: each must not exceed the next"
        ))
    }
}

/// Cases that count against a constraint, among those that it is about, and what that says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Cases that count against it.
    pub errors: u64,
    /// Cases that it is about.
    pub total: u64,
    /// Of "the rate is at least α"; 1 if there is no case.
    pub p_value: f64,
}

/// One promise of a certificate with its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What is promised.
    pub constraint: Constraint,
    /// Cases that count against it. With betting tests these are rows: not a guarantee, they ignore groups.
    pub errors: u64,
    /// Cases that it is about.
    pub total: u64,
    /// Of "the rate is at least α".
    pub p_value: f64,
    /// The upper bound of the rate at the certificate's level, for this threshold alone.
    pub upper_bound: f64,
}

impl Step {
    pub(super) fn check(&self, sample: SampleSize) -> Result<(), String> {
        sample.check(self.errors, self.answered)
    }
}
