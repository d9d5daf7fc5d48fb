//! The loop of self-supervised training, and the state that it goes on from.

use super::{
    course::Course,
    guard::Guard,
    layout::Layout,
    objective::{Moment, Objective},
    views::{Crops, Views},
};
use crate::{
    Error, Result,
    events::PretrainingRecord,
    features::Wanted,
    fit::{Keeper, Position, State, kept},
    log::Log,
    optimiser::{AdamW, Moments, clip},
    random::Draw,
};
use serde::{Deserialize, Serialize};
use stage1_core::config::ExploraConfig;
use std::{collections::BTreeMap, sync::mpsc::Receiver, time::Instant};
use tch::{Tensor, no_grad};

/// Everything but the tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Notes {
    pub(crate) position: Position,
    seen: Seen,
    steps: usize,
    guard: Guard,
    pub(crate) records: Vec<PretrainingRecord>,
}

/// What an epoch has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// Sums of the measures over images.
    sums: BTreeMap<String, f64>,
    images: usize,
    max_grad_norm: f64,
    seconds: f64,
}

/// A training under way.
pub(crate) struct Run<'a> {
    config: &'a ExploraConfig,
    objective: &'a Objective<'a>,
    views: Views,
    seed: u64,
    images: usize,
    batch: usize,
    course: Course<'a>,
    /// 1 for values of matrices.
    matrices: Tensor,
    /// What the rate of each value is multiplied with.
    rates: Tensor,
    /// 0 for values of prototypes.
    not_prototypes: Tensor,
    student: Tensor,
    teacher: Tensor,
    optimiser: AdamW,
    guard: Guard,
    position: Position,
    seen: Seen,
    records: Vec<PretrainingRecord>,
}

/// What a training has made.
pub(crate) struct Taught {
    /// The teacher's parameters.
    pub(crate) parameters: Tensor,
    pub(crate) steps: usize,
    /// The last epoch's means.
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// Images of a step, and steps of an epoch: the rest, too few for a step, waits for another epoch's order.
pub(crate) fn steps(config: &ExploraConfig, images: usize) -> (usize, usize) {
    let batch = config.batch_size.min(images);
    (batch, images / batch.max(1))
}

impl<'a> Run<'a> {
    /// From `initial` parameters, on so many images.
    pub(crate) fn new(
        config: &'a ExploraConfig,
        objective: &'a Objective<'a>,
        layout: &Layout,
        views: Views,
        initial: &Tensor,
        images: usize,
        seed: u64,
    ) -> Self {
        let (batch, per_epoch) = steps(config, images);
        let matrices = layout.matrices().to_device(initial.device());
        Self {
            optimiser: AdamW::new(&matrices * config.weight_decay, None),
            rates: layout
                .rates(config.layerwise_decay)
                .to_device(initial.device()),
            not_prototypes: layout.not_prototypes().to_device(initial.device()),
            matrices,
            student: initial.copy().set_requires_grad(true),
            teacher: initial.copy(),
            course: Course::new(config, per_epoch),
            guard: Guard::default(),
            position: Position { epoch: 1, step: 0 },
            seen: Seen::default(),
            records: Vec::new(),
            config,
            objective,
            views,
            seed,
            images,
            batch,
        }
    }

    /// Trains to the end, from the start or from a saved state.
    ///
    /// # Errors
    /// [`Error::PretrainingDiverged`], [`Error::Collapsed`]; an image that can't be used; what keeper and log return.
    pub(crate) fn train(
        mut self,
        state: Option<State<Notes>>,
        keeper: &mut Keeper,
        log: &mut Log<'_>,
    ) -> Result<Taught> {
        if let Some(state) = state {
            self.restore(state)?;
        }
        while self.position.epoch <= self.config.epochs {
            self.epoch(keeper, log)?;
            keeper.save_if_due(|| self.state())?;
        }
        let last = self.records.last().expect("at least one epoch runs");
        Ok(Taught {
            steps: last.steps,
            metrics: last.metrics.clone(),
            parameters: self.teacher,
        })
    }

