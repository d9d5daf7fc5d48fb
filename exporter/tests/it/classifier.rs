//! Backbone and head as one model: the head's formula, the file's properties, and parity's verdicts.

use crate::support::{Ort, golden_backbone, goldens, normalisation, numbers, relative_error};
use stage1_core::{
    artifact::{
        self, Digest,
        tensors::{self, Tensor, TensorFile},
    },
    checkpoint::Checkpoint,
    config::Phase,
    model::{Blocks, Features, GateSpec, HeadKind, HeadSpec, ReadBlocks, Weights},
    preprocess::PreprocessSpec,
};
use stage1_exporter::{
    Error, Exported, Form, Tolerances, export_classifier_as, export_embedding, inspect, parity,
};
use std::collections::BTreeMap;

/// A multiple of every golden backbone's patch.
const SIDE: usize = 32;
const IMAGES: usize = 5;
const CLASSES: usize = 3;
pub(crate) const SHAPE: [usize; 4] = [IMAGES, 3, SIDE, SIDE];

/// A head on a golden backbone, with its reference outputs computed here, in double precision, from the tokens of the
/// backbone alone.
pub(crate) struct Trained {
    dir: tempfile::TempDir,
    weights: Weights,
    pub(crate) checkpoint: Checkpoint,
    head: BTreeMap<String, Tensor>,
    pub(crate) pixels: Vec<f32>,
}

impl Trained {
    pub(crate) fn new(backbone: &str, kind: HeadKind, features: Features) -> Self {
        Self::on(golden_backbone(backbone), kind, features)
    }

    pub(crate) fn on(weights: Weights, kind: HeadKind, features: Features) -> Self {
        Self::reading(weights, kind, features, ReadBlocks::LAST)
    }

    fn reading(weights: Weights, kind: HeadKind, features: Features, blocks: ReadBlocks) -> Self {
        let head = HeadSpec {
            kind,
            features,
            blocks,
            classes: CLASSES,
        };
        let tensor = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
            let count = shape.iter().product();
            (name, Tensor::f32(shape, numbers(count, i as u64)))
        };
        let tensors = head
            .tensors(weights.spec().hidden())
            .into_iter()
            .enumerate()
            .map(tensor)
            .collect();
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            checkpoint: checkpoint(&weights, head),
            head: tensors,
            pixels: numbers(SHAPE.iter().product(), 99),
            weights,
        }
    }

    /// With a gate on the hidden layer of an MLP.
    pub(crate) fn with_gate(mut self) -> Self {
        self.checkpoint.gate = Some(GateSpec { hidden: 4 });
        for (i, (name, shape)) in self.checkpoint.gate_tensors().into_iter().enumerate() {
            let count = shape.iter().product();
            self.head
                .insert(name, Tensor::f32(shape, numbers(count, 50 + i as u64)));
        }
        self
    }

    fn save(&self, name: &str, tensors: &BTreeMap<String, Tensor>) -> TensorFile {
        let path = self.dir.path().join(name);
        tensors::save(&path, tensors, &BTreeMap::new()).expect("saved");
        TensorFile::open(&path).expect("read again")
    }

    pub(crate) fn export(&self) -> Result<Vec<u8>, Error> {
        let exported = self.export_as(&Form::default())?;
        assert_eq!(exported.digest, Digest::of_bytes(&exported.model));
        Ok(exported.model)
    }

    pub(crate) fn export_as(&self, form: &Form) -> Result<Exported, Error> {
        let head = self.save("head.safetensors", &self.head);
        let metadata = BTreeMap::from([("config_digest".to_owned(), "abc".to_owned())]);
        export_classifier_as(&self.checkpoint, &head, &self.weights, &metadata, form)
    }

    fn logits(&self) -> Vec<f32> {
        let blocks: Vec<usize> = self.checkpoint.head.blocks.into();
        let of_blocks = match &blocks[..] {
            [] => vec![self.tokens(Blocks::All)],
            blocks => blocks
                .iter()
                .map(|b| self.tokens(Blocks::First(*b)))
                .collect(),
        };
        let per_image = of_blocks[0].len() / IMAGES;
        let features = |image: usize| -> Vec<f64> {
            let part = image * per_image..(image + 1) * per_image;
            let blocks = of_blocks.iter();
            blocks
                .flat_map(|tokens| self.features(&tokens[part.clone()]))
                .collect()
        };
        (0..IMAGES)
            .flat_map(|image| self.head(&features(image)))
            .collect()
    }

    /// Of the backbone alone, cut after its first blocks.
    fn tokens(&self, blocks: Blocks) -> Vec<f64> {
        let weights = self
            .weights
            .clone()
            .with_blocks(blocks)
            .expect("as many blocks");
        let exported = export_embedding(&weights, SIDE, SIDE).expect("the backbone");
        let outputs = Ort::new(&exported.model).outputs(&self.pixels, SHAPE, &["tokens"]);
        outputs[0].iter().map(|x| f64::from(*x)).collect()
    }

    fn features(&self, tokens: &[f64]) -> Vec<f64> {
        let d = self.weights.spec().hidden();
        let class = tokens[..d].to_vec();
        if self.checkpoint.head.features == Features::Cls {
            return class;
        }
        let patches: Vec<_> = tokens
            .chunks_exact(d)
            .skip(self.weights.spec().prefix_tokens())
            .collect();
        let mean = (0..d).map(|i| patches.iter().map(|p| p[i]).sum::<f64>() / patches.len() as f64);
        class.into_iter().chain(mean).collect()
    }

    fn head(&self, features: &[f64]) -> Vec<f32> {
        let gelu = |x: f64| x * 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
        let logits = match self.checkpoint.head.kind {
            HeadKind::Linear => self.linear("head", features),
            HeadKind::Mlp { .. } => {
                let inner: Vec<_> = self
                    .linear("head.fc1", features)
                    .into_iter()
                    .map(gelu)
                    .collect();
                self.linear("head.fc2", &inner)
            }
        };
        logits.into_iter().map(|x| x as f32).collect()
    }

    fn linear(&self, layer: &str, x: &[f64]) -> Vec<f64> {
        let values = |name: &str| match &self.head[&format!("{layer}.{name}")].values {
            tensors::Values::F32(values) => values,
            other => panic!("{other:?}"),
        };
        let rows = values("weight").chunks_exact(x.len());
        let row = |(row, bias): (&[f32], &f32)| {
            row.iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * x)
                .sum::<f64>()
                + f64::from(*bias)
        };
        rows.zip(values("bias")).map(row).collect()
    }

    pub(crate) fn reference(&self) -> TensorFile {
        let tensors = BTreeMap::from([
            (
                "pixel_values".to_owned(),
                Tensor::f32(SHAPE, self.pixels.clone()),
            ),
            (
                "logits".to_owned(),
                Tensor::f32([IMAGES, CLASSES], self.logits()),
            ),
        ]);
        self.save("reference.safetensors", &tensors)
    }
}

