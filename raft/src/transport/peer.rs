//! One peer: its address, its connection if there is one, and the calls to it.
//!
//! Invariants: at most one connection is used; calls are made on it in order; a call that finds no
//! connection and no attempt at one ends at once.
//! Must never know: how connections are made, what calls mean.

use super::calls::{Answered, Calls, Outbound};
use super::connection::Connection;
use super::ending::Ending;
use super::error::{Error, ErrorKind, Result};
use super::limits::{BACK_OFF_MAX, Bounds};
use super::outgoing::Charge;
use super::tie::{self, Standing};
use super::{PeerStatus, Reply};
use crate::frame::{Farewell, Hello, NodeId, Refusal};
use ashlar_engine::reactor::Address;
use ashlar_engine::units::Nanos;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Where it stands.
enum Link {
    /// No connection, and no attempt at one for a while. Why.
    Resting(Ending),
    /// An attempt is under way, or about to begin.
    Connecting,
    /// As above; this side has said hello.
    Greeting,
    /// There is a connection.
    Up(Rc<Connection>),
}

/// A peer.
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) bounds: Bounds,
    address: RefCell<Address>,
    link: RefCell<Link>,
    calls: RefCell<Calls>,
    /// Highest incarnation seen.
    newest: Cell<u64>,
    connections: Cell<u64>,
    last_ending: RefCell<Option<Ending>>,
    last_failure: RefCell<Option<Ending>>,
    /// How long the last connection lasted.
    lasted: Cell<Duration>,
    /// Waits for the link to change.
    keeper: RefCell<Option<Waker>>,
}

impl Peer {
    pub(super) fn new(node: NodeId, address: Address, bounds: Bounds) -> Peer {
        Peer {
            node,
            bounds,
            address: RefCell::new(address),
            link: RefCell::new(Link::Connecting),
            calls: RefCell::default(),
            newest: Cell::new(0),
            connections: Cell::new(0),
            last_ending: RefCell::default(),
            last_failure: RefCell::default(),
            lasted: Cell::new(Duration::ZERO),
            keeper: RefCell::default(),
        }
    }

    pub(super) fn address(&self) -> Address {
        self.address.borrow().clone()
    }

    pub(super) fn set_address(&self, address: Address) {
        self.address.replace(address);
    }

    pub(super) fn status(&self) -> PeerStatus {
        let calls = self.calls.borrow();
        let connection = self.connection();
        let (handlers, held_bytes) = connection.as_ref().map_or((0, 0), |c| c.serving.load());
        let outgoing = connection.as_ref().map(|connection| &connection.outgoing);
        PeerStatus {
            node: self.node,
            connected: connection.is_some(),
            connections: self.connections.get(),
            last_ending: self.last_ending.borrow().clone(),
            last_failure: self.last_failure.borrow().clone(),
            calls: calls.len(),
            calls_sent: calls.load().calls,
            calls_waiting: calls.waiting().0,
            in_flight_bytes: calls.load().request_bytes,
            queued_bytes: outgoing.map_or(0, |out| out.request_bytes() + out.reply_bytes()),
            handlers,
            held_bytes,
        }
    }

    fn connection(&self) -> Option<Rc<Connection>> {
        match &*self.link.borrow() {
            Link::Up(connection) => Some(Rc::clone(connection)),
            _ => None,
        }
    }

    /// Makes a call.
    pub(super) fn start(&self, outbound: Outbound) -> Result<()> {
        if let Link::Resting(why) = &*self.link.borrow() {
            return Err(self.unreachable(why));
        }
        self.calls.borrow_mut().add(outbound, &self.bounds)?;
        self.pump();
        Ok(())
    }

    fn unreachable(&self, why: &Ending) -> Error {
        let kind = if why.is_refusal() { ErrorKind::Refused } else { ErrorKind::Unreachable };
        Error::new(kind, format!("node {} cannot be reached: {why}", self.node))
    }

