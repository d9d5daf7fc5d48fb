//! Reading a request's body: so many bytes, in so much time, and no more memory than all bodies may take.

use crate::{
    budget::{Budget, Lease},
    failure::{Failure, Result},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::{
    future::Future,
    io::Read,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Sleep;

/// A body that breaks off when it costs too much. Its memory is leased until the last holder of the lease is gone.
pub(crate) struct Guarded {
    body: Incoming,
    lease: Arc<Mutex<Lease>>,
    read: usize,
    limit: usize,
    patience: Patience,
    end: Pin<Box<Sleep>>,
}

/// How long a body may take, and what is said when it takes longer.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    pub(crate) left: Duration,
    pub(crate) failure: Failure,
}

impl Patience {
    /// What the server gives any body.
    pub(crate) fn of_body(time: Duration) -> Self {
        Self {
            left: time,
            failure: Failure::SlowBody(time),
        }
    }
}

impl Guarded {
    pub(crate) fn new(
        body: Incoming,
        budget: &Arc<Budget>,
        limit: usize,
        patience: Patience,
    ) -> Self {
        Self {
            body,
            lease: Arc::new(Mutex::new(budget.lease())),
            read: 0,
            limit,
            end: Box::pin(tokio::time::sleep(patience.left)),
            patience,
        }
    }

    /// With another time, from now on.
    pub(crate) fn within(mut self, patience: Patience) -> Self {
        self.end = Box::pin(tokio::time::sleep(patience.left));
        self.patience = patience;
        self
    }

    /// As [`discard`].
    pub(crate) async fn discard(&mut self) {
        discard(&mut self.body).await;
    }

    /// To be kept as long as what was read.
    pub(crate) fn lease(&self) -> Arc<Mutex<Lease>> {
        Arc::clone(&self.lease)
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        self.read += bytes;
        if self.read > self.limit {
            return Err(Failure::TooLarge { limit: self.limit });
        }
        self.lease
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .grow(bytes)
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(self.patience.failure.clone())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                return Poll::Ready(Some(Err(Failure::BrokenBody(error.to_string()))));
            }
            None => return Poll::Ready(None),
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        Poll::Ready(Some(self.take(bytes).map(|()| frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// An answer, with something that is kept until it is sent: the rest of a request's body.
pub(crate) struct Held<B, K> {
    body: B,
    _kept: K,
}

impl<B, K> Held<B, K> {
    pub(crate) fn new(body: B, kept: K) -> Self {
        Self { body, _kept: kept }
    }
}

impl<B: Body + Unpin, K: Unpin> Body for Held<B, K> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// What a client may still send of a body that was refused, so that it gets to read why: over HTTP/1 it would else find its
/// connection reset.
const LEFT_OVER: usize = 64 << 20;
const LEFT_OVER_TIME: Duration = Duration::from_secs(3);

/// The whole body, in one piece, and the lease of its memory.
pub(crate) async fn read(mut body: Guarded) -> Result<(Bytes, Arc<Mutex<Lease>>)> {
    let lease = body.lease();
    let promised = body.size_hint().lower();
    let whole = if promised > body.limit as u64 {
        Err(Failure::TooLarge { limit: body.limit })
    } else {
        collect(&mut body).await
    };
    match whole {
        Ok(bytes) => Ok((bytes, lease)),
        Err(failure) => {
            if matches!(
                failure,
                Failure::TooLarge { .. } | Failure::Unavailable { .. }
            ) {
                discard(&mut body.body).await;
            }
            Err(failure)
        }
    }
}

async fn collect(body: &mut Guarded) -> Result<Bytes> {
    let mut parts: Vec<Bytes> = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            parts.push(data);
        }
    }
    // Many small parts are put together; a single one needs no copy.
    Ok(match parts.len() {
        1 => parts.remove(0),
        _ => parts.concat().into(),
    })
}

/// Reads what comes of a body that nobody wants, for a while.
async fn discard(body: &mut Incoming) {
    let mut left = LEFT_OVER;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    _ = tokio::time::timeout(LEFT_OVER_TIME, reading).await;
}

/// What was compressed, which may take no more than `limit` either, and counts as a body, too.
pub(crate) fn inflate(
    bytes: &[u8],
    encoding: &str,
    limit: usize,
    lease: Arc<Mutex<Lease>>,
) -> Result<(Bytes, Arc<Mutex<Lease>>)> {
    let mut plain = Vec::new();
    let mut reader: Box<dyn Read> = match encoding {
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        _ => Box::new(flate2::read::ZlibDecoder::new(bytes)),
    };
    let mut block = vec![0; 1 << 16];
    loop {
        let n = reader
            .read(&mut block)
            .map_err(|error| Failure::Invalid(format!("the body is no {encoding}: {error}")))?;
        if n == 0 {
            return Ok((plain.into(), lease));
        }
        if plain.len() + n > limit {
            return Err(Failure::TooLarge { limit });
        }
        lease
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .grow(n)?;
        plain.extend_from_slice(&block[..n]);
    }
}
