//! A thread of its own for a reactor.
//!
//! Must never know: what runs on it.

use super::{Reactor, ReactorOptions, Remote};
use crate::error::{Error, ErrorKind, Result};
use std::future::Future;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a reactor that runs `main` to its end; the way in, and the thread.
///
/// # Errors
/// If the thread cannot be started or has no `io_uring`.
pub fn start_thread<F: Future<Output = ()>>(
    name: &str,
    options: ReactorOptions,
    main: impl FnOnce(Reactor) -> F + Send + 'static,
) -> Result<(Remote, JoinHandle<()>)> {
    let (started, wait) = mpsc::sync_channel(1);
    let body = move || {
        let reactor = match Reactor::new(options) {
            Ok(reactor) => reactor,
            Err(error) => {
                drop(started.send(Err(error)));
                return;
            }
        };
        if started.send(Ok(reactor.remote())).is_ok() {
            reactor.block_on(main(reactor.clone()));
        }
        reactor.shutdown();
    };
    let refused = |error: std::io::Error| {
        Error::new(ErrorKind::Device, format!("a thread cannot be started: {error}"))
    };
    let thread = Builder::new().name(name.to_owned()).spawn(body).map_err(refused)?;
    let gone = |_| Error::new(ErrorKind::Closed, "the reactor's thread ended at once");
    let remote = wait.recv().map_err(gone)??;
    Ok((remote, thread))
}