    /// Sends every call for which there is room.
    pub(super) fn pump(&self) {
        let Some(connection) = self.connection() else { return };
        loop {
            let queued = connection.outgoing.request_bytes();
            let next =
                self.calls.borrow_mut().next_to_send(&self.bounds, connection.number, queued);
            let Some((outbound, waker)) = next else { return };
            let Outbound { envelope, request, bytes } = outbound;
            let charge = Charge::Request(bytes);
            connection.outgoing.push(&envelope, &request.head, request.payload, charge);
            connection.wake();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// The result of a call, or `waker` is woken when it is there.
    pub(super) fn poll_call(&self, number: u64, waker: &Waker) -> Option<Result<Reply>> {
        self.calls.borrow_mut().poll(number, waker)
    }

    /// Nobody waits for a call any more.
    pub(super) fn give_up(&self, number: u64) {
        let sent_on = self.calls.borrow_mut().remove(number);
        if let Some(connection) = self.connection().filter(|c| Some(c.number) == sent_on) {
            connection.cancel(number);
        }
        self.pump();
    }

    /// An answer came.
    pub(super) fn answered(&self, number: u64, connection: u64, result: Result<Reply>) -> Answered {
        let answered = self.calls.borrow_mut().answer(number, connection, result);
        let Answered::Call(waker) = answered else { return answered };
        waker.into_iter().for_each(Waker::wake);
        self.pump();
        Answered::Call(None)
    }

    /// Whether a connection on which the peer has said `hello` is to be taken.
    pub(super) fn judge(&self, own: NodeId, hello: &Hello) -> std::result::Result<(), Refusal> {
        let standing = match &*self.link.borrow() {
            Link::Resting(_) | Link::Connecting => Standing::Apart,
            Link::Greeting => Standing::Greeting,
            Link::Up(connection) => Standing::Connected {
                incarnation: connection.incarnation,
                attempt: connection.attempt,
            },
        };
        tie::judge(own, standing, self.newest.get(), hello)
    }

    /// Whether the answer to this side's hello comes from a life that still counts.
    pub(super) fn check_life(&self, hello: &Hello) -> std::result::Result<(), Refusal> {
        tie::judge(self.node, Standing::Apart, self.newest.get(), hello)
    }

    /// There is a connection. It replaces any other.
    pub(super) fn connected(&self, connection: &Rc<Connection>) {
        self.newest.set(self.newest.get().max(connection.incarnation));
        self.connections.set(self.connections.get() + 1);
        let before = self.link.replace(Link::Up(Rc::clone(connection)));
        if let Link::Up(old) = before {
            old.end(Ending::Superseded);
            self.fail_sent(&old, &Ending::Superseded);
        }
        self.wake_keeper();
        self.pump();
    }

    /// A connection has ended.
    pub(super) fn disconnected(&self, connection: &Connection, ending: &Ending, now: Nanos) {
        self.last_ending.replace(Some(ending.clone()));
        self.fail_sent(connection, ending);
        if self.connection().is_none_or(|current| current.number != connection.number) {
            return;
        }
        self.lasted.set(now.since(connection.since));
        if self.lasted.get() >= BACK_OFF_MAX && !ending.is_refusal() {
            self.link.replace(Link::Connecting);
        } else {
            self.rest(ending.clone());
        }
        self.wake_keeper();
    }

    fn fail_sent(&self, connection: &Connection, ending: &Ending) {
        let text = format!("the connection with node {} ended: {ending}", self.node);
        let error = Error::new(ErrorKind::Closed, text);
        let woken = self.calls.borrow_mut().fail_sent(connection.number, &error);
        woken.into_iter().for_each(Waker::wake);
    }

    /// There will be no connection for a while.
    fn rest(&self, why: Ending) {
        let error = self.unreachable(&why);
        self.link.replace(Link::Resting(why));
        let woken = self.calls.borrow_mut().fail_waiting(&error);
        woken.into_iter().for_each(Waker::wake);
    }

    /// An attempt failed.
    pub(super) fn failed(&self, why: Ending) {
        self.last_failure.replace(Some(why.clone()));
        // The peer's own attempt is about to give a connection.
        if !matches!(why, Ending::Told(Farewell::Duplicate, _)) {
            self.rest(why);
        }
    }

    /// An attempt begins.
    pub(super) fn set_connecting(&self) {
        self.set_attempt(Link::Connecting);
    }

    /// This side says hello.
    pub(super) fn set_greeting(&self) {
        self.set_attempt(Link::Greeting);
    }

    fn set_attempt(&self, attempt: Link) {
        let before = self.link.replace(attempt);
        assert!(!matches!(before, Link::Up(_)), "a connection is there already");
    }

    /// Ends everything: the peer is none any more, or this side shuts down.
    pub(super) fn close(&self, ending: &Ending) {
        let before = self.link.replace(Link::Resting(ending.clone()));
        if let Link::Up(connection) = before {
            connection.end(ending.clone());
            self.fail_sent(&connection, ending);
        }
        let error = Error::new(ErrorKind::Closed, format!("node {}: {ending}", self.node));
        let woken = self.calls.borrow_mut().fail_waiting(&error);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Waits until there is no connection. Returns how long the last one lasted.
    pub(super) async fn down(&self) -> Duration {
        poll_fn(|context| {
            self.set_keeper(context);
            if self.connection().is_some() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        self.lasted.take()
    }

    /// Runs `future`, unless a connection comes to be by other ways.
    pub(super) async fn unless_up<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if self.connection().is_some() {
                return Poll::Ready(None);
            }
            self.set_keeper(context);
            future.as_mut().poll(context).map(Some)
        })
        .await
    }

    fn set_keeper(&self, context: &Context<'_>) {
        let before = self.keeper.replace(Some(context.waker().clone()));
        drop(before); // Outside the borrow.
    }

    fn wake_keeper(&self) {
        let keeper = self.keeper.take();
        keeper.into_iter().for_each(Waker::wake);
    }
}
