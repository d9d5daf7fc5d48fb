//! A server in this process.

use crate::{
    client::{Client, Reply},
    fixture::Fixture,
};
use stage1_server::{Ended, Options, Server};
use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Drops with the server; [`Running::drain`] ends it well.
pub(crate) struct Running {
    runtime: Runtime,
    server: Option<Server>,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

impl Running {
    pub(crate) fn start(options: Options) -> Self {
        let runtime = runtime();
        let server = runtime.block_on(Server::start(options)).unwrap();
        Self {
            http: server.http(),
            grpc: server.grpc().unwrap(),
            server: Some(server),
            runtime,
        }
    }

    /// One calibrated bundle called `m`, with options as `change` leaves them.
    pub(crate) fn of(fixture: &Fixture, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new("m", fixture.bundle());
        change(&mut options);
        Self::start(options)
    }

    pub(crate) fn reload(&self) {
        self.runtime
            .block_on(self.server.as_ref().unwrap().reload());
    }

    pub(crate) fn drain(mut self) -> Ended {
        let server = self.server.take().unwrap();
        self.runtime.block_on(server.drain())
    }

    /// Begins to drain, and returns what waits for its end.
    pub(crate) fn begin_to_drain(mut self) -> impl FnOnce() -> Ended {
        let server = self.server.take().unwrap();
        let task = self.runtime.spawn(server.drain());
        move || self.runtime.block_on(task).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        Client::connect(self.http).send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        Client::connect(self.http).send("POST", path, headers, body)
    }

    /// The value of a metric whose line begins with `name`, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A picture that is answered `red`.
pub(crate) fn red(fixture: &Fixture) -> Vec<u8> {
    fs::read(fixture.picture("red.png", [255, 0, 0])).unwrap()
}

/// Waits until `holds`, or fails.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
