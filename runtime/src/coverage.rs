//! Whether a certificate is about this session.

use crate::GoldenCheck;
use serde::Serialize;
use stage1_core::{certificate::Fingerprint, device::Device};
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
    /// The session is the one that was certified, but for the instruction-set class of the CPU, on which the bundle's golden
    /// outputs were computed again: they agree to 1e-5 of their scale, and lead to the same decisions.
    Rechecked {
        /// The class that was certified, and the one here.
        difference: Difference,
    },
    /// It isn't, and that was allowed by name.
    Uncertified {
        /// Every field that differs.
        differences: Vec<Difference>,
    },
}

impl Standing {
    /// Whether the answers are covered.
    pub fn is_certified(&self) -> bool {
        matches!(self, Self::Certified | Self::Rechecked { .. })
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

/// The golden outputs as this session computes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Golden {
    pub(crate) check: GoldenCheck,
    /// Images of which the policy decides otherwise than on the bundle's logits.
    pub(crate) changed_decisions: usize,
}

/// How many golden images must repeat before a session may answer.
///
/// A certificate's fingerprint determines what a CPU computes: the model's bytes, ONNX Runtime's version and the class of
/// instruction set, with every node placed on the CPU. There, one image shows that this library computes at all what it
/// did, which a damaged or patched library of the same version wouldn't. Anywhere else (another class, an accelerator, whose
/// driver and kernels no field names) all of them must.
pub(crate) fn golden_images(certified: &Fingerprint, here: &Fingerprint) -> usize {
    match certified == here && here.provider == Device::Cpu.name() {
        true => 1,
        false => usize::MAX,
    }
}

/// Whether the certificate of one session covers another.
pub(crate) fn standing(certified: &Fingerprint, here: &Fingerprint, golden: &Golden) -> Standing {
    let mut differences = fingerprint_differences(certified, here);
    differences.extend(golden_differences(golden));
    match &differences[..] {
        [] => Standing::Certified,
        [difference] if difference.field == CPU_ISA => Standing::Rechecked {
            difference: difference.clone(),
        },
        _ => Standing::Uncertified { differences },
    }
}

fn golden_differences(golden: &Golden) -> Option<Difference> {
    let Golden {
        check,
        changed_decisions,
    } = golden;
    let here = match (check.passed(), changed_decisions) {
        (true, 0) => return None,
        (true, changed) => format!("{changed} of {} decisions changed", check.images),
        (false, _) => format!(
            "off by {:.1e} on image {}",
            check.max_abs_error, check.worst_image
        ),
    };
    Some(Difference {
        field: "golden outputs",
        certified: format!("within {:.1e} of the bundle's", check.tolerance),
        here,
    })
}

const CPU_ISA: &str = "cpu_isa";

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
        (CPU_ISA, cpu_isa.clone()),
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

    fn golden(max_abs_error: f64, changed_decisions: usize) -> Golden {
        let check = GoldenCheck {
            images: 4,
            scale: 1.0,
            max_abs_error,
            tolerance: 1e-5,
            worst_image: 0,
        };
        Golden {
            check,
            changed_decisions,
        }
    }

    type Change = fn(&mut Fingerprint);

    const OTHER_CPU: Change = |f| f.cpu_isa = "x86_64-avx512f".to_owned();

    #[test]
    fn every_field_counts_and_is_named() {
        let same = standing(&fingerprint(), &fingerprint(), &golden(0.0, 0));
        assert_eq!(same, Standing::Certified);
        let changes: [(&str, Change); 6] = [
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
        ];
        for (field, change) in changes {
            let mut here = fingerprint();
            change(&mut here);
            assert_eq!(uncertified(&here, golden(0.0, 0)), [field]);
            OTHER_CPU(&mut here);
            assert_eq!(uncertified(&here, golden(0.0, 0)), [field, "cpu_isa"]);
        }
    }

    fn uncertified(here: &Fingerprint, golden: Golden) -> Vec<&'static str> {
        match standing(&fingerprint(), here, &golden) {
            Standing::Uncertified { differences } => differences.iter().map(|d| d.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_cpu_is_covered_if_the_goldens_repeat_on_it() {
        let mut here = fingerprint();
        OTHER_CPU(&mut here);
        let rechecked = standing(&fingerprint(), &here, &golden(1e-6, 0));
        assert!(rechecked.is_certified(), "{rechecked:?}");
        assert!(matches!(rechecked, Standing::Rechecked { .. }));
        let cases = [
            ("logits are off", 1e-3, 0),
            ("a decision changed", 1e-6, 1),
            ("not a number", f64::INFINITY, 4),
        ];
        for (name, error, changed) in cases {
            let fields = uncertified(&here, golden(error, changed));
            assert_eq!(fields, ["cpu_isa", "golden outputs"], "{name}");
            let fields = uncertified(&fingerprint(), golden(error, changed));
            assert_eq!(fields, ["golden outputs"], "{name}");
        }
    }
}
