//! A training that is killed goes on, to the same bytes.

use crate::fixture::Fixture;
use serde_json::Value;
use stage1_core::data::Content;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    thread,
    time::Duration,
};

/// Long enough to be killed in the middle; a state after every step.
const SLOWLY: [&str; 8] = [
    "--set",
    "train.save_every_seconds=0",
    "--set",
    "train.epochs=20",
    "--set",
    "train.early_stop.patience=20",
    "--set",
    "head.dropout=0.2",
];

/// Through the backbone, with everything that draws.
const PEFT: [&str; 18] = [
    "--set",
    "train.save_every_seconds=0",
    "--set",
    "phase=peft",
    "--set",
    "peft.target_modules=[query, value]",
    "--set",
    "peft.lora_dropout=0.1",
    "--set",
    "peft.head_warmup_epochs=1",
    "--set",
    "augment={flip: 0.5, crop: {area: [0.5, 1.0]}, mixup: 0.2}",
    "--set",
    "train.micro_batch_size=5",
    "--set",
    "train.sampling=balanced",
    "--set",
    "threads=2",
];

/// Without labels first, then as above.
const EXPLORA: [&str; 20] = [
    "--set",
    "train.save_every_seconds=0",
    "--set",
    "phase=explora-supervised",
    "--set",
    "explora={epochs: 6, batch_size: 12, micro_batch_size: 5, r: 2, warmup_epochs: 1, teacher_warmup_epochs: 2}",
    "--set",
    "explora.local_crops={count: 2, size: null, area: [0.05, 0.32]}",
    "--set",
    "explora.head={prototypes: 16, hidden: 24, bottleneck: 8, separate_for_patches: true}",
    "--set",
    "explora.guards={after_steps: 3, min_batch_entropy: 0, max_sample_entropy: 1, min_feature_deviation: 0}",
    "--set",
    "peft.target_modules=[query, value]",
    "--set",
    "train.epochs=3",
    "--set",
    "augment={flip: 0.5}",
    "--set",
    "threads=2",
];

/// What is under way when a training proper has begun.
const STAGES: [&str; 3] = ["epochs", "images", "self-supervised training: images"];

