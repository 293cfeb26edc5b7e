//! How much a client may have in flight: per connection, and for all together.
//!
//! Reading stops when a limit is passed, so a request may overshoot by its own piece. Long reads
//! are charged piece by piece instead, and wait until the next one fits.
//! Invariant: everything charged is released, by the task that finishes it or by the writer.
//! Must never know: what the bytes are for.

use crate::limits::{
    IN_FLIGHT_GRANTED_BYTES, IN_FLIGHT_MAX_BYTES, IN_FLIGHT_REQUESTS_MAX, LONG_READS_MAX,
    PAYLOAD_MAX_BYTES, PIECE_MAX_BYTES,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes in flight over all connections of a server.
#[derive(Debug)]
pub(crate) struct TotalFlow {
    bytes_max: usize,
    bytes: Cell<usize>,
    /// Long reads that nothing but this total keeps waiting.
    waiting: Cell<u32>,
    waiters: RefCell<Vec<Waker>>,
}

impl TotalFlow {
    pub(crate) fn new(bytes_max: usize) -> TotalFlow {
        let (bytes, waiting, waiters) = Default::default();
        TotalFlow { bytes_max, bytes, waiting, waiters }
    }

    /// Somebody may be waiting for what others hold.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes.get() + PAYLOAD_MAX_BYTES as usize > self.bytes_max
    }
}

/// What one connection has in flight.
#[derive(Debug)]
pub(crate) struct Flow {
    total: Rc<TotalFlow>,
    bytes: Cell<usize>,
    requests: Cell<u32>,
    /// Long reads under way, and those of them that wait.
    long_reads: Cell<u32>,
    waiting: Cell<u32>,
    waiters: RefCell<Vec<Waker>>,
}

fn add(count: &Cell<u32>, more: bool) {
    count.set(if more { count.get() + 1 } else { count.get() - 1 });
}

impl Flow {
    pub(crate) fn new(total: Rc<TotalFlow>) -> Flow {
        let (bytes, requests, long_reads, waiting, waiters) = Default::default();
        Flow { total, bytes, requests, long_reads, waiting, waiters }
    }

    /// Whether one more request may be taken in. Long reads go first, or a steady stream of small
    /// requests would starve them.
    pub(crate) fn has_room(&self) -> bool {
        let total = &self.total;
        let own = self.requests.get() < IN_FLIGHT_REQUESTS_MAX
            && self.bytes.get() < IN_FLIGHT_MAX_BYTES
            && self.long_reads.get() < LONG_READS_MAX
            && self.waiting.get() == 0;
        let common = total.bytes.get() < total.bytes_max && total.waiting.get() == 0;
        own && (common || self.bytes.get() < IN_FLIGHT_GRANTED_BYTES)
    }

    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll(context, self.has_room())
    }

    pub(crate) fn poll_idle(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll(context, self.is_idle())
    }

    /// No request is unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.get() == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn begin_request(&self) {
        add(&self.requests, true);
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

    fn poll(&self, context: &Context<'_>, ready: bool) -> Poll<()> {
        if ready {
            return Poll::Ready(());
        }
        for waiters in [&self.waiters, &self.total.waiters] {
            let mut waiters = waiters.borrow_mut();
            if !waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
        }
        Poll::Pending
    }

    fn wake(&self) {
        self.waiters.borrow_mut().drain(..).for_each(Waker::wake);
        self.total.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// A read of more than one piece, which charges as it goes.
#[derive(Debug)]
pub(crate) struct LongRead<'a> {
    flow: &'a Flow,
    waiting: bool,
    waiting_for_total: bool,
}

