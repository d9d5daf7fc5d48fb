//! What a backbone's first convolution reads.

use crate::{
    Input,
    graph::{Axis, Conv, Graph, Value},
};
use stage1_core::preprocess::Normalisation;

/// The graph's input as planes, [N, 3, H, W].
pub(super) struct Picture {
    planes: Value,
    /// What the first convolution has to do with them.
    normalisation: Option<Normalisation>,
}

impl Picture {
    /// Writes the input.
    pub(super) fn write(graph: &mut Graph, (height, width): (usize, usize), input: Input) -> Self {
        let axes = |shape: [usize; 3]| {
            let [a, b, c] = shape.map(Axis::Fixed);
            [Axis::Batch, a, b, c]
        };
        match input {
            Input::Float32 => Self {
                planes: graph.input("pixel_values", &axes([3, height, width])),
                normalisation: None,
            },
            Input::Uint8(normalisation) => {
                let levels = graph.input_u8("pixel_values", &axes([height, width, 3]));
                // TensorRT takes uint8 inputs only where a cast is what reads them.
                let float = graph.cast_f32("pixel_values.float", &levels);
                Self {
                    planes: graph.transpose("pixel_values.planes", &float, &[0, 3, 1, 2]),
                    normalisation: Some(normalisation),
                }
            }
        }
    }

    /// A convolution of the normalised picture.
    ///
    /// # Panics
    /// When grey levels would be padded: a zero that is padded isn't a normalised zero.
    pub(super) fn conv(&self, graph: &mut Graph, name: &str, conv: &Conv<'_>) -> Value {
        let Some(normalisation) = self.normalisation else {
            return graph.conv(name, &self.planes, conv);
        };
        assert_eq!(conv.padding, 0, "`{name}` pads");
        let (weight, bias) = folded(conv, normalisation);
        let conv = Conv {
            weight: &weight,
            bias: &bias,
            ..*conv
        };
        graph.conv(name, &self.planes, &conv)
    }

    /// What is folded, for people.
    pub(super) fn folded(&self) -> Option<&'static str> {
        self.normalisation
            .map(|_| "the pictures' normalisation into the first convolution")
    }
}

/// Weight and bias for grey levels: `conv(level * scale + offset)` is `conv'(level)`.
fn folded(conv: &Conv<'_>, normalisation: Normalisation) -> (Vec<f32>, Vec<f32>) {
    let Normalisation { scale, offset } = normalisation;
    let (area, mut weight, mut bias) = (
        conv.side * conv.side,
        conv.weight.to_vec(),
        conv.bias.to_vec(),
    );
    for (filter, bias) in weight.chunks_exact_mut(3 * area).zip(&mut bias) {
        let mut shift = f64::from(*bias);
        for (channel, plane) in filter.chunks_exact_mut(area).enumerate() {
            let sum: f64 = plane.iter().map(|w| f64::from(*w)).sum();
            shift += sum * f64::from(offset[channel]);
            plane.iter_mut().for_each(|w| *w *= scale[channel]);
        }
        *bias = shift as f32;
    }
    (weight, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fold_is_that_of_the_formula() {
        let weight: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let conv = Conv {
            weight: &weight,
            bias: &[1.0, -1.0],
            side: 2,
            stride: 2,
            padding: 0,
            groups: 1,
        };
        let normalisation = Normalisation {
            scale: [1.0, 2.0, 3.0],
            offset: [1.0, 10.0, -1.0],
        };
        let (scaled, shifted) = folded(&conv, normalisation);
        assert_eq!(scaled[..4], weight[..4]);
        assert_eq!(scaled[20..], [60.0, 63.0, 66.0, 69.0]);
        // 0+1+2+3, 10 times 4+5+6+7, less 8+9+10+11; the second filter's are 12 higher each.
        assert_eq!(
            shifted,
            [1.0 + 6.0 + 220.0 - 38.0, -1.0 + 54.0 + 700.0 - 86.0]
        );
    }

    #[test]
    #[should_panic(expected = "`stem` pads")]
    fn grey_levels_are_not_padded() {
        let mut graph = Graph::new("g");
        let input = Input::Uint8(Normalisation::new([0.5; 3], [0.5; 3]));
        let picture = Picture::write(&mut graph, (4, 4), input);
        let conv = Conv {
            weight: &[0.0; 27],
            bias: &[0.0],
            side: 3,
            stride: 1,
            padding: 1,
            groups: 1,
        };
        picture.conv(&mut graph, "stem", &conv);
    }
}
