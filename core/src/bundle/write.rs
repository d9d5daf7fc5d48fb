//! Writing bundles: whatever the step at which a writer dies, the folder is no bundle or a valid one.

use super::{
    Bundle, BundleManifest, CARD, Error, FileRef, GOLDEN, InputSpec, MANIFEST, MODEL, Parity,
    Provenance, Recipe, Result, Variant, card, open,
};
use crate::{
    artifact::{self, Digest, Document, atomic, json, tensors},
    certificate::{BatchMode, Certificate},
    policy::Policy,
    preprocess::PreprocessSpec,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What to do when the folder holds a bundle already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Fail with [`Error::Exists`].
    Refuse,
    /// Take the old commit record away first, then write.
    Replace,
}

/// The parts of a new bundle with one variant and no policy yet.
#[derive(Debug, Clone)]
pub struct NewBundle<'a> {
    /// Class names; position `k` is logit `k`.
    pub labels: Vec<String>,
    /// The model's input.
    pub input: InputSpec,
    /// The name of the model's output.
    pub output: String,
    /// The name of its output for the gate, if it has one.
    pub gate: Option<String>,
    /// From image bytes to the input.
    pub preprocess: PreprocessSpec,
    /// The variant's name, [`super::FP32`] as a rule.
    pub variant: String,
    /// The arithmetic: `fp32`.
    pub precision: String,
    /// Whether an image's logits may be computed in any batch.
    pub batch_mode: BatchMode,
    /// The ONNX file's bytes.
    pub model: &'a [u8],
    /// The bytes of its weights, if they lie outside of it: the model calls their file `model.onnx.data`.
    pub data: Option<&'a [u8]>,
    /// Its parity with the trainer.
    pub parity: &'a Parity,
    /// Normalised inputs `[N, 3, height, width]`, row-major.
    pub golden_inputs: &'a [f32],
    /// What the deployed session answers to them: logits `[N, K]`, row-major.
    pub golden_logits: &'a [f32],
    /// And gates `[N]`, if the model has one.
    pub golden_gates: Option<&'a [f32]>,
    /// Licence texts by file name.
    pub licences: BTreeMap<String, String>,
    /// Metrics for the card, by their short names; finite.
    pub metrics: BTreeMap<String, f64>,
    /// Where the bundle comes from.
    pub provenance: Provenance,
}

/// Writes a bundle without a policy: its files, then `bundle.json`.
///
/// # Errors
/// [`Error::Exists`] with [`Existing::Refuse`]; [`Error::Artifact`] when a part is invalid or can't be written.
pub fn create(dir: &Path, new: NewBundle<'_>, existing: Existing) -> Result<Bundle> {
    let record = dir.join(MANIFEST);
    let replaced = json::load::<BundleManifest>(&record).ok();
    if record.exists() {
        if existing == Existing::Refuse {
            return Err(Error::Exists {
                dir: dir.to_owned(),
                digest: Digest::of_file(&record)?,
            });
        }
        fs::remove_file(&record).map_err(|source| artifact::Error::Io {
            action: "remove",
            path: record.clone(),
            source,
        })?;
    }
    let folder = format!("variants/{}", new.variant);
    let variant = Variant {
        precision: new.precision,
        batch_mode: new.batch_mode,
        model: write_bytes(dir, format!("{folder}/{MODEL}"), new.model)?,
        data: new
            .data
            .map(|data| write_bytes(dir, format!("{folder}/{MODEL}.data"), data))
            .transpose()?,
        parity: write_document(dir, format!("{folder}/parity.json"), new.parity)?,
        recipe: None,
        golden: None,
        policy: None,
        certificate: None,
        sessions: Vec::new(),
    };
    let shape = [
        new.golden_inputs.len() / (3 * new.input.height * new.input.width).max(1),
        3,
        new.input.height,
        new.input.width,
    ];
    let golden = write_golden(
        dir,
        shape,
        new.labels.len(),
        new.golden_inputs,
        new.golden_logits,
        new.golden_gates,
    )?;
    let licence = |(name, text): (&String, &String)| {
        write_bytes(dir, format!("licences/{name}"), text.as_bytes())
    };
    let manifest = BundleManifest {
        schema_version: BundleManifest::SCHEMA_VERSION,
        labels: new.labels,
        input: new.input,
        output: new.output,
        gate: new.gate,
        preprocess: new.preprocess,
        golden,
        card: None,
        licences: new.licences.iter().map(licence).collect::<Result<_>>()?,
        metrics: new.metrics,
        variants: BTreeMap::from([(new.variant, variant)]),
        provenance: new.provenance,
    };
    let bundle = commit(dir, manifest, &BTreeMap::new())?;
    if let Some((old, _)) = replaced {
        let kept: BTreeSet<_> = bundle.manifest().files().iter().map(|f| &f.path).collect();
        for file in old.files().into_iter().filter(|f| !kept.contains(&f.path)) {
            let path = dir.join(&file.path);
            // A bundle that was replaced because it was incomplete lacks some.
            if path.exists() {
                remove(&path)?;
            }
        }
    }
    Ok(bundle)
}

