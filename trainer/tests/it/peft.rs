//! Adapters: against PEFT's own outputs, and trained from images to a checkpoint.

use crate::{fixture::Fixture, goldens::Suite};
use serde_json::Value;
use stage1_core::{
    artifact::tensors::TensorFile,
    checkpoint::Checkpoint,
    config::{PeftConfig, Precision, TargetModules},
    data::Content,
    model::{Adapter, Features, Naming, Weights},
};
use stage1_trainer::{
    backbone::{Backbone, Pass, Places},
    head::values,
    peft::Adapters,
};
use std::{fs, path::Path};
use tch::{Device, Tensor, no_grad};

/// What `adapter_config.json` says, as our configuration.
fn config_of(dir: &Path) -> PeftConfig {
    let text = fs::read_to_string(dir.join("adapter_config.json")).unwrap();
    let keys: Value = serde_json::from_str(&text).unwrap();
    let get = |key: &str| serde_json::from_value(keys[key].clone()).unwrap();
    PeftConfig {
        target_modules: get("target_modules"),
        r: keys["r"].as_u64().unwrap() as usize,
        lora_alpha: keys["lora_alpha"].as_f64().unwrap(),
        use_rslora: keys["use_rslora"].as_bool().unwrap(),
        use_dora: keys["use_dora"].as_bool().unwrap(),
        rank_pattern: serde_json::from_value(keys["rank_pattern"].clone()).unwrap(),
        alpha_pattern: serde_json::from_value(keys["alpha_pattern"].clone()).unwrap(),
        layers_to_transform: serde_json::from_value(keys["layers_to_transform"].clone()).unwrap(),
        ..PeftConfig::default()
    }
}

/// The class token with an adapter beside the weights, as it is trained.
fn class_token(
    backbone: &Backbone,
    places: &Places,
    adapters: &Adapters,
    flat: &Tensor,
    pixels: &Tensor,
) -> Vec<f32> {
    let vit = backbone.vit().unwrap();
    let changes = adapters.changes(flat);
    let tokens = no_grad(|| {
        let mut tokens = vit.embed(pixels, places);
        for (block, changes) in changes.iter().enumerate() {
            let pass = Pass {
                changes: Some(changes),
                precision: Precision::Fp32,
                dropout: 0.0,
            };
            tokens = vit.block(block, &tokens, places, pass);
        }
        vit.finish(&tokens)
    });
    values(&backbone.pool(&tokens).select(Features::Cls))
}

