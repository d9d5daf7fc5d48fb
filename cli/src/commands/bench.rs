//! `stage1 bench`: latency by stage, throughput, cold start and memory, of one configuration or a table of them.

mod child;
mod grid;
mod measure;
mod report;

use crate::{
    args::BenchArgs,
    inputs::Inputs,
    output::{Answer, Output},
    progress::Steps,
};
use anyhow::bail;
use grid::{Grid, Point};
use measure::Bench;
use report::{Budget, Measured, Report};
use stage1_core::bundle::Bundle;

/// Requests of which one in a hundred is more than one.
const ENOUGH: usize = 200;

/// Exits 1 if a configuration couldn't be measured, or if none is within the budget.
pub(crate) fn run(args: &BenchArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.iterations == 0 {
        bail!("--iterations is 0, a whole number ≥ 1 is needed");
    }
    let grid = Grid::new(args)?;
    let images = Inputs::new(&args.paths, None)?.collect()?;
    let points = grid.points(&Bundle::open(&args.bundle)?)?;
    let bench = Bench {
        args,
        paths: images.into_iter().map(|image| image.path).collect(),
        output: *output,
        progress: Steps::new(*output),
    };
    if args.p99_budget.is_some() && args.iterations < ENOUGH {
        output.warn(&format!(
            "of {} requests the 99th percentile is the slowest one, or nearly; --iterations {ENOUGH} tells it from a mishap",
            args.iterations
        ));
    }
    let measured = measure_all(&bench, points, args.p99_budget)?;
    let budget = args.p99_budget.map(|budget| Budget::of(budget, &measured));
    let report = Report::new(&bench, measured, budget);
    output.answer(&report, &report.text())?;
    let is_short = report
        .budget
        .as_ref()
        .is_some_and(|budget| budget.best.is_none());
    Ok(match is_short || report.has_failures() {
        true => Answer::No,
        false => Answer::Yes,
    })
}

/// Larger batches take longer: once one exceeds the budget, those above it are left out.
fn measure_all(
    bench: &Bench<'_>,
    points: Vec<Point>,
    budget: Option<std::time::Duration>,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = Vec::new();
    let only_one = points.len() == 1;
    for point in points {
        let before = measured
            .last()
            .filter(|last| last.point.is_smaller_than(&point));
        let is_over = |last: &Measured| {
            let p99 = last
                .figures
                .as_ref()
                .map(|figures| figures.latency_ms.end_to_end.p99);
            p99.is_some_and(|p99| budget.is_some_and(|budget| p99 > 1e3 * budget.as_secs_f64()))
        };
        if before.is_some_and(is_over) {
            continue;
        }
        bench.output.note(&format!("measuring {point}"));
        match bench.measure(&point) {
            Ok(figures) => measured.push(Measured::of(point, figures)),
            Err(error) if only_one => return Err(error),
            Err(error) => {
                bench.output.warn(&format!("{point}: {error:#}"));
                measured.push(Measured::failed(point, &error));
            }
        }
    }
    if let Some(first) = measured.first()
        && measured.iter().all(|one| one.figures.is_none())
    {
        bail!(
            "no configuration could be measured; {}: {}",
            first.point,
            first.error.as_deref().unwrap_or_default()
        );
    }
    Ok(measured)
}
