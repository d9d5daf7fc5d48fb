use stage1_core::artifact::json::brief;
use stage1_core::config::{CalibratorChoice, ScoreChoice};

/// What can be wrong with a request to fit or to certify. Data that is merely degenerate isn't an error: see
/// [`Fallback`](stage1_core::policy::Fallback) and [`NotCertified`](stage1_core::certificate::NotCertified).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The logits are damaged or contradict themselves.
    #[error(transparent)]
    Logits(#[from] stage1_core::logits::LogitsError),
    /// Nothing to choose thresholds from.
    #[error(
        "val_select has no rows: thresholds are chosen on it; give it some, or a file with `--select`"
    )]
    EmptySelect,
    /// A level that is no probability between 0 and 1.
    #[error("{name} is {value}: a number between 0 and 1 (both excluded) is needed")]
    Level {
        /// `alpha`, `delta`, `gamma`, `share` or `risk`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Answers that can't be compared.
    #[error("the arms can't be compared: {reason}")]
    Arms {
        /// What doesn't go together.
        reason: String,
    },
    /// Attempts count from 1.
    #[error("attempt is 0: attempts on val_calib count from 1 (the ledger's entries + 1)")]
    AttemptZero,
    /// val_select and val_calib, or the policy, disagree on the number of classes.
    #[error("{what} has {got} classes, {want} were expected: are these logits of the same model?")]
    Classes {
        /// Whose rows.
        what: &'static str,
        /// Found.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// The plan was made for other rows.
    #[error(
        "the plan was made for {want} units of val_calib and seed {want_seed}, these rows have {got} units and seed {got_seed}; plan again"
    )]
    OtherRows {
        /// Units planned for.
        want: u64,
        /// Units found.
        got: u64,
        /// Seed of the plan.
        want_seed: u64,
        /// Seed of the rows.
        got_seed: u64,
    },
    /// The plan was made for rows that are their own units, or weren't, and it is the other way.
    #[error(
        "the plan was made for units of {} in val_calib, here they have {}; plan with the shape of these rows",
        rows_each(*planned), rows_each(!*planned)
    )]
    Groups {
        /// Whether the plan expects units of several rows.
        planned: bool,
    },
    /// Something that can't be promised.
    #[error("calibrate.constraints: {reason}")]
    Constraint {
        /// What is wrong, and what is needed.
        reason: String,
    },
    /// A score that doesn't go with the number of classes.
    #[error(
        "score binary_margin does not go with {classes} classes: it takes two; use max_probability, margin, energy or auto"
    )]
    Score {
        /// Number of classes.
        classes: usize,
    },
    /// A fitted score that doesn't go with two classes.
    #[error(
        "score {} is for three classes or more: of two classes it would be a function of the margin; use binary_margin",
        brief(choice)
    )]
    FittedScore {
        /// The choice.
        choice: ScoreChoice,
    },
    /// A score that can't be fitted.
    #[error(
        "score {} can't be fitted on val_select ({}); use max_probability, margin or energy",
        brief(choice),
        brief(fallback)
    )]
    NoScore {
        /// The calibrator whose probability was to be the score.
        choice: CalibratorChoice,
        /// Why there is none.
        fallback: stage1_core::policy::Fallback,
    },
    /// The score is a gate, and the rows have none.
    #[error(
        "{what} has no `gate` column, which the score compares; use the logits of a model with a gate, or another score"
    )]
    NoGate {
        /// Whose rows.
        what: &'static str,
    },
    /// One unit can't be divided in halves.
    #[error(
        "val_calib has fewer than two units: a score that is fitted on half of it needs two; fit it on val_select instead"
    )]
    OneUnit,
    /// Sessions that aren't about the same rows.
    #[error(
        "{what}: the two sessions' rows differ ({reason}); compare the logits of the same images, by id"
    )]
    Unpaired {
        /// Whose rows.
        what: &'static str,
        /// How.
        reason: String,
    },
    /// A calibrator that doesn't go with the number of classes.
    #[error(
        "calibrator {} does not go with {classes} classes: platt, affine, beta, quadratic, isotonic and venn_abers take two, vector, svs and sms take more; or use temperature, ts_mix or auto",
        brief(choice)
    )]
    Calibrator {
        /// The choice.
        choice: CalibratorChoice,
        /// Number of classes.
        classes: usize,
    },
    /// Rows without a unit, or units without a row.
    #[error("there are {rows} rows and {units} units: give one unit per row, or none")]
    Units {
        /// Rows.
        rows: usize,
        /// Units given.
        units: usize,
    },
    /// Conformal risk control can't do what was asked.
    #[error(transparent)]
    Crc(#[from] crate::crc::CrcError),
    /// A setting that belongs to the other kind of promise.
    #[error("at `{key}`: expected {expected}, got {got}")]
    Contradiction {
        /// The setting.
        key: &'static str,
        /// What it would have to be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A promise of one kind and evidence of the other.
    #[error(
        "plan, policy and certificate must be of one kind: `expectation` goes with a policy of kind scrc, and `pac` with the others"
    )]
    NotExpectation,
    /// Several sessions at once.
    #[error(
        "several sessions get one threshold together for `guarantee: pac` only, and without a threshold of their own; calibrate each by itself"
    )]
    Jointly,
    /// The policy can't decide a row.
    #[error("row {row}: {source}")]
    Row {
        /// Index in canonical order.
        row: usize,
        /// Why.
        source: stage1_core::policy::PolicyError,
    },
}

/// The result of fitting or certifying.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn rows_each(grouped: bool) -> &'static str {
    if grouped {
        "several rows"
    } else {
        "one row each"
    }
}

/// Checks a level.
pub(crate) fn level(name: &'static str, value: f64) -> Result<f64> {
    if value > 0.0 && value < 1.0 {
        return Ok(value);
    }
    Err(Error::Level { name, value })
}
