use super::*;
use crate::{
    artifact::{self, Digest, Document, json},
    certificate::{
        Attempts, BatchMode, Certificate, Claim, Constraint, ControlledRisk, ExpectedRisk,
        Fingerprint, Guarantee, Procedure, SampleSize, TestKind, UnitRule,
    },
    config::{Phase, Target},
    ledger::LedgerState,
    policy::{Calibrator, Policy, Score, Threshold},
    preprocess::{PixelFormat, PreprocessSpec},
};
use std::{collections::BTreeMap, fs, path::Path};

fn digest(name: &str) -> Digest {
    Digest::of_bytes(name.as_bytes())
}

fn parity() -> Parity {
    Parity {
        schema_version: 1,
        images: 1,
        scale: 2.0,
        max_abs_error: 1e-6,
        mean_abs_error: 1e-7,
        tolerance: 1e-4,
        batch_max_abs_error: 0.0,
        batch_tolerance: 1e-5,
        same_labels: true,
        flips: None,
        passed: true,
    }
}

fn make(dir: &Path, existing: Existing) -> Result<Bundle> {
    let new = NewBundle {
        labels: vec!["cat".to_owned(), "dog".to_owned()],
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height: 4,
            width: 2,
            batch: None,
            pixels: PixelFormat::Float32,
        },
        output: "logits".to_owned(),
        gate: None,
        preprocess: PreprocessSpec::dinov3(4, 2),
        variant: FP32.to_owned(),
        precision: "fp32".to_owned(),
        batch_mode: BatchMode::Any,
        model: b"the model",
        data: Some(b"its weights"),
        parity: &parity(),
        golden_inputs: &[0.5; 3 * 4 * 2],
        golden_logits: &[1.0, -2.0],
        golden_gates: None,
        licences: BTreeMap::from([("weights.txt".to_owned(), "Apache-2.0\n".to_owned())]),
        metrics: BTreeMap::from([("mcc".to_owned(), 0.75)]),
        provenance: Provenance {
            splits_digest: digest("splits"),
            checkpoint_digest: digest("checkpoint"),
            init_digest: None,
            backbone_digest: digest("backbone"),
            config_digest: digest("config"),
            phase: Phase::Baseline,
        },
    };
    create(dir, new, existing)
}

fn policy(high: f64) -> Policy {
    let threshold = Threshold::TwoSided { low: -1.0, high };
    Policy::new(
        2,
        Score::BinaryMargin,
        threshold,
        Calibrator::None,
        digest("plan"),
    )
}

fn certificate(policy: &Policy) -> Certificate {
    Certificate {
        schema_version: Certificate::SCHEMA_VERSION,
        guarantee: Guarantee::Pac,
        alpha: 0.05,
        delta: Some(0.1),
        attempt: 1,
        attempts: Attempts::Single,
        level: Some(0.1),
        procedure: Some(Procedure::FixedSequence),
        variants: 1,
        jointly: Vec::new(),
        calib: SampleSize {
            rule: UnitRule::Rows,
            rows: 100,
            units: 100,
        },
        risk: ControlledRisk::Image,
        test: Some(TestKind::Binomial),
        claims: vec![Claim {
            constraint: Constraint::SelectiveError { alpha: 0.05 },
            errors: 0,
            total: 60,
            p_value: 0.04,
            upper_bound: 0.04,
        }],
        expected: None,
        answered: 60,
        errors: 0,
        p_value: Some(0.04),
        upper_bound: Some(0.04),
        coverage: 0.6,
        run: Vec::new(),
        plan_digest: policy.plan_digest,
        policy_digest: Digest::of_bytes(&json::to_bytes(policy)),
        splits_digest: Some(digest("splits")),
        used_rows: None,
        calib_ledger: LedgerState::Known {
            entries: 1,
            head: digest("head"),
        },
        fingerprint: Some(Fingerprint {
            model_digest: digest("the model"),
            provider: "cpu".to_owned(),
            provider_version: "onnxruntime 1.31.1".to_owned(),
            precision: "fp32".to_owned(),
            batch_mode: BatchMode::Any,
            preprocessing_digest: PreprocessSpec::dinov3(4, 2).digest(),
            cpu_isa: "x86_64-avx2".to_owned(),
        }),
        flips: None,
        statement: "Of the answers, at most 5 % are wrong on average.".to_owned(),
        assumptions: vec!["val_calib is a random sample of the target".to_owned()],
    }
}

