use crate::{
    Exported, Form, Result,
    backbone::{Backbone, Reads},
    graph::{Axis, Graph},
};
use stage1_core::model::{Features, ReadBlocks, Weights};
use std::collections::BTreeMap;

/// Writes a backbone alone: input `pixel_values` [N, 3, `height`, `width`] (float32, normalised), outputs `tokens`
/// [N, T, D] after the final norm (class token, registers, patches row by row) and `features` [N, D] (the class token's).
///
/// # Errors
/// [`crate::Error::Model`] when the size isn't a multiple of the patch size, [`crate::Error::TooLarge`].
pub fn export_embedding(weights: &Weights, height: usize, width: usize) -> Result<Exported> {
    export_embedding_as(weights, height, width, &Form::default())
}

/// As [`export_embedding`], without `tokens`: nothing that only these need is computed.
///
/// # Errors
/// As [`export_embedding`].
pub fn export_features(weights: &Weights, height: usize, width: usize) -> Result<Exported> {
    let form = Form::default();
    let (mut graph, backbone) = begin(weights, (height, width), &form, Reads::Class)?;
    let features = backbone.features(&mut graph, Features::Cls);
    graph.output(&features, &[Axis::Batch, Axis::Fixed(backbone.hidden())]);
    graph.finish(&BTreeMap::from([backbone.folded()]))
}

/// As [`export_embedding`], laid out as asked for.
///
/// # Errors
/// As [`export_embedding`].
pub fn export_embedding_as(
    weights: &Weights,
    height: usize,
    width: usize,
    form: &Form,
) -> Result<Exported> {
    let (mut graph, backbone) = begin(weights, (height, width), form, Reads::Tokens)?;
    let tokens = backbone.tokens(&mut graph, "tokens");
    let features = graph.first("features", &tokens);
    let width = Axis::Fixed(backbone.hidden());
    let count = Axis::Fixed(backbone.token_count());
    graph.output(&tokens, &[Axis::Batch, count, width]);
    graph.output(&features, &[Axis::Batch, width]);
    graph.finish(&BTreeMap::from([backbone.folded()]))
}

fn begin<'a>(
    weights: &'a Weights,
    size: (usize, usize),
    form: &Form,
    reads: Reads,
) -> Result<(Graph, Backbone<'a>)> {
    let bytes = 4 * weights.spec().parameter_count();
    let mut graph = Graph::of_form("stage1_embedding", form, bytes);
    let backbone = Backbone::write(
        &mut graph,
        weights,
        size,
        form.input,
        reads,
        ReadBlocks::LAST,
    )?;
    Ok((graph, backbone))
}
