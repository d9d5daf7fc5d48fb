use super::{
    AugmentConfig, BlockChoice, Config, DepthConfig, Error, ExploraConfig, GateConfig, GateLoss,
    GroupRiskChoice, HeadType, MAX_THREADS, PeftConfig, Phase, Precision, Result, Sampling,
    ScoreChoice, Target, VERSION, VariantPrecision, schema,
};
use crate::{artifact::json::brief, certificate::Procedure, device, model::ReadBlocks};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fs, path::Path};

impl Config {
    /// Reads a YAML file, applies `overrides` (`train.epochs=3`, the value as YAML) and validates the whole.
    ///
    /// # Errors
    /// [`Error`] naming the file and the key.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let document = serde_saphyr::from_str(&text).map_err(|error| Error::Yaml {
            path: path.to_owned(),
            reason: error.render_with_formatter(&serde_saphyr::UserMessageFormatter),
        })?;
        Self::from_document(document, &path.display().to_string(), overrides)
    }

    /// As [`Config::load`], from a parsed document; `origin` is what messages call it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_document(mut document: Value, origin: &str, overrides: &[String]) -> Result<Self> {
        let schema = schema::json_schema();
        schema::refuse_unknown_keys(&schema, &document, origin)?;
        for text in overrides {
            let change = parse_override(text)?;
            schema::refuse_unknown_keys(&schema, &change, "--set")?;
            fill_preprocess(&mut document, &change);
            merge(&mut document, change, &mut Vec::new());
        }
        let config: Self =
            serde_path_to_error::deserialize(document).map_err(|error| Error::Type {
                origin: origin.to_owned(),
                key: error.path().to_string(),
                reason: error.into_inner().to_string(),
            })?;
        config.validate(origin)?;
        Ok(config)
    }

    /// The resolved configuration as YAML that [`Config::load`] reads back.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("plain data has a YAML form")
    }

    fn validate(&self, origin: &str) -> Result<()> {
        self.deploy
            .providers()
            .check()
            .map_err(|error| provider_option(error, origin))?;
        let train = &self.train;
        let share = |x: f64| x > 0.0 && x < 1.0;
        let from_zero = |x: f64| x.is_finite() && x >= 0.0;
        let (open, zero_up, one_up) = (
            "a number between 0 and 1",
            "a number ≥ 0",
            "a whole number ≥ 1",
        );
        let rules = [
            (
                "version",
                self.version == VERSION,
                "1",
                self.version.to_string(),
            ),
            ("threads", self.threads != Some(0), one_up, "0".to_owned()),
            (
                "threads",
                self.threads <= Some(MAX_THREADS),
                "at most 1024",
                self.threads.unwrap_or_default().to_string(),
            ),
            (
                "data.max_pixels",
                self.data.options.max_pixels > 0,
                one_up,
                "0".to_owned(),
            ),
            (
                "data.near.correlation",
                self.data.options.near.correlation > 0.0
                    && self.data.options.near.correlation <= 1.0,
                "a number above 0, at most 1",
                self.data.options.near.correlation.to_string(),
            ),
            (
                "calibrate.alpha",
                share(self.calibrate.alpha),
                open,
                self.calibrate.alpha.to_string(),
            ),
            (
                "calibrate.delta",
                share(self.calibrate.delta),
                open,
                self.calibrate.delta.to_string(),
            ),
            (
                "calibrate.max_group_size",
                match self.calibrate.max_group_size {
                    Some(size) => size > 0 && self.calibrate.group_risk == GroupRiskChoice::Row,
                    None => self.calibrate.group_risk != GroupRiskChoice::Row,
                },
                "a whole number ≥ 1 with `calibrate.group_risk: row`, and `null` without",
                brief(&self.calibrate.max_group_size),
            ),
            (
                "calibrate.procedure",
                !matches!(
                    self.calibrate.procedure,
                    Procedure::MultiStart { starts: 0 }
                ),
                "a number of starts ≥ 1",
                "0".to_owned(),
            ),
            (
                "validate.gamma",
                share(self.validate.gamma),
                open,
                self.validate.gamma.to_string(),
            ),
            (
                "backbone.blocks",
                self.backbone.blocks != BlockChoice::First(0),
                "a number of blocks ≥ 1, `auto`, or null for all",
                "0".to_owned(),
            ),
            (
                "export.parity_tolerance",
                share(self.export.parity_tolerance),
                open,
                self.export.parity_tolerance.to_string(),
            ),
            (
                "export.max_flip_rate",
                from_zero(self.export.max_flip_rate) && self.export.max_flip_rate <= 1.0,
                "a number from 0 to 1",
                self.export.max_flip_rate.to_string(),
            ),
            (
                "export.variants",
                {
                    let distinct: BTreeSet<_> = self.export.variants.iter().collect();
                    distinct.len() == self.export.variants.len()
                },
                "each precision once",
                brief(&self.export.variants),
            ),
            (
                "export.variants",
                self.export.target != Target::TensorRt
                    || !self.export.variants.contains(&VariantPrecision::Int8),
                "no `int8` with `export.target: tensorrt`, which reads symmetric int8 only (take fp16, or the target `portable`)",
                brief(&self.export.variants),
            ),
            (
                "export.fp16.parity_tolerance",
                share(self.export.fp16.parity_tolerance),
                open,
                self.export.fp16.parity_tolerance.to_string(),
            ),
            (
                "export.fp16.images",
                self.export.fp16.images > 0,
                one_up,
                "0".to_owned(),
            ),
            (
                "export.int8.parity_tolerance",
                share(self.export.int8.parity_tolerance),
                open,
                self.export.int8.parity_tolerance.to_string(),
            ),
            (
                "export.int8.images",
                self.export.int8.images > 0,
                one_up,
                "0".to_owned(),
            ),
            (
                "export.int8.max_error",
                from_zero(self.export.int8.max_error) && self.export.int8.max_error > 0.0,
                "a number > 0",
                self.export.int8.max_error.to_string(),
            ),
            (
                "export.int8.weight_bits",
                matches!(self.export.int8.weight_bits, None | Some(7 | 8)),
                "7, 8 or `null`",
                brief(&self.export.int8.weight_bits.unwrap_or_default()),
            ),
            (
                "calibrate.flip_delta",
                share(self.calibrate.flip_delta),
                open,
                self.calibrate.flip_delta.to_string(),
            ),
            (
                "calibrate.max_flip_bound",
                self.calibrate.max_flip_bound.is_none_or(share),
                "a number between 0 and 1, or `null`",
                brief(&self.calibrate.max_flip_bound.unwrap_or_default()),
            ),
            (
                "train.epochs",
                train.epochs > 0,
                one_up,
                train.epochs.to_string(),
            ),
            (
                "train.batch_size",
                train.batch_size > 0,
                one_up,
                train.batch_size.to_string(),
            ),
            (
                "train.feature_batch_size",
                train.feature_batch_size > 0,
                one_up,
                train.feature_batch_size.to_string(),
            ),
            (
                "train.learning_rate",
                from_zero(train.learning_rate) && train.learning_rate > 0.0,
                "a number > 0",
                train.learning_rate.to_string(),
            ),
            (
                "train.weight_decay",
                from_zero(train.weight_decay),
                zero_up,
                train.weight_decay.to_string(),
            ),
            (
                "train.warmup_epochs",
                from_zero(train.warmup_epochs) && train.warmup_epochs <= train.epochs as f64,
                "a number from 0 to train.epochs",
                train.warmup_epochs.to_string(),
            ),
            (
                "train.label_smoothing",
                (0.0..1.0).contains(&train.label_smoothing),
                "a number in [0, 1)",
                train.label_smoothing.to_string(),
            ),
            (
                "train.ema_decay",
                (0.0..1.0).contains(&train.ema_decay),
                "a number in [0, 1)",
                train.ema_decay.to_string(),
            ),
            (
                "train.max_grad_norm",
                from_zero(train.max_grad_norm) && train.max_grad_norm > 0.0,
                "a number > 0",
                train.max_grad_norm.to_string(),
            ),
            (
                "train.early_stop.patience",
                train.early_stop.patience > 0,
                one_up,
                "0".to_owned(),
            ),
            (
                "train.early_stop.min_delta",
                from_zero(train.early_stop.min_delta),
                zero_up,
                train.early_stop.min_delta.to_string(),
            ),
            (
                "head.dropout",
                (0.0..1.0).contains(&self.head.dropout),
                "a number in [0, 1)",
                self.head.dropout.to_string(),
            ),
            (
                "head.blocks",
                self.head
                    .blocks
                    .as_deref()
                    .is_none_or(|blocks| ReadBlocks::new(blocks).is_some()),
                "numbers of blocks from 1 to 64, ascending, or null for the last one that is run",
                brief(&self.head.blocks),
            ),
            (
                "head.blocks",
                self.head.blocks.is_none() || !self.backbone.blocks.is_auto(),
                "null, since `backbone.blocks: auto` chooses the one block that is read",
                brief(&self.head.blocks),
            ),
            (
                "head.hidden",
                self.head.kind == HeadType::Mlp || self.head.hidden.is_none(),
                "no value, since `head.kind` is `linear` (set `head.kind: mlp` to use a hidden layer)",
                brief(&self.head.hidden.unwrap_or_default()),
            ),
            (
                "head.hidden",
                self.head.hidden != Some(0),
                one_up,
                "0".to_owned(),
            ),
        ];
        let rules = rules
            .into_iter()
            .chain(self.depth_rules())
            .chain(self.loss_rules())
            .chain(self.backbone_training_rules())
            .chain(self.peft_rules())
            .chain(self.gate_rules())
            .chain(self.explora_rules())
            .chain(self.explora.rules())
            .chain(self.augment_rules());
        for (key, holds, expected, got) in rules {
            if !holds {
                return Err(Error::Value {
                    origin: origin.to_owned(),
                    key,
                    expected,
                    got,
                });
            }
        }
        if let Some((key, expected, got)) = self.calibrate.contradiction() {
            return Err(Error::Value {
                origin: origin.to_owned(),
                key,
                expected,
                got,
            });
        }
        let type_error = |key: &str, reason| Error::Type {
            origin: origin.to_owned(),
            key: key.to_owned(),
            reason,
        };
        for constraint in &self.calibrate.constraints {
            constraint
                .validate(None)
                .map_err(|reason| type_error("calibrate.constraints", reason))?;
        }
        self.preprocess
            .validate()
            .map_err(|error| type_error("preprocess", error.to_string()))?;
        self.preprocess
            .check_format(self.export.input)
            .map_err(|error| type_error("export.input", error.to_string()))
    }
}