fn calibrated(dir: &Path) -> Bundle {
    make(dir, Existing::Refuse).unwrap();
    let policy = policy(2.0);
    attach_policy(dir, FP32, &policy, &certificate(&policy)).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = make(dir.path(), Existing::Refuse).unwrap();
    let opened = Bundle::open(dir.path()).unwrap();
    assert_eq!(
        (opened.manifest(), opened.digest()),
        (bundle.manifest(), bundle.digest())
    );
    assert_eq!(
        opened.digest(),
        Digest::of_file(&dir.path().join(MANIFEST)).unwrap()
    );
    assert_eq!(
        opened.read(&opened.variant(FP32).unwrap().model).unwrap(),
        b"the model"
    );
    let data = opened.variant(FP32).unwrap().data.as_ref().unwrap();
    assert_eq!(data.path, "variants/fp32/model.onnx.data");
    assert_eq!(opened.read(data).unwrap(), b"its weights");
    assert_eq!(opened.parity(FP32).unwrap(), parity());
    assert_eq!(
        opened.golden().unwrap().f32("logits").unwrap(),
        (vec![1, 2], vec![1.0, -2.0])
    );
    assert_eq!(opened.policy(FP32).unwrap(), None);
    let error = opened.variant("int8").unwrap_err().to_string();
    assert!(
        error.contains("`int8`") && error.contains("fp32"),
        "{error}"
    );
}

fn add_int8(dir: &Path, model: &[u8]) -> Bundle {
    let recipe = Recipe {
        schema_version: Recipe::SCHEMA_VERSION,
        source_digest: digest("fp32"),
        settings_digest: digest("settings"),
        target: Target::Portable,
        cpu_isa: "x86_64-avx2".to_owned(),
        weight_bits: Some(7),
        images: vec!["a.png".to_owned()],
        error: Some(0.01),
        lowered: 3,
        float32: BTreeMap::from([("blocks.0".to_owned(), 0.1)]),
    };
    let parity = Parity {
        flips: Some(FlipRate {
            images: 100,
            flips: 1,
            max_rate: 0.02,
        }),
        ..parity()
    };
    let new = NewVariant {
        data: None,
        golden_gates: None,
        name: "int8",
        precision: "int8",
        batch_mode: BatchMode::Single,
        model,
        parity: &parity,
        recipe: &recipe,
        golden_logits: &[1.5, -2.5],
    };
    add_variant(dir, &new).unwrap()
}

#[test]
fn a_further_variant_leaves_the_others_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), Existing::Refuse).unwrap();
    let policy = policy(2.0);
    let before = attach_policy(dir.path(), FP32, &policy, &certificate(&policy)).unwrap();
    let both = add_int8(dir.path(), b"integers");
    let files = |name: &str| both.variant(name).unwrap().clone();
    assert_eq!(files(FP32), before.variant(FP32).unwrap().clone());
    assert_eq!(
        both.variant_digest(FP32).unwrap(),
        before.variant_digest(FP32).unwrap(),
        "what was measured of it is still about it"
    );
    assert_eq!(both.policy(FP32).unwrap(), Some(policy));
    let (fp32, int8) = (files(FP32), files("int8"));
    let golden = both.golden().unwrap();
    assert_eq!(both.golden_logits(&fp32, &golden, 1).unwrap(), [1.0, -2.0]);
    assert_eq!(both.golden_logits(&int8, &golden, 1).unwrap(), [1.5, -2.5]);
    assert_eq!(both.recipe(FP32).unwrap(), None);
    assert_eq!(both.recipe("int8").unwrap().unwrap().weight_bits, Some(7));
    assert_eq!(int8.policy, None);
    let replaced = add_int8(dir.path(), b"other integers");
    assert_eq!(replaced.variant(FP32).unwrap(), &fp32);
    let model = &replaced.variant("int8").unwrap().model;
    assert_eq!(replaced.read(model).unwrap(), b"other integers");
    fs::write(dir.path().join("variants/int8/recipe.json"), "{}").unwrap();
    assert!(Bundle::open(dir.path()).is_err(), "every file counts");
}

