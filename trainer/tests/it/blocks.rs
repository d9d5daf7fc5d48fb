//! Heads that read several blocks.

use crate::fixture::{Fixture, backbones};
use serde_json::Value;
use stage1_core::{
    artifact::tensors::TensorFile,
    checkpoint::Checkpoint,
    data::Content,
    model::{Blocks, Features, HeadKind, HeadSpec, ReadBlocks, Weights},
};
use stage1_trainer::{
    backbone::{Backbone, Places},
    head::values,
};
use std::path::Path;
use tch::{Device, Tensor, no_grad};

const BOTH: &str = "head.blocks=[1, 2]";

fn with<'a>(keys: &[&'a str]) -> Vec<&'a str> {
    keys.iter().flat_map(|key| ["--set", key]).collect()
}

fn features_computed(events: &[Value]) -> u64 {
    let done = events.last().unwrap();
    assert_eq!(done["event"], "done");
    done["features_computed"].as_u64().unwrap()
}

fn checkpoint(fixture: &Fixture) -> (Checkpoint, TensorFile) {
    let dir = fixture.path("run/checkpoints/best");
    let checkpoint = Checkpoint::load(&dir).unwrap();
    let reference = checkpoint.reference_file(&dir).unwrap();
    (checkpoint, reference)
}

/// Features after each block, by a backbone that was cut there: nothing that reads several at once is asked.
fn by_hand(weights: &Weights, pixels: &Tensor, size: (usize, usize), kind: Features) -> Vec<f32> {
    let depth = Backbone::new(weights, Device::Cpu).depth();
    let one = |blocks| {
        let cut = weights.clone().with_blocks(Blocks::First(blocks)).unwrap();
        let places = Places::new(&cut, size, Device::Cpu).unwrap();
        no_grad(|| Backbone::new(&cut, Device::Cpu).features(pixels, &places)).select(kind)
    };
    let all: Vec<_> = (1..=depth).map(one).collect();
    values(&Tensor::cat(&all, 1))
}

fn assert_close(got: &[f32], want: &[f32], name: &str) {
    assert_eq!(got.len(), want.len(), "{name}");
    let scale = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= 1e-5 * scale,
            "{name}: {got} for {want}"
        );
    }
}

#[test]
fn several_blocks_are_the_features_of_each_side_by_side() {
    tch::set_num_threads(1);
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
    ] {
        let weights = Weights::open(&backbones().join(name)).unwrap();
        let backbone = Backbone::new(&weights, Device::Cpu);
        let pixels: Vec<f32> = (0..2 * 3 * 32 * 64)
            .map(|i| (i % 97) as f32 / 97.0)
            .collect();
        let pixels = Tensor::from_slice(&pixels).reshape([2, 3, 32, 64]);
        let places = Places::new(&weights, (32, 64), Device::Cpu).unwrap();
        for features in [Features::Cls, Features::ClsMeanPatch] {
            let blocks: Vec<_> = (1..=backbone.depth()).collect();
            let head = HeadSpec {
                kind: HeadKind::Linear,
                features,
                blocks: ReadBlocks::new(&blocks).unwrap(),
                classes: 2,
            };
            let got = no_grad(|| backbone.read(&pixels, &places, &head));
            assert_eq!(got.size()[1], head.width(weights.spec().hidden()) as i64);
            assert_close(
                &values(&got),
                &by_hand(&weights, &pixels, (32, 64), features),
                name,
            );
        }
    }
}

