//! The server: listens, accepts, counts, and ends what it began.
//!
//! Invariants: no client's doing ends an accept loop; a connection is in the table exactly while
//! it is served. Must never know: the protocol beyond how to turn a client away.

use crate::export::Exports;
use crate::flow::TotalFlow;
use crate::limits::{
    ACCEPT_RETRY, CONNECTIONS_MAX, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, IN_FLIGHT_GRANTED_BYTES,
    IN_FLIGHT_TOTAL_MAX_BYTES, REFUSALS_MAX, SEND_STALL_MAX,
};
use crate::proto::Denial;
use crate::session::{self, Control};
use ashlar_engine::reactor::{Address, Listener, Reactor, Stream, Task};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How a server serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Serve every export read-only.
    pub read_only: bool,
    /// Connections served at once, at most [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// Payload bytes in flight over all connections.
    pub in_flight_total_max_bytes: usize,
    /// Time from accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// How long a client may leave a reply when others wait for the memory it holds.
    pub send_stall_max: Duration,
    /// How long a closing connection may take to finish requests and send their replies.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            read_only: false,
            connections_max: CONNECTIONS_MAX,
            in_flight_total_max_bytes: IN_FLIGHT_TOTAL_MAX_BYTES,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            send_stall_max: SEND_STALL_MAX,
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}

/// What a server has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections served now.
    pub connections: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections turned away because there were too many.
    pub connections_refused: u64,
    /// Requests taken in.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes read for clients.
    pub bytes_read: u64,
    /// Bytes received from clients to be written.
    pub bytes_written: u64,
}

/// What connections share.
pub(crate) struct Shared {
    pub(crate) reactor: Reactor,
    pub(crate) options: ServerOptions,
    pub(crate) total: Rc<TotalFlow>,
    counters: Cell<Counters>,
    connections: RefCell<BTreeMap<u64, Rc<Control>>>,
    emptied: RefCell<Vec<Waker>>,
    stopping: Cell<bool>,
}

impl Shared {
    fn count(&self, add: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        add(&mut counters);
        self.counters.set(counters);
    }

    pub(crate) fn count_request(&self) {
        self.count(|counters| counters.requests += 1);
    }

    pub(crate) fn count_error(&self) {
        self.count(|counters| counters.errors += 1);
    }

    pub(crate) fn count_read(&self, bytes: u64) {
        self.count(|counters| counters.bytes_read += bytes);
    }

    pub(crate) fn count_write(&self, bytes: u64) {
        self.count(|counters| counters.bytes_written += bytes);
    }

    /// If memory is short, cuts connections off that hold more than is granted to everybody and
    /// have not taken their replies for long.
    pub(crate) fn cut_stalled(&self) {
        if !self.total.is_short() {
            return;
        }
        let now = self.reactor.now();
        for control in self.connections.borrow().values() {
            let stalled = |since| now.since(since) >= self.options.send_stall_max;
            if control.sending_since.get().is_some_and(stalled)
                && control.holding_bytes.get() > IN_FLIGHT_GRANTED_BYTES
            {
                tracing::warn!("client does not take its replies: connection cut");
                control.cut();
            }
        }
    }

