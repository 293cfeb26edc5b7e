//! A small NBD client on the reactor: one connection, many requests in flight, simple replies.
//!
//! Invariants: a request's slot is free again only when its reply is in; after the connection has
//! failed every request fails.
//! Must never know: loads.

use super::load::Disk;
use crate::program::address::{Target, uri};
use crate::program::failure::{Failure, Result};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{Message, Part, Reactor, ReceiveBuffers, Stream, Task};
use ashlar_nbd_server::proto::wire::{
    GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, command,
    export_flag, info, option, option_reply,
};
use slab::Slab;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Bytes of one receive.
const RECEIVE_BYTES: usize = 1 << 20;
/// Fixed newstyle, no padding.
const CLIENT_FLAGS: u32 = 3;
/// Data of an option reply that is read; honest ones are far shorter.
const OPTION_REPLY_MAX_BYTES: u32 = 64 << 10;
/// Bytes of a simple reply without its data.
const REPLY_BYTES: usize = 16;

enum Slot {
    Waiting { data_bytes: u32, waker: Option<Waker> },
    Answered(u32),
}

#[derive(Default)]
struct State {
    slots: Slab<Slot>,
    outgoing: Message,
    sender: Option<Waker>,
    /// Why nothing works any more.
    broken: Option<String>,
}

impl State {
    fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
        for (_, slot) in &mut self.slots {
            if let Slot::Waiting { waker: Some(waker), .. } = slot {
                waker.wake_by_ref();
            }
        }
    }
}

/// An export of a server. Clones share the connection.
#[derive(Clone)]
pub(super) struct NbdDisk {
    reactor: Reactor,
    stream: Rc<dyn Stream>,
    state: Rc<RefCell<State>>,
    size_bytes: u64,
    flags: u16,
    /// End with the last clone.
    _tasks: Rc<[Task<()>; 2]>,
}

impl fmt::Debug for NbdDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdDisk({} bytes)", self.size_bytes)
    }
}

impl NbdDisk {
    /// Connects and haggles.
    pub(super) async fn connect(reactor: &Reactor, target: &Target) -> Result<NbdDisk> {
        let at = uri(&target.server);
        let stream = reactor.connect(&target.server).await.map_err(|error| {
            Failure::new(format!("cannot connect to {at}: {error}"))
                .hint("start a server there, or name another with --target")
        })?;
        let mut haggle = Haggle { stream: &*stream, reactor, unread: Vec::new() };
        let (size_bytes, flags) =
            haggle.run(&target.export).await.map_err(|why| Failure::new(format!("{at}: {why}")))?;
        let state = Rc::new(RefCell::new(State::default()));
        let sender = reactor.spawn(send_all(Rc::clone(&stream), Rc::clone(&state)));
        let receiver =
            reactor.spawn(receive_all(reactor.clone(), Rc::clone(&stream), Rc::clone(&state)));
        let tasks = Rc::new([sender, receiver]);
        let reactor = reactor.clone();
        Ok(NbdDisk { reactor, stream, state, size_bytes, flags, _tasks: tasks })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.flags & export_flag::READ_ONLY != 0
    }

    /// The server's process, if it is one of this machine behind a Unix socket.
    pub(super) fn server_pid(&self) -> Option<u32> {
        self.stream.peer().strip_prefix("unix, process ")?.parse().ok()
    }

    async fn request(
        &self,
        command: u16,
        offset: u64,
        length: u32,
        payload: Option<Buffer>,
    ) -> Result<()> {
        let data_bytes = if command == command::READ { length } else { 0 };
        let slot = {
            let mut state = self.state.borrow_mut();
            let slot = state.slots.insert(Slot::Waiting { data_bytes, waker: None });
            let head = &mut state.outgoing.head;
            let before = head.len();
            head.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
            head.extend_from_slice(&0u16.to_be_bytes());
            head.extend_from_slice(&command.to_be_bytes());
            head.extend_from_slice(&(slot as u64).to_be_bytes());
            head.extend_from_slice(&offset.to_be_bytes());
            head.extend_from_slice(&length.to_be_bytes());
            let bytes = head.len() - before;
            state.outgoing.parts.push(Part::Head(bytes));
            state.outgoing.parts.extend(payload.map(Part::Payload));
            if let Some(sender) = state.sender.take() {
                sender.wake();
            }
            slot
        };
        poll_fn(|context| {
            let state = &mut *self.state.borrow_mut();
            match &mut state.slots[slot] {
                Slot::Answered(error) => {
                    let error = *error;
                    state.slots.remove(slot);
                    let refused = || format!("the server answered with NBD error {error}");
                    Poll::Ready(if error == 0 { Ok(()) } else { Err(Failure::new(refused())) })
                }
                Slot::Waiting { waker, .. } => match &state.broken {
                    Some(why) => Poll::Ready(Err(Failure::new(why.clone()))),
                    None => {
                        *waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                },
            }
        })
        .await
    }
}

impl Disk for NbdDisk {
    async fn read(&self, offset: u64, length: u32) -> Result<()> {
        self.request(command::READ, offset, length, None).await
    }

