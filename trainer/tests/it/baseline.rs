//! A whole training, from image files to a checkpoint.

use crate::fixture::Fixture;
use serde_json::Value;
use stage1_core::{checkpoint::Checkpoint, config::Phase, data::Content, split::Split};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

/// The last event.
fn done(events: &[Value]) -> &Value {
    let last = events.last().unwrap();
    assert_eq!(last["event"], "done");
    last
}

fn features_computed(events: &[Value]) -> u64 {
    done(events)["features_computed"].as_u64().unwrap()
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

#[test]
fn a_probe_learns_and_its_checkpoint_carries_what_the_exporter_needs() {
    let fixture = Fixture::new(Content::Digest);
    let events = fixture.train(&[]);
    assert_eq!(
        features_computed(&events),
        68,
        "train and val_select, each once"
    );
    assert_eq!(done(&events)["reused"], false);

    let dir = fixture.path("run/checkpoints/best");
    let checkpoint = Checkpoint::load(&dir).unwrap();
    assert!(
        checkpoint.metrics["accuracy"] > 0.9,
        "{:?}",
        checkpoint.metrics
    );
    assert_eq!(
        (checkpoint.phase, checkpoint.seed, checkpoint.threads),
        (Phase::Baseline, 3, 1)
    );
    assert_eq!(checkpoint.labels, ["dark", "light"]);

    let reference = checkpoint.reference_file(&dir).unwrap();
    assert_eq!(reference.f32("pixel_values").unwrap().0, [8, 3, 16, 20]);
    assert_eq!(reference.f32("features").unwrap().0, [8, 64]);
    check_logits(&checkpoint, &dir);

    let log = fs::read_to_string(fixture.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), checkpoint.epochs_run);
    assert_eq!(lines.len(), count(&events, "epoch"));
    let best = &lines[checkpoint.epoch - 1];
    assert_eq!(best["best"], true);
    assert_eq!(
        best["val_select"]["mcc"].as_f64(),
        checkpoint.metrics.get("mcc").copied()
    );
}

/// The stored head on the stored features gives the stored logits: standardisation is folded in.
fn check_logits(checkpoint: &Checkpoint, dir: &std::path::Path) {
    let head = checkpoint.head_file(dir).unwrap();
    let reference = checkpoint.reference_file(dir).unwrap();
    let (weight, bias) = (
        head.f32("head.weight").unwrap().1,
        head.f32("head.bias").unwrap().1,
    );
    let (features, logits) = (
        reference.f32("features").unwrap().1,
        reference.f32("logits").unwrap().1,
    );
    for (row, logits) in features.chunks_exact(64).zip(logits.chunks_exact(2)) {
        for (class, got) in logits.iter().enumerate() {
            let dot: f32 = row
                .iter()
                .zip(&weight[class * 64..])
                .map(|(x, w)| x * w)
                .sum();
            let want = dot + bias[class];
            assert!(
                (got - want).abs() < 1e-3 * (1.0 + want.abs()),
                "{got} for {want}"
            );
        }
    }
}

#[test]
fn nothing_is_done_twice() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&[]);
    let bytes = fixture.checkpoint_bytes();

    let again = fixture.train(&[]);
    assert_eq!(done(&again)["reused"], true);
    assert_eq!(count(&again, "epoch"), 0);
    assert_eq!(fixture.checkpoint_bytes(), bytes);

    // Another head reads the features that are there, even of image files that are gone but for the reference's.
    for n in 0..48 {
        fs::remove_file(fixture.image_path(Split::Train, n)).unwrap();
    }
    let mlp = [
        "--overwrite",
        "--set",
        "head.kind=mlp",
        "--set",
        "head.features=cls",
        "--set",
        "head.dropout=0.1",
    ];
    let other = fixture.train(&mlp);
    assert_eq!(
        (features_computed(&other), count(&other, "epoch") > 0),
        (0, true)
    );
    let checkpoint = Checkpoint::load(&fixture.path("run/checkpoints/best")).unwrap();
    assert!(
        checkpoint.metrics["accuracy"] > 0.9,
        "{:?}",
        checkpoint.metrics
    );
}

