//! What can be said on the command line.

use crate::records::Format;
use clap::{Parser, Subcommand, ValueEnum};
use stage1_core::{
    config::{AnyBatch, BatchSize},
    device::{self, Device, Ladder, ProviderOptions},
    preprocess::PixelFormat,
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// From a folder of labelled images to a certified classifier.
///
/// `stage1 run -c stage1.yaml` does everything; each other verb does one step of it and picks up where the last left off.
#[derive(Debug, Parser)]
#[command(name = "stage1", version, about, max_term_width = 100)]
pub(crate) struct Args {
    /// Print the answer as JSON: one document, or one line per record
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no progress and no notes on standard error, only warnings and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented configuration
    Init(InitArgs),
    /// Divide the images into train, val_select, val_calib and val_test
    Split(StepArgs),
    /// Train the head, and adapters if the phase says so
    Train(TrainArgs),
    /// Write the checkpoint as ONNX and check it against libtorch; or a plain embedding model with --backbone
    Export(ExportArgs),
    /// Turn Meta's .pth files, timm's safetensors or a DINOv2 inside an ONNX file into a Hugging Face folder
    Import(ImportArgs),
    /// Certify a threshold through the deployed session, or on a file of logits with --logits
    Calibrate(CalibrateArgs),
    /// Judge the certified policy on val_test: HELD, REFUTED or INCONCLUSIVE
    Validate(ValidateArgs),
    /// Show what a run has found
    Report(ReportArgs),
    /// Do everything, from images to a validated bundle
    Run(StepArgs),
    /// Train several ways with the same seeds and splits, and say which is better on val_select
    AbTest(AbTestArgs),
    /// Answer or defer, one record per image
    Predict(PredictArgs),
    /// Compute the features of images with a backbone alone, into safetensors or Parquet
    Embed(EmbedArgs),
    /// Compute metrics of a file of logits
    Metrics(MetricsArgs),
    /// Raise an alarm when scores, or labelled errors, are no longer what was calibrated
    Monitor(MonitorArgs),
    /// Serve bundles over HTTP and gRPC (Open Inference Protocol), until SIGTERM
    Serve(Box<ServeArgs>),
    /// Measure latency by stage, throughput, cold start and memory, and compare configurations
    Bench(BenchArgs),
    /// Say which native libraries are found, and what is wrong with them
    Doctor(DoctorArgs),
    /// Show the configuration's schema, or a file with all defaults filled in
    Config(ConfigArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigSource {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "stage1.yaml")]
    pub(crate) config: PathBuf,
    /// Override one key, e.g. `--set train.epochs=3`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StepArgs {
    #[command(flatten)]
    pub(crate) source: ConfigSource,
    /// Replace results that were made from other inputs
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// Continue an interrupted training; none is an error (without this, one is continued if there is one)
    #[arg(long)]
    pub(crate) resume: bool,
    /// Say what would be trained (parameters, steps, memory), and train nothing; the splits are made if need be
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start anew from the weights in the folder of a checkpoint: `--set train.init_from=DIR`
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) init_from: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AbTestArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// A way to train: the configuration with some keys changed, e.g. `wide:head.kind=mlp,head.hidden=1024`; may be repeated.
    /// The configuration as it is takes part as `base`
    #[arg(long = "arm", value_name = "NAME:KEY=VALUE,…")]
    pub(crate) arms: Vec<String>,
    /// A YAML file of arms: `wide: {head.kind: mlp, head.hidden: 1024}`
    #[arg(long = "arms", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The seeds that each arm is trained with [default: three, from the configuration's `seed` on]
    #[arg(long, value_name = "N,N,N", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    /// Compare with fewer than three seeds, too
    #[arg(long)]
    pub(crate) allow_few_seeds: bool,
    /// The arm that the others are compared with
    #[arg(long, value_name = "NAME", default_value = "base")]
    pub(crate) reference: String,
    /// What the verdict is by; the other measures are told beside it. `coverage` is that at an error rate of `calibrate.alpha`
    #[arg(long, value_enum, default_value_t = MeasureName::Mcc)]
    pub(crate) by: MeasureName,
    /// The images that judge: val_select, or a quarter of train that no arm trains on, so that val_select stays unused
    #[arg(long, value_enum, default_value_t = JudgedOn::ValSelect)]
    pub(crate) on: JudgedOn,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_least_one)]
    pub(crate) resamples: usize,
    /// Where trainings and report go [default: `ab-test` in the run directory]
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Exit 1 if no arm is better than the reference
    #[arg(long)]
    pub(crate) require_better: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MeasureName {
    /// Matthews' correlation coefficient
    Mcc,
    /// Area under wrong answers over coverage; less is better
    Augrc,
    /// The largest share answered at the target risk
    Coverage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JudgedOn {
    ValSelect,
    TrainFold,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// A folder with one folder of images per class, or a CSV file (`path,label[,group][,split]`)
    #[arg(value_name = "IMAGES")]
    pub(crate) source: Option<PathBuf>,
    /// A Hugging Face folder with a DINOv2 or DINOv3 backbone
    #[arg(long, value_name = "DIR")]
    pub(crate) backbone: Option<PathBuf>,
    /// Where to write
    #[arg(long, short, value_name = "FILE", default_value = "stage1.yaml")]
    pub(crate) out: PathBuf,
    /// Replace the file
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// Export this backbone alone, as an embedding model (no configuration is read)
    #[arg(long, value_name = "DIR", requires = "out", conflicts_with_all = ["config", "overrides"])]
    pub(crate) backbone: Option<PathBuf>,
    /// Merge this adapter (LoRA, rsLoRA, DoRA, as Hugging Face PEFT saves it) into the backbone
    #[arg(long, value_name = "DIR", requires = "backbone")]
    pub(crate) adapter: Option<PathBuf>,
    /// Run this many blocks of the backbone, and leave those above out; all if not given
    #[arg(long, value_name = "N", requires = "backbone")]
    pub(crate) blocks: Option<usize>,
    /// Rounding of the periods of DINOv3's rotary positions; bf16 as in Meta's own checkpoints
    #[arg(long, value_enum, requires = "backbone", default_value_t = Periods::Fp32)]
    pub(crate) rope_periods: Periods,
    /// Input size of the embedding model, in pixels
    #[arg(long, value_name = "H[xW]", requires = "backbone", value_parser = image_size)]
    pub(crate) image_size: Option<(usize, usize)>,
    /// Images per run of the model: any number, or a fixed one [default: `export.batch` of the configuration, dynamic with
    /// --backbone]
    #[arg(long, value_name = "dynamic|N", value_parser = batch_size)]
    pub(crate) batch: Option<BatchSize>,
    /// How the model takes pictures: normalised planes, or grey levels as decoders deliver them, which it normalises by
    /// itself (with --backbone: by ImageNet's mean and deviation) [default: `export.input` of the configuration, float32
    /// with --backbone]
    #[arg(long, value_enum)]
    pub(crate) input: Option<PictureInput>,
    /// What the bundle's models are made for [default: `export.target` of the configuration]
    #[arg(long, value_enum, conflicts_with = "backbone")]
    pub(crate) target: Option<ExportTarget>,
    /// Show nodes by type, parameters, FLOPs per image, bytes, and what was folded: of the export just made, or, with a path,
    /// of an ONNX file or a bundle that is there
    #[arg(long, value_name = "FILE|BUNDLE", num_args = 0..=1)]
    pub(crate) inspect: Option<Option<PathBuf>>,
    /// Write the embedding model's weights into a file of their own, `<out>.data`, where they have more bytes than this; an
    /// ONNX file can't have more than 2 GB
    #[arg(
        long,
        value_name = "BYTES",
        requires = "backbone",
        default_value_t = 1_500_000_000
    )]
    pub(crate) external_above: usize,
    /// Where the embedding model goes
    #[arg(long, value_name = "FILE", requires = "backbone")]
    pub(crate) out: Option<PathBuf>,
    /// Also write a model repository for NVIDIA's Triton Inference Server into this folder: one model per variant, on TensorRT,
    /// with dynamic batching; it answers with logits, without the policy
    #[arg(long, value_name = "DIR", conflicts_with = "backbone")]
    pub(crate) triton: Option<PathBuf>,
    /// The precision that the bundle is to have (fp32 it always has); those of `export.variants` if not given
    #[arg(long, value_enum, conflicts_with = "backbone")]
    pub(crate) precision: Option<Precision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    Fp32,
    /// Linear layers in float16; for GPUs, where it is faster
    Fp16,
    /// Linear layers in integers of 8 bits, with ranges from training images
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PictureInput {
    /// [N, 3, H, W], normalised
    Float32,
    /// [N, H, W, 3], grey levels
    Uint8,
}

