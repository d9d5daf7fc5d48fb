//! Self-supervised training of the backbone, from images to a bundle's worth of checkpoint.

use crate::fixture::{Fixture, backbones, picture};
use serde_json::Value;
use stage1_core::{
    checkpoint::Checkpoint, config::Phase, data::Content, model::Weights, pretrained::Pretrained,
    split::Split,
};
use std::fs;

const TINY: [&str; 8] = [
    "--set",
    "phase=explora",
    "--set",
    "explora={epochs: 2, batch_size: 12, r: 2, local_crops: {count: 2}}",
    "--set",
    "explora.head={prototypes: 16, hidden: 24, bottleneck: 8}",
    "--set",
    "train.epochs=2",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let pairs = more.iter().flat_map(|key| ["--set", key]);
    TINY.into_iter().chain(pairs).collect()
}

fn record(fixture: &Fixture) -> Pretrained {
    Pretrained::load(&fixture.path("run/explora")).unwrap()
}

fn lines(fixture: &Fixture, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture.path(file)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn a_backbone_is_trained_kept_and_used() {
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
    ] {
        let fixture = Fixture::new(Content::Digest);
        let base = backbones().join(name);
        let path = format!("backbone.path={}", base.display());
        // Of whole patches for all of them.
        let size = "preprocess.resize={exact: {height: 32, width: 16}}";
        let events = fixture.train(&with(&[&path, size]));
        let names: Vec<_> = events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            names.iter().filter(|name| **name == "pretraining").count(),
            2,
            "{name}"
        );

        let record = record(&fixture);
        let (base, trained) = (
            Weights::open(&base).unwrap(),
            Weights::open(&fixture.path("run/explora")).unwrap(),
        );
        assert_eq!(record.base_digest, base.digest(), "{name}");
        assert_eq!(record.backbone_digest, trained.digest(), "{name}");
        assert_ne!(record.backbone_digest, record.base_digest, "{name}");
        assert_eq!((record.images.train, record.images.unlabelled), (48, 0));
        assert_eq!((record.steps, &record.unfrozen_blocks[..]), (8, &[1][..]));
        assert_eq!(
            record.adapted_modules.len(),
            2,
            "{:?}",
            record.adapted_modules
        );

        let checkpoint = Checkpoint::load(&fixture.path("run/checkpoints/best")).unwrap();
        assert_eq!(checkpoint.phase, Phase::Explora);
        assert_eq!(checkpoint.backbone_digest, record.backbone_digest, "{name}");

        let log = lines(&fixture, "run/metrics.explora.jsonl");
        assert_eq!(log.len(), 2);
        for measure in [
            "loss",
            "dino",
            "ibot",
            "koleo",
            "divergence",
            "batch_entropy",
            "sample_entropy",
            "feature_deviation",
        ] {
            assert!(
                log[1]["metrics"][measure].is_f64(),
                "{name}: {measure} in {}",
                log[1]
            );
        }
        assert!(fixture.path("run/tensorboard/explora").is_dir());

        // Again, nothing is trained; without the result, the same bytes.
        let bytes = fixture.checkpoint_bytes();
        let events = fixture.train(&with(&[&path, size]));
        assert!(
            events.iter().all(|event| event["event"] != "pretraining"),
            "{name}"
        );
        assert_eq!(events.last().unwrap()["reused"], true, "{name}");
        fs::remove_dir_all(fixture.path("run/explora")).unwrap();
        fs::remove_dir_all(fixture.path("run/checkpoints")).unwrap();
        fixture.train(&with(&[&path, size]));
        assert_eq!(fixture.checkpoint_bytes(), bytes, "{name}");
    }
}

#[test]
fn half_precision_stays_near_single() {
    let trained = |more: &[&str]| {
        let fixture = Fixture::new(Content::Digest);
        fixture.train(&with(more));
        let loss = |line: &Value| line["metrics"]["loss"].as_f64().unwrap();
        let losses: Vec<_> = lines(&fixture, "run/metrics.explora.jsonl")
            .iter()
            .map(loss)
            .collect();
        let weights = Weights::open(&fixture.path("run/explora")).unwrap();
        let roles = weights
            .spec()
            .tensors()
            .into_iter()
            .map(|tensor| tensor.role);
        let values: Vec<f32> = roles.flat_map(|role| weights.get(role).to_vec()).collect();
        (losses, values)
    };
    let largest = |a: &[f32], b: &[f32]| {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    };
    let base = Weights::open(&backbones().join("dinov2")).unwrap();
    let roles = base.spec().tensors().into_iter().map(|tensor| tensor.role);
    let first: Vec<f32> = roles.flat_map(|role| base.get(role).to_vec()).collect();
    let (losses, single) = trained(&[]);
    let (rounded, half) = trained(&["train.precision=bf16"]);
    let (moved, apart) = (largest(&single, &first), largest(&single, &half));
    assert!(apart > 0.0, "bf16 changes the last bits");
    assert!(
        apart < moved,
        "apart by {apart}, where training moved by {moved}"
    );
    for (single, half) in losses.iter().zip(&rounded) {
        assert!((single - half).abs() < 0.02 * single, "{single} {half}");
    }
}

