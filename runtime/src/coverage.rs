//! Whether a certificate is about this session.

use crate::GoldenCheck;
use serde::Serialize;
use stage1_core::certificate::Fingerprint;
use std::fmt;

/// A field in which the session isn't what was certified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The fingerprint's field, or `golden outputs`.
    pub field: &'static str,
    /// What was certified.
    pub certified: String,
    /// What is here.
    pub here: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: certified {}, here {}",
            self.field, self.certified, self.here
        )
    }
}

/// Whether the answers are covered by a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// The session is the one that was certified.
    Certified,
    /// It isn't, and that was allowed by name.
    Uncertified {
        /// Every field that differs.
        differences: Vec<Difference>,
    },
}

impl Standing {
    /// Whether the answers are covered.
    pub fn is_certified(&self) -> bool {
        *self == Self::Certified
    }
}

/// The fields in which two sessions differ.
pub fn fingerprint_differences(certified: &Fingerprint, here: &Fingerprint) -> Vec<Difference> {
    fields(certified)
        .into_iter()
        .zip(fields(here))
        .filter(|(certified, here)| certified != here)
        .map(|((field, certified), (_, here))| Difference {
            field,
            certified,
            here,
        })
        .collect()
}

/// What keeps the certificate from covering the session; empty if it does.
pub(crate) fn differences(
    certified: &Fingerprint,
    here: &Fingerprint,
    golden: &GoldenCheck,
) -> Vec<Difference> {
    let mut found = fingerprint_differences(certified, here);
    if !golden.passed() {
        found.push(Difference {
            field: "golden outputs",
            certified: format!("within {:.1e} of the bundle's", golden.tolerance),
            here: format!(
                "off by {:.1e} on image {}",
                golden.max_abs_error, golden.worst_image
            ),
        });
    }
    found
}

fn fields(fingerprint: &Fingerprint) -> [(&'static str, String); 7] {
    let Fingerprint {
        model_digest,
        provider,
        provider_version,
        precision,
        batch_mode,
        preprocessing_digest,
        cpu_isa,
    } = fingerprint;
    [
        ("model_digest", model_digest.short()),
        ("provider", provider.clone()),
        ("provider_version", provider_version.clone()),
        ("precision", precision.clone()),
        ("batch_mode", format!("{batch_mode:?}").to_lowercase()),
        ("preprocessing_digest", preprocessing_digest.short()),
        ("cpu_isa", cpu_isa.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_core::{artifact::Digest, certificate::BatchMode};

    fn fingerprint() -> Fingerprint {
        Fingerprint {
            model_digest: Digest::of_bytes(b"model"),
            provider: "cpu".to_owned(),
            provider_version: "onnxruntime 1.31.1".to_owned(),
            precision: "fp32".to_owned(),
            batch_mode: BatchMode::Any,
            preprocessing_digest: Digest::of_bytes(b"preprocessing"),
            cpu_isa: "x86_64-avx2".to_owned(),
        }
    }

    #[test]
    fn every_field_counts_and_is_named() {
        let golden = GoldenCheck {
            images: 1,
            scale: 1.0,
            max_abs_error: 0.0,
            tolerance: 1e-5,
            worst_image: 0,
        };
        assert_eq!(differences(&fingerprint(), &fingerprint(), &golden), []);
        type Change = fn(&mut Fingerprint);
        let changes: [(&str, Change); 7] = [
            ("model_digest", |f| {
                f.model_digest = Digest::of_bytes(b"other")
            }),
            ("provider", |f| f.provider = "cuda".to_owned()),
            ("provider_version", |f| {
                f.provider_version = "onnxruntime 1.30.0".to_owned()
            }),
            ("precision", |f| f.precision = "int8".to_owned()),
            ("batch_mode", |f| f.batch_mode = BatchMode::Single),
            ("preprocessing_digest", |f| {
                f.preprocessing_digest = Digest::of_bytes(b"other")
            }),
            ("cpu_isa", |f| f.cpu_isa = "x86_64-avx512f".to_owned()),
        ];
        for (field, change) in changes {
            let mut here = fingerprint();
            change(&mut here);
            let found = differences(&fingerprint(), &here, &golden);
            assert_eq!(found.len(), 1, "{field}");
            assert_eq!(found[0].field, field);
        }
        let off = GoldenCheck {
            max_abs_error: 1e-3,
            ..golden
        };
        assert_eq!(
            differences(&fingerprint(), &fingerprint(), &off)[0].field,
            "golden outputs"
        );
    }
}
