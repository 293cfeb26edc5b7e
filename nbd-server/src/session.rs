//! One connection: handshake, then requests in and replies out until either side has enough.
//!
//! Two tasks serve a connection, the reader here and the writer; requests are carried out by
//! [`crate::serve`]. Nothing is received while too much is in flight.
//! Invariants: a request that was taken in is finished, whatever becomes of its client; the
//! connection is counted until its requests are finished or the drain time-out has passed.
//! Must never know: how exports work, other connections.

use crate::export::{Export, Exports};
use crate::flow::{Flow, LongRead};
use crate::limits::{OPTION_TIME, PARSE_BUFFER_MIN_BYTES};
use crate::outgoing::Outgoing;
use crate::proto::{Denial, Event, Garbage, Handshake, Intake, Negotiated, Parameters, Progress};
use crate::serve::{self, LongWrite, Pending};
use crate::server::Shared;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{Message, Part, Reactor, ReceiveBuffers, Stream};
use ashlar_engine::units::Nanos;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What the server holds of a connection: enough to end it.
pub(crate) struct Control {
    stream: Rc<dyn Stream>,
    stopped: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    /// When the send under way began.
    pub(crate) sending_since: Cell<Option<Nanos>>,
    /// Payload bytes in flight, as of the last send's begin.
    pub(crate) holding_bytes: Cell<usize>,
}

impl Control {
    pub(crate) fn new(stream: Rc<dyn Stream>) -> Control {
        Control {
            stream,
            stopped: Cell::new(false),
            reader: RefCell::new(None),
            sending_since: Cell::new(None),
            holding_bytes: Cell::new(0),
        }
    }

    /// Takes nothing more in; what is under way is finished.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Cuts the connection off.
    pub(crate) fn cut(&self) {
        self.stop();
        self.stream.shutdown();
    }