/// A further variant of a bundle, without a policy yet.
#[derive(Debug, Clone)]
pub struct NewVariant<'a> {
    /// Its name.
    pub name: &'a str,
    /// The arithmetic: `fp16` or `int8`.
    pub precision: &'a str,
    /// Whether an image's logits may be computed in any batch.
    pub batch_mode: BatchMode,
    /// The ONNX file's bytes.
    pub model: &'a [u8],
    /// The bytes of its weights, if they lie outside of it: the model calls their file `model.onnx.data`.
    pub data: Option<&'a [u8]>,
    /// Its parity with the trainer and the float32 model.
    pub parity: &'a Parity,
    /// How it was made.
    pub recipe: &'a Recipe,
    /// What its session answers to the bundle's golden inputs: logits `[N, K]`, row-major.
    pub golden_logits: &'a [f32],
    /// Gates `[N]`, if the model has one.
    pub golden_gates: Option<&'a [f32]>,
}

/// Adds a variant to a bundle; one of the same name is taken out first, with its policy. The other variants stay as they
/// are.
///
/// # Errors
/// [`Error::Artifact`] when a part is invalid or can't be written.
pub fn add_variant(dir: &Path, new: &NewVariant<'_>) -> Result<Bundle> {
    let bundle = Bundle::open(dir)?;
    let mut manifest = bundle.manifest().clone();
    let old = manifest.variants.remove(new.name);
    manifest.card = None;
    // Without the last variant there would be no bundle: its files are replaced under the old record then, and until the
    // new one is there, the bundle doesn't open.
    if !manifest.variants.is_empty() {
        json::save(&manifest, &dir.join(MANIFEST))?;
    }
    let sessions = old.iter().flat_map(|old| &old.sessions);
    for file in old
        .iter()
        .flat_map(|old| {
            [
                &old.policy,
                &old.certificate,
                &old.recipe,
                &old.golden,
                &old.data,
            ]
        })
        .flatten()
        .chain(sessions)
    {
        remove(&dir.join(&file.path))?;
    }
    let folder = format!("variants/{}", new.name);
    let variant = Variant {
        precision: new.precision.to_owned(),
        batch_mode: new.batch_mode,
        model: write_bytes(dir, format!("{folder}/{MODEL}"), new.model)?,
        data: new
            .data
            .map(|data| write_bytes(dir, format!("{folder}/{MODEL}.data"), data))
            .transpose()?,
        parity: write_document(dir, format!("{folder}/parity.json"), new.parity)?,
        recipe: Some(write_document(
            dir,
            format!("{folder}/recipe.json"),
            new.recipe,
        )?),
        golden: Some(write_logits(
            dir,
            format!("{folder}/{GOLDEN}"),
            manifest.labels.len(),
            new.golden_logits,
            new.golden_gates,
        )?),
        policy: None,
        certificate: None,
        sessions: Vec::new(),
    };
    manifest.variants.insert(new.name.to_owned(), variant);
    let certificates = certificates(dir, &manifest)?;
    commit(dir, manifest, &certificates)
}

