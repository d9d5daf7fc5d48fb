//! Who decided, and what was promised for it.

use crate::args::MonitorArgs;
use anyhow::{Context, bail};
use stage1_core::{
    artifact::{Digest, Hasher, json},
    bundle::Bundle,
    certificate::Certificate,
    logits::LogitSet,
    policy::Policy,
};
use std::path::Path;

pub(super) struct Subject {
    pub(super) policy: Policy,
    /// Class names, where there is a bundle.
    labels: Option<Vec<String>>,
    /// The risk that answers are held to.
    pub(super) alpha: Option<f64>,
    model: Option<Digest>,
    /// Of the policy and the model: a state belongs to one.
    pub(super) digest: Digest,
}

impl Subject {
    pub(super) fn open(args: &MonitorArgs) -> anyhow::Result<Self> {
        let mut subject = match (&args.policy, &args.bundle) {
            (Some(path), _) => Self::of_policy(path)?,
            (None, Some(dir)) => Self::of_bundle(dir, &args.variant)?,
            (None, None) => bail!("name what decided with --bundle or --policy"),
        };
        subject.hold_to(args.alpha)?;
        Ok(subject)
    }

    fn of_bundle(dir: &Path, variant: &str) -> anyhow::Result<Self> {
        let bundle = Bundle::open(dir)
            .with_context(|| format!("cannot open the bundle {}", dir.display()))?;
        let Some(policy) = bundle.policy(variant)? else {
            bail!(
                "variant `{variant}` of {} has no policy: there are no decisions to watch; run `stage1 calibrate`",
                dir.display()
            );
        };
        let model = bundle.variant(variant)?.model.digest;
        let labels = bundle.manifest().labels.clone();
        let certificate = bundle.certificate(variant)?;
        Ok(Self::new(policy, Some(labels), certificate, Some(model)))
    }

    /// The certificate is the one beside the policy, if it is that policy's.
    fn of_policy(path: &Path) -> anyhow::Result<Self> {
        let (policy, _) = json::load::<Policy>(path)?;
        let beside = path.with_file_name("certificate.json");
        let certificate = if beside.exists() {
            let (certificate, _) = json::load::<Certificate>(&beside)?;
            (certificate.policy_digest == Digest::of_bytes(&json::to_bytes(&policy)))
                .then_some(certificate)
        } else {
            None
        };
        Ok(Self::new(policy, None, certificate, None))
    }

    fn new(
        policy: Policy,
        labels: Option<Vec<String>>,
        certificate: Option<Certificate>,
        model: Option<Digest>,
    ) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(b"monitor").field(&json::to_bytes(&policy));
        model.iter().for_each(|digest| {
            hasher.field(&digest.0);
        });
        Self {
            policy,
            labels,
            // Labels are held against what was promised of errors among answers.
            alpha: certificate.and_then(|certificate| certificate.selective_error()),
            model,
            digest: hasher.finish(),
        }
    }

    /// A certificate at α holds for any larger α, and for no smaller one.
    fn hold_to(&mut self, alpha: Option<f64>) -> anyhow::Result<()> {
        match (alpha, self.alpha) {
            (Some(asked), Some(certified)) if asked < certified => bail!(
                "--alpha is {asked}, but the certificate promises a risk of at most {certified}: nothing was promised for \
                 less; calibrate at that level, or leave --alpha out"
            ),
            (Some(asked), _) => self.alpha = Some(asked),
            (None, _) => {}
        }
        Ok(())
    }

    pub(super) fn check_reference(&self, split: &str, set: &LogitSet) -> anyhow::Result<()> {
        if set.classes != self.policy.classes {
            bail!(
                "the reference's {split} has {} classes, the policy decides among {}",
                set.classes,
                self.policy.classes
            );
        }
        let made_by = set.source.as_ref().map(|source| source.model_digest);
        match (made_by, self.model) {
            (Some(got), Some(want)) if got != want => bail!(
                "the reference's {split} holds logits of model {}, the bundle's is {}: take those of the run that made \
                 the bundle",
                got.short(),
                want.short()
            ),
            _ => Ok(()),
        }
    }

    /// What class `index` is called: its name, or its index where no bundle tells.
    pub(super) fn class_name(&self, index: usize) -> String {
        self.labels
            .as_ref()
            .map_or_else(|| index.to_string(), |labels| labels[index].clone())
    }

    pub(super) fn class_names(&self) -> Vec<String> {
        (0..self.policy.classes)
            .map(|index| self.class_name(index))
            .collect()
    }

    /// Whether a label may be the name of a class; without a bundle nobody knows.
    pub(super) fn check_label(&self, label: &str) -> anyhow::Result<()> {
        match &self.labels {
            Some(labels) if !labels.iter().any(|known| known == label) => bail!(
                "`{label}` is no class of the bundle; there are {}",
                labels.join(", ")
            ),
            _ => Ok(()),
        }
    }

    /// Whether an answer is the name of class `index`; without a bundle nobody knows.
    pub(super) fn is_called(&self, index: usize, answer: &str) -> bool {
        self.labels
            .as_ref()
            .is_none_or(|labels| labels[index] == answer)
    }
}
