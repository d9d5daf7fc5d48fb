//! Phase `gate`: classes and a gate on one hidden layer.

use super::{Job, Made, Part};
use crate::{
    Error, Result,
    events::EpochRecord,
    features::FeatureCache,
    fit::{self, Fitted, Keeper, Labelled, Start, State, fit},
    gate::{self, Correctness, Judged, Selective, SelectiveStart},
    head::{Head, values},
    log::Unit,
    sampling::Order,
    selection,
};
use stage1_core::{
    config::{GateLoss, Sampling},
    model::{Features, GateSpec, HeadKind, HeadSpec, ReadBlocks},
};
use tch::{Tensor, no_grad};

/// The fold of train that chooses the gate's epoch.
const HELD: usize = 0;

impl Job<'_> {
    pub(super) fn gate_spec(&self) -> Option<GateSpec> {
        (self.config.phase == stage1_core::config::Phase::Gate).then_some(GateSpec {
            hidden: self.config.gate.hidden,
        })
    }

    /// The gate's layers, if the phase has one.
    pub(super) fn gate_head(&self) -> Option<Head> {
        let trunk = self.head.trunk()?;
        Some(Head::of_gate(self.gate_spec()?, trunk))
    }

    pub(super) fn gate(
        &self,
        caches: &[FeatureCache],
        train: &Part,
        select: &Part,
        keeper: &mut Keeper,
        state: Option<State>,
    ) -> Result<Made> {
        self.check_folds(train)?;
        match self.config.gate.loss {
            GateLoss::CrossFitted => {
                let made = self.baseline(caches, train, select, keeper, state)?;
                let gate = self.cross_fitted(caches, train, select, &made.head)?;
                Ok(Made {
                    gate: Some(gate),
                    ..made
                })
            }
            GateLoss::SelectiveNet => self.selective(caches, train, select, keeper, state),
        }
    }

    /// Each class must be there when a fold isn't.
    fn check_folds(&self, train: &Part) -> Result<()> {
        let fold_of = self.folds(train);
        for (class, name) in self.splits.labels.iter().enumerate() {
            let rows = fold_of.iter().zip(&train.labels);
            let mut of_class = rows
                .filter(|(_, label)| **label == class)
                .map(|(fold, _)| fold);
            let first = of_class.next();
            if of_class.all(|fold| Some(fold) == first) {
                return Err(Error::GateFolds {
                    splits: self.config.splits_path(),
                    class: name.clone(),
                });
            }
        }
        Ok(())
    }

    fn folds(&self, train: &Part) -> Vec<usize> {
        let count = self.config.gate.folds;
        gate::folds(&train.labels, &train.units, count, self.config.seed)
    }

    /// Trains the gate on the hidden layer of `head` (for raw features), from what other heads answered.
    fn cross_fitted(
        &self,
        caches: &[FeatureCache],
        train: &Part,
        select: &Part,
        parameters: &Tensor,
    ) -> Result<Tensor> {
        let (train_rows, select_rows) = (
            self.labelled(caches, train)?,
            self.labelled(caches, select)?,
        );
        let fold_of = self.folds(train);
        let right = self.right(&train_rows, &select_rows, &fold_of)?;
        self.tell_right(&right, parameters, &train_rows);
        let head = self.head();
        let device = train_rows.features.device();
        let all = Judged {
            hidden: no_grad(|| head.hidden(parameters, &train_rows.features)),
            right: Tensor::from_slice(&right).to_device(device),
        };
        let (held, trained): (Vec<i64>, Vec<i64>) =
            (0..right.len() as i64).partition(|row| fold_of[*row as usize] == HELD);
        let rows = |rows: &[i64]| all.rows(&Tensor::from_slice(rows).to_device(device));
        let gate = self.gate_head().expect("phase gate has a gate");
        let settings = gate::settings(&self.config.gate, &self.config.train);
        let seed = self.config.seed;
        let mut objective = Correctness::new(&gate, rows(&trained), rows(&held), &settings, seed);
        let order = Order::new(Sampling::Natural, seed, &vec![0; trained.len()], 1);
        self.events.start("gate: epochs", settings.epochs as u64);
        let mut watch = |_: &EpochRecord| -> Result<()> {
            self.events.advance(1);
            Ok(())
        };
        let fitted = fit::train(&mut objective, &order, &settings, None, None, &mut watch)?;
        self.events.finish();
        Ok(no_grad(|| objective.fold(&fitted.parameters)))
    }

    /// For each row of train, whether a head that was trained without its fold answers it rightly: 1 or 0.
    ///
    /// These heads are always drawn anew: a head to start from has seen the rows of every fold, and would make their
    /// correctness that of images it knows.
    fn right(&self, train: &Labelled, select: &Labelled, fold_of: &[usize]) -> Result<Vec<f32>> {
        let (head, folds) = (self.head(), self.config.gate.folds);
        let device = train.features.device();
        let pick = |rows: &[i64]| Labelled {
            features: train
                .features
                .index_select(0, &Tensor::from_slice(rows).to_device(device)),
            labels: rows.iter().map(|row| train.labels[*row as usize]).collect(),
        };
        let mut right = vec![0.0; fold_of.len()];
        self.events.start("heads of folds", folds as u64);
        for fold in 0..folds {
            let (held, others): (Vec<i64>, Vec<i64>) =
                (0..fold_of.len() as i64).partition(|row| fold_of[*row as usize] == fold);
            if held.is_empty() {
                continue;
            }
            let mut watch = |_: &EpochRecord| -> Result<()> { Ok(()) };
            let start = Start::default();
            let (settings, seed) = (&self.config.train, self.config.seed);
            let others = pick(&others);
            let fitted = fit(
                &head, &others, select, settings, seed, start, None, &mut watch,
            )?;
            let unseen = pick(&held);
            let answers = answers(&head, &fitted.parameters, &unseen.features);
            for ((row, answer), label) in held.iter().zip(answers).zip(&unseen.labels) {
                right[*row as usize] = f32::from(u8::from(answer == *label));
            }
            self.events.advance(1);
        }
        self.events.finish();
        Ok(right)
    }

    /// How much there is to learn.
    fn tell_right(&self, right: &[f32], parameters: &Tensor, train: &Labelled) {
        let (n, unseen) = (right.len(), right.iter().filter(|x| **x > 0.5).count());
        let answers = answers(&self.head(), parameters, &train.features);
        let seen = answers
            .iter()
            .zip(&train.labels)
            .filter(|(a, b)| a == b)
            .count();
        let share = |count: usize| 100.0 * count as f64 / n as f64;
        self.events.note(&format!(
            "heads that hadn't seen an image answered {:.1} % of train rightly, which is what the gate learns from; the classifier \
             itself answers {:.1} % of it rightly",
            share(unseen),
            share(seen)
        ));
        if unseen == 0 || unseen == n {
            self.events.warning(
                "heads that hadn't seen an image were always right, or always wrong: there is nothing for the gate to learn",
            );
        }
    }

    /// The gate of the checkpoint to start from; none where that has a head alone.
    fn initial_gate(&self, gate: &Head) -> Result<Option<Tensor>> {
        let init = self.init.as_ref();
        let Some((dir, init)) = init.filter(|(_, init)| init.gate.is_some()) else {
            return Ok(None);
        };
        Ok(Some(gate.load(&init.head_file(dir)?)?))
    }

    /// SelectiveNet: classes and gate together.
    fn selective(
        &self,
        caches: &[FeatureCache],
        train: &Part,
        select: &Part,
        keeper: &mut Keeper,
        state: Option<State>,
    ) -> Result<Made> {
        let (labels, config) = (&train.labels, self.config);
        let (train, select) = (
            self.labelled(caches, train)?,
            self.labelled(caches, select)?,
        );
        let (head, gate) = (
            self.head(),
            self.gate_head().expect("phase gate has a gate"),
        );
        let auxiliary = Head::new(
            HeadSpec {
                kind: HeadKind::Linear,
                features: Features::Cls,
                blocks: ReadBlocks::LAST,
                classes: self.head.classes,
            },
            self.head.trunk().expect("phase gate has an mlp head"),
            0.0,
        );
        let start = SelectiveStart {
            head: self.initial_head()?,
            gate: self.initial_gate(&gate)?,
        };
        let parts = [&head, &gate, &auxiliary];
        let mut objective = Selective::new(parts, &train, &select, config, start);
        let settings = &config.train;
        let order = Order::new(settings.sampling, config.seed, labels, self.head.classes);
        let mut log = self.log(state.as_ref(), Unit::Epochs)?;
        let ended = state.as_ref().map_or(0, |state| state.records().len());
        self.events
            .start("epochs", settings.epochs.saturating_sub(ended) as u64);
        let fitted = fit::train(
            &mut objective,
            &order,
            settings,
            state,
            Some(keeper),
            &mut log,
        )?;
        self.events.finish();
        let (parameters, gate) = no_grad(|| objective.parts(&fitted.parameters));
        Ok(Made {
            fitted: Fitted {
                parameters: parameters.shallow_clone(),
                ..fitted
            },
            head: parameters,
            gate: Some(gate),
            adapted: None,
        })
    }
}

/// The class of each row.
fn answers(head: &Head, parameters: &Tensor, features: &Tensor) -> Vec<usize> {
    let logits = values(&fit::logits(head, parameters, features));
    logits
        .chunks_exact(head.classes())
        .map(selection::first_largest)
        .collect()
}