impl PictureInput {
    pub(crate) fn format(self) -> PixelFormat {
        match self {
            Self::Float32 => PixelFormat::Float32,
            Self::Uint8 => PixelFormat::Uint8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportTarget {
    Portable,
    /// fp16 keeps the attention's scores in fp32; there is no int8
    Tensorrt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Periods {
    Fp32,
    Bf16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Weights of DINOv2 or DINOv3: Meta's .pth, timm's or Hugging Face's safetensors, or a DINOv2 in ONNX
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The architecture, when it can't be seen from the tensors: a preset (e.g. dinov3-vitb16) or a Hugging Face config.json
    #[arg(long, value_name = "PRESET|FILE")]
    pub(crate) config: Option<String>,
    /// The Hugging Face folder to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace the folder's files
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CalibrateArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// The bundle of a run, instead of the run's configuration: the resolved one beside it is read
    #[arg(long, short, value_name = "DIR", conflicts_with_all = ["config", "logits"])]
    pub(crate) bundle: Option<PathBuf>,
    /// The bundle's variant to certify, at the threshold that fp32 was certified at
    #[arg(
        long,
        value_name = "NAME",
        default_value = "fp32",
        conflicts_with = "logits"
    )]
    pub(crate) variant: String,
    /// What the model runs on: cpu, cuda or tensorrt, or several in the order in which they are tried [default:
    /// `deploy.device` of the configuration]
    #[arg(long, value_name = "DEVICE,…", conflicts_with = "logits")]
    pub(crate) device: Option<Ladder>,
    /// Certify on these logits (safetensors, npz or CSV) instead of a run's bundle; `--set calibrate.…` says what else is
    /// wanted: constraints, procedure, score, group_risk, …
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) logits: Option<PathBuf>,
    /// The rows that choose the plan; without it (and without a `split` column) a seeded hash divides the rows 1:2
    #[arg(long, value_name = "FILE", requires = "logits")]
    pub(crate) select: Option<PathBuf>,
    /// Certify these variants of the bundle together, e.g. fp32,int8: one threshold, at which all of them hold at once. With
    /// --logits: files with logits of the same rows (by id) through further sessions
    #[arg(
        long,
        value_name = "NAME|FILE",
        value_delimiter = ',',
        conflicts_with = "variant"
    )]
    pub(crate) joint: Vec<PathBuf>,
    /// With --logits: where policy.json and certificate.json go; `<file>-policy` beside the file if not given
    #[arg(long, value_name = "DIR", requires = "logits")]
    pub(crate) out: Option<PathBuf>,
    /// With --logits: largest error rate among answered rows, 0.05 if not given; as `--set calibrate.alpha=RATE`
    #[arg(long, requires = "logits", value_name = "RATE")]
    pub(crate) alpha: Option<f64>,
    /// With --logits: probability that the certificate is wrong, 0.1 if not given; as `--set calibrate.delta=RATE`
    #[arg(long, requires = "logits", value_name = "RATE")]
    pub(crate) delta: Option<f64>,
    /// With --logits: seed of row order and division
    #[arg(long, requires = "logits", default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    pub(crate) step: StepArgs,
    /// The bundle's variant
    #[arg(long, value_name = "NAME", default_value = "fp32")]
    pub(crate) variant: String,
    /// Exit 1 on INCONCLUSIVE too, not only on REFUTED
    #[arg(long)]
    pub(crate) require_held: bool,
    /// Judge a policy of `stage1 calibrate --logits` on these logits (safetensors, npz or CSV): rows of split val_test if the
    /// file has a `split` column, else all of them
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "config",
        requires = "policy"
    )]
    pub(crate) logits: Option<PathBuf>,
    /// With --logits: the policy, or its folder; its certificate.json lies beside it
    #[arg(long, value_name = "PATH", requires = "logits")]
    pub(crate) policy: Option<PathBuf>,
    /// With --logits: where validation.json goes; the policy's folder if not given
    #[arg(long, value_name = "DIR", requires = "logits")]
    pub(crate) out: Option<PathBuf>,
    /// With --logits: level of each side of the verdict, 0.05 if not given; as `--set validate.gamma=RATE`
    #[arg(long, requires = "logits", value_name = "RATE")]
    pub(crate) gamma: Option<f64>,
    /// With --logits: seed of row order
    #[arg(long, requires = "logits", default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) source: ConfigSource,
    /// The bundle's variant
    #[arg(long, value_name = "NAME", default_value = "fp32")]
    pub(crate) variant: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PredictArgs {
    /// Images, folders, quoted patterns ('photos/**/*.jpg'), lists (.csv with a column `path`, .jsonl with a key `path`, .txt
    /// with a path per line), or `-` for a path per line on standard input
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The folder that paths in lists are relative to; without it, the list's own folder
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Write the records into this file (.jsonl, .csv or .parquet), which appears when it is whole; without it they go to
    /// standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How the records are written; by the file's name, if not given, and as a table (with --json, JSON lines) on standard
    /// output
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Let the file (JSON lines or CSV) grow record by record, and go on where an interrupted run left it
    #[arg(long, requires = "output")]
    pub(crate) resume: bool,
    /// Replace the file
    #[arg(long, requires = "output", conflicts_with = "resume")]
    pub(crate) overwrite: bool,
    /// The bundle
    #[arg(long, short, value_name = "DIR")]
    pub(crate) bundle: PathBuf,
    /// The bundle's variant; fp32, or the only one, if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
    /// Answer although the session isn't the one that was certified; every record then says `certified: false`
    #[arg(long)]
    pub(crate) allow_uncertified: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EmbedArgs {
    /// Images, folders, quoted patterns ('photos/**/*.jpg'), lists (.csv with a column `path`, .jsonl with a key `path`, .txt
    /// with a path per line), or `-` for a path per line on standard input
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// A Hugging Face folder with a DINOv2 or DINOv3 backbone
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    pub(crate) backbone: Option<PathBuf>,
    /// An embedding model that `stage1 export --backbone` wrote, instead of a backbone
    #[arg(long, value_name = "FILE", conflicts_with = "backbone")]
    pub(crate) model: Option<PathBuf>,
    /// Merge this adapter (LoRA, rsLoRA, DoRA, as Hugging Face PEFT saves it) into the backbone
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub(crate) adapter: Option<PathBuf>,
    /// Run this many blocks of the backbone; all if not given
    #[arg(long, value_name = "N", conflicts_with = "model")]
    pub(crate) blocks: Option<usize>,
    /// Rounding of the periods of DINOv3's rotary positions; bf16 as in Meta's own checkpoints
    #[arg(long, value_enum, conflicts_with = "model", default_value_t = Periods::Fp32)]
    pub(crate) rope_periods: Periods,
    /// The size that images are brought to, in pixels [default: 224; that of the model with --model]
    #[arg(long, value_name = "H[xW]", conflicts_with = "model", value_parser = image_size)]
    pub(crate) image_size: Option<(usize, usize)>,
    /// How images are brought to that size; as a configuration has it by default, if not given
    #[arg(long, value_enum, default_value_t = Pipeline::Dinov3)]
    pub(crate) preprocess: Pipeline,
    /// The folder that paths in lists are relative to; without it, the list's own folder
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Where the features go: a name that ends in .safetensors or .parquet
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Replace the file
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What happens to an image that can't be decoded
    #[arg(long, value_enum, default_value_t = OnBadImage::Fail)]
    pub(crate) on_bad_image: OnBadImage,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pipeline {
    /// The whole image, squeezed to the size (Hugging Face's DINOv3 processor)
    Dinov3,
    /// The image's middle: the short side to 8/7 of the size, then cropped (Hugging Face's DINOv2 processor)
    Dinov2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadImage {
    /// Nothing is written, and the image is named
    Fail,
    /// It has no row, and is counted
    Skip,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Threads of the session; one per core if not given
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Images per inference call, where the model takes any number
    #[arg(long, default_value_t = 8)]
    pub(crate) batch: usize,
    /// Images of more pixels are refused before they are decoded
    #[arg(long, value_name = "N", default_value_t = 1 << 26)]
    pub(crate) max_pixels: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// What models run on: cpu, cuda or tensorrt, or several in the order in which they are tried, as tensorrt,cuda,cpu; what
    /// became of each is told
    #[arg(long, value_name = "DEVICE,…", default_value = "cpu")]
    pub(crate) device: Ladder,
    /// An option of ONNX Runtime's provider by its own name, e.g. cuda.gpu_mem_limit=4294967296 or
    /// tensorrt.trt_fp16_enable=true; may be repeated
    #[arg(long = "provider-option", value_name = "PROVIDER.NAME=VALUE")]
    pub(crate) options: Vec<String>,
}

impl DeviceArgs {
    /// The providers' options, which must be ones that they have.
    pub(crate) fn providers(&self) -> Result<ProviderOptions, device::Error> {
        let mut providers = ProviderOptions::default();
        self.options
            .iter()
            .try_for_each(|text| providers.set(text))?;
        Ok(providers)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct MetricsArgs {
    /// Logits and labels: safetensors, npz or CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) logits: PathBuf,
    /// Only the rows of this split
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// A policy: adds `coverage` and `selective_risk` at its threshold
    #[arg(long, value_name = "FILE", conflicts_with = "threshold")]
    pub(crate) policy: Option<PathBuf>,
    /// Answer where the largest softmax is at least this: adds `coverage` and `selective_risk`
    #[arg(long, value_name = "PROBABILITY")]
    pub(crate) threshold: Option<f64>,
    /// Add `coverage_at_risk_R`: the largest share answered with an error rate of at most R; may be repeated
    #[arg(long, value_name = "RISK", default_value = "0.05", value_parser = share)]
    pub(crate) at_risk: Vec<f64>,
    /// Add `risk_at_coverage_C`: the error rate of the surest rows, a share C of all; may be repeated
    #[arg(long, value_name = "COVERAGE", default_value = "0.8", value_parser = share)]
    pub(crate) at_coverage: Vec<f64>,
    /// Bootstrap resamples (by group where there are groups): 2000 if no number is given; 0 gives plain numbers
    #[arg(long, value_name = "RESAMPLES", num_args = 0..=1, default_value_t = 0, default_missing_value = "2000")]
    pub(crate) bootstrap: usize,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MonitorArgs {
    /// Decision logs, in the order of time: what `stage1 predict --json` printed; records may also have `group` and `label_true`
    #[arg(value_name = "LOG", required_unless_present = "logits")]
    pub(crate) logs: Vec<PathBuf>,
    /// Rows of another framework instead of logs: logits and labels, in the order of time (safetensors, npz or CSV); may be repeated
    #[arg(long, value_name = "FILE", conflicts_with_all = ["logs", "labels"])]
    pub(crate) logits: Vec<PathBuf>,
    /// The bundle that decided
    #[arg(
        long,
        short,
        value_name = "DIR",
        required_unless_present = "policy",
        conflicts_with = "policy"
    )]
    pub(crate) bundle: Option<PathBuf>,
    /// The bundle's variant
    #[arg(long, default_value = "fp32", conflicts_with = "policy")]
    pub(crate) variant: String,
    /// The policy that decided, where there is no bundle
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub(crate) policy: Option<PathBuf>,
    /// Logits of val_select and val_calib: the `logits` folder of a run, or a file as `stage1 calibrate --logits` takes it; the folder `logits` beside the bundle if not given
    #[arg(long, value_name = "PATH")]
    pub(crate) reference: Option<PathBuf>,
    /// Logits of val_select, where --reference is a file of val_calib's alone
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub(crate) select: Option<PathBuf>,
    /// Labels of a random sample of the answered images: CSV `path,label`
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// The risk that labelled answers are held to; the certificate's if not given
    #[arg(long, value_name = "RATE")]
    pub(crate) alpha: Option<f64>,
    /// Probability that an alarm is ever raised for nothing, for each of the two alarms
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub(crate) level: f64,
    /// Seed of the draws that break ties, and of the unit rule on the reference
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Go on from this file, and keep it up to date; lines of a log that were read before aren't read again
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Estimate how often each class comes now, conditional on label shift
    #[arg(long)]
    pub(crate) label_shift: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// The bundle
    #[arg(long, short, value_name = "DIR")]
    pub(crate) bundle: PathBuf,
    /// Images to measure with: files, folders, patterns and lists, as `stage1 predict` takes them
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The bundle's variants to measure [default: fp32, or the only one; with --p99-budget, all that are calibrated]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) variant: Vec<String>,
    /// What the model runs on: cpu, cuda or tensorrt; several are compared
    #[arg(
        long,
        value_name = "DEVICE,…",
        value_delimiter = ',',
        default_value = "cpu"
    )]
    pub(crate) device: Vec<Device>,
    /// An option of ONNX Runtime's provider by its own name, as `stage1 predict` takes it; may be repeated
    #[arg(long = "provider-option", value_name = "PROVIDER.NAME=VALUE")]
    pub(crate) provider_options: Vec<String>,
    /// Threads of the session [default: one per core; with --p99-budget, 1, 2, 4, … up to that]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) threads: Vec<usize>,
    /// Images per request, which go through the model together [default: 1,8; with --p99-budget, 1,2,4,8,16,32]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) batch: Vec<usize>,
    /// Images of more pixels are refused before they are decoded
    #[arg(long, value_name = "N", default_value_t = 1 << 26)]
    pub(crate) max_pixels: u64,
    /// Measured requests of each configuration
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) iterations: usize,
    /// Requests before measuring
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) warmup: usize,
    /// Also measure so many clients at once, each of which asks for its next image when it is answered
    #[arg(long, value_name = "CLIENTS", value_parser = at_least_one)]
    pub(crate) concurrency: Option<usize>,
    /// Processes that are started to measure the time to the first answer; 0 measures none
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) cold_starts: usize,
    /// Images that a process of its own judges to measure memory; 0 measures none
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) memory_images: usize,
    /// Name the configuration with the most images per second among those whose requests take at most this at the 99th
    /// percentile (`20ms`); exit 1 if there is none
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) p99_budget: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// A bundle, and the name that clients call it by (the folder's own if not given); may be repeated
    #[arg(long, short, value_name = "[NAME=]DIR", required = true)]
    pub(crate) bundle: Vec<String>,
    /// The bundles' variant; fp32, or the only one, if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Serve although a session isn't the one that was certified; every answer then says `certified: false`
    #[arg(long)]
    pub(crate) allow_uncertified: bool,
    /// Where HTTP is served; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub(crate) http: SocketAddr,
    /// Where gRPC is served, or `none` (HTTP's address serves it, too)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001", value_parser = address_or_none)]
    pub(crate) grpc: AddressOrNone,
    /// A file that holds the bearer token that requests must carry; without it, the variable STAGE1_TOKEN is asked
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Listen on other than loopback addresses without a token
    #[arg(long)]
    pub(crate) allow_anonymous: bool,
    /// The certificate (PEM, with those that lead to its authority) for TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Let clients load and unload bundles (/v2/repository/models/NAME/load)
    #[arg(long)]
    pub(crate) model_control: bool,
    /// Look this often whether a bundle has changed on disk, and load it; without this, SIGHUP does
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) watch: Option<Duration>,
    /// Write every decision into this folder, a file per bundle and version, for `stage1 monitor`
    #[arg(long, value_name = "DIR")]
    pub(crate) decision_log: Option<PathBuf>,
    /// Images that go through a model together, where it takes any number
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) max_batch: usize,
    /// How long the first image of a batch waits for others
    #[arg(long, value_name = "SECONDS", default_value = "0.002", value_parser = seconds)]
    pub(crate) max_delay: Duration,
    /// Images of one bundle that may be in the server at once; further ones get status 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) queue: usize,
    /// Threads of each bundle that run its model, one batch each
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) instances: usize,
    /// Threads of all runs of a bundle's model together, divided among its instances; one per core if not given
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Images that are decoded at the same time; one per core if not given
    #[arg(long, value_name = "N")]
    pub(crate) decoders: Option<usize>,
    /// Requests with larger bodies get status 413
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20)]
    pub(crate) max_body: usize,
    /// Memory of all requests' bodies together; beyond it they get status 503
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    pub(crate) max_bodies: usize,
    /// Images of more pixels are refused before they are decoded, with status 422
    #[arg(long, value_name = "N", default_value_t = 1 << 26)]
    pub(crate) max_pixels: u64,
    /// Open connections; further ones wait
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) connections: usize,
    /// Time of a request from head to answer, if it doesn't ask for less; then it gets status 504
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Time for a request's head to arrive, and that a connection may be idle
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) header_timeout: Duration,
    /// Time for a request's body to arrive; then it gets status 408
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) body_timeout: Duration,
    /// Time that a client may take none of its answer
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) write_timeout: Duration,
    /// On SIGTERM: time between saying that it isn't ready and accepting nothing new
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) drain_grace: Duration,
    /// On SIGTERM: time for what has begun; then it is cut off, with exit code 1
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,
    /// How the log is written to standard error; RUST_LOG chooses what (`info,ort=warn`)
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    /// One object per line, with `trace_id` and `span_id` as OpenTelemetry names them
    Json,
}

