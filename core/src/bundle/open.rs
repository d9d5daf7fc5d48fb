use super::{BundleManifest, Error, FileRef, MANIFEST, Parity, Recipe, Result, Variant};
use crate::{
    artifact::{self, Digest, json, tensors::TensorFile},
    certificate::{BatchMode, Certificate, Fingerprint},
    policy::{Policy, Score},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

/// A bundle whose every listed file was verified; after [`Bundle::open_before_models`], all but its models.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    manifest: BundleManifest,
    digest: Digest,
}

impl Bundle {
    /// Opens a bundle: parses `bundle.json`, verifies the digest of every file that it names, and that policies,
    /// certificates and models belong together.
    ///
    /// # Errors
    /// [`Error`], naming the file or the field, what was expected and what was found.
    pub fn open(dir: &Path) -> Result<Self> {
        let bundle = Self::open_before_models(dir)?;
        bundle.verify_models(|_| true)?;
        Ok(bundle)
    }

    /// As [`Bundle::open`], but for the models and their weights: these are most of a bundle, and [`Bundle::read`] verifies
    /// the bytes that it hands out. Whoever opens a bundle so reads a model once, and calls [`Bundle::verify_models`] on
    /// those that it doesn't read.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open_before_models(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            return Err(Error::NotABundle {
                dir: dir.to_owned(),
            });
        }
        let (manifest, digest) = json::load(&path)?;
        let bundle = Self {
            dir: dir.to_owned(),
            manifest,
            digest,
        };
        let models: Vec<_> = bundle.models(|_| true).collect();
        let files = bundle.manifest.files().into_iter();
        for file in files.filter(|file| !models.contains(file)) {
            bundle.verify(file)?;
        }
        for name in bundle.manifest.variants.keys() {
            bundle.check_variant(name)?;
        }
        Ok(bundle)
    }

    /// Verifies the models, and the weights that lie outside of them, of the variants that `wanted` names.
    ///
    /// # Errors
    /// [`Error::Artifact`] when a file isn't what `bundle.json` says; [`Error::Escapes`].
    pub fn verify_models(&self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.models(wanted).try_for_each(|file| self.verify(file))
    }

    fn models(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &FileRef> {
        let variants = self.manifest.variants.iter();
        let variants = variants.filter(move |(name, _)| wanted(name));
        variants.flat_map(|(_, variant)| {
            [Some(&variant.model), variant.data.as_ref()]
                .into_iter()
                .flatten()
        })
    }

    fn verify(&self, file: &FileRef) -> Result<()> {
        Ok(file.digest.verify_file(&self.resolve(file)?)?)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `bundle.json` says.
    pub fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// The bundle's identity: the digest of `bundle.json`, which names all else by digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// A variant by name.
    ///
    /// # Errors
    /// [`Error::UnknownVariant`], listing those that there are.
    pub fn variant(&self, name: &str) -> Result<&Variant> {
        self.manifest
            .variants
            .get(name)
            .ok_or_else(|| Error::UnknownVariant {
                dir: self.dir.clone(),
                name: name.to_owned(),
                known: self.manifest.variants.keys().cloned().collect(),
            })
    }

    /// The variant's policy, if it was calibrated.
    ///
    /// # Errors
    /// [`Error::UnknownVariant`], or [`Error::Artifact`] when the file changed since the bundle was opened.
    pub fn policy(&self, variant: &str) -> Result<Option<Policy>> {
        self.document(self.variant(variant)?.policy.as_ref())
    }

    /// The certificate of the variant's policy.
    ///
    /// # Errors
    /// As [`Bundle::policy`].
    pub fn certificate(&self, variant: &str) -> Result<Option<Certificate>> {
        self.document(self.variant(variant)?.certificate.as_ref())
    }

    /// How far the variant is from the trainer's outputs.
    ///
    /// # Errors
    /// As [`Bundle::policy`].
    pub fn parity(&self, variant: &str) -> Result<Parity> {
        let file = &self.variant(variant)?.parity;
        Ok(json::load_verified(&self.resolve(file)?, file.digest)?)
    }

    /// How the variant was made from the float32 model; none of that model itself.
    ///
    /// # Errors
    /// As [`Bundle::policy`].
    pub fn recipe(&self, variant: &str) -> Result<Option<Recipe>> {
        self.document(self.variant(variant)?.recipe.as_ref())
    }

    /// What a variant's answers are made by: model, policy, certificate and the names of the classes. Other variants don't
    /// count, so that adding one leaves what was measured of this one true.
    ///
    /// # Errors
    /// [`Error::UnknownVariant`].
    pub fn variant_digest(&self, variant: &str) -> Result<Digest> {
        let BundleManifest {
            labels,
            input,
            output,
            gate,
            preprocess,
            ..
        } = &self.manifest;
        // What else the policy was certified for leaves what was measured of this session true.
        let variant = Variant {
            sessions: Vec::new(),
            ..self.variant(variant)?.clone()
        };
        let parts = (labels, input, output, preprocess, variant);
        Ok(match gate {
            None => Digest::of_json(&parts),
            Some(gate) => Digest::of_json(&(parts, gate)),
        })
    }

    /// All certificates of a variant's policy, that of the session which it was calibrated through first; none without a
    /// policy.
    ///
    /// # Errors
    /// As [`Bundle::policy`].
    pub fn certificates(&self, variant: &str) -> Result<Vec<Certificate>> {
        let Some(first) = self.certificate(variant)? else {
            return Ok(Vec::new());
        };
        let mut all = vec![first];
        for file in &self.variant(variant)?.sessions {
            all.extend(self.document(Some(file))?);
        }
        Ok(all)
    }

    /// Logits `[n, classes]` of the golden inputs, as this variant computes them; `golden` are those of [`Bundle::golden`].
    ///
    /// # Errors
    /// As [`Bundle::policy`], or the tensor has another shape.
    pub fn golden_logits(
        &self,
        variant: &Variant,
        golden: &TensorFile,
        n: usize,
    ) -> Result<Vec<f32>> {
        let shape = [n, self.manifest.labels.len()];
        let logits = match &variant.golden {
            Some(own) => self.tensors(own)?.f32_of_shape("logits", &shape),
            None => golden.f32_of_shape("logits", &shape),
        };
        Ok(logits?)
    }

    /// Gates `[n]` of the golden inputs, as this variant computes them, if the model has one.
    ///
    /// # Errors
    /// The tensor is missing, or has another shape.
    pub fn golden_gates(
        &self,
        variant: &Variant,
        golden: &TensorFile,
        n: usize,
    ) -> Result<Option<Vec<f32>>> {
        if self.manifest.gate.is_none() {
            return Ok(None);
        }
        let gates = match &variant.golden {
            Some(own) => self.tensors(own)?.f32_of_shape("gate", &[n]),
            None => golden.f32_of_shape("gate", &[n]),
        };
        Ok(Some(gates?))
    }

    /// The golden inputs and outputs.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the file changed since the bundle was opened.
    pub fn golden(&self) -> Result<TensorFile> {
        self.tensors(&self.manifest.golden)
    }

    fn tensors(&self, file: &FileRef) -> Result<TensorFile> {
        Ok(TensorFile::open_verified(
            &self.resolve(file)?,
            file.digest,
        )?)
    }

    /// The bytes of a listed file: those that are returned are those that were verified.
    ///
    /// # Errors
    /// [`Error::Artifact`] when they changed since the bundle was opened.
    pub fn read(&self, file: &FileRef) -> Result<Vec<u8>> {
        Ok(file.digest.read_file(&self.resolve(file)?)?)
    }

    /// The bytes of a listed file as they are, for [`Bundle::verify_while`].
    ///
    /// # Errors
    /// [`Error::Artifact`] when it can't be read, [`Error::Escapes`].
    pub fn read_unverified(&self, file: &FileRef) -> Result<Vec<u8>> {
        let path = self.resolve(file)?;
        fs::read(&path).map_err(io_error("read", &path))
    }

    /// Does something with the bytes of a listed file while they are verified on another thread, and hands out what came
    /// of it only if they are those that were listed. That they aren't counts before whatever `work` says of them.
    ///
    /// # Errors
    /// As [`Bundle::read`].
    pub fn verify_while<T>(
        &self,
        file: &FileRef,
        bytes: &[u8],
        work: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let path = self.resolve(file)?;
        thread::scope(|scope| {
            let verifying = scope.spawn(|| file.digest.verify_bytes(bytes, &path));
            let worked = work(bytes);
            verifying.join().expect("hashing doesn't panic")?;
            Ok(worked)
        })
    }

    fn document<T: json::Document>(&self, file: Option<&FileRef>) -> Result<Option<T>> {
        let load = |file: &FileRef| Ok(json::load_verified(&self.resolve(file)?, file.digest)?);
        file.map(load).transpose()
    }

    /// The file's real path, which must lie in the bundle's real folder whatever links there are.
    fn resolve(&self, file: &FileRef) -> Result<PathBuf> {
        let real = |path: &Path| path.canonicalize().map_err(io_error("read", path));
        let target = real(&self.dir.join(&file.path))?;
        if target.starts_with(real(&self.dir)?) {
            return Ok(target);
        }
        Err(Error::Escapes {
            dir: self.dir.clone(),
            path: file.path.clone(),
            target,
        })
    }

    fn check_variant(&self, name: &str) -> Result<()> {
        self.parity(name)?;
        self.recipe(name)?;
        let (Some(policy), Some(certificate)) = (self.policy(name)?, self.certificate(name)?)
        else {
            return Ok(());
        };
        check_together(&self.dir, &self.manifest, name, &policy, &certificate)?;
        let further = &self.certificates(name)?[1..];
        further
            .iter()
            .try_for_each(|one| check_session(&self.dir, &self.manifest, name, &policy, one))
    }
}

/// As [`check_together`], of a further session: its plan is the policy's in another attempt.
pub(super) fn check_session(
    dir: &Path,
    manifest: &BundleManifest,
    name: &str,
    policy: &Policy,
    certificate: &Certificate,
) -> Result<()> {
    let of_first = Certificate {
        plan_digest: policy.plan_digest,
        ..certificate.clone()
    };
    check_together(dir, manifest, name, policy, &of_first)
}

/// Whether a policy and a certificate belong to a variant of the bundle and to each other.
pub(super) fn check_together(
    dir: &Path,
    manifest: &BundleManifest,
    name: &str,
    policy: &Policy,
    certificate: &Certificate,
) -> Result<()> {
    let variant = &manifest.variants[name];
    let Some(fingerprint) = &certificate.fingerprint else {
        return Err(Error::NoFingerprint {
            dir: dir.to_owned(),
            variant: name.to_owned(),
        });
    };
    let policy_digest = Digest::of_bytes(&json::to_bytes(policy));
    let splits = manifest.provenance.splits_digest;
    let mut facts = vec![
        Fact::new(
            "`classes` of policy.json",
            policy.classes,
            manifest.labels.len(),
        ),
        Fact::new(
            "whether policy.json compares a gate that the model has",
            policy.score == Score::Gate && manifest.gate.is_none(),
            false,
        ),
        Fact::new(
            "`policy_digest` of certificate.json",
            certificate.policy_digest,
            policy_digest,
        ),
        Fact::new(
            "`splits_digest` of policy.json",
            policy.splits_digest.unwrap_or(splits),
            splits,
        ),
        Fact::new(
            "`splits_digest` of certificate.json",
            certificate.splits_digest.unwrap_or(splits),
            splits,
        ),
        Fact::new(
            "`plan_digest` of certificate.json",
            certificate.plan_digest,
            policy.plan_digest,
        ),
    ];
    facts.extend(fingerprint_facts(fingerprint, manifest, variant));
    match facts.into_iter().find(|fact| fact.got != fact.want) {
        None => Ok(()),
        Some(Fact { field, got, want }) => Err(Error::Inconsistent {
            dir: dir.to_owned(),
            variant: name.to_owned(),
            field,
            got,
            want,
        }),
    }
}

/// A field, what it is, and what it must be.
struct Fact {
    field: &'static str,
    got: String,
    want: String,
}

impl Fact {
    fn new<T: ToString>(field: &'static str, got: T, want: T) -> Self {
        let (got, want) = (got.to_string(), want.to_string());
        Self { field, got, want }
    }
}

/// What of a fingerprint the bundle itself determines.
fn fingerprint_facts(
    fingerprint: &Fingerprint,
    manifest: &BundleManifest,
    variant: &Variant,
) -> [Fact; 4] {
    let mode = |mode: BatchMode| format!("{mode:?}");
    [
        Fact::new(
            "`fingerprint.model_digest` of certificate.json",
            fingerprint.model_digest,
            variant.model.digest,
        ),
        Fact::new(
            "`fingerprint.precision` of certificate.json",
            fingerprint.precision.clone(),
            variant.precision.clone(),
        ),
        Fact::new(
            "`fingerprint.batch_mode` of certificate.json",
            mode(fingerprint.batch_mode),
            mode(variant.batch_mode),
        ),
        Fact::new(
            "`fingerprint.preprocessing_digest` of certificate.json",
            fingerprint.preprocessing_digest,
            manifest.preprocessing_digest(),
        ),
    ]
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| {
        Error::Artifact(artifact::Error::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}
