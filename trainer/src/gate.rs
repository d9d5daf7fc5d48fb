//! A correctness gate on the hidden layer that the classes read: what it learns from, and how.
//!
//! [`Correctness`] (the default) leaves the classifier as it is and learns by binary cross-entropy whether images are answered
//! rightly, from answers of heads that hadn't seen them ([`folds`]). [`Selective`] trains both together with SelectiveNet's
//! loss (Geifman and El-Yaniv 2019).

use crate::{
    Rates, Result,
    events::Metrics,
    fit::{Gradient, Labelled, Objective, Step, evaluate},
    head::{Head, Mode, Standardisation},
    random::Draw,
};
use stage1_core::config::{Config, GateConfig, SelectionMetric, TrainConfig};
use std::collections::BTreeMap;
use tch::{Kind, Reduction, Tensor, no_grad};

/// The gate's first parameters are drawn from another seed than the classes'.
const OTHER_SEED: u64 = 0x6761_7465;

/// The fold (from 0) of each row: whole units, each class spread over the folds as evenly as its units allow.
pub fn folds(labels: &[usize], units: &[u64], count: usize, seed: u64) -> Vec<usize> {
    let mut class_of: BTreeMap<u64, usize> = BTreeMap::new();
    for (&unit, &label) in units.iter().zip(labels) {
        class_of.entry(unit).or_insert(label);
    }
    let mut order: Vec<_> = class_of.keys().copied().collect();
    Draw::Folds.numbers(seed).shuffle(&mut order);
    // Class by class, dealt out in turn.
    order.sort_by_key(|unit| class_of[unit]);
    let fold_of: BTreeMap<_, _> = order
        .iter()
        .zip(0..)
        .map(|(u, n)| (*u, n % count))
        .collect();
    units.iter().map(|unit| fold_of[unit]).collect()
}

/// How the gate is trained, in the words of the classifier's training.
pub fn settings(config: &GateConfig, train: &TrainConfig) -> TrainConfig {
    let mut settings = TrainConfig {
        epochs: config.epochs,
        learning_rate: config.learning_rate,
        weight_decay: config.weight_decay,
        warmup_epochs: train.warmup_epochs.min(config.epochs as f64),
        ..train.clone()
    };
    settings.early_stop.metric = SelectionMetric::Nll;
    settings.early_stop.min_delta = 0.0;
    settings
}

/// Images by their hidden layer, and whether each is answered rightly.
pub struct Judged {
    /// `[n, H]`.
    pub hidden: Tensor,
    /// 1 or 0, `[n]`.
    pub right: Tensor,
}

impl Judged {
    /// Some of its rows.
    pub fn rows(&self, rows: &Tensor) -> Self {
        Self {
            hidden: self.hidden.index_select(0, rows),
            right: self.right.index_select(0, rows),
        }
    }
}

/// The gate alone, on a hidden layer that doesn't change.
pub struct Correctness<'a> {
    gate: &'a Head,
    config: &'a TrainConfig,
    seed: u64,
    standard: Standardisation,
    train: Judged,
    held: Judged,
}

impl<'a> Correctness<'a> {
    /// Learns from `train`; the epoch is chosen by `held`, which are images of train, too.
    pub fn new(
        gate: &'a Head,
        train: Judged,
        held: Judged,
        config: &'a TrainConfig,
        seed: u64,
    ) -> Self {
        let standard = Standardisation::of(&train.hidden);
        let standardised = |judged: Judged| Judged {
            hidden: standard.apply(&judged.hidden),
            right: judged.right,
        };
        Self {
            gate,
            config,
            seed: seed ^ OTHER_SEED,
            train: standardised(train),
            held: standardised(held),
            standard,
        }
    }

    /// The parameters for a hidden layer as it is.
    pub fn fold(&self, parameters: &Tensor) -> Tensor {
        self.gate.fold(parameters, &self.standard)
    }

    fn loss(&self, parameters: &Tensor, judged: &Judged, mode: Mode) -> Tensor {
        let logits = self
            .gate
            .logits(parameters, &judged.hidden, mode)
            .flatten(0, -1);
        let none: Option<&Tensor> = None;
        logits.binary_cross_entropy_with_logits(&judged.right, none, none, Reduction::Mean)
    }
}

