//! Trains a linear head on features in memory and prints one JSON object: the seconds of each epoch, the last epoch's loss, and
//! the most memory that the process had (Linux).
//!
//! `cargo run --release -p stage1-trainer --example probe -- FILE EPOCHS BATCH THREADS`: the safetensors file has `features`
//! f32 [n, F] and `labels` f32 [n], whole numbers from 0. It is what `benches/peers/train` times beside PyTorch: the
//! optimiser, clipping and the average of the weights are part of an epoch, judging it on val_select isn't.

use serde_json::json;
use stage1_core::{
    artifact::tensors::TensorFile,
    config::TrainConfig,
    model::{Features, HeadKind, HeadSpec, ReadBlocks},
};
use stage1_trainer::{
    Result as Trained,
    events::EpochRecord,
    fit::{Labelled, Start, fit},
    head::Head,
};
use std::{env, error::Error, fs, io::Write as _};
use tch::Tensor;

/// Rows that stand for val_select.
const SELECT: i64 = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [file, numbers @ ..] = arguments.as_slice() else {
        return Err("usage: probe FILE EPOCHS BATCH THREADS".into());
    };
    let numbers = numbers.iter().map(|text| text.parse());
    let [epochs, batch_size, threads] = numbers.collect::<Result<Vec<usize>, _>>()?[..] else {
        return Err("usage: probe FILE EPOCHS BATCH THREADS".into());
    };
    tch::set_num_threads(i32::try_from(threads)?);
    let train = read(file)?;
    let few = SELECT.min(train.labels.len() as i64);
    let select = Labelled {
        features: train.features.slice(0, 0, few, 1),
        labels: train.labels[..few as usize].to_vec(),
    };
    let width = train.features.size()[1] as usize;
    let spec = HeadSpec {
        kind: HeadKind::Linear,
        features: Features::Cls,
        blocks: ReadBlocks::LAST,
        classes: 1 + train.labels.iter().max().copied().unwrap_or(0),
    };
    let mut config = TrainConfig {
        epochs,
        batch_size,
        ..TrainConfig::default()
    };
    config.early_stop.patience = epochs;
    let mut records = Vec::new();
    let mut watch = |record: &EpochRecord| -> Trained<()> {
        records.push(record.clone());
        Ok(())
    };
    let (head, start) = (Head::new(spec, width, 0.0), Start::default());
    fit(&head, &train, &select, &config, 0, start, None, &mut watch)?;
    let seconds: Vec<_> = records.iter().map(|record| record.seconds).collect();
    let loss = records.last().map(|record| record.train_loss);
    let report = json!({"seconds": seconds, "loss": loss, "peak_memory_kb": peak_memory()});
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

fn read(file: &str) -> Result<Labelled, Box<dyn Error>> {
    let file = TensorFile::open(file.as_ref())?;
    let (shape, features) = file.f32("features")?;
    let (_, labels) = file.f32("labels")?;
    Ok(Labelled {
        features: Tensor::from_slice(&features).reshape([shape[0] as i64, shape[1] as i64]),
        labels: labels.into_iter().map(|label| label as usize).collect(),
    })
}

fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
