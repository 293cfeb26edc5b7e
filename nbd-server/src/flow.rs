//! How much a client may have in flight: per connection, and for all together.
//!
//! Reading stops when a limit is passed, so a request may overshoot by its own first piece. What a
//! request needs beyond that is claimed, and claims wait until they fit.
//! Invariant: everything charged is released, by the task that finishes it or by the writer.
//! Must never know: what the bytes are for.

use crate::limits::{
    IN_FLIGHT_GRANTED_BYTES, IN_FLIGHT_MAX_BYTES, IN_FLIGHT_REQUESTS_MAX,
    IN_FLIGHT_TOTAL_MAX_BYTES, PIECE_MAX_BYTES,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes in flight over all connections of a server.
#[derive(Debug, Default)]
pub(crate) struct TotalFlow {
    bytes: Cell<usize>,
    claims: Cell<u32>,
    waiters: RefCell<Vec<Waker>>,
}

/// What one connection has in flight.
#[derive(Debug)]
pub(crate) struct Flow {
    total: Rc<TotalFlow>,
    bytes: Cell<usize>,
    requests: Cell<u32>,
    claims: Cell<u32>,
    waiters: RefCell<Vec<Waker>>,
}

impl Flow {
    pub(crate) fn new(total: Rc<TotalFlow>) -> Flow {
        Flow {
            total,
            bytes: Cell::default(),
            requests: Cell::default(),
            claims: Cell::default(),
            waiters: RefCell::default(),
        }
    }

    /// Whether one more request may be taken in.
    pub(crate) fn has_room(&self) -> bool {
        let own = self.requests.get() < IN_FLIGHT_REQUESTS_MAX
            && self.bytes.get() < IN_FLIGHT_MAX_BYTES
            && self.claims.get() == 0;
        // Others' claims go first, or a steady stream of small requests would starve them.
        let total =
            self.total.bytes.get() < IN_FLIGHT_TOTAL_MAX_BYTES && self.total.claims.get() == 0;
        own && (total || self.bytes.get() < IN_FLIGHT_GRANTED_BYTES)
    }

    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.wait(context);
        Poll::Pending
    }

    pub(crate) fn poll_idle(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_idle() {
            return Poll::Ready(());
        }
        self.wait(context);
        Poll::Pending
    }

    /// No request is unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.get() == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn begin_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    pub(crate) fn end_requests(&self, count: u32) {
        self.requests.set(self.requests.get() - count);
        self.wake();
    }

    pub(crate) fn charge(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
        self.total.bytes.set(self.total.bytes.get() + bytes);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        self.total.bytes.set(self.total.bytes.get() - bytes);
        self.wake();
    }

    /// Starts to wait for `bytes`; ends when the claim is charged or dropped.
    pub(crate) fn claim(&self, bytes: usize) -> Claim<'_> {
        self.claims.set(self.claims.get() + 1);
        self.total.claims.set(self.total.claims.get() + 1);
        Claim { flow: self, bytes }
    }

    fn fits(&self, bytes: usize) -> bool {
        let alone = self.bytes.get() == 0;
        let own = alone || self.bytes.get() + bytes <= IN_FLIGHT_MAX_BYTES;
        let granted = alone && bytes <= PIECE_MAX_BYTES as usize;
        own && (granted || self.total.bytes.get() + bytes <= IN_FLIGHT_TOTAL_MAX_BYTES)
    }

    fn wait(&self, context: &Context<'_>) {
        self.waiters.borrow_mut().push(context.waker().clone());
        self.total.waiters.borrow_mut().push(context.waker().clone());
    }

    fn wake(&self) {
        self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
        self.total.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// Bytes that a request waits for.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    flow: &'a Flow,
    bytes: usize,
}

impl Claim<'_> {
    /// Ready when the bytes are charged.
    pub(crate) fn poll_charge(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.flow.fits(self.bytes) {
            self.flow.wait(context);
            return Poll::Pending;
        }
        self.flow.charge(self.bytes);
        Poll::Ready(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.flow.claims.set(self.flow.claims.get() - 1);
        self.flow.total.claims.set(self.flow.total.claims.get() - 1);
        self.flow.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(flow: &Flow) -> bool {
        flow.poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_connection_stops_at_its_own_limits() {
        let flow = Flow::new(Rc::default());
        flow.charge(IN_FLIGHT_MAX_BYTES);
        assert!(!room(&flow));
        flow.release(1);
        assert!(room(&flow));
        (0..IN_FLIGHT_REQUESTS_MAX).for_each(|_| flow.begin_request());
        assert!(!room(&flow));
        flow.end_requests(1);
        assert!(room(&flow));
    }

    #[test]
    fn full_server_grants_a_little_to_everybody() {
        let total = Rc::<TotalFlow>::default();
        let (greedy, modest) = (Flow::new(Rc::clone(&total)), Flow::new(total));
        greedy.charge(IN_FLIGHT_TOTAL_MAX_BYTES);
        assert!(room(&modest));
        modest.charge(IN_FLIGHT_GRANTED_BYTES);
        assert!(!room(&modest));
        greedy.release(IN_FLIGHT_TOTAL_MAX_BYTES);
        assert!(room(&modest));
    }

    #[test]
    fn claims_wait_until_they_fit_and_hold_new_requests_back() {
        let flow = Flow::new(Rc::default());
        let mut context = Context::from_waker(Waker::noop());
        flow.charge(1);
        let mut claim = flow.claim(IN_FLIGHT_MAX_BYTES);
        assert!(claim.poll_charge(&mut context).is_pending());
        assert!(!room(&flow));
        flow.release(1);
        assert!(claim.poll_charge(&mut context).is_ready());
        drop(claim);
        assert!(!room(&flow));
        flow.release(IN_FLIGHT_MAX_BYTES);
        assert!(room(&flow));
    }
}
