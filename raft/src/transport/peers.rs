//! All peers of a node: calling them, being called, and the end.
//!
//! Must never know: what requests mean, how bytes go over a stream.

use super::calls::Outbound;
use super::dial;
use super::ending::Ending;
use super::error::{Error, ErrorKind, Result};
use super::handshake;
use super::limits::{
    ACCEPT_RETRY, Bounds, CALL_TIMEOUT_MAX, FAREWELL_TIMEOUT, HANDSHAKES_MAX, PEERS_MAX,
};
use super::peer::Peer;
use super::{Handler, PeerStatus, Reply, Request, TurnedAway};
use crate::frame::{Hello, Identity, Kind, NodeId, Oversize, check_size};
use ashlar_engine::buffer::BufferPool;
use ashlar_engine::reactor::{Address, Listener, Reactor, Sleep, Stream, Task};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A peer, and the task that keeps a connection with it.
struct Kept {
    peer: Rc<Peer>,
    _keeper: Task<()>,
}

/// What everything of a node's transport shares.
pub(super) struct Shared {
    pub(super) reactor: Reactor,
    pub(super) identity: Identity,
    pub(super) handler: Rc<dyn Handler>,
    bounds: Bounds,
    peers: RefCell<BTreeMap<NodeId, Kept>>,
    accepting: RefCell<Vec<Task<()>>>,
    /// Streams of which it is not known whose they are.
    welcoming: RefCell<BTreeMap<u64, Task<()>>>,
    turned_away: RefCell<Option<TurnedAway>>,
    turned_away_count: Cell<u64>,
    connections: Cell<usize>,
    emptied: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    /// Requests, connections, hellos: every use takes the next number.
    numbers: Cell<u64>,
}

/// Counts a connection until it is dropped.
pub(super) struct Counted(Rc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        let waker = self.0.emptied.take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Shared {
    /// A number that grows.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<Rc<Peer>> {
        self.peers.borrow().get(&node).map(|kept| Rc::clone(&kept.peer))
    }

    /// What this side says first.
    pub(super) fn hello(&self, wanted: Option<NodeId>) -> Hello {
        Hello { identity: self.identity, wanted, attempt: self.next_number() }
    }

    pub(super) fn count_connection(self: &Rc<Shared>) -> Counted {
        self.connections.set(self.connections.get() + 1);
        Counted(Rc::clone(self))
    }

    /// Takes note of who was not let in.
    pub(super) fn turn_away(&self, from: String, why: &Ending) {
        self.turned_away_count.set(self.turned_away_count.get() + 1);
        let count = self.turned_away_count.get();
        self.turned_away.replace(Some(TurnedAway { from, why: why.clone(), count }));
    }

    /// Starts the handshake of a stream that came in.
    fn take(self: &Rc<Shared>, stream: Rc<dyn Stream>) {
        if self.closed.get() || self.welcoming.borrow().len() >= HANDSHAKES_MAX {
            return stream.shutdown();
        }
        let (own, number) = (Rc::clone(self), self.next_number());
        let task = self.reactor.spawn(async move {
            handshake::welcome(&own, stream).await;
            let task = own.welcoming.borrow_mut().remove(&number);
            task.into_iter().for_each(Task::detach);
        });
        self.welcoming.borrow_mut().insert(number, task);
    }
}

/// Connections with the other nodes of a cluster. Cheap to clone; clones are the same.
///
/// Ends with [`Peers::shutdown`], or with the reactor.
#[derive(Clone)]
pub struct Peers {
    shared: Rc<Shared>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.status()).finish()
    }
}

impl Peers {
    /// The peers of the node that is `identity`; none yet. What they want goes to `handler`.
    #[must_use]
    pub fn new(
        reactor: Reactor,
        identity: Identity,
        bounds: Bounds,
        handler: Rc<dyn Handler>,
    ) -> Peers {
        assert!(identity.node != NodeId(0), "node 0 is nobody");
        let shared = Shared {
            reactor,
            identity,
            handler,
            bounds,
            peers: RefCell::default(),
            accepting: RefCell::default(),
            welcoming: RefCell::default(),
            turned_away: RefCell::default(),
            turned_away_count: Cell::new(0),
            connections: Cell::new(0),
            emptied: RefCell::default(),
            closed: Cell::new(false),
            numbers: Cell::new(0),
        };
        Peers { shared: Rc::new(shared) }
    }

    /// Lets peers in at `address` from now on. Returns the address with the port in use.
    ///
    /// # Errors
    /// As the system says.
    pub fn listen(&self, address: &Address) -> io::Result<Address> {
        let listener = self.shared.reactor.listen(address)?;
        let bound = listener.address();
        let task = self.shared.reactor.spawn(accept(Rc::clone(&self.shared), listener));
        self.shared.accepting.borrow_mut().push(task);
        Ok(bound)
    }

