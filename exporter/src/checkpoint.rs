use crate::{
    Error, Exported, Form, Input, Result,
    backbone::Backbone,
    graph::{Axis, Graph},
    head::Head,
};
use stage1_core::{
    artifact::{Digest, tensors::TensorFile},
    checkpoint::Checkpoint,
    model::{HeadSpec as Spec, Weights},
    preprocess::{PixelFormat, PreprocessSpec},
};
use std::collections::BTreeMap;

/// Writes backbone and head as one model: input `pixel_values` [N, 3, H, W] (float32, normalised, of the size that the
/// checkpoint's preprocessing makes), output `logits` `[N, K]`, and `gate` `[N]` if the checkpoint has a gate.
///
/// The file's properties name the classes, the preprocessing and where the weights come from (`stage1.labels`,
/// `stage1.preprocess`, `stage1.checkpoint_digest`, `stage1.backbone_digest`, `stage1.splits_digest`); those in
/// `metadata` are added, and win over them.
///
/// # Errors
/// [`Error::OtherBackbone`] when the head was trained on other weights, [`Error::Artifact`] when the head's tensors
/// don't fit, [`Error::Model`] when the image size doesn't, [`Error::TooLarge`].
pub fn export_classifier(
    checkpoint: &Checkpoint,
    head: &TensorFile,
    weights: &Weights,
    metadata: &BTreeMap<String, String>,
) -> Result<Exported> {
    export_classifier_as(checkpoint, head, weights, metadata, &Form::default())
}

/// As [`export_classifier`], laid out as asked for.
///
/// # Errors
/// As [`export_classifier`]; [`Error::Preprocess`] when the checkpoint's pictures aren't whole grey levels and the form's
/// are; [`Error::Normalisation`] when the form has another normalisation.
pub fn export_classifier_as(
    checkpoint: &Checkpoint,
    head: &TensorFile,
    weights: &Weights,
    metadata: &BTreeMap<String, String>,
    form: &Form,
) -> Result<Exported> {
    check_backbone(checkpoint, weights)?;
    check_input(&checkpoint.preprocess, form.input)?;
    let head = Head::read(checkpoint, head)?;
    let mut graph = Graph::of_form(
        "stage1_classifier",
        form,
        4 * weights.spec().parameter_count(),
    );
    let size = checkpoint.preprocess.output_size();
    let Spec {
        features, blocks, ..
    } = checkpoint.head;
    let reads = features.into();
    let backbone = Backbone::write(&mut graph, weights, size, form.input, reads, blocks)?;
    let features = backbone.features(&mut graph, features);
    let outputs = head.outputs(&mut graph, &features);
    let classes = Axis::Fixed(checkpoint.head.classes);
    graph.output(&outputs.logits, &[Axis::Batch, classes]);
    if let Some(gate) = &outputs.gate {
        graph.output(gate, &[Axis::Batch]);
    }
    let mut properties = properties(checkpoint);
    properties.extend([backbone.folded()]);
    properties.extend(metadata.clone());
    graph.finish(&properties)
}

fn check_backbone(checkpoint: &Checkpoint, weights: &Weights) -> Result<()> {
    let (want, got) = (checkpoint.backbone_digest, weights.digest());
    if want == got && checkpoint.backbone == *weights.spec() {
        return Ok(());
    }
    Err(Error::OtherBackbone { want, got })
}

/// The model must do with grey levels what the checkpoint's preprocessing does.
fn check_input(preprocess: &PreprocessSpec, input: Input) -> Result<()> {
    let Input::Uint8(got) = input else {
        return Ok(());
    };
    preprocess.check_format(PixelFormat::Uint8)?;
    let want = preprocess.normalisation();
    match got == want {
        true => Ok(()),
        false => Err(Error::Normalisation { want, got }),
    }
}

fn properties(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let json = |value: serde_json::Result<String>| value.expect("plain data has a JSON form");
    let digest = |digest: Digest| digest.to_string();
    let properties = [
        ("labels", json(serde_json::to_string(&checkpoint.labels))),
        (
            "preprocess",
            json(serde_json::to_string(&checkpoint.preprocess)),
        ),
        ("checkpoint_digest", digest(checkpoint.digest())),
        ("backbone_digest", digest(checkpoint.backbone_digest)),
        ("splits_digest", digest(checkpoint.splits_digest)),
    ];
    properties
        .map(|(name, value)| (format!("stage1.{name}"), value))
        .into()
}
