use super::*;
use stage1_core::{
    artifact::tensors::{self, Tensor},
    preprocess::{IMAGENET_MEAN, IMAGENET_STD},
};
use std::{collections::BTreeMap, error};

const IMAGES: usize = 4;
const IMAGE: usize = 12;

/// Logits (mean, mean²) of each image's pixels, then whatever `wrong` makes of them: it sees the batch's pixels.
struct Fake<F>(F);

impl<F: FnMut(&[f32], &mut Vec<f32>)> Session for Fake<F> {
    fn run(
        &mut self,
        pixels: &[f32],
        shape: [usize; 4],
    ) -> Result<Vec<f32>, Box<dyn error::Error + Send + Sync>> {
        assert_eq!(shape[0] * IMAGE, pixels.len());
        let mut logits = logits(pixels);
        (self.0)(pixels, &mut logits);
        Ok(logits)
    }
}

struct Broken;

impl Session for Broken {
    fn run(
        &mut self,
        _: &[f32],
        _: [usize; 4],
    ) -> Result<Vec<f32>, Box<dyn error::Error + Send + Sync>> {
        Err("out of memory".into())
    }
}

fn logits(pixels: &[f32]) -> Vec<f32> {
    let means = pixels
        .chunks_exact(IMAGE)
        .map(|image| image.iter().sum::<f32>() / IMAGE as f32);
    means.flat_map(|mean| [mean, mean * mean]).collect()
}

fn reference() -> (tempfile::TempDir, TensorFile) {
    let pixels: Vec<f32> = (0..IMAGES * IMAGE).map(|i| i as f32 / 48.0 - 0.3).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reference.safetensors");
    let tensors = BTreeMap::from([
        (
            "logits".to_owned(),
            Tensor::f32([IMAGES, 2], logits(&pixels)),
        ),
        (
            "pixel_values".to_owned(),
            Tensor::f32([IMAGES, 3, 2, 2], pixels),
        ),
    ]);
    tensors::save(&path, &tensors, &BTreeMap::new()).unwrap();
    let file = TensorFile::open(&path).unwrap();
    (dir, file)
}

/// That of ImageNet.
fn normalisation() -> Normalisation {
    Normalisation::new(IMAGENET_MEAN, IMAGENET_STD)
}

fn verdict_of(wrong: impl FnMut(&[f32], &mut Vec<f32>)) -> Result<Parity> {
    let (_dir, reference) = reference();
    parity(
        &mut Fake(wrong),
        &reference,
        normalisation(),
        Tolerances::default(),
    )
}

#[test]
fn the_same_values_pass() {
    let parity = verdict_of(|_, _| ()).unwrap();
    assert!(parity.passed && parity.same_labels);
    assert_eq!(parity.images, IMAGES);
    assert!(parity.max_abs_error <= 0.0 && parity.batch_max_abs_error <= 0.0);
    parity.validate().unwrap();
}

#[test]
fn a_shift_fails_against_the_reference_only() {
    let parity = verdict_of(|_, logits| logits.iter_mut().for_each(|x| *x += 1e-3)).unwrap();
    assert!(!parity.passed);
    assert!(
        (parity.max_abs_error - 1e-3).abs() < 1e-6 && (parity.mean_abs_error - 1e-3).abs() < 1e-6
    );
    assert!(parity.batch_max_abs_error <= 1e-6);
}

#[test]
fn what_depends_on_the_batch_fails() {
    let by_size = |pixels: &[f32], logits: &mut Vec<f32>| {
        logits
            .iter_mut()
            .for_each(|x| *x += 6e-6 * (pixels.len() / IMAGE - 1) as f32);
    };
    let by_place = |_: &[f32], logits: &mut Vec<f32>| {
        logits
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x += 6e-6 * (i / 2) as f32);
    };
    // As a quantisation range over the whole batch does: only extreme neighbours show it.
    let by_neighbours = |pixels: &[f32], logits: &mut Vec<f32>| {
        let extreme = pixels.iter().any(|x| x.abs() > 2.0);
        logits
            .iter_mut()
            .for_each(|x| *x += if extreme { 2e-5 } else { 0.0 });
    };
    for parity in [
        verdict_of(by_size),
        verdict_of(by_place),
        verdict_of(by_neighbours),
    ] {
        let parity = parity.unwrap();
        assert!(
            !parity.passed && parity.batch_max_abs_error > 1e-5,
            "{parity:?}"
        );
        assert!(
            parity.max_abs_error <= parity.tolerance * parity.scale,
            "{parity:?}"
        );
    }
}

