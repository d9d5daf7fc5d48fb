//! What can't be trained is refused with the file, the fault and the next step; and nothing is left behind.

use crate::fixture::Fixture;
use stage1_core::{data::Content, split::Split};
use std::fs;

#[test]
fn a_diverging_run_stops_and_leaves_no_checkpoint() {
    let fixture = Fixture::new(Content::Digest);
    let message = fixture.refusal(&["--set", "train.learning_rate=1e30"]);
    for part in [
        "diverged",
        "epoch 1",
        "step ",
        "train.learning_rate` (now 1e30)",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!fixture.path("run/checkpoints/best").exists());
}

#[test]
fn a_diverging_run_leaves_the_previous_checkpoint_as_it_was() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&[]);
    let bytes = fixture.checkpoint_bytes();
    fixture.refusal(&["--overwrite", "--set", "train.learning_rate=1e30"]);
    assert_eq!(fixture.checkpoint_bytes(), bytes);
}

#[test]
fn another_trainings_checkpoint_is_not_replaced_unasked() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&[]);
    let bytes = fixture.checkpoint_bytes();
    let message = fixture.refusal(&["--set", "seed=9"]);
    assert!(
        message.contains("another training") && message.contains("--overwrite"),
        "{message}"
    );
    assert_eq!(fixture.checkpoint_bytes(), bytes);
    fixture.train(&["--overwrite", "--set", "seed=9"]);
    assert_ne!(fixture.checkpoint_bytes(), bytes);

    fs::write(
        fixture.path("run/checkpoints/best/head.safetensors"),
        "damaged",
    )
    .unwrap();
    let message = fixture.refusal(&["--set", "seed=9"]);
    assert!(
        message.contains("head.safetensors") && message.contains("--overwrite"),
        "{message}"
    );
    fixture.train(&["--overwrite", "--set", "seed=9"]);
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before_as_it_was() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&[]);
    let bytes = fixture.checkpoint_bytes();
    let left = || {
        fs::read_dir(fixture.path("run/checkpoints"))
            .unwrap()
            .count()
    };
    let before = left();
    // No file may grow beyond 20 KiB, less than the reference images of a checkpoint; the signal that says so is ignored, as
    // on a full disk. Features are in the cache by now.
    let script = format!(
        "trap '' XFSZ; ulimit -f 20; exec {} --config stage1.yaml --overwrite --set seed=9",
        env!("CARGO_BIN_EXE_stage1-train")
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(fixture.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("reference.safetensors") && stderr.contains("File too large"),
        "{stderr}"
    );
    assert_eq!(fixture.checkpoint_bytes(), bytes);
    assert_eq!(left(), before, "nothing half-written is left");
    fixture.train(&["--overwrite", "--set", "seed=9"]);
}

#[test]
fn a_device_that_is_not_there_is_refused_with_what_is_missing() {
    let fixture = Fixture::new(Content::Digest);
    let refused = |device: &str| fixture.refusal(&["--set", &format!("train.device={device}")]);
    // Another number than any machine has: with a CUDA build of libtorch, too, this can't be used.
    let message = refused("cuda:99");
    for part in [
        "train.device: cuda:99 can't be used: ",
        "libtorch",
        "or set `train.device: cpu`",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let message = refused("gpu");
    assert!(
        message.contains("unknown device `gpu`, expected cpu, cuda or cuda:N"),
        "{message}"
    );
    assert!(!fixture.path("run/checkpoints").exists() && !fixture.path("cache").exists());
    // Asked for by its name, the default is no other training.
    fixture.train(&[]);
    let events = fixture.train(&["--set", "train.device=cpu"]);
    assert_eq!(events.last().unwrap()["reused"], true);
}

#[test]
fn a_changed_image_is_noticed() {
    let fixture = Fixture::new(Content::Digest);
    let (one, other) = (
        fixture.image_path(Split::Train, 0),
        fixture.image_path(Split::Train, 2),
    );
    fs::copy(other, one).unwrap();
    let message = fixture.refusal(&[]);
    assert!(
        message.contains("train-000.png: changed since the split"),
        "{message}"
    );
}

#[test]
fn splits_that_cannot_train_or_choose_are_refused() {
    type Edit = fn(&mut Vec<stage1_core::split::SplitSample>);
    let cases: [(&str, Edit, &str); 2] = [
        (
            "a class without training images",
            |s| s.retain(|s| s.split != Split::Train || s.label == 0),
            "class `light` has no images in train",
        ),
        (
            "one class to choose by",
            |s| s.retain(|s| s.split != Split::ValSelect || s.label == 1),
            "val_select has images of class `light` only",
        ),
    ];
    for (name, edit, want) in cases {
        let fixture = Fixture::new(Content::Digest);
        fixture.edit_splits(edit);
        let message = fixture.refusal(&[]);
        assert!(
            message.contains(want) && message.contains("splits.json"),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_split_of_bad_images_only_is_as_good_as_empty() {
    let fixture = Fixture::new(Content::None);
    for n in 0..20 {
        fs::write(fixture.image_path(Split::ValSelect, n), "not an image").unwrap();
    }
    let output = fixture.run(&["--set", "data.on_bad_image=skip"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        message.contains("no usable images in val_select"),
        "{message}"
    );
}

#[test]
fn sizes_and_files_that_do_not_fit_are_named() {
    let fixture = Fixture::new(Content::Digest);
    let cases = [
        (
            vec![
                "--set",
                "preprocess.resize={exact: {height: 18, width: 20}}",
            ],
            "patch",
        ),
        (vec!["--set", "backbone.path=nowhere"], "nowhere"),
        (vec!["--set", "run_dir=elsewhere"], "elsewhere/splits.json"),
        (
            vec!["--set", "train.epoch=1"],
            "did you mean `train.epochs`",
        ),
    ];
    for (arguments, want) in cases {
        let message = fixture.refusal(&arguments);
        assert!(message.contains(want), "{arguments:?}: {message}");
    }
}