#[test]
fn a_policy_is_attached_replaced_and_detached() {
    let dir = tempfile::tempdir().unwrap();
    let bare = make(dir.path(), Existing::Refuse).unwrap();
    let first = policy(2.0);
    let bundle = attach_policy(dir.path(), FP32, &first, &certificate(&first)).unwrap();
    assert_eq!(bundle.policy(FP32).unwrap(), Some(first.clone()));
    assert_eq!(bundle.certificate(FP32).unwrap(), Some(certificate(&first)));
    let again = attach_policy(dir.path(), FP32, &first, &certificate(&first)).unwrap();
    assert_eq!(again.digest(), bundle.digest());
    let second = policy(3.0);
    let replaced = attach_policy(dir.path(), FP32, &second, &certificate(&second)).unwrap();
    assert_eq!(replaced.policy(FP32).unwrap(), Some(second));
    assert_ne!(replaced.digest(), bundle.digest());
    let detached = detach_policy(dir.path(), FP32).unwrap();
    assert_eq!(
        detached.digest(),
        bare.digest(),
        "the bundle is what it was before calibration"
    );
    assert!(!dir.path().join("variants/fp32/policy.json").exists());
}

/// Other devices have certificates of the same policy; they go when the policy does.
#[test]
fn a_policy_has_certificates_of_further_sessions() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), Existing::Refuse).unwrap();
    let policy = policy(2.0);
    let first = certificate(&policy);
    let through = |provider: &str, errors| {
        let mut one = first.clone();
        one.fingerprint.as_mut().unwrap().provider = provider.to_owned();
        one.plan_digest = Digest::of_bytes(b"the plan in another attempt");
        one.errors = errors;
        one
    };
    let error = attach_certificate(dir.path(), FP32, &through("cuda", 0)).unwrap_err();
    assert!(matches!(error, Error::NoPolicy { .. }), "{error}");
    let before = attach_policy(dir.path(), FP32, &policy, &first).unwrap();
    attach_certificate(dir.path(), FP32, &through("cuda", 1)).unwrap();
    attach_certificate(dir.path(), FP32, &through("tensorrt", 0)).unwrap();
    let bundle = attach_certificate(dir.path(), FP32, &through("cuda", 0)).unwrap();
    let all = bundle.certificates(FP32).unwrap();
    assert_eq!(all.len(), 3, "that of the same session was replaced");
    assert_eq!(all[0], first);
    assert!(all.contains(&through("cuda", 0)) && all.contains(&through("tensorrt", 0)));
    assert_eq!(bundle.policy(FP32).unwrap(), Some(policy.clone()));
    assert_eq!(
        bundle.variant_digest(FP32).unwrap(),
        before.variant_digest(FP32).unwrap()
    );
    let card = fs::read_to_string(dir.path().join(CARD)).unwrap();
    assert!(card.contains("through provider `cuda`"), "{card}");
    let mut other = through("cuda", 0);
    other.policy_digest = Digest::of_bytes(b"another policy");
    let error = attach_certificate(dir.path(), FP32, &other).unwrap_err();
    assert!(matches!(error, Error::Inconsistent { .. }), "{error}");

    let again = super::tests::policy(3.0);
    let replaced = attach_policy(dir.path(), FP32, &again, &certificate(&again)).unwrap();
    assert_eq!(replaced.certificates(FP32).unwrap().len(), 1);
    let left = fs::read_dir(dir.path().join("variants/fp32/certificates")).unwrap();
    assert_eq!(left.count(), 0);
    assert_eq!(
        detach_policy(dir.path(), FP32)
            .unwrap()
            .certificates(FP32)
            .unwrap(),
        []
    );
}

