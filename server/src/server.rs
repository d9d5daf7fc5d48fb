use crate::{
    Error, Options, connection::Door, decision_log::DecisionLog, metrics::Metrics,
    service::Service, tls::Tls,
};
use hyper_util::server::graceful::GracefulShutdown;
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long its end waits for the decision log's disk.
const FLUSH: Duration = Duration::from_secs(3);

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request that had begun was answered.
    Drained,
    /// Some were cut off: they took longer than [`crate::Drain::timeout`], or somebody asked twice.
    CutOff,
}

/// A server that runs. It needs tokio's multi-threaded runtime. Dropped, it stops to accept connections, and leaves those that are
/// open to their fate; [`Server::drain`] ends it well.
pub struct Server {
    service: Arc<Service>,
    tls: Option<Arc<Tls>>,
    graceful: Arc<GracefulShutdown>,
    is_closed: watch::Sender<bool>,
    doors: Vec<JoinHandle<()>>,
    watching: Option<JoinHandle<()>>,
    http: SocketAddr,
    grpc: Option<SocketAddr>,
}

impl Server {
    /// Loads the bundles, then listens: whoever can connect can be answered.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::Exposed`] for what must not be; [`Error::Listen`], [`Error::Tls`], [`Error::DecisionLog`];
    /// [`Error::Bundle`] when one of the bundles can't be served.
    pub async fn start(options: Options) -> Result<Self, Error> {
        options.check()?;
        let options = Arc::new(options);
        let tls = options
            .access
            .tls
            .clone()
            .map(Tls::open)
            .transpose()?
            .map(Arc::new);
        let http = listen(options.http).await?;
        let grpc = match options.grpc {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let metrics = Arc::new(Metrics::new());
        let log = options.decision_log.as_ref().map(|dir| {
            DecisionLog::open(dir, Arc::clone(&metrics)).map_err(|source| Error::DecisionLog {
                dir: dir.clone(),
                source,
            })
        });
        let service = Arc::new(Service::new(
            Arc::clone(&options),
            metrics,
            log.transpose()?,
        ));
        for source in &options.bundles {
            let loaded = service.models.load(&source.name).await;
            loaded.map_err(|failure| Error::Bundle {
                name: source.name.clone(),
                dir: source.dir.clone(),
                reason: service
                    .models
                    .failure(&source.name)
                    .unwrap_or_else(|| failure.to_string()),
            })?;
        }
        Ok(Self::open(service, tls, http, grpc))
    }

    fn open(
        service: Arc<Service>,
        tls: Option<Arc<Tls>>,
        (http, http_address): (TcpListener, SocketAddr),
        grpc: Option<(TcpListener, SocketAddr)>,
    ) -> Self {
        let graceful = Arc::new(GracefulShutdown::new());
        let (is_closed, closing) = watch::channel(false);
        let places = Arc::new(Semaphore::new(service.options.limits.connections));
        let grpc_address = grpc.as_ref().map(|(_, address)| *address);
        let listeners = [Some(http), grpc.map(|(listener, _)| listener)];
        let doors = listeners.into_iter().flatten().map(|listener| {
            let door = Door {
                listener,
                service: Arc::clone(&service),
                tls: tls.clone(),
                places: Arc::clone(&places),
                graceful: Arc::clone(&graceful),
            };
            tokio::spawn(door.keep(closing.clone()))
        });
        Self {
            doors: doors.collect(),
            watching: service
                .options
                .watch
                .map(|pause| tokio::spawn(watch_bundles(Arc::clone(&service), pause))),
            service,
            tls,
            graceful,
            is_closed,
            http: http_address,
            grpc: grpc_address,
        }
    }

    /// Where HTTP is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where gRPC is served, if it is; HTTP's address serves it, too.
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// Loads the bundles that have changed on disk, and the TLS certificate. Requests that have begun end with the bundle that they
    /// began with; a bundle that can't be loaded is logged, and the one before stays.
    pub async fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        self.service.models.reload().await;
    }

    /// Ends the server: it says that it isn't ready, goes on for [`crate::Drain::grace`], then accepts nothing new, and answers what
    /// has begun.
    pub async fn drain(self) -> Ended {
        let drain = self.service.options.drain;
        self.service.begin_to_end();
        tracing::info!(grace_s = drain.grace.as_secs_f64(), "draining");
        sleep(drain.grace).await;
        _ = self.is_closed.send(true);
        for door in self.doors {
            // It can only have ended.
            _ = door.await;
        }
        if let Some(watching) = self.watching {
            watching.abort();
        }
        let graceful = Arc::into_inner(self.graceful).expect("only the doors held it");
        let ending = async {
            tokio::select! {
                () = graceful.shutdown() => {}
                () = idle(&self.service) => {}
            }
        };
        let drained = timeout(drain.timeout, ending).await;
        if timeout(FLUSH, self.service.flush()).await.is_err() {
            tracing::error!("the decision log's disk hangs: its last records are lost");
        }
        match drained {
            Ok(()) => Ended::Drained,
            Err(_) => {
                tracing::error!(
                    after_s = drain.timeout.as_secs_f64(),
                    "requests were cut off"
                );
                Ended::CutOff
            }
        }
    }

    /// Serves until SIGTERM or SIGINT, then [drains](Server::drain); a second one cuts that short. SIGHUP
    /// [reloads](Server::reload).
    ///
    /// # Errors
    /// [`Error::Signals`].
    #[cfg(unix)]
    pub async fn until_signal(self) -> Result<Ended, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let stream = |kind| signal(kind).map_err(Error::Signals);
        let mut hang_up = stream(SignalKind::hangup())?;
        let mut terminate = stream(SignalKind::terminate())?;
        let mut interrupt = stream(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => {
                    tracing::info!("SIGHUP: loading what has changed");
                    self.reload().await;
                }
            }
        }
        Ok(tokio::select! {
            ended = self.drain() => ended,
            _ = terminate.recv() => Ended::CutOff,
            _ = interrupt.recv() => Ended::CutOff,
        })
    }

    /// Serves until Ctrl-C, then [drains](Server::drain).
    ///
    /// # Errors
    /// [`Error::Signals`].
    #[cfg(not(unix))]
    pub async fn until_signal(self) -> Result<Ended, Error> {
        tokio::signal::ctrl_c().await.map_err(Error::Signals)?;
        Ok(self.drain().await)
    }
}

/// Connections over which nobody has asked may stay open for as long as their clients like: they aren't waited for.
async fn idle(service: &Service) {
    const STEP: Duration = Duration::from_millis(50);
    const STEPS: u32 = 20;
    let mut steps = 0;
    while steps < STEPS {
        sleep(STEP).await;
        steps = match service.used.load(Ordering::Relaxed) {
            0 => steps + 1,
            _ => 0,
        };
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn watch_bundles(service: Arc<Service>, pause: Duration) {
    loop {
        sleep(pause).await;
        service.models.look().await;
    }
}
