//! What is trained and what isn't, what the student sees and what it doesn't: where an earlier system's ExPLoRA went wrong.

use super::{
    head,
    layout::Layout,
    loss,
    objective::{Moment, Objective},
    run::follow,
    views::Crops,
};
use crate::{
    backbone::{Backbone, Places},
    head::values,
    optimiser::AdamW,
    random::generator,
};
use stage1_core::{
    config::{ExploraConfig, LocalCrops, MaskConfig, Precision, ProjectionConfig},
    model::{BlockRole, Role, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Tensor, no_grad};

const BACKBONES: [&str; 4] = [
    "dinov2",
    "dinov2-registers-swiglu",
    "dinov3-vit-mlp",
    "dinov3-vit-swiglu",
];

/// Of four patches by five.
const SIZE: (usize, usize) = (16, 20);
const IMAGES: usize = 3;

fn open(name: &str) -> Weights {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    Weights::open(&goldens.join(name)).unwrap()
}

fn config() -> ExploraConfig {
    ExploraConfig {
        r: 2,
        lora_alpha: 4.0,
        batch_size: IMAGES,
        local_crops: LocalCrops {
            count: 2,
            ..LocalCrops::default()
        },
        mask: MaskConfig {
            probability: 1.0,
            ratio: [0.3, 0.5],
        },
        head: ProjectionConfig {
            prototypes: 8,
            hidden: 16,
            bottleneck: 6,
            separate_for_patches: false,
        },
        ..ExploraConfig::default()
    }
}

/// Numbers without pattern or generator.
fn wave(count: usize, phase: f64) -> Vec<f32> {
    let value = |i: usize| ((i as f64 * 1.7 + phase).sin() * 1.5) as f32;
    (0..count).map(value).collect()
}

fn crops() -> Crops {
    let (height, width) = SIZE;
    Crops {
        images: IMAGES,
        place: 0,
        global: wave(2 * IMAGES * 3 * height * width, 0.3),
        local: wave(2 * IMAGES * 3 * 8 * 8, 0.7),
    }
}

const AT: Moment = Moment {
    epoch: 1,
    temperature: 0.05,
};

/// A backbone with what is trained of it.
struct Fixture {
    weights: Weights,
    config: ExploraConfig,
    layout: Layout,
}

impl Fixture {
    fn new(name: &str, config: ExploraConfig) -> Self {
        let weights = open(name);
        Self {
            layout: Layout::new(weights.spec(), &config).unwrap(),
            weights,
            config,
        }
    }

    fn objective(&self) -> Objective<'_> {
        let (config, layout) = (&self.config, &self.layout);
        let device = Device::Cpu;
        Objective::new(
            config,
            Precision::Fp32,
            5,
            layout,
            &self.weights,
            SIZE,
            device,
        )
        .unwrap()
    }

    fn initial(&self) -> Tensor {
        let _alone = generator();
        // Larger heads than the published ones, so that a tiny network has something to say.
        let flat = self.layout.initial(&self.weights, None, 5);
        let auxiliary = self.layout.auxiliary() as i64;
        let own = flat.numel() as i64 - auxiliary;
        let heads = flat.slice(0, own, None, 1) * 20.0;
        Tensor::cat(&[flat.slice(0, 0, own, 1), heads], 0)
    }

    /// The teacher after so many steps.
    fn train(&self, steps: usize) -> Tensor {
        let objective = self.objective();
        let mut student = self.initial().set_requires_grad(true);
        let mut teacher = student.detach().copy();
        let mut optimiser = AdamW::new(self.layout.matrices() * 0.04, None);
        for _ in 0..steps {
            let lesson = objective.learn(&student, &teacher, &crops(), AT);
            optimiser.step(&mut student, &lesson.gradient, 1e-3);
            follow(&mut teacher, &student, 0.5);
        }
        teacher
    }
}

/// The largest difference, relative to the largest value.
fn error(got: &Tensor, want: &Tensor) -> f64 {
    let largest = |t: &Tensor| t.abs().max().double_value(&[]);
    largest(&(got - want)) / largest(want)
}