#[test]
fn the_card_says_what_is_promised_and_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), Existing::Refuse).unwrap();
    let card = || fs::read_to_string(dir.path().join(CARD)).unwrap();
    assert!(card().contains("Not calibrated"), "{}", card());
    let policy = policy(2.0);
    attach_policy(dir.path(), FP32, &policy, &certificate(&policy)).unwrap();
    for part in [
        "stage1 predict",
        "`cat`",
        "Of the answers, at most 5 % are wrong on average.",
        "on average",
        "not about",
        "single image",
        "deferred images",
        "random sample of the target",
        "| mcc | 0.7500 |",
        "[N, 3, 4, 2]",
        "licences/weights.txt",
    ] {
        assert!(
            card().contains(part),
            "{part:?} is missing from\n{}",
            card()
        );
    }
}

#[test]
fn a_byte_that_changed_is_found_in_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = calibrated(dir.path());
    let files: Vec<_> = bundle
        .manifest()
        .files()
        .into_iter()
        .map(|file| file.path.clone())
        .collect();
    assert_eq!(files.len(), 8, "{files:?}");
    for file in files {
        let path = dir.path().join(&file);
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = Bundle::open(dir.path()).unwrap_err();
            let is_digest = matches!(&error, Error::Artifact(artifact::Error::DigestMismatch { path, .. }) if path.ends_with(&file));
            assert!(is_digest, "{file}, byte {at}: {error}");
        }
        fs::remove_file(&path).unwrap();
        let error = Bundle::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(path.file_name().unwrap().to_str().unwrap()),
            "{error}"
        );
        fs::write(&path, whole).unwrap();
        Bundle::open(dir.path()).unwrap();
    }
}

#[test]
fn a_writer_that_dies_leaves_a_valid_bundle_or_none() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), Existing::Refuse).unwrap();
    let record = dir.path().join(MANIFEST);
    // Before the commit record there is no bundle.
    fs::rename(&record, dir.path().join("later")).unwrap();
    assert!(matches!(
        Bundle::open(dir.path()),
        Err(Error::NotABundle { .. })
    ));
    fs::rename(dir.path().join("later"), &record).unwrap();
    // A policy and its certificate were written, the record wasn't: they don't count, and the next attempt works.
    let without = fs::read(&record).unwrap();
    let first = policy(2.0);
    attach_policy(dir.path(), FP32, &first, &certificate(&first)).unwrap();
    let card = dir.path().join(CARD);
    let new_card = fs::read(&card).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&without).unwrap();
    manifest.as_object_mut().unwrap().remove("card");
    fs::write(&record, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    assert_eq!(
        (
            bundle.policy(FP32).unwrap(),
            bundle.certificate(FP32).unwrap()
        ),
        (None, None)
    );
    assert!(bundle.manifest().card.is_none());
    assert!(
        detach_policy(dir.path(), FP32)
            .unwrap()
            .manifest()
            .card
            .is_some()
    );
    let finished = attach_policy(dir.path(), FP32, &first, &certificate(&first)).unwrap();
    assert_eq!(finished.policy(FP32).unwrap(), Some(first));
    assert_eq!(fs::read(&card).unwrap(), new_card);
}

