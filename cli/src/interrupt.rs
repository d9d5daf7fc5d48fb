//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second one doesn't wait for it.

use anyhow::Context;
use stage1_runtime::CancelToken;
use std::{io, process, thread};

/// 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// Cancels `token` when the process is told to end.
pub(crate) fn cancels(token: &CancelToken) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot wait for signals")?;
    let token = token.clone();
    let _running = runtime.enter();
    let mut signals = Signals::new().context("cannot wait for signals")?;
    drop(_running);
    thread::spawn(move || {
        runtime.block_on(signals.next());
        token.cancel();
        runtime.block_on(signals.next());
        exit()
    });
    Ok(())
}

#[expect(clippy::exit, reason = "whoever asks twice doesn't want to wait")]
fn exit() -> ! {
    process::exit(INTERRUPTED)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        _ = tokio::signal::ctrl_c().await;
    }
}