fn checkpoint(weights: &Weights, head: HeadSpec) -> Checkpoint {
    Checkpoint {
        schema_version: <Checkpoint as artifact::Document>::SCHEMA_VERSION,
        phase: Phase::Baseline,
        backbone: weights.spec().clone(),
        backbone_digest: weights.digest(),
        head,
        gate: None,
        labels: ["bag", "boot", "dress"].map(str::to_owned).to_vec(),
        preprocess: PreprocessSpec::dinov3(SIDE as u32, SIDE as u32),
        seed: 0,
        threads: 1,
        epoch: 1,
        epochs_run: 1,
        metrics: BTreeMap::new(),
        splits_digest: Digest::of_bytes(b"splits"),
        init_digest: None,
        inputs_digest: Digest::of_bytes(b"inputs"),
        files: BTreeMap::new(),
    }
}

/// All backbones and heads, once each.
fn all() -> Vec<Trained> {
    let mlp = HeadKind::Mlp { hidden: 7 };
    let both = |backbone, kind, features| {
        let blocks = ReadBlocks::new(&[1, 2]).expect("two blocks");
        Trained::reading(golden_backbone(backbone), kind, features, blocks)
    };
    vec![
        both("dinov2", HeadKind::Linear, Features::ClsMeanPatch),
        both("dinov2-registers-swiglu", HeadKind::Linear, Features::Cls),
        both("dinov3-vit-mlp", mlp, Features::Cls),
        both("dinov3-vit-swiglu", mlp, Features::ClsMeanPatch),
        Trained::new("dinov2", HeadKind::Linear, Features::Cls),
        Trained::new(
            "dinov2-registers-swiglu",
            HeadKind::Linear,
            Features::ClsMeanPatch,
        ),
        Trained::new("dinov2-registers-swiglu", HeadKind::Linear, Features::Cls),
        Trained::new("dinov3-vit-mlp", mlp, Features::Cls),
        Trained::new("dinov3-vit-swiglu", HeadKind::Linear, Features::Cls),
        Trained::new("dinov3-vit-swiglu", mlp, Features::ClsMeanPatch),
        Trained::new("dinov3-convnext", HeadKind::Linear, Features::Cls),
        Trained::new("dinov3-convnext", mlp, Features::ClsMeanPatch),
    ]
}

#[test]
fn logits_are_the_heads_formula_and_parity_holds() {
    for trained in all() {
        let name = format!("{} {:?}", trained.weights.spec(), trained.checkpoint.head);
        let mut session = Ort::new(&trained.export().expect("exported"));
        let logits = session
            .outputs(&trained.pixels, SHAPE, &["logits"])
            .remove(0);
        let error = relative_error(&logits, &trained.logits());
        assert!(error <= 1e-5, "{name}: {error:e}");
        let parity = parity(
            &mut session,
            &trained.reference(),
            normalisation(),
            Tolerances::default(),
        )
        .expect("a verdict");
        assert!(parity.passed && parity.same_labels, "{name}: {parity:?}");
        assert_eq!(parity.images, IMAGES);
    }
}