#[test]
fn a_bundle_is_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let old = calibrated(dir.path());
    let error = make(dir.path(), Existing::Refuse).unwrap_err();
    assert!(error.to_string().contains("--overwrite"), "{error}");
    assert_eq!(Bundle::open(dir.path()).unwrap().digest(), old.digest());
    fs::remove_file(dir.path().join("variants/fp32/certificate.json")).unwrap();
    let new = make(dir.path(), Existing::Replace).unwrap();
    assert_eq!(new.policy(FP32).unwrap(), None);
    // Nothing of the old one stays beside the new model.
    assert!(!dir.path().join("variants/fp32/policy.json").exists());
    assert!(!dir.path().join("variants/fp32/certificate.json").exists());
}

#[test]
fn what_does_not_belong_together_is_refused_and_nothing_is_written() {
    type Change = fn(&mut Policy, &mut Certificate);
    let cases: [(&str, Change); 8] = [
        ("policy_digest", |_, c| c.policy_digest = digest("other")),
        ("plan_digest", |_, c| c.plan_digest = digest("other")),
        ("`splits_digest` of certificate", |_, c| {
            c.splits_digest = Some(digest("other"))
        }),
        ("`splits_digest` of policy", |p, c| {
            p.splits_digest = Some(digest("other"));
            c.policy_digest = Digest::of_bytes(&json::to_bytes(p));
        }),
        ("model_digest", |_, c| {
            c.fingerprint.as_mut().unwrap().model_digest = digest("other")
        }),
        ("precision", |_, c| {
            c.fingerprint.as_mut().unwrap().precision = "int8".to_owned()
        }),
        ("batch_mode", |_, c| {
            c.fingerprint.as_mut().unwrap().batch_mode = BatchMode::Single
        }),
        ("names no session", |_, c| c.fingerprint = None),
    ];
    let dir = tempfile::tempdir().unwrap();
    let bare = make(dir.path(), Existing::Refuse).unwrap();
    for (named, change) in cases {
        let mut policy = policy(2.0);
        let mut certificate = certificate(&policy);
        change(&mut policy, &mut certificate);
        let error = attach_policy(dir.path(), FP32, &policy, &certificate)
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{error:?} should name {named}");
        assert_eq!(Bundle::open(dir.path()).unwrap().digest(), bare.digest());
    }
    let three = Policy {
        classes: 3,
        score: Score::MaxProbability { temperature: 1.0 },
        threshold: Threshold::OneSided { at_least: 0.5 },
        ..policy(2.0)
    };
    let error = attach_policy(dir.path(), FP32, &three, &certificate(&three))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`classes`") && error.contains("is 3, expected 2"),
        "{error}"
    );
}

/// Edits `bundle.json` as an attacker or an unlucky hand would.
fn with_record(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) -> Error {
    make(dir, Existing::Replace).unwrap();
    let path = dir.join(MANIFEST);
    let mut record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut record);
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    Bundle::open(dir).unwrap_err()
}

#[test]
fn a_record_that_is_not_one_is_refused_by_its_field() {
    let dir = tempfile::tempdir().unwrap();
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit); 10] = [
        ("schema_version 2", |r| r["schema_version"] = 2.into()),
        ("typo", |r| r["typo"] = 1.into()),
        ("labels: a name occurs twice", |r| {
            r["labels"][1] = "cat".into()
        }),
        ("labels: 1 given", |r| {
            drop(r["labels"].as_array_mut().unwrap().pop())
        }),
        ("`preprocess` makes 4x2", |r| {
            r["input"]["height"] = 5.into()
        }),
        ("input.pixels: `arithmetic: float32`", |r| {
            r["input"]["pixels"] = "uint8".into()
        }),
        ("come together", |r| {
            r["variants"]["fp32"]["policy"] = r["golden"].clone()
        }),
        ("not a name", |r| {
            let variant = r["variants"]["fp32"].clone();
            r["variants"]["../x"] = variant;
        }),
        ("listed twice", |r| {
            r["golden"] = r["variants"]["fp32"]["model"].clone()
        }),
        ("golden.digest", |r| r["golden"]["digest"] = "0".into()),
    ];
    for (named, edit) in cases {
        let error = with_record(dir.path(), edit).to_string();
        assert!(
            error.contains("bundle.json") && error.contains(named),
            "{error:?} should name {named}"
        );
    }
}

