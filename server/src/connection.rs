//! Connections: accepted, encrypted if need be, served, and ended.

use crate::{
    grpc, http,
    service::{Call, Service},
    stream::Patient,
    tls::Tls,
};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tonic::body::Body;

/// A listener and what its connections share.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) service: Arc<Service>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// How many more connections there may be.
    pub(crate) places: Arc<Semaphore>,
    /// Ends them.
    pub(crate) graceful: Arc<GracefulShutdown>,
}

impl Door {
    /// Accepts connections until `is_closed`. Those that exceed the limit wait in the system's backlog.
    pub(crate) async fn keep(self, mut is_closed: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = is_closed.wait_for(|closed| *closed) => return,
            };
            match accepted {
                Ok((stream, peer, place)) => self.admit(stream, peer, place),
                Err(error) => {
                    // Out of file descriptors, most likely: others will be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        // In this order: a door that nobody comes to must not hold a place.
        let (stream, peer) = self.listener.accept().await?;
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(std::io::Error::other)?;
        Ok((stream, peer, place))
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let (service, tls, watcher) = (
            Arc::clone(&self.service),
            self.tls.clone(),
            self.graceful.watcher(),
        );
        tokio::spawn(async move {
            service.metrics.connections.inc();
            let ended = connect(&service, tls.as_deref(), stream, watcher).await;
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a connection broke");
            }
            service.metrics.connections.dec();
            drop(place);
        });
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connect(
    service: &Arc<Service>,
    tls: Option<&Tls>,
    stream: TcpStream,
    watcher: Watcher,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let limits = &service.options.limits;
    // A request may be silent for as long as it takes.
    let idle = limits.header.max(limits.request + Duration::from_secs(5));
    let stream = Patient::new(stream, limits.write, idle);
    match tls {
        None => serve(service, stream, watcher).await,
        Some(tls) => {
            let accepting = tls.acceptor().accept(stream);
            serve(service, timeout(limits.header, accepting).await??, watcher).await
        }
    }
}

/// Serves HTTP/1 and HTTP/2, whichever the client speaks; gRPC comes over HTTP/2.
async fn serve<S>(service: &Arc<Service>, stream: S, watcher: Watcher) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    const PING: Duration = Duration::from_secs(30);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(service.options.limits.header)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(128)
        .max_header_list_size(16 << 10)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20);
    let used = Used::new(service);
    let each = service_fn(|request| {
        used.begin();
        answer(Arc::clone(service), request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), each);
    watcher.watch(connection.into_owned()).await
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let traceparent = request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    let call = service.call(traceparent);
    let is_grpc = grpc::is_grpc(request.headers());
    let mut ending = Ending {
        method: request.method().to_string(),
        path: request.uri().path().chars().take(200).collect(),
        protocol: if is_grpc { "grpc" } else { "http" },
        status: CLIENT_GONE,
        service: Arc::clone(&service),
        call,
    };
    service.metrics.active.inc();
    let response = if is_grpc {
        grpc::serve(&service, &mut ending.call, request).await
    } else {
        http::serve(&service, &mut ending.call, request).await
    };
    ending.status = match response.headers().get("grpc-status") {
        Some(code) if is_grpc => code
            .to_str()
            .ok()
            .and_then(|code| code.parse().ok())
            .unwrap_or(2),
        _ if is_grpc => 0,
        _ => response.status().as_u16(),
    };
    Ok(response)
}

/// Counts a connection from its first request to its end: answers may be on their way as long as it is open.
struct Used {
    service: Arc<Service>,
    is_used: AtomicBool,
}

impl Used {
    fn new(service: &Arc<Service>) -> Self {
        Self {
            service: Arc::clone(service),
            is_used: AtomicBool::new(false),
        }
    }

    fn begin(&self) {
        if !self.is_used.swap(true, Ordering::Relaxed) {
            self.service.used.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        if *self.is_used.get_mut() {
            self.service.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What nginx calls a request whose client didn't wait.
const CLIENT_GONE: u16 = 499;

/// Counts a request and writes its line, also if its client goes away and nobody waits for the answer.
struct Ending {
    service: Arc<Service>,
    call: Call,
    method: String,
    path: String,
    protocol: &'static str,
    /// Of HTTP, or gRPC's code.
    status: u16,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Self {
            service,
            call,
            status,
            ..
        } = self;
        let time = call.start.elapsed();
        service.metrics.active.dec();
        service.metrics.request(&call.model, self.protocol, *status);
        if call.images > 0 {
            service
                .metrics
                .stage(&call.model, crate::metrics::Stage::Total, time);
        }
        // Whoever watches asks all day long.
        let path = self.path.as_str();
        let is_watching = matches!(path, "/livez" | "/readyz" | "/healthz" | "/metrics")
            || path.starts_with("/v2/health/")
            || path.ends_with("/ServerLive")
            || path.ends_with("/ServerReady");
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "stage1_server::access",
                    trace_id = call.trace.trace_id(),
                    span_id = format!("{:016x}", call.trace.span),
                    parent_span_id = call.trace.parent.map(|span| format!("{span:016x}")),
                    protocol = self.protocol,
                    method = self.method,
                    path = self.path,
                    status,
                    model = call.model,
                    images = call.images,
                    answered = call.answered,
                    ms = (time.as_secs_f64() * 1e6).round() / 1e3,
                    "request"
                )
            };
        }
        if is_watching {
            line!(debug);
        } else {
            line!(info);
        }
    }
}