#[test]
fn adapters_in_training_reproduce_peft_and_are_saved_as_they_were_read() {
    tch::set_num_threads(1);
    let mut suite = Suite::discover(
        "trainer adapters in training",
        "backbones",
        |path| path.starts_with("adapters"),
        &[],
    );
    for path in suite.paths() {
        suite.mark_used(&path);
        if !path.ends_with("cases.safetensors") {
            continue;
        }
        let dir = path.parent().unwrap();
        let weights = Weights::open(&dir.join("base")).unwrap();
        let adapter = Adapter::open(dir).unwrap();
        let adapters = Adapters::choose(weights.spec(), &config_of(dir)).unwrap();
        let flat = adapters
            .load(&adapter)
            .expect("the adapter is of this configuration");
        let file = TensorFile::open(&path).unwrap();
        let (shape, pixels) = file.f32("pixel_values").unwrap();
        let places = Places::new(&weights, (shape[2], shape[3]), Device::Cpu).unwrap();
        let shape: Vec<_> = shape.iter().map(|&n| n as i64).collect();
        let pixels = Tensor::from_slice(&pixels).reshape(shape);
        let backbone = Backbone::new(&weights, Device::Cpu);
        let got = class_token(&backbone, &places, &adapters, &flat, &pixels);
        let want = file.f32("pooler_output").unwrap().1;
        let scale = want.iter().fold(0.0_f32, |scale, x| scale.max(x.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!(
                (got - want).abs() <= 1e-4 * scale,
                "{}: {got} for {want}",
                dir.display()
            );
        }
        // At the start nothing is changed: B is 0, and DoRA's lengths are those of the rows.
        let initial = class_token(
            &backbone,
            &places,
            &adapters,
            &adapters.initial(&weights, 1),
            &pixels,
        );
        let plain = no_grad(|| backbone.features(&pixels, &places).class);
        for (got, want) in initial.iter().zip(values(&plain)) {
            assert!(
                (got - want).abs() <= 1e-5 * scale,
                "{}: {got} for {want}",
                dir.display()
            );
        }

        let saved = tempfile::tempdir().unwrap();
        adapters.to_files(&flat, None).save(saved.path()).unwrap();
        let tensors = |dir: &Path| {
            let file = TensorFile::open(&dir.join("adapter_model.safetensors")).unwrap();
            let names: Vec<_> = file.shapes().unwrap().into_keys().collect();
            names
                .into_iter()
                .map(|name| (file.f32(&name).unwrap(), name))
                .collect::<Vec<_>>()
        };
        assert_eq!(tensors(saved.path()), tensors(dir));
        let again = Adapter::open(saved.path()).unwrap();
        assert_eq!(
            weights.clone().merged(&again).unwrap().digest(),
            weights.merged(&adapter).unwrap().digest()
        );
    }
    suite.finish();
}

#[test]
fn names_are_pefts_and_those_that_match_nothing_are_refused() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    let spec = |name: &str| Weights::open(&goldens.join(name)).unwrap().spec().clone();
    let list = |names: &[&str]| TargetModules::List(names.iter().map(|&n| n.to_owned()).collect());
    let choose = |model: &str, change: &dyn Fn(&mut PeftConfig)| {
        let mut config = PeftConfig::default();
        change(&mut config);
        Adapters::choose(&spec(model), &config)
    };
    let named = |adapters: &Adapters| {
        adapters
            .modules()
            .map(|(name, _)| name.to_owned())
            .collect::<Vec<_>>()
    };
    let second = choose("dinov3-vit-mlp", &|c| {
        c.target_modules = list(&["q_proj", "mlp.up_proj"]);
        c.layers_to_transform = Some(vec![1]);
        c.rank_pattern = [("up_proj".to_owned(), 2)].into();
    })
    .unwrap();
    assert_eq!(
        named(&second),
        [
            "model.layer.1.attention.q_proj",
            "model.layer.1.mlp.up_proj"
        ]
    );
    assert_eq!(second.first_block(), 1);
    // 8 (32 + 32) and 2 (32 + 64): the width and the inner width of the golden model.
    let layers = spec("dinov3-vit-mlp").adaptable_layers(Naming::Transformers5);
    let size = |name: &str| {
        layers
            .iter()
            .find(|l| l.module.ends_with(name))
            .unwrap()
            .shape
            .iter()
            .sum::<usize>()
    };
    assert_eq!(
        second.parameter_count(),
        8 * size("1.attention.q_proj") + 2 * size("1.mlp.up_proj")
    );
    let old = choose("dinov2", &|c| c.target_modules = list(&["query", "value"])).unwrap();
    assert_eq!(
        named(&old)[..2],
        [
            "encoder.layer.0.attention.attention.query",
            "encoder.layer.0.attention.attention.value"
        ]
    );
    let new = choose("dinov2", &|c| c.target_modules = list(&["q_proj"])).unwrap();
    assert_eq!(named(&new)[0], "encoder.layer.0.attention.q_proj");
    let packed = choose("dinov2-registers-swiglu", &|c| {
        c.target_modules = TargetModules::Pattern("all-linear".into())
    })
    .unwrap();
    assert!(named(&packed).contains(&"encoder.layer.0.mlp.gate_proj".to_owned()));
    let pattern = choose("dinov3-vit-mlp", &|c| {
        c.target_modules = TargetModules::Pattern(r".*\.0\..*(q|k)_proj".into())
    })
    .unwrap();
    assert_eq!(
        named(&pattern),
        [
            "model.layer.0.attention.q_proj",
            "model.layer.0.attention.k_proj"
        ]
    );

    type Change = fn(&mut PeftConfig);
    let cases: [(&str, Change, &[&str]); 7] = [
        (
            "dinov3-vit-mlp",
            |c| c.target_modules = TargetModules::List(vec!["q_proj".into(), "query".into()]),
            &[
                "peft.target_modules: `query` names no linear layer",
                "q_proj, k_proj",
                "up_proj",
            ],
        ),
        (
            "dinov2",
            |c| c.target_modules = TargetModules::List(vec!["query".into(), "q_proj".into()]),
            &[
                "names no linear layer",
                "transformers 4's names: query, key",
            ],
        ),
        (
            "dinov3-vit-mlp",
            |c| c.target_modules = TargetModules::List(vec!["_proj".into()]),
            &["`_proj` names no"],
        ),
        (
            "dinov3-vit-mlp",
            |c| c.target_modules = TargetModules::Pattern("q_proj".into()),
            &["`q_proj` names no"],
        ),
        (
            "dinov3-vit-mlp",
            |c| {
                c.target_modules = TargetModules::Pattern("all-linear".into());
                c.layers_to_transform = Some(vec![0, 12]);
            },
            &["there is no block 12", "0 to 1"],
        ),
        (
            "dinov3-vit-mlp",
            |c| {
                c.target_modules = TargetModules::List(vec!["q_proj".into()]);
                c.alpha_pattern = [("v_proj".to_owned(), 2.0)].into();
            },
            &["peft.alpha_pattern: `v_proj` names none"],
        ),
        (
            "dinov3-convnext",
            |c| c.target_modules = TargetModules::Pattern("all-linear".into()),
            &["only vision transformers"],
        ),
    ];
    for (model, change, wants) in cases {
        let error = choose(model, &change).unwrap_err().to_string();
        for want in wants {
            assert!(error.contains(want), "{error}");
        }
    }
}

