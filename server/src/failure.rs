use std::{sync::Arc, time::Duration};
use tonic::{Code, metadata::MetadataValue};

/// Why a request has no result. Each kind has one HTTP status and one gRPC code.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    /// The request doesn't say what it must, or contradicts itself.
    #[error("{0}")]
    Invalid(String),
    /// No token, or a wrong one.
    #[error("{0}; send `Authorization: Bearer TOKEN`")]
    Unauthenticated(&'static str),
    /// What the server was not started to allow.
    #[error("{0}")]
    Forbidden(String),
    /// No such path, model or version.
    #[error("{0}")]
    NotFound(String),
    /// The path is there, for another method.
    #[error("`{path}` takes {allowed}")]
    Method { path: String, allowed: &'static str },
    /// The body came too slowly.
    #[error("the body of the request wasn't complete after {} s", .0.as_secs_f64())]
    SlowBody(Duration),
    /// The body ended before it was complete, or broke the protocol.
    #[error("the body of the request can't be read: {0}")]
    BrokenBody(String),
    /// The body is larger than what this server takes.
    #[error(
        "the body of the request is larger than {limit} bytes; raise --max-body if it is meant"
    )]
    TooLarge { limit: usize },
    /// An encoding of the body that isn't read.
    #[error("{0}")]
    Encoding(String),
    /// An image that can't be judged.
    #[error("{0}")]
    Image(String),
    /// As many images as the queue holds are being worked on.
    #[error("{what}; try again in {} s", after.as_secs())]
    Busy { what: String, after: Duration },
    /// Bodies hold as much memory as they may; the server ends; the model isn't there.
    #[error("{what}; try again in {} s", after.as_secs())]
    Unavailable { what: String, after: Duration },
    /// The time that the client, or the server, gave the request is over.
    #[error("the deadline of {} ms is over", .0.as_millis())]
    Deadline(Duration),
    /// It isn't the request's fault.
    #[error("{0}")]
    Internal(Arc<str>),
    /// What the protocol has and this server hasn't.
    #[error("{0}")]
    Unsupported(String),
}

impl Failure {
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string().into())
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::BrokenBody(_) => 400,
            Self::Unauthenticated(_) => 401,
            Self::Forbidden(_) => 403,
            Self::NotFound(_) => 404,
            Self::Method { .. } => 405,
            Self::SlowBody(_) => 408,
            Self::TooLarge { .. } => 413,
            Self::Encoding(_) => 415,
            Self::Image(_) => 422,
            Self::Busy { .. } => 429,
            Self::Internal(_) => 500,
            Self::Unsupported(_) => 501,
            Self::Unavailable { .. } => 503,
            Self::Deadline(_) => 504,
        }
    }

    /// The gRPC code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::BrokenBody(_) | Self::Encoding(_) | Self::Image(_) => {
                Code::InvalidArgument
            }
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Forbidden(_) => Code::PermissionDenied,
            Self::NotFound(_) => Code::NotFound,
            Self::Method { .. } | Self::Unsupported(_) => Code::Unimplemented,
            Self::SlowBody(_) | Self::Deadline(_) => Code::DeadlineExceeded,
            Self::TooLarge { .. } | Self::Busy { .. } => Code::ResourceExhausted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// When it is worth trying again, if it ever is.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } | Self::Unavailable { after, .. } => Some(*after),
            _ => None,
        }
    }

    /// A word for the metric of refusals; none if the request was tried.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated(_) => Some("token"),
            Self::SlowBody(_) => Some("slow_body"),
            Self::TooLarge { .. } => Some("too_large"),
            Self::Busy { .. } => Some("queue_full"),
            Self::Unavailable { .. } => Some("unavailable"),
            Self::Deadline(_) => Some("deadline"),
            _ => None,
        }
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        let mut status = Self::new(failure.code(), failure.to_string());
        if let Some(after) = failure.retry_after() {
            // What gRPC's own retry policies read.
            let value = MetadataValue::from(after.as_millis() as u64);
            status
                .metadata_mut()
                .insert("grpc-retry-pushback-ms", value);
        }
        status
    }
}

/// The result of a request.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let busy = Failure::Busy {
            what: "the queue is full".to_owned(),
            after: Duration::from_secs(2),
        };
        assert_eq!(busy.status(), 429);
        assert_eq!(busy.to_string(), "the queue is full; try again in 2 s");
        let status = tonic::Status::from(busy);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
        assert_eq!(pushback.to_str().unwrap(), "2000");
    }
}
