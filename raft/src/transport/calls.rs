//! Calls to one peer: those that wait for room, those that wait for an answer, and their results.
//!
//! Invariants: calls are sent in the order in which they were made, whatever their size; the load
//! is the sum over the calls that are sent and not answered; a result is taken once.
//! Must never know: connections, time.

use super::error::{Error, ErrorKind, Result};
use super::limits::Bounds;
use super::{Reply, Request};
use crate::frame::{Envelope, HEADER_BYTES, Kind, charged_bytes};
use std::collections::BTreeMap;
use std::task::Waker;

/// A request on its way out.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) envelope: Envelope,
    pub(super) request: Request,
    /// What it counts for.
    pub(super) bytes: usize,
}

impl Outbound {
    pub(super) fn new(kind: Kind, number: u64, request: Request) -> Outbound {
        let Request { group, lane, ref head, ref payload, reply_max_bytes } = request;
        let reply_max_bytes = if kind == Kind::Request { reply_max_bytes } else { 0 };
        let bytes = HEADER_BYTES + charged_bytes(head.len(), payload.iter().map(|p| p.len()));
        let envelope = Envelope { kind, group, lane, request: number, reply_max_bytes };
        Outbound { envelope, request, bytes }
    }

    fn wants_reply(&self) -> bool {
        self.envelope.kind == Kind::Request
    }
}

/// Where a call stands.
#[derive(Debug)]
enum Stage {
    Waiting(Outbound),
    /// On the connection of this number.
    Sent {
        connection: u64,
        bytes: usize,
        reply_max_bytes: usize,
    },
    Done(Result<Reply>),
}

#[derive(Debug)]
struct Slot {
    stage: Stage,
    waker: Option<Waker>,
}

/// What is sent and not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) calls: usize,
    pub(super) request_bytes: usize,
    pub(super) reply_bytes: usize,
}

impl Load {
    fn has_room(&self, bytes: usize, reply_max_bytes: usize, bounds: &Bounds) -> bool {
        let alone = self.calls == 0;
        alone
            || (self.calls < bounds.calls_max
                && self.request_bytes + bytes <= bounds.requests_max_bytes
                && self.reply_bytes + reply_max_bytes <= bounds.replies_max_bytes)
    }

    fn add(&mut self, bytes: usize, reply_max_bytes: usize) {
        self.calls += 1;
        self.request_bytes += bytes;
        self.reply_bytes += reply_max_bytes;
    }

    fn remove(&mut self, bytes: usize, reply_max_bytes: usize) {
        self.calls -= 1;
        self.request_bytes -= bytes;
        self.reply_bytes -= reply_max_bytes;
    }
}

/// What an answer met.
#[derive(Debug)]
pub(super) enum Answered {
    /// Its call; who waits for it is to be woken.
    Call(Option<Waker>),
    /// Nobody: the call was given up.
    Nobody,
    /// Its call, which takes less.
    TooLarge,
}

/// All calls to one peer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: BTreeMap<u64, Slot>,
    /// Numbers of those that wait, and their bytes.
    waiting: BTreeMap<u64, usize>,
    waiting_bytes: usize,
    load: Load,
}

