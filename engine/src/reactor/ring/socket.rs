//! A connected socket on the ring: one receive and one send at a time.
//!
//! Invariants: memory handed to the kernel stays in the socket until the completion, whether or
//! not anybody still waits; bytes received for a future that was dropped go to the next one; a
//! message is sent whole even if its future is dropped, unless the stream itself goes.
//! Must never know: the protocol.

use super::{Op, Ring};
use crate::reactor::transfer::{Gather, retriable};
use crate::reactor::{LocalBox, Message, Part, ReceiveBuffers, Stream};
use io_uring::{opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A short send is continued by the kernel; a vanished peer is an error, not a signal.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Where one direction of a socket stands.
enum Stage<T, R> {
    Idle,
    /// In the kernel, under this key.
    Flying(T, u64),
    /// Finished, and not yet picked up.
    Landed(T, R),
}

/// One direction: its operation, the memory it uses, and who waits.
struct Direction<T, R> {
    stage: Stage<T, R>,
    /// The future that started it is gone.
    orphaned: bool,
    waker: Option<Waker>,
    gather: Gather,
    /// Read and written by the kernel while flying: in a box, so that it stays in place.
    header: Box<libc::msghdr>,
    retries: u32,
}

impl<T, R> Direction<T, R> {
    fn new() -> Direction<T, R> {
        // SAFETY: a message header of zeros is valid: nothing to name, nothing to gather.
        let header = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Direction {
            stage: Stage::Idle,
            orphaned: false,
            waker: None,
            gather: Gather::default(),
            header,
            retries: 0,
        }
    }

    fn set_header(&mut self) -> *mut libc::msghdr {
        let pieces = self.gather.rest();
        self.header.msg_iov = pieces.as_ptr().cast_mut();
        self.header.msg_iovlen = pieces.len();
        &raw mut *self.header
    }
}

/// A socket and what is in flight on it.
pub(super) struct Socket {
    ring: Rc<Ring>,
    file: OwnedFd,
    receive: RefCell<Direction<ReceiveBuffers, io::Result<usize>>>,
    send: RefCell<Direction<Message, io::Result<()>>>,
    /// Bytes that arrived after their future was dropped.
    leftover: RefCell<Vec<u8>>,
    /// A send failed half-way: nothing sensible can follow.
    broken: Cell<bool>,
}

impl Socket {
    fn shutdown(&self) {
        // Already disconnected is fine.
        let _ = rustix::net::shutdown(&self.file, rustix::net::Shutdown::Both);
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.file.as_raw_fd())
    }

    fn check_open(&self) -> io::Result<()> {
        if self.ring.closed.get() {
            return Err(io::Error::other("the reactor is shut down"));
        }
        if self.broken.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// The handle. Dropping it ends what is in flight.
pub(super) struct SocketStream {
    socket: Rc<Socket>,
    peer: String,
}

impl SocketStream {
    pub(super) fn new(ring: &Rc<Ring>, file: OwnedFd, peer: String) -> SocketStream {
        let socket = Socket {
            ring: Rc::clone(ring),
            file,
            receive: RefCell::new(Direction::new()),
            send: RefCell::new(Direction::new()),
            leftover: RefCell::default(),
            broken: Cell::new(false),
        };
        SocketStream { socket: Rc::new(socket), peer }
    }
}

impl Drop for SocketStream {
    fn drop(&mut self) {
        let socket = &self.socket;
        let receive = match socket.receive.borrow().stage {
            Stage::Flying(_, key) => Some(key),
            _ => None,
        };
        let send = match socket.send.borrow().stage {
            Stage::Flying(_, key) => Some(key),
            _ => None,
        };
        if receive.is_some() || send.is_some() {
            socket.broken.set(true);
            socket.shutdown();
            receive.into_iter().chain(send).for_each(|key| socket.ring.cancel(key));
        }
    }
}

impl Stream for SocketStream {
    fn receive(&self, buffers: ReceiveBuffers) -> LocalBox<(io::Result<usize>, ReceiveBuffers)> {
        let socket = Rc::clone(&self.socket);
        Box::pin(Receive { socket, buffers: Some(buffers), started: false })
    }

    fn send(&self, message: Message) -> LocalBox<(io::Result<()>, Message)> {
        let socket = Rc::clone(&self.socket);
        Box::pin(Send { socket, message: Some(message), started: false })
    }

    fn shutdown(&self) {
        self.socket.shutdown();
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }
}

/// Future of one receive.
struct Receive {
    socket: Rc<Socket>,
    /// Until it is started.
    buffers: Option<ReceiveBuffers>,
    started: bool,
}

impl Future for Receive {
    type Output = (io::Result<usize>, ReceiveBuffers);
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let socket = Rc::clone(&self.socket);
        let mut direction = socket.receive.borrow_mut();
        if self.started {
            if let Stage::Landed(..) = direction.stage {
                let stage = std::mem::replace(&mut direction.stage, Stage::Idle);
                if let Stage::Landed(buffers, result) = stage {
                    self.started = false;
                    return Poll::Ready((result, buffers));
                }
            }
        } else if let Stage::Idle = direction.stage {
            let mut buffers = self.buffers.take().expect("invariant: polled after its end");
            let ready = match socket.check_open() {
                Err(error) => Some(Err(error)),
                Ok(()) => take_leftover(&socket, &mut buffers),
            };
            if let Some(result) = ready {
                return Poll::Ready((result, buffers));
            }
            drop(direction);
            if let Err((error, buffers)) = start_receive(&socket, buffers) {
                return Poll::Ready((Err(error), buffers));
            }
            self.started = true;
            direction = socket.receive.borrow_mut();
        } else if !direction.orphaned {
            let buffers = self.buffers.take().expect("invariant: polled after its end");
            return Poll::Ready((Err(io::Error::other("another receive is in flight")), buffers));
        }
        set_waker(&mut direction.waker, context);
        Poll::Pending
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        let mut direction = self.socket.receive.borrow_mut();
        match std::mem::replace(&mut direction.stage, Stage::Idle) {
            Stage::Flying(buffers, key) => {
                direction.stage = Stage::Flying(buffers, key);
                direction.orphaned = true;
                direction.waker = None;
                self.socket.ring.cancel(key);
            }
            Stage::Landed(buffers, Ok(count)) => keep_leftover(&self.socket, &buffers, count),
            Stage::Landed(_, Err(_)) | Stage::Idle => {}
        }
    }
}

fn set_waker(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(known) => known.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
    }
}

