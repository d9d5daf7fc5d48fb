//! Which configurations are measured.

use crate::{
    args::{BenchArgs, DeviceArgs, SessionArgs},
    commands::session,
};
use anyhow::bail;
use serde::Serialize;
use stage1_core::{
    bundle::{Bundle, FP32},
    device::Device,
};
use std::{fmt, num::NonZero, thread};

/// Batches that are measured where nothing else is said: a camera's, and a folder's.
const BATCHES: [usize; 2] = [1, 8];
/// Among which a batch is looked for that is within a budget.
const SEARCHED: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Point {
    pub(super) variant: String,
    pub(super) device: Device,
    pub(super) threads: usize,
    /// Images that are asked for, and go through the model, together.
    pub(super) batch: usize,
}

impl Point {
    /// Whether this is `other` with a smaller batch.
    pub(super) fn is_smaller_than(&self, other: &Self) -> bool {
        let same = Self {
            batch: other.batch,
            ..self.clone()
        };
        self.batch < other.batch && same == *other
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            variant,
            device,
            threads,
            batch,
        } = self;
        write!(
            f,
            "{variant} on {device}, batches of {batch}, {threads} threads"
        )
    }
}

/// All combinations of what was listed.
pub(super) struct Grid<'a> {
    args: &'a BenchArgs,
}

impl<'a> Grid<'a> {
    /// Fails for numbers that mean nothing.
    pub(super) fn new(args: &'a BenchArgs) -> anyhow::Result<Self> {
        let check =
            |threads, batch| session::check(&session_args(args, Device::Cpu, threads, batch));
        check(None, 1)?;
        args.batch
            .iter()
            .try_for_each(|batch| check(None, *batch))?;
        args.threads
            .iter()
            .try_for_each(|threads| check(Some(*threads), 1))?;
        Ok(Self { args })
    }

    /// Batches in rising order, within the same variant, device and threads. What isn't listed is as `predict` has it, or
    /// searched if there is a budget.
    pub(super) fn points(&self, bundle: &Bundle) -> anyhow::Result<Vec<Point>> {
        let mut points = Vec::new();
        let (threads, batches) = (self.threads(), self.batches());
        for variant in self.variants(bundle)? {
            for &device in &self.args.device {
                for &threads in &threads {
                    points.extend(batches.iter().map(|&batch| Point {
                        variant: variant.clone(),
                        device,
                        threads,
                        batch,
                    }));
                }
            }
        }
        Ok(points)
    }

    fn is_search(&self) -> bool {
        self.args.p99_budget.is_some()
    }

    fn variants(&self, bundle: &Bundle) -> anyhow::Result<Vec<String>> {
        let known: Vec<&String> = bundle.manifest().variants.keys().collect();
        if !self.args.variant.is_empty() {
            for name in &self.args.variant {
                bundle.variant(name)?;
            }
            return Ok(self.args.variant.clone());
        }
        if self.is_search() {
            let mut ready = known.into_iter().cloned().collect::<Vec<_>>();
            ready.retain(|name| bundle.policy(name).is_ok_and(|policy| policy.is_some()));
            if ready.is_empty() {
                bail!(
                    "{}: no variant is calibrated; run `stage1 calibrate`",
                    bundle.dir().display()
                );
            }
            return Ok(ready);
        }
        let usual = known.iter().find(|name| **name == FP32).or(known.first());
        Ok(usual.map(|name| (*name).clone()).into_iter().collect())
    }

    fn threads(&self) -> Vec<usize> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        match (&*self.args.threads, self.is_search()) {
            ([], false) => vec![cores],
            ([], true) => {
                let powers = (0..).map(|power| 1 << power);
                powers.take_while(|n| *n < cores).chain([cores]).collect()
            }
            (listed, _) => listed.to_vec(),
        }
    }

    fn batches(&self) -> Vec<usize> {
        let mut batches = match (&*self.args.batch, self.is_search()) {
            ([], false) => BATCHES.to_vec(),
            ([], true) => SEARCHED.to_vec(),
            (listed, _) => listed.to_vec(),
        };
        batches.sort_unstable();
        batches.dedup();
        batches
    }
}

pub(super) fn session_args(
    args: &BenchArgs,
    device: Device,
    threads: Option<usize>,
    batch: usize,
) -> SessionArgs {
    SessionArgs {
        devices: DeviceArgs {
            device: device.into(),
            options: args.provider_options.clone(),
        },
        threads,
        batch,
        max_pixels: args.max_pixels,
    }
}