#[test]
fn another_label_is_told() {
    let parity = verdict_of(|_, logits| logits.reverse()).unwrap();
    assert!(!parity.same_labels && !parity.passed);
}

#[test]
fn no_verdict_without_numbers() {
    let nan = verdict_of(|_, logits| {
        let last = logits.len() - 1;
        logits[last] = f32::NAN;
    });
    assert!(
        matches!(
            nan,
            Err(Error::NonFiniteLogit {
                image: 0,
                class: 1,
                batch: 1,
                ..
            })
        ),
        "{nan:?}"
    );
    let short = verdict_of(|_, logits| logits.truncate(1));
    assert!(
        matches!(
            short,
            Err(Error::OutputLength {
                batch: 1,
                classes: 2,
                got: 1
            })
        ),
        "{short:?}"
    );
    let (_dir, reference) = reference();
    let broken = parity(
        &mut Broken,
        &reference,
        normalisation(),
        Tolerances::default(),
    )
    .unwrap_err();
    assert!(broken.to_string().contains("out of memory"), "{broken}");
    let tolerances = Tolerances {
        batch: f64::NAN,
        ..Tolerances::default()
    };
    let senseless = parity(&mut Broken, &reference, normalisation(), tolerances);
    assert!(
        matches!(senseless, Err(Error::Tolerance { name: "batch", .. })),
        "{senseless:?}"
    );
}

#[test]
fn a_reference_of_another_form_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reference.safetensors");
    let pixels = Tensor::f32([2, 3, 1, 1], vec![0.0; 6]);
    let cases = [
        (
            vec![("pixel_values", pixels.clone())],
            "tensor `logits` is missing",
        ),
        (
            vec![
                ("pixel_values", pixels),
                ("logits", Tensor::f32([1, 2], vec![0.0; 2])),
            ],
            "`logits` has shape [1, 2]",
        ),
        (
            vec![
                ("pixel_values", Tensor::f32([6], vec![0.0; 6])),
                ("logits", Tensor::f32([1, 2], vec![0.0; 2])),
            ],
            "`pixel_values` has shape [6]",
        ),
    ];
    for (tensors, want) in cases {
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .collect();
        tensors::save(&path, &tensors, &BTreeMap::new()).unwrap();
        let reference = TensorFile::open(&path).unwrap();
        let error = parity(
            &mut Broken,
            &reference,
            normalisation(),
            Tolerances::default(),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

/// As [`Fake`], with a gate of −mean in each row.
struct Gated {
    /// What is added to each gate.
    off: f32,
}

impl Session for Gated {
    fn has_gate(&self) -> bool {
        true
    }

    fn run(
        &mut self,
        pixels: &[f32],
        _: [usize; 4],
    ) -> Result<Vec<f32>, Box<dyn error::Error + Send + Sync>> {
        let logits = logits(pixels);
        let rows = logits.chunks_exact(2);
        Ok(rows
            .flat_map(|row| [row[0], row[1], self.off - row[0]])
            .collect())
    }
}

#[test]
fn a_gate_is_held_to_the_tolerance_of_the_logits() {
    let (dir, plain) = reference();
    let (_, pixels) = plain.f32("pixel_values").unwrap();
    let logits = logits(&pixels);
    let gates: Vec<f32> = logits.chunks_exact(2).map(|row| -row[0]).collect();
    let path = dir.path().join("gated.safetensors");
    let tensors = BTreeMap::from([
        ("gate".to_owned(), Tensor::f32([IMAGES], gates)),
        ("logits".to_owned(), Tensor::f32([IMAGES, 2], logits)),
        (
            "pixel_values".to_owned(),
            Tensor::f32([IMAGES, 3, 2, 2], pixels),
        ),
    ]);
    tensors::save(&path, &tensors, &BTreeMap::new()).unwrap();
    let gated = TensorFile::open(&path).unwrap();
    let check = |off: f32, reference: &TensorFile| {
        let tolerances = Tolerances::default();
        parity(&mut Gated { off }, reference, normalisation(), tolerances)
    };
    let fine = check(0.0, &gated).unwrap();
    assert!(fine.passed && fine.same_labels, "{fine:?}");
    let wrong = check(0.01, &gated).unwrap();
    assert!(!wrong.passed && wrong.same_labels, "{wrong:?}");
    assert!((wrong.max_abs_error - 0.01).abs() < 1e-6, "{wrong:?}");
    let message = check(0.0, &plain).unwrap_err().to_string();
    assert!(message.contains("gate"), "{message}");
}