#[test]
fn what_is_named_is_trained_and_nothing_else() {
    type Variant = (&'static str, fn(&mut ExploraConfig));
    let variants: [Variant; 3] = [
        ("as published", |_| {}),
        ("the first block", |c| c.unfreeze_blocks = Some(vec![0])),
        ("neither norms nor class token", |c| {
            (c.norms, c.class_token) = (false, false);
        }),
    ];
    for name in BACKBONES {
        for (variant, change) in variants {
            let mut config = config();
            change(&mut config);
            let fixture = Fixture::new(name, config.clone());
            let unfrozen = config.unfreeze_blocks.unwrap_or(vec![1]);
            let merged = fixture
                .layout
                .merged(&fixture.train(3), &fixture.weights)
                .unwrap();
            for tensor in fixture.weights.spec().tensors() {
                use BlockRole as R;
                let should = match tensor.role {
                    // Adding the same to all scores of a query changes nothing.
                    Role::Block(_, R::KBias) => continue,
                    Role::Block(block, _) if unfrozen.contains(&block) => true,
                    Role::Block(_, R::QWeight | R::VWeight) => true,
                    Role::Block(
                        _,
                        R::Norm1Weight | R::Norm1Bias | R::Norm2Weight | R::Norm2Bias,
                    )
                    | Role::NormWeight
                    | Role::NormBias => config.norms,
                    Role::ClsToken => config.class_token,
                    _ => false,
                };
                let (before, after) = (fixture.weights.get(tensor.role), merged.get(tensor.role));
                assert_eq!(
                    before != after,
                    should,
                    "{name}, {variant}: {} changes iff it is trained",
                    tensor.name
                );
            }
        }
    }
}

#[test]
fn at_the_start_nothing_is_changed_and_what_is_merged_is_what_was_trained() {
    for name in BACKBONES {
        let fixture = Fixture::new(name, config());
        let objective = fixture.objective();
        let pixels = objective.tensor(&crops().global, SIZE);
        let places = Places::new(&fixture.weights, SIZE, Device::Cpu).unwrap();
        let plain = |weights: &Weights| {
            no_grad(|| Backbone::new(weights, Device::Cpu).tokens(&pixels, &places))
        };
        let inside = |flat: &Tensor| {
            no_grad(|| objective.tokens(&objective.network(flat), &pixels, &places, None))
        };
        let first = error(&inside(&fixture.initial()), &plain(&fixture.weights));
        assert!(first < 1e-5, "{name} at the start: {first}");
        let teacher = fixture.train(5);
        let merged = fixture.layout.merged(&teacher, &fixture.weights).unwrap();
        let (got, want) = (plain(&merged), inside(&teacher));
        let (merging, learned) = (error(&got, &want), error(&want, &plain(&fixture.weights)));
        assert!(merging < 1e-4, "{name} merged: {merging}");
        assert!(learned > 1e-3, "{name} has learned: {learned}");
    }
}

#[test]
fn hidden_patches_never_reach_the_student() {
    for name in BACKBONES {
        let fixture = Fixture::new(name, config());
        let objective = fixture.objective();
        let network = objective.network(&fixture.initial());
        let pixels = objective.tensor(&crops().global, SIZE);
        // Of each picture the patch in row 1, column 2; its target is what the teacher sees there.
        let hidden = Tensor::zeros([6, 20], (Kind::Bool, Device::Cpu));
        let _ = hidden.select(1, 7).fill_(1);
        let other = pixels.copy();
        let mut patch = other.slice(2, 4, 8, 1).slice(3, 8, 12, 1);
        let changed = &patch * -2.0 + 0.5;
        patch.copy_(&changed);
        let see = |pixels: &Tensor, hidden: Option<&Tensor>| {
            let seen = no_grad(|| objective.look(&network, pixels, hidden));
            assert_eq!(seen.patches.size()[0], 6 * 20, "registers are no patches");
            [values(&seen.class), values(&seen.patches)].concat()
        };
        assert_eq!(
            see(&pixels, Some(&hidden)),
            see(&other, Some(&hidden)),
            "{name}: the student learns nothing of what is hidden"
        );
        assert_ne!(
            see(&pixels, None),
            see(&other, None),
            "{name}: the teacher sees it"
        );
        assert_ne!(see(&pixels, None), see(&pixels, Some(&hidden)), "{name}");
    }
}

#[test]
fn the_teacher_has_no_part_in_the_gradient() {
    let fixture = Fixture::new("dinov3-vit-mlp", config());
    let objective = fixture.objective();
    let teacher = fixture.initial().set_requires_grad(true);
    let pixels = objective.tensor(&crops().global, SIZE);
    let places = Tensor::from_slice(&[3_i64, 50]);
    let answers = objective.teach(&teacher, &pixels, &places, 0.05);
    let patches = answers.patches.unwrap();
    for targets in answers.class.iter().chain([&patches]) {
        assert!(!targets.requires_grad());
        let sums = values(&targets.sum_dim_intlist(-1, false, Kind::Float));
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{sums:?}");
    }
    assert_eq!(answers.class[0].size(), [3, 8]);
    assert_eq!(patches.size(), [2, 8]);
}

#[test]
fn the_gradient_is_that_of_the_loss() {
    for (name, separate) in [
        ("dinov2-registers-swiglu", false),
        ("dinov3-vit-swiglu", true),
    ] {
        let mut config = config();
        config.head.separate_for_patches = separate;
        let fixture = Fixture::new(name, config);
        let objective = fixture.objective();
        let teacher = fixture.train(2);
        // Away from the start, where LoRA's B is 0 and A without influence.
        let student = fixture.train(4).set_requires_grad(true);
        let lesson = objective.learn(&student, &teacher, &crops(), AT);
        let length = lesson.gradient.norm();
        let direction = &lesson.gradient / &length;
        // Short: near its closest neighbour the logarithm of a distance bends sharply.
        let step = 1e-4;
        let loss_at = |by: f64| {
            let moved = (student.detach() + &direction * by).set_requires_grad(true);
            objective.learn(&moved, &teacher, &crops(), AT).measures["loss"]
        };
        let want = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        let got = length.double_value(&[]);
        assert!((got / want - 1.0).abs() < 0.02, "{name}: {got} for {want}");
        let untouched = values(&lesson.gradient)
            .iter()
            .filter(|x| **x == 0.0)
            .count();
        let share = untouched as f64 / fixture.layout.count() as f64;
        assert!(share < 0.02, "{name}: {untouched} parameters learn nothing");
    }
}

#[test]
fn all_blocks_may_be_trained_whole() {
    let fixture = Fixture::new(
        "dinov2",
        ExploraConfig {
            unfreeze_blocks: Some(vec![0, 1]),
            ..config()
        },
    );
    assert!(fixture.layout.adapted().is_empty());
    fixture
        .layout
        .merged(&fixture.train(1), &fixture.weights)
        .unwrap();
}

#[test]
fn a_network_without_numbers_is_not_kept() {
    let fixture = Fixture::new("dinov2", config());
    let broken = fixture.initial() * f64::NAN;
    let error = fixture
        .layout
        .merged(&broken, &fixture.weights)
        .unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}

#[test]
fn a_head_answers_with_cosines() {
    let shapes = head::shapes(&config().head, 4);
    let tensors = {
        let _alone = generator();
        head::initial(&shapes, 1, 0)
    };
    let shaped = tensors
        .iter()
        .zip(&shapes)
        .map(|(t, shape)| t.view(&shape[..]));
    let head = head::Projection(shaped.collect());
    let cosines = head.cosines(&Tensor::from_slice(&wave(8, 0.1)).reshape([2, 4]));
    assert_eq!(cosines.size(), [2, 8]);
    assert!(cosines.abs().max().double_value(&[]) <= 1.0 + 1e-6);
    // Longer prototypes are no other prototypes.
    let mut longer = head.0;
    longer[6] = &longer[6] * 7.0;
    let same = head::Projection(longer).cosines(&Tensor::from_slice(&wave(8, 0.1)).reshape([2, 4]));
    assert!(error(&same, &cosines) < 1e-5);
    assert!(loss::deviation(&cosines) > 0.0);
}

#[test]
fn lower_blocks_learn_more_slowly() {
    for name in BACKBONES {
        let Fixture {
            weights, layout, ..
        } = Fixture::new(name, config());
        // Of two blocks, the last one unfrozen.
        let mut want = Vec::new();
        for (name, count) in layout
            .modules()
            .filter(|(name, _)| name.starts_with("LoRA"))
        {
            assert!(name.contains("layer.0."), "{name}");
            want.extend(vec![0.25; count]);
        }
        for tensor in weights.spec().tensors() {
            let rate = match tensor.role {
                role if !layout.trains(role) => continue,
                Role::Block(0, _) => 0.25,
                Role::Block(1, _) => 0.5,
                Role::NormWeight | Role::NormBias => 1.0,
                Role::ClsToken => 0.125,
                other => panic!("{name}: {other:?} is trained"),
            };
            want.extend(vec![rate; tensor.shape.iter().product()]);
        }
        // The mask token.
        want.extend(vec![0.125; weights.spec().hidden()]);
        let rates = values(&layout.rates(0.5));
        let (own, heads) = rates.split_at(want.len());
        assert_eq!(own, want, "{name}");
        assert!(heads.len() > 100, "{name}");
        assert_eq!(heads, vec![1.0; heads.len()], "{name}");
        let same = values(&layout.rates(1.0));
        assert_eq!(same, vec![1.0; same.len()], "{name}");
    }
}