const PEFT: [&str; 8] = [
    "--set",
    "phase=peft",
    "--set",
    "peft={target_modules: [query, value], learning_rate: 0.01, lora_plus_ratio: 4}",
    "--set",
    "augment.flip=0.5",
    "--set",
    "train.epochs=3",
];

fn train(extra: &[&str]) -> (Fixture, Vec<f32>) {
    let fixture = Fixture::new(Content::Digest);
    fixture.train(&[&PEFT[..], extra].concat());
    let file = fixture.path("run/checkpoints/best/adapter/adapter_model.safetensors");
    let file = TensorFile::open(&file).unwrap();
    let names = file.shapes().unwrap().into_keys();
    let all = names.flat_map(|name| file.f32(&name).unwrap().1).collect();
    (fixture, all)
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |error, (a, b)| error.max((a - b).abs()))
}

#[test]
fn an_adapter_learns_and_its_checkpoint_is_whole() {
    let (fixture, adapter) = train(&[]);
    let dir = fixture.path("run/checkpoints/best");
    let checkpoint = Checkpoint::load(&dir).unwrap();
    assert!(checkpoint.has_adapter());
    assert!(
        checkpoint.metrics["accuracy"] > 0.9,
        "{:?}",
        checkpoint.metrics
    );
    let up = TensorFile::open(&dir.join("adapter/adapter_model.safetensors")).unwrap();
    let up = up
        .f32("base_model.model.encoder.layer.0.attention.attention.query.lora_B.weight")
        .unwrap()
        .1;
    assert!(up.iter().any(|b| *b != 0.0), "B has learned");
    // The reference is what the merged weights give, within rounding of what was trained and judged.
    let files = checkpoint
        .files
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>();
    assert_eq!(
        files,
        [
            "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
            "head.safetensors",
            "reference.safetensors"
        ]
    );
    assert_eq!(adapter, train(&[]).1, "the same seed gives the same bits");
    let message = {
        let path = dir.join("adapter/adapter_config.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("\"lora_alpha\": 16", "\"lora_alpha\": 32"),
        )
        .unwrap();
        Checkpoint::load(&dir).unwrap_err().to_string()
    };
    assert!(
        message.contains("adapter_config.json: digest mismatch"),
        "{message}"
    );
}

/// How the gradient is computed doesn't change it.
#[test]
fn less_memory_gives_the_same_adapter() {
    let dropout = ["--set", "peft.lora_dropout=0.2"];
    let (_, plain) = train(&dropout);
    let (_, by_block) = train(&[&dropout[..], &["--set", "peft.checkpoint_blocks=true"]].concat());
    assert_eq!(plain, by_block, "the same bits");
    let (_, whole) = train(&["--set", "train.class_weights=balanced"]);
    let (_, parts) = train(&[
        "--set",
        "train.class_weights=balanced",
        "--set",
        "train.micro_batch_size=5",
    ]);
    // Sums in another order, which AdamW's division by small moments enlarges.
    assert!(
        distance(&whole, &parts) < 2e-3,
        "{}",
        distance(&whole, &parts)
    );
    assert!(distance(&plain, &whole) > 2e-3);
}

#[test]
fn every_variant_trains() {
    let cases: [&[&str]; 6] = [
        &[
            "--set",
            "peft.use_dora=true",
            "--set",
            "peft.lora_dropout=0.1",
        ],
        &[
            "--set",
            "peft.use_dora=true",
            "--set",
            "peft.checkpoint_blocks=true",
        ],
        &[
            "--set",
            "peft.use_rslora=true",
            "--set",
            "peft.target_modules=all-linear",
        ],
        &[
            "--set",
            "peft.layers_to_transform=[1]",
            "--set",
            "peft.head_warmup_epochs=2",
        ],
        &["--set", "train.precision=bf16"],
        &[
            "--set",
            "augment.cutmix=0.5",
            "--set",
            "train.focal_gamma=1",
            "--set",
            "train.logit_adjustment=1",
            "--set",
            "train.label_smoothing=0.1",
        ],
    ];
    for extra in cases {
        let (fixture, _) = train(extra);
        let checkpoint = Checkpoint::load(&fixture.path("run/checkpoints/best")).unwrap();
        assert!(
            checkpoint.metrics["accuracy"] > 0.8,
            "{extra:?}: {:?}",
            checkpoint.metrics
        );
    }
}