/// A key, whether its value is allowed, what is allowed, and the value.
pub(super) type Rule = (&'static str, bool, &'static str, String);

/// Rules of the training's parts.
impl Config {
    fn depth_rules(&self) -> Vec<Rule> {
        let (depth, is_auto) = (&self.backbone.depth, self.backbone.blocks.is_auto());
        let candidates = depth.candidates.as_deref();
        let ascending = |blocks: &[usize]| {
            !blocks.is_empty() && blocks[0] > 0 && blocks.is_sorted_by(|a, b| a < b)
        };
        vec![
            (
                "backbone.depth",
                is_auto || *depth == DepthConfig::default(),
                "its defaults, since `backbone.blocks` isn't `auto`",
                "other values".to_owned(),
            ),
            (
                "backbone.depth.tolerance",
                depth.tolerance.is_finite() && depth.tolerance >= 0.0,
                "a number ≥ 0",
                depth.tolerance.to_string(),
            ),
            (
                "backbone.depth.candidates",
                candidates.is_none_or(ascending),
                "numbers of blocks ≥ 1, ascending, or null for all",
                brief(&candidates.unwrap_or_default()),
            ),
            (
                "backbone.depth.max_cache_gib",
                depth.max_cache_gib.is_finite() && depth.max_cache_gib > 0.0,
                "a number > 0",
                depth.max_cache_gib.to_string(),
            ),
        ]
    }

