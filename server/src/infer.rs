//! Inference as the Open Inference Protocol has it, before it is JSON or protobuf.

use crate::{
    engine::About,
    failure::{Failure, Result},
    model::{Item, Outcome, Picture},
};
use bytes::Bytes;
use stage1_core::{bundle::DecisionKind, preprocess::PixelFormat};
use stage1_runtime::Row;
use std::{borrow::Cow, time::Duration};

/// The input that takes encoded images.
pub(crate) const IMAGE: &str = "image";

/// A tensor of a request.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) datatype: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) data: Data,
}

/// A tensor's elements.
#[derive(Debug)]
pub(crate) enum Data {
    /// Row-major, little-endian; of BYTES, each element after its length in four bytes.
    Raw(Bytes),
    Floats(Vec<f32>),
    Levels(Vec<u8>),
    Elements(Vec<Bytes>),
}

/// A request for one model.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) inputs: Vec<Input>,
    /// Names of the outputs that are wanted; none: all.
    pub(crate) outputs: Vec<String>,
    /// The time that the client gives it.
    pub(crate) timeout: Option<Duration>,
}

/// A tensor of an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
    pub(crate) values: Values,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Values {
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bool(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor that a model takes or gives.
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) datatype: &'static str,
    /// Of one image.
    pub(crate) dims: Vec<i64>,
}

/// What a model takes: one of these.
pub(crate) fn input_specs(about: &About) -> Vec<TensorSpec> {
    let [_, a, b, c] = about
        .pixels
        .shape(1, about.height, about.width)
        .map(|side| side as i64);
    vec![
        TensorSpec {
            name: IMAGE.to_owned(),
            datatype: "BYTES",
            dims: vec![1],
        },
        TensorSpec {
            name: about.input.clone(),
            datatype: pixel_datatype(about),
            dims: vec![a, b, c],
        },
    ]
}

/// What a model gives.
pub(crate) fn output_specs(about: &About) -> Vec<TensorSpec> {
    let classes = about.labels.len() as i64;
    let spec = |name: &str, datatype, n| TensorSpec {
        name: name.to_owned(),
        datatype,
        dims: vec![n],
    };
    vec![
        spec(&about.output, "FP32", classes),
        spec("probabilities", "FP64", classes),
        spec("probability", "FP64", 1),
        spec("label", "BYTES", 1),
        spec("decision", "BYTES", 1),
        spec("reason", "BYTES", 1),
        spec("certified", "BOOL", 1),
    ]
}

fn pixel_datatype(about: &About) -> &'static str {
    match about.pixels {
        PixelFormat::Float32 => "FP32",
        PixelFormat::Uint8 => "UINT8",
    }
}

impl Request {
    /// The images of the request; `name` is what their records are called.
    pub(crate) fn items(self, about: &About, name: &str) -> Result<Vec<Item>> {
        for wanted in &self.outputs {
            check_output(about, wanted)?;
        }
        let takes = || {
            format!(
                "`{IMAGE}` (BYTES, encoded images) or `{}` ({}, the model's own input)",
                about.input,
                pixel_datatype(about)
            )
        };
        let n = self.inputs.len();
        let Ok([input]) = <[Input; 1]>::try_from(self.inputs) else {
            return Err(Failure::Invalid(format!(
                "the request has {n} inputs, expected one: {}",
                takes()
            )));
        };
        let pictures: Vec<_> =
            if input.name == IMAGE && (input.datatype == "BYTES" || about.input != IMAGE) {
                files(input)?.into_iter().map(Picture::File).collect()
            } else if input.name == about.input {
                rows(input, about)?.into_iter().map(Picture::Row).collect()
            } else {
                return Err(Failure::Invalid(format!(
                    "there is no input `{}`, expected {}",
                    input.name,
                    takes()
                )));
            };
        if pictures.is_empty() {
            return Err(Failure::Invalid("the request has no images".to_owned()));
        }
        let one = pictures.len() == 1;
        let item = |(i, picture)| Item {
            path: if one {
                name.to_owned()
            } else {
                format!("{name}#{i}")
            },
            picture,
        };
        Ok(pictures.into_iter().enumerate().map(item).collect())
    }
}