#[test]
fn no_path_leads_out_of_the_bundle() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("bundle");
    fs::write(outer.path().join("secret"), "Apache-2.0\n").unwrap();
    let paths = [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "./golden.safetensors",
        "a//b",
        "a\\b",
        "C:x",
        "",
    ];
    for path in paths {
        let error = with_record(&dir, |r| r["golden"]["path"] = path.into()).to_string();
        assert!(
            error.contains("not a relative path inside the bundle"),
            "{path:?}: {error}"
        );
    }
}

#[test]
#[cfg(unix)]
fn no_link_leads_out_of_the_bundle() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("bundle");
    fs::write(outer.path().join("secret"), "Apache-2.0\n").unwrap();
    make(&dir, Existing::Refuse).unwrap();
    let licence = dir.join("licences/weights.txt");
    fs::remove_file(&licence).unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), &licence).unwrap();
    let error = Bundle::open(&dir).unwrap_err();
    assert!(
        matches!(error, Error::Escapes { .. }),
        "the content is right, the place isn't: {error}"
    );
    // A link that stays inside is as good as the file.
    fs::remove_file(&licence).unwrap();
    fs::write(dir.join("licences/real.txt"), "Apache-2.0\n").unwrap();
    std::os::unix::fs::symlink("real.txt", &licence).unwrap();
    Bundle::open(&dir).unwrap();
}

#[test]
fn parts_that_do_not_fit_are_refused_before_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[f32], &[f32]); 4] = [
        ("no whole number of images", &[0.0; 23], &[1.0, 2.0]),
        ("no whole number of images", &[], &[]),
        ("expected 1 images x 2 classes", &[0.0; 24], &[1.0]),
        ("not finite", &[0.0; 24], &[1.0, f32::NAN]),
    ];
    for (named, inputs, logits) in cases {
        let error = write::write_golden(
            dir.path(),
            [inputs.len() / 24, 3, 4, 2],
            2,
            inputs,
            logits,
            None,
        )
        .unwrap_err();
        assert!(
            error.to_string().contains(named),
            "{error} should name {named}"
        );
    }
}

/// A promise in expectation has nothing of the other kind, and the other way round.
#[test]
fn promises_are_of_one_kind() {
    let pac = certificate(&policy(2.0));
    let expectation = Certificate {
        guarantee: Guarantee::Expectation,
        delta: None,
        level: None,
        procedure: None,
        test: None,
        claims: Vec::new(),
        expected: Some(ExpectedRisk {
            selected_from: 0.7,
            selected: 79,
            errors: 3,
            bound: 0.05,
        }),
        errors: 3,
        p_value: None,
        upper_bound: None,
        ..pac.clone()
    };
    pac.validate().unwrap();
    expectation.validate().unwrap();
    let written = String::from_utf8(json::to_bytes(&expectation)).unwrap();
    assert!(!written.contains("delta"), "{written}");
    type Edit = (&'static str, fn(&mut Certificate));
    let edits: [Edit; 5] = [
        ("has no delta", |c| c.delta = Some(0.1)),
        ("has no p_value", |c| c.p_value = Some(0.1)),
        ("needs `expected`", |c| c.expected = None),
        ("at most alpha 0.04", |c| c.alpha = 0.04),
        ("pac, which needs delta", |c| c.guarantee = Guarantee::Pac),
    ];
    for (message, edit) in edits {
        let mut broken = expectation.clone();
        edit(&mut broken);
        let got = broken.validate().unwrap_err();
        assert!(got.contains(message), "{got}");
    }
}