    /// Runs `future`, unless the connection is stopped first.
    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if self.stopped.get() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            let mut reader = self.reader.borrow_mut();
            if !reader.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *reader = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// What the tasks of one connection share.
pub(crate) struct Connection<E> {
    pub(crate) reactor: Reactor,
    pub(crate) export: Rc<E>,
    pub(crate) parameters: Parameters,
    pub(crate) flow: Flow,
    pub(crate) outgoing: Outgoing,
    pub(crate) shared: Rc<Shared>,
    /// Requests that the export answers without a task of their own.
    pub(crate) pending: RefCell<Slab<Pending>>,
    control: Rc<Control>,
}

/// Serves one connection to its end.
pub(crate) async fn run<X: Exports>(
    shared: Rc<Shared>,
    exports: Rc<X>,
    control: Rc<Control>,
    denial: Option<Denial>,
) {
    let reactor = shared.reactor.clone();
    let haggle = control.unless_stopped(handshake(&shared, &*exports, &control, denial));
    let Some(Ok(Some(opened))) = haggle.await else {
        return control.stream.shutdown();
    };
    let (negotiated, parse, start, end) = opened;
    let Negotiated { export, parameters } = negotiated;
    let connection = Rc::new(Connection {
        reactor: reactor.clone(),
        export,
        parameters,
        flow: Flow::new(Rc::clone(&shared.total)),
        outgoing: Outgoing::default(),
        shared,
        pending: RefCell::default(),
        control,
    });
    reactor.spawn(write(Rc::clone(&connection))).detach();
    let intake = Intake::new(parameters, reactor.pool().clone(), parse, start, end);
    if let Err(garbage) = read(&connection, intake).await {
        let peer = connection.control.stream.peer();
        tracing::debug!(peer, found = garbage.found, "not a request: connection closed");
    }
    // A client may close its sending side and still wait for replies.
    let idle = poll_fn(|context| connection.flow.poll_idle(context));
    reactor.within(connection.shared.options.drain_timeout, idle).await;
    connection.outgoing.close();
    connection.control.stream.shutdown();
}

type Opened<E> = (Negotiated<E>, Buffer, usize, usize);

/// `Ok(None)` if the connection, or the client's time, ends before an export is chosen.
async fn handshake<X: Exports>(
    shared: &Shared,
    exports: &X,
    control: &Control,
    denial: Option<Denial>,
) -> io::Result<Option<Opened<X::Export>>> {
    let (stream, reactor) = (&control.stream, &shared.reactor);
    let deadline = reactor.now() + shared.options.handshake_timeout;
    let mut machine = Handshake::new(shared.options.read_only, denial);
    let mut message = Message::default();
    let mut parse = reactor.pool().allocate(PARSE_BUFFER_MIN_BYTES);
    let mut end = 0;
    loop {
        let (start, progress) = machine.advance(&parse[..end], exports, &mut message.head);
        let left = (deadline + OPTION_TIME * machine.options()).since(reactor.now());
        if !message.head.is_empty() {
            message.parts.push(Part::Head(message.head.len()));
            let sent = reactor.within(left, stream.send(message)).await;
            let Some((result, emptied)) = sent else { return Ok(None) };
            message = emptied;
            result?;
        }
        match progress {
            Progress::Close => return Ok(None),
            Progress::Session(negotiated) => return Ok(Some((negotiated, parse, start, end))),
            Progress::Transmit | Progress::NeedBytes => {
                parse.copy_within(start..end, 0);
                end -= start;
            }
        }
        if matches!(progress, Progress::NeedBytes) {
            let buffers = ReceiveBuffers { first: parse, first_filled: end, second: None };
            let received = reactor.within(left, stream.receive(buffers)).await;
            let Some((received, buffers)) = received else { return Ok(None) };
            parse = buffers.first;
            let count = received?;
            if count == 0 {
                return Ok(None);
            }
            end += count;
        }
    }
}

/// Takes requests in until the client leaves, sends garbage, or is stopped.
async fn read<E: Export>(
    connection: &Rc<Connection<E>>,
    mut intake: Intake,
) -> Result<(), Garbage> {
    let control = &connection.control;
    let mut long_write = LongWrite::default();
    loop {
        if !connection.flow.has_room() && control.unless_stopped(connection.room()).await.is_none()
        {
            return Ok(());
        }
        match intake.next_event()? {
            Event::NeedBytes => {
                let receive = control.stream.receive(intake.take_buffers());
                match control.unless_stopped(receive).await {
                    Some((Ok(count), buffers)) if count > 0 => {
                        intake.handle_received(buffers, count);
                    }
                    _ => return Ok(()),
                }
            }
            Event::Request(request) => serve::start(connection, request),
            Event::Write(piece) => serve::start_write(connection, piece, &mut long_write),
            Event::Refuse(refusal) => {
                serve::refuse(connection, &refusal);
                if refusal.close {
                    return Ok(());
                }
            }
            Event::Disconnect => return Ok(()),
        }
    }
}

impl<E> Connection<E> {
    /// Waits until one more request may be taken in.
    async fn room(&self) {
        self.patiently(|context| self.flow.poll_room(context)).await;
    }

    /// Charges the next piece of a long read.
    pub(crate) async fn charge(&self, long: &mut LongRead<'_>, bytes: usize) {
        self.patiently(|context| long.poll_charge(context, bytes)).await;
    }

    /// Waits, and now and then looks whether a client that does not take its replies is to blame.
    async fn patiently(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>) {
        let interval = self.shared.options.send_stall_max / 4;
        while self.reactor.within(interval, poll_fn(&mut poll)).await.is_none() {
            self.shared.cut_stalled();
        }
    }
}

/// Sends replies until there are none left and none to come.
async fn write<E>(connection: Rc<Connection<E>>) {
    let Connection { outgoing, flow, control, reactor, .. } = &*connection;
    let mut spare = Message::default();
    while let Some(mut batch) =
        poll_fn(|context| outgoing.poll_batch(context, &mut spare, flow.is_idle())).await
    {
        if !outgoing.is_broken() {
            control.sending_since.set(Some(reactor.now()));
            control.holding_bytes.set(flow.bytes());
            let (result, emptied) = control.stream.send(batch.take_message()).await;
            control.sending_since.set(None);
            spare = emptied;
            if result.is_err() {
                outgoing.set_broken();
                control.stop();
            }
        }
        flow.release(batch.bytes);
        flow.end_requests(batch.requests);
    }
}