impl LongRead<'_> {
    pub(crate) fn begin(flow: &Flow) -> LongRead<'_> {
        add(&flow.long_reads, true);
        LongRead { flow, waiting: false, waiting_for_total: false }
    }

    /// Ready when `bytes` are charged.
    pub(crate) fn poll_charge(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<()> {
        let (flow, total) = (self.flow, &self.flow.total);
        let alone = flow.bytes.get() == 0;
        let own = alone || flow.bytes.get() + bytes <= IN_FLIGHT_MAX_BYTES;
        let granted = alone && bytes <= PIECE_MAX_BYTES as usize;
        let common = granted || total.bytes.get() + bytes <= total.bytes_max;
        self.set_waiting(!(own && common), own && !common);
        if own && common {
            flow.charge(bytes);
        }
        flow.poll(context, own && common)
    }

    fn set_waiting(&mut self, waiting: bool, for_total: bool) {
        if std::mem::replace(&mut self.waiting, waiting) != waiting {
            add(&self.flow.waiting, waiting);
        }
        if std::mem::replace(&mut self.waiting_for_total, for_total) != for_total {
            add(&self.flow.total.waiting, for_total);
        }
    }
}

impl Drop for LongRead<'_> {
    fn drop(&mut self) {
        self.set_waiting(false, false);
        add(&self.flow.long_reads, false);
        self.flow.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IN_FLIGHT_TOTAL_MAX_BYTES;

    fn room(flow: &Flow) -> bool {
        flow.poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn flows() -> (Flow, Flow) {
        let total = Rc::new(TotalFlow::new(IN_FLIGHT_TOTAL_MAX_BYTES));
        (Flow::new(Rc::clone(&total)), Flow::new(total))
    }

    fn charges(long: &mut LongRead<'_>, bytes: usize) -> bool {
        long.poll_charge(&mut Context::from_waker(Waker::noop()), bytes).is_ready()
    }

    #[test]
    fn a_connection_stops_at_its_own_limits() {
        let (flow, _) = flows();
        flow.charge(IN_FLIGHT_MAX_BYTES);
        assert!(!room(&flow));
        flow.release(1);
        assert!(room(&flow));
        (0..IN_FLIGHT_REQUESTS_MAX).for_each(|_| flow.begin_request());
        assert!(!room(&flow));
        flow.end_requests(1);
        assert!(room(&flow));
        let long: Vec<_> = (0..LONG_READS_MAX).map(|_| LongRead::begin(&flow)).collect();
        assert!(!room(&flow));
        drop(long);
        assert!(room(&flow));
    }

    #[test]
    fn full_server_grants_a_little_to_everybody() {
        let (greedy, modest) = flows();
        greedy.charge(IN_FLIGHT_TOTAL_MAX_BYTES);
        assert!(greedy.total.is_short());
        assert!(charges(&mut LongRead::begin(&modest), PIECE_MAX_BYTES as usize));
        modest.release(PIECE_MAX_BYTES as usize);
        assert!(room(&modest));
        modest.charge(IN_FLIGHT_GRANTED_BYTES);
        assert!(!room(&modest));
        assert!(!charges(&mut LongRead::begin(&modest), 1));
        greedy.release(IN_FLIGHT_TOTAL_MAX_BYTES);
        assert!(room(&modest) && !greedy.total.is_short());
    }

    #[test]
    fn long_reads_wait_until_they_fit_and_hold_new_requests_back() {
        let (flow, other) = flows();
        flow.charge(1);
        other.charge(IN_FLIGHT_GRANTED_BYTES);
        let mut long = LongRead::begin(&flow);
        assert!(!charges(&mut long, IN_FLIGHT_MAX_BYTES));
        assert!(!room(&flow));
        assert!(room(&other), "who waits for itself keeps nobody else waiting");
        flow.release(1);
        assert!(charges(&mut long, IN_FLIGHT_MAX_BYTES));
        drop(long);
        assert!(!room(&flow));
        flow.release(IN_FLIGHT_MAX_BYTES);
        assert!(room(&flow));
    }

    #[test]
    fn who_waits_for_the_total_goes_first() {
        let (flow, other) = flows();
        other.charge(IN_FLIGHT_TOTAL_MAX_BYTES - 1);
        let mut long = LongRead::begin(&flow);
        assert!(!charges(&mut long, IN_FLIGHT_MAX_BYTES));
        assert!(!room(&other));
        drop(long);
        assert_eq!(flow.total.waiting.get(), 0);
        other.release(IN_FLIGHT_TOTAL_MAX_BYTES - 1);
        assert!(room(&other));
    }
}