#[test]
fn half_precision_stays_near_single() {
    let (_, single) = train(&[]);
    let (_, half) = train(&["--set", "train.precision=bf16"]);
    let difference = distance(&single, &half);
    assert!(difference > 0.0, "bf16 changes the last bits");
    // An adapter's values move by about 0.1 in this training.
    assert!(difference < 0.05, "{difference}");
}

#[test]
fn what_contradicts_is_refused() {
    let fixture = Fixture::new(Content::Digest);
    let cases: [(&[&str], &str); 6] = [
        (
            &["--set", "phase=peft"],
            "at `peft.target_modules`: expected the names of the linear layers",
        ),
        (&["--set", "peft.r=4"], "at `peft`: expected its defaults"),
        (
            &["--set", "augment.flip=0.5"],
            "at `augment`: expected its defaults",
        ),
        (&["--set", "train.precision=bf16"], "at `train.precision`"),
        (
            &[
                "--set",
                "phase=peft",
                "--set",
                "peft.target_modules=[quarry]",
            ],
            "`quarry` names no linear layer",
        ),
        (
            &[
                "--set",
                "train.sampling=balanced",
                "--set",
                "train.logit_adjustment=1",
            ],
            "at `train.logit_adjustment`",
        ),
    ];
    for (arguments, want) in cases {
        let message = fixture.refusal(arguments);
        assert!(message.contains(want), "{arguments:?}: {message}");
    }
}

#[test]
fn a_diverging_adapter_leaves_nothing() {
    let fixture = Fixture::new(Content::Digest);
    let message = fixture.refusal(
        &[
            &PEFT[..],
            &[
                "--set",
                "peft.learning_rate=1e30",
                "--set",
                "train.save_every_seconds=0",
            ],
        ]
        .concat(),
    );
    for part in ["training diverged", "`peft.learning_rate` (now 1e30)"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!fixture.path("run/checkpoints/best").exists());
    assert!(!fixture.path("run/checkpoints/last.safetensors").exists());
}

#[test]
fn an_image_that_breaks_in_the_middle_ends_the_training_and_it_can_go_on() {
    let fixture = Fixture::new(Content::Digest);
    let arguments = [&PEFT[..], &["--set", "train.save_every_seconds=0"]].concat();
    // Its features are in the cache by now.
    fixture.train(&["--set", "train.epochs=1"]);
    fs::remove_dir_all(fixture.path("run/checkpoints")).unwrap();
    let image = fixture.image_path(stage1_core::split::Split::Train, 7);
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() / 2]).unwrap();
    let message = fixture.refusal(&arguments);
    assert!(
        message.contains("train-007.png: changed since the split"),
        "{message}"
    );
    assert!(!fixture.path("run/checkpoints/best").exists());
    fs::write(&image, whole).unwrap();
    fixture.train(&arguments);
}

#[test]
fn a_dry_run_tells_parameters_and_steps_and_writes_nothing() {
    let fixture = Fixture::new(Content::Digest);
    let before = fs::read_dir(fixture.path("run")).unwrap().count();
    let arguments = [
        &PEFT[..],
        &["--dry-run", "--set", "train.micro_batch_size=4"],
    ]
    .concat();
    let events = fixture.train(&arguments);
    let [plan] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(plan["event"], "plan");
    // 48 images in batches of 16, three epochs.
    let steps = (
        plan["steps_per_epoch"].as_u64(),
        plan["epochs"].as_u64(),
        plan["micro_batch_size"].as_u64(),
    );
    assert_eq!(steps, (Some(3), Some(3), Some(4)));
    let modules = plan["modules"].as_array().unwrap();
    let sum = |trainable: bool| -> u64 {
        let modules = modules.iter().filter(|m| m["trainable"] == trainable);
        modules.map(|m| m["parameters"].as_u64().unwrap()).sum()
    };
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    let spec = Weights::open(&goldens.join("dinov2"))
        .unwrap()
        .spec()
        .clone();
    assert_eq!(sum(false), spec.parameter_count() as u64);
    // Rank 8 on query and value of each block, and a linear head on two features of two classes.
    let (width, layers) = (
        spec.hidden() as u64,
        spec.adaptable_layers(Naming::Transformers5).len() as u64 / 6,
    );
    assert_eq!(sum(true), layers * 2 * 8 * 2 * width + 2 * (2 * width) + 2);
    assert!(
        plan["memory"]
            .as_object()
            .unwrap()
            .values()
            .all(|bytes| bytes.as_u64() > Some(0))
    );
    assert_eq!(fs::read_dir(fixture.path("run")).unwrap().count(), before);
    assert!(!fixture.path("cache").exists());
}