fn start_receive(
    socket: &Rc<Socket>,
    mut buffers: ReceiveBuffers,
) -> Result<(), (io::Error, ReceiveBuffers)> {
    let mut direction = socket.receive.borrow_mut();
    direction.gather.clear();
    let Some(room) = buffers.first.get_mut(buffers.first_filled..) else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "filled past the buffer's end");
        return Err((error, buffers));
    };
    direction.gather.push(room.as_mut_ptr(), room.len());
    if let Some(second) = &mut buffers.second {
        direction.gather.push(second.as_mut_ptr(), second.len());
    }
    if direction.gather.rest().is_empty() {
        return Err((io::Error::new(io::ErrorKind::InvalidInput, "no room to receive"), buffers));
    }
    direction.retries = 0;
    drop(direction);
    fly_receive(socket, buffers);
    Ok(())
}

fn fly_receive(socket: &Rc<Socket>, buffers: ReceiveBuffers) {
    let mut direction = socket.receive.borrow_mut();
    let entry = match direction.gather.rest() {
        [one] => {
            let len = Gather::op_len(one);
            opcode::Recv::new(socket.fd(), one.iov_base.cast(), len).build()
        }
        _ => opcode::RecvMsg::new(socket.fd(), direction.set_header()).build(),
    };
    // SAFETY: the socket keeps buffers, iovecs and header in place until the completion, and the
    // operation keeps the socket.
    let key = unsafe { socket.ring.start(Op::Receive(Rc::clone(socket)), entry) };
    direction.stage = Stage::Flying(buffers, key);
}

/// The kernel is done with a receive.
pub(super) fn complete_receive(socket: &Rc<Socket>, result: i32) {
    let mut direction = socket.receive.borrow_mut();
    let stage = std::mem::replace(&mut direction.stage, Stage::Idle);
    let Stage::Flying(buffers, _) = stage else { unreachable!("a receive landed twice") };
    let wanted = !direction.orphaned && !socket.ring.closed.get();
    if result < 0 && wanted && retriable(result, &mut direction.retries) {
        drop(direction);
        return fly_receive(socket, buffers);
    }
    if std::mem::take(&mut direction.orphaned) {
        keep_leftover(socket, &buffers, result.max(0) as usize);
    } else {
        direction.stage = Stage::Landed(buffers, outcome(result));
    }
    let waker = direction.waker.take();
    drop(direction);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn outcome(result: i32) -> io::Result<usize> {
    match -result {
        libc::ECANCELED => Err(io::ErrorKind::ConnectionAborted.into()),
        error if error > 0 => Err(io::Error::from_raw_os_error(error)),
        _ => Ok(result as usize),
    }
}

/// Keeps what was received for a future that is gone.
fn keep_leftover(socket: &Socket, buffers: &ReceiveBuffers, count: usize) {
    let room = &buffers.first[buffers.first_filled..];
    let in_first = count.min(room.len());
    let mut leftover = socket.leftover.borrow_mut();
    leftover.extend_from_slice(&room[..in_first]);
    if let Some(second) = &buffers.second {
        leftover.extend_from_slice(&second[..count - in_first]);
    }
}

/// Hands out bytes kept from before, as a receive would.
fn take_leftover(socket: &Socket, buffers: &mut ReceiveBuffers) -> Option<io::Result<usize>> {
    let mut leftover = socket.leftover.borrow_mut();
    if leftover.is_empty() {
        return None;
    }
    if buffers.first_filled > buffers.first.len() {
        return None; // Refused when it is started.
    }
    let filled = buffers.first_filled;
    let room = &mut buffers.first[filled..];
    let in_first = leftover.len().min(room.len());
    room[..in_first].copy_from_slice(&leftover[..in_first]);
    let mut count = in_first;
    if let Some(second) = &mut buffers.second {
        let in_second = (leftover.len() - in_first).min(second.len());
        second[..in_second].copy_from_slice(&leftover[in_first..in_first + in_second]);
        count += in_second;
    }
    leftover.drain(..count);
    (count > 0).then_some(Ok(count))
}

/// Future of one send.
struct Send {
    socket: Rc<Socket>,
    /// Until it is started.
    message: Option<Message>,
    started: bool,
}

impl Future for Send {
    type Output = (io::Result<()>, Message);
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let socket = Rc::clone(&self.socket);
        let mut direction = socket.send.borrow_mut();
        if self.started {
            if let Stage::Landed(..) = direction.stage {
                let stage = std::mem::replace(&mut direction.stage, Stage::Idle);
                if let Stage::Landed(message, result) = stage {
                    self.started = false;
                    return Poll::Ready((result, message));
                }
            }
        } else if let Stage::Idle = direction.stage {
            let mut message = self.message.take().expect("invariant: polled after its end");
            direction.gather.clear();
            let ready = match socket.check_open() {
                Err(error) => Some(Err(error)),
                Ok(()) => gather(&mut direction.gather, &mut message),
            };
            if let Some(result) = ready {
                return Poll::Ready((result, emptied(message)));
            }
            direction.retries = 0;
            drop(direction);
            fly_send(&socket, message);
            self.started = true;
            direction = socket.send.borrow_mut();
        } else if !direction.orphaned {
            let message = self.message.take().expect("invariant: polled after its end");
            return Poll::Ready((Err(io::Error::other("another send is in flight")), message));
        }
        set_waker(&mut direction.waker, context);
        Poll::Pending
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        let mut direction = self.socket.send.borrow_mut();
        match std::mem::replace(&mut direction.stage, Stage::Idle) {
            Stage::Flying(message, key) => {
                direction.stage = Stage::Flying(message, key);
                direction.orphaned = true;
                direction.waker = None;
            }
            Stage::Landed(..) | Stage::Idle => {}
        }
    }
}

