//! The answering side: requests of a peer are handed over, and answered.
//!
//! Invariants: handlers are started in the order in which requests came, each polled once before
//! the next is started; a handler is dropped when nobody waits for its answer any more; what a
//! request holds is counted until its handler has ended.
//! Must never know: how requests came here.

use super::Reply;
use super::connection::{Connection, Session};
use super::ending::{Ending, Misdeed};
use super::error::{Error, ErrorKind, Result};
use super::outgoing::Charge;
use crate::frame::{Envelope, HEADER_BYTES, Kind, charged_bytes, check_size};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::Task;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// What is done for a peer on one connection.
#[derive(Debug, Default)]
pub(super) struct Serving {
    handlers: Cell<usize>,
    held_bytes: Cell<usize>,
    /// Those that wait, by their request's number.
    tasks: RefCell<BTreeMap<u64, Task<()>>>,
}

impl Serving {
    /// Handlers at work, and bytes of their requests.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.handlers.get(), self.held_bytes.get())
    }

    /// Drops the handler of a request, if it has not ended.
    pub(super) fn cancel(&self, request: u64) {
        let task = self.tasks.borrow_mut().remove(&request);
        drop(task); // Outside the borrow.
    }

    /// Drops all handlers.
    pub(super) fn give_up(&self) {
        let tasks = self.tasks.take();
        drop(tasks); // Outside the borrow.
    }

    /// A handler's task has ended.
    fn ended(&self, request: u64) {
        let task = self.tasks.borrow_mut().remove(&request);
        task.into_iter().for_each(Task::detach);
    }
}

/// What a request holds, until it is dropped.
struct Held {
    connection: Rc<Connection>,
    bytes: usize,
}

impl Held {
    fn begin(connection: &Rc<Connection>, bytes: usize) -> Held {
        let serving = &connection.serving;
        serving.handlers.set(serving.handlers.get() + 1);
        serving.held_bytes.set(serving.held_bytes.get() + bytes);
        Held { connection: Rc::clone(connection), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let serving = &self.connection.serving;
        serving.handlers.set(serving.handlers.get() - 1);
        serving.held_bytes.set(serving.held_bytes.get() - self.bytes);
        self.connection.wake();
    }
}

/// Hands a request over. Never waits.
pub(super) async fn start(
    session: &Session,
    envelope: Envelope,
    head: Vec<u8>,
    payload: Vec<Buffer>,
) -> Option<Ending> {
    let Session { shared, peer, connection } = session;
    let Envelope { group, lane, request, .. } = envelope;
    if connection.serving.tasks.borrow().contains_key(&request) {
        return Some(Ending::Misbehaved(Misdeed::RequestTwice));
    }
    let bytes = HEADER_BYTES + charged_bytes(head.len(), payload.iter().map(|part| part.len()));
    let held = Held::begin(connection, bytes);
    let mut handling = shared.handler.handle(peer.node, group, lane, head, payload);
    // Once now, in the order of the requests; tasks are run in any order.
    let polled = poll_fn(|context| Poll::Ready(handling.as_mut().poll(context))).await;
    if let Poll::Ready(result) = polled {
        answer(connection, &envelope, result);
        return None;
    }
    let own = Rc::clone(connection);
    let task = shared.reactor.spawn(async move {
        let result = handling.await;
        answer(&own, &envelope, result);
        own.serving.ended(request);
        drop(held);
    });
    connection.serving.tasks.borrow_mut().insert(request, task);
    None
}

/// Sends what became of a request, if anybody wants to know.
fn answer(connection: &Connection, request: &Envelope, result: Result<Reply>) {
    if request.kind == Kind::OneWay {
        return;
    }
    let fits = result.and_then(|reply| {
        let (found, max) = (reply.charged_bytes(), request.reply_max_bytes as usize);
        let Reply { head, payload } = &reply;
        if found > max || check_size(Kind::Reply, head, payload).is_err() {
            let text = format!("the answer has {found} bytes, the caller takes {max}");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(reply)
    });
    let envelope = |kind| Envelope { kind, reply_max_bytes: 0, ..*request };
    match fits {
        Ok(reply) => {
            let charge = Charge::Reply(HEADER_BYTES + reply.charged_bytes());
            let Reply { head, payload } = reply;
            connection.outgoing.push(&envelope(Kind::Reply), &head, payload, charge);
            connection.wake();
        }
        Err(error) => {
            let head = error.to_notice().encode();
            let charge = Charge::Reply(HEADER_BYTES + head.len());
            connection.say(&envelope(Kind::Error), &head, charge);
        }
    }
}
