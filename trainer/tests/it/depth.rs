//! `backbone.blocks: auto`.

use crate::fixture::Fixture;
use serde_json::Value;
use stage1_core::{
    artifact::json, checkpoint::Checkpoint, data::Content, depth::DepthChoice, model::BackboneSpec,
    split::Split,
};
use std::fs;

const AUTO: [&str; 2] = ["--set", "backbone.blocks=auto"];

fn features_computed(events: &[Value]) -> u64 {
    events.last().unwrap()["features_computed"]
        .as_u64()
        .unwrap()
}

fn choice(fixture: &Fixture) -> DepthChoice {
    json::load(&fixture.path("run/depth.json")).unwrap().0
}

fn layers(fixture: &Fixture) -> usize {
    let checkpoint = Checkpoint::load(&fixture.path("run/checkpoints/best")).unwrap();
    match checkpoint.backbone {
        BackboneSpec::Vit(vit) => vit.layers,
        other => panic!("{other}"),
    }
}

/// `AUTO` and more.
fn auto<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let more = more.iter().flat_map(|key| ["--set", key]);
    AUTO.into_iter().chain(more).collect()
}

#[test]
fn the_shallowest_block_within_the_tolerance_is_trained_as_if_it_had_been_asked_for() {
    for (head, tolerance) in [("linear", "2.0"), ("mlp", "2.0"), ("linear", "0.0")] {
        let fixture = Fixture::new(Content::Digest);
        let (head_key, tolerance_key) = (
            format!("head.kind={head}"),
            format!("backbone.depth.tolerance={tolerance}"),
        );
        let events = fixture.train(&auto(&[&head_key, &tolerance_key]));
        assert_eq!(
            features_computed(&events),
            68,
            "each image once, for all blocks"
        );
        let choice = choice(&fixture);
        let candidates: Vec<_> = choice.candidates.iter().map(|c| c.blocks).collect();
        assert_eq!((candidates, choice.layers), (vec![1, 2], 2));
        assert_eq!((choice.images, choice.units), (20, 20));
        match tolerance {
            "0.0" => assert_eq!(choice.chosen, choice.best),
            // No two values of MCC differ by more.
            _ => assert_eq!(choice.chosen, 1),
        }
        assert_eq!(layers(&fixture), choice.chosen);

        // The head on that block that was judged is the one that is kept.
        let checkpoint = Checkpoint::load(&fixture.path("run/checkpoints/best")).unwrap();
        let judged = &choice.candidates[choice.chosen - 1];
        assert_eq!(
            (judged.epoch, &judged.metrics),
            (checkpoint.epoch, &checkpoint.metrics)
        );
        for candidate in &choice.candidates {
            let [low, high] = candidate.interval;
            let value = candidate.metrics["mcc"];
            assert!(
                low <= value + 1e-12 && value <= high + 1e-12,
                "{candidate:?}"
            );
        }

        let bytes = fixture.checkpoint_bytes();
        let again = fixture.train(&auto(&[&head_key, &tolerance_key]));
        assert_eq!(again.last().unwrap()["reused"], true);

        // A fixed number of blocks finds the features in the cache, and gives the same files.
        let fixed = format!("backbone.blocks={}", choice.chosen);
        let events = fixture.train(&["--overwrite", "--set", &fixed, "--set", &head_key]);
        assert_eq!(features_computed(&events), 0);
        assert_eq!(fixture.checkpoint_bytes(), bytes);
        assert!(
            !fixture.path("run/depth.json").exists(),
            "nothing was chosen"
        );
    }
}

#[test]
fn adapters_go_into_the_chosen_blocks() {
    let fixture = Fixture::new(Content::Digest);
    let keys = [
        "phase=peft",
        "train.epochs=1",
        "peft.target_modules=[query, value]",
        "backbone.depth.tolerance=2.0",
    ];
    fixture.train(&auto(&keys));
    assert_eq!(layers(&fixture), 1);
}

#[test]
fn only_images_of_train_and_val_select_decide() {
    let fixture = Fixture::new(Content::Digest);
    for n in 0..8 {
        fs::remove_file(fixture.image_path(Split::ValTest, n)).unwrap();
        fs::write(fixture.image_path(Split::ValCalib, n), "not an image").unwrap();
    }
    fixture.train(&AUTO);
}

#[test]
fn features_that_are_lost_for_one_depth_are_computed_again_to_the_same_bytes() {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&AUTO);
    let (bytes, chosen) = (fixture.checkpoint_bytes(), choice(&fixture));
    let folders = fs::read_dir(fixture.path("cache/features")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 2, "a cache for each depth");
    folders.sort();
    for lost in folders {
        fs::remove_dir_all(lost).unwrap();
        fs::remove_dir_all(fixture.path("run/checkpoints")).unwrap();
        fs::remove_file(fixture.path("run/depth.json")).unwrap();
        let events = fixture.train(&AUTO);
        assert_eq!(features_computed(&events), 68);
        assert_eq!(fixture.checkpoint_bytes(), bytes);
        assert_eq!(choice(&fixture), chosen);
    }
}

#[test]
fn what_can_not_be_chosen_is_refused_by_name() {
    let convnext = format!(
        "backbone.path={}/../goldens/backbones/dinov3-convnext",
        env!("CARGO_MANIFEST_DIR")
    );
    let cases: [(&[&str], &[&str]); 4] = [
        (
            &[
                "phase=peft",
                "peft.target_modules=[query, value]",
                "peft.layers_to_transform=[1]",
            ],
            &[
                "peft.layers_to_transform",
                "there is no block 1",
                "may choose the first 1",
                "backbone.depth.candidates",
            ],
        ),
        (
            &["backbone.depth.max_cache_gib=0.00001"],
            &[
                "features of 68 images after 2 blocks",
                "backbone.depth.max_cache_gib",
                "backbone.depth.candidates",
            ],
        ),
        (
            &["backbone.depth.candidates=[1, 3]"],
            &["3 blocks", "has 2"],
        ),
        (
            &[
                &convnext,
                "preprocess.resize={exact: {height: 32, width: 32}}",
            ],
            &["dinov3_convnext", "stages", "`blocks`"],
        ),
    ];
    for (keys, parts) in cases {
        let fixture = Fixture::new(Content::Digest);
        let message = fixture.refusal(&auto(keys));
        for part in parts {
            assert!(message.contains(part), "{keys:?}: {message}");
        }
        assert!(!fixture.path("run/checkpoints/best").exists());
        assert!(!fixture.path("run/depth.json").exists());
        assert!(
            !fixture.path("cache/features").exists(),
            "before any head is trained"
        );
    }
}

#[test]
fn a_dry_run_says_whether_the_depth_is_known() {
    let fixture = Fixture::new(Content::Digest);
    let dry = [&AUTO[..], &["--dry-run"]].concat();
    let notes = |events: &[Value]| {
        let notes = events.iter().filter(|event| event["event"] == "note");
        notes.map(|n| n["message"].to_string()).collect::<String>()
    };
    assert!(notes(&fixture.train(&dry)).contains("hasn't chosen yet"));
    fixture.train(&AUTO);
    let known = fixture.train(&dry);
    assert!(!notes(&known).contains("hasn't chosen yet"));
    let plan = known.iter().find(|event| event["event"] == "plan").unwrap();
    let layers = choice(&fixture).chosen;
    assert!(
        plan["backbone"]
            .as_str()
            .unwrap()
            .contains(&format!("{layers} layers")),
        "{plan}"
    );
}
