//! The control group's state machine, as a replica of it on this node sees it.
//!
//! Invariant: what a command makes of the state follows from state, index and command alone; a
//! state that would be too large to be kept is not made.
//! Must never know: sockets, who leads.

use super::map::Map;
use crate::control::{Bound, Command, ControlState, Outcome, Refusal};
use crate::limits::CONTROL_STATE_MAX_BYTES;
use crate::state_machine::Commands;
use std::io;
use std::rc::Rc;

/// See the module.
pub(super) struct ControlCommands {
    state: ControlState,
    saved: Vec<u8>,
    /// Bytes that `saved` has at most until something is added.
    at_most: usize,
    map: Rc<Map>,
}

impl ControlCommands {
    /// Whatever is applied is shown in `map`.
    pub(super) fn new(map: Rc<Map>) -> ControlCommands {
        ControlCommands { state: ControlState::default(), saved: Vec::new(), at_most: 0, map }
    }

    fn carry_out(&mut self, index: u64, command: &[u8]) -> Outcome {
        // A newer version's command is in the log only once all members understand it.
        let Ok(command) = Command::decode(command) else {
            return Outcome::Refused(Refusal::TooOld);
        };
        let before = self.state.clone();
        let outcome = self.state.apply(index, command);
        let saved = self.state.encode();
        let at_most = self.state.bytes_at_most(saved.len());
        // What adds nothing must go on in a full cluster, or it could be neither run nor emptied.
        if at_most <= CONTROL_STATE_MAX_BYTES.max(self.at_most) {
            (self.saved, self.at_most) = (saved, at_most);
            return outcome;
        }
        self.state = before;
        Outcome::Refused(Refusal::Full(Bound::State))
    }
}

impl Commands for ControlCommands {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let outcome = self.carry_out(index, command);
        self.map.show(&self.state);
        outcome.encode()
    }

    fn save(&self) -> Vec<u8> {
        self.saved.clone()
    }

    fn restore(&mut self, saved: &[u8]) -> io::Result<()> {
        self.state = match saved {
            [] => ControlState::default(),
            bytes => ControlState::decode(bytes).map_err(io::Error::other)?,
        };
        self.at_most = self.state.bytes_at_most(saved.len());
        self.saved = saved.to_vec();
        self.map.show(&self.state);
        Ok(())
    }
}
