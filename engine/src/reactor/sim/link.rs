//! A connection: two directions of bytes on their way.
//!
//! Invariants: bytes arrive in the order they were taken, each once; a message is sent whole even
//! if its future is dropped, unless the stream goes; nobody's borrow is held while others wake.
//! Must never know: who polls, the protocol.

use super::faults::FaultKind;
use super::machine::Host;
use super::net::NetEvent;
use super::trace::Step;
use super::world::{Core, Event, Process};
use crate::reactor::{Message, Part};
use crate::units::Nanos;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// From the last byte taken to the sender's being told.
const SENT_DELAY: Duration = Duration::from_micros(1);

/// A message on its way into a direction.
pub(super) enum Outgoing {
    Idle,
    /// The next part, and how many bytes of it and of the head are taken.
    Flying {
        message: Message,
        part: usize,
        part_bytes: usize,
        head_bytes: usize,
    },
    Landed(Message, io::Result<()>),
}

/// One direction of a connection.
pub(super) struct Pipe {
    /// Arrived bytes first, then those on their way.
    pub(super) bytes: VecDeque<u8>,
    pub(super) arrived: usize,
    /// When the last piece arrives.
    last_arrival: Nanos,
    pub(super) outgoing: Outgoing,
    /// The future of the send is gone.
    pub(super) orphaned: bool,
    /// Nothing more is sent.
    pub(super) write_closed: bool,
    /// The end has arrived.
    pub(super) ended: bool,
    /// Nothing more is read.
    pub(super) read_closed: bool,
    /// The sender knows that nothing more is read.
    pub(super) gone: bool,
    /// The connection broke.
    pub(super) reset: bool,
    pub(super) receiving: bool,
    pub(super) reader: Option<Waker>,
    pub(super) sender: Option<Waker>,
}

/// A connection. End `n` writes into direction `n` and reads from the other.
pub(super) struct Link {
    pub(super) core: Rc<Core>,
    processes: [Rc<Process>; 2],
    pub(super) pipes: [RefCell<Pipe>; 2],
    tcp: bool,
}

impl Pipe {
    fn new() -> Pipe {
        Pipe {
            bytes: VecDeque::new(),
            arrived: 0,
            last_arrival: Nanos(0),
            outgoing: Outgoing::Idle,
            orphaned: false,
            write_closed: false,
            ended: false,
            read_closed: false,
            gone: false,
            reset: false,
            receiving: false,
            reader: None,
            sender: None,
        }
    }

    /// Takes at most `room` bytes of the message.
    fn take_bytes(&mut self, room: usize) -> usize {
        let Outgoing::Flying { message, part, part_bytes, head_bytes } = &mut self.outgoing else {
            return 0;
        };
        let mut taken = 0;
        // Empty parts need no room.
        while *part < message.parts.len() && (taken < room || ends(message, *part, *part_bytes)) {
            let (rest, head) = match &message.parts[*part] {
                Part::Head(len) => {
                    let from = *head_bytes - *part_bytes;
                    (&message.head[from + *part_bytes..from + *len], true)
                }
                Part::Payload(buffer) => (&buffer[*part_bytes..], false),
            };
            let count = rest.len().min(room - taken);
            self.bytes.extend(&rest[..count]);
            let done = count == rest.len();
            *part_bytes = if done { 0 } else { *part_bytes + count };
            *head_bytes += if head { count } else { 0 };
            *part += usize::from(done);
            taken += count;
        }
        taken
    }

    pub(super) fn is_flying(&self) -> bool {
        matches!(self.outgoing, Outgoing::Flying { .. })
    }

    fn all_taken(&self) -> bool {
        matches!(&self.outgoing, Outgoing::Flying { message, part, .. }
            if *part == message.parts.len())
    }

    /// Ends the send.
    fn land(&mut self, result: io::Result<()>) -> Option<Waker> {
        match std::mem::replace(&mut self.outgoing, Outgoing::Idle) {
            Outgoing::Flying { message, .. } if !std::mem::take(&mut self.orphaned) => {
                self.outgoing = Outgoing::Landed(emptied(message), result);
            }
            Outgoing::Flying { .. } => {}
            other => self.outgoing = other,
        }
        self.sender.take()
    }
}

/// Whether a part has no bytes left.
fn ends(message: &Message, part: usize, part_bytes: usize) -> bool {
    let len = match &message.parts[part] {
        Part::Head(len) => *len,
        Part::Payload(buffer) => buffer.len(),
    };
    len == part_bytes
}

