//! The newest map of the cluster that this node knows.
//!
//! Invariant: it never goes back.
//! Must never know: where maps come from.

use crate::control::ControlState;
use crate::runtime::{Watch, WatchReceiver, WatchSender};
use openraft_rt::Watch as _;
use openraft_rt::watch::WatchSender as _;
use std::cell::RefCell;
use std::rc::Rc;

/// See the module.
pub(super) struct Map {
    newest: RefCell<Rc<ControlState>>,
    epoch: WatchSender<u64>,
}

impl Map {
    pub(super) fn new() -> Map {
        let (epoch, _) = Watch::channel(0);
        Map { newest: RefCell::default(), epoch }
    }

    /// The newest one.
    pub(super) fn newest(&self) -> Rc<ControlState> {
        Rc::clone(&self.newest.borrow())
    }

    /// Takes a map that came from somewhere.
    pub(super) fn show(&self, state: &ControlState) {
        if state.epoch() <= self.newest.borrow().epoch() {
            return;
        }
        let epoch = state.epoch();
        self.newest.replace(Rc::new(state.clone()));
        self.epoch.send_if_modified(|known| {
            *known = epoch;
            true
        });
    }

    /// Its epoch, to wait for a newer one.
    pub(super) fn watch(&self) -> WatchReceiver<u64> {
        self.epoch.subscribe()
    }
}
