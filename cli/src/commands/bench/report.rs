//! What was measured, as JSON and as tables.

use super::{
    grid::Point,
    measure::{Bench, Concurrent, Figures, Percentiles, Throughput},
};
use serde::Serialize;
use std::{
    fmt::{self, Write},
    path::Path,
    time::Duration,
};

/// The answer of `stage1 bench`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    bundle: &'a Path,
    /// Different images that were used in turn.
    images: usize,
    /// Requests that were measured.
    iterations: usize,
    warmup: usize,
    configurations: Vec<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) budget: Option<Budget>,
}

/// A configuration with its figures, or why there are none.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) point: Point,
    #[serde(flatten)]
    pub(super) figures: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// What a limit on latency leaves.
#[derive(Debug, Serialize)]
pub(super) struct Budget {
    p99_ms: f64,
    /// Of those whose requests take at most this at the 99th percentile, the one with the most images per second.
    pub(super) best: Option<Choice>,
    /// The one with the shortest requests, where none is within the budget.
    nearest: Option<Choice>,
}

/// A configuration, and what speaks for it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Choice {
    #[serde(flatten)]
    point: Point,
    p99_ms: f64,
    images_per_second: f64,
}

impl Measured {
    pub(super) fn of(point: Point, figures: Figures) -> Self {
        Self {
            point,
            figures: Some(figures),
            error: None,
        }
    }

    pub(super) fn failed(point: Point, error: &anyhow::Error) -> Self {
        Self {
            point,
            figures: None,
            error: Some(format!("{error:#}")),
        }
    }

    fn choice(&self) -> Option<Choice> {
        self.figures.as_ref().map(|figures| Choice {
            point: self.point.clone(),
            p99_ms: figures.latency_ms.end_to_end.p99,
            images_per_second: figures.throughput.images_per_second,
        })
    }
}

impl Budget {
    pub(super) fn of(budget: Duration, measured: &[Measured]) -> Self {
        let p99_ms = 1e3 * budget.as_secs_f64();
        let choices: Vec<_> = measured.iter().filter_map(Measured::choice).collect();
        let within = choices.iter().filter(|choice| choice.p99_ms <= p99_ms);
        let best = within.max_by(|a, b| a.images_per_second.total_cmp(&b.images_per_second));
        let nearest = choices.iter().min_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms));
        Self {
            p99_ms,
            best: best.cloned(),
            nearest: nearest.filter(|_| best.is_none()).cloned(),
        }
    }

    fn text(&self) -> String {
        let limit = format!("p99 ≤ {} ms", self.p99_ms);
        let told = |choice: &Choice| {
            let Choice {
                point,
                p99_ms,
                images_per_second,
            } = choice;
            format!("{point}: p99 {p99_ms:.1} ms, {images_per_second:.1} images/s")
        };
        match (&self.best, &self.nearest) {
            (Some(best), _) => {
                format!("within {limit}, the most images per second: {}", told(best))
            }
            (None, Some(nearest)) => format!(
                "nothing is within {limit}; the nearest is {}",
                told(nearest)
            ),
            (None, None) => format!("nothing is within {limit}"),
        }
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(
        bench: &'a Bench<'_>,
        configurations: Vec<Measured>,
        budget: Option<Budget>,
    ) -> Self {
        Self {
            bundle: &bench.args.bundle,
            images: bench.paths.len(),
            iterations: bench.args.iterations,
            warmup: bench.args.warmup,
            configurations,
            budget,
        }
    }

    pub(super) fn has_failures(&self) -> bool {
        self.configurations.iter().any(|one| one.figures.is_none())
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out)
            .expect("writing to a string can't fail");
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        for one in &self.configurations {
            write_configuration(one, out)?;
        }
        if self.configurations.len() > 1 {
            write_table(&self.configurations, out)?;
        }
        if let Some(budget) = &self.budget {
            writeln!(out, "{}\n", budget.text())?;
        }
        writeln!(
            out,
            "{} requests over {} images, after {} to warm up",
            self.iterations, self.images, self.warmup
        )
    }
}

fn write_configuration(one: &Measured, out: &mut String) -> fmt::Result {
    let Some(figures) = &one.figures else {
        return writeln!(
            out,
            "{}: {}\n",
            one.point,
            one.error.as_deref().unwrap_or_default()
        );
    };
    let standing = if figures.certified {
        "certified"
    } else {
        "not certified"
    };
    writeln!(
        out,
        "{} ({}, {}, {standing})",
        one.point, figures.provider_version, figures.cpu_isa
    )?;
    let latency = &figures.latency_ms;
    writeln!(
        out,
        "  {:<22}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "ms", "mean", "p50", "p90", "p95", "p99", "max"
    )?;
    for (name, stage) in [
        ("decode, per image", &latency.decode),
        ("preprocess, per image", &latency.preprocess),
        ("inference, per image", &latency.inference),
        ("decide, per image", &latency.decide),
        ("a request, end to end", &latency.end_to_end),
    ] {
        write_percentiles(name, stage, out)?;
    }
    let Throughput {
        images,
        images_per_second,
    } = &figures.throughput;
    writeln!(
        out,
        "  in a stream of {images}: {images_per_second:.1} images/s"
    )?;
    if let Some(Concurrent {
        clients,
        images_per_second,
        latency_ms,
    }) = &figures.concurrent
    {
        writeln!(
            out,
            "  {clients} clients at once: {images_per_second:.1} images/s"
        )?;
        write_percentiles("an image, end to end", latency_ms, out)?;
    }
    if let Some(start) = &figures.cold_start_ms {
        writeln!(
            out,
            "  from the start to the first answer: {:.0} ms (median of {}, {:.0} to {:.0})",
            start.p50, start.starts, start.min, start.max
        )?;
    }
    if let Some(memory) = &figures.memory_mib {
        writeln!(
            out,
            "  memory: {:.0} MiB, at most {:.0}",
            memory.steady, memory.peak
        )?;
    }
    writeln!(out)
}