    async fn write(&self, offset: u64, length: u32) -> Result<()> {
        // What a buffer holds is whatever it held before: nothing here looks at the bytes.
        let payload = self.reactor.pool().allocate(length as usize);
        self.request(command::WRITE, offset, length, Some(payload)).await
    }
}

/// Sends what has gathered, again and again.
async fn send_all(stream: Rc<dyn Stream>, state: Rc<RefCell<State>>) {
    let mut spare = Message::default();
    loop {
        let message = poll_fn(|context| {
            let mut state = state.borrow_mut();
            if state.outgoing.parts.is_empty() {
                state.sender = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::replace(&mut state.outgoing, std::mem::take(&mut spare)))
        })
        .await;
        let (sent, message) = stream.send(message).await;
        if let Err(error) = sent {
            return state.borrow_mut().fail(format!("the connection broke: {error}"));
        }
        spare = message;
    }
}

/// Takes replies in, and throws their data away.
async fn receive_all(reactor: Reactor, stream: Rc<dyn Stream>, state: Rc<RefCell<State>>) {
    let mut buffer = reactor.pool().allocate(RECEIVE_BYTES);
    let (mut header, mut skip) = (Vec::with_capacity(REPLY_BYTES), 0usize);
    loop {
        let buffers = ReceiveBuffers { first: buffer, first_filled: 0, second: None };
        let (received, buffers) = stream.receive(buffers).await;
        let count = match received {
            Ok(0) => return state.borrow_mut().fail("the server closed the connection".into()),
            Err(error) => {
                return state.borrow_mut().fail(format!("the connection broke: {error}"));
            }
            Ok(count) => count,
        };
        let mut bytes = &buffers.first[..count];
        while !bytes.is_empty() {
            let skipped = skip.min(bytes.len());
            (skip, bytes) = (skip - skipped, &bytes[skipped..]);
            let taken = (REPLY_BYTES - header.len()).min(bytes.len());
            header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if header.len() == REPLY_BYTES {
                match handle_reply(&mut state.borrow_mut(), &header) {
                    Some(data_bytes) => skip = data_bytes as usize,
                    None => return state.borrow_mut().fail("the server sent rubbish".into()),
                }
                header.clear();
            }
        }
        buffer = buffers.first;
    }
}

/// Answers a request; the bytes of data that follow, or nothing if the reply makes no sense.
fn handle_reply(state: &mut State, header: &[u8]) -> Option<u32> {
    let (magic, error) = (u32_at(header, 0)?, u32_at(header, 4)?);
    let slot = usize::try_from(u64_at(header, 8)?).ok()?;
    if magic != SIMPLE_REPLY_MAGIC {
        return None;
    }
    let slot = state.slots.get_mut(slot)?;
    let Slot::Waiting { data_bytes, waker } = slot else { return None };
    let (data_bytes, waker) = (*data_bytes, waker.take());
    *slot = Slot::Answered(error);
    if let Some(waker) = waker {
        waker.wake();
    }
    Some(if error == 0 { data_bytes } else { 0 })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// The handshake.
struct Haggle<'a> {
    stream: &'a dyn Stream,
    reactor: &'a Reactor,
    unread: Vec<u8>,
}

impl Haggle<'_> {
    /// Size and transmission flags of the export.
    async fn run(&mut self, export: &str) -> std::result::Result<(u64, u16), String> {
        let greeting = self.bytes(18).await?;
        if u64_at(&greeting, 0) != Some(GREETING_MAGIC)
            || u64_at(&greeting, 8) != Some(OPTION_MAGIC)
        {
            return Err("that is no NBD server of today".into());
        }
        self.send(go(export)).await?;
        let mut found = None;
        loop {
            let reply = self.bytes(20).await?;
            let (kind, length) = (u32_at(&reply, 12), u32_at(&reply, 16).unwrap_or(u32::MAX));
            if u64_at(&reply, 0) != Some(OPTION_REPLY_MAGIC) || length > OPTION_REPLY_MAX_BYTES {
                return Err("the server haggles in a way that makes no sense".into());
            }
            let data = self.bytes(length as usize).await?;
            match kind {
                Some(option_reply::INFO) => found = export_info(&data).or(found),
                Some(option_reply::ACK) => {
                    return found.ok_or_else(|| "the server did not tell the size".into());
                }
                _ => {
                    let said = String::from_utf8_lossy(&data);
                    return Err(format!("export {export:?} is refused: {said:?}"));
                }
            }
        }
    }

    async fn send(&self, head: Vec<u8>) -> std::result::Result<(), String> {
        let parts = vec![Part::Head(head.len())];
        let (sent, _) = self.stream.send(Message { head, parts }).await;
        sent.map_err(|error| format!("the connection broke: {error}"))
    }

    async fn bytes(&mut self, count: usize) -> std::result::Result<Vec<u8>, String> {
        while self.unread.len() < count {
            let first = self.reactor.pool().allocate(count - self.unread.len());
            let buffers = ReceiveBuffers { first, first_filled: 0, second: None };
            let (received, buffers) = self.stream.receive(buffers).await;
            match received {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(received) => self.unread.extend_from_slice(&buffers.first[..received]),
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
        let rest = self.unread.split_off(count);
        Ok(std::mem::replace(&mut self.unread, rest))
    }
}

/// Client flags and GO.
fn go(export: &str) -> Vec<u8> {
    let length = export.len() as u32;
    let mut bytes = CLIENT_FLAGS.to_be_bytes().to_vec();
    bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option::GO.to_be_bytes());
    bytes.extend_from_slice(&(length + 6).to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(export.as_bytes());
    bytes.extend_from_slice(&0u16.to_be_bytes());
    bytes
}

fn export_info(data: &[u8]) -> Option<(u64, u16)> {
    let kind = u16::from_be_bytes(data.get(..2)?.try_into().ok()?);
    let flags = u16::from_be_bytes(data.get(10..12)?.try_into().ok()?);
    (kind == info::EXPORT).then_some((u64_at(data, 2)?, flags))
}
