//! The streams at both ends of a connection, and their futures.
//!
//! Invariants: one receive and one send at a time; a dropped receive has taken nothing.
//! Must never know: the protocol.

use super::link::{Link, Outgoing, Pipe, emptied};
use super::trace::Step;
use crate::reactor::{LocalBox, Message, Part, ReceiveBuffers, Stream};
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// One end. Dropping it closes it.
pub(super) struct SimStream {
    link: Rc<Link>,
    end: usize,
    peer: String,
    /// A send failed half-way: nothing sensible can follow.
    broken: Rc<Cell<bool>>,
}

impl SimStream {
    /// One end of a connection.
    pub(super) fn end(link: &Rc<Link>, end: usize, peer: String) -> Rc<dyn Stream> {
        Rc::new(SimStream { link: Rc::clone(link), end, peer, broken: Rc::default() })
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let link = &self.link;
        if link.pipes[self.end].borrow().is_flying() {
            self.broken.set(true);
        }
        if link.is_alive(self.end) {
            link.shut_down(self.end);
        }
    }
}

impl Stream for SimStream {
    fn receive(&self, buffers: ReceiveBuffers) -> LocalBox<(io::Result<usize>, ReceiveBuffers)> {
        let (link, end) = (Rc::clone(&self.link), self.end);
        let broken = Rc::clone(&self.broken);
        Box::pin(Receive { link, end, broken, buffers: Some(buffers), started: false })
    }

    fn send(&self, message: Message) -> LocalBox<(io::Result<()>, Message)> {
        let (link, end) = (Rc::clone(&self.link), self.end);
        let broken = Rc::clone(&self.broken);
        Box::pin(Send { link, end, broken, message: Some(message), started: false })
    }

    fn shutdown(&self) {
        if self.link.is_alive(self.end) {
            self.link.shut_down(self.end);
        }
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }
}

/// Future of one receive.
struct Receive {
    link: Rc<Link>,
    end: usize,
    broken: Rc<Cell<bool>>,
    buffers: Option<ReceiveBuffers>,
    started: bool,
}

impl Future for Receive {
    type Output = (io::Result<usize>, ReceiveBuffers);
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let link = Rc::clone(&self.link);
        let mut pipe = link.pipes[1 - self.end].borrow_mut();
        let mut buffers = self.buffers.take().expect("invariant: polled after its end");
        if !self.started && pipe.receiving {
            return Poll::Ready((Err(io::Error::other("another receive is in flight")), buffers));
        }
        pipe.receiving = true;
        self.started = true;
        let result = match check_receive(&self, &buffers) {
            Err(error) => Err(error),
            Ok(_) if pipe.arrived == 0 && pipe.reset => Err(io::ErrorKind::ConnectionReset.into()),
            Ok(_) if pipe.arrived == 0 && (pipe.ended || pipe.read_closed) => Ok(0),
            Ok(_) if pipe.arrived == 0 => {
                pipe.reader = Some(context.waker().clone());
                self.buffers = Some(buffers);
                return Poll::Pending;
            }
            Ok(room) => {
                let most = room.min(pipe.arrived);
                let count = link.core.net.borrow_mut().split(&link.core, most);
                hand_over(&mut pipe, &mut buffers, count);
                link.core.note(Step::NetReceive, &[1 - self.end as u64, count as u64]);
                Ok(count)
            }
        };
        pipe.receiving = false;
        self.started = false;
        drop(pipe);
        link.pump(1 - self.end);
        Poll::Ready((result, buffers))
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        if self.started {
            let mut pipe = self.link.pipes[1 - self.end].borrow_mut();
            pipe.receiving = false;
            let waker = pipe.reader.take();
            drop(pipe);
            drop(waker);
        }
    }
}

/// Room for a receive, or why there can be none.
fn check_receive(receive: &Receive, buffers: &ReceiveBuffers) -> io::Result<usize> {
    if !receive.link.is_alive(receive.end) {
        return Err(io::Error::other("the reactor is shut down"));
    }
    if receive.broken.get() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
    let in_first = buffers.first.len().checked_sub(buffers.first_filled);
    let in_first = in_first.ok_or_else(|| invalid("filled past the buffer's end"))?;
    let room = in_first + buffers.second.as_ref().map_or(0, |second| second.len());
    if room == 0 { Err(invalid("no room to receive")) } else { Ok(room) }
}

