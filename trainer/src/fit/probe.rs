//! A head on features that don't change: the objective of `baseline`, and the head's warm-up elsewhere.

use super::{Fitted, Gradient, Keeper, Objective, State, Step, Watch, train};
use crate::{
    Result,
    events::Metrics,
    head::{Head, Mode, Standardisation},
    loss::{Loss, Targets},
    random::Draw,
    sampling::Order,
    selection,
};
use stage1_core::config::TrainConfig;
use tch::{Tensor, no_grad};

/// Rows per forward pass of an evaluation: bounds its memory.
const EVALUATION_ROWS: i64 = 8192;

/// Features with their labels.
pub struct Labelled {
    /// `[n, F]`.
    pub features: Tensor,
    /// Class indices, one per row.
    pub labels: Vec<usize>,
}

/// Where a training starts.
#[derive(Default)]
pub struct Start {
    /// Parameters for raw features; none: drawn.
    pub parameters: Option<Tensor>,
    /// A state to go on from.
    pub state: Option<State>,
}

/// Trains `head` on `train` and chooses the epoch on `select`; `watch` sees each epoch as it ends. The parameters that
/// come back are for raw features.
///
/// Features are standardised by the training images' mean and deviation, because a probe converges slowly on the raw
/// ones, and what is returned (and judged) has that folded in.
///
/// # Errors
/// As [`train`].
#[expect(
    clippy::too_many_arguments,
    reason = "each is another part of the training"
)]
pub fn fit(
    head: &Head,
    train_on: &Labelled,
    select: &Labelled,
    config: &TrainConfig,
    seed: u64,
    start: Start,
    keeper: Option<&mut Keeper>,
    watch: &mut dyn Watch,
) -> Result<Fitted> {
    let order = Order::new(config.sampling, seed, &train_on.labels, head.classes());
    let mut probe = Probe::new(head, train_on, select, config, seed, start.parameters);
    let fitted = train(&mut probe, &order, config, start.state, keeper, watch)?;
    Ok(Fitted {
        parameters: head.fold(&fitted.parameters, &probe.standard),
        ..fitted
    })
}

/// Metrics of `parameters` (for raw features) on `data`.
pub fn evaluate(head: &Head, parameters: &Tensor, data: &Labelled) -> Metrics {
    selection::metrics(&logits(head, parameters, &data.features), &data.labels)
}

/// Logits `[n, K]` of features `[n, F]`, in bounded memory.
pub fn logits(head: &Head, parameters: &Tensor, features: &Tensor) -> Tensor {
    no_grad(|| {
        let rows = features.split(EVALUATION_ROWS, 0);
        let logits: Vec<_> = rows
            .iter()
            .map(|rows| head.logits(parameters, rows, Mode::Evaluate))
            .collect();
        Tensor::cat(&logits, 0)
    })
}

/// A head whose parameters are those for standardised features.
pub struct Probe<'a> {
    head: &'a Head,
    config: &'a TrainConfig,
    seed: u64,
    standard: Standardisation,
    /// Standardised, `[n, F]`.
    features: Tensor,
    labels: Tensor,
    select: &'a Labelled,
    loss: Loss,
    start: Option<Tensor>,
}

impl<'a> Probe<'a> {
    fn new(
        head: &'a Head,
        train: &Labelled,
        select: &'a Labelled,
        config: &'a TrainConfig,
        seed: u64,
        start: Option<Tensor>,
    ) -> Self {
        let device = train.features.device();
        let standard = Standardisation::of(&train.features);
        let labels: Vec<_> = train.labels.iter().map(|&label| label as i64).collect();
        Self {
            features: standard.apply(&train.features),
            labels: Tensor::from_slice(&labels).to_device(device),
            loss: Loss::new(config, &train.labels, head.classes(), device),
            start: start.map(|raw| head.unfold(&raw.to_device(device), &standard)),
            head,
            config,
            seed,
            standard,
            select,
        }
    }
}