    fn remove(&self, id: u64) {
        let mut connections = self.connections.borrow_mut();
        connections.remove(&id);
        if connections.is_empty() {
            self.emptied.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }

    /// Waits until no connection is left.
    async fn empty(&self) {
        poll_fn(|context| {
            if self.connections.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.emptied.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Takes a connection out of the table, also when its task is cancelled.
struct Entry {
    shared: Rc<Shared>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.remove(self.id);
    }
}

/// Serves exports over NBD until [`Server::shutdown`]. Cheap to clone; clones are the same server.
pub struct Server<X: Exports> {
    shared: Rc<Shared>,
    exports: Rc<X>,
    accepting: Rc<RefCell<Vec<Task<()>>>>,
}

impl<X: Exports> Clone for Server<X> {
    fn clone(&self) -> Server<X> {
        Server {
            shared: Rc::clone(&self.shared),
            exports: Rc::clone(&self.exports),
            accepting: Rc::clone(&self.accepting),
        }
    }
}

impl<X: Exports> fmt::Debug for Server<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({:?})", self.counters())
    }
}

impl<X: Exports> Server<X> {
    /// A server of `exports` that does not listen yet.
    #[must_use]
    pub fn new(reactor: Reactor, exports: Rc<X>, options: ServerOptions) -> Server<X> {
        let total = TotalFlow::new(options.in_flight_total_max_bytes);
        let shared = Shared {
            reactor,
            options,
            total: Rc::new(total),
            counters: Cell::default(),
            connections: RefCell::default(),
            emptied: RefCell::default(),
            stopping: Cell::new(false),
        };
        Server { shared: Rc::new(shared), exports, accepting: Rc::default() }
    }

    /// Serves clients at `address` from now on. Returns the address with the port in use.
    ///
    /// # Errors
    /// As the system says.
    pub fn listen(&self, address: &Address) -> io::Result<Address> {
        let listener = self.shared.reactor.listen(address)?;
        let bound = listener.address();
        let task = self.shared.reactor.spawn(accept(self.clone(), listener));
        self.accepting.borrow_mut().push(task);
        Ok(bound)
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let connections = self.shared.connections.borrow().len() as u64;
        Counters { connections, ..self.shared.counters.get() }
    }

    /// Accepts no more clients and no more requests, finishes those that were taken in, and closes
    /// every connection. Takes little longer than the drain time-out whatever clients do. Returns
    /// the number of connections that had to be cut.
    pub async fn shutdown(&self) -> usize {
        let shared = &self.shared;
        shared.stopping.set(true);
        let accepting = std::mem::take(&mut *self.accepting.borrow_mut());
        for task in accepting {
            task.cancel().await;
        }
        shared.connections.borrow().values().for_each(|control| control.stop());
        // Each connection bounds its own end; this bounds the sum.
        let limit = shared.options.drain_timeout + ACCEPT_RETRY;
        if shared.reactor.within(limit, shared.empty()).await.is_some() {
            return 0;
        }
        let left = shared.connections.borrow();
        left.values().for_each(|control| control.cut());
        left.len()
    }

    /// Serves a stream that came by other ways than a listener.
    pub fn serve(&self, stream: Rc<dyn Stream>) {
        let shared = &self.shared;
        let served = shared.connections.borrow().len();
        let connections_max = shared.options.connections_max.min(CONNECTIONS_MAX);
        let denial = if shared.stopping.get() {
            Some(Denial::Shutdown)
        } else {
            (served >= connections_max).then_some(Denial::TooManyConnections)
        };
        let mut id = 0;
        shared.count(|counters| {
            counters.connections_accepted += 1;
            counters.connections_refused += u64::from(denial.is_some());
            id = counters.connections_accepted;
        });
        if denial.is_some() && served >= connections_max + REFUSALS_MAX {
            return stream.shutdown();
        }
        let control = Rc::new(Control::new(stream));
        shared.connections.borrow_mut().insert(id, Rc::clone(&control));
        let entry = Entry { shared: Rc::clone(shared), id };
        let exports = Rc::clone(&self.exports);
        let session = session::run(Rc::clone(shared), exports, control, denial);
        let task = async move {
            let _entry = entry;
            session.await;
        };
        shared.reactor.spawn(task).detach();
    }
}

/// Accepts until the task is cancelled.
async fn accept<X: Exports>(server: Server<X>, listener: Rc<dyn Listener>) {
    loop {
        match listener.accept().await {
            Ok(stream) => server.serve(stream),
            // The client gave up before it was accepted: nothing is wrong here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of descriptors or memory: others will give some back.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                server.shared.reactor.sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