impl Calls {
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// Calls that wait for room, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting_bytes)
    }

    /// Calls whose result was not taken, in whatever stage.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes a call in, behind all others.
    pub(super) fn add(&mut self, outbound: Outbound, bounds: &Bounds) -> Result<()> {
        let bytes = outbound.bytes;
        let full = self.waiting.len() >= bounds.waiting_calls_max
            || (self.waiting_bytes + bytes > bounds.waiting_max_bytes && !self.waiting.is_empty());
        if full {
            return Err(Error::new(ErrorKind::Busy, "too many calls wait for this peer"));
        }
        let number = outbound.envelope.request;
        let slot = Slot { stage: Stage::Waiting(outbound), waker: None };
        let before = self.slots.insert(number, slot);
        assert!(before.is_none(), "numbers are never used again");
        self.waiting.insert(number, bytes);
        self.waiting_bytes += bytes;
        Ok(())
    }

    /// The next request to send on `connection`, which has `queued_bytes` to send already; and who
    /// is to be woken, if nobody will answer.
    pub(super) fn next_to_send(
        &mut self,
        bounds: &Bounds,
        connection: u64,
        queued_bytes: usize,
    ) -> Option<(Outbound, Option<Waker>)> {
        let (&number, &bytes) = self.waiting.first_key_value()?;
        let slot = self.slots.get_mut(&number).expect("invariant: what waits is there");
        let Stage::Waiting(outbound) = &slot.stage else {
            unreachable!("invariant: it is listed among those that wait");
        };
        let reply_max_bytes = outbound.envelope.reply_max_bytes as usize;
        let wants_reply = outbound.wants_reply();
        let queue = queued_bytes == 0 || queued_bytes + bytes <= bounds.queued_max_bytes;
        if !queue || (wants_reply && !self.load.has_room(bytes, reply_max_bytes, bounds)) {
            return None;
        }
        let next = match wants_reply {
            true => {
                self.load.add(bytes, reply_max_bytes);
                Stage::Sent { connection, bytes, reply_max_bytes }
            }
            false => Stage::Done(Ok(Reply::default())),
        };
        let Stage::Waiting(outbound) = std::mem::replace(&mut slot.stage, next) else {
            unreachable!("invariant: seen above");
        };
        let waker = if wants_reply { None } else { slot.waker.take() };
        self.unlist(number);
        Some((outbound, waker))
    }

    fn unlist(&mut self, number: u64) {
        if let Some(bytes) = self.waiting.remove(&number) {
            self.waiting_bytes -= bytes;
        }
    }

    /// An answer came on `connection`.
    pub(super) fn answer(
        &mut self,
        number: u64,
        connection: u64,
        result: Result<Reply>,
    ) -> Answered {
        let Some(slot) = self.slots.get_mut(&number) else { return Answered::Nobody };
        let Stage::Sent { connection: sent_on, bytes, reply_max_bytes } = slot.stage else {
            return Answered::Nobody;
        };
        if sent_on != connection {
            return Answered::Nobody;
        }
        if result.as_ref().is_ok_and(|reply| reply.charged_bytes() > reply_max_bytes) {
            return Answered::TooLarge;
        }
        self.load.remove(bytes, reply_max_bytes);
        slot.stage = Stage::Done(result);
        Answered::Call(slot.waker.take())
    }

    /// The result, if it is there; otherwise `waker` is woken when it is.
    pub(super) fn poll(&mut self, number: u64, waker: &Waker) -> Option<Result<Reply>> {
        let slot = self.slots.get_mut(&number).expect("invariant: a call is there until it ends");
        if let Stage::Done(_) = slot.stage {
            let slot = self.slots.remove(&number)?;
            let Stage::Done(result) = slot.stage else { return None };
            return Some(result);
        }
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
        None
    }

    /// Gives a call up. If it was sent and not answered: on which connection.
    pub(super) fn remove(&mut self, number: u64) -> Option<u64> {
        self.unlist(number);
        let slot = self.slots.remove(&number)?;
        let Stage::Sent { connection, bytes, reply_max_bytes } = slot.stage else { return None };
        self.load.remove(bytes, reply_max_bytes);
        Some(connection)
    }

    /// The connection ended: no answers will come. Returns who is to be woken.
    pub(super) fn fail_sent(&mut self, ended: u64, error: &Error) -> Vec<Waker> {
        let mut woken = Vec::new();
        for slot in self.slots.values_mut() {
            match slot.stage {
                Stage::Sent { connection, bytes, reply_max_bytes } if connection == ended => {
                    self.load.remove(bytes, reply_max_bytes);
                }
                _ => continue,
            }
            slot.stage = Stage::Done(Err(error.clone()));
            woken.extend(slot.waker.take());
        }
        woken
    }

    /// There will be no connection. Returns who is to be woken.
    pub(super) fn fail_waiting(&mut self, error: &Error) -> Vec<Waker> {
        let mut woken = Vec::new();
        for number in std::mem::take(&mut self.waiting).into_keys() {
            let slot = self.slots.get_mut(&number).expect("invariant: what waits is there");
            slot.stage = Stage::Done(Err(error.clone()));
            woken.extend(slot.waker.take());
        }
        self.waiting_bytes = 0;
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        calls_max: 3,
        requests_max_bytes: 1000,
        replies_max_bytes: 1000,
        queued_max_bytes: 500,
        waiting_calls_max: 4,
        waiting_max_bytes: 2000,
        handlers_max: 3,
        held_max_bytes: 3000,
    };

    fn outbound(kind: Kind, number: u64, bytes: usize, reply_max_bytes: u32) -> Outbound {
        let head = vec![0; bytes - HEADER_BYTES];
        let (group, lane, payload) = (1, 2, Vec::new());
        Outbound::new(kind, number, Request { group, lane, head, payload, reply_max_bytes })
    }

    fn add(calls: &mut Calls, number: u64, bytes: usize, reply_max_bytes: u32) -> Result<()> {
        calls.add(outbound(Kind::Request, number, bytes, reply_max_bytes), &BOUNDS)
    }

    /// Numbers of all that can be sent now.
    fn send(calls: &mut Calls) -> Vec<u64> {
        std::iter::from_fn(|| calls.next_to_send(&BOUNDS, 7, 0))
            .map(|(outbound, _)| outbound.envelope.request)
            .collect()
    }

    fn error() -> Error {
        Error::new(ErrorKind::Closed, "it ended")
    }

    /// A result as far as it can be compared.
    fn poll(calls: &mut Calls, number: u64) -> Option<Result<usize>> {
        let result = calls.poll(number, Waker::noop());
        result.map(|result| result.map(|reply| reply.head.len()))
    }

    #[test]
    fn each_bound_holds_calls_back_and_an_answer_makes_room() {
        for (bytes, reply, passed) in [(100, 100, 3), (400, 100, 2), (100, 400, 2)] {
            let mut calls = Calls::default();
            (1..=4).for_each(|number| add(&mut calls, number, bytes, reply).expect("room"));
            let sent = send(&mut calls);
            assert_eq!(sent.len(), passed);
            let answered = calls.answer(1, 7, Ok(Reply::default()));
            assert!(matches!(answered, Answered::Call(None)));
            assert_eq!(send(&mut calls), [sent.len() as u64 + 1]);
        }
    }

    #[test]
    fn a_small_call_does_not_overtake_a_large_one() {
        let mut calls = Calls::default();
        add(&mut calls, 1, 600, 0).expect("room");
        add(&mut calls, 2, 600, 0).expect("room");
        add(&mut calls, 3, 64, 0).expect("room");
        assert_eq!(send(&mut calls), [1]);
        assert_eq!(calls.waiting(), (2, 664));
        assert_eq!(calls.remove(2), None, "it was not sent");
        assert_eq!(send(&mut calls), [3]);
    }

    #[test]
    fn one_call_passes_whatever_its_size() {
        let mut calls = Calls::default();
        add(&mut calls, 1, 5000, 5000).expect("room");
        assert_eq!(send(&mut calls), [1]);
        let load = Load { calls: 1, request_bytes: 5000, reply_bytes: 5000 };
        assert_eq!(calls.load(), load);
        assert_eq!(calls.remove(1), Some(7));
        assert_eq!(calls.load(), Load::default());
    }

    #[test]
    fn too_many_that_wait_are_turned_away() {
        let mut calls = Calls::default();
        (1..=4).for_each(|number| add(&mut calls, number, 64, 0).expect("room"));
        assert_eq!(add(&mut calls, 5, 64, 0).map_err(|e| e.kind()), Err(ErrorKind::Busy));
        let mut calls = Calls::default();
        add(&mut calls, 1, 5000, 0).expect("the first one, whatever its size");
        assert_eq!(add(&mut calls, 2, 64, 0).map_err(|e| e.kind()), Err(ErrorKind::Busy));
    }

    #[test]
    fn a_full_queue_holds_one_way_requests_back() {
        let mut calls = Calls::default();
        calls.add(outbound(Kind::OneWay, 1, 300, 9), &BOUNDS).expect("room");
        assert!(calls.next_to_send(&BOUNDS, 7, 201).is_none());
        let (sent, _) = calls.next_to_send(&BOUNDS, 7, 200).expect("fits");
        assert_eq!(sent.envelope.reply_max_bytes, 0);
        assert_eq!(calls.load(), Load::default());
        assert_eq!(poll(&mut calls, 1), Some(Ok(0)));
        assert_eq!(calls.len(), 0);
    }

    #[test]
    fn late_foreign_and_large_answers_are_told_apart() {
        let mut calls = Calls::default();
        add(&mut calls, 1, 64, 10).expect("room");
        let reply = |len| Ok(Reply { head: vec![0; len], payload: Vec::new() });
        assert!(matches!(calls.answer(1, 7, reply(1)), Answered::Nobody), "was not sent");
        assert_eq!(send(&mut calls), [1]);
        assert!(matches!(calls.answer(2, 7, reply(1)), Answered::Nobody));
        assert!(matches!(calls.answer(1, 8, reply(1)), Answered::Nobody), "another connection");
        assert!(matches!(calls.answer(1, 7, reply(11)), Answered::TooLarge));
        assert_eq!(poll(&mut calls, 1), None);
        assert!(matches!(calls.answer(1, 7, reply(10)), Answered::Call(Some(_))));
        assert!(matches!(calls.answer(1, 7, reply(1)), Answered::Nobody), "answered twice");
        assert_eq!(poll(&mut calls, 1), Some(Ok(10)));
        assert_eq!((calls.len(), calls.load()), (0, Load::default()));
    }

    #[test]
    fn a_connection_takes_its_own_calls_with_it() {
        let mut calls = Calls::default();
        (1..=3).for_each(|number| add(&mut calls, number, 64, 0).expect("room"));
        assert!(calls.next_to_send(&BOUNDS, 7, 0).is_some());
        assert!(calls.next_to_send(&BOUNDS, 8, 0).is_some());
        assert!(calls.fail_sent(7, &error()).is_empty(), "nobody waits yet");
        assert_eq!(poll(&mut calls, 1), Some(Err(error())));
        assert_eq!(poll(&mut calls, 2), None);
        assert_eq!(poll(&mut calls, 3), None);
        assert_eq!(calls.fail_waiting(&error()).len(), 1);
        assert_eq!(poll(&mut calls, 3), Some(Err(error())));
        assert_eq!((calls.len(), calls.load().calls, calls.waiting()), (1, 1, (0, 0)));
    }
}