#[test]
fn unlabelled_images_are_used_unless_they_are_held_out() {
    let fixture = Fixture::new(Content::Digest);
    let folder = fixture.path("more/deep");
    fs::create_dir_all(&folder).unwrap();
    for n in 0..20 {
        picture(0, 50_000 + n)
            .save(folder.join(format!("{n}.png")))
            .unwrap();
    }
    for split in Split::ALL {
        let copy = folder.join(format!("{split}.png"));
        fs::copy(fixture.image_path(split, 1), copy).unwrap();
    }
    // The same picture, stored otherwise: near-duplicates are found by what they show.
    let held = image::open(fixture.image_path(Split::ValTest, 2)).unwrap();
    held.save(folder.join("again.bmp")).unwrap();
    fixture.train(&with(&["explora.data=[more]"]));
    let images = record(&fixture).images;
    assert_eq!(
        (images.train, images.held_out, images.repeated),
        (48, 3, 1),
        "{images:?}"
    );
    // The fixture's pictures look alike: the stored copy at least is left out.
    assert!(images.nearly_held_out >= 1, "{images:?}");
    assert_eq!(images.unlabelled + images.nearly_held_out, 21, "{images:?}");

    let exact = with(&["explora.data=[more]", "data.near.enabled=false"]);
    let message = fixture.refusal(&exact);
    assert!(message.contains("--overwrite"), "{message}");
    fixture.train(&[&exact[..], &["--overwrite"]].concat());
    let images = record(&fixture).images;
    assert_eq!(
        (images.unlabelled, images.nearly_held_out),
        (21, 0),
        "{images:?}"
    );

    // Without the images of train.
    let alone = with(&[
        "explora.data=[more]",
        "data.near.enabled=false",
        "explora.train_images=false",
    ]);
    fixture.train(&[&alone[..], &["--overwrite"]].concat());
    let images = record(&fixture).images;
    assert_eq!(
        (images.train, images.unlabelled, images.held_out),
        (0, 21, 3)
    );
}

#[test]
fn images_that_can_not_be_decoded_are_named_or_left_out() {
    let fixture = Fixture::new(Content::None);
    fs::write(fixture.image_path(Split::Train, 3), "not an image").unwrap();
    let message = fixture.refusal(&with(&[]));
    assert!(message.contains("train-003.png"), "{message}");
    assert!(
        !fixture.path("run/explora").exists(),
        "nothing half-written"
    );
    fixture.train(&with(&["data.on_bad_image=skip"]));
    let images = record(&fixture).images;
    assert_eq!((images.train, images.unreadable), (47, 1));
}

#[test]
fn a_collapse_stops_the_training_with_its_reason() {
    let fixture = Fixture::new(Content::Digest);
    // Without centring the first prototype to get ahead gets all.
    let cases = [
        (
            vec![
                "explora.sinkhorn_iterations=0",
                "explora.learning_rate=0.05",
                "explora.warmup_epochs=0",
                "explora.freeze_prototypes_epochs=0",
                "explora.teacher_momentum=0.5",
                "explora.teacher_momentum_end=0.5",
                "explora.epochs=50",
                "explora.loss.koleo=0",
                "explora.guards.max_sample_entropy=1",
                "explora.guards.min_feature_deviation=0",
            ],
            "min_batch_entropy",
        ),
        (
            vec![
                "explora.teacher_temperature=1000",
                "explora.teacher_temperature_start=1000",
                "explora.epochs=50",
                "explora.guards.min_feature_deviation=0",
            ],
            "max_sample_entropy",
        ),
        (
            vec!["explora.guards={after_steps: 0, min_feature_deviation: 0.999}"],
            "min_feature_deviation",
        ),
    ];
    for (keys, limit) in cases {
        let message = fixture.refusal(&with(&keys));
        for part in ["has collapsed", limit, "the limit is", "step", "Try this"] {
            assert!(message.contains(part), "{limit}: {message}");
        }
        for left in ["run/explora", "run/checkpoints/explora-last.safetensors"] {
            assert!(!fixture.path(left).exists(), "{limit}: {left}");
        }
    }
}

#[test]
fn what_diverges_leaves_what_was_there() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&TINY);
    let bytes = fixture.checkpoint_bytes();
    let absurd = with(&[
        "explora.learning_rate=1e30",
        "explora.warmup_epochs=0",
        "explora.guards={after_steps: 1000}",
    ]);
    let message = fixture.refusal(&[&absurd[..], &["--overwrite"]].concat());
    assert!(message.contains("explora.learning_rate"), "{message}");
    assert_eq!(fixture.checkpoint_bytes(), bytes);
}