fn write_logits(
    dir: &Path,
    path: String,
    classes: usize,
    logits: &[f32],
    gates: Option<&[f32]>,
) -> Result<FileRef> {
    let n = logits.len() / classes;
    let logits = tensors::Tensor::f32([n, classes], logits.to_vec());
    let mut tensors = BTreeMap::from([("logits".to_owned(), logits)]);
    if let Some(gates) = gates {
        tensors.insert("gate".to_owned(), tensors::Tensor::f32([n], gates.to_vec()));
    }
    let digest = tensors::save(&dir.join(&path), &tensors, &BTreeMap::new())?;
    Ok(FileRef { path, digest })
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|source| {
        Error::Artifact(artifact::Error::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        })
    })
}

/// Gives a variant its policy and certificate. A policy that it has is taken out first, so that a writer that dies
/// leaves a valid bundle without one. Attaching what is attached already changes nothing.
///
/// # Errors
/// [`Error::Inconsistent`] or [`Error::NoFingerprint`], before anything is written, when policy, certificate and
/// variant don't belong together; [`Error::Artifact`] when a file can't be written.
pub fn attach_policy(
    dir: &Path,
    variant: &str,
    policy: &Policy,
    certificate: &Certificate,
) -> Result<Bundle> {
    let bundle = Bundle::open(dir)?;
    let old = bundle.variant(variant)?.clone();
    open::check_together(dir, bundle.manifest(), variant, policy, certificate)?;
    let digest = |bytes: Vec<u8>| Digest::of_bytes(&bytes);
    let same = old.policy.map(|f| f.digest) == Some(digest(json::to_bytes(policy)))
        && old.certificate.map(|f| f.digest) == Some(digest(json::to_bytes(certificate)))
        && bundle.manifest().card.is_some();
    if same {
        return Ok(bundle);
    }
    let mut manifest = withdraw(dir, bundle.manifest().clone(), variant)?;
    let folder = format!("variants/{variant}");
    let policy = write_document(dir, format!("{folder}/policy.json"), policy)?;
    let file = write_document(dir, format!("{folder}/certificate.json"), certificate)?;
    let entry = manifest
        .variants
        .get_mut(variant)
        .expect("the variant was looked up");
    (entry.policy, entry.certificate) = (Some(policy), Some(file));
    let certificates = certificates(dir, &manifest)?;
    commit(dir, manifest, &certificates)
}

/// Adds the certificate of a further session to a variant that has a policy, which stays as it is; one of the same session
/// is replaced.
///
/// # Errors
/// As [`attach_policy`]; [`Error::NoPolicy`] when there is none.
pub fn attach_certificate(dir: &Path, variant: &str, certificate: &Certificate) -> Result<Bundle> {
    let bundle = Bundle::open(dir)?;
    let no_policy = || Error::NoPolicy {
        dir: dir.to_owned(),
        variant: variant.to_owned(),
    };
    let policy = bundle.policy(variant)?.ok_or_else(no_policy)?;
    open::check_session(dir, bundle.manifest(), variant, &policy, certificate)?;
    let session = Digest::of_json(&certificate.fingerprint);
    let path = format!("variants/{variant}/certificates/{}.json", session.short());
    let mut manifest = bundle.manifest().clone();
    let entry = manifest.variants.get_mut(variant).expect("it has a policy");
    entry.sessions.retain(|file| file.path != path);
    manifest.card = None;
    json::save(&manifest, &dir.join(MANIFEST))?;
    let file = write_document(dir, path, certificate)?;
    let entry = manifest.variants.get_mut(variant).expect("it has a policy");
    entry.sessions.push(file);
    entry.sessions.sort();
    let certificates = certificates(dir, &manifest)?;
    commit(dir, manifest, &certificates)
}

/// Takes a variant's policy and certificates out of the bundle; the files are removed once they no longer count.
///
/// # Errors
/// [`Error::UnknownVariant`], or [`Error::Artifact`] when a file can't be written.
pub fn detach_policy(dir: &Path, variant: &str) -> Result<Bundle> {
    let bundle = Bundle::open(dir)?;
    if bundle.variant(variant)?.policy.is_none() && bundle.manifest().card.is_some() {
        return Ok(bundle);
    }
    let manifest = withdraw(dir, bundle.manifest().clone(), variant)?;
    let certificates = certificates(dir, &manifest)?;
    commit(dir, manifest, &certificates)
}

