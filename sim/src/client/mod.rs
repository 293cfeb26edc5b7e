//! An NBD client of its own: protocol bytes over a stream, many requests at once, answers in any
//! order, and ways to leave that are not polite.
//!
//! Nothing but numbers is shared with the server, so that both cannot be wrong in the same way.
//! Must never know: what the bytes mean, how they are judged.

mod handshake;
mod replies;

use ashlar_engine::reactor::{Address, Message, Part, Reactor, ReceiveBuffers, Stream};
use ashlar_nbd_server::proto::wire::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, command_flag};
use replies::Incoming;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

pub use ashlar_nbd_server::proto::wire::command;

/// Bytes asked for in one receive.
const RECEIVE_BYTES: usize = 128 << 10;

/// How replies are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies.
    Extended,
}

/// A request, payload aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// One of [`command`].
    pub command: u16,
    /// Bits of `wire::command_flag`.
    pub flags: u16,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Success, nothing to tell.
    Done,
    /// The bytes of a read.
    Data(Vec<u8>),
    /// Extents of a block status: length and status bits.
    Extents(Vec<(u64, u32)>),
    /// This error value.
    Error(u32),
    /// The connection ended first.
    Gone,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    request: Request,
    data: Vec<u8>,
    covered: u64,
    extents: Vec<(u64, u32)>,
    error: u32,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// One connection. Dropping it does not end it: [`Client::cut`] does.
pub struct Client {
    stream: Rc<dyn Stream>,
    /// How replies are framed.
    pub style: Style,
    /// Size of the export.
    pub size_bytes: u64,
    next_cookie: Cell<u64>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    outgoing: RefCell<Vec<u8>>,
    sender: RefCell<Option<Waker>>,
    gone: Cell<bool>,
    /// A request was begun that will never be whole: nothing may be sent behind it.
    mute: Cell<bool>,
    garbage: RefCell<Option<String>>,
}

impl Client {
    /// Connects, haggles, and gets ready for requests. `None` if the server turned it away.
    ///
    /// # Errors
    /// If the connection breaks, or the server sends what no server may.
    pub async fn open(
        reactor: &Reactor,
        address: &Address,
        name: &str,
        style: Style,
    ) -> io::Result<Option<Rc<Client>>> {
        let stream = reactor.connect(address).await?;
        let mut incoming = Incoming::default();
        let greeting = handshake::haggle(reactor, &*stream, &mut incoming, name, style).await?;
        let Some(size_bytes) = greeting else {
            stream.shutdown();
            return Ok(None);
        };
        let client = Rc::new(Client {
            stream,
            style,
            size_bytes,
            next_cookie: Cell::new(1),
            pending: RefCell::default(),
            outgoing: RefCell::default(),
            sender: RefCell::default(),
            gone: Cell::new(false),
            mute: Cell::new(false),
            garbage: RefCell::default(),
        });
        reactor.spawn(send(Rc::clone(&client))).detach();
        reactor.spawn(receive(reactor.clone(), Rc::clone(&client), incoming)).detach();
        Ok(Some(client))
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, request: Request, payload: &[u8]) -> Answer {
        if self.gone.get() {
            return Answer::Gone;
        }
        let cookie = self.next_cookie.replace(self.next_cookie.get() + 1);
        let pending = Pending {
            request,
            data: Vec::new(),
            covered: 0,
            extents: Vec::new(),
            error: 0,
            answer: None,
            waker: None,
        };
        self.pending.borrow_mut().insert(cookie, pending);
        self.queue(&self.head(request, cookie));
        self.queue(payload);
        poll_fn(|context| {
            let mut all = self.pending.borrow_mut();
            let Some(pending) = all.get_mut(&cookie) else { return Poll::Ready(Answer::Gone) };
            if let Some(answer) = pending.answer.take() {
                all.remove(&cookie);
                return Poll::Ready(answer);
            }
            pending.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends the connection in the middle of whatever is under way.
    pub fn cut(&self) {
        self.stream.shutdown();
        self.end();
    }

    /// Queues the first `bytes` of a write and says no more: the rest never comes.
    pub fn begin_write(&self, request: Request, payload: &[u8], bytes: usize) {
        let mut all = self.head(request, u64::MAX);
        all.extend_from_slice(payload);
        all.truncate(bytes);
        self.queue(&all);
        self.mute.set(true);
    }

    /// Whether the connection has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// What the server sent that no server may send.
    pub fn garbage(&self) -> Option<String> {
        self.garbage.borrow().clone()
    }

    fn queue(&self, bytes: &[u8]) {
        if self.mute.get() {
            return;
        }
        self.outgoing.borrow_mut().extend_from_slice(bytes);
        if let Some(waker) = self.sender.borrow_mut().take() {
            waker.wake();
        }
    }

    fn head(&self, request: Request, cookie: u64) -> Vec<u8> {
        let Request { command, mut flags, offset, length } = request;
        let mut bytes = Vec::with_capacity(32);
        if self.style == Style::Extended {
            if command == command::WRITE {
                flags |= command_flag::PAYLOAD_LEN;
            }
            bytes.extend(EXTENDED_REQUEST_MAGIC.to_be_bytes());
        } else {
            bytes.extend(REQUEST_MAGIC.to_be_bytes());
        }
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        match self.style {
            Style::Extended => bytes.extend(length.to_be_bytes()),
            _ => bytes.extend((length as u32).to_be_bytes()),
        }
        bytes
    }

    /// Answers everybody who waits: nothing more will come.
    fn end(&self) {
        self.gone.set(true);
        for pending in self.pending.borrow_mut().values_mut() {
            pending.answer.get_or_insert(Answer::Gone);
            if let Some(waker) = pending.waker.take() {
                waker.wake();
            }
        }
        if let Some(waker) = self.sender.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Sends what is queued until the connection ends.
async fn send(client: Rc<Client>) {
    loop {
        let head = poll_fn(|context| {
            let head = std::mem::take(&mut *client.outgoing.borrow_mut());
            if !head.is_empty() || client.gone.get() {
                return Poll::Ready(head);
            }
            *client.sender.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        if client.gone.get() {
            return;
        }
        if send_all(&*client.stream, head).await.is_err() {
            return client.end();
        }
    }
}

async fn send_all(stream: &dyn Stream, head: Vec<u8>) -> io::Result<()> {
    let parts = vec![Part::Head(head.len())];
    stream.send(Message { head, parts }).await.0
}

/// Appends what arrives; 0 at the end of the stream.
async fn receive_some(
    reactor: &Reactor,
    stream: &dyn Stream,
    incoming: &mut Incoming,
) -> io::Result<usize> {
    let first = reactor.pool().allocate(RECEIVE_BYTES);
    let buffers = ReceiveBuffers { first, first_filled: 0, second: None };
    let (count, buffers) = stream.receive(buffers).await;
    let count = count?;
    incoming.push(&buffers.first[..count]);
    Ok(count)
}

/// Takes replies in until the connection ends.
async fn receive(reactor: Reactor, client: Rc<Client>, mut incoming: Incoming) {
    loop {
        if let Err(why) = replies::take(&client, &mut incoming) {
            *client.garbage.borrow_mut() = Some(why);
            break;
        }
        match receive_some(&reactor, &*client.stream, &mut incoming).await {
            Ok(count) if count > 0 => {}
            _ => break,
        }
    }
    client.stream.shutdown();
    client.end();
}
