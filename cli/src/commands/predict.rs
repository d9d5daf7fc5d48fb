//! `stage1 predict`: one record per image, as soon as it is there, in the order of the images.

use super::session;
use crate::{
    args::PredictArgs,
    inputs::{Images, Inputs},
    interrupt,
    output::{Answer, Output},
    progress::Steps,
    records::{
        Format, Job, Records,
        resume::{self, Counts},
    },
};
use anyhow::{Context, bail};
use serde::Serialize;
use stage1_core::{
    artifact::atomic,
    bundle::Prediction,
    progress::{Progress, Silent},
};
use stage1_runtime::{CancelToken, Predictor};
use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, BufWriter, IsTerminal},
    path::{Path, PathBuf},
    time::Instant,
};

/// Exits 0 if every image was judged, 1 if some couldn't be: those are records with `decision: error`. If no image could be
/// judged, or it was interrupted, that is a failure.
pub(crate) fn run(args: &PredictArgs, output: &Output) -> anyhow::Result<Answer> {
    let target = Target::new(args, *output)?;
    session::check(&args.session)?;
    let inputs = Inputs::new(&args.paths, args.root.as_deref())?;
    let total = inputs.count()?;
    let predictor = session::open(
        &args.bundle,
        args.variant.as_deref(),
        &args.session,
        args.allow_uncertified,
        *output,
    )?;
    output.note(&format!("variant {}", predictor.scorer().variant()));
    let mut run = Run {
        job: Job::new(&predictor, args.session.max_pixels)?,
        predictor,
        output: *output,
        cancel: CancelToken::new(),
        total,
        resumed: 0,
        counts: Counts::default(),
        started: Instant::now(),
    };
    interrupt::cancels(&run.cancel)?;
    run.write(inputs.images(), &target)?;
    run.conclude(&target)
}

/// Where the records go.
enum Target {
    Stdout(Format),
    /// The file appears when all records are there.
    Whole(PathBuf, Format),
    /// The file grows, and is gone on with.
    Growing(PathBuf, Format),
}

impl Target {
    fn new(args: &PredictArgs, output: Output) -> anyhow::Result<Self> {
        let Some(path) = &args.output else {
            return Ok(Self::Stdout(stdout_format(args.format, output)?));
        };
        let format = args.format.map_or_else(|| Format::of(path), Ok)?;
        if args.resume {
            if !matches!(format, Format::Jsonl | Format::Csv) {
                bail!(
                    "{}: --resume needs JSON lines or CSV; other formats are written whole or not at all",
                    path.display()
                );
            }
            return Ok(Self::Growing(path.clone(), format));
        }
        if path.exists() && !args.overwrite {
            bail!(
                "{} exists; choose another --output, replace it with --overwrite, or go on with it with --resume",
                path.display()
            );
        }
        Ok(Self::Whole(path.clone(), format))
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdout(_) => None,
            Self::Whole(path, _) | Self::Growing(path, _) => Some(path),
        }
    }
}

fn stdout_format(asked: Option<Format>, output: Output) -> anyhow::Result<Format> {
    match (asked, output.is_json()) {
        (Some(Format::Parquet), _) => {
            bail!("--format parquet needs --output: a file of columns is written whole")
        }
        (None | Some(Format::Jsonl), true) => Ok(Format::Jsonl),
        (Some(_), true) => {
            bail!("--json means JSON lines on standard output; leave out --json or --format")
        }
        (format, false) => Ok(format.unwrap_or(Format::Table)),
    }
}

/// Images that are being judged.
struct Run {
    predictor: Predictor,
    job: Job,
    output: Output,
    cancel: CancelToken,
    /// Images, if that is known.
    total: Option<u64>,
    /// Records that were there.
    resumed: u64,
    counts: Counts,
    started: Instant,
}

/// What came of it, where the records are in a file.
#[derive(Serialize)]
struct Report<'a> {
    output: &'a Path,
    variant: &'a str,
    certified: bool,
    #[serde(flatten)]
    counts: Counts,
    /// Of the images, those that had a record before.
    resumed: u64,
    seconds: f64,
    images_per_second: f64,
}