/// Kills the program again and again, each time a few epochs and a moment after its training began or went on, until it ends
/// by itself; how often it went on in the middle.
fn with_kills(
    fixture: &Fixture,
    arguments: &[&str],
    mut wait: impl FnMut() -> (usize, Duration),
) -> usize {
    let mut continued = 0;
    for attempt in 0.. {
        assert!(attempt < 200, "it never ends");
        let mut child = fixture
            .command(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut events = stdout
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let started = events.by_ref().any(|event| {
            continued += usize::from(event["event"] == "note");
            let stage = event["name"].as_str().unwrap_or_default();
            event["event"] == "stage" && STAGES.contains(&stage)
        });
        let (epochs, moment) = wait();
        let is_epoch = |event: &Value| {
            ["epoch", "pretraining"]
                .iter()
                .any(|e| event["event"] == *e)
        };
        let mut ended = events.by_ref().filter(is_epoch);
        if started && ended.by_ref().take(epochs).count() == epochs {
            thread::sleep(moment);
        }
        // It may have ended by then; killing it does no harm.
        child.kill().unwrap();
        child.wait().unwrap();
        if fixture
            .path("run/checkpoints/best/checkpoint.json")
            .exists()
        {
            break;
        }
    }
    // Whatever it was killed in the middle of.
    fixture.train(arguments);
    continued
}

#[test]
fn killed_at_random_points_it_ends_at_the_same_bytes() {
    let selective = [
        &GATE[..],
        &["--set", "gate.loss=selective_net"],
        &SLOWLY[2..6],
    ]
    .concat();
    for (name, arguments) in [
        ("baseline", &SLOWLY[..]),
        ("gate", &selective[..]),
        ("peft", &PEFT[..]),
        ("explora", &EXPLORA[..]),
    ] {
        let whole = Fixture::new(Content::Digest);
        whole.train(arguments);
        let killed = Fixture::new(Content::Digest);
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let continued = with_kills(&killed, arguments, || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let micros = (state >> 33) % 20_000;
            ((state >> 61) as usize % 3, Duration::from_micros(micros))
        });
        assert!(continued >= 2, "{name}: it went on {continued} times only");
        assert_eq!(
            killed.checkpoint_bytes(),
            whole.checkpoint_bytes(),
            "{name}"
        );
        let log = |fixture: &Fixture| {
            let read = |file: &str| fs::read_to_string(fixture.path(file)).unwrap_or_default();
            let text = read("run/metrics.jsonl") + &read("run/metrics.explora.jsonl");
            let lines = text.lines().map(|line| {
                let mut record: Value = serde_json::from_str(line).unwrap();
                for timed in ["seconds", "images_per_second"] {
                    record.as_object_mut().unwrap().remove(timed);
                }
                record
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(log(&killed), log(&whole), "{name}");
        for state in ["last", "explora-last"] {
            let path = killed.path(&format!("run/checkpoints/{state}.safetensors"));
            assert!(!path.exists(), "{name}: {state}");
        }
    }
}

/// With a gate: its own stages come after those of the classifier, whose last state is then what a training goes on from.
const GATE: [&str; 10] = [
    "--set",
    "train.save_every_seconds=0",
    "--set",
    "phase=gate",
    "--set",
    "head.kind=mlp",
    "--set",
    "head.hidden=16",
    "--set",
    "gate.hidden=8",
];

#[test]
fn killed_in_the_stages_of_a_gate_it_ends_at_the_same_bytes() {
    let whole = Fixture::new(Content::Digest);
    whole.train(&GATE);
    let killed = Fixture::new(Content::Digest);
    let moments = [
        ("heads of folds", 0),
        ("heads of folds", 3),
        ("gate: epochs", 0),
        ("gate: epochs", 7),
    ];
    for (stage, done) in moments {
        let mut child = killed
            .command(&GATE)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut events = lines
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let begun = events
            .by_ref()
            .any(|event| event["event"] == "stage" && event["name"] == stage);
        assert!(begun, "{stage}");
        let is_progress = |event: &Value| event["event"] == "progress";
        assert_eq!(
            events.filter(is_progress).take(done).count(),
            done,
            "{stage}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let has = |file: &str| killed.path(&format!("run/checkpoints/{file}")).exists();
        assert!(
            has("last.safetensors") && !has("best"),
            "{stage}: killed too late"
        );
    }
    killed.train(&GATE);
    assert_eq!(killed.checkpoint_bytes(), whole.checkpoint_bytes());
}

/// Stops a training after some epochs by a kill; its state is on disk.
fn interrupted() -> Fixture {
    let fixture = Fixture::new(Content::Digest);
    let endless = [
        "--set",
        "train.epochs=1000000",
        "--set",
        "train.early_stop.patience=1000000",
    ];
    let arguments = [&SLOWLY[..2], &endless].concat();
    let mut child = fixture
        .command(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let epochs = lines
        .map_while(Result::ok)
        .filter(|line| line.contains("\"epoch\""));
    assert_eq!(epochs.take(3).count(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fixture.path("run/checkpoints/last.safetensors").exists());
    fixture
}

#[test]
fn a_state_goes_on_only_with_the_training_that_it_is_of() {
    let fixture = interrupted();
    let goldens = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    let backbone = format!("backbone.path={}", goldens.join("dinov3-vit-mlp").display());
    let sixteen = "preprocess.resize={exact: {height: 28, width: 28}}";
    let cases = [
        (vec!["--set", "train.epochs=3"], "other settings"),
        (
            vec![
                "--set",
                &backbone,
                "--set",
                "preprocess.resize={exact: {height: 32, width: 32}}",
            ],
            "another backbone",
        ),
        (vec!["--set", sixteen], "another preprocessing"),
    ];
    for (arguments, want) in cases {
        let message = fixture.refusal(&arguments);
        assert!(
            message.contains(want)
                && message.contains("--overwrite")
                && message.contains("last.safetensors"),
            "{message}"
        );
    }
    fixture.edit_splits(|samples| {
        let last = samples
            .iter()
            .rposition(|s| s.split == stage1_core::split::Split::Train);
        samples.remove(last.unwrap());
    });
    let message = fixture.refusal(&[]);
    assert!(message.contains("other splits"), "{message}");
    // Asked to, it starts anew.
    fixture.train(&["--overwrite"]);
}

#[test]
fn a_damaged_state_is_refused() {
    let fixture = interrupted();
    let path = fixture.path("run/checkpoints/last.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let arguments = [&SLOWLY[..2], &["--set", "train.epochs=3"]].concat();
    let message = fixture.refusal(&arguments);
    assert!(
        message.contains("content isn't what was written") && message.contains("--overwrite"),
        "{message}"
    );
    fixture.train(&["--overwrite", "--set", "train.epochs=2"]);
}

#[test]
fn resuming_needs_something_to_resume() {
    let fixture = Fixture::new(Content::Digest);
    let message = fixture.refusal(&["--resume"]);
    assert!(
        message.contains("no interrupted training to continue"),
        "{message}"
    );
    // What is done is done.
    fixture.train(&[]);
    let events = fixture.train(&["--resume"]);
    assert_eq!(events.last().unwrap()["reused"], true);
}

#[test]
fn a_full_disk_leaves_the_state_before_as_it_was() {
    let fixture = interrupted();
    let path = fixture.path("run/checkpoints/last.safetensors");
    let before = fs::read(&path).unwrap();
    let arguments = [
        "--set",
        "train.epochs=1000000",
        "--set",
        "train.early_stop.patience=1000000",
    ];
    // No file may grow beyond 512 bytes, less than a state; the signal that says so is ignored, as on a full disk.
    let program = env!("CARGO_BIN_EXE_stage1-train");
    let config = fixture.path("stage1.yaml");
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec {program} --config {} --set train.save_every_seconds=0 {}",
        config.display(),
        arguments.map(|a| format!("'{a}'")).join(" ")
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(fixture.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("cannot save the state") || stderr.contains("cannot write"),
        "{stderr}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    let left = fs::read_dir(fixture.path("run/checkpoints"))
        .unwrap()
        .count();
    assert_eq!(left, 1, "nothing half-written is left");
}

#[test]
fn a_training_can_start_from_another_ones_weights() {
    let first = Fixture::new(Content::Digest);
    first.train(&[]);
    let start = first.path("run/checkpoints/best").display().to_string();
    let second = Fixture::new(Content::Digest);
    // A rate that changes nothing: what comes out is what it started from.
    let still = [
        "--init-from",
        &start,
        "--set",
        "train.learning_rate=1e-12",
        "--set",
        "train.ema_decay=0",
    ];
    second.train(&still);
    let weights = |fixture: &Fixture| {
        let path = fixture.path("run/checkpoints/best/head.safetensors");
        let file = stage1_core::artifact::tensors::TensorFile::open(&path).unwrap();
        file.f32("head.weight").unwrap().1
    };
    for (a, b) in weights(&first).iter().zip(weights(&second)) {
        assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{a} {b}");
    }
    let message = second.refusal(&["--init-from", &start, "--set", "head.kind=mlp"]);
    assert!(message.contains("its head is"), "{message}");
    let goldens = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    let backbone = format!("backbone.path={}", goldens.join("dinov3-vit-mlp").display());
    let size = "preprocess.resize={exact: {height: 32, width: 32}}";
    let other = ["--init-from", &start, "--set", &backbone, "--set", size];
    let message = second.refusal(&other);
    assert!(message.contains("its backbone is"), "{message}");
}