    fn loss_rules(&self) -> Vec<Rule> {
        let train = &self.train;
        let zero_up = |x: f64| x.is_finite() && x >= 0.0;
        vec![
            (
                "train.effective_number_beta",
                (0.0..1.0).contains(&train.effective_number_beta),
                "a number in [0, 1)",
                train.effective_number_beta.to_string(),
            ),
            (
                "train.focal_gamma",
                zero_up(train.focal_gamma),
                "a number ≥ 0",
                train.focal_gamma.to_string(),
            ),
            (
                "train.logit_adjustment",
                zero_up(train.logit_adjustment),
                "a number ≥ 0",
                train.logit_adjustment.to_string(),
            ),
            (
                "train.logit_adjustment",
                train.logit_adjustment == 0.0 || train.sampling == Sampling::Natural,
                "0, since `train.sampling: balanced` leaves no imbalance to adjust for",
                train.logit_adjustment.to_string(),
            ),
        ]
    }

    fn backbone_training_rules(&self) -> Vec<Rule> {
        // `explora` has its own way of seeing images; what follows it is a head on features.
        let (train, trains_backbone) = (&self.train, self.adapts());
        vec![
            (
                "train.micro_batch_size",
                train.micro_batch_size != Some(0),
                "a whole number ≥ 1, or null",
                "0".to_owned(),
            ),
            (
                "train.micro_batch_size",
                trains_backbone || train.micro_batch_size.is_none(),
                "null, since a head alone is trained on features that are computed once",
                brief(&train.micro_batch_size.unwrap_or_default()),
            ),
            (
                "train.precision",
                trains_backbone || self.phase.pretrains() || train.precision == Precision::Fp32,
                "fp32, since phases without adapters don't train through the backbone",
                "bf16".to_owned(),
            ),
            (
                "augment",
                trains_backbone || self.augment == AugmentConfig::default(),
                "its defaults, since a head alone is trained on features that are computed once; use `phase: peft`",
                "other values".to_owned(),
            ),
        ]
    }

