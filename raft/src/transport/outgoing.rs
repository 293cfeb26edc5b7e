//! Frames on their way out: gathered while a send runs, sent together with the next one.
//!
//! Invariants: frames are sent in the order in which they were pushed; what they count for is
//! released when they are sent.
//! Must never know: sockets, what frames mean.

use crate::frame::{Encoder, Envelope};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::Message;
use std::cell::{Cell, RefCell};

/// Whose bytes a frame counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    /// What this side wants of the other.
    Request(usize),
    /// What the other wants of this side.
    Reply(usize),
}

#[derive(Debug)]
struct Gathering {
    encoder: Encoder,
    message: Message,
    requests: usize,
    replies: usize,
}

/// What one send takes, and what it counts for.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) message: Message,
    requests: usize,
    replies: usize,
}

/// Frames of one connection that are not sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    gathering: RefCell<Gathering>,
    /// With those of the send that runs.
    request_bytes: Cell<usize>,
    reply_bytes: Cell<usize>,
}

impl Outgoing {
    pub(super) fn new(encoder: Encoder) -> Outgoing {
        let gathering = Gathering { encoder, message: Message::default(), requests: 0, replies: 0 };
        Outgoing {
            gathering: RefCell::new(gathering),
            request_bytes: Cell::new(0),
            reply_bytes: Cell::new(0),
        }
    }

    /// Frames are of this version from now on.
    pub(super) fn set_version(&self, version: u16) {
        self.gathering.borrow_mut().encoder.set_version(version);
    }

    /// Adds a frame to the next send.
    pub(super) fn push(
        &self,
        envelope: &Envelope,
        head: &[u8],
        payload: Vec<Buffer>,
        charge: Charge,
    ) {
        let mut gathering = self.gathering.borrow_mut();
        let Gathering { encoder, message, requests, replies } = &mut *gathering;
        encoder.encode(envelope, head, payload, message);
        let (count, total, bytes) = match charge {
            Charge::Request(bytes) => (requests, &self.request_bytes, bytes),
            Charge::Reply(bytes) => (replies, &self.reply_bytes, bytes),
        };
        *count += bytes;
        total.set(total.get() + bytes);
    }

    /// Everything that was pushed since; `None` if nothing was. Frames are gathered in `spare` from
    /// now on, which is empty and brings the memory of an earlier send.
    pub(super) fn take(&self, spare: &mut Message) -> Option<Batch> {
        let mut gathering = self.gathering.borrow_mut();
        if gathering.message.parts.is_empty() {
            return None;
        }
        let message = std::mem::replace(&mut gathering.message, std::mem::take(spare));
        let (requests, replies) = (gathering.requests, gathering.replies);
        (gathering.requests, gathering.replies) = (0, 0);
        Some(Batch { message, requests, replies })
    }

    /// A batch was sent.
    pub(super) fn release(&self, batch: &Batch) {
        self.request_bytes.set(self.request_bytes.get() - batch.requests);
        self.reply_bytes.set(self.reply_bytes.get() - batch.replies);
    }

    /// What waits to be sent for this side.
    pub(super) fn request_bytes(&self) -> usize {
        self.request_bytes.get()
    }

    /// What waits to be taken by the other side, for it.
    pub(super) fn reply_bytes(&self) -> usize {
        self.reply_bytes.get()
    }
}
