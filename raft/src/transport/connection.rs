//! One connection: frames in, frames out, and a look now and then whether the other side is there.
//!
//! One task serves it to its end. Invariants: at most one send and one receive; nothing is received
//! while too much is held for the peer; when the task ends, no call waits for this connection and
//! no handler works for it.
//! Must never know: what heads and payloads mean, how connections come to be.

use super::ending::{Ending, Misdeed};
use super::error::Error;
use super::limits::{
    DEAF_MAX, FAREWELL_TIMEOUT, PING_AFTER, SEND_STALL_MAX, SILENCE_MAX, SPARE_MAX_BYTES,
    WATCH_INTERVAL,
};
use super::outgoing::{Charge, Outgoing};
use super::peer::Peer;
use super::peers::Shared;
use super::serve::{self, Serving};
use super::{Reply, calls::Answered};
use crate::frame::{
    Decoder, Encoder, Envelope, Farewell, Frame, HEADER_BYTES, Hello, Kind, Notice,
};
use ashlar_engine::reactor::{Message, Reactor, Stream};
use ashlar_engine::units::Nanos;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What the task of a connection shares with who uses it.
pub(super) struct Connection {
    /// Names it among all of this node.
    pub(super) number: u64,
    /// Of the peer's hello.
    pub(super) incarnation: u64,
    pub(super) attempt: u64,
    /// When it came to be.
    pub(super) since: Nanos,
    pub(super) outgoing: Outgoing,
    pub(super) serving: Serving,
    stream: Rc<dyn Stream>,
    /// The task's.
    waker: RefCell<Option<Waker>>,
    /// Why it is to end.
    ending: RefCell<Option<Ending>>,
    heard_at: Cell<Nanos>,
    sent_at: Cell<Nanos>,
    /// When the send under way began.
    sending_since: Cell<Option<Nanos>>,
    /// Since when nothing is received, for want of room.
    deaf_since: Cell<Option<Nanos>>,
}

impl Connection {
    /// A connection with a peer that has said `hello`.
    pub(super) fn new(
        shared: &Shared,
        stream: Rc<dyn Stream>,
        encoder: Encoder,
        hello: &Hello,
    ) -> Connection {
        let now = shared.reactor.now();
        Connection {
            number: shared.next_number(),
            incarnation: hello.identity.incarnation,
            attempt: hello.attempt,
            since: now,
            outgoing: Outgoing::new(encoder),
            serving: Serving::default(),
            stream,
            waker: RefCell::default(),
            ending: RefCell::default(),
            heard_at: Cell::new(now),
            sent_at: Cell::new(now),
            sending_since: Cell::new(None),
            deaf_since: Cell::new(None),
        }
    }

    /// Something has changed: the task looks again.
    pub(super) fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends it.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.borrow_mut().get_or_insert(ending);
        self.wake();
    }

    /// Sends a frame without payload.
    pub(super) fn say(&self, envelope: &Envelope, head: &[u8], charge: Charge) {
        self.outgoing.push(envelope, head, Vec::new(), charge);
        self.wake();
    }

    /// Nobody waits for the answer to this request any more.
    pub(super) fn cancel(&self, request: u64) {
        let envelope = Envelope { request, ..Envelope::bare(Kind::Cancel) };
        self.say(&envelope, &[], Charge::Request(HEADER_BYTES));
    }
}

/// What the parts of a connection's task share.
pub(super) struct Session {
    pub(super) shared: Rc<Shared>,
    pub(super) peer: Rc<Peer>,
    pub(super) connection: Rc<Connection>,
}

/// Serves a connection to its end.
pub(super) async fn run(session: Session, decoder: Decoder) {
    let Session { shared, peer, connection } = &session;
    let ending = {
        let mut read = pin!(read(&session, decoder));
        let mut write = pin!(write(&session));
        let mut watch = pin!(watch(&shared.reactor, connection));
        poll_fn(|context| {
            set_waker(connection, context);
            if let Some(ending) = connection.ending.take() {
                return Poll::Ready(ending);
            }
            let polled = read.as_mut().poll(context);
            let polled = if polled.is_pending() { watch.as_mut().poll(context) } else { polled };
            if polled.is_pending() { write.as_mut().poll(context) } else { polled }
        })
        .await
    };
    peer.disconnected(connection, &ending, shared.reactor.now());
    connection.serving.give_up();
    if let Some(notice) = ending.farewell() {
        let envelope = Envelope::bare(Kind::Close);
        connection.say(&envelope, &notice.encode(), Charge::Reply(0));
        shared.reactor.within(FAREWELL_TIMEOUT, flush(connection)).await;
    }
    connection.stream.shutdown();
}

fn set_waker(connection: &Connection, context: &Context<'_>) {
    let known = connection.waker.borrow().as_ref().is_some_and(|w| w.will_wake(context.waker()));
    if !known {
        let before = connection.waker.replace(Some(context.waker().clone()));
        drop(before); // Outside the borrow.
    }
}

