//! A small DINOv2 laid out as PyTorch exports it: what the importer reads is there, the rest of the computation isn't.

use super::*;
use crate::{
    graph::{Axis, Graph, Value},
    import::{self, ImportReport},
    linear::Linear,
    onnx::tensor_proto::DataType,
};
use stage1_core::model::{BlockRole, Role, VitSpec, Weights};
use std::{collections::BTreeMap, path::PathBuf};

const PREFIX: &str = "backbone.";

/// The form that a file has.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Of PyTorch's TorchScript exporter: anonymous weights, a norm of primitive operators, the position table cut.
    Anonymous,
    /// Names everywhere, fused norms, one position table, one constant shape.
    Named,
}

struct Sketch<'a> {
    graph: Graph,
    spec: &'a VitSpec,
    weights: &'a Weights,
    form: Form,
    eps: f32,
}

fn golden() -> Weights {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/dinov2");
    Weights::open(&dir).unwrap()
}

fn sketch(form: Form, eps: f32) -> ModelProto {
    let weights = golden();
    let BackboneSpec::Vit(spec) = weights.spec() else {
        panic!("a DINOv2");
    };
    let graph = Graph::new("main_graph");
    let mut sketch = Sketch {
        graph,
        spec,
        weights: &weights,
        form,
        eps,
    };
    sketch.draw();
    let exported = sketch.graph.finish(&BTreeMap::new()).unwrap();
    ModelProto::decode(&*exported.model).unwrap()
}

impl Sketch<'_> {
    fn draw(&mut self) {
        let x = self
            .graph
            .input("x", &[Axis::Batch, Axis::Fixed(self.spec.hidden)]);
        self.positions();
        for tensor in self.weights.spec().tensors() {
            match tensor.role {
                Role::PositionEmbeddings => {}
                Role::Block(i, role) if linear_bias(role).is_some() => {
                    self.linear(i, role, &tensor.name, &x)
                }
                Role::Block(_, role) if is_linear_bias(role) => {}
                _ => self.named(&tensor.role, &tensor.name, &x),
            }
        }
        for i in 0..self.spec.layers {
            self.graph.node("Erf", &format!("erf.{i}"), &[&x], &[]);
        }
        let decoder = vec![0.5; 6];
        self.graph.f32("decoder.weight", &[2, 3], &decoder);
    }

    fn positions(&mut self) {
        let (table, d) = (self.weights.get(Role::PositionEmbeddings), self.spec.hidden);
        let rows = table.len() / d;
        match self.form {
            Form::Named => {
                self.graph.f32(
                    "backbone.embeddings.position_embeddings",
                    &[1, rows, d],
                    table,
                );
            }
            Form::Anonymous => {
                self.graph.f32("onnx::Concat_7", &[1, 1, d], &table[..d]);
                self.graph
                    .f32("onnx::Reshape_9", &[1, rows - 1, d], &table[d..]);
            }
        }
    }

    fn named(&mut self, role: &Role, name: &str, x: &Value) {
        let name = format!("{PREFIX}{name}");
        let value = self
            .graph
            .f32(&name, self.weights.shape(*role), self.weights.get(*role));
        use BlockRole::{Norm1Weight, Norm2Weight};
        if let Role::NormWeight | Role::Block(_, Norm1Weight | Norm2Weight) = role {
            self.norm(&name, &value, x);
        }
    }

    fn norm(&mut self, name: &str, weight: &Value, x: &Value) {
        let part = |part: &str| format!("{name}/{part}");
        if self.form == Form::Named {
            let eps = crate::graph::Attribute::Float(f64::from(self.eps));
            self.graph.node(
                "LayerNormalization",
                &part("norm"),
                &[x, weight],
                &[("epsilon", eps)],
            );
            return;
        }
        let eps = self.graph.f32(&part("eps"), &[], &[self.eps]);
        let add = self.graph.add(&part("add"), x, &eps);
        let sqrt = self.graph.node("Sqrt", &part("sqrt"), &[&add], &[]);
        let div = self.graph.node("Div", &part("div"), &[x, &sqrt], &[]);
        self.graph.mul(&part("mul"), &div, weight);
    }

    fn linear(&mut self, i: usize, role: BlockRole, name: &str, x: &Value) {
        let layer = Linear::of(
            self.weights,
            Role::Block(i, role),
            Role::Block(i, linear_bias(role).unwrap()),
        );
        let (inputs, outputs) = (layer.inputs(), layer.outputs());
        let bias = format!("{PREFIX}{}bias", name.strip_suffix("weight").unwrap());
        let bias = self.graph.f32(&bias, &[outputs], layer.bias().unwrap());
        let weight = match self.form {
            Form::Named => {
                let values = self.weights.get(Role::Block(i, role));
                self.graph
                    .f32(&format!("{PREFIX}{name}"), &[outputs, inputs], values)
            }
            Form::Anonymous => {
                let anonymous = format!("onnx::MatMul_{i}_{role:?}");
                self.graph
                    .f32(&anonymous, &[inputs, outputs], &layer.transposed())
            }
        };
        let product = self.graph.matmul(&format!("/{name}/MatMul"), x, &weight);
        let sum = self.graph.add(&format!("/{name}/Add"), &bias, &product);
        if role == BlockRole::QWeight {
            self.heads(&format!("/{name}/heads"), &sum);
        }
    }

    /// PyTorch computes the shape from pieces; the last of them is the width of a head.
    fn heads(&mut self, name: &str, q: &Value) {
        let (heads, width) = (self.spec.heads as i64, self.spec.head_dim() as i64);
        let shape = match self.form {
            Form::Named => self
                .graph
                .i64(&format!("{name}.shape"), &[0, 0, heads, width]),
            Form::Anonymous => {
                let start = self.graph.i64(&format!("{name}.start"), &[0, 0, heads]);
                let width = self.graph.i64(&format!("{name}.width"), &[width]);
                self.graph
                    .concat(&format!("{name}.shape"), &[&start, &width], 0)
            }
        };
        self.graph.node("Reshape", name, &[q, &shape], &[]);
    }
}