    /// Makes `node` a peer, reached at `address`, and keeps a connection with it from now on. If it
    /// is one already, this is where it is called next time.
    ///
    /// # Errors
    /// `Refused` if it is this node, or nobody; `Busy` if there are too many; `Closed` after
    /// [`Peers::shutdown`].
    pub fn set_peer(&self, node: NodeId, address: Address) -> Result<()> {
        let shared = &self.shared;
        if shared.closed.get() {
            return Err(Error::new(ErrorKind::Closed, "the node shuts down"));
        }
        if node == shared.identity.node || node == NodeId(0) {
            return Err(Error::new(ErrorKind::Refused, format!("node {node} is no peer")));
        }
        if let Some(peer) = shared.peer(node) {
            peer.set_address(address);
            return Ok(());
        }
        if shared.peers.borrow().len() >= PEERS_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("there are {PEERS_MAX} peers already"),
            ));
        }
        let peer = Rc::new(Peer::new(node, address, shared.bounds));
        let keeper = shared.reactor.spawn(dial::keep(Rc::clone(shared), Rc::clone(&peer)));
        shared.peers.borrow_mut().insert(node, Kept { peer, _keeper: keeper });
        Ok(())
    }

    /// Makes `node` a stranger. Calls to it end with `Closed`.
    pub fn remove_peer(&self, node: NodeId) {
        let kept = self.shared.peers.borrow_mut().remove(&node);
        if let Some(Kept { peer, .. }) = kept {
            peer.close(&Ending::Removed);
        }
    }

    /// Asks `node` and waits for its answer, at most for `timeout`.
    ///
    /// The request is made when this returns: those of one group and lane reach the handler in the
    /// order of these calls. A call that is dropped is given up.
    pub fn call(&self, node: NodeId, request: Request, timeout: Duration) -> Call {
        self.start(Kind::Request, node, request, timeout)
    }

    /// Tells `node` something. Ends well when that is handed to a connection, which is no promise
    /// that it arrives; waits for room until then, at most for `timeout`.
    pub fn post(
        &self,
        node: NodeId,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<()>> + use<> {
        let call = self.start(Kind::OneWay, node, request, timeout);
        async move { call.await.map(|_| ()) }
    }

    fn start(&self, kind: Kind, node: NodeId, request: Request, timeout: Duration) -> Call {
        let shared = &self.shared;
        let started = self.find(kind, node, &request).and_then(|peer| {
            let number = shared.next_number();
            peer.start(Outbound::new(kind, number, request))?;
            let timeout = shared.reactor.sleep(timeout.min(CALL_TIMEOUT_MAX));
            Ok(Started { peer, number, timeout })
        });
        Call { state: Some(started) }
    }

    /// The peer to send a request to, if it can be sent at all.
    fn find(&self, kind: Kind, node: NodeId, request: &Request) -> Result<Rc<Peer>> {
        if self.shared.closed.get() {
            return Err(Error::new(ErrorKind::Closed, "the node shuts down"));
        }
        check_size(kind, &request.head, &request.payload).map_err(too_large)?;
        let unknown = || Error::new(ErrorKind::Unreachable, format!("node {node} is not known"));
        self.shared.peer(node).ok_or_else(unknown)
    }

    /// The memory for payloads.
    pub(crate) fn pool(&self) -> &BufferPool {
        self.shared.reactor.pool()
    }

    /// The reactor of its connections.
    pub(crate) fn reactor(&self) -> &Reactor {
        &self.shared.reactor
    }

    /// Where every peer stands.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.peers.borrow().values().map(|kept| kept.peer.status()).collect()
    }

    /// The last one who called and was not let in.
    #[must_use]
    pub fn turned_away(&self) -> Option<TurnedAway> {
        self.shared.turned_away.borrow().clone()
    }

    /// Lets nobody in any more, ends every call with `Closed` and every connection with a word.
    /// Takes little longer than [`FAREWELL_TIMEOUT`], whatever the peers do.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        shared.closed.set(true);
        let accepting = shared.accepting.take();
        for task in accepting {
            task.cancel().await;
        }
        let welcoming = shared.welcoming.take();
        for task in welcoming.into_values() {
            task.cancel().await;
        }
        let peers = shared.peers.take();
        for Kept { peer, _keeper: keeper } in peers.into_values() {
            keeper.cancel().await;
            peer.close(&Ending::ShuttingDown);
        }
        let empty = poll_fn(|context| {
            if shared.connections.get() == 0 {
                return Poll::Ready(());
            }
            shared.emptied.replace(Some(context.waker().clone()));
            Poll::Pending
        });
        // Each connection bounds its own end; this bounds the sum.
        shared.reactor.within(2 * FAREWELL_TIMEOUT, empty).await;
    }
}

fn too_large(oversize: Oversize) -> Error {
    let (what, max, found) = match oversize {
        Oversize::Head { max, found } => ("a head", max, found),
        Oversize::Part { max, found } => ("a part", max, found),
        Oversize::Payload { max, found } => ("a payload", max, found),
    };
    Error::new(ErrorKind::TooLarge, format!("{what} of {found} bytes, at most {max}"))
}

/// Accepts until the task is cancelled.
async fn accept(shared: Rc<Shared>, listener: Rc<dyn Listener>) {
    loop {
        match listener.accept().await {
            Ok(stream) => shared.take(stream),
            // Who called gave up before: nothing is wrong here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of descriptors or memory: others will give some back.
            Err(_) => shared.reactor.sleep(ACCEPT_RETRY).await,
        }
    }
}

/// A call that was made.
struct Started {
    peer: Rc<Peer>,
    number: u64,
    timeout: Sleep,
}

/// Waits for an answer. Dropping it gives the call up.
#[must_use = "a call that is dropped is given up"]
pub struct Call {
    /// Until the result was given out.
    state: Option<Result<Started>>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            None => f.write_str("Call(ended)"),
            Some(Err(error)) => write!(f, "Call({error})"),
            Some(Ok(started)) => write!(f, "Call({})", started.number),
        }
    }
}

impl Future for Call {
    type Output = Result<Reply>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let state = self.state.take().expect("invariant: polled after its end");
        let mut started = match state {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(started) => started,
        };
        if let Some(result) = started.peer.poll_call(started.number, context.waker()) {
            return Poll::Ready(result);
        }
        if Pin::new(&mut started.timeout).poll(context).is_pending() {
            self.state = Some(Ok(started));
            return Poll::Pending;
        }
        let Started { peer, number, .. } = started;
        peer.give_up(number);
        let text = format!("node {} has not answered in time", peer.node);
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, text)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(Ok(Started { peer, number, .. })) = self.state.take() {
            peer.give_up(number);
        }
    }
}
