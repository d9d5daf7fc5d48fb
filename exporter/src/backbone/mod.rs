//! Backbones as graphs, for one image size. A family's module writes what comes before the final norm; the norm, and what
//! heads and embeddings read after it, are here.
//!
//! The norms' weights and biases stay in the norms. In the layers after them they would save nothing: without them, ViT-S/16
//! took 0.995 times the processor time ([0.982, 1.008], 80 alternated runs of 8 images on ONNX Runtime 1.31's CPU), as
//! `LayerNormalization` has a weight in any case; and int8's smoothing needs a place for its factors.

mod convnext;
mod picture;
mod vit;

use crate::{
    Input,
    graph::{Graph, Value},
    inspect::FOLDED,
};
use picture::Picture;
use stage1_core::model::{BackboneSpec, Features, Result, Role, Weights};

/// A backbone that was written into a graph, up to its final norm.
pub(crate) struct Backbone<'a> {
    weights: &'a Weights,
    norm_eps: f64,
    tokens: usize,
    body: Body,
    folded: Vec<&'static str>,
}

/// What the last layer leaves, not normed yet. D is the width of a token.
enum Body {
    /// All tokens, [N, T, D].
    Sequence(Value),
    /// The class token alone, [N, D].
    Class(Value),
    /// The patches, [N, H, W, D]; the class token is their mean.
    Map(Value),
}

/// What is read of a backbone: nothing else of its last block needs to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    /// All tokens.
    Tokens,
    /// The class token.
    Class,
}

impl From<Features> for Reads {
    fn from(features: Features) -> Self {
        match features {
            Features::Cls => Self::Class,
            Features::ClsMeanPatch => Self::Tokens,
        }
    }
}

impl<'a> Backbone<'a> {
    /// Writes input and body for images of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`stage1_core::model::ModelError::ImageSize`] unless they are whole numbers of patches.
    pub(crate) fn write(
        graph: &mut Graph,
        weights: &'a Weights,
        size @ (height, width): (usize, usize),
        input: Input,
        reads: Reads,
    ) -> Result<Self> {
        let spec = weights.spec();
        let grid = spec.grid(height, width)?;
        let picture = Picture::write(graph, size, input);
        let (norm_eps, body, mut folded) = match spec {
            BackboneSpec::Vit(vit) => {
                let body = vit::body(graph, vit, weights, grid, &picture, reads);
                (vit.norm_eps, body, vit::folded(vit, reads))
            }
            BackboneSpec::ConvNext(convnext) => {
                let map = convnext::map(graph, convnext, weights, &picture);
                (convnext.norm_eps, Body::Map(map), convnext::FOLDED.to_vec())
            }
        };
        folded.extend(picture.folded());
        Ok(Self {
            weights,
            norm_eps,
            tokens: spec.token_count(height, width)?,
            body,
            folded,
        })
    }

    /// What was folded into weights or left out, as a property of the model.
    pub(crate) fn folded(&self) -> (String, String) {
        let list = serde_json::to_string(&self.folded).expect("plain text has a JSON form");
        (FOLDED.to_owned(), list)
    }

    /// Width D of a token.
    pub(crate) fn hidden(&self) -> usize {
        self.weights.spec().hidden()
    }

    /// Number T of tokens.
    pub(crate) fn token_count(&self) -> usize {
        self.tokens
    }

    /// All tokens after the final norm, [N, T, D].
    ///
    /// # Panics
    /// When it was written to be read by the class token alone.
    pub(crate) fn tokens(&self, graph: &mut Graph, name: &str) -> Value {
        let tokens = match &self.body {
            Body::Sequence(tokens) => tokens.clone(),
            Body::Class(_) => panic!("only the class token was computed"),
            Body::Map(map) => {
                let shape = [0, (self.tokens - 1) as i64, self.hidden() as i64];
                let patches = graph.reshape("patch_tokens.unnormed", map, &shape);
                let class = graph.mean_axes("class_token.mean", &patches, &[1], true);
                graph.concat("tokens.unnormed", &[&class, &patches], 1)
            }
        };
        self.norm(graph, name, &tokens)
    }

    /// What a head reads, [N, F].
    pub(crate) fn features(&self, graph: &mut Graph, kind: Features) -> Value {
        match kind {
            Features::Cls => {
                // The norm works token by token: that of the class token is enough.
                let class = match &self.body {
                    Body::Sequence(tokens) => graph.first("class_token", tokens),
                    Body::Class(class) => class.clone(),
                    Body::Map(map) => graph.mean_axes("class_token", map, &[1, 2], false),
                };
                self.norm(graph, "features", &class)
            }
            Features::ClsMeanPatch => {
                let normed = self.tokens(graph, "norm");
                let class = graph.first("class_token", &normed);
                let (start, end) = (self.weights.spec().prefix_tokens(), self.tokens);
                let patches = graph.rows("patch_tokens", &normed, start, end);
                let mean = graph.mean_axes("patch_tokens.mean", &patches, &[1], false);
                graph.concat("features", &[&class, &mean], 1)
            }
        }
    }

    /// The final norm of any number of tokens.
    fn norm(&self, graph: &mut Graph, name: &str, x: &Value) -> Value {
        let (weight, bias) = (Role::NormWeight, Role::NormBias);
        let (weight, bias) = (self.weights.get(weight), self.weights.get(bias));
        graph.layer_norm(name, x, weight, bias, self.norm_eps)
    }
}
