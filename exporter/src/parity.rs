//! Does the exported model compute what the trainer computed, whatever else is in the batch?

use crate::{Error, Result};
use stage1_core::{
    artifact::{self, Document as _, tensors::TensorFile},
    bundle::Parity,
    preprocess::Normalisation,
};
use std::ops::Range;

/// What runs a model: the command line implements it with ONNX Runtime.
pub trait Session {
    /// Whether the model has a gate.
    fn has_gate(&self) -> bool {
        false
    }

    /// Logits [N, K], row-major, each row followed by its gate if there is one, of normalised `pixel_values` with shape [N, 3, H, W]. A model that takes grey levels is given
    /// those that the values were made of: refuse values that were made of none.
    ///
    /// # Errors
    /// The session's own.
    fn run(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
    ) -> Result<Vec<f32>, Box<dyn std::error::Error + Send + Sync>>;
}

/// How far logits may be off, as shares of their scale (the largest |logit| of the reference).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// Against the reference.
    pub reference: f64,
    /// Between an image alone and the same image in a batch.
    pub batch: f64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            reference: 1e-4,
            batch: 1e-5,
        }
    }
}

/// Runs the images of `reference.safetensors` (`pixel_values` [n, 3, H, W], `logits` [n, K], for a model with a gate `gate`
/// `[n]`, which is held to the logits' tolerance) alone and in batches of
/// several sizes, orders and neighbours (among them black and white ones, which a batch-wide quantisation
/// range would follow), and compares every result with the reference and with that of the image alone. `normalisation` is
/// what made `pixel_values` of grey levels: it tells what black and white are.
///
/// [`Parity::passed`] is the verdict; it is the caller who acts on it.
///
/// # Errors
/// [`Error::Artifact`] when the reference lacks a tensor, [`Error::Session`], [`Error::OutputLength`],
/// [`Error::NonFiniteLogit`], [`Error::Tolerance`].
pub fn parity(
    session: &mut dyn Session,
    reference: &TensorFile,
    normalisation: Normalisation,
    tolerances: Tolerances,
) -> Result<Parity> {
    check_tolerances(tolerances)?;
    let reference = Reference::read(reference, session.has_gate())?;
    let mut runner = Runner {
        session,
        reference: &reference,
        extremes: [0.0, 255.0].map(|level| normalisation.apply([level; 3])),
    };
    let mut alone = Vec::new();
    for image in 0..reference.images {
        alone.extend(runner.run(&[Some(image)])?);
    }
    let mut error = Differences::default();
    let mut batch_error = Differences::default();
    let mut same_labels = true;
    error.add(&alone, &reference.logits);
    same_labels &= reference.same_labels(&alone, 0..reference.images);
    for batch in batches(reference.images) {
        let logits = runner.run(&batch)?;
        for (image, row) in batch.iter().zip(logits.chunks_exact(reference.width)) {
            let Some(image) = *image else { continue };
            let at = reference.row(image);
            error.add(row, &reference.logits[at.clone()]);
            batch_error.add(row, &alone[at]);
            same_labels &= reference.same_labels(row, image..image + 1);
        }
    }
    Ok(verdict(
        &reference,
        &error,
        &batch_error,
        same_labels,
        tolerances,
    ))
}

fn verdict(
    reference: &Reference,
    error: &Differences,
    batch_error: &Differences,
    same_labels: bool,
    tolerances: Tolerances,
) -> Parity {
    let scale = reference.scale();
    let holds = |differences: &Differences, tolerance: f64| differences.max <= tolerance * scale;
    Parity {
        schema_version: Parity::SCHEMA_VERSION,
        images: reference.images,
        scale,
        max_abs_error: error.max,
        mean_abs_error: error.mean(),
        tolerance: tolerances.reference,
        batch_max_abs_error: batch_error.max,
        batch_tolerance: tolerances.batch,
        same_labels,
        flips: None,
        passed: holds(error, tolerances.reference) && holds(batch_error, tolerances.batch),
    }
}

fn check_tolerances(tolerances: Tolerances) -> Result<()> {
    let all = [
        ("reference", tolerances.reference),
        ("batch", tolerances.batch),
    ];
    match all
        .into_iter()
        .find(|(_, value)| !value.is_finite() || *value < 0.0)
    {
        Some((name, value)) => Err(Error::Tolerance { name, value }),
        None => Ok(()),
    }
}

/// A batch: indices of reference images, and `None` for a made-up neighbour.
type Batch = Vec<Option<usize>>;

/// The batches of `n` images: all, all backwards, in twos, in threes, one image in every place, all between neighbours
/// of extreme values.
fn batches(n: usize) -> Vec<Batch> {
    let all: Batch = (0..n).map(Some).collect();
    let backwards: Batch = all.iter().rev().copied().collect();
    let repeated = vec![Some(n - 1); 3];
    let crowded = [vec![None], all.clone(), vec![None; 2]].concat();
    let parts = |size: usize| all.chunks(size).map(<[_]>::to_vec).collect::<Vec<_>>();
    [
        vec![all.clone(), backwards],
        parts(2),
        parts(3),
        vec![repeated, crowded],
    ]
    .concat()
}

