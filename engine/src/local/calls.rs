//! Calls on their way: who gets the store's answer to which token.
//!
//! Invariants: every call is answered once, to its future or to what it was begun for; a call whose
//! future was dropped keeps its token until the store has answered.
//! Must never know: the store's insides, what is asked.

use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Outcome;
use slab::Slab;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Takes the answers of calls that have no future: a task for each would cost more than the call.
pub trait Answers {
    /// The call of this tag is done: the bytes read, in order; none for a write.
    ///
    /// The store is busy while it answers: do not call it from here.
    fn answer(&self, tag: u64, result: Result<Vec<Buffer>>);
}

/// A call waiting for its answer.
enum Slot {
    Waiting(Option<Waker>),
    /// The answer goes there, with this tag.
    Direct(Rc<dyn Answers>, u64),
    Answered(Result<Outcome>),
    /// Nobody waits any more.
    Dropped,
}

type Slots = RefCell<Slab<Slot>>;

/// All calls of a store that are not done. The store's tokens are their keys.
#[derive(Default)]
pub(super) struct Calls {
    slots: Rc<Slots>,
}

impl Calls {
    /// A call with a future, and its token.
    pub(super) fn begin(&self) -> (Call, u64) {
        let slot = self.slots.borrow_mut().insert(Slot::Waiting(None));
        (Call { slots: Rc::clone(&self.slots), slot }, slot as u64)
    }

    /// The token of a call whose answer goes to `answers`.
    pub(super) fn begin_direct(&self, answers: Rc<dyn Answers>, tag: u64) -> u64 {
        self.slots.borrow_mut().insert(Slot::Direct(answers, tag)) as u64
    }

    /// Hands the answer over.
    pub(super) fn answer(&self, token: u64, result: Result<Outcome>) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[token as usize];
        if let Slot::Waiting(waker) = slot {
            let waker = waker.take();
            *slot = Slot::Answered(result);
            waker.into_iter().for_each(Waker::wake);
            return;
        }
        let slot = slots.remove(token as usize);
        drop(slots); // Whoever is answered may begin or drop other calls.
        if let Slot::Direct(answers, tag) = slot {
            answers.answer(tag, result.map(Outcome::into_buffers));
        }
    }

    /// There will be no answers: lets go of whoever would get them, who may hold the store.
    pub(super) fn let_go(&self) {
        let mut slots = self.slots.borrow_mut();
        let direct = slots.iter_mut().filter(|(_, slot)| matches!(slot, Slot::Direct(..)));
        let let_go: Vec<Slot> =
            direct.map(|(_, slot)| std::mem::replace(slot, Slot::Dropped)).collect();
        drop(slots);
        drop(let_go); // Outside the borrow.
    }
}

/// An answer that is on its way.
pub(super) struct Call {
    slots: Rc<Slots>,
    slot: usize,
}

impl Call {
    /// The store did not take it: there will be no answer.
    pub(super) fn withdraw(self) {
        // Else the slot would stay for the answer.
        self.slots.borrow_mut()[self.slot] = Slot::Dropped;
    }
}

impl Future for Call {
    type Output = Result<Outcome>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Outcome>> {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        match slot {
            Slot::Waiting(waker) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            _ => match std::mem::replace(slot, Slot::Dropped) {
                Slot::Answered(result) => Poll::Ready(result),
                _ => Poll::Ready(Err(Error::new(ErrorKind::Closed, "the call is over"))),
            },
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut slots = self.slots.borrow_mut();
        match &mut slots[self.slot] {
            // The store still holds the token: the answer frees the slot.
            slot @ Slot::Waiting(_) => *slot = Slot::Dropped,
            _ => drop(slots.remove(self.slot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Notes what it is answered, and holds on to what it is answered by.
    #[derive(Default)]
    struct Noted {
        tags: RefCell<Vec<u64>>,
        calls: Rc<Calls>,
    }

    impl Answers for Noted {
        fn answer(&self, tag: u64, result: Result<Vec<Buffer>>) {
            assert!(result.is_ok_and(|buffers| buffers.is_empty()));
            self.tags.borrow_mut().push(tag);
            let (call, _) = self.calls.begin();
            drop(call); // The table is not locked while it answers.
        }
    }

    #[test]
    fn answers_go_to_whoever_asked() {
        let noted = Rc::new(Noted::default());
        let calls = &noted.calls;
        let first = calls.begin_direct(noted.clone(), 7);
        let (call, second) = calls.begin();
        let third = calls.begin_direct(noted.clone(), 8);
        calls.answer(third, Ok(Outcome::Done));
        calls.answer(second, Ok(Outcome::Done));
        calls.answer(first, Ok(Outcome::Done));
        assert_eq!(*noted.tags.borrow(), [8, 7]);
        let mut call = std::pin::pin!(call);
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(Outcome::Done))));
    }

    #[test]
    fn a_call_that_was_not_taken_leaves_nothing() {
        let calls = Calls::default();
        let (call, _) = calls.begin();
        call.withdraw();
        assert!(calls.slots.borrow().is_empty());
    }

    /// Tells that it was dropped.
    struct Held(Rc<Cell<bool>>, #[expect(dead_code, reason = "held only")] Rc<Calls>);

    impl Answers for Held {
        fn answer(&self, _tag: u64, _result: Result<Vec<Buffer>>) {
            panic!("nobody answers");
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn who_waits_in_vain_is_let_go() {
        let (calls, dropped) = (Rc::new(Calls::default()), Rc::new(Cell::new(false)));
        let (call, token) = calls.begin();
        calls.begin_direct(Rc::new(Held(Rc::clone(&dropped), Rc::clone(&calls))), 1);
        calls.let_go();
        assert!(dropped.get());
        drop(call);
        calls.answer(token, Ok(Outcome::Done));
    }
}