/// Moves arrived bytes into the buffers.
fn hand_over(pipe: &mut Pipe, buffers: &mut ReceiveBuffers, count: usize) {
    let filled = buffers.first_filled;
    let room = &mut buffers.first[filled..];
    let in_first = count.min(room.len());
    copy_front(&mut pipe.bytes, &mut room[..in_first]);
    if let Some(second) = &mut buffers.second {
        copy_front(&mut pipe.bytes, &mut second[..count - in_first]);
    }
    pipe.arrived -= count;
}

fn copy_front(bytes: &mut VecDeque<u8>, into: &mut [u8]) {
    let (front, back) = bytes.as_slices();
    let in_front = into.len().min(front.len());
    let (first, second) = into.split_at_mut(in_front);
    first.copy_from_slice(&front[..in_front]);
    second.copy_from_slice(&back[..second.len()]);
    bytes.drain(..into.len());
}

/// Future of one send.
struct Send {
    link: Rc<Link>,
    end: usize,
    broken: Rc<Cell<bool>>,
    message: Option<Message>,
    started: bool,
}

impl Future for Send {
    type Output = (io::Result<()>, Message);
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let link = Rc::clone(&self.link);
        let mut pipe = link.pipes[self.end].borrow_mut();
        if self.started {
            match std::mem::replace(&mut pipe.outgoing, Outgoing::Idle) {
                Outgoing::Landed(message, result) => {
                    self.started = false;
                    self.broken.set(self.broken.get() || result.is_err());
                    return Poll::Ready((result, message));
                }
                other => pipe.outgoing = other,
            }
        } else if !pipe.is_flying() {
            let message = self.message.take().expect("invariant: polled after its end");
            let checked = check_send(&self, &pipe, &message);
            if let Some(result) = checked {
                return Poll::Ready((result, emptied(message)));
            }
            pipe.outgoing = Outgoing::Flying { message, part: 0, part_bytes: 0, head_bytes: 0 };
            self.started = true;
        } else if !pipe.orphaned {
            let message = self.message.take().expect("invariant: polled after its end");
            return Poll::Ready((Err(io::Error::other("another send is in flight")), message));
        }
        pipe.sender = Some(context.waker().clone());
        let started = self.started;
        drop(pipe);
        if started {
            link.pump(self.end);
        }
        Poll::Pending
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        let mut pipe = self.link.pipes[self.end].borrow_mut();
        match pipe.outgoing {
            Outgoing::Landed(..) => pipe.outgoing = Outgoing::Idle,
            _ => pipe.orphaned = true,
        }
        let waker = pipe.sender.take();
        drop(pipe);
        drop(waker);
    }
}

/// Whether a send ends before it began: there is nothing to send, or it cannot be.
fn check_send(send: &Send, pipe: &Pipe, message: &Message) -> Option<io::Result<()>> {
    if !send.link.is_alive(send.end) {
        return Some(Err(io::Error::other("the reactor is shut down")));
    }
    if send.broken.get() {
        return Some(Err(io::ErrorKind::BrokenPipe.into()));
    }
    let named = message
        .parts
        .iter()
        .map(|part| if let Part::Head(len) = part { *len } else { 0 })
        .fold(0, usize::saturating_add);
    if named != message.head.len() {
        let error = "the parts do not name exactly the head's bytes";
        return Some(Err(io::Error::new(io::ErrorKind::InvalidInput, error)));
    }
    let payload = |part: &Part| matches!(part, Part::Payload(buffer) if !buffer.is_empty());
    if named == 0 && !message.parts.iter().any(payload) {
        return Some(Ok(()));
    }
    if pipe.write_closed || pipe.gone || pipe.reset {
        send.broken.set(true);
        return Some(Err(io::ErrorKind::BrokenPipe.into()));
    }
    None
}