    fn gate_rules(&self) -> Vec<Rule> {
        let (gate, is_gate) = (&self.gate, self.phase == Phase::Gate);
        let share = |x: f64| x > 0.0 && x < 1.0;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let one_up = "a whole number ≥ 1";
        vec![
            (
                "gate",
                is_gate || *gate == GateConfig::default(),
                "its defaults, since `phase` isn't `gate`",
                format!("other values with `phase: {}`", self.phase),
            ),
            (
                "head.kind",
                !is_gate || self.head.kind == HeadType::Mlp,
                "mlp with `phase: gate`: classes and gate share its hidden layer",
                "linear".to_owned(),
            ),
            (
                "calibrate.score",
                !is_gate || self.calibrate.score != ScoreChoice::Gate,
                "a score of the logits: with `phase: gate` it is what decides if the gate doesn't win on val_select",
                "gate".to_owned(),
            ),
            (
                "train",
                !(is_gate && gate.loss == GateLoss::SelectiveNet) || self.train.has_plain_loss(),
                "no class_weights, focal_gamma, logit_adjustment or label_smoothing with `gate.loss: selective_net`, which has a \
                 loss of its own",
                "one of them".to_owned(),
            ),
            ("gate.hidden", gate.hidden > 0, one_up, "0".to_owned()),
            (
                "gate.folds",
                gate.folds > 1,
                "a whole number ≥ 2",
                gate.folds.to_string(),
            ),
            ("gate.epochs", gate.epochs > 0, one_up, "0".to_owned()),
            (
                "gate.learning_rate",
                positive(gate.learning_rate),
                "a number > 0",
                gate.learning_rate.to_string(),
            ),
            (
                "gate.weight_decay",
                gate.weight_decay.is_finite() && gate.weight_decay >= 0.0,
                "a number ≥ 0",
                gate.weight_decay.to_string(),
            ),
            (
                "gate.coverage",
                share(gate.coverage),
                "a number between 0 and 1",
                gate.coverage.to_string(),
            ),
            (
                "gate.coverage_weight",
                positive(gate.coverage_weight),
                "a number > 0",
                gate.coverage_weight.to_string(),
            ),
            (
                "gate.auxiliary_weight",
                share(gate.auxiliary_weight),
                "a number between 0 and 1",
                gate.auxiliary_weight.to_string(),
            ),
            (
                "gate.resamples",
                gate.resamples >= 100,
                "a whole number ≥ 100",
                gate.resamples.to_string(),
            ),
        ]
    }