impl Run {
    fn write(&mut self, mut images: Images<'_>, target: &Target) -> anyhow::Result<()> {
        match target {
            Target::Stdout(format) => {
                let records = format.writer(BufWriter::new(io::stdout()), &self.job)?;
                // On a terminal the records themselves show how far it is.
                if io::stdout().is_terminal() {
                    self.judge(images, records, &Silent)
                } else {
                    self.judge(images, records, &Steps::new(self.output))
                }
            }
            Target::Whole(path, format) => self.write_whole(images, path, *format),
            Target::Growing(path, format) => {
                let begun = resume::open(path, *format, &self.job, &mut images)?;
                self.counts = begun.done;
                self.resumed = begun.done.images;
                if self.resumed > 0 {
                    let (path, n) = (path.display(), self.resumed);
                    self.output
                        .note(&format!("{path} has {n} records, going on"));
                }
                let file = BufWriter::new(&begun.file);
                let records = if begun.is_new {
                    format.writer(file, &self.job)?
                } else {
                    format.further(file, &self.job)?
                };
                self.judge(images, records, &Steps::new(self.output))?;
                begun
                    .file
                    .sync_all()
                    .with_context(|| format!("cannot sync {}", path.display()))
            }
        }
    }

    fn write_whole(
        &mut self,
        images: Images<'_>,
        path: &Path,
        format: Format,
    ) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        let written = atomic::write(path, |out| {
            outcome = format
                .writer(out, &self.job.clone())
                .map_err(Into::into)
                .and_then(|records| self.judge(images, records, &Steps::new(self.output)));
            match outcome {
                Ok(()) if !self.cancel.is_cancelled() => Ok(()),
                _ => Err(io::Error::other("it isn't whole")),
            }
        });
        outcome?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        Ok(written?)
    }

    /// Writes a record for each image, until there are no more or it is cancelled.
    fn judge(
        &mut self,
        images: Images<'_>,
        mut records: Box<dyn Records + '_>,
        progress: &dyn Progress,
    ) -> anyhow::Result<()> {
        self.started = Instant::now();
        progress.start(
            "predict",
            self.total.map_or(0, |total| total - self.resumed),
        );
        let predictor = self.predictor.clone();
        each(&predictor, images, &self.cancel, |record| {
            self.counts.add(record.decision);
            records.push(record).context("cannot write a record")?;
            progress.advance(1);
            Ok(())
        })?;
        records.finish().context("cannot write the last records")?;
        progress.finish();
        Ok(())
    }

    fn conclude(&self, target: &Target) -> anyhow::Result<Answer> {
        let Counts {
            images,
            answered,
            deferred,
            errors,
        } = self.counts;
        if self.cancel.is_cancelled() {
            let left = match target {
                Target::Stdout(_) => String::new(),
                Target::Whole(..) => "; nothing was written".to_owned(),
                Target::Growing(path, _) => {
                    format!("; the same command goes on with {}", path.display())
                }
            };
            self.output
                .failure(&format!("interrupted after {images} images{left}"));
            return Ok(Answer::Failed);
        }
        if let Some(path) = target.path() {
            let report = self.report(path);
            let text = format!("wrote {}: {images} records", path.display());
            self.output.answer(&report, &text)?;
        }
        if errors == images {
            self.output.failure(&format!(
                "none of the images ({images}) could be judged; each record says why"
            ));
            return Ok(Answer::Failed);
        }
        self.output.note(&format!(
            "{images} images: {answered} answered, {deferred} deferred, {errors} not judged"
        ));
        if errors == 0 {
            return Ok(Answer::Yes);
        }
        self.output.warn(&format!(
            "{errors} of {images} images could not be judged; see the records with decision `error`"
        ));
        Ok(Answer::No)
    }

    fn report<'a>(&'a self, path: &'a Path) -> Report<'a> {
        let seconds = self.started.elapsed().as_secs_f64();
        Report {
            output: path,
            variant: self.predictor.scorer().variant(),
            certified: self.predictor.standing().is_certified(),
            counts: self.counts,
            resumed: self.resumed,
            seconds,
            images_per_second: (self.counts.images - self.resumed) as f64 / seconds,
        }
    }
}

/// Judges images in order, under the names that they were given.
fn each(
    predictor: &Predictor,
    images: Images<'_>,
    cancel: &CancelToken,
    mut take: impl FnMut(Prediction) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Those whose records are still to come; images are taken on this very thread.
    let names = RefCell::new(VecDeque::new());
    let mut stopped = Ok(());
    let paths = images.map_while(|image| match image {
        Ok(image) => {
            names.borrow_mut().push_back(image.id);
            Some(image.path)
        }
        Err(error) => {
            stopped = Err(error);
            None
        }
    });
    for record in predictor.stream(paths, cancel) {
        let mut record = record?;
        record.path = names.borrow_mut().pop_front().expect("one name per image");
        take(record)?;
    }
    stopped
}
