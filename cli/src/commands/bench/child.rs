//! What shows only in a process of its own: how soon it answers, and the memory that it takes. Runs `stage1 predict`.

use super::{grid::Point, measure::Bench};
use anyhow::{Context, bail};
use serde::Serialize;
use stage1_core::progress::Progress;
use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

/// From the start of a process to its first answer, in milliseconds: library, bundle with all digests, golden outputs, image.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ColdStart {
    pub(super) starts: usize,
    pub(super) min: f64,
    pub(super) p50: f64,
    pub(super) max: f64,
}

/// Resident memory of a process that judges a stream of images, in MiB.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    /// The median over the second half of the images.
    pub(super) steady: f64,
    /// The most that it ever had.
    pub(super) peak: f64,
}

/// None if no starts are asked for. The first one, which fills the page cache, doesn't count.
pub(super) fn cold_start(bench: &Bench<'_>, point: &Point) -> anyhow::Result<Option<ColdStart>> {
    let starts = bench.args.cold_starts;
    if starts == 0 {
        return Ok(None);
    }
    bench.progress.start("cold start", starts as u64);
    let mut times = Vec::new();
    for i in 0..=starts {
        let time = first_answer(bench, point)?;
        if i > 0 {
            times.push(time);
            bench.progress.advance(1);
        }
    }
    bench.progress.finish();
    times.sort_by(f64::total_cmp);
    Ok(Some(ColdStart {
        starts,
        min: times[0],
        p50: times[(times.len() - 1) / 2],
        max: times[times.len() - 1],
    }))
}

fn first_answer(bench: &Bench<'_>, point: &Point) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut child = predict(bench, point, &bench.paths[0])?;
    let mut line = String::new();
    let answers = child.stdout.as_mut().context("its output is a pipe")?;
    BufReader::new(answers).read_line(&mut line)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    end(child)?;
    Ok(time)
}

/// None where the system doesn't tell, or no images are asked for.
pub(super) fn memory(bench: &Bench<'_>, point: &Point) -> anyhow::Result<Option<Memory>> {
    let images = bench.args.memory_images;
    if images == 0 || !cfg!(target_os = "linux") {
        return Ok(None);
    }
    bench.progress.start("memory", images as u64);
    let mut child = predict(bench, point, Path::new("-"))?;
    let mut stdin = child.stdin.take().context("its input is a pipe")?;
    let answers = child.stdout.take().context("its output is a pipe")?;
    let paths = bench.paths.iter().cycle().take(images);
    let paths: Vec<_> = paths
        .map(|path| path.as_os_str().as_encoded_bytes())
        .collect();
    let list = [paths.join(&b'\n'), b"\n".to_vec()].concat();
    // It reads on while it writes: neither side may wait for the other.
    let writer = thread::spawn(move || _ = stdin.write_all(&list));
    let (mut resident, mut peak) = (Vec::new(), 0.0);
    for line in BufReader::new(answers).lines() {
        line?;
        bench.progress.advance(1);
        // A process that has ended has no memory any more.
        if let Some((now, most)) = status(child.id()) {
            resident.push(now);
            // The system counts in parts, and the two numbers may disagree by some of them.
            peak = now.max(most).max(peak);
        }
    }
    _ = writer.join();
    bench.progress.finish();
    end(child)?;
    let mut later = resident.split_off(resident.len() / 2);
    later.sort_by(f64::total_cmp);
    Ok(later.get(later.len() / 2).map(|steady| Memory {
        steady: *steady,
        peak,
    }))
}

/// Resident memory of a process, now and at most, in MiB.
fn status(process: u32) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib / 1024.0)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

fn predict(bench: &Bench<'_>, point: &Point, path: &Path) -> anyhow::Result<Child> {
    let Point {
        variant,
        device,
        threads,
        batch,
    } = point;
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(&program);
    command
        .args([
            "predict",
            "--json",
            "--quiet",
            "--allow-uncertified",
            "--bundle",
        ])
        .arg(&bench.args.bundle)
        .args(["--variant", variant, "--device", &device.to_string()])
        .args([
            "--threads",
            &threads.to_string(),
            "--batch",
            &batch.to_string(),
        ])
        .args(["--max-pixels", &bench.args.max_pixels.to_string()]);
    for option in &bench.args.provider_options {
        command.args(["--provider-option", option]);
    }
    command
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// Waits for a process that has answered, and fails as it did.
fn end(mut child: Child) -> anyhow::Result<()> {
    let mut told = String::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_string(&mut told)?;
    }
    if !child.wait()?.success() {
        bail!(
            "`stage1 predict` failed in a process of its own: {}",
            told.trim()
        );
    }
    Ok(())
}