fn write_percentiles(name: &str, times: &Percentiles, out: &mut String) -> fmt::Result {
    let Percentiles {
        mean,
        p50,
        p90,
        p95,
        p99,
        max,
    } = times;
    writeln!(
        out,
        "  {name:<22}{mean:>9.3}{p50:>9.3}{p90:>9.3}{p95:>9.3}{p99:>9.3}{max:>9.3}"
    )
}

fn write_table(configurations: &[Measured], out: &mut String) -> fmt::Result {
    let widths = configurations
        .iter()
        .map(|one| one.point.variant.chars().count());
    let width = widths.max().unwrap_or(0).max("variant".len());
    writeln!(
        out,
        "{:<width$}  device    threads  batch   p50 ms   p95 ms   p99 ms  images/s  start ms      MiB",
        "variant"
    )?;
    let cell =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    for Measured { point, figures, .. } in configurations {
        let Point {
            variant,
            device,
            threads,
            batch,
        } = point;
        write!(out, "{variant:<width$}  {device:<8}{threads:>9}{batch:>7}")?;
        let Some(figures) = figures else {
            writeln!(out, "  failed")?;
            continue;
        };
        let Percentiles { p50, p95, p99, .. } = &figures.latency_ms.end_to_end;
        writeln!(
            out,
            "{p50:>9.1}{p95:>9.1}{p99:>9.1}{:>10.1}{:>10}{:>9}",
            figures.throughput.images_per_second,
            cell(figures.cold_start_ms.as_ref().map(|start| start.p50)),
            cell(figures.memory_mib.as_ref().map(|memory| memory.steady)),
        )?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::measure::Latency;
    use stage1_core::device::Device;

    fn measured(batch: usize, p99: f64, images_per_second: f64) -> Measured {
        let times = |ms: f64| Percentiles::of(vec![Duration::from_secs_f64(ms / 1e3)]);
        let point = Point {
            variant: "int8".to_owned(),
            device: Device::Cpu,
            threads: 2,
            batch,
        };
        Measured::of(
            point,
            Figures {
                provider: "cpu".to_owned(),
                provider_version: "onnxruntime 1.31.1".to_owned(),
                cpu_isa: "avx2".to_owned(),
                certified: true,
                latency_ms: Latency {
                    decode: times(1.0),
                    preprocess: times(1.0),
                    inference: times(1.0),
                    decide: times(1.0),
                    end_to_end: times(p99),
                },
                throughput: Throughput {
                    images: 8,
                    images_per_second,
                },
                concurrent: None,
                cold_start_ms: None,
                memory_mib: None,
            },
        )
    }

    #[test]
    fn the_most_images_per_second_within_the_budget_win() {
        let all = [
            measured(1, 10.0, 90.0),
            measured(4, 20.0, 120.0),
            measured(8, 40.0, 150.0),
        ];
        let best = |ms: u64| Budget::of(Duration::from_millis(ms), &all);
        for (budget, want) in [
            (10, Some(1)),
            (19, Some(1)),
            (20, Some(4)),
            (100, Some(8)),
            (9, None),
        ] {
            let found = best(budget);
            assert_eq!(
                found.best.as_ref().map(|choice| choice.point.batch),
                want,
                "{budget} ms"
            );
            assert_eq!(found.nearest.is_some(), want.is_none());
        }
        let text = best(9).text();
        assert!(
            text.contains("nothing is within p99 ≤ 9 ms; the nearest is int8 on cpu, batches of 1"),
            "{text}"
        );
    }

    #[test]
    fn columns_are_aligned() {
        let mut all = vec![measured(1, 10.0, 90.0), measured(16, 1234.5, 12.0)];
        all.push(Measured::failed(
            all[0].point.clone(),
            &anyhow::anyhow!("no"),
        ));
        let mut out = String::new();
        write_table(&all, &mut out).unwrap();
        let want = "\
variant  device    threads  batch   p50 ms   p95 ms   p99 ms  images/s  start ms      MiB
int8     cpu             2      1     10.0     10.0     10.0      90.0         -        -
int8     cpu             2     16   1234.5   1234.5   1234.5      12.0         -        -
int8     cpu             2      1  failed

";
        assert_eq!(out, want);
    }
}
