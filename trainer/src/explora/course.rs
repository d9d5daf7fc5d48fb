//! How a few numbers change over a training.

use crate::optimiser::Schedule;
use stage1_core::config::ExploraConfig;
use std::f64::consts::PI;

/// Of a training of so many steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course<'a> {
    config: &'a ExploraConfig,
    steps_per_epoch: usize,
}

impl<'a> Course<'a> {
    /// With so many steps to the epoch.
    pub(crate) fn new(config: &'a ExploraConfig, steps_per_epoch: usize) -> Self {
        Self {
            config,
            steps_per_epoch,
        }
    }

    /// All steps.
    pub(crate) fn steps(&self) -> usize {
        self.config.epochs * self.steps_per_epoch
    }

    /// The learning rate of a step, from 0: a linear warm-up, then half a cosine down to 0.
    pub(crate) fn rate(&self, step: usize) -> f64 {
        let schedule = Schedule {
            peak: self.config.learning_rate,
            warmup_steps: self.config.warmup_epochs * self.steps_per_epoch as f64,
            total_steps: self.steps(),
        };
        schedule.rate(step)
    }

    /// The weight decay of matrices.
    pub(crate) fn decay(&self, step: usize) -> f64 {
        self.half_cosine(step, self.config.weight_decay, self.config.weight_decay_end)
    }

    /// What of the teacher stays at a step.
    pub(crate) fn momentum(&self, step: usize) -> f64 {
        let config = self.config;
        self.half_cosine(step, config.teacher_momentum, config.teacher_momentum_end)
    }

    /// The teacher's temperature: linear from its first value to its last.
    pub(crate) fn temperature(&self, step: usize) -> f64 {
        let config = self.config;
        let warmup = config.teacher_warmup_epochs * self.steps_per_epoch as f64;
        if step as f64 >= warmup {
            return config.teacher_temperature;
        }
        let (from, to) = (config.teacher_temperature_start, config.teacher_temperature);
        from + (to - from) * step as f64 / warmup
    }

    /// Whether prototypes stay as they were drawn.
    pub(crate) fn keeps_prototypes(&self, step: usize) -> bool {
        (step as f64) < self.config.freeze_prototypes_epochs * self.steps_per_epoch as f64
    }

    fn half_cosine(&self, step: usize, from: f64, to: f64) -> f64 {
        let progress = step as f64 / self.steps().max(1) as f64;
        to + (from - to) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_from_their_first_to_their_last_value() {
        let config = ExploraConfig {
            epochs: 4,
            teacher_warmup_epochs: 2.0,
            freeze_prototypes_epochs: 0.5,
            ..ExploraConfig::default()
        };
        let course = Course::new(&config, 10);
        type Number = fn(&Course<'_>, usize) -> f64;
        let cases: [(&str, Number, [f64; 3]); 4] = [
            ("momentum", |c, s| c.momentum(s), [0.992, 0.996, 1.0]),
            ("decay", |c, s| c.decay(s), [0.04, 0.22, 0.4]),
            ("temperature", |c, s| c.temperature(s), [0.04, 0.07, 0.07]),
            (
                "prototypes",
                |c, s| f64::from(u8::from(c.keeps_prototypes(s))),
                [1.0, 0.0, 0.0],
            ),
        ];
        for (name, number, want) in cases {
            for (step, want) in [0, 20, 40].into_iter().zip(want) {
                let got = number(&course, step);
                assert!((got - want).abs() < 1e-12, "{name} at {step}: {got}");
            }
        }
        assert!((course.temperature(10) - 0.055).abs() < 1e-12);
        assert!(course.keeps_prototypes(4) && !course.keeps_prototypes(5));
        assert!(
            (course.rate(0) - 2.5e-5).abs() < 1e-12,
            "a tenth of the peak"
        );
    }
}