#[test]
fn one_seed_gives_the_same_bytes_and_another_seed_others() {
    let options = [
        "--set",
        "head.kind=mlp",
        "--set",
        "head.dropout=0.3",
        "--set",
        "train.ema_decay=0.9",
        "--set",
        "threads=2",
    ];
    let train = |seed: &str| {
        let fixture = Fixture::new(Content::Digest);
        fixture.train(&[&options[..], &["--set", seed]].concat());
        fixture.checkpoint_bytes()
    };
    let first = train("seed=3");
    assert_eq!(first, train("seed=3"));
    assert_ne!(first[1], train("seed=4")[1]);
}

#[test]
fn a_damaged_or_missing_shard_is_computed_again_to_the_same_bytes() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&[]);
    let bytes = fixture.checkpoint_bytes();
    let shards = fixture.shards();
    let whole = fs::read(&shards[0]).unwrap();
    fs::write(&shards[0], &whole[..whole.len() / 2]).unwrap();
    fs::remove_dir_all(fixture.path("run/checkpoints")).unwrap();

    let events = fixture.train(&[]);
    assert_eq!(count(&events, "warning"), 1);
    assert_eq!(features_computed(&events), 68);
    assert_eq!(fixture.checkpoint_bytes(), bytes);
    assert_eq!(fs::read(&shards[0]).unwrap(), whole);
}

#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let counts = [
        (Split::Train, 300),
        (Split::ValSelect, 10),
        (Split::ValCalib, 1),
        (Split::ValTest, 1),
    ];
    let one_epoch = ["--set", "train.epochs=1"];
    let whole = Fixture::of(counts, Content::Digest);
    assert_eq!(features_computed(&whole.train(&one_epoch)), 620);

    let killed = Fixture::of(counts, Content::Digest);
    let mut child = killed
        .command(&one_epoch)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let events = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events = events.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    // By then the first shard is written.
    assert!(events.any(|event| event["done"].as_u64() >= Some(520)));
    child.kill().unwrap();
    child.wait().unwrap();

    let rest = killed.train(&one_epoch);
    assert!(features_computed(&rest) <= 620 - 512, "{rest:?}");
    assert_eq!(killed.checkpoint_bytes(), whole.checkpoint_bytes());
}

#[test]
fn only_images_of_train_and_val_select_are_opened() {
    let fixture = Fixture::new(Content::Digest);
    for n in 0..8 {
        fs::remove_file(fixture.image_path(Split::ValTest, n)).unwrap();
        fs::write(fixture.image_path(Split::ValCalib, n), "not an image").unwrap();
    }
    fixture.train(&[]);
}

#[test]
fn splits_without_digests_train_the_same_head() {
    let with = Fixture::new(Content::Digest);
    let without = Fixture::new(Content::None);
    with.train(&[]);
    without.train(&[]);
    assert_eq!(with.checkpoint_bytes()[1], without.checkpoint_bytes()[1]);
}

#[test]
fn a_bad_image_is_left_out_when_asked_for() {
    let fixture = Fixture::new(Content::None);
    let bad = fixture.image_path(Split::Train, 5);
    fs::write(&bad, "not an image").unwrap();
    let message = fixture.refusal(&[]);
    assert!(
        message.contains("train-005.png") && message.contains("data.on_bad_image"),
        "{message}"
    );

    let events = fixture.train(&["--set", "data.on_bad_image=skip"]);
    assert_eq!(features_computed(&events), 67);
    let warning = events
        .iter()
        .find(|event| event["event"] == "warning")
        .unwrap();
    assert!(
        warning["message"]
            .as_str()
            .unwrap()
            .contains("train-005.png")
    );
}