fn emptied(mut message: Message) -> Message {
    message.head.clear();
    message.parts.clear();
    message
}

/// Lists the message's bytes in wire order. `Some` if there is nothing to send, or it is wrong.
fn gather(gather: &mut Gather, message: &mut Message) -> Option<io::Result<()>> {
    let named = message
        .parts
        .iter()
        .map(|part| if let Part::Head(len) = part { *len } else { 0 })
        .fold(0, usize::saturating_add);
    if named != message.head.len() {
        let error = "the parts do not name exactly the head's bytes";
        return Some(Err(io::Error::new(io::ErrorKind::InvalidInput, error)));
    }
    let mut rest = &mut message.head[..];
    for part in &mut message.parts {
        match part {
            Part::Head(len) => {
                let (piece, after) = rest.split_at_mut(*len);
                gather.push(piece.as_mut_ptr(), piece.len());
                rest = after;
            }
            // It may be shared.
            Part::Payload(buffer) => gather.push(buffer.as_ptr().cast_mut(), buffer.len()),
        }
    }
    gather.rest().is_empty().then_some(Ok(()))
}

fn fly_send(socket: &Rc<Socket>, message: Message) {
    let mut direction = socket.send.borrow_mut();
    let entry: squeue::Entry = match direction.gather.rest() {
        [one] => {
            let start = one.iov_base.cast_const().cast();
            let len = Gather::op_len(one);
            opcode::Send::new(socket.fd(), start, len).flags(SEND_FLAGS).build()
        }
        _ => {
            let header = direction.set_header();
            opcode::SendMsg::new(socket.fd(), header).flags(SEND_FLAGS as u32).build()
        }
    };
    // SAFETY: as for a receive: message, iovecs and header stay in the socket.
    let key = unsafe { socket.ring.start(Op::Send(Rc::clone(socket)), entry) };
    direction.stage = Stage::Flying(message, key);
}

/// The kernel is done with one step of a send.
pub(super) fn complete_send(socket: &Rc<Socket>, result: i32) {
    let mut direction = socket.send.borrow_mut();
    let stage = std::mem::replace(&mut direction.stage, Stage::Idle);
    let Stage::Flying(message, _) = stage else { unreachable!("a send landed twice") };
    let outcome = match outcome(result) {
        Ok(sent) if direction.gather.advance(sent) => Ok(()),
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        // What was to be cancelled has been; a new step would not be.
        _ if socket.ring.closed.get() => Err(io::ErrorKind::ConnectionAborted.into()),
        Ok(_) => {
            drop(direction);
            return fly_send(socket, message);
        }
        Err(_) if retriable(result, &mut direction.retries) => {
            drop(direction);
            return fly_send(socket, message);
        }
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        socket.broken.set(true);
        socket.shutdown();
    }
    if !std::mem::take(&mut direction.orphaned) {
        direction.stage = Stage::Landed(emptied(message), outcome);
    }
    let waker = direction.waker.take();
    drop(direction);
    if let Some(waker) = waker {
        waker.wake();
    }
}
