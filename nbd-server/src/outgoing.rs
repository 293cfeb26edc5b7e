//! Replies on their way out: gathered while a send runs, sent together with the next one.
//!
//! Data that was read is sent from the buffers it was read into. Invariant: at most one send per
//! connection; the requests and bytes of a reply are released when it is sent or given up.
//! Must never know: what replies mean.

use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{Message, Part};
use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Replies to send, and what is released when they are.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    message: Message,
    pub(crate) requests: u32,
    pub(crate) bytes: usize,
}

impl Batch {
    /// Appends what `encode` writes.
    pub(crate) fn head(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.message.head.len();
        encode(&mut self.message.head);
        let added = self.message.head.len() - before;
        match self.message.parts.last_mut() {
            Some(Part::Head(count)) => *count += added,
            _ => self.message.parts.push(Part::Head(added)),
        }
    }

    /// Appends a buffer.
    pub(crate) fn payload(&mut self, buffer: Buffer) {
        self.message.parts.push(Part::Payload(buffer));
    }

    /// The message to send.
    pub(crate) fn take_message(&mut self) -> Message {
        std::mem::take(&mut self.message)
    }
}

/// Where requests leave their replies and the writer takes them.
#[derive(Default)]
pub(crate) struct Outgoing {
    next: RefCell<Batch>,
    writer: Cell<Option<Waker>>,
    closed: Cell<bool>,
    broken: Cell<bool>,
}

impl Outgoing {
    /// Adds to the next batch and wakes the writer.
    pub(crate) fn push(&self, add: impl FnOnce(&mut Batch)) {
        add(&mut self.next.borrow_mut());
        self.wake();
    }

    /// No request is taken in any more; the writer ends when everything is sent.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// A send failed: nothing can be sent any more.
    pub(crate) fn set_broken(&self) {
        self.broken.set(true);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// The next batch to send; `None` when there will be none, for it is closed and no request
    /// is left (`idle`). Replies go into `spare` from now on, which is empty and brings the
    /// memory of an earlier batch.
    pub(crate) fn poll_batch(
        &self,
        context: &mut Context<'_>,
        spare: &mut Message,
        idle: bool,
    ) -> Poll<Option<Batch>> {
        let mut next = self.next.borrow_mut();
        if !next.message.parts.is_empty() || next.requests > 0 {
            let empty = Batch { message: std::mem::take(spare), requests: 0, bytes: 0 };
            return Poll::Ready(Some(std::mem::replace(&mut *next, empty)));
        }
        if self.closed.get() && idle {
            return Poll::Ready(None);
        }
        self.writer.set(Some(context.waker().clone()));
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}