    fn peft_rules(&self) -> Vec<Rule> {
        let peft = &self.peft;
        let is_peft = self.adapts();
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let layers = peft.layers_to_transform.as_deref();
        vec![
            (
                "peft",
                is_peft || *peft == PeftConfig::default(),
                "its defaults, since no adapters are trained: set `phase: peft`, or `explora-supervised` and `peft.target_modules`",
                format!("other values with `phase: {}`", self.phase),
            ),
            (
                "peft.target_modules",
                !is_peft || !peft.target_modules.is_empty(),
                "the names of the linear layers to adapt (DINOv3: [q_proj, v_proj]; DINOv2: [query, value]), or all-linear",
                "nothing".to_owned(),
            ),
            (
                "peft.layers_to_transform",
                layers != Some(&[]),
                "null, or a list of blocks",
                "[]".to_owned(),
            ),
            ("peft.r", peft.r > 0, "a whole number ≥ 1", "0".to_owned()),
            (
                "peft.rank_pattern",
                peft.rank_pattern.values().all(|&r| r > 0),
                "whole numbers ≥ 1",
                "0".to_owned(),
            ),
            (
                "peft.lora_alpha",
                positive(peft.lora_alpha),
                "a number > 0",
                peft.lora_alpha.to_string(),
            ),
            (
                "peft.alpha_pattern",
                peft.alpha_pattern.values().all(|&alpha| positive(alpha)),
                "numbers > 0",
                brief(&peft.alpha_pattern),
            ),
            (
                "peft.lora_dropout",
                (0.0..1.0).contains(&peft.lora_dropout),
                "a number in [0, 1)",
                peft.lora_dropout.to_string(),
            ),
            (
                "peft.learning_rate",
                positive(peft.learning_rate),
                "a number > 0",
                peft.learning_rate.to_string(),
            ),
            (
                "peft.lora_plus_ratio",
                positive(peft.lora_plus_ratio),
                "a number > 0",
                peft.lora_plus_ratio.to_string(),
            ),
            (
                "peft.weight_decay",
                peft.weight_decay.is_finite() && peft.weight_decay >= 0.0,
                "a number ≥ 0",
                peft.weight_decay.to_string(),
            ),
        ]
    }

    fn explora_rules(&self) -> Vec<Rule> {
        let explora = &self.explora;
        vec![
            (
                "explora",
                self.phase.pretrains() || *explora == ExploraConfig::default(),
                "its defaults, since `phase` is neither `explora` nor `explora-supervised`",
                format!("other values with `phase: {}`", self.phase),
            ),
            (
                "explora.from",
                explora.from.is_none() || self.phase == Phase::ExploraSupervised,
                "null, since `phase: explora` trains that backbone itself; use `phase: explora-supervised`",
                "a folder".to_owned(),
            ),
            (
                "backbone.blocks",
                !(self.phase.pretrains() && self.backbone.blocks.is_auto()),
                "null or a number, since self-supervised training needs to know its blocks",
                format!("auto with `phase: {}`", self.phase),
            ),
        ]
    }

    fn augment_rules(&self) -> Vec<Rule> {
        let augment = &self.augment;
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let ordered = |[low, high]: [f64; 2]| low > 0.0 && low <= high && high.is_finite();
        let crop = augment.crop.clone().unwrap_or_default();
        let colour = &augment.colour;
        let strengths = [colour.brightness, colour.contrast, colour.saturation];
        let probabilities = [
            ("augment.flip", augment.flip),
            ("augment.grey", augment.grey),
            ("augment.colour.probability", colour.probability),
            ("augment.blur.probability", augment.blur.probability),
            ("augment.solarise.probability", augment.solarise.probability),
        ];
        let probabilities = probabilities
            .into_iter()
            .map(|(key, p)| (key, share(p), "a number from 0 to 1", p.to_string()));
        let others = [
            (
                "augment.crop.area",
                ordered(crop.area) && crop.area[1] <= 1.0,
                "two rising numbers above 0, at most 1",
                brief(&crop.area),
            ),
            (
                "augment.crop.ratio",
                ordered(crop.ratio),
                "two rising numbers above 0",
                brief(&crop.ratio),
            ),
            (
                "augment.colour",
                strengths.into_iter().all(share) && (0.0..=0.5).contains(&colour.hue),
                "brightness, contrast and saturation from 0 to 1, hue from 0 to 0.5",
                format!("{strengths:?} and {}", colour.hue),
            ),
            (
                "augment.blur.sigma",
                ordered(augment.blur.sigma),
                "two rising numbers above 0",
                brief(&augment.blur.sigma),
            ),
            (
                "augment.policy",
                augment.policy.operations <= 16 && (0.0..=10.0).contains(&augment.policy.magnitude),
                "at most 16 operations of magnitude 0 to 10",
                format!(
                    "{} of {}",
                    augment.policy.operations, augment.policy.magnitude
                ),
            ),
            (
                "augment.mixup",
                augment.mixup.is_finite() && augment.mixup >= 0.0,
                "a number ≥ 0",
                augment.mixup.to_string(),
            ),
            (
                "augment.cutmix",
                augment.cutmix.is_finite() && augment.cutmix >= 0.0,
                "a number ≥ 0",
                augment.cutmix.to_string(),
            ),
        ];
        probabilities.chain(others).collect()
    }
}