/// A head that hands the class token through: where nothing else is read, less is computed, and the same comes out.
#[test]
fn a_class_token_alone_is_the_references() {
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
    ] {
        let cases = TensorFile::open(&goldens().join(name).join("cases.safetensors"))
            .expect("golden cases");
        let shapes = cases.shapes().expect("golden cases");
        for (tensor, shape) in shapes {
            let Some(case) = tensor.strip_suffix(".pixel_values") else {
                continue;
            };
            let mut trained = Trained::new(name, HeadKind::Linear, Features::Cls);
            let width = trained.weights.spec().hidden();
            let mut identity = vec![0.0; width * width];
            identity
                .iter_mut()
                .step_by(width + 1)
                .for_each(|x| *x = 1.0);
            trained.checkpoint.head.classes = width;
            trained.checkpoint.preprocess =
                PreprocessSpec::dinov3(shape[2] as u32, shape[3] as u32);
            trained.head = BTreeMap::from([
                (
                    "head.weight".to_owned(),
                    Tensor::f32([width, width], identity),
                ),
                (
                    "head.bias".to_owned(),
                    Tensor::f32([width], vec![0.0; width]),
                ),
            ]);
            let model = trained.export().expect("exported");
            let (_, pixels) = cases.f32(&tensor).expect("pixels");
            let shape = [shape[0], shape[1], shape[2], shape[3]];
            let got = Ort::new(&model)
                .outputs(&pixels, shape, &["logits"])
                .remove(0);
            let (_, want) = cases
                .f32(&format!("{case}.pooler_output"))
                .expect("a class token");
            let error = relative_error(&got, &want);
            assert!(error <= 1e-4, "{name} {case}: {error:e}");
            let whole = export_embedding(&trained.weights, shape[2], shape[3]).expect("exported");
            let flops = |model: &[u8]| inspect(model).expect("a model").flops_per_image;
            let [one, all] = [&model, &whole.model].map(|model| flops(model).expect("known"));
            assert!(
                one - 2 * ((width * width) as u64) < all,
                "{name}: {one} of {all}"
            );
            let text = String::from_utf8_lossy(&model);
            assert!(
                text.contains("blocks.1.attn.kv") && !text.contains("blocks.1.attn.qkv"),
                "{name}: only the class token's query is computed in the last block"
            );
        }
    }
}

#[test]
fn a_changed_weight_fails_parity() {
    for mut trained in all() {
        let reference = trained.reference();
        // One logit's bias, which comes last among the biases.
        let biases = trained
            .head
            .iter_mut()
            .filter(|(name, _)| name.ends_with("bias"));
        let (name, bias) = biases.last().expect("a bias");
        let tensors::Values::F32(values) = &mut bias.values else {
            panic!("{name}")
        };
        values[0] += 0.01;
        let mut session = Ort::new(&trained.export().expect("exported"));
        let parity = parity(
            &mut session,
            &reference,
            normalisation(),
            Tolerances::default(),
        )
        .expect("a verdict");
        assert!(
            !parity.passed && parity.max_abs_error > parity.tolerance * parity.scale,
            "{parity:?}"
        );
        assert!(
            parity.batch_max_abs_error <= parity.batch_tolerance * parity.scale,
            "{parity:?}"
        );
    }
}

#[test]
fn another_backbone_than_the_heads_is_refused() {
    let mut trained = Trained::new("dinov2", HeadKind::Linear, Features::Cls);
    trained.checkpoint.backbone_digest = Digest::of_bytes(b"another");
    assert!(matches!(trained.export(), Err(Error::OtherBackbone { .. })));
}

#[test]
fn a_head_of_another_shape_is_named() {
    let mut trained = Trained::new("dinov2", HeadKind::Linear, Features::Cls);
    trained.checkpoint.head.features = Features::ClsMeanPatch;
    let error = trained
        .export()
        .expect_err("the head is too narrow")
        .to_string();
    assert!(
        error.contains("head.weight") && error.contains("[3, 64]"),
        "{error}"
    );
}

#[test]
fn the_file_says_what_it_is() {
    let model = Trained::new("dinov2", HeadKind::Linear, Features::Cls)
        .export()
        .expect("exported");
    let text = String::from_utf8_lossy(&model);
    for wanted in [
        "[\"bag\",\"boot\",\"dress\"]",
        "stage1.preprocess",
        "stage1.backbone_digest",
        "config_digest",
    ] {
        assert!(text.contains(wanted), "{wanted}");
    }
}