/// A message with nothing in it but its memory.
pub(super) fn emptied(mut message: Message) -> Message {
    message.head.clear();
    message.parts.clear();
    message
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Link {
    pub(super) fn new(core: &Rc<Core>, processes: [&Rc<Process>; 2], tcp: bool) -> Rc<Link> {
        let pipes = [RefCell::new(Pipe::new()), RefCell::new(Pipe::new())];
        Rc::new(Link { core: Rc::clone(core), processes: processes.map(Rc::clone), pipes, tcp })
    }

    /// The host of an end.
    pub(super) fn host(&self, end: usize) -> Option<Host> {
        self.processes[end].host
    }

    /// Whether a process of this host had it and is dead.
    pub(super) fn is_left_by(&self, host: Host) -> bool {
        (0..2).any(|end| self.host(end) == Some(host) && !self.is_alive(end))
    }

    /// Takes as much of the message as there is room for, and sends it on its way.
    pub(super) fn pump(self: &Rc<Link>, direction: usize) {
        let core = &self.core;
        let mut pipe = self.pipes[direction].borrow_mut();
        if !pipe.is_flying() || pipe.all_taken() || pipe.reset || pipe.gone {
            return;
        }
        let mut net = core.net.borrow_mut();
        let room = net.buffer_bytes().saturating_sub(pipe.bytes.len());
        let mut taken = pipe.take_bytes(room);
        if taken > 0 && net.cut(core) {
            drop((net, pipe));
            return self.reset();
        }
        if self.tcp
            && let Some((at, bits)) = net.garble(core, taken)
        {
            let start = pipe.bytes.len() - taken;
            pipe.bytes[start + at] ^= bits;
        }
        core.note(Step::NetSend, &[direction as u64, taken as u64]);
        while taken > 0 {
            let piece = net.split(core, taken);
            let at = (core.now() + net.delay(core)).max(pipe.last_arrival);
            pipe.last_arrival = at;
            core.schedule_at(at, Event::Net(NetEvent::Arrive(Rc::clone(self), direction, piece)));
            taken -= piece;
        }
        if pipe.all_taken() {
            core.schedule(SENT_DELAY, Event::Net(NetEvent::Sent(Rc::clone(self), direction)));
        } else if room > 0 {
            core.inject(FaultKind::NetFull);
        }
    }

    pub(super) fn bytes_arrive(&self, direction: usize, len: usize) {
        let mut pipe = self.pipes[direction].borrow_mut();
        if pipe.reset {
            return;
        }
        pipe.arrived += len;
        self.core.note(Step::NetArrive, &[direction as u64, len as u64]);
        let waker = pipe.reader.take();
        drop(pipe);
        wake(waker);
    }

    pub(super) fn end_arrives(&self, direction: usize) {
        let mut pipe = self.pipes[direction].borrow_mut();
        pipe.ended = true;
        let waker = pipe.reader.take();
        drop(pipe);
        wake(waker);
    }

    pub(super) fn reader_is_gone(&self, direction: usize) {
        let mut pipe = self.pipes[direction].borrow_mut();
        pipe.gone = true;
        let waker = pipe.land(Err(io::ErrorKind::BrokenPipe.into()));
        drop(pipe);
        wake(waker);
    }

    pub(super) fn sent(&self, direction: usize) {
        let mut pipe = self.pipes[direction].borrow_mut();
        let waker = if pipe.all_taken() { pipe.land(Ok(())) } else { None };
        drop(pipe);
        wake(waker);
    }

    /// The connection breaks: what is on its way is lost, both ends are told.
    fn reset(&self) {
        self.core.note(Step::NetClose, &[2]);
        let mut wakers = Vec::new();
        for pipe in &self.pipes {
            let mut pipe = pipe.borrow_mut();
            pipe.reset = true;
            let arrived = pipe.arrived;
            pipe.bytes.truncate(arrived);
            wakers.extend(pipe.reader.take());
            wakers.extend(pipe.land(Err(io::ErrorKind::ConnectionReset.into())));
        }
        wake(wakers);
    }

    /// `end` writes no more.
    fn close_write(self: &Rc<Link>, end: usize) {
        let mut pipe = self.pipes[end].borrow_mut();
        if pipe.write_closed {
            return;
        }
        pipe.write_closed = true;
        let waker = pipe.land(Err(io::ErrorKind::BrokenPipe.into()));
        let delay = self.core.net.borrow_mut().delay(&self.core);
        let at = (self.core.now() + delay).max(pipe.last_arrival);
        self.core.schedule_at(at, Event::Net(NetEvent::End(Rc::clone(self), end)));
        drop(pipe);
        wake(waker);
    }

    /// `end` reads no more; the other end is told in time.
    fn close_read(self: &Rc<Link>, end: usize) {
        let mut pipe = self.pipes[1 - end].borrow_mut();
        if pipe.read_closed {
            return;
        }
        pipe.read_closed = true;
        let waker = pipe.reader.take();
        let delay = self.core.net.borrow_mut().delay(&self.core);
        self.core.schedule(delay, Event::Net(NetEvent::Gone(Rc::clone(self), 1 - end)));
        drop(pipe);
        wake(waker);
    }

    pub(super) fn shut_down(self: &Rc<Link>, end: usize) {
        self.core.note(Step::NetClose, &[end as u64]);
        self.close_write(end);
        self.close_read(end);
    }

    /// Everything at both ends is dead.
    pub(super) fn kill(&self) {
        self.reset();
    }

    /// A process ended: what it still sends is given up.
    pub(super) fn close_process(self: &Rc<Link>, process: u64) {
        for end in 0..2 {
            if self.processes[end].number == process {
                self.shut_down(end);
            }
        }
    }

    pub(super) fn is_alive(&self, end: usize) -> bool {
        self.core.is_alive(&self.processes[end])
    }
}
