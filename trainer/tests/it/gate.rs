//! Phase `gate`.

use crate::fixture::Fixture;
use stage1_core::{
    artifact::tensors::TensorFile, checkpoint::Checkpoint, data::Content, logits::LogitSet,
    split::Split,
};
use std::fs;

const GATE: [&str; 8] = [
    "--set",
    "phase=gate",
    "--set",
    "head.kind=mlp",
    "--set",
    "head.hidden=16",
    "--set",
    "gate.hidden=8",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let more = more.iter().flat_map(|key| ["--set", key]);
    GATE.into_iter().chain(more).collect()
}

fn head(fixture: &Fixture) -> (Checkpoint, TensorFile) {
    let dir = fixture.path("run/checkpoints/best");
    let checkpoint = Checkpoint::load(&dir).unwrap();
    let head = checkpoint.head_file(&dir).unwrap();
    (checkpoint, head)
}

#[test]
fn a_cross_fitted_gate_leaves_the_classifier_as_baseline_trains_it() {
    let gated = Fixture::new(Content::Digest);
    let out = gated.path("select.safetensors").display().to_string();
    gated.train(&[&GATE[..], &["--select-logits", &out]].concat());
    let plain = Fixture::new(Content::Digest);
    plain.train(&["--set", "head.kind=mlp", "--set", "head.hidden=16"]);

    let ((gate, ours), (_, theirs)) = (head(&gated), head(&plain));
    let shapes = |file: &TensorFile| file.shapes().unwrap().len();
    assert_eq!((shapes(&ours), shapes(&theirs)), (8, 4));
    for name in theirs.shapes().unwrap().keys() {
        assert_eq!(ours.f32(name).unwrap(), theirs.f32(name).unwrap(), "{name}");
    }

    // What is written of val_select is what the reference says of the same images.
    let dir = gated.path("run/checkpoints/best");
    let reference = gate.reference_file(&dir).unwrap();
    let (shape, gates) = reference.f32("gate").unwrap();
    assert_eq!(shape, [8]);
    let set = LogitSet::load(&gated.path("select.safetensors")).unwrap();
    set.validate().unwrap();
    assert_eq!(set.n(), 20);
    let known = set.gate.unwrap();
    for want in gates {
        assert!(
            known.iter().any(|got| (got - want).abs() < 1e-4),
            "{want} of {known:?}"
        );
    }
}

#[test]
fn either_loss_gives_the_same_bytes_again() {
    for loss in ["gate.loss=cross_fitted", "gate.loss=selective_net"] {
        let train = || {
            let fixture = Fixture::new(Content::Digest);
            fixture.train(&with(&[loss]));
            assert_eq!(
                fixture.train(&with(&[loss])).last().unwrap()["reused"],
                true
            );
            fixture.checkpoint_bytes()
        };
        assert_eq!(train(), train(), "{loss}");
    }
}

#[test]
fn only_images_of_train_and_val_select_are_opened() {
    let fixture = Fixture::new(Content::Digest);
    for n in 0..8 {
        fs::remove_file(fixture.image_path(Split::ValTest, n)).unwrap();
        fs::write(fixture.image_path(Split::ValCalib, n), "not an image").unwrap();
    }
    let out = fixture.path("select.safetensors").display().to_string();
    fixture.train(&[&GATE[..], &["--select-logits", &out]].concat());
}

#[test]
fn a_class_that_is_in_one_fold_alone_is_refused_by_name() {
    let fixture = Fixture::new(Content::None);
    // All light images of train are of one unit: no head could be trained without it.
    fixture.edit_splits(|samples| {
        samples
            .retain(|s| s.split != Split::Train || s.label == 0 || s.path == "light/train-001.png");
    });
    let message = fixture.refusal(&GATE);
    for part in ["`light`", "one unit", "phase: baseline"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_gate_that_diverges_names_its_own_rate() {
    let fixture = Fixture::new(Content::Digest);
    let message = fixture.refusal(&with(&["gate.learning_rate=1e30"]));
    for part in ["training diverged", "lower `gate.learning_rate` (now 1e30)"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!fixture.path("run/checkpoints/best").exists());
}

#[test]
fn selective_net_starts_from_a_checkpoints_head_and_gate() {
    let loss = "gate.loss=selective_net";
    let first = Fixture::new(Content::Digest);
    first.train(&with(&[loss]));
    let start = first.path("run/checkpoints/best").display().to_string();
    let second = Fixture::new(Content::Digest);
    // A rate that changes nothing: what comes out is what it started from.
    let still = with(&[loss, "train.learning_rate=1e-12", "train.ema_decay=0"]);
    second.train(&[&still[..], &["--init-from", &start]].concat());
    let ((before, from), (after, got)) = (head(&first), head(&second));
    assert_eq!(after.init_digest, Some(before.digest()));
    for (name, shape) in before.head_tensors() {
        let want = from.f32_of_shape(&name, &shape).unwrap();
        let got = got.f32_of_shape(&name, &shape).unwrap();
        for (a, b) in want.iter().zip(got) {
            assert!(
                (a - b).abs() <= 1e-5 * (1.0 + a.abs()),
                "{name}: {b} for {a}"
            );
        }
    }
    let other = with(&[loss, "gate.hidden=4"]);
    let message = second.refusal(&[&other[..], &["--init-from", &start]].concat());
    assert!(message.contains("its gate is"), "{message}");
}
