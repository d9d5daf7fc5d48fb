//! What HTTP and gRPC have in common: who may ask, whom, for how long, and what is written down.

use crate::{
    auth::Token,
    budget::Budget,
    decision_log::DecisionLog,
    failure::{Failure, Result},
    http::body::Patience,
    infer::{self, Output, Request},
    metrics::Metrics,
    model::{Item, Model, Outcome},
    options::Options,
    registry::Models,
    trace::Trace,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// One server's state.
pub(crate) struct Service {
    pub(crate) options: Arc<Options>,
    pub(crate) models: Models,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Arc<Budget>,
    token: Option<Token>,
    log: Option<DecisionLog>,
    is_ending: AtomicBool,
    /// Connections over which somebody has asked.
    pub(crate) used: AtomicUsize,
}

/// A request in the making: what its log line will say.
pub(crate) struct Call {
    pub(crate) trace: Trace,
    pub(crate) start: Instant,
    /// The model's name, once it is known to exist.
    pub(crate) model: String,
    /// What the client said to be given; at most what the server gives.
    pub(crate) deadline: Duration,
    pub(crate) images: usize,
    /// How many of them were answered.
    pub(crate) answered: usize,
}

impl Call {
    /// The time that is left.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.start.elapsed())
    }

    /// Takes the client's deadline over, if it is the earlier one.
    pub(crate) fn must_end_within(&mut self, time: Option<Duration>) {
        if let Some(time) = time {
            self.deadline = self.deadline.min(time);
        }
    }
}

impl Service {
    pub(crate) fn new(
        options: Arc<Options>,
        metrics: Arc<Metrics>,
        log: Option<DecisionLog>,
    ) -> Self {
        Self {
            models: Models::new(Arc::clone(&options), Arc::clone(&metrics)),
            budget: Budget::new(options.limits.max_bodies, metrics.bodies.clone()),
            token: options.access.token.as_deref().map(Token::new),
            options,
            metrics,
            log,
            is_ending: AtomicBool::new(false),
            used: AtomicUsize::new(0),
        }
    }

    /// From now on it isn't ready.
    pub(crate) fn begin_to_end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Waits until every decision is written down.
    pub(crate) async fn flush(&self) {
        if let Some(log) = &self.log {
            log.flush().await;
        }
    }

    /// Whether new requests should come here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_ending.load(Ordering::Relaxed) && self.models.are_ready()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    pub(crate) fn call(&self, traceparent: Option<&str>) -> Call {
        Call {
            trace: Trace::of(traceparent),
            start: Instant::now(),
            model: String::new(),
            deadline: self.options.limits.request,
            images: 0,
            answered: 0,
        }
    }

    /// Whether a request with this `authorization` may be served.
    pub(crate) fn authorise(&self, authorization: Option<&[u8]>) -> Result<()> {
        self.token
            .as_ref()
            .map_or(Ok(()), |token| token.check(authorization))
    }

    /// Whether clients may load and unload.
    pub(crate) fn allow_control(&self) -> Result<()> {
        if self.options.access.model_control {
            return Ok(());
        }
        Err(Failure::Forbidden(
            "clients may not load or unload bundles here; start the server with --model-control, or send it SIGHUP".to_owned(),
        ))
    }

    /// How long the call's body may take: what the server gives bodies, or what is left of the client's deadline.
    pub(crate) fn patience(&self, call: &Call) -> Patience {
        let (body, left) = (self.options.limits.body, call.left());
        match left < body {
            true => Patience {
                left,
                failure: Failure::Deadline(call.deadline),
            },
            false => Patience::of_body(body),
        }
    }

    /// Judges images within the call's deadline, counts them and writes them down.
    pub(crate) async fn judge(
        &self,
        call: &mut Call,
        model: &Arc<Model>,
        items: Vec<Item>,
        group: Option<&str>,
    ) -> Result<Vec<Outcome>> {
        call.images = items.len();
        let judged = tokio::time::timeout(call.left(), model.judge(items)).await;
        let outcomes = judged.unwrap_or(Err(Failure::Deadline(call.deadline)));
        match &outcomes {
            Ok(outcomes) => {
                let times = outcomes.iter().map(|outcome| &outcome.times);
                model.statistics.succeeded(call.start.elapsed(), times);
            }
            Err(_) => model.statistics.failed(call.start.elapsed()),
        }
        let outcomes = outcomes?;
        let version = model.about().version();
        let mut lost = 0;
        for outcome in &outcomes {
            self.metrics.outcome(&model.name, outcome);
            call.answered += usize::from(outcome.judged.prediction.label.is_some());
            if let Some(log) = &self.log {
                let prediction = &outcome.judged.prediction;
                // A disk that hangs is waited for once.
                let is_taken =
                    lost == 0 && log.record(&model.name, &version, prediction, group).await;
                lost += u64::from(!is_taken);
            }
        }
        if lost > 0 {
            self.metrics.logged(&model.name, "lost", lost);
            tracing::error!(
                model = model.name,
                lost,
                "the decision log takes no records: its disk hangs, most likely"
            );
        }
        Ok(outcomes)
    }

    /// Answers a request of the protocol.
    pub(crate) async fn infer(
        &self,
        call: &mut Call,
        model: &Arc<Model>,
        request: Request,
    ) -> Result<(Vec<Output>, Vec<Outcome>)> {
        call.must_end_within(request.timeout);
        let wanted = request.outputs.clone();
        let name = match request.id.as_str() {
            "" => call.trace.trace_id(),
            id => id.to_owned(),
        };
        let items = request.items(model.about(), &name)?;
        let outcomes = self.judge(call, model, items, None).await?;
        Ok((infer::outputs(model.about(), &wanted, &outcomes)?, outcomes))
    }
}
