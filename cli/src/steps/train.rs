//! Training happens in another process: libtorch and ONNX Runtime corrupt each other's heap when they share one.

use super::Run;
use anyhow::{Context, bail};
use stage1_core::{
    artifact::json,
    checkpoint::Checkpoint,
    config::Config,
    depth::DepthChoice,
    events::{EpochRecord, Plan, PretrainingRecord, TrainingEvent},
    model::BackboneSpec,
    progress::Progress,
};
use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

const TRAINER: &str = "stage1-train";

/// Fails when the backbone can't be used with the configured image size: before all images are read, not after.
pub(crate) fn check_backbone(config: &Config) -> anyhow::Result<()> {
    let spec = config
        .backbone
        .spec()
        .context("`backbone` can't be used as configured")?;
    config.head.read_blocks(&spec)?;
    let (height, width) = config.preprocess.output_size();
    spec.grid(height, width)
        .context("`preprocess` doesn't go with the backbone")?;
    Ok(())
}

/// How a training begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Where an interrupted one stopped, if there is one.
    Anywhere,
    /// Where an interrupted one stopped; none is an error.
    Resume,
}

/// The checkpoint for the run's configuration: the one that is there, or a new one.
pub(crate) fn ensure(run: &Run) -> anyhow::Result<Checkpoint> {
    ensure_from(run, Begin::Anywhere)
}

/// As [`ensure`], saying how a training begins.
pub(crate) fn ensure_from(run: &Run, begin: Begin) -> anyhow::Result<Checkpoint> {
    follow(run, start(run, begin, &[])?)?;
    trained(run)
}

/// As [`ensure`]; libtorch's logits of val_select, by that checkpoint, are then in the file `logits`.
pub(crate) fn ensure_with_logits(run: &Run, logits: &Path) -> anyhow::Result<Checkpoint> {
    let more = ["--select-logits".as_ref(), logits.as_os_str()];
    follow(run, start(run, Begin::Anywhere, &more)?)?;
    trained(run)
}

fn trained(run: &Run) -> anyhow::Result<Checkpoint> {
    let dir = run.config.checkpoint_dir();
    Checkpoint::load(&dir)
        .with_context(|| format!("the trainer left no valid checkpoint in {}", dir.display()))
}

/// How the depth of this checkpoint was chosen, where it was.
pub(crate) fn depth(config: &Config, checkpoint: &Checkpoint) -> Option<DepthChoice> {
    let BackboneSpec::Vit(vit) = &checkpoint.backbone else {
        return None;
    };
    let (choice, _): (DepthChoice, _) = json::load(&config.depth_path()).ok()?;
    let of_this = choice.chosen == vit.layers && choice.splits_digest == checkpoint.splits_digest;
    (config.backbone.blocks.is_auto() && of_this).then_some(choice)
}

/// What a training would do.
pub(crate) fn plan(run: &Run, begin: Begin) -> anyhow::Result<Plan> {
    let plan = follow(run, start(run, begin, &["--dry-run".as_ref()])?)?;
    plan.context("the trainer told no plan")
}

/// The trainer, at work.
fn start(run: &Run, begin: Begin, more: &[&OsStr]) -> anyhow::Result<Child> {
    let program = find_trainer()?;
    let mut command = Command::new(&program);
    command
        .arg("--config")
        .arg(&run.source.config)
        .args(["--events", "--until-end-of-input"])
        .args(more);
    for change in &run.source.overrides {
        command.arg("--set").arg(change);
    }
    if run.overwrite {
        command.arg("--overwrite");
    }
    if begin == Begin::Resume {
        command.arg("--resume");
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// Tells what the trainer says until it ends; the plan, if it told one.
fn follow(run: &Run, mut child: Child) -> anyhow::Result<Option<Plan>> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    // Held until the child has ended: it ends when this process does, however that comes about.
    let _lifeline = child.stdin.take();
    let story = thread::spawn(move || collect(stderr));
    let mut plan = None;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what the trainer says")?;
        match serde_json::from_str(&line) {
            Ok(TrainingEvent::Plan(told)) => plan = Some(told),
            Ok(event) => tell(run, event),
            Err(_) => run.output.note(&line),
        }
    }
    run.progress.finish();
    let status = child.wait().context("cannot wait for the trainer")?;
    let story = story.join().unwrap_or_default();
    if status.success() {
        story.iter().for_each(|line| run.output.note(line));
        return Ok(plan);
    }
    let reason = story
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    match reason {
        Some(reason) => {
            let before = story.iter().filter(|line| !line.starts_with("error: "));
            let before: String = before.map(|line| format!("\n  {line}")).collect();
            bail!("training failed: {reason}{before}")
        }
        None => bail!(
            "training failed: {TRAINER} ended with {status}\n{}",
            story.join("\n")
        ),
    }
}