/// Clap takes an `Option` for an argument that may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressOrNone(pub(crate) Option<SocketAddr>);

fn address_or_none(text: &str) -> Result<AddressOrNone, String> {
    match text {
        "none" => Ok(AddressOrNone(None)),
        text => text
            .parse()
            .map(|address| AddressOrNone(Some(address)))
            .map_err(|_| {
                "expected an address with a port, as 127.0.0.1:8001, or `none`".to_owned()
            }),
    }
}

/// `20ms`, `1.5s`, `800us`.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let unit = units.into_iter().find(|(name, _)| text.ends_with(name));
    let time = unit.and_then(|(name, seconds)| {
        let number: f64 = text.strip_suffix(name)?.trim().parse().ok()?;
        Duration::try_from_secs_f64(number * seconds).ok()
    });
    time.filter(|time| !time.is_zero()).ok_or_else(|| {
        "expected a time above zero with its unit, as 20ms, 1.5s or 800us".to_owned()
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time <= Duration::from_secs(86_400))
        .ok_or_else(|| "expected a number of seconds, from 0 to 86400".to_owned())
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {}

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the JSON Schema
    Schema,
    /// Print a configuration with all defaults and overrides filled in
    Show(ConfigSource),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "expected a whole number, at least 1".to_owned())
}

/// `224` or `224x448`.
fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn batch_size(text: &str) -> Result<BatchSize, String> {
    match text {
        "dynamic" => Ok(BatchSize::Any(AnyBatch::Dynamic)),
        n => n
            .parse()
            .map(BatchSize::Fixed)
            .map_err(|_| "expected `dynamic` or a number of images, at least 1".to_owned()),
    }
}

/// The longest side of a model's images, in pixels: tables grow with their area, attention with its square.
const MAX_SIDE: usize = 4096;

fn image_size(text: &str) -> Result<(usize, usize), String> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    match (height.parse(), width.parse()) {
        (Ok(height @ 1..=MAX_SIDE), Ok(width @ 1..=MAX_SIDE)) => Ok((height, width)),
        _ => Err(format!(
            "expected a height in pixels, or height x width: `224` or `224x448`, at most {MAX_SIDE} each"
        )),
    }
}
