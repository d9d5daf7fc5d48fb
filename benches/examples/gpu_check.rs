//! Whether an NVIDIA GPU computes what the CPU does, and how fast: `scripts/gpu-check`.
//!
//! A ViT-S/16 at 224 pixels with random weights, in fp32 and fp16, goes through the CUDA provider, and through TensorRT where
//! its libraries are. Golden outputs are the CPU's. Exits 0 if all that ran agrees, 1 if something doesn't or CUDA can't be
//! used, 2 without a GPU. With a device as argument (`cpu`) that one is checked instead, GPU or not.

#![expect(clippy::print_stdout, reason = "what it finds is its answer")]

use stage1_benches::weights::random;
use stage1_core::{device::Device, model::preset};
use stage1_exporter::{
    Attention, Exported, Form, Observed, Runtime, Sample, export_embedding_as, fp16,
};
use stage1_runtime::{Error, OrtSession, SessionOptions, ShapeProfile};
use std::{env, error::Error as StdError, path::Path, process::ExitCode, time::Instant};

const SIDE: usize = 224;
const IMAGE: [usize; 3] = [3, SIDE, SIDE];
const IMAGES: usize = 4;
const BATCHES: [usize; 3] = [1, 8, 32];
const OUTPUT: &str = "features";
const INPUT: &str = "pixel_values";

type Failure = Box<dyn StdError + Send + Sync>;

fn main() -> Result<ExitCode, Failure> {
    let asked: Vec<Device> = env::args()
        .skip(1)
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    if asked.is_empty() && !has_gpu() {
        println!(
            "no NVIDIA GPU: neither /proc/driver/nvidia/version nor /dev/nvidiactl is there; nothing was checked"
        );
        return Ok(ExitCode::from(2));
    }
    let devices = match asked.is_empty() {
        true => vec![Device::Cuda, Device::Tensorrt],
        false => asked,
    };
    let pixels = pixels(IMAGES);
    let models = models(&pixels)?;
    let mut verdicts = Vec::new();
    for device in devices {
        for (precision, tolerance, model) in &models {
            let verdict = check(device, precision, *tolerance, model, &pixels)?;
            println!("{device} {precision}: {}", verdict.text());
            verdicts.push(verdict);
        }
    }
    let bad = verdicts
        .iter()
        .any(|verdict| matches!(verdict, Verdict::Disagrees | Verdict::Unusable));
    let ran = verdicts
        .iter()
        .any(|verdict| matches!(verdict, Verdict::Agrees));
    let good = ran && !bad;
    println!("verdict: {}", if good { "GOOD" } else { "BAD" });
    Ok(ExitCode::from(u8::from(!good)))
}

fn has_gpu() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl"]
        .iter()
        .any(|path| Path::new(path).exists())
}

#[derive(Debug, Clone, Copy)]
enum Verdict {
    Agrees,
    Disagrees,
    /// TensorRT's libraries may be missing.
    Absent,
    /// CUDA's may not, where there is a GPU.
    Unusable,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Agrees => "agrees with the CPU",
            Self::Disagrees => "DISAGREES with the CPU",
            Self::Absent => "not run",
            Self::Unusable => "CAN'T BE USED",
        }
    }
}

/// Each precision with the largest error relative to the largest output that `stage1 export` allows by default.
fn models(pixels: &[f32]) -> Result<[(&'static str, f64, Exported); 2], Failure> {
    let weights = random(&preset("dinov3-vits16").ok_or("no such preset")?);
    let single = export_embedding_as(&weights, SIDE, SIDE, &Form::default())?;
    let sample = Sample::new(pixels, IMAGE)?;
    let half = fp16(&single, sample, &mut OnCpu, Attention::Single)?;
    Ok([("fp32", 1e-4, single), ("fp16", 0.02, half.model)])
}

/// Opens the exporter's temporary models.
struct OnCpu;

struct Opened(OrtSession);

impl Runtime for OnCpu {
    fn open(&mut self, model: &Exported) -> Result<Box<dyn Observed>, Failure> {
        let session = OrtSession::from_bytes(
            &model.model,
            "a temporary model",
            &SessionOptions::default(),
        )?;
        Ok(Box::new(Opened(session)))
    }
}

impl Observed for Opened {
    fn run(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let outputs = self.0.run_named(pixel_values, shape, outputs)?;
        Ok(outputs.into_iter().map(|tensor| tensor.values).collect())
    }
}

/// Numbers as normalised pixels are, the same in every run.
fn pixels(images: usize) -> Vec<f32> {
    let len = images * IMAGE.iter().product::<usize>();
    (0..len).map(|i| 2.0 * (i as f32 * 0.1).sin()).collect()
}

fn check(
    device: Device,
    precision: &str,
    tolerance: f64,
    model: &Exported,
    pixels: &[f32],
) -> Result<Verdict, Failure> {
    let want = features(&mut open(Device::Cpu, model)?, pixels)?;
    let mut session = match open(device, model) {
        Ok(session) => session,
        Err(error @ Error::Provider { .. }) => {
            println!("{error}");
            return Ok(match device {
                Device::Tensorrt => Verdict::Absent,
                _ => Verdict::Unusable,
            });
        }
        Err(error) => {
            println!("{error}");
            return Ok(Verdict::Disagrees);
        }
    };
    println!("{device} {precision}: {}", session.provider_version());
    for (provider, nodes) in session.placement() {
        println!("  {nodes} nodes on {provider}");
    }
    let got = features(&mut session, pixels)?;
    let scale = want
        .iter()
        .fold(0.0, |scale: f64, x| scale.max(f64::from(x.abs())));
    let errors = got
        .iter()
        .zip(&want)
        .map(|(got, want)| (f64::from(*got) - f64::from(*want)).abs());
    let error = errors.fold(0.0, |worst: f64, error| {
        if error.is_nan() {
            f64::INFINITY
        } else {
            worst.max(error)
        }
    });
    println!(
        "  golden outputs of {IMAGES} images: off by {:.1e} of their scale, at most {tolerance:.0e} is allowed",
        error / scale
    );
    for batch in BATCHES {
        let median = latency(&mut session, batch)?;
        println!(
            "  batch {batch}: {:.2} ms, {:.0} images/s",
            1e3 * median,
            batch as f64 / median
        );
    }
    match error <= tolerance * scale {
        true => Ok(Verdict::Agrees),
        false => Ok(Verdict::Disagrees),
    }
}

fn open(device: Device, model: &Exported) -> Result<OrtSession, Error> {
    let options = SessionOptions {
        device,
        profile: Some(ShapeProfile::images(INPUT, BATCHES[2], IMAGE)),
        ..SessionOptions::default()
    };
    OrtSession::from_bytes(&model.model, "the model", &options)
}

fn features(session: &mut OrtSession, pixels: &[f32]) -> Result<Vec<f32>, Error> {
    let [channels, height, width] = IMAGE;
    let images = pixels.len() / IMAGE.iter().product::<usize>();
    let shape = [images, channels, height, width];
    Ok(session
        .run_named(pixels, shape, &[OUTPUT])?
        .remove(0)
        .values)
}

/// The median time of a run in seconds, from pixels to features in memory.
fn latency(session: &mut OrtSession, batch: usize) -> Result<f64, Error> {
    const WARM_UP: usize = 5;
    const RUNS: usize = 30;
    let pixels = pixels(batch);
    let mut times = Vec::with_capacity(RUNS);
    for run in 0..WARM_UP + RUNS {
        let start = Instant::now();
        features(session, &pixels)?;
        if run >= WARM_UP {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
