use crate::{
    Exported, Result,
    backbone::{Backbone, Reads},
    graph::{Axis, Graph, check_size},
};
use stage1_core::model::Weights;
use std::collections::BTreeMap;

/// Writes a backbone alone: input `pixel_values` [N, 3, `height`, `width`] (float32, normalised), outputs `tokens`
/// [N, T, D] after the final norm (class token, registers, patches row by row) and `features` [N, D] (the class token's).
///
/// # Errors
/// [`crate::Error::Model`] when the size isn't a multiple of the patch size, [`crate::Error::TooLarge`].
pub fn export_embedding(weights: &Weights, height: usize, width: usize) -> Result<Exported> {
    check_size(4 * weights.spec().parameter_count())?;
    let mut graph = Graph::new("stage1_embedding");
    let backbone = Backbone::write(&mut graph, weights, (height, width), Reads::Tokens)?;
    let tokens = backbone.tokens(&mut graph, "tokens");
    let features = graph.first("features", &tokens);
    let width = Axis::Fixed(backbone.hidden());
    let count = Axis::Fixed(backbone.token_count());
    graph.output(&tokens, &[Axis::Batch, count, width]);
    graph.output(&features, &[Axis::Batch, width]);
    graph.finish(&BTreeMap::from([backbone.folded()]))
}
