//! Decision logs: a line for every image that was judged, as `stage1 predict --json` prints it and `stage1 monitor` reads it.
//!
//! There is a file for each bundle and version, because a monitor watches one policy. Lines are appended whole; a file that was moved
//! away is made anew, so that logs can be rotated under a running server.

use crate::metrics::Metrics;
use serde::Serialize;
use stage1_core::bundle::Prediction;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Lines that wait to be written.
const PENDING: usize = 1024;

/// How long a request waits with its line while there are as many: a disk that hangs must not stop the answers.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the server's end waits for lines that nobody has waited for.
const LAST: Duration = Duration::from_secs(2);

/// What the writing thread gets.
enum Message {
    Line(Line),
    /// To be answered when all that came before is written.
    Flush(oneshot::Sender<()>),
}

struct Line {
    model: String,
    version: String,
    json: String,
}

/// The record, with what the log may hold beside it.
#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    prediction: &'a Prediction,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
}

/// Where decisions are written down; the thread behind it ends with it, when everything is written.
pub(crate) struct DecisionLog {
    lines: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl DecisionLog {
    /// # Errors
    /// When the folder can't be made, or nothing can be written into it.
    pub(crate) fn open(dir: &Path, metrics: Arc<Metrics>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let probe = dir.join(format!(".{}.probe", std::process::id()));
        File::create(&probe)?;
        fs::remove_file(&probe)?;
        let (sender, receiver) = mpsc::channel(PENDING);
        let writer = Writer {
            dir: dir.to_owned(),
            files: BTreeMap::new(),
            metrics,
        };
        let thread = thread::Builder::new()
            .name("stage1-log".to_owned())
            .spawn(move || writer.run(receiver))?;
        Ok(Self {
            lines: Some(sender),
            thread: Some(thread),
        })
    }

    /// Hands a record over; waits a little while too many are on their way. Returns whether it was taken.
    pub(crate) async fn record(
        &self,
        model: &str,
        version: &str,
        prediction: &Prediction,
        group: Option<&str>,
    ) -> bool {
        let record = Record { prediction, group };
        let json =
            serde_json::to_string(&record).expect("a record of texts and finite numbers is JSON");
        let line = Line {
            model: model.to_owned(),
            version: version.to_owned(),
            json,
        };
        match &self.lines {
            // The writer only ends when this sender is gone.
            Some(lines) => timeout(PATIENCE, lines.send(Message::Line(line)))
                .await
                .is_ok(),
            None => false,
        }
    }
}

impl DecisionLog {
    /// Waits until everything so far is written.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if let Some(lines) = &self.lines
            && lines.send(Message::Flush(done)).await.is_ok()
        {
            _ = written.await;
        }
    }
}

impl Drop for DecisionLog {
    /// Waits until everything is written, unless the disk hangs.
    fn drop(&mut self) {
        self.lines = None;
        let (thread, started) = (self.thread.take(), Instant::now());
        let is_writing = || thread.as_ref().is_some_and(|thread| !thread.is_finished());
        while is_writing() && started.elapsed() < LAST {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Writer {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(first) = messages.blocking_recv() {
            // What came meanwhile is written with it, in one call per file.
            let mut batches: BTreeMap<(String, String), (Vec<u8>, u64)> = BTreeMap::new();
            let mut waiting = Vec::new();
            let (mut next, mut taken) = (Some(first), 0);
            while let Some(message) = next {
                taken += 1;
                match message {
                    Message::Line(line) => {
                        let (bytes, records) =
                            batches.entry((line.model, line.version)).or_default();
                        bytes.extend_from_slice(line.json.as_bytes());
                        bytes.push(b'\n');
                        *records += 1;
                    }
                    Message::Flush(done) => waiting.push(done),
                }
                // No more than may wait: the memory is bounded, however fast they come.
                next = (taken < PENDING)
                    .then(|| messages.try_recv().ok())
                    .flatten();
            }
            for ((model, version), (bytes, records)) in batches {
                self.append(&model, &version, &bytes, records);
            }
            for done in waiting {
                // Whoever waited may have gone.
                _ = done.send(());
            }
        }
    }

    /// A disk that is full must not stop the answers: what couldn't be written is told and counted.
    fn append(&mut self, model: &str, version: &str, bytes: &[u8], records: u64) {
        let path = self.dir.join(format!("{model}-{version}.jsonl"));
        match self.write(&path, bytes) {
            Ok(()) => self.metrics.logged(model, "written", records),
            Err(error) => {
                self.files.remove(&path);
                self.metrics.logged(model, "lost", records);
                tracing::error!(path = %path.display(), %error, records, "cannot write the decision log");
            }
        }
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.files.get(path).is_none_or(|file| !is_same(file, path)) {
            self.files.insert(path.to_owned(), open(path)?);
        }
        let mut file = self.files.get(path).expect("it was just put there");
        let before = file.metadata()?.len();
        file.write_all(bytes).inspect_err(|_| {
            // Lines are whole, or not there.
            _ = file.set_len(before);
        })
    }
}

/// Opens a log to be continued; a line that a killed server left unfinished is cut off.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let length = file.metadata()?.len();
    let whole = end_of_last_line(&mut file, length)?;
    if whole < length {
        tracing::warn!(path = %path.display(), bytes = length - whole, "cut off an unfinished line of the decision log");
        file.set_len(whole)?;
    }
    Ok(file)
}

fn end_of_last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut block = vec![0; 1 << 16];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Whether the open file is still the one at `path`.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_continued_after_a_torn_line_and_begun_anew_after_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m-1.jsonl");
        fs::write(&path, "{\"a\":1}\n{\"b\":").unwrap();
        let mut writer = Writer {
            dir: dir.path().to_owned(),
            files: BTreeMap::new(),
            metrics: Arc::new(Metrics::new()),
        };
        writer.append("m", "1", b"{}\n", 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{}\n");
        let rotated = dir.path().join("m-1.jsonl.1");
        fs::rename(&path, &rotated).unwrap();
        writer.append("m", "1", b"{}\n{}\n", 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n{}\n");
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "{\"a\":1}\n{}\n");
    }

    /// A pipe that nobody reads stands for a disk that hangs.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_disk_that_hangs_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("m-1.jsonl");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let log = DecisionLog::open(dir.path(), Arc::new(Metrics::new())).unwrap();
        let prediction = Prediction::failed("x".repeat(4000), "none");
        let mut taken = 0;
        while log.record("m", "1", &prediction, None).await {
            taken += 1;
            assert!(taken < 10_000, "it never hung");
        }
        drop(log);
    }

    #[test]
    fn a_torn_first_line_leaves_an_empty_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m-1.jsonl");
        fs::write(&path, "x".repeat(200_000)).unwrap();
        assert_eq!(open(&path).unwrap().metadata().unwrap().len(), 0);
    }
}