impl Objective for Correctness<'_> {
    fn initial(&mut self) -> Tensor {
        self.gate.initialise(self.seed, self.train.right.device())
    }

    fn decay(&self) -> Tensor {
        let device = self.train.right.device();
        self.gate.on_weights(self.config.weight_decay, device)
    }

    fn rates(&self) -> Option<Tensor> {
        None
    }

    fn rate_keys(&self, config: &TrainConfig) -> Rates {
        Rates(vec![("gate.learning_rate", config.learning_rate)])
    }

    fn begin(&mut self, _: usize, _: usize, _: &[&[i64]]) {}

    fn step(&mut self, parameters: &Tensor, at: Step<'_>) -> Result<Gradient> {
        let rows = Tensor::from_slice(at.rows).to_device(self.train.right.device());
        let loss = self.loss(parameters, &self.train.rows(&rows), Mode::Train);
        Ok(gradient(&loss, parameters))
    }

    fn evaluate(&mut self, parameters: &Tensor) -> Result<Metrics> {
        let loss = no_grad(|| self.loss(parameters, &self.held, Mode::Evaluate));
        Ok(Metrics::from([("nll".to_owned(), loss.double_value(&[]))]))
    }
}

/// Classes, gate and auxiliary classes together: parameters in this order.
pub struct Selective<'a> {
    /// The classes.
    head: &'a Head,
    gate: &'a Head,
    auxiliary: &'a Head,
    config: &'a Config,
    standard: Standardisation,
    /// Standardised, `[n, F]`.
    features: Tensor,
    labels: Tensor,
    select: &'a Labelled,
    start: SelectiveStart,
}

/// What classes (for raw features) and gate start from; what isn't given is drawn.
#[derive(Debug, Default)]
pub struct SelectiveStart {
    /// The classes' parameters.
    pub head: Option<Tensor>,
    /// The gate's.
    pub gate: Option<Tensor>,
}

impl<'a> Selective<'a> {
    /// Learns from `train`; the epoch is chosen by the classes on `select`.
    pub fn new(
        [head, gate, auxiliary]: [&'a Head; 3],
        train: &Labelled,
        select: &'a Labelled,
        config: &'a Config,
        start: SelectiveStart,
    ) -> Self {
        let standard = Standardisation::of(&train.features);
        let labels: Vec<_> = train.labels.iter().map(|&label| label as i64).collect();
        Self {
            features: standard.apply(&train.features),
            labels: Tensor::from_slice(&labels).to_device(train.features.device()),
            head,
            gate,
            auxiliary,
            config,
            standard,
            select,
            start,
        }
    }

    /// The parameters of classes (for raw features) and gate; the auxiliary classes have done their work.
    pub fn parts(&self, parameters: &Tensor) -> (Tensor, Tensor) {
        let [head, gate, _] = self.split(parameters);
        (self.head.fold(&head, &self.standard), gate.copy())
    }

    fn split(&self, parameters: &Tensor) -> [Tensor; 3] {
        let sizes =
            [self.head, self.gate, self.auxiliary].map(|part| part.parameter_count() as i64);
        let mut parts = parameters.split_with_sizes(sizes, 0).into_iter();
        std::array::from_fn(|_| parts.next().expect("three parts"))
    }

    /// α (Σ g ℓ / Σ g + λ max(0, c − mean g)²) + (1 − α) mean ℓ of the auxiliary classes.
    fn loss(&self, parameters: &Tensor, rows: &Tensor) -> Tensor {
        let features = self.features.index_select(0, rows);
        let labels = self.labels.index_select(0, rows);
        let [head, gate, auxiliary] = self.split(parameters);
        let hidden = self.head.hidden(&head, &features);
        let cross_entropy = |logits: Tensor, reduction| {
            let none: Option<&Tensor> = None;
            logits.cross_entropy_loss(&labels, none, reduction, -100, 0.0)
        };
        let logits = self.head.of_hidden(&head, &hidden, Mode::Train);
        let each = cross_entropy(logits, Reduction::None);
        let gate = self
            .gate
            .logits(&gate, &hidden, Mode::Train)
            .flatten(0, -1)
            .sigmoid();
        let settings = &self.config.gate;
        let risk = (&gate * each).sum(Kind::Float) / gate.sum(Kind::Float);
        let missing = (settings.coverage - gate.mean(Kind::Float)).clamp_min(0.0);
        let selected = risk + missing.square() * settings.coverage_weight;
        let all = cross_entropy(
            self.auxiliary.logits(&auxiliary, &hidden, Mode::Train),
            Reduction::Mean,
        );
        let share = settings.auxiliary_weight;
        selected * (1.0 - share) + all * share
    }
}

impl Objective for Selective<'_> {
    fn initial(&mut self) -> Tensor {
        let (seed, device) = (self.config.seed, self.labels.device());
        let SelectiveStart { head, gate } = &self.start;
        let parts = [
            match head {
                Some(raw) => self.head.unfold(&raw.to_device(device), &self.standard),
                None => self.head.initialise(seed, device),
            },
            match gate {
                Some(gate) => gate.to_device(device),
                None => self.gate.initialise(seed ^ OTHER_SEED, device),
            },
            self.auxiliary.initialise(seed, device),
        ];
        Tensor::cat(&parts, 0)
    }

