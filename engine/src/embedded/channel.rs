//! What connects callers on any thread with the reactor's: an answer, and a bound on what is asked.
//!
//! Must never know: the store.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks; if it did, the state is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Answer<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
}

/// The side that answers.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Mutex<Answer<T>>>);

/// The side that waits: `None` if the answer will never come.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Mutex<Answer<T>>>);

/// A channel for one value.
pub(super) fn answer<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Mutex::new(Answer { value: None, waker: None, sender_gone: false }));
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    pub(super) fn send(self, value: T) {
        lock(&self.0).value = Some(value);
        // Dropping the sender wakes the receiver.
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut answer = lock(&self.0);
        answer.sender_gone = true;
        let waker = answer.waker.take();
        drop(answer);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut answer = lock(&self.0);
        match answer.value.take() {
            Some(value) => Poll::Ready(Some(value)),
            None if answer.sender_gone => Poll::Ready(None),
            None => {
                answer.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[derive(Debug, Default)]
struct GateState {
    used: usize,
    waiting: VecDeque<Waker>,
}

/// Bounds the bytes that callers have under way.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    max: usize,
}

/// Bytes let through; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    pub(super) fn new(max: usize) -> Arc<Gate> {
        Arc::new(Gate { state: Mutex::default(), max })
    }

    /// Waits until `bytes` more fit; a request larger than the bound goes through alone.
    pub(super) async fn pass(self: &Arc<Gate>, bytes: usize) -> Permit {
        poll_fn(|context| {
            let mut state = lock(&self.state);
            if state.used > 0 && state.used + bytes > self.max {
                state.waiting.push_back(context.waker().clone());
                return Poll::Pending;
            }
            state.used += bytes;
            Poll::Ready(Permit { gate: Arc::clone(self), bytes })
        })
        .await
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        state.used -= self.bytes;
        // All of them: the first may have gone away without passing its turn on.
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}
