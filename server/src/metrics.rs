//! What Prometheus reads at `/metrics`.

use crate::model::{Model, Outcome};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use stage1_core::bundle::DecisionKind;
use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

/// The content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A step of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The body arrives.
    Read,
    Decode,
    Preprocess,
    /// It waits for the model.
    Queue,
    Inference,
    Decide,
    /// From the request's head to its answer.
    Total,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Queue => "queue",
            Self::Inference => "inference",
            Self::Decide => "decide",
            Self::Total => "total",
        }
    }
}

type Labels = Vec<(&'static str, String)>;
type IntGauge = Gauge<i64, AtomicI64>;

/// All metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    decisions: Family<Labels, Counter>,
    stages: Family<Labels, Histogram, fn() -> Histogram>,
    batches: Family<Labels, Histogram, fn() -> Histogram>,
    in_flight: Family<Labels, IntGauge>,
    waiting: Family<Labels, IntGauge>,
    capacity: Family<Labels, IntGauge>,
    bundles: Family<Labels, IntGauge>,
    loads: Family<Labels, Counter>,
    log_records: Family<Labels, Counter>,
    ready: IntGauge,
    resident: IntGauge,
    cpu: Gauge<f64, AtomicU64>,
    /// Requests that are being worked on.
    pub(crate) active: IntGauge,
    /// Open connections.
    pub(crate) connections: IntGauge,
    /// Bytes of bodies in memory.
    pub(crate) bodies: IntGauge,
}

