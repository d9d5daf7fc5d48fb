//! Answers.

use crate::{
    failure::Failure,
    model::Outcome,
    service::{Call, Service},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use serde::Serialize;

/// A status, headers, and a body that is there as a whole.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Answer {
    fn new(status: StatusCode, content_type: Option<HeaderValue>, body: impl Into<Bytes>) -> Self {
        let headers = content_type.map(|value| (header::CONTENT_TYPE, value));
        Self {
            status,
            headers: headers.into_iter().collect(),
            body: body.into(),
        }
    }

    /// 200 or 503, and nothing else.
    pub(super) fn state(is_good: bool) -> Self {
        let status = if is_good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self::new(status, None, "")
    }

    pub(super) fn json(document: &impl Serialize) -> Self {
        let body = serde_json::to_vec(document).expect("plain data has a JSON form");
        Self::new(StatusCode::OK, Some(JSON), body)
    }

    /// JSON that is there already.
    pub(super) fn of_json_bytes(body: Vec<u8>) -> Self {
        Self::new(StatusCode::OK, Some(JSON), body)
    }

    pub(super) fn text(content_type: &'static str, text: String) -> Self {
        Self::new(
            StatusCode::OK,
            Some(HeaderValue::from_static(content_type)),
            text,
        )
    }

    pub(super) fn binary(body: Vec<u8>) -> Self {
        let content_type = HeaderValue::from_static("application/octet-stream");
        Self::new(StatusCode::OK, Some(content_type), body)
    }

    pub(super) fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).expect("statuses of failures are statuses");
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// What each stage took (<https://www.w3.org/TR/server-timing/>), in milliseconds; of several images, the longest.
    pub(super) fn with_times(self, outcomes: &[Outcome]) -> Self {
        let longest = outcomes.iter().max_by_key(|outcome| {
            outcome
                .times
                .stages()
                .iter()
                .map(|(_, time)| *time)
                .sum::<std::time::Duration>()
        });
        let Some(outcome) = longest else {
            return self;
        };
        let stages = outcome
            .times
            .stages()
            .map(|(stage, time)| format!("{};dur={:.3}", stage.name(), time.as_secs_f64() * 1e3));
        let batch = outcome.times.batch;
        self.with(
            "server-timing",
            format!("{}, batch;desc={batch}", stages.join(", ")),
        )
    }

    /// A failure's status, and a document that tells it.
    pub(super) fn failure(service: &Service, call: &Call, failure: &Failure) -> Self {
        if let Some(reason) = failure.refusal() {
            service.metrics.refusal(&call.model, reason);
        }
        if let Failure::Internal(error) = failure {
            tracing::error!(trace_id = call.trace.trace_id(), %error, "a request failed");
        }
        let mut answer = Self::json(&serde_json::json!({ "error": failure.to_string() }))
            .with_status(failure.status());
        match failure {
            Failure::Unauthenticated(_) => answer = answer.with("www-authenticate", "Bearer"),
            Failure::Method { allowed, .. } => answer = answer.with("allow", allowed),
            // What comes after half a body can't be told from it.
            Failure::SlowBody(_) | Failure::BrokenBody(_) => {
                answer = answer.with("connection", "close")
            }
            _ => {}
        }
        match failure.retry_after() {
            Some(after) => answer.with("retry-after", after.as_secs().max(1)),
            None => answer,
        }
    }

    pub(super) fn response(
        mut self,
        service: &Service,
        call: &Call,
        is_head: bool,
    ) -> Response<tonic::body::Body> {
        if service.is_ending() {
            self = self.with("connection", "close");
        }
        let length = self.body.len();
        self = self
            .with("traceparent", call.trace)
            .with("content-length", length);
        let body = if is_head { Bytes::new() } else { self.body };
        let mut response = Response::new(tonic::body::Body::new(Full::new(body)));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