    fn decay(&self) -> Tensor {
        let device = self.labels.device();
        let parts = [self.head, self.gate, self.auxiliary];
        let parts = parts.map(|part| part.on_weights(self.config.train.weight_decay, device));
        Tensor::cat(&parts, 0)
    }

    fn rates(&self) -> Option<Tensor> {
        None
    }

    fn begin(&mut self, _: usize, _: usize, _: &[&[i64]]) {}

    fn step(&mut self, parameters: &Tensor, at: Step<'_>) -> Result<Gradient> {
        let rows = Tensor::from_slice(at.rows).to_device(self.labels.device());
        let Step { epoch, step, .. } = at;
        Draw::Step { epoch, step }.seed_libtorch(self.config.seed);
        Ok(gradient(&self.loss(parameters, &rows), parameters))
    }

    fn evaluate(&mut self, parameters: &Tensor) -> Result<Metrics> {
        let (head, _) = no_grad(|| self.parts(parameters));
        Ok(evaluate(self.head, &head, self.select))
    }
}

fn gradient(loss: &Tensor, parameters: &Tensor) -> Gradient {
    Gradient {
        loss: loss.double_value(&[]),
        gradient: Tensor::run_backward(&[loss], &[parameters], false, false).remove(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::EpochRecord, fit::train, random::generator, sampling::Order};
    use stage1_core::{
        config::Sampling,
        model::{Features, GateSpec, HeadKind, HeadSpec, ReadBlocks},
    };
    use tch::Device;

    #[test]
    fn folds_are_whole_units_with_each_class_in_all_of_them() {
        // Units of three rows; every sixth unit is of the rare class.
        let units: Vec<u64> = (0..360).map(|row| row / 3).collect();
        let labels: Vec<usize> = units
            .iter()
            .map(|unit| usize::from(unit.is_multiple_of(6)))
            .collect();
        let found = folds(&labels, &units, 5, 1);
        for fold in 0..5 {
            let rows = |label| {
                (0..360)
                    .filter(|r| found[*r] == fold && labels[*r] == label)
                    .count()
            };
            assert_eq!((rows(0), rows(1)), (60, 12), "fold {fold}");
        }
        assert!(
            found
                .chunks(3)
                .all(|unit| unit.iter().all(|fold| *fold == unit[0]))
        );
        assert_eq!(found, folds(&labels, &units, 5, 1));
        assert_ne!(found, folds(&labels, &units, 5, 2));
    }

    fn config(more: &[&str]) -> Config {
        let document = serde_json::json!({
            "version": 1, "phase": "gate", "data": {"source": "images"},
            "backbone": {"path": "weights"}, "head": {"kind": "mlp", "hidden": 8},
        });
        let more: Vec<_> = more.iter().map(|s| (*s).to_owned()).collect();
        Config::from_document(document, "a test", &more).unwrap()
    }

    fn gate(hidden: usize) -> Head {
        Head::of_gate(GateSpec { hidden: 8 }, hidden)
    }

    /// The second feature says how likely the first one lies.
    fn hidden(n: usize) -> Tensor {
        let value = |row: usize| {
            let noise = (row * 37 % 101) as f32 / 101.0 - 0.5;
            [noise, if row.is_multiple_of(3) { 1.0 } else { -1.0 }]
        };
        let values: Vec<f32> = (0..n).flat_map(value).collect();
        Tensor::from_slice(&values).reshape([-1, 2])
    }

    #[test]
    fn a_gate_learns_where_answers_are_wrong() {
        let _alone = generator();
        let config = config(&[
            "gate.epochs=30",
            "gate.learning_rate=0.01",
            "train.ema_decay=0",
        ]);
        let settings = settings(&config.gate, &config.train);
        let judged = |n: usize| Judged {
            hidden: hidden(n),
            // Wrong in every other row of the third kind, never elsewhere.
            right: Tensor::from_slice(
                &(0..n)
                    .map(|row| f32::from(u8::from(row % 6 != 0)))
                    .collect::<Vec<_>>(),
            ),
        };
        let gate = gate(2);
        let mut objective = Correctness::new(&gate, judged(600), judged(120), &settings, 1);
        let order = Order::new(Sampling::Natural, 1, &vec![0; 600], 1);
        let mut watch = |_: &EpochRecord| -> Result<()> { Ok(()) };
        let fitted = train(&mut objective, &order, &settings, None, None, &mut watch).unwrap();
        let logits = gate.logits(
            &objective.fold(&fitted.parameters),
            &hidden(60),
            Mode::Evaluate,
        );
        let values = crate::head::values(&logits);
        let (sure, unsure): (Vec<_>, Vec<_>) =
            values.iter().enumerate().partition(|(row, _)| row % 3 != 0);
        let least = |rows: &[(usize, &f32)]| rows.iter().map(|(_, v)| **v).fold(f32::MAX, f32::min);
        let most = |rows: &[(usize, &f32)]| rows.iter().map(|(_, v)| **v).fold(f32::MIN, f32::max);
        assert!(
            least(&sure) > most(&unsure) + 1.0,
            "{} {}",
            least(&sure),
            most(&unsure)
        );
        // The chance of being right there is a half: the logit is near 0.
        assert!(most(&unsure).abs() < 1.0 && least(&unsure).abs() < 1.0);
    }

    #[test]
    fn the_selective_loss_is_its_formula() {
        let _alone = generator();
        let config = config(&[
            "gate.coverage=0.9",
            "gate.auxiliary_weight=0.25",
            "gate.coverage_weight=10",
        ]);
        let spec = |kind, features| HeadSpec {
            kind,
            features,
            blocks: ReadBlocks::LAST,
            classes: 2,
        };
        let head = Head::new(spec(HeadKind::Mlp { hidden: 8 }, Features::Cls), 2, 0.0);
        let auxiliary = Head::new(spec(HeadKind::Linear, Features::Cls), 8, 0.0);
        let gate = gate(8);
        let labels: Vec<usize> = (0..30).map(|row| row % 2).collect();
        let data = || Labelled {
            features: hidden(30),
            labels: labels.clone(),
        };
        let select = data();
        let parts = [&head, &gate, &auxiliary];
        let start = SelectiveStart::default();
        let mut objective = Selective::new(parts, &data(), &select, &config, start);
        let parameters = objective.initial();
        let rows = Tensor::arange(30, (Kind::Int64, Device::Cpu));
        let got = objective.loss(&parameters, &rows).double_value(&[]);

        let [h, g, a] = objective.split(&parameters);
        let inner = head.hidden(&h, &objective.features);
        let values = |t: &Tensor| {
            crate::head::values(t)
                .into_iter()
                .map(f64::from)
                .collect::<Vec<_>>()
        };
        let ce = |logits: &Tensor| -> Vec<f64> {
            let rows = values(logits);
            rows.chunks(2)
                .zip(&labels)
                .map(|(z, &label)| (1.0 + (z[1 - label] - z[label]).exp()).ln())
                .collect()
        };
        let each = ce(&head.of_hidden(&h, &inner, Mode::Evaluate));
        let other = ce(&auxiliary.logits(&a, &inner, Mode::Evaluate));
        let open: Vec<_> = values(&gate.logits(&g, &inner, Mode::Evaluate))
            .iter()
            .map(|z| 1.0 / (1.0 + (-z).exp()))
            .collect();
        let sum: f64 = open.iter().sum();
        let risk = each.iter().zip(&open).map(|(l, g)| l * g).sum::<f64>() / sum;
        let missing = (0.9 - sum / 30.0).max(0.0);
        let want =
            0.75 * (risk + 10.0 * missing * missing) + 0.25 * other.iter().sum::<f64>() / 30.0;
        assert!((got - want).abs() < 1e-5, "{got} for {want}");
        assert!(objective.evaluate(&parameters).unwrap().contains_key("mcc"));
    }
}