/// From a tenth of a millisecond to a minute; a bucket is at most 1.6 times the one before in the middle.
fn seconds() -> Histogram {
    Histogram::new([
        1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06,
        0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

fn sizes() -> Histogram {
    Histogram::new([
        1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0,
    ])
}

fn of_model(model: &str) -> Labels {
    vec![("model", model.to_owned())]
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("stage1"),
            requests: Family::default(),
            refused: Family::default(),
            decisions: Family::default(),
            stages: Family::new_with_constructor(seconds),
            batches: Family::new_with_constructor(sizes),
            in_flight: Family::default(),
            waiting: Family::default(),
            capacity: Family::default(),
            bundles: Family::default(),
            loads: Family::default(),
            log_records: Family::default(),
            ready: Gauge::default(),
            resident: Gauge::default(),
            cpu: Gauge::default(),
            active: Gauge::default(),
            connections: Gauge::default(),
            bodies: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let all = &mut self.registry;
        all.register(
            "requests",
            "Requests by model, protocol and status (499: the client had gone)",
            self.requests.clone(),
        );
        all.register(
            "refused",
            "Requests that were not tried, by reason",
            self.refused.clone(),
        );
        all.register(
            "decisions",
            "Images by decision and standing",
            self.decisions.clone(),
        );
        all.register(
            "stage_seconds",
            "Time of an image in each stage; read and total: of a request",
            self.stages.clone(),
        );
        all.register(
            "batch_size",
            "Images of one run of the model",
            self.batches.clone(),
        );
        all.register(
            "images_in_flight",
            "Images in the server",
            self.in_flight.clone(),
        );
        all.register(
            "queue_depth",
            "Images that wait for the model",
            self.waiting.clone(),
        );
        all.register(
            "queue_capacity",
            "Images that may be in the server at once",
            self.capacity.clone(),
        );
        all.register(
            "bundle_info",
            "1 for each bundle that is served",
            self.bundles.clone(),
        );
        all.register(
            "bundle_loads",
            "Attempts to load a bundle, by result",
            self.loads.clone(),
        );
        all.register(
            "decision_log_records",
            "Records of the decision log, by result",
            self.log_records.clone(),
        );
        all.register(
            "ready",
            "1 if every bundle is served and the server isn't ending",
            self.ready.clone(),
        );
        all.register(
            "resident_memory_bytes",
            "Memory of the process that is in RAM",
            self.resident.clone(),
        );
        all.register(
            "cpu_seconds",
            "Processor time of the process, since its start",
            self.cpu.clone(),
        );
        all.register(
            "requests_active",
            "Requests that are being worked on",
            self.active.clone(),
        );
        all.register("connections", "Open connections", self.connections.clone());
        all.register(
            "body_bytes",
            "Bytes of requests' bodies in memory",
            self.bodies.clone(),
        );
    }

    /// A request has ended.
    pub(crate) fn request(&self, model: &str, protocol: &'static str, status: u16) {
        let mut labels = of_model(model);
        labels.extend([
            ("protocol", protocol.to_owned()),
            ("status", status.to_string()),
        ]);
        self.requests.get_or_create(&labels).inc();
    }

    /// A request was not tried.
    pub(crate) fn refusal(&self, model: &str, reason: &'static str) {
        let mut labels = of_model(model);
        labels.push(("reason", reason.to_owned()));
        self.refused.get_or_create(&labels).inc();
    }

    /// How long a step took.
    pub(crate) fn stage(&self, model: &str, stage: Stage, time: Duration) {
        let mut labels = of_model(model);
        labels.push(("stage", stage.name().to_owned()));
        self.stages
            .get_or_create(&labels)
            .observe(time.as_secs_f64());
    }

    /// What became of an image.
    pub(crate) fn outcome(&self, model: &str, outcome: &Outcome) {
        let prediction = &outcome.judged.prediction;
        let decision = match prediction.decision {
            DecisionKind::Answer => "answer",
            DecisionKind::Defer => "defer",
            DecisionKind::Error => "error",
        };
        let mut labels = of_model(model);
        labels.extend([
            ("decision", decision.to_owned()),
            ("certified", prediction.certified.to_string()),
        ]);
        self.decisions.get_or_create(&labels).inc();
        for (stage, time) in outcome.times.stages() {
            if !time.is_zero() {
                self.stage(model, stage, time);
            }
        }
    }

    /// Where a model's threads count its batches.
    pub(crate) fn batch_size(&self, model: &str) -> Histogram {
        self.batches.get_or_create_owned(&of_model(model))
    }

    /// A bundle was loaded, or wasn't.
    pub(crate) fn load(&self, model: &str, result: &'static str) {
        let mut labels = of_model(model);
        labels.push(("result", result.to_owned()));
        self.loads.get_or_create(&labels).inc();
    }

    /// Records were written to a decision log, or weren't.
    pub(crate) fn logged(&self, model: &str, result: &'static str, records: u64) {
        let mut labels = of_model(model);
        labels.push(("result", result.to_owned()));
        self.log_records.get_or_create(&labels).inc_by(records);
    }

    /// All metrics as OpenMetrics text; `models` are those that are served.
    pub(crate) fn text<'a>(
        &self,
        models: impl Iterator<Item = &'a Model>,
        is_ready: bool,
    ) -> Result<String, fmt::Error> {
        self.bundles.clear();
        for model in models {
            let (name, about) = (of_model(&model.name), model.about());
            self.in_flight
                .get_or_create(&name)
                .set(model.in_flight() as i64);
            self.waiting
                .get_or_create(&name)
                .set(model.waiting() as i64);
            self.capacity
                .get_or_create(&name)
                .set(model.capacity() as i64);
            let mut info = name;
            info.extend([
                ("version", about.version()),
                ("variant", about.variant.clone()),
                ("provider", about.provider.clone()),
                ("certified", about.is_certified().to_string()),
            ]);
            self.bundles.get_or_create(&info).set(1);
        }
        self.ready.set(is_ready.into());
        if let Some(process) = Process::now() {
            self.resident.set(process.resident);
            self.cpu.set(process.cpu);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What the system says of this process.
struct Process {
    resident: i64,
    cpu: f64,
}

impl Process {
    /// None where there is no `/proc`.
    fn now() -> Option<Self> {
        // Pages and clock ticks as Linux has them on every platform that ONNX Runtime is built for.
        const PAGE: i64 = 4096;
        const TICKS: f64 = 100.0;
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: i64 = statm.split(' ').nth(1)?.parse().ok()?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = |n: usize| fields.split_whitespace().nth(n)?.parse::<f64>().ok();
        Some(Self {
            resident: pages * PAGE,
            cpu: (ticks(11)? + ticks(12)?) / TICKS,
        })
    }
}
