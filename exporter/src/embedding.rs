use crate::{
    Exported, Result,
    graph::{Axis, Graph, check_size},
    vit,
};
use stage1_core::model::{BackboneSpec, Weights};
use std::collections::BTreeMap;

/// Writes a backbone alone: input `pixel_values` [N, 3, `height`, `width`] (float32, normalised), outputs `tokens`
/// [N, T, D] after the final norm (class token, registers, patches row by row) and `features` [N, D] (the class token's).
///
/// # Errors
/// [`crate::Error::Model`] when the size isn't a multiple of the patch size, [`crate::Error::TooLarge`].
pub fn export_embedding(
    spec: &BackboneSpec,
    weights: &Weights,
    height: usize,
    width: usize,
) -> Result<Exported> {
    check_size(4 * spec.parameter_count())?;
    let mut graph = Graph::new("stage1_embedding");
    let (vit, x) = vit::tokens(&mut graph, spec, weights, (height, width))?;
    let tokens = vit.norm(&mut graph, "tokens", &x);
    let features = graph.first("features", &tokens);
    let width = Axis::Fixed(vit.hidden());
    graph.output(
        &tokens,
        &[Axis::Batch, Axis::Fixed(vit.token_count()), width],
    );
    graph.output(&features, &[Axis::Batch, width]);
    graph.finish(&BTreeMap::new())
}