/// Takes frames in until one may not be.
async fn read(session: &Session, mut decoder: Decoder) -> Ending {
    let Session { shared, connection, .. } = session;
    loop {
        match decoder.next_frame() {
            Err(error) => return Ending::Garbage(error),
            Ok(Some(frame)) => {
                if matches!(frame.envelope.kind, Kind::Request | Kind::OneWay) {
                    room(session).await;
                }
                if let Some(ending) = take(session, frame).await {
                    return ending;
                }
            }
            Ok(None) => {
                let (result, buffers) = connection.stream.receive(decoder.take_buffers()).await;
                match result {
                    Ok(0) => return Ending::Left,
                    Err(error) => return Ending::Broken(error.kind()),
                    Ok(count) => {
                        connection.heard_at.set(shared.reactor.now());
                        decoder.handle_received(buffers, count);
                    }
                }
            }
        }
    }
}

/// Waits until one more request of the peer may be taken in. Answers and cancellations that came
/// before it have been taken by then, so honest peers do not wait for each other.
async fn room(session: &Session) {
    if has_room(session) {
        return;
    }
    let Session { shared, connection, .. } = session;
    connection.deaf_since.set(Some(shared.reactor.now()));
    // The task is woken whenever something is released.
    poll_fn(|_| if has_room(session) { Poll::Ready(()) } else { Poll::Pending }).await;
    connection.deaf_since.set(None);
    connection.heard_at.set(shared.reactor.now());
}

fn has_room(session: &Session) -> bool {
    let Session { peer, connection, .. } = session;
    let (handlers, held_bytes) = connection.serving.load();
    handlers < peer.bounds.handlers_max
        && held_bytes + connection.outgoing.reply_bytes() < peer.bounds.held_max_bytes
}

/// Does what a frame wants. Never waits.
async fn take(session: &Session, frame: Frame) -> Option<Ending> {
    let Session { peer, connection, .. } = session;
    let Frame { envelope, head, payload } = frame;
    let answer = match envelope.kind {
        Kind::Request | Kind::OneWay => {
            return serve::start(session, envelope, head, payload).await;
        }
        Kind::Reply => Ok(Reply { head, payload }),
        Kind::Error => Err(Error::from_notice(Notice::decode(&head))),
        Kind::Cancel => {
            connection.serving.cancel(envelope.request);
            return None;
        }
        Kind::Close => {
            let Notice { code, text } = Notice::decode(&head);
            return Some(Ending::Told(Farewell::from_code(code), text));
        }
        Kind::Ping => return None,
        Kind::Hello => return Some(Ending::Misbehaved(Misdeed::Hello)),
    };
    match peer.answered(envelope.request, connection.number, answer) {
        Answered::TooLarge => Some(Ending::Misbehaved(Misdeed::ReplyTooLarge)),
        Answered::Call(_) | Answered::Nobody => None,
    }
}

/// Sends what is pushed.
async fn write(session: &Session) -> Ending {
    let Session { shared, peer, connection } = session;
    let mut spare = Message::default();
    loop {
        let mut batch = poll_fn(|_| match connection.outgoing.take(&mut spare) {
            Some(batch) => Poll::Ready(batch),
            None => Poll::Pending,
        })
        .await;
        connection.sending_since.set(Some(shared.reactor.now()));
        let message = std::mem::take(&mut batch.message);
        let (result, emptied) = connection.stream.send(message).await;
        connection.sending_since.set(None);
        connection.sent_at.set(shared.reactor.now());
        if emptied.head.capacity() <= SPARE_MAX_BYTES {
            spare = emptied;
        }
        if let Err(error) = result {
            return Ending::Broken(error.kind());
        }
        connection.outgoing.release(&batch);
        peer.pump();
        // The reader may have waited for what was released.
        connection.wake();
    }
}

/// Sends what is left, at the end.
async fn flush(connection: &Connection) {
    let mut spare = Message::default();
    while let Some(batch) = connection.outgoing.take(&mut spare) {
        let (result, emptied) = connection.stream.send(batch.message).await;
        spare = emptied;
        if result.is_err() {
            return;
        }
    }
}

/// Looks after a connection: speaks when there is silence, and ends it when there is no answer.
async fn watch(reactor: &Reactor, connection: &Connection) -> Ending {
    loop {
        reactor.sleep(WATCH_INTERVAL).await;
        let now = reactor.now();
        match connection.sending_since.get() {
            Some(since) if now.since(since) >= SEND_STALL_MAX => return Ending::Stalled,
            None if now.since(connection.sent_at.get()) >= PING_AFTER => {
                connection.sent_at.set(now);
                connection.say(&Envelope::bare(Kind::Ping), &[], Charge::Reply(0));
            }
            _ => {}
        }
        match connection.deaf_since.get() {
            Some(since) if now.since(since) >= DEAF_MAX => return Ending::Overloaded,
            None if now.since(connection.heard_at.get()) >= SILENCE_MAX => return Ending::Silent,
            _ => {}
        }
    }
}