#[test]
fn a_head_learns_from_several_blocks_in_one_pass() {
    let fixture = Fixture::new(Content::Digest);
    let events = fixture.train(&with(&[BOTH]));
    assert_eq!(
        features_computed(&events),
        68,
        "each image once, for both blocks"
    );
    let (made, reference) = checkpoint(&fixture);
    assert!(made.metrics["accuracy"] > 0.9, "{:?}", made.metrics);
    assert_eq!(made.head.blocks, ReadBlocks::new(&[1, 2]).unwrap());
    let (shape, pixels) = reference.f32("pixel_values").unwrap();
    let shape: Vec<_> = shape.iter().map(|n| *n as i64).collect();
    let pixels = Tensor::from_slice(&pixels).reshape(shape);
    let weights = Weights::open(&backbones().join("dinov2")).unwrap();
    let want = by_hand(&weights, &pixels, (16, 20), Features::ClsMeanPatch);
    let (shape, got) = reference.f32("features").unwrap();
    assert_eq!(shape, [8, 128]);
    assert_close(&got, &want, "reference");

    // The features of each are those that a head on it alone reads.
    for one in ["backbone.blocks=1", "backbone.blocks=null"] {
        let run_dir = format!("run_dir={}", fixture.path("one").display());
        std::fs::create_dir_all(fixture.path("one")).unwrap();
        std::fs::copy(
            fixture.path("run/splits.json"),
            fixture.path("one/splits.json"),
        )
        .unwrap();
        let events = fixture.train(&with(&[one, &run_dir]));
        assert_eq!(features_computed(&events), 0, "{one}");
        std::fs::remove_dir_all(fixture.path("one")).unwrap();
    }
    // What val_select's images say is what was judged.
    let out = fixture.path("select.safetensors").display().to_string();
    fixture.train(&[&with(&[BOTH])[..], &["--select-logits", &out]].concat());
    let set = stage1_core::logits::LogitSet::load(Path::new(&out)).unwrap();
    let right = (0..set.n()).filter(|row| {
        let logits = set.row(*row);
        usize::from(logits[1] > logits[0]) as i64 == set.labels[*row]
    });
    let accuracy = right.count() as f64 / set.n() as f64;
    assert!((accuracy - made.metrics["accuracy"]).abs() < 1e-12);
}

#[test]
fn gates_and_adapters_read_several_blocks_too() {
    let gate = [
        "phase=gate",
        "head.kind=mlp",
        "head.hidden=16",
        "gate.hidden=8",
        BOTH,
    ];
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&with(&gate));
    assert!(checkpoint(&fixture).0.gate.is_some());

    // Both blocks adapted, or the second one alone, so that the first is read from below the graph.
    for layers in [
        "peft.layers_to_transform=null",
        "peft.layers_to_transform=[1]",
    ] {
        let train = |more: &str| {
            let keys = [
                "phase=peft",
                "peft={target_modules: [query, value], learning_rate: 0.01, lora_dropout: 0.1}",
                "train.epochs=3",
                layers,
                BOTH,
                more,
            ];
            let fixture = Fixture::new(Content::Digest);
            fixture.train(&with(&keys));
            fixture
        };
        let plain = train("peft.checkpoint_blocks=false");
        let (made, reference) = checkpoint(&plain);
        assert!(
            made.metrics["accuracy"] > 0.8,
            "{layers}: {:?}",
            made.metrics
        );
        assert_eq!(reference.f32("features").unwrap().0, [8, 128]);
        let bytes = |fixture: &Fixture, name: &str| {
            std::fs::read(fixture.path("run/checkpoints/best").join(name)).unwrap()
        };
        let by_block = train("peft.checkpoint_blocks=true");
        for name in ["adapter/adapter_model.safetensors", "head.safetensors"] {
            let (a, b) = (bytes(&plain, name), bytes(&by_block, name));
            assert!(
                a == b,
                "{layers}: {name}: the gradient is the same to the last bit"
            );
        }
    }
}

#[test]
fn blocks_that_can_not_be_read_are_refused_by_name() {
    let convnext = format!(
        "backbone.path={}",
        backbones().join("dinov3-convnext").display()
    );
    let cases: [(&[&str], &[&str]); 5] = [
        (&["head.blocks=[2, 1]"], &["at `head.blocks`", "ascending"]),
        (
            &["head.blocks=[1, 2]", "backbone.blocks=auto"],
            &["at `head.blocks`", "`backbone.blocks: auto`"],
        ),
        (
            &["head.blocks=[1, 3]"],
            &["head.blocks: [1, 3]", "the backbone runs 2 blocks"],
        ),
        (
            &["head.blocks=[1]"],
            &[
                "head.blocks: [1]",
                "run for nothing",
                "`backbone.blocks: 1`",
            ],
        ),
        (
            &[
                &convnext,
                "preprocess.resize={exact: {height: 32, width: 32}}",
                "head.blocks=[1, 2]",
            ],
            &["head.blocks: [1, 2]", "dinov3_convnext", "stages"],
        ),
    ];
    let fixture = Fixture::new(Content::Digest);
    for (keys, parts) in cases {
        let message = fixture.refusal(&with(keys));
        for part in parts {
            assert!(message.contains(part), "{keys:?}: {message}");
        }
    }
    // The deepest one that is read is the last one that is run.
    fixture.train(&with(&["head.blocks=[1]", "backbone.blocks=1"]));
}