impl Objective for Probe<'_> {
    fn initial(&mut self) -> Tensor {
        let drawn = || self.head.initialise(self.seed, self.labels.device());
        self.start.as_ref().map_or_else(drawn, Tensor::copy)
    }

    fn decay(&self) -> Tensor {
        self.head
            .on_weights(self.config.weight_decay, self.labels.device())
    }

    fn rates(&self) -> Option<Tensor> {
        None
    }

    fn begin(&mut self, _: usize, _: usize, _: &[&[i64]]) {}

    fn step(&mut self, parameters: &Tensor, at: Step<'_>) -> Result<Gradient> {
        let rows = Tensor::from_slice(at.rows).to_device(self.labels.device());
        let features = self.features.index_select(0, &rows);
        let targets = Targets::Classes(self.labels.index_select(0, &rows));
        let Step { epoch, step, .. } = at;
        Draw::Step { epoch, step }.seed_libtorch(self.seed);
        let logits = self.head.logits(parameters, &features, Mode::Train);
        let loss = self.loss.sum(&logits, &targets) / self.loss.weight(&targets);
        Ok(Gradient {
            loss: loss.double_value(&[]),
            gradient: Tensor::run_backward(&[&loss], &[parameters], false, false).remove(0),
        })
    }

    fn evaluate(&mut self, parameters: &Tensor) -> Result<Metrics> {
        let folded = self.head.fold(parameters, &self.standard);
        Ok(evaluate(self.head, &folded, self.select))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::EpochRecord, random::generator};
    use stage1_core::{
        config::ClassWeights,
        model::{Features, HeadKind, HeadSpec, ReadBlocks},
    };

    const WIDTH: i64 = 4;

    /// Rows of two classes, three of class 0 to one of class 1, that their first feature tells apart almost.
    fn data() -> Labelled {
        let labels: Vec<usize> = (0..64).map(|row| usize::from(row % 4 == 0)).collect();
        let value = |row: usize, column: usize| {
            let noise = ((row * 7 + column * 13) % 11) as f32 / 11.0;
            if column == 0 {
                labels[row] as f32 + noise
            } else {
                noise
            }
        };
        let rows: Vec<f32> = (0..64)
            .flat_map(|row| (0..WIDTH as usize).map(move |column| (row, column)))
            .map(|(row, column)| value(row, column))
            .collect();
        Labelled {
            features: Tensor::from_slice(&rows).reshape([-1, WIDTH]),
            labels,
        }
    }

    fn head() -> Head {
        let spec = HeadSpec {
            kind: HeadKind::Linear,
            features: Features::Cls,
            blocks: ReadBlocks::LAST,
            classes: 2,
        };
        Head::new(spec, WIDTH as usize, 0.0)
    }

    /// One step to the epoch, so that an epoch's loss is that of the parameters before it.
    fn plain() -> TrainConfig {
        TrainConfig {
            epochs: 4,
            batch_size: 64,
            learning_rate: 0.05,
            weight_decay: 0.0,
            warmup_epochs: 0.0,
            ema_decay: 0.0,
            max_grad_norm: 1e9,
            ..TrainConfig::default()
        }
    }

    fn trained(change: impl FnOnce(&mut TrainConfig)) -> (Fitted, Vec<EpochRecord>) {
        let mut config = plain();
        change(&mut config);
        let mut records = Vec::new();
        let _alone = generator();
        let mut keep = |record: &EpochRecord| {
            records.push(record.clone());
            Ok(())
        };
        let start = Start::default();
        let fitted = fit(
            &head(),
            &data(),
            &data(),
            &config,
            5,
            start,
            None,
            &mut keep,
        );
        (fitted.unwrap(), records)
    }

    fn losses(change: impl FnOnce(&mut TrainConfig)) -> Vec<f64> {
        trained(change)
            .1
            .iter()
            .map(|record| record.train_loss)
            .collect()
    }

    #[test]
    fn label_smoothing_mixes_the_loss_linearly() {
        let first = |smoothing| losses(|config| config.label_smoothing = smoothing)[0];
        let (none, some, much) = (first(0.0), first(0.2), first(0.4));
        assert!((some - none).abs() > 1e-4, "{none} {some}");
        assert!(
            (some - f64::midpoint(none, much)).abs() < 1e-5,
            "{none} {some} {much}"
        );
    }

    #[test]
    fn balanced_classes_weigh_in_the_loss() {
        let weighted = losses(|config| config.class_weights = ClassWeights::Balanced);
        assert!(
            (weighted[0] - losses(|_| {})[0]).abs() > 1e-4,
            "{weighted:?}"
        );
    }

    #[test]
    fn the_rate_warms_up() {
        let rates = |warmup| -> Vec<f64> {
            let (_, records) = trained(|config| config.warmup_epochs = warmup);
            records.iter().map(|record| record.learning_rate).collect()
        };
        let (without, with) = (rates(0.0), rates(3.0));
        assert!(
            with[0] < with[1] && with[0] < 0.5 * without[0],
            "{with:?} {without:?}"
        );
    }

    #[test]
    fn decay_shrinks_the_weights() {
        let norm = |decay| {
            let (fitted, _) = trained(|config| config.weight_decay = decay);
            fitted.parameters.norm().double_value(&[])
        };
        assert!(norm(10.0) < 0.8 * norm(0.0), "{} {}", norm(10.0), norm(0.0));
    }

    #[test]
    fn a_gradient_below_adams_epsilon_moves_nothing() {
        let clipped = losses(|config| config.max_grad_norm = 1e-13);
        assert!((clipped[3] - clipped[0]).abs() < 1e-4, "{clipped:?}");
        let free = losses(|_| {});
        assert!(free[3] < free[0] - 1e-3, "{free:?}");
    }

    #[test]
    fn metrics_that_are_no_numbers_end_the_training() {
        let mut select = data();
        select.features *= f64::NAN;
        let _alone = generator();
        let mut watch =
            |_: &EpochRecord| -> Result<()> { panic!("the epoch must not be recorded") };
        let start = Start::default();
        let result = fit(
            &head(),
            &data(),
            &select,
            &plain(),
            5,
            start,
            None,
            &mut watch,
        );
        let error = result.err().unwrap().to_string();
        assert!(
            error.contains("metric on val_select is NaN at epoch 1"),
            "{error}"
        );
    }

    #[test]
    fn a_training_can_start_from_parameters() {
        let (first, _) = trained(|config| config.epochs = 1);
        let _alone = generator();
        let mut records = Vec::new();
        let mut keep = |record: &EpochRecord| {
            records.push(record.clone());
            Ok(())
        };
        let start = Start {
            parameters: Some(first.parameters.copy()),
            state: None,
        };
        let tiny = TrainConfig {
            learning_rate: 1e-12,
            ..plain()
        };
        let again = fit(&head(), &data(), &data(), &tiny, 6, start, None, &mut keep).unwrap();
        let change = (again.parameters - first.parameters)
            .abs()
            .max()
            .double_value(&[]);
        assert!(change < 1e-5, "{change}");
    }
}
