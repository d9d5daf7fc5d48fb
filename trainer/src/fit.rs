//! Trains a head on features: the whole loop on one page.

use crate::{
    Error, Result,
    events::{EpochRecord, Metrics},
    head::{Head, Mode, Standardisation},
    optimiser::{AdamW, Ema, Schedule, clip},
    random::Draw,
    selection::{self, Selection},
};
use stage1_core::config::{ClassWeights, TrainConfig};
use tch::{Kind, Reduction, Tensor, no_grad};

/// Rows per forward pass of an evaluation: bounds its memory.
const EVALUATION_ROWS: i64 = 8192;

/// Features with their labels.
pub struct Labelled {
    /// `[n, F]`.
    pub features: Tensor,
    /// Class indices, one per row.
    pub labels: Vec<usize>,
}

/// The best head of a training.
pub struct Fitted {
    /// The averaged parameters for raw features: standardisation is folded in.
    pub parameters: Tensor,
    /// The epoch that they are from, from 1.
    pub epoch: usize,
    /// How many epochs ran.
    pub epochs_run: usize,
    /// The epoch's metrics on val_select.
    pub metrics: Metrics,
}

/// Trains `head` on `train` and chooses the epoch on `select`; `on_epoch` sees each epoch as it ends.
///
/// Features are standardised by the training images' mean and deviation, because a probe converges slowly on the raw
/// ones, and what is returned (and judged) has that folded in.
///
/// # Errors
/// [`Error::Diverged`] when a loss, gradient or metric isn't finite; or what `on_epoch` returns.
pub fn fit(
    head: &Head,
    train: &Labelled,
    select: &Labelled,
    config: &TrainConfig,
    seed: u64,
    on_epoch: &mut dyn FnMut(&EpochRecord) -> Result<()>,
) -> Result<Fitted> {
    let standard = Standardisation::of(&train.features);
    let mut run = Run::new(head, train, &standard, config, seed);
    let mut selection = Selection::new(config.early_stop.clone());
    let mut best: Option<Fitted> = None;
    let mut epochs_run = 0;
    for epoch in 1..=config.epochs {
        let pass = run.epoch(epoch)?;
        let parameters = head.fold(run.ema.average(), &standard);
        let metrics = evaluate(head, &parameters, select);
        run.check_metrics(&metrics, epoch)?;
        let is_best = selection.judge(&metrics);
        on_epoch(&EpochRecord {
            epoch,
            train_loss: pass.loss,
            learning_rate: pass.learning_rate,
            max_grad_norm: pass.max_grad_norm,
            val_select: metrics.clone(),
            best: is_best,
        })?;
        epochs_run = epoch;
        if is_best {
            best = Some(Fitted {
                parameters,
                epoch,
                epochs_run,
                metrics,
            });
        }
        if selection.should_stop() {
            break;
        }
    }
    let best = best.expect("at least one epoch runs, and the first one is the best so far");
    Ok(Fitted { epochs_run, ..best })
}

/// Metrics of `parameters` (for raw features) on `data`.
pub fn evaluate(head: &Head, parameters: &Tensor, data: &Labelled) -> Metrics {
    no_grad(|| {
        let rows = data.features.split(EVALUATION_ROWS, 0);
        let logits: Vec<_> = rows
            .iter()
            .map(|rows| head.logits(parameters, rows, Mode::Evaluate))
            .collect();
        selection::metrics(&Tensor::cat(&logits, 0), &data.labels)
    })
}

/// The state of a training.
struct Run<'a> {
    head: &'a Head,
    config: &'a TrainConfig,
    seed: u64,
    /// Standardised, `[n, F]`.
    features: Tensor,
    labels: Tensor,
    class_weights: Option<Tensor>,
    parameters: Tensor,
    optimiser: AdamW,
    schedule: Schedule,
    ema: Ema,
    steps: usize,
}

/// What one pass over the images saw.
struct Pass {
    loss: f64,
    learning_rate: f64,
    max_grad_norm: f64,
}

impl<'a> Run<'a> {
    fn new(
        head: &'a Head,
        train: &Labelled,
        standard: &Standardisation,
        config: &'a TrainConfig,
        seed: u64,
    ) -> Self {
        let device = train.features.device();
        let parameters = head.initialise(seed, device);
        let steps_per_epoch = train.labels.len().div_ceil(config.batch_size);
        let labels: Vec<_> = train.labels.iter().map(|&label| label as i64).collect();
        Self {
            features: standard.apply(&train.features),
            labels: Tensor::from_slice(&labels).to_device(device),
            class_weights: class_weights(config.class_weights, &train.labels, head.classes()).map(
                |weights| {
                    Tensor::from_slice(&weights)
                        .to_kind(Kind::Float)
                        .to_device(device)
                },
            ),
            optimiser: AdamW::new(head.on_weights(config.weight_decay, device)),
            schedule: Schedule {
                peak: config.learning_rate,
                warmup_steps: config.warmup_epochs * steps_per_epoch as f64,
                total_steps: config.epochs * steps_per_epoch,
            },
            ema: Ema::new(&parameters, config.ema_decay),
            parameters: parameters.set_requires_grad(true),
            steps: 0,
            head,
            config,
            seed,
        }
    }

