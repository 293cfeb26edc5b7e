//! Spawned tasks, and waiting for their end.
//!
//! Invariants: a task runs on whatever becomes of its handle; it ends with its reactor, and then
//! whoever waits for it is told.
//! Must never know: what tasks do.

use super::Shared;
use super::current::EnteredFuture;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// Waits for the result of a task. Dropping it lets the task run.
#[derive(Debug)]
pub struct JoinHandle<T> {
    result: oneshot::Receiver<T>,
}

impl<T: 'static> JoinHandle<T> {
    pub(super) fn spawn<F>(shared: &Rc<Shared>, future: F) -> JoinHandle<T>
    where
        F: Future<Output = T> + 'static,
    {
        let (sender, result) = oneshot::channel();
        let task = async move {
            // Nobody may be waiting.
            sender.send(future.await).ok();
        };
        shared.reactor.spawn(EnteredFuture::new(Rc::clone(shared), task)).detach();
        JoinHandle { result }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(context).map(|result| result.map_err(|_| JoinError))
    }
}

/// The task ended before its result: its reactor was shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinError;

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task's reactor was shut down")
    }
}

impl std::error::Error for JoinError {}