fn linear_bias(role: BlockRole) -> Option<BlockRole> {
    use BlockRole as R;
    let pairs = [
        (R::QWeight, R::QBias),
        (R::KWeight, R::KBias),
        (R::VWeight, R::VBias),
        (R::ProjWeight, R::ProjBias),
        (R::UpWeight, R::UpBias),
        (R::DownWeight, R::DownBias),
    ];
    pairs
        .into_iter()
        .find(|(weight, _)| *weight == role)
        .map(|(_, bias)| bias)
}

fn is_linear_bias(role: BlockRole) -> bool {
    use BlockRole as R;
    matches!(
        role,
        R::QBias | R::KBias | R::VBias | R::ProjBias | R::UpBias | R::DownBias
    )
}

fn import(model: &ModelProto) -> (tempfile::TempDir, Result<ImportReport>) {
    let dir = tempfile::tempdir().unwrap();
    let onnx = dir.path().join("model.onnx");
    fs::write(&onnx, model.encode_to_vec()).unwrap();
    let report = import::import(&onnx, &dir.path().join("backbone"), None);
    (dir, report)
}

#[test]
fn both_forms_give_the_backbone_back() {
    let weights = golden();
    let spec = weights.spec();
    for (form, left_out) in [(Form::Anonymous, 3), (Form::Named, 1)] {
        let (dir, report) = import(&sketch(form, 1e-6));
        let report = report.unwrap();
        assert_eq!(report.spec, *spec);
        assert_eq!(report.backbone, weights.digest());
        assert_eq!(report.tensors, spec.tensors().len());
        assert!(
            report.left_out.contains(&"decoder.weight".to_owned()),
            "{:?}",
            report.left_out
        );
        assert!(report.left_out.len() >= left_out, "{:?}", report.left_out);
        let again = Weights::open(&dir.path().join("backbone")).unwrap();
        assert_eq!(again.digest(), weights.digest());
    }
}

