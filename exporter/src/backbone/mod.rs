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
use stage1_core::model::{BackboneSpec, Features, ReadBlocks, Result, Role, Weights};

/// A backbone that was written into a graph, up to its final norm.
pub(crate) struct Backbone<'a> {
    weights: &'a Weights,
    norm_eps: f64,
    tokens: usize,
    body: Body,
    /// All tokens after shallower blocks that are read, too, not normed, by the block.
    shallower: Vec<(usize, Body)>,
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
        blocks: ReadBlocks,
    ) -> Result<Self> {
        let spec = weights.spec();
        let grid = spec.grid(height, width)?;
        let picture = Picture::write(graph, size, input);
        let (norm_eps, (body, shallower), mut folded) = match spec {
            BackboneSpec::Vit(vit) => {
                let body = vit::body(graph, vit, weights, grid, &picture, (reads, blocks));
                (vit.norm_eps, body, vit::folded(vit, reads))
            }
            BackboneSpec::ConvNext(convnext) => {
                let map = convnext::map(graph, convnext, weights, &picture);
                let body = (Body::Map(map), Vec::new());
                (convnext.norm_eps, body, convnext::FOLDED.to_vec())
            }
        };
        let shallower = shallower.into_iter();
        let shallower = shallower.map(|(block, tokens)| (block, Body::Sequence(tokens)));
        folded.extend(picture.folded());
        Ok(Self {
            weights,
            norm_eps,
            tokens: spec.token_count(height, width)?,
            body,
            shallower: shallower.collect(),
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
        self.tokens_of(graph, &self.body, name)
    }

    fn tokens_of(&self, graph: &mut Graph, body: &Body, name: &str) -> Value {
        let tokens = match body {
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

    /// What a head reads, [N, F]: features of the blocks that it was written for, from the shallowest on.
    pub(crate) fn features(&self, graph: &mut Graph, kind: Features) -> Value {
        if self.shallower.is_empty() {
            return self.features_of(graph, &self.body, kind, "", "features");
        }
        let mut parts: Vec<_> = self
            .shallower
            .iter()
            .map(|(block, body)| {
                let prefix = format!("read.{block}.");
                let name = format!("{prefix}features");
                self.features_of(graph, body, kind, &prefix, &name)
            })
            .collect();
        parts.push(self.features_of(graph, &self.body, kind, "", "read.last.features"));
        graph.concat("features", &parts.iter().collect::<Vec<_>>(), 1)
    }

    /// Features of one block, as the value `name`; what leads to it has names with `prefix`.
    fn features_of(
        &self,
        graph: &mut Graph,
        body: &Body,
        kind: Features,
        prefix: &str,
        name: &str,
    ) -> Value {
        let inner = |part: &str| format!("{prefix}{part}");
        match kind {
            Features::Cls => {
                // The norm works token by token: that of the class token is enough.
                let class = match body {
                    Body::Sequence(tokens) => graph.first(&inner("class_token"), tokens),
                    Body::Class(class) => class.clone(),
                    Body::Map(map) => graph.mean_axes(&inner("class_token"), map, &[1, 2], false),
                };
                self.norm(graph, name, &class)
            }
            Features::ClsMeanPatch => {
                let normed = self.tokens_of(graph, body, &inner("norm"));
                let class = graph.first(&inner("class_token"), &normed);
                let (start, end) = (self.weights.spec().prefix_tokens(), self.tokens);
                let patches = graph.rows(&inner("patch_tokens"), &normed, start, end);
                let mean = graph.mean_axes(&inner("patch_tokens.mean"), &patches, &[1], false);
                graph.concat(name, &[&class, &mean], 1)
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