/// Commits the bundle without the variant's policy and without the card, whose files may then be rewritten.
fn withdraw(dir: &Path, mut manifest: BundleManifest, variant: &str) -> Result<BundleManifest> {
    let entry = manifest
        .variants
        .get_mut(variant)
        .expect("the variant was looked up");
    let stale = [entry.policy.take(), entry.certificate.take()];
    let sessions = std::mem::take(&mut entry.sessions);
    manifest.card = None;
    json::save(&manifest, &dir.join(MANIFEST))?;
    for file in stale.into_iter().flatten().chain(sessions) {
        remove(&dir.join(&file.path))?;
    }
    Ok(manifest)
}

/// Those of each variant, the one that its policy was made with first.
fn certificates(
    dir: &Path,
    manifest: &BundleManifest,
) -> Result<BTreeMap<String, Vec<Certificate>>> {
    let mut found = BTreeMap::new();
    for (name, variant) in &manifest.variants {
        let files = variant.certificate.iter().chain(&variant.sessions);
        let load = |file: &FileRef| json::load_verified(&dir.join(&file.path), file.digest);
        let all = files.map(load).collect::<Result<Vec<_>, _>>()?;
        found.insert(name.clone(), all);
    }
    Ok(found)
}

/// Writes the card, then `bundle.json`, and opens what was written.
fn commit(
    dir: &Path,
    mut manifest: BundleManifest,
    certificates: &BTreeMap<String, Vec<Certificate>>,
) -> Result<Bundle> {
    let text = card::render(&manifest, certificates);
    manifest.card = Some(write_bytes(dir, CARD.to_owned(), text.as_bytes())?);
    json::save(&manifest, &dir.join(MANIFEST))?;
    Bundle::open(dir)
}

pub(super) fn write_golden(
    dir: &Path,
    shape: [usize; 4],
    classes: usize,
    inputs: &[f32],
    logits: &[f32],
    gates: Option<&[f32]>,
) -> Result<FileRef> {
    let path = dir.join(GOLDEN);
    let invalid = |reason: String| {
        Err(Error::Artifact(artifact::Error::Invalid {
            path: path.clone(),
            kind: GOLDEN,
            reason,
        }))
    };
    let n = shape[0];
    if n == 0 || inputs.len() != shape.iter().product::<usize>() {
        return invalid(format!(
            "pixel_values: {} values are no whole number of images of {:?}",
            inputs.len(),
            &shape[1..]
        ));
    }
    if logits.len() != n * classes {
        return invalid(format!(
            "logits: {} values, expected {n} images x {classes} classes",
            logits.len()
        ));
    }
    if let Some(at) = logits.iter().position(|x| !x.is_finite()) {
        return invalid(format!(
            "logits: value {} of image {} is not finite",
            logits[at],
            at / classes
        ));
    }
    if let Some(gates) =
        gates.filter(|gates| gates.len() != n || !gates.iter().all(|x| x.is_finite()))
    {
        return invalid(format!("gate: {gates:?}, expected {n} finite values"));
    }
    let mut tensors = BTreeMap::from([
        (
            "pixel_values".to_owned(),
            tensors::Tensor::f32(shape, inputs.to_vec()),
        ),
        (
            "logits".to_owned(),
            tensors::Tensor::f32([n, classes], logits.to_vec()),
        ),
    ]);
    let gates = gates.map(|gates| tensors::Tensor::f32([n], gates.to_vec()));
    tensors.extend(gates.map(|gates| ("gate".to_owned(), gates)));
    let digest = tensors::save(&path, &tensors, &BTreeMap::new())?;
    Ok(FileRef {
        path: GOLDEN.to_owned(),
        digest,
    })
}

fn write_bytes(dir: &Path, path: String, bytes: &[u8]) -> Result<FileRef> {
    atomic::write_bytes(&dir.join(&path), bytes)?;
    let digest = Digest::of_bytes(bytes);
    Ok(FileRef { path, digest })
}

fn write_document<T: Document>(dir: &Path, path: String, document: &T) -> Result<FileRef> {
    let digest = json::save(document, &dir.join(&path))?;
    Ok(FileRef { path, digest })
}
