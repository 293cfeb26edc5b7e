//! Bytes of the control group: decoders never panic, what they accept encodes to the same bytes,
//! and whatever commands come, the state stays sound and a plan can be made for it.
//!
//! The first byte says what follows: a command, an outcome, a snapshot, or a log of commands, each
//! behind its length in 16 bits.

use crate::input::Input;
use ashlar_engine::units::Nanos;
use ashlar_raft::control::{Command, ControlState, Health, Outcome, notes, plan};

/// See the module.
pub fn target(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind {
        0 => {
            if let Ok(command) = Command::decode(rest) {
                assert_eq!(command.encode().as_deref(), Ok(rest));
            }
        }
        1 => {
            if let Ok(outcome) = Outcome::decode(rest) {
                assert_eq!(outcome.encode(), rest);
            }
        }
        2 => {
            if let Ok(state) = ControlState::decode(rest) {
                assert_eq!(state.encode(), rest);
                look(&state);
            }
        }
        _ => log(rest),
    }
}

/// Applies a log of commands.
fn log(data: &[u8]) {
    let mut input = Input(data);
    let mut state = ControlState::default();
    while !input.is_empty() {
        let length = usize::from(input.u16()).min(input.0.len());
        let (bytes, rest) = input.0.split_at(length);
        input = Input(rest);
        let Ok(command) = Command::decode(bytes) else { continue };
        let outcome = state.apply(state.applied() + 1, command.clone());
        assert_eq!(Outcome::decode(&outcome.encode()).as_ref(), Ok(&outcome));
        assert_eq!(state.check(), Ok(()));
        // A retry is answered alike.
        assert_eq!(state.apply(state.applied() + 1, command), outcome);
    }
    assert_eq!(ControlState::decode(&state.encode()).as_ref(), Ok(&state));
    look(&state);
}

/// Plans with all nodes up, with all nodes dead, and with none heard of.
fn look(state: &ControlState) {
    let mut health = Health::default();
    let _ = plan(state, &health, Nanos(0));
    health.nodes = state.nodes().keys().map(|node| (*node, Nanos(0))).collect();
    for now in [Nanos(0), Nanos(u64::MAX)] {
        let _ = plan(state, &health, now);
        let _ = notes(state, &health, now);
    }
}
