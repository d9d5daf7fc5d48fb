//! The one training loop of all phases: epochs of steps, an average of the weights, an epoch chosen on val_select, and a
//! state on disk from which a training that was killed goes on to the same bits.
//!
//! What is trained is an [`Objective`]: it gives the gradient of a batch and judges parameters. Everything else (order,
//! learning rate, AdamW, clipping, average, stopping) is here.

mod probe;
mod state;

pub use probe::{Labelled, Probe, Start, evaluate, fit, logits};
pub(crate) use state::kept;
pub use state::{Keeper, Origin, State};

use crate::{
    Error, Rates, Result,
    events::{EpochRecord, Metrics},
    optimiser::{AdamW, Ema, Schedule, clip},
    sampling::Order,
    selection::Selection,
};
use serde::{Deserialize, Serialize};
use stage1_core::config::TrainConfig;
use std::time::Instant;
use tch::Tensor;

/// What is trained. Its parameters are one flat float32 buffer.
pub trait Objective {
    /// The parameters before the first step.
    fn initial(&mut self) -> Tensor;
    /// Weight decay of each parameter.
    fn decay(&self) -> Tensor;
    /// What the learning rate of each parameter is multiplied with; none: 1.
    fn rates(&self) -> Option<Tensor>;
    /// The keys of its learning rates, with their values; `config` is how it is trained.
    fn rate_keys(&self, config: &TrainConfig) -> Rates {
        Rates(vec![("train.learning_rate", config.learning_rate)])
    }
    /// An epoch begins at the step `first`, or goes on there, with these batches ahead.
    fn begin(&mut self, epoch: usize, first: usize, batches: &[&[i64]]);
    /// The loss of the next batch and its gradient.
    ///
    /// # Errors
    /// An image that can't be used.
    fn step(&mut self, parameters: &Tensor, at: Step<'_>) -> Result<Gradient>;
    /// Metrics on val_select.
    ///
    /// # Errors
    /// An image that can't be used.
    fn evaluate(&mut self, parameters: &Tensor) -> Result<Metrics>;
}

/// Where a training is.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The step within the epoch, from 0.
    pub step: usize,
    /// The training images of the batch.
    pub rows: &'a [i64],
}

/// What a batch says.
pub struct Gradient {
    /// The mean loss.
    pub loss: f64,
    /// Of the loss, in the shape of the parameters.
    pub gradient: Tensor,
}

/// Who is told.
pub trait Watch {
    /// A step has ended.
    fn step(&mut self, images: usize);
    /// An epoch has ended.
    ///
    /// # Errors
    /// What ends the training.
    fn epoch(&mut self, record: &EpochRecord) -> Result<()>;
}

impl<F: FnMut(&EpochRecord) -> Result<()>> Watch for F {
    fn step(&mut self, _: usize) {}

    fn epoch(&mut self, record: &EpochRecord) -> Result<()> {
        self(record)
    }
}

/// The best parameters of a training.
pub struct Fitted {
    /// The averaged parameters.
    pub parameters: Tensor,
    /// The epoch that they are from, from 1.
    pub epoch: usize,
    /// How many epochs ran.
    pub epochs_run: usize,
    /// The epoch's metrics on val_select.
    pub metrics: Metrics,
}

/// The next step of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// From 1.
    pub(crate) epoch: usize,
    /// From 0.
    pub(crate) step: usize,
}

/// What an epoch has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    loss_sum: f64,
    images: usize,
    max_grad_norm: f64,
    seconds: f64,
}

/// Trains as `config` says, from the start or from a saved `state`, and saves states with `keeper`.
///
/// # Errors
/// [`Error::Diverged`] when a loss, gradient or metric isn't finite; what the objective, the keeper or `watch` return.
pub fn train(
    objective: &mut dyn Objective,
    order: &Order,
    config: &TrainConfig,
    state: Option<State>,
    mut keeper: Option<&mut Keeper>,
    watch: &mut dyn Watch,
) -> Result<Fitted> {
    let images = order.of_epoch(1).len();
    let mut run = Run::new(objective, config, images);
    if let Some(state) = state {
        run.restore(state)?;
    }
    while run.position.epoch <= config.epochs && !run.selection.should_stop() {
        run.epoch(order, &mut keeper, watch)?;
        if let Some(keeper) = &mut keeper {
            keeper.save_if_due(|| run.state())?;
        }
    }
    run.finish()
}