#[test]
fn a_backbone_may_be_taken_from_another_run_of_the_same_splits() {
    let first = Fixture::new(Content::Digest);
    first.train(&TINY);
    let second = Fixture::new(Content::Digest);
    fs::copy(
        first.path("run/splits.json"),
        second.path("run/splits.json"),
    )
    .unwrap();
    let from = format!("explora.from={}", first.path("run/explora").display());
    let adapting = [
        "--set",
        "phase=explora-supervised",
        "--set",
        &from,
        "--set",
        "peft.target_modules=[query, value]",
        "--set",
        "train.epochs=2",
    ];
    let events = second.train(&adapting);
    assert!(events.iter().all(|event| event["event"] != "pretraining"));
    let checkpoint = Checkpoint::load(&second.path("run/checkpoints/best")).unwrap();
    assert_eq!(checkpoint.phase, Phase::ExploraSupervised);
    assert!(checkpoint.has_adapter());
    assert!(!second.path("run/explora").exists());

    // Made from another backbone than the configured one.
    let other = format!(
        "backbone.path={}",
        backbones().join("dinov3-vit-mlp").display()
    );
    let size = "preprocess.resize={exact: {height: 32, width: 16}}";
    let message = second.refusal(&[&adapting[..], &["--set", &other, "--set", size]].concat());
    assert!(
        message.contains("explora.from") && message.contains("first backbone"),
        "{message}"
    );

    // Of other splits, its images may be among those held out here: so for any phase.
    second.edit_splits(|samples| {
        let last = samples.iter().rposition(|s| s.split == Split::Train);
        samples.remove(last.unwrap());
    });
    let path = format!("backbone.path={}", first.path("run/explora").display());
    for arguments in [adapting.to_vec(), vec!["--set", &path]] {
        let message = second.refusal(&arguments);
        assert!(
            message.contains("trained on images of other splits"),
            "{message}"
        );
    }
    // Damaged.
    fs::write(first.path("run/explora/config.json"), "{}").unwrap();
    let message = second.refusal(&adapting);
    assert!(message.contains("config.json"), "{message}");
}

#[test]
fn the_plan_says_what_is_trained_first() {
    let fixture = Fixture::new(Content::Digest);
    let events = fixture.train(&[&TINY[..], &["--dry-run"]].concat());
    let plan = events.last().unwrap();
    let before = &plan["before"];
    assert_eq!(before["steps_per_epoch"], 4, "{before}");
    assert_eq!(
        (&before["done"], &before["train_images"]),
        (&false.into(), &48.into())
    );
    let trained: Vec<_> = before["modules"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|module| module["trainable"] == true)
        .map(|module| module["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        trained,
        [
            "LoRA of encoder.layer.0.attention.q_proj",
            "LoRA of encoder.layer.0.attention.v_proj",
            "class token",
            "norms",
            "block 1",
            "projection heads and mask token",
        ]
    );
    // Rank 2 of two layers of 32 by 32.
    assert_eq!(
        before["modules"][2]["parameters"],
        2 * (32 + 32),
        "{before}"
    );
    assert!(!fixture.path("run/explora").exists());
    fixture.train(&TINY);
    let events = fixture.train(&[&TINY[..], &["--dry-run"]].concat());
    assert_eq!(events.last().unwrap()["before"]["done"], true);
}

#[test]
fn what_can_not_be_trained_this_way_is_refused_by_name() {
    let fixture = Fixture::new(Content::Digest);
    let convnext = format!(
        "backbone.path={}",
        backbones().join("dinov3-convnext").display()
    );
    let cases = [
        (
            vec![
                convnext.as_str(),
                "preprocess.resize={exact: {height: 32, width: 32}}",
            ],
            "can't be pre-trained this way: ExPLoRA unfreezes blocks of a vision transformer",
        ),
        (
            vec!["explora.unfreeze_blocks=[5]"],
            "there is no block 5; the backbone has the blocks 0 to 1",
        ),
        (
            vec!["explora.local_crops={size: [9, 8]}"],
            "image size 9x8 is not a multiple of the patch size",
        ),
        (vec!["explora.data=[nowhere]"], "nowhere"),
        // The folder of the labelled images themselves: 48 of train, 36 held out.
        (
            vec!["explora.data=[images]", "explora.train_images=false"],
            "0 can be used (left out: 36 in val_select, val_calib or val_test; 48 there twice, or in train, which \
             `explora.train_images: false` leaves out)",
        ),
        (
            vec!["explora.epochs=1", "explora.warmup_epochs=3"],
            "explora.warmup_epochs",
        ),
    ];
    for (keys, want) in cases {
        let message = fixture.refusal(&with(&keys));
        assert!(message.contains(want), "{keys:?}: {message}");
        assert!(!fixture.path("run/explora").exists());
    }
}
