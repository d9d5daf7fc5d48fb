//! What was trained on images of other splits may know this run's held-out ones: nothing begins with it.

use crate::fixture::Fixture;
use stage1_core::{
    artifact::tensors::{self, Tensor, TensorFile},
    checkpoint::Checkpoint,
    data::Content,
    split::Split,
};
use std::{collections::BTreeMap, fs, path::Path};

const PEFT: [&str; 6] = [
    "--set",
    "phase=peft",
    "--set",
    "peft.target_modules=[query, value]",
    "--set",
    "train.epochs=1",
];

/// The same images, one of val_test left out: as if it had been in another split of the other run.
fn other_splits() -> Fixture {
    let fixture = Fixture::new(Content::Digest);
    fixture.edit_splits(|samples| {
        let last = samples.iter().rposition(|s| s.split == Split::ValTest);
        samples.remove(last.unwrap());
    });
    fixture
}

fn refused(fixture: &Fixture, arguments: &[&str], what: &str) {
    let dry = [arguments, &["--dry-run"]].concat();
    for arguments in [&dry[..], arguments] {
        let message = fixture.refusal(arguments);
        for part in [what, "trained on images of other splits", "train it again"] {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
        assert!(!fixture.path("run/checkpoints").exists());
        assert!(!fixture.path("cache").exists(), "no image was opened");
    }
}

#[test]
fn a_checkpoint_of_other_splits_is_no_start() {
    let first = Fixture::new(Content::Digest);
    first.train(&["--set", "train.epochs=1"]);
    let dir = first.path("run/checkpoints/best");
    let from = ["--init-from", dir.to_str().unwrap()];
    refused(&other_splits(), &from, "checkpoint (train.init_from)");

    let same = Fixture::new(Content::Digest);
    same.train(&from);
    let made = Checkpoint::load(&same.path("run/checkpoints/best")).unwrap();
    let start = Checkpoint::load(&dir).unwrap();
    assert_eq!(made.init_digest, Some(start.digest()));
    assert_eq!(start.init_digest, None);
}

/// The adapter's tensors without what they say of themselves.
fn strip(dir: &Path) {
    let path = dir.join("adapter_model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let names = file.shapes().unwrap().into_keys();
    let tensors: BTreeMap<_, _> = names
        .map(|name| {
            let (shape, values) = file.f32(&name).unwrap();
            (name, Tensor::f32(shape, values))
        })
        .collect();
    tensors::save(&path, &tensors, &BTreeMap::new()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn an_adapter_of_other_splits_is_refused_and_so_is_a_copy_of_it() {
    let first = Fixture::new(Content::Digest);
    first.train(&PEFT);
    let adapter = first.path("run/checkpoints/best/adapter");
    let copied = first.path("copied");
    copy(&adapter, &copied);
    let key = |dir: &Path| format!("backbone.adapter={}", dir.display());
    let unknown = "doesn't say which images it was trained on";
    for dir in [&adapter, &copied] {
        refused(
            &other_splits(),
            &["--set", &key(dir)],
            "adapter (backbone.adapter)",
        );
        let events = Fixture::new(Content::Digest).train(&["--set", &key(dir)]);
        let told = events
            .iter()
            .any(|event| event.to_string().contains(unknown));
        assert!(!told, "{events:?}");
    }

    // One from before adapters said so is known by the checkpoint around it; a copy by nothing.
    strip(&adapter);
    refused(
        &other_splits(),
        &["--set", &key(&adapter)],
        "adapter (backbone.adapter)",
    );
    strip(&copied);
    let events = other_splits().train(&["--set", &key(&copied)]);
    let told = events
        .iter()
        .filter(|event| event.to_string().contains(unknown));
    assert_eq!(told.count(), 1, "{events:?}");
}

#[test]
fn a_start_that_can_not_be_of_the_backbone_to_come_is_refused_before_it_is_trained() {
    let explora = [
        "--set",
        "phase=explora",
        "--set",
        "explora={epochs: 1, batch_size: 12, r: 2, local_crops: {count: 2}}",
        "--set",
        "explora.head={prototypes: 16, hidden: 24, bottleneck: 8}",
        "--set",
        "train.epochs=1",
    ];
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&["--set", "train.epochs=1"]);
    let start = fixture.path("start");
    fs::rename(fixture.path("run/checkpoints/best"), &start).unwrap();
    let from = ["--init-from", start.to_str().unwrap()];
    for more in [&["--dry-run"][..], &[]] {
        let message = fixture.refusal(&[&explora[..], &from, more].concat());
        for part in ["train.init_from", "explora.from"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!fixture.path("run/explora").exists());
    }
    // Once it is there, a checkpoint of it will do, and that of another one still won't.
    fixture.train(&explora);
    let message = fixture.refusal(&[&explora[..], &from].concat());
    assert!(message.contains("its backbone is"), "{message}");
    let own = fixture.path("own");
    fs::rename(fixture.path("run/checkpoints/best"), &own).unwrap();
    fixture.train(&[&explora[..], &["--init-from", own.to_str().unwrap()]].concat());
}
