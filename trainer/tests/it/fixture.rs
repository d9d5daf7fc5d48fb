//! A tiny training set, and the program run on it as a process: libtorch's generator is one per process.

use image::{Rgb, RgbImage};
use serde_json::Value;
use stage1_core::{
    artifact::{Digest, json},
    data::Content,
    split::{Split, SplitManifest, SplitSample},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Images per class and split.
pub(crate) type Counts = [(Split, usize); 4];

const FEW: Counts = [
    (Split::Train, 24),
    (Split::ValSelect, 10),
    (Split::ValCalib, 4),
    (Split::ValTest, 4),
];

/// A folder with images of two classes, their splits, and a configuration that trains a probe in a second.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    /// With digests in the splits, or without.
    pub(crate) fn new(content: Content) -> Self {
        Self::of(FEW, content)
    }

    /// With so many images.
    pub(crate) fn of(counts: Counts, content: Content) -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let mut samples = Vec::new();
        for (split, count) in counts {
            for n in 0..2 * count {
                samples.push(fixture.image(n % 2, split, n, content));
            }
        }
        samples.sort_by(|a, b| a.path.cmp(&b.path));
        fixture.save_splits(samples, content);
        fs::write(
            fixture.path("stage1.yaml"),
            CONFIG.replace("$GOLDENS", &backbones().display().to_string()),
        )
        .unwrap();
        fixture
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Where the image `n` of a split is.
    pub(crate) fn image_path(&self, split: Split, n: usize) -> PathBuf {
        self.path("images").join(image_name(n % 2, split, n))
    }

    /// Changes the samples and writes the splits again.
    pub(crate) fn edit_splits(&self, edit: impl FnOnce(&mut Vec<SplitSample>)) {
        let (mut splits, _): (SplitManifest, _) =
            json::load(&self.path("run/splits.json")).unwrap();
        edit(&mut splits.samples);
        self.save_splits(splits.samples, splits.content);
    }

    /// The program with extra arguments.
    pub(crate) fn command(&self, extra: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stage1-train"));
        command.current_dir(self.dir.path());
        command
            .args(["--config", "stage1.yaml", "--events"])
            .args(extra);
        command
    }

    /// Runs the program with extra arguments.
    pub(crate) fn run(&self, extra: &[&str]) -> Output {
        self.command(extra).output().unwrap()
    }

    /// As [`Fixture::run`]; its events. It must succeed.
    pub(crate) fn train(&self, extra: &[&str]) -> Vec<Value> {
        let output = self.run(extra);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// As [`Fixture::run`]; the one line of its error. It must fail with exit code 2.
    pub(crate) fn refusal(&self, extra: &[&str]) -> String {
        let output = self.run(extra);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.lines().count() == 1,
            "{stderr}"
        );
        stderr
    }

    /// The bytes of all files of the checkpoint.
    pub(crate) fn checkpoint_bytes(&self) -> Vec<Vec<u8>> {
        let dir = self.path("run/checkpoints/best");
        let names = [
            "checkpoint.json",
            "head.safetensors",
            "reference.safetensors",
        ];
        let others = [
            dir.join("adapter/adapter_model.safetensors"),
            self.path("run/explora/model.safetensors"),
            self.path("run/explora/explora.json"),
        ];
        names
            .iter()
            .map(|name| dir.join(name))
            .chain(others.into_iter().filter(|path| path.exists()))
            .map(|path| fs::read(path).unwrap())
            .collect()
    }

    /// The feature shards, sorted.
    pub(crate) fn shards(&self) -> Vec<PathBuf> {
        let mut folders = fs::read_dir(self.path("cache/features")).unwrap();
        let folder = folders.next().unwrap().unwrap().path();
        let mut shards: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        shards.sort();
        shards
    }

    fn image(&self, label: usize, split: Split, n: usize, content: Content) -> SplitSample {
        let path = image_name(label, split, n);
        let file = self.path("images").join(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        picture(label, n as u32 + 1000 * split as u32)
            .save(&file)
            .unwrap();
        let digest = match content {
            Content::Digest => Some(Digest::of_file(&file).unwrap()),
            Content::None => None,
        };
        SplitSample {
            path,
            label,
            group: None,
            unit: 0,
            split,
            digest,
        }
    }

    fn save_splits(&self, mut samples: Vec<SplitSample>, content: Content) {
        for (unit, sample) in samples.iter_mut().enumerate() {
            sample.unit = unit as u64;
        }
        let labels = vec!["dark".to_owned(), "light".to_owned()];
        let count = |split, label| {
            samples
                .iter()
                .filter(|s| s.split == split && s.label == label)
                .count() as u64
        };
        let counts = Split::ALL.map(|split| {
            (
                split,
                (0..labels.len()).map(|label| count(split, label)).collect(),
            )
        });
        let splits = SplitManifest {
            schema_version: 1,
            inputs_digest: Digest::of_bytes(b"by hand"),
            seed: 1,
            ratios: None,
            content,
            counts: counts.into(),
            labels,
            warnings: Vec::new(),
            samples,
        };
        json::save(&splits, &self.path("run/splits.json")).unwrap();
    }
}

fn image_name(label: usize, split: Split, n: usize) -> String {
    format!("{}/{split}-{n:03}.png", ["dark", "light"][label])
}

/// A dark red or a light blue square with noise that differs from picture to picture.
pub(crate) fn picture(label: usize, n: u32) -> RgbImage {
    let base = [[90, 40, 40], [120, 130, 190]][label];
    RgbImage::from_fn(24, 20, |x, y| {
        let noise = (x * 7919 + y * 104_729 + n * 1_299_709).wrapping_mul(2_654_435_761) >> 27;
        Rgb(base.map(|level: u8| level + noise as u8))
    })
}

pub(crate) fn backbones() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones")
}

const CONFIG: &str = "
version: 1
run_dir: run
seed: 3
threads: 1
data: {source: images}
preprocess:
  resize: {exact: {height: 16, width: 20}}
  filter: bilinear
  arithmetic: float32
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
backbone: {path: $GOLDENS/dinov2}
train:
  epochs: 6
  batch_size: 16
  learning_rate: 0.02
  feature_batch_size: 8
  cache_dir: cache
";