    /// The steps of an epoch that are left.
    fn epoch(&mut self, keeper: &mut Keeper, log: &mut Log<'_>) -> Result<()> {
        let Position { epoch, step: first } = self.position;
        let order = Draw::Order { epoch }.permutation(self.seed, self.images);
        let batches: Vec<_> = order.chunks_exact(self.batch).collect();
        let batch = self.batch;
        let size = self.config.micro_batch_size.unwrap_or(batch);
        let parts = |(i, rows): (usize, &&[i64])| -> Vec<Wanted> {
            let part = |(part, rows): (usize, &[i64])| Wanted {
                rows: rows.to_vec(),
                first: i * batch + part * size,
            };
            rows.chunks(size).enumerate().map(part).collect()
        };
        let ahead = batches.iter().enumerate().skip(first);
        let incoming = self.views.start(epoch, ahead.flat_map(parts).collect());
        let parts = batch.div_ceil(size);
        for step in first..batches.len() {
            self.step(epoch, step, parts, &incoming)?;
            log.advance(batch);
            keeper.save_if_due(|| self.state())?;
        }
        let record = self.record(epoch);
        log.record(&record)?;
        self.records.push(record);
        self.position = Position {
            epoch: epoch + 1,
            step: 0,
        };
        self.seen = Seen::default();
        Ok(())
    }

    fn step(
        &mut self,
        epoch: usize,
        step: usize,
        parts: usize,
        incoming: &Receiver<Result<Crops>>,
    ) -> Result<()> {
        let started = Instant::now();
        let at = self.optimiser.moments().steps;
        let mut gradient = self.student.detach().zeros_like();
        let mut measures = BTreeMap::new();
        for _ in 0..parts {
            // The reading thread ends only after its last batch, or by a panic of its own.
            let crops = incoming
                .recv()
                .unwrap_or_else(|_| panic!("the thread that reads images has ended"))?;
            let moment = Moment {
                epoch,
                temperature: self.course.temperature(at),
            };
            let lesson = self
                .objective
                .learn(&self.student, &self.teacher, &crops, moment);
            let share = crops.images as f64 / self.batch as f64;
            gradient += lesson.gradient * share;
            for (name, value) in lesson.measures {
                *measures.entry(name).or_insert(0.0) += share * value;
            }
        }
        self.finite("loss", measures["loss"], epoch, step)?;
        let keeps_prototypes = self.course.keeps_prototypes(at);
        if keeps_prototypes {
            gradient *= &self.not_prototypes;
        }
        let norm = clip(&mut gradient, self.config.max_grad_norm);
        self.finite("gradient's norm", norm, epoch, step)?;
        let decay = &self.matrices * self.course.decay(at);
        let scale = match keeps_prototypes {
            true => &self.rates * &self.not_prototypes,
            false => self.rates.shallow_clone(),
        };
        self.optimiser.set(decay, Some(scale));
        self.optimiser
            .step(&mut self.student, &gradient, self.course.rate(at));
        follow(&mut self.teacher, &self.student, self.course.momentum(at));
        for (name, value) in &measures {
            *self.seen.sums.entry(name.clone()).or_insert(0.0) += value * self.batch as f64;
        }
        self.seen.images += self.batch;
        self.seen.max_grad_norm = self.seen.max_grad_norm.max(norm);
        self.seen.seconds += started.elapsed().as_secs_f64();
        self.position.step = step + 1;
        self.guard
            .check(&measures, &self.config.guards, (epoch, step))
    }