/// A training under way.
struct Run<'a> {
    objective: &'a mut dyn Objective,
    config: &'a TrainConfig,
    schedule: Schedule,
    parameters: Tensor,
    optimiser: AdamW,
    ema: Ema,
    selection: Selection,
    position: Position,
    seen: Seen,
    records: Vec<EpochRecord>,
    /// The averaged parameters of the best epoch so far.
    best: Option<Tensor>,
}

impl<'a> Run<'a> {
    fn new(objective: &'a mut dyn Objective, config: &'a TrainConfig, images: usize) -> Self {
        let parameters = objective.initial();
        let steps_per_epoch = images.div_ceil(config.batch_size);
        Self {
            schedule: Schedule {
                peak: config.learning_rate,
                warmup_steps: config.warmup_epochs * steps_per_epoch as f64,
                total_steps: config.epochs * steps_per_epoch,
            },
            optimiser: AdamW::new(objective.decay(), objective.rates()),
            ema: Ema::new(&parameters, config.ema_decay),
            parameters: parameters.set_requires_grad(true),
            selection: Selection::new(config.early_stop.clone()),
            position: Position { epoch: 1, step: 0 },
            seen: Seen::default(),
            records: Vec::new(),
            best: None,
            objective,
            config,
        }
    }

    /// The steps of an epoch that are left, and its judgement.
    fn epoch(
        &mut self,
        order: &Order,
        keeper: &mut Option<&mut Keeper>,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let Position { epoch, step: first } = self.position;
        let rows = order.of_epoch(epoch);
        let batches: Vec<_> = rows.chunks(self.config.batch_size).collect();
        self.objective.begin(epoch, first, &batches[first..]);
        for (step, rows) in batches.iter().enumerate().skip(first) {
            self.step(Step { epoch, step, rows })?;
            watch.step(rows.len());
            if let Some(keeper) = keeper {
                keeper.save_if_due(|| self.state())?;
            }
        }
        let record = self.judge(epoch)?;
        watch.epoch(&record)?;
        self.records.push(record);
        self.position = Position {
            epoch: epoch + 1,
            step: 0,
        };
        self.seen = Seen::default();
        Ok(())
    }

    fn step(&mut self, at: Step<'_>) -> Result<()> {
        let started = Instant::now();
        let Gradient { loss, mut gradient } = self.objective.step(&self.parameters, at)?;
        self.finite("loss", loss, at.epoch, at.step)?;
        let norm = clip(&mut gradient, self.config.max_grad_norm);
        self.finite("gradient's norm", norm, at.epoch, at.step)?;
        let rate = self.schedule.rate(self.optimiser.moments().steps);
        self.optimiser.step(&mut self.parameters, &gradient, rate);
        self.ema.update(&self.parameters);
        self.seen.loss_sum += loss * at.rows.len() as f64;
        self.seen.images += at.rows.len();
        self.seen.max_grad_norm = self.seen.max_grad_norm.max(norm);
        self.seen.seconds += started.elapsed().as_secs_f64();
        self.position.step = at.step + 1;
        Ok(())
    }

    fn judge(&mut self, epoch: usize) -> Result<EpochRecord> {
        let metrics = self.objective.evaluate(self.ema.average())?;
        for &value in metrics.values() {
            self.finite("metric on val_select", value, epoch, self.position.step - 1)?;
        }
        let best = self.selection.judge(&metrics);
        if best {
            self.best = Some(self.ema.average().copy());
        }
        let steps = self.optimiser.moments().steps;
        Ok(EpochRecord {
            epoch,
            train_loss: self.seen.loss_sum / self.seen.images.max(1) as f64,
            learning_rate: self.schedule.rate(steps - 1),
            max_grad_norm: self.seen.max_grad_norm,
            val_select: metrics,
            best,
            steps,
            seconds: self.seen.seconds,
            images_per_second: self.seen.images as f64 / self.seen.seconds.max(1e-9),
        })
    }

    fn finish(self) -> Result<Fitted> {
        let best = self.records.iter().rfind(|record| record.best);
        let (Some(best), Some(parameters)) = (best, self.best) else {
            unreachable!("at least one epoch runs, and the first one is the best so far");
        };
        Ok(Fitted {
            parameters,
            epoch: best.epoch,
            epochs_run: self.records.len(),
            metrics: best.val_select.clone(),
        })
    }

    fn finite(&self, what: &'static str, value: f64, epoch: usize, step: usize) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        Err(Error::Diverged {
            what,
            value,
            epoch,
            step: step + 1,
            rates: self.objective.rate_keys(self.config),
        })
    }
}