#[test]
fn epsilon_and_widths_come_from_the_file() {
    let (_dir, report) = import(&sketch(Form::Anonymous, 1e-5));
    let BackboneSpec::Vit(spec) = report.unwrap().spec else {
        panic!("a DINOv2");
    };
    assert_eq!(spec.norm_eps.to_string(), "0.00001");
    assert_eq!((spec.heads, spec.head_dim()), (4, 8));
}

/// Changes the initialisers whose name contains `name`.
fn with(name: &str, change: impl Fn(&mut crate::onnx::TensorProto)) -> ModelProto {
    let mut model = sketch(Form::Anonymous, 1e-6);
    let initializers = &mut model.graph.as_mut().unwrap().initializer;
    let mut changed = initializers
        .iter_mut()
        .filter(|tensor| tensor.name().contains(name))
        .peekable();
    assert!(changed.peek().is_some(), "{name}");
    changed.for_each(change);
    model
}

fn without(name: &str) -> ModelProto {
    with(name, |tensor| tensor.name = Some("gone".to_owned()))
}

fn without_nodes(op: &str) -> ModelProto {
    let mut model = sketch(Form::Anonymous, 1e-6);
    model
        .graph
        .as_mut()
        .unwrap()
        .node
        .retain(|node| node.op_type() != op);
    model
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let double =
        |tensor: &mut crate::onnx::TensorProto| tensor.data_type = Some(DataType::Double.into());
    let short = |tensor: &mut crate::onnx::TensorProto| {
        let raw = tensor.raw_data.as_mut().unwrap();
        raw.truncate(raw.len() - 1);
    };
    let oblong = |tensor: &mut crate::onnx::TensorProto| tensor.dims[1] -= 1;
    let turned = |tensor: &mut crate::onnx::TensorProto| tensor.dims.reverse();
    let cases = [
        (
            without("patch_embeddings.projection.weight"),
            "0 tensors are named",
        ),
        (
            without("layer.1.norm2.bias"),
            "`backbone.encoder.layer.1.norm2.bias` is missing",
        ),
        (
            without("layer.0.norm1.weight"),
            "`backbone.encoder.layer.0.norm1.weight` is missing",
        ),
        (
            without("onnx::MatMul_1_UpWeight"),
            "`backbone.encoder.layer.1.mlp.fc1.weight`",
        ),
        (without("layer.1.mlp.fc2.bias"), "fc2"),
        (
            with("onnx::Reshape_9", oblong),
            "position_embeddings` is missing",
        ),
        (with("layernorm.bias", double), "its type is DOUBLE"),
        (
            with("layernorm.bias", short),
            "31 values for the shape [32]",
        ),
        (
            with("onnx::MatMul_0_UpWeight", turned),
            "has shape [64, 32], expected [32, 64]",
        ),
        (
            with("layer.1.norm1.weight/eps", |t| {
                t.raw_data = Some(1_f32.to_le_bytes().to_vec())
            }),
            "layer.1.norm1.weight",
        ),
        (without_nodes("Erf"), "found 0 Erf nodes"),
        (without_nodes("Reshape"), "head width"),
        (without_nodes("Sqrt"), "Sqrt"),
        (without_nodes("MatMul"), "a MatMul that feeds the Add"),
        (ModelProto::default(), "0 tensors are named"),
    ];
    for (model, want) in cases {
        let (dir, report) = import(&model);
        let error = report.expect_err(want).to_string();
        assert!(
            error.contains(want) && error.contains("model.onnx"),
            "{want}: {error}"
        );
        assert!(!dir.path().join("backbone/config.json").exists(), "{want}");
    }
}

#[test]
fn other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    fs::write(path("text.onnx"), "not a protobuf").unwrap();
    let error = import::import(&path("text.onnx"), &path("out"), None).unwrap_err();
    assert!(
        matches!(
            error,
            crate::Error::Import(ImportError::UnknownFormat { .. })
        ),
        "{error}"
    );
    let error = import::import(&path("none.onnx"), &path("out"), None).unwrap_err();
    assert!(error.to_string().contains("none.onnx"), "{error}");
}