/// The trainer's inputs and outputs.
struct Reference {
    images: usize,
    classes: usize,
    /// Values in a row: the logits, and the gate if there is one.
    width: usize,
    /// `[3, H, W]` of one image.
    image_shape: [usize; 3],
    pixels: Vec<f32>,
    /// `[n, width]`.
    logits: Vec<f32>,
}

impl Reference {
    fn read(file: &TensorFile, with_gate: bool) -> Result<Self> {
        let wrong = |name: &str, got: &[usize], want: &str| artifact::Error::TensorShape {
            path: file.path().to_owned(),
            name: name.to_owned(),
            got: got.to_vec(),
            want: want.to_owned(),
        };
        let (shape, pixels) = file.f32("pixel_values")?;
        let (logits_shape, logits) = file.f32("logits")?;
        let [images, channels @ 3, height, width] = shape[..] else {
            return Err(wrong("pixel_values", &shape, "[n, 3, height, width]").into());
        };
        match logits_shape[..] {
            [n, classes] if n == images && n > 0 && classes > 0 => {
                let (width_of_row, logits) = match with_gate {
                    true => {
                        let gate = file.f32_of_shape("gate", &[n])?;
                        (classes + 1, with_column(&logits, classes, &gate))
                    }
                    false => (classes, logits),
                };
                Ok(Self {
                    images,
                    classes,
                    width: width_of_row,
                    image_shape: [channels, height, width],
                    pixels,
                    logits,
                })
            }
            _ => Err(wrong(
                "logits",
                &logits_shape,
                "[n, classes] with the n of `pixel_values`, both at least 1",
            )
            .into()),
        }
    }

    fn scale(&self) -> f64 {
        let logits = self.logits.chunks_exact(self.width);
        logits
            .flat_map(|row| &row[..self.classes])
            .fold(0.0, |scale, logit| f64::from(logit.abs()).max(scale))
    }

    fn row(&self, image: usize) -> Range<usize> {
        image * self.width..(image + 1) * self.width
    }

    fn image(&self, image: usize) -> &[f32] {
        let size: usize = self.image_shape.iter().product();
        &self.pixels[image * size..][..size]
    }

    fn same_labels(&self, logits: &[f32], images: Range<usize>) -> bool {
        let rows = logits.chunks_exact(self.width);
        let label = |row: &[f32]| arg_max(&row[..self.classes]);
        images
            .zip(rows)
            .all(|(image, row)| label(row) == label(&self.logits[self.row(image)]))
    }
}

/// Rows `[n, classes]` with one more value each.
fn with_column(rows: &[f32], classes: usize, column: &[f32]) -> Vec<f32> {
    let rows = rows.chunks_exact(classes).zip(column);
    rows.flat_map(|(row, value)| row.iter().chain([value]))
        .copied()
        .collect()
}

fn arg_max(row: &[f32]) -> Option<usize> {
    (0..row.len())
        .rev()
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

struct Runner<'a> {
    session: &'a mut dyn Session,
    reference: &'a Reference,
    /// A black and a white pixel.
    extremes: [[f32; 3]; 2],
}

impl Runner<'_> {
    fn run(&mut self, batch: &[Option<usize>]) -> Result<Vec<f32>> {
        let Reference {
            width: row,
            image_shape: [channels, height, width],
            ..
        } = *self.reference;
        let size = batch.len();
        let pixels = self.pixels(batch);
        let shape = [size, channels, height, width];
        let logits = self
            .session
            .run(&pixels, shape)
            .map_err(|source| Error::Session {
                batch: size,
                source,
            })?;
        if logits.len() != size * row {
            return Err(Error::OutputLength {
                batch: size,
                classes: row,
                got: logits.len(),
            });
        }
        self.check_finite(batch, &logits)?;
        Ok(logits)
    }

    fn pixels(&self, batch: &[Option<usize>]) -> Vec<f32> {
        let size: usize = self.reference.image_shape.iter().product();
        let mut pixels = Vec::with_capacity(batch.len() * size);
        for (place, image) in batch.iter().enumerate() {
            match image {
                Some(image) => pixels.extend_from_slice(self.reference.image(*image)),
                None => {
                    for value in self.extremes[place % 2] {
                        pixels.extend(vec![value; size / 3]);
                    }
                }
            }
        }
        pixels
    }

    fn check_finite(&self, batch: &[Option<usize>], logits: &[f32]) -> Result<()> {
        let width = self.reference.width;
        for (place, image) in batch.iter().enumerate() {
            let Some(image) = *image else { continue };
            let row = &logits[place * width..][..width];
            if let Some(class) = row.iter().position(|logit| !logit.is_finite()) {
                return Err(Error::NonFiniteLogit {
                    image,
                    class,
                    batch: batch.len(),
                    value: row[class],
                });
            }
        }
        Ok(())
    }
}

/// Absolute differences, as they come.
#[derive(Default)]
struct Differences {
    max: f64,
    sum: f64,
    count: u32,
}

impl Differences {
    fn add(&mut self, a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            let difference = (f64::from(*a) - f64::from(*b)).abs();
            self.max = self.max.max(difference);
            self.sum += difference;
            self.count += 1;
        }
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }
}

#[cfg(test)]
mod tests;