    fn epoch(&mut self, epoch: usize) -> Result<Pass> {
        let images = self.labels.size()[0];
        let order = Draw::Order { epoch }.permutation(self.seed, images as usize);
        let (mut loss_sum, mut learning_rate, mut max_grad_norm) = (0.0, 0.0, 0.0_f64);
        for (step, batch) in order.chunks(self.config.batch_size).enumerate() {
            let (loss, norm) = self.step(epoch, step, batch)?;
            loss_sum += loss * batch.len() as f64;
            max_grad_norm = max_grad_norm.max(norm);
            learning_rate = self.schedule.rate(self.steps);
            self.steps += 1;
        }
        Ok(Pass {
            loss: loss_sum / images as f64,
            learning_rate,
            max_grad_norm,
        })
    }

    /// One update; the loss, and the gradient's norm before clipping.
    fn step(&mut self, epoch: usize, step: usize, batch: &[i64]) -> Result<(f64, f64)> {
        let rows = Tensor::from_slice(batch).to_device(self.labels.device());
        let (features, labels) = (
            self.features.index_select(0, &rows),
            self.labels.index_select(0, &rows),
        );
        Draw::Step { epoch, step }.seed_libtorch(self.seed);
        let logits = self.head.logits(&self.parameters, &features, Mode::Train);
        let (weights, smoothing) = (self.class_weights.as_ref(), self.config.label_smoothing);
        let loss = logits.cross_entropy_loss(&labels, weights, Reduction::Mean, -100, smoothing);
        let value = self.finite("loss", loss.double_value(&[]), epoch, step)?;
        let mut gradient =
            Tensor::run_backward(&[&loss], &[&self.parameters], false, false).remove(0);
        let norm = clip(&mut gradient, self.config.max_grad_norm);
        self.finite("gradient's norm", norm, epoch, step)?;
        let rate = self.schedule.rate(self.steps);
        self.optimiser.step(&mut self.parameters, &gradient, rate);
        self.ema.update(&self.parameters);
        Ok((value, norm))
    }

    fn check_metrics(&self, metrics: &Metrics, epoch: usize) -> Result<()> {
        let last_step = self.steps / epoch - 1;
        let all = metrics.values();
        all.map(|&value| self.finite("metric on val_select", value, epoch, last_step))
            .collect::<Result<Vec<_>>>()?;
        Ok(())
    }

    fn finite(&self, what: &'static str, value: f64, epoch: usize, step: usize) -> Result<f64> {
        if value.is_finite() {
            return Ok(value);
        }
        Err(Error::Diverged {
            what,
            value,
            epoch,
            step: step + 1,
            learning_rate: self.config.learning_rate,
        })
    }
}

/// `balanced`: n / (K · n_k) for each class k. Every class has images.
fn class_weights(choice: ClassWeights, labels: &[usize], classes: usize) -> Option<Vec<f64>> {
    let count = |class| labels.iter().filter(|&&label| label == class).count();
    let balanced = |class| labels.len() as f64 / (classes * count(class)) as f64;
    match choice {
        ClassWeights::None => None,
        ClassWeights::Balanced => Some((0..classes).map(balanced).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;
    use stage1_core::model::{Features, HeadKind, HeadSpec};

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
        let fitted = fit(&head(), &data(), &data(), &config, 5, &mut |record| {
            records.push(record.clone());
            Ok(())
        });
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
        let result = fit(&head(), &data(), &select, &plain(), 5, &mut |_| {
            panic!("the epoch must not be recorded")
        });
        let error = result.err().unwrap().to_string();
        assert!(
            error.contains("metric on val_select is NaN at epoch 1"),
            "{error}"
        );
    }

    #[test]
    fn balanced_weights_give_every_class_the_same_total() {
        let labels = [0, 0, 0, 1];
        assert_eq!(class_weights(ClassWeights::None, &labels, 2), None);
        let weights = class_weights(ClassWeights::Balanced, &labels, 2);
        assert_eq!(weights, Some(vec![4.0 / 6.0, 2.0]));
    }
}