    fn record(&self, epoch: usize) -> PretrainingRecord {
        let steps = self.optimiser.moments().steps;
        let images = self.seen.images as f64;
        let mean = |(name, sum): (&String, &f64)| (name.clone(), sum / images);
        PretrainingRecord {
            epoch,
            metrics: self.seen.sums.iter().map(mean).collect(),
            learning_rate: self.course.rate(steps - 1),
            teacher_momentum: self.course.momentum(steps - 1),
            teacher_temperature: self.course.temperature(steps - 1),
            max_grad_norm: self.seen.max_grad_norm,
            steps,
            seconds: self.seen.seconds,
            images_per_second: images / self.seen.seconds.max(1e-9),
        }
    }

    fn state(&self) -> State<Notes> {
        let moments = self.optimiser.moments();
        let named = [
            ("student", &self.student),
            ("teacher", &self.teacher),
            ("first_moment", &moments.first),
            ("second_moment", &moments.second),
        ];
        let named = named.map(|(name, tensor)| (name.to_owned(), kept(tensor)));
        State {
            threads: 0,
            notes: Notes {
                position: self.position,
                seen: self.seen.clone(),
                steps: moments.steps,
                guard: self.guard.clone(),
                records: self.records.clone(),
            },
            tensors: named.into(),
        }
    }

    /// # Errors
    /// [`Error::StateShape`].
    fn restore(&mut self, state: State<Notes>) -> Result<()> {
        let (count, device) = (self.student.numel(), self.student.device());
        let take = |name| -> Result<Tensor> { Ok(state.tensor_of(name, count)?.to_device(device)) };
        self.student = take("student")?.set_requires_grad(true);
        self.teacher = take("teacher")?;
        self.optimiser.restore(Moments {
            first: take("first_moment")?,
            second: take("second_moment")?,
            steps: state.notes.steps,
        });
        let Notes {
            position,
            seen,
            guard,
            records,
            ..
        } = state.notes;
        (self.position, self.seen) = (position, seen);
        (self.guard, self.records) = (guard, records);
        Ok(())
    }

    fn finite(&self, what: &'static str, value: f64, epoch: usize, step: usize) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        Err(Error::PretrainingDiverged {
            what,
            value,
            epoch,
            step: step + 1,
            learning_rate: self.config.learning_rate,
        })
    }
}

impl Notes {
    /// Images that were trained on so far.
    pub(crate) fn images(&self, per_epoch: usize) -> usize {
        self.records.len() * per_epoch + self.seen.images
    }
}

/// Moves the teacher: `momentum` of it stays, the rest becomes the student's.
pub(crate) fn follow(teacher: &mut Tensor, student: &Tensor, momentum: f64) {
    let _ = no_grad(|| teacher.lerp_(&student.detach(), 1.0 - momentum));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teacher_moves_by_what_is_left_of_it() {
        let student = Tensor::from_slice(&[1.0_f64, -2.0]).set_requires_grad(true);
        let mut teacher = Tensor::from_slice(&[0.0_f64, 2.0]);
        let (mut want, mut momentum) = ([0.0, 2.0], 0.75);
        for _ in 0..3 {
            follow(&mut teacher, &student, momentum);
            for (want, student) in want.iter_mut().zip([1.0, -2.0]) {
                *want = momentum * *want + (1.0 - momentum) * student;
            }
            momentum = 0.5 + momentum / 2.0;
        }
        let got: Vec<f64> = Vec::try_from(&teacher).unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-15, "{got} for {want}");
        }
        assert!(!teacher.requires_grad());
        let before: Vec<f64> = Vec::try_from(&teacher).unwrap();
        follow(&mut teacher, &student, 1.0);
        assert_eq!(Vec::<f64>::try_from(&teacher).unwrap(), before);
    }

    #[test]
    fn a_rest_that_is_no_batch_waits() {
        let config = ExploraConfig::default();
        let cases = [(200, (64, 3)), (64, (64, 1)), (10, (10, 1)), (0, (0, 0))];
        for (images, want) in cases {
            assert_eq!(steps(&config, images), want, "{images}");
        }
    }
}