/// A provider's option as the key that it is here.
fn provider_option(error: device::Error, origin: &str) -> Error {
    let origin = origin.to_owned();
    let key = |device, name: String| format!("deploy.{device}.{name}");
    match error {
        device::Error::UnknownOption {
            device,
            name,
            nearest,
        } => Error::UnknownKey {
            origin,
            key: key(device, name),
            nearest: nearest.map(|nearest| key(device, nearest)),
        },
        error => Error::Type {
            origin,
            key: "deploy".to_owned(),
            reason: error.to_string(),
        },
    }
}

/// `a.b=1` as `{a: {b: 1}}`.
fn parse_override(text: &str) -> Result<Value> {
    let malformed = || Error::Override {
        text: text.to_owned(),
    };
    let (key, value) = text.split_once('=').ok_or_else(malformed)?;
    let value = if value.is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(value).map_err(|_| malformed())?
    };
    let parts: Vec<_> = key.trim().split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(malformed());
    }
    let nest = |inner, part: &&str| Value::Object(Map::from_iter([((*part).to_owned(), inner)]));
    Ok(parts.iter().rev().fold(value, nest))
}

/// `preprocess` is given whole or not at all; an override of a part of it, where it is left out, changes the default.
fn fill_preprocess(document: &mut Value, change: &Value) {
    let (Value::Object(document), Some(_)) = (document, change.get("preprocess")) else {
        return;
    };
    document.entry("preprocess").or_insert_with(|| {
        serde_json::to_value(super::default_preprocess()).expect("plain data has a JSON form")
    });
}

/// Keys whose value is a choice: an object of one key, which names the alternative.
const CHOICES: [&str; 1] = ["preprocess.resize"];

/// Objects are merged key by key; anything else replaces, and so does another alternative of a choice.
fn merge(target: &mut Value, change: Value, path: &mut Vec<String>) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            let other_choice = |key: &String| !target.contains_key(key);
            if CHOICES.contains(&path.join(".").as_str()) && change.keys().any(other_choice) {
                target.clear();
            }
            for (key, value) in change {
                path.push(key.clone());
                merge(target.entry(key).or_insert(Value::Null), value, path);
                path.pop();
            }
        }
        (target, change) => *target = change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "
version: 1
data: {source: images}
backbone: {path: weights}
";

    fn load(extra: &str, overrides: &[&str]) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stage1.yaml");
        fs::write(&path, format!("{MINIMAL}{extra}")).unwrap();
        let overrides: Vec<_> = overrides.iter().map(|&s| s.to_owned()).collect();
        Config::load(&path, &overrides)
    }

    #[test]
    fn defaults_fill_what_is_left_out_and_overrides_win() {
        let config = load(
            "train: {epochs: 7}",
            &["train.epochs=3", "head.kind=mlp", "run_dir=out/a"],
        )
        .unwrap();
        assert_eq!(config.train.epochs, 3);
        assert_eq!(config.head.kind, HeadType::Mlp);
        assert_eq!(config.splits_path(), Path::new("out/a/splits.json"));
        assert_eq!(config.cache_dir(), Path::new("out/cache"));
        assert_eq!(config.calibrate.alpha.to_string(), "0.05");
    }

    #[test]
    fn an_override_can_choose_another_alternative() {
        let config = load(
            "",
            &[
                "preprocess.resize.short_side.size=256",
                "preprocess.crop={height: 224, width: 224, rounding: floor}",
            ],
        )
        .unwrap();
        assert_eq!(config.preprocess.output_size(), (224, 224));
        assert!(config.to_yaml().contains("short_side"));
        let exact = load("", &["preprocess.resize.exact.height=112"]).unwrap();
        assert_eq!(exact.preprocess.output_size(), (112, 224));
    }

    #[test]
    fn a_resolved_config_reads_back_the_same() {
        let config = load("train: {epochs: 7}", &[]).unwrap();
        let document = serde_saphyr::from_str(&config.to_yaml()).unwrap();
        assert_eq!(
            Config::from_document(document, "again", &[]).unwrap(),
            config
        );
    }

    #[test]
    fn the_digest_ignores_where_files_lie() {
        let (a, b) = (
            load("", &[]).unwrap(),
            load("run_dir: elsewhere", &[]).unwrap(),
        );
        assert_eq!(a.digest(), b.digest());
        assert_ne!(a.digest(), load("seed: 7", &[]).unwrap().digest());
    }

    #[test]
    fn every_refusal_names_the_key_and_the_next_step() {
        let cases = [
            (
                "train: {epoch: 3}",
                &[][..],
                "unknown key `train.epoch`; did you mean `train.epochs`?",
            ),
            (
                "trian: {epochs: 3}",
                &[],
                "unknown key `trian`; did you mean `train`?",
            ),
            (
                "",
                &["train.epohcs=3"],
                "--set: unknown key `train.epohcs`; did you mean `train.epochs`?",
            ),
            ("", &["train.epochs"], "expected `key=value`"),
            (
                "deploy: {cuda: {use_tf23: true}}",
                &[],
                "unknown key `deploy.cuda.use_tf23`; did you mean `deploy.cuda.use_tf32`?",
            ),
            (
                "",
                &["deploy.tensorrt.trt_cuda_graph_enable=true"],
                "at `deploy`: tensorrt's option `trt_cuda_graph_enable` can't be used here",
            ),
            (
                "deploy: {device: [cuda, cuda]}",
                &[],
                "device `cuda` is given twice",
            ),
            (
                "train: {epochs: many}",
                &[],
                "at `train.epochs`: invalid type: string \"many\"",
            ),
            (
                "train: {epochs: 0}",
                &[],
                "at `train.epochs`: expected a whole number ≥ 1, got 0",
            ),
            (
                "calibrate: {alpha: 5}",
                &[],
                "at `calibrate.alpha`: expected a number between 0 and 1, got 5",
            ),
            (
                "calibrate: {group_risk: row}",
                &[],
                "at `calibrate.max_group_size`: expected a whole number ≥ 1 with `calibrate.group_risk: row`",
            ),
            (
                "calibrate: {guarantee: expectation, constraints: [{kind: coverage, at_least: 0.5}]}",
                &[],
                "at `calibrate.constraints`: expected none, since `calibrate.guarantee: expectation`",
            ),
            (
                "calibrate: {guarantee: expectation, delta: 0.2}",
                &[],
                "at `calibrate.delta`: expected no value of its own, since `calibrate.guarantee: expectation`",
            ),
            (
                "calibrate: {guarantee: expectation, procedure: holm}",
                &[],
                "at `calibrate.procedure`: expected no other than the default, since `calibrate.guarantee: expectation`",
            ),
            (
                "calibrate: {guarantee: expectation, attempts: spending}",
                &[],
                "at `calibrate.attempts`: expected `single`, since `calibrate.guarantee: expectation`",
            ),
            (
                "calibrate: {guarantee: expectation, group_risk: row, max_group_size: 3}",
                &[],
                "at `calibrate.group_risk`: expected `unit`, since `calibrate.guarantee: expectation`",
            ),
            (
                "calibrate: {guarantee: expectation, score: binary_margin}",
                &[],
                "at `calibrate.score`: expected a score with one side",
            ),
            (
                "calibrate: {constraints: [{kind: coverage, at_least: 1}]}",
                &[],
                "at `calibrate.constraints`",
            ),
            (
                "head: {hidden: 64}",
                &[],
                "at `head.hidden`: expected no value, since `head.kind` is `linear`",
            ),
            (
                "head: {blocks: [12, 6]}",
                &[],
                "at `head.blocks`: expected numbers of blocks from 1 to 64, ascending, or null for the last one that is run, got [12,6]",
            ),
            ("", &["head.blocks=[6, 6]"], "at `head.blocks`"),
            ("", &["head.blocks=[]"], "at `head.blocks`"),
            ("", &["head.blocks=[0, 6]"], "at `head.blocks`"),
            (
                "",
                &["head.blocks=[6, 12]", "backbone.blocks=auto"],
                "at `head.blocks`: expected null, since `backbone.blocks: auto` chooses",
            ),
            (
                "",
                &["backbone.blocks=0"],
                "at `backbone.blocks`: expected a number of blocks ≥ 1, `auto`, or null for all, got 0",
            ),
            (
                "",
                &["backbone.depth.tolerance=0.1"],
                "at `backbone.depth`: expected its defaults, since `backbone.blocks` isn't `auto`",
            ),
            (
                "",
                &["backbone.blocks=auto", "backbone.depth.tolerance=-1"],
                "at `backbone.depth.tolerance`: expected a number ≥ 0, got -1",
            ),
            (
                "",
                &["backbone.blocks=auto", "backbone.depth.candidates=[4, 2]"],
                "at `backbone.depth.candidates`: expected numbers of blocks ≥ 1, ascending, or null for all, got [4,2]",
            ),
            (
                "",
                &["backbone.blocks=auto", "backbone.depth.max_cache_gib=0"],
                "at `backbone.depth.max_cache_gib`: expected a number > 0, got 0",
            ),
            (
                "",
                &["export.batch=0"],
                "at `export.batch`: expected `dynamic` or a number of images, at least 1",
            ),
            (
                "",
                &["export.batch=any"],
                "at `export.batch`: expected `dynamic` or a number of images, at least 1",
            ),
            (
                "",
                &["export.input=uint8"],
                "at `export.input`: `arithmetic: float32` resizes to fractions of grey levels",
            ),
            (
                "",
                &["export.input=bytes"],
                "at `export.input`: unknown variant `bytes`, expected `float32` or `uint8`",
            ),
            (
                "",
                &["export.target=tensorrt", "export.variants=[int8]"],
                "at `export.variants`: expected no `int8` with `export.target: tensorrt`",
            ),
            (
                "",
                &["backbone.blocks=last"],
                "at `backbone.blocks`: expected a number of blocks, `auto`, or null for all",
            ),
            (
                "phase: gate",
                &[],
                "at `head.kind`: expected mlp with `phase: gate`",
            ),
            (
                "phase: gates",
                &[],
                "at `phase`: unknown variant `gates`, expected one of `baseline`, `peft`, `gate`, `explora`, `explora-supervised`",
            ),
            (
                "phase: gate\nhead: {kind: mlp}\ncalibrate: {score: gate}",
                &[],
                "at `calibrate.score`: expected a score of the logits",
            ),
            (
                "gate: {folds: 3}",
                &[],
                "at `gate`: expected its defaults, since `phase` isn't `gate`",
            ),
            (
                "phase: gate\nhead: {kind: mlp}\ngate: {folds: 1}",
                &[],
                "at `gate.folds`: expected a whole number ≥ 2, got 1",
            ),
            (
                "explora: {epochs: 3}",
                &[],
                "at `explora`: expected its defaults, since `phase` is neither",
            ),
            (
                "phase: explora",
                &["backbone.blocks=auto"],
                "at `backbone.blocks`: expected null or a number, since self-supervised training needs to know its blocks",
            ),
            (
                "phase: explora\nexplora: {from: elsewhere}",
                &[],
                "at `explora.from`: expected null, since `phase: explora` trains that backbone itself",
            ),
            (
                "phase: explora\nexplora: {train_images: false}",
                &[],
                "at `explora.data`: expected folders of images, or `explora.train_images: true`, got neither",
            ),
            (
                "phase: explora\nexplora: {unfreeze_blocks: [3, 1]}",
                &[],
                "at `explora.unfreeze_blocks`: expected null, or a rising list of blocks, got [3,1]",
            ),
            (
                "phase: explora\naugment: {flip: 0.5}",
                &[],
                "at `augment`: expected its defaults",
            ),
            (
                "phase: explora-supervised\npeft: {r: 4}",
                &[],
                "set `phase: peft`, or `explora-supervised` and `peft.target_modules`",
            ),
            ("train: {learning_rate: .nan}", &[], "not a finite number"),
            ("seed: [", &[], "not valid YAML"),
            (
                "seed: 1\nseed: 2",
                &[],
                "duplicate mapping key `seed` is not allowed here\n",
            ),
        ];
        for (extra, overrides, want) in cases {
            let message = load(extra, overrides).unwrap_err().to_string();
            assert!(message.contains(want), "{extra} {overrides:?}: {message}");
        }
    }
}
