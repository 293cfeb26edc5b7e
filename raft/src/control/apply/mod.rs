//! What each command does.
//!
//! Invariant: a command is checked whole before anything is changed.
//! Must never know: who is alive, time.

mod groups;
mod nodes;
mod provision;
mod volumes;

use super::ControlState;
use super::command::{Command, Operation};
use super::outcome::{Outcome, Refusal};

pub(super) use nodes::check_spec;
pub(super) use volumes::possible_slice;

/// What was done, or why not.
type Applied = Result<Outcome, Refusal>;

impl ControlState {
    /// Applies the command at `index` of the control group's log. Indexes grow.
    pub fn apply(&mut self, index: u64, command: Command) -> Outcome {
        assert!(index > self.applied, "a log is applied in order");
        self.applied = index;
        let Command { proposer, serial, operation } = command;
        if let Some(outcome) = self.retries.known(proposer, serial) {
            return outcome;
        }
        let before = self.epoch;
        let outcome = match self.carry_out(index, operation) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                debug_assert_eq!(self.epoch, before, "a refused command changes nothing");
                Outcome::Refused(refusal)
            }
        };
        self.retries.remember(index, proposer, serial, outcome.clone());
        outcome
    }

    fn carry_out(&mut self, index: u64, operation: Operation) -> Applied {
        if let Operation::Init { cluster, node, store, policy } = operation {
            return self.init(index, cluster, node, store, policy);
        }
        if self.cluster.is_none() {
            return Err(Refusal::NoCluster);
        }
        match operation {
            Operation::Init { .. } => Err(Refusal::ClusterExists),
            Operation::AdmitNode { cluster, node } => self.admit_node(index, cluster, node),
            Operation::UpdateNode { node, spec } => self.update_node(node, spec),
            Operation::Drain { node, on } => self.drain(node, on),
            Operation::RemoveNode { node } => self.remove_node(node),
            Operation::AddStore { node, store } => self.add_store(index, node, store),
            Operation::RemoveStore { store } => self.remove_store(store),
            Operation::SetWeight { store, weight } => self.set_weight(store, weight),
            Operation::CreateVolume { name, size_bytes, policy, slice_bytes, avoid } => {
                self.create_volume(index, name, size_bytes, policy, slice_bytes, avoid)
            }
            Operation::DeleteVolume { volume } => self.delete_volume(volume),
            Operation::VolumeDropped { volume } => self.volume_dropped(volume),
            Operation::Attach { volume, node } => self.attach(volume, node),
            Operation::Detach { volume, node, epoch } => self.detach(volume, node, epoch),
            Operation::SetControlPolicy { policy } => self.set_control_policy(policy),
            Operation::SetSettings { settings } => self.set_settings(settings),
            Operation::GroupStarted { group, epoch } => self.group_started(group, epoch),
            Operation::Aim { group, epoch, target } => self.aim(group, epoch, target),
            Operation::Begin { group, epoch, step } => self.begin(group, epoch, step),
            Operation::Finish { group, epoch, done } => self.finish(group, epoch, done),
        }
    }

    /// Something was changed.
    fn changed(&mut self) {
        self.epoch += 1;
    }
}