fn collect(stderr: impl Read) -> Vec<String> {
    BufReader::new(stderr)
        .lines()
        .map_while(Result::ok)
        .collect()
}

fn tell(run: &Run, event: TrainingEvent) {
    match event {
        TrainingEvent::Stage { name, total } => run.progress.start(&name, total),
        TrainingEvent::Progress { done } => run.progress.advance_to(done),
        TrainingEvent::Epoch(record) => tell_epoch(run, &record),
        TrainingEvent::Pretraining(record) => tell_pretraining(run, &record),
        TrainingEvent::Plan(_) => {}
        TrainingEvent::Warning { message } => run.progress.warn(&message),
        TrainingEvent::Note { message } => run.progress.say(&format!("  {message}")),
        TrainingEvent::Done { reused: true, .. } => run.reused("train"),
        TrainingEvent::Done { .. } => {}
    }
}

/// A row of the table of epochs; the first one has the table's head above it.
fn tell_epoch(run: &Run, record: &EpochRecord) {
    if record.epoch == 1 {
        let names: String = record
            .val_select
            .keys()
            .map(|name| format!(" {name:>17}"))
            .collect();
        run.progress
            .say(&format!("  epoch       loss       rate{names}   images/s"));
    }
    let values: String = record
        .val_select
        .values()
        .map(|value| format!(" {value:>17.4}"))
        .collect();
    let mark = if record.best { " *" } else { "" };
    run.progress.say(&format!(
        "  {:>5} {:>10.4} {:>10.2e}{values} {:>10.0}{mark}",
        record.epoch, record.train_loss, record.learning_rate, record.images_per_second
    ));
}

/// The same for self-supervised training.
fn tell_pretraining(run: &Run, record: &PretrainingRecord) {
    if record.epoch == 1 {
        let names: String = record
            .metrics
            .keys()
            .map(|name| format!(" {name:>17}"))
            .collect();
        run.progress
            .say(&format!("  epoch       rate{names}   images/s"));
    }
    let values: String = record
        .metrics
        .values()
        .map(|value| format!(" {value:>17.4}"))
        .collect();
    run.progress.say(&format!(
        "  {:>5} {:>10.2e}{values} {:>10.1}",
        record.epoch, record.learning_rate, record.images_per_second
    ));
}

/// `STAGE1_TRAIN_BIN`, the folder of this program, or `PATH`.
pub(crate) fn find_trainer() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("STAGE1_TRAIN_BIN").map(PathBuf::from) {
        if is_program(&path) {
            return Ok(path);
        }
        bail!(
            "STAGE1_TRAIN_BIN is {}, which is no program",
            path.display()
        );
    }
    let beside = env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(TRAINER)));
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path)
        .map(|dir| dir.join(TRAINER))
        .collect::<Vec<_>>();
    let found = beside.iter().chain(&on_path).find(|path| is_program(path));
    found.cloned().with_context(|| {
        let beside = beside.as_deref().and_then(Path::parent).unwrap_or(Path::new("."));
        format!(
            "{TRAINER} was found neither in {} nor on PATH; build it with `cargo xtask setup && cargo build --release -p stage1-trainer`, \
             or name it in STAGE1_TRAIN_BIN",
            beside.display()
        )
    })
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}