fn check_output(about: &About, name: &str) -> Result<()> {
    let known = output_specs(about);
    if known.iter().any(|spec| spec.name == name) {
        return Ok(());
    }
    let names: Vec<_> = known.into_iter().map(|spec| spec.name).collect();
    Err(Failure::Invalid(format!(
        "there is no output `{name}`, there are {}",
        names.join(", ")
    )))
}

/// The encoded images of a BYTES tensor of shape [n] or [n, 1].
fn files(input: Input) -> Result<Vec<Bytes>> {
    expect_datatype(&input, "BYTES")?;
    let n = match input.shape[..] {
        [n] | [n, 1] if n >= 0 => n as usize,
        _ => return Err(wrong_shape(&input, "[n] or [n, 1]")),
    };
    let files = match input.data {
        Data::Raw(bytes) => split_elements(bytes)?,
        Data::Elements(elements) => elements,
        Data::Floats(_) | Data::Levels(_) => {
            return Err(Failure::Invalid(format!(
                "`{IMAGE}` holds numbers, expected bytes"
            )));
        }
    };
    if files.len() != n {
        return Err(Failure::Invalid(format!(
            "`{IMAGE}` has {} elements, its shape says {n}",
            files.len()
        )));
    }
    Ok(files)
}

/// Elements of a BYTES tensor, each after its length.
fn split_elements(mut bytes: Bytes) -> Result<Vec<Bytes>> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let length = bytes
            .first_chunk()
            .map(|length| u32::from_le_bytes(*length) as usize);
        let (Some(length), true) = (length, bytes.len() >= 4) else {
            return Err(Failure::Invalid(
                "a BYTES tensor ends within the length of an element".to_owned(),
            ));
        };
        _ = bytes.split_to(4);
        if length > bytes.len() {
            return Err(Failure::Invalid(format!(
                "element {} of a BYTES tensor has {length} bytes, of which {} are there",
                elements.len(),
                bytes.len()
            )));
        }
        elements.push(bytes.split_to(length));
    }
    Ok(elements)
}

/// The images of the model's own input.
fn rows(input: Input, about: &About) -> Result<Vec<Row>> {
    expect_datatype(&input, pixel_datatype(about))?;
    let want = about.pixels.shape(1, about.height, about.width);
    let fits = input.shape.len() == 4
        && input.shape[0] >= 0
        && (1..4).all(|i| input.shape[i] == want[i] as i64);
    if !fits {
        let want = format!("[n, {}, {}, {}]", want[1], want[2], want[3]);
        return Err(wrong_shape(&input, &want));
    }
    match about.pixels {
        PixelFormat::Float32 => split(&floats(&input)?, about, &input, Row::float32),
        PixelFormat::Uint8 => split(levels(&input)?, about, &input, Row::uint8),
    }
}

/// The rows of all values, of which there must be as many as the shape says.
fn split<T: Copy>(
    values: &[T],
    about: &About,
    input: &Input,
    row: fn(Vec<T>) -> Row,
) -> Result<Vec<Row>> {
    let (n, len) = (input.shape[0] as usize, about.row_len());
    if Some(values.len()) != n.checked_mul(len) {
        return Err(Failure::Invalid(format!(
            "`{}` has {} elements, its shape {:?} needs {n} x {len}",
            input.name,
            values.len(),
            input.shape
        )));
    }
    Ok(values
        .chunks_exact(len)
        .map(|values| row(values.to_vec()))
        .collect())
}

fn floats(input: &Input) -> Result<Cow<'_, [f32]>> {
    match &input.data {
        Data::Floats(values) => Ok(values.into()),
        Data::Raw(bytes) => {
            let (values, rest) = bytes.as_chunks();
            if !rest.is_empty() {
                return Err(Failure::Invalid(format!(
                    "`{}` has {} bytes, no multiple of 4",
                    input.name,
                    bytes.len()
                )));
            }
            Ok(values
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect())
        }
        Data::Levels(_) | Data::Elements(_) => Err(no_numbers(input)),
    }
}

fn levels(input: &Input) -> Result<&[u8]> {
    match &input.data {
        Data::Levels(values) => Ok(values),
        Data::Raw(bytes) => Ok(bytes),
        Data::Floats(_) | Data::Elements(_) => Err(no_numbers(input)),
    }
}

fn no_numbers(input: &Input) -> Failure {
    Failure::Invalid(format!(
        "`{}` isn't given as {}",
        input.name, input.datatype
    ))
}

fn expect_datatype(input: &Input, want: &str) -> Result<()> {
    if input.datatype == want {
        return Ok(());
    }
    Err(Failure::Invalid(format!(
        "`{}` is {}, expected {want}",
        input.name, input.datatype
    )))
}

fn wrong_shape(input: &Input, want: &str) -> Failure {
    Failure::Invalid(format!(
        "`{}` has shape {:?}, expected {want}",
        input.name, input.shape
    ))
}

/// The tensors of an answer: those that `wanted` names, in its order, or all. An image that couldn't be judged fails the request:
/// a tensor has no place for it.
pub(crate) fn outputs(
    about: &About,
    wanted: &[String],
    outcomes: &[Outcome],
) -> Result<Vec<Output>> {
    if let Some((i, outcome)) = outcomes
        .iter()
        .enumerate()
        .find(|(_, outcome)| outcome.is_error())
    {
        let error = outcome
            .judged
            .prediction
            .error
            .as_deref()
            .unwrap_or("it can't be judged");
        return Err(Failure::Image(match outcomes.len() {
            1 => error.to_owned(),
            n => format!("image {i} of {n}: {error}"),
        }));
    }
    let specs = output_specs(about);
    let names: Vec<_> = match wanted {
        [] => specs.iter().map(|spec| spec.name.clone()).collect(),
        wanted => wanted.to_vec(),
    };
    Ok(names
        .into_iter()
        .map(|name| output(about, name, outcomes))
        .collect())
}

fn output(about: &About, name: String, outcomes: &[Outcome]) -> Output {
    let all = || outcomes.iter().map(|outcome| &outcome.judged.prediction);
    let values = match name.as_str() {
        "probabilities" => Values::Fp64(
            outcomes
                .iter()
                .flat_map(|o| o.judged.probabilities.iter().copied())
                .collect(),
        ),
        "probability" => Values::Fp64(
            all()
                .map(|one| one.probability.unwrap_or(f64::NAN))
                .collect(),
        ),
        "label" => Values::Texts(
            all()
                .map(|one| one.label.clone().unwrap_or_default())
                .collect(),
        ),
        "decision" => Values::Texts(
            all()
                .map(|one| {
                    if one.decision == DecisionKind::Answer {
                        "answer"
                    } else {
                        "defer"
                    }
                    .to_owned()
                })
                .collect(),
        ),
        "reason" => Values::Texts(
            all()
                .map(|one| one.reason.clone().unwrap_or_default())
                .collect(),
        ),
        "certified" => Values::Bool(all().map(|one| one.certified).collect()),
        // Names were checked: it is the model's own output.
        _ => Values::Fp32(
            all()
                .flat_map(|one| one.logits.iter().flatten().copied())
                .collect(),
        ),
    };
    let columns = if name == about.output || name == "probabilities" {
        about.labels.len()
    } else {
        1
    };
    Output {
        name,
        shape: [outcomes.len(), columns],
        values,
    }
}

impl Values {
    pub(crate) fn datatype(&self) -> &'static str {
        match self {
            Self::Fp32(_) => "FP32",
            Self::Fp64(_) => "FP64",
            Self::Bool(_) => "BOOL",
            Self::Texts(_) => "BYTES",
        }
    }

    /// As [`Data::Raw`].
    pub(crate) fn to_raw(&self) -> Vec<u8> {
        match self {
            Self::Fp32(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Self::Fp64(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Self::Bool(values) => values.iter().map(|value| u8::from(*value)).collect(),
            Self::Texts(texts) => {
                let mut raw = Vec::new();
                for text in texts {
                    raw.extend((text.len() as u32).to_le_bytes());
                    raw.extend(text.as_bytes());
                }
                raw
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_bytes_are_found_by_their_lengths() {
        let good =
            Values::Texts(["a".to_owned(), String::new(), "bc".to_owned()].to_vec()).to_raw();
        assert_eq!(
            split_elements(good.clone().into()).unwrap(),
            ["a", "", "bc"]
        );
        for (name, cut) in [
            ("within an element", good.len() - 1),
            ("within a length", 7),
        ] {
            let error = split_elements(good[..cut].to_vec().into()).unwrap_err();
            assert_eq!(error.status(), 400, "{name}");
        }
    }
}
