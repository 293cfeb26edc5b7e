//! What a group knows besides its volumes: members, what was applied for whom, writer epochs.
//!
//! It is kept with the applied index, so the same entries give the same on every replica and after
//! every restart. Invariant: it keeps the bounds of its encoding, whatever is applied.
//! Must never know: where it is kept, what commands mean.

use crate::limits::{
    CONTROL_STATE_MAX_BYTES, EPOCHS_MAX, MEMBERSHIP_MAX_BYTES, PROPOSALS_OPEN_MAX,
    PROPOSER_IDLE_ENTRIES, PROPOSERS_MAX,
};
use crate::types::encoding::{
    Bytes, EncodingError, bounded, decode_stored_membership, encode_stored_membership,
};
use crate::types::{Change, Outcome, StoredMembership, Write};
use ashlar_engine::units::VolumeId;
use std::collections::BTreeMap;

const VERSION: u8 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedHead {
    membership: StoredMembership,
    /// Its encoding, which is needed with everything that is applied, while it hardly ever changes.
    membership_bytes: Vec<u8>,
    /// The control group's own state.
    pub control: Vec<u8>,
    proposers: BTreeMap<u64, Proposer>,
    epochs: BTreeMap<VolumeId, u64>,
}

/// What was applied for a proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proposer {
    /// Greatest serial that was applied.
    highest: u64,
    /// Bit i: the serial `highest - i` was.
    applied: u64,
    /// Index of the last entry.
    used: u64,
}

impl Proposer {
    /// Whether this serial was applied. What is older than can be open was.
    fn knows(&self, serial: u64) -> bool {
        match self.highest.checked_sub(serial) {
            None => false,
            Some(age) => age >= PROPOSALS_OPEN_MAX || self.applied >> age & 1 == 1,
        }
    }

    fn add(&mut self, serial: u64, index: u64) {
        let newer = serial.saturating_sub(self.highest);
        let shift = u32::try_from(newer).unwrap_or(u32::MAX);
        self.applied = self.applied.checked_shl(shift).unwrap_or(0);
        self.highest = self.highest.max(serial);
        self.applied |= 1 << (self.highest - serial);
        self.used = index;
    }
}

impl Default for AppliedHead {
    fn default() -> AppliedHead {
        let membership = StoredMembership::default();
        let bytes = encode_stored_membership(&membership);
        AppliedHead {
            membership,
            membership_bytes: bytes.expect("invariant: no members are not too many"),
            control: Vec::new(),
            proposers: BTreeMap::new(),
            epochs: BTreeMap::new(),
        }
    }
}

impl AppliedHead {
    /// The members, and the entry that brought them.
    #[must_use]
    pub fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// Replaces the members.
    ///
    /// # Errors
    /// If there are too many of them, or sets of voters; nothing has changed then.
    pub fn set_membership(&mut self, membership: StoredMembership) -> Result<(), EncodingError> {
        self.membership_bytes = encode_stored_membership(&membership)?;
        self.membership = membership;
        Ok(())
    }

    /// Judges the write of the entry `index`. Its changes are to be done only if so said.
    pub fn write(&mut self, index: u64, write: &Write) -> (Outcome, bool) {
        let known = self.proposers.get(&write.proposer);
        if known.is_some_and(|known| known.knows(write.serial)) {
            return (Outcome::Done, false);
        }
        let newest = write.changes.iter().filter_map(|c| self.epochs.get(&c.volume())).max();
        if let Some(&epoch) = newest.filter(|newest| **newest > write.epoch) {
            return (Outcome::Fenced { epoch }, false);
        }
        if !self.make_room(index, write) {
            return (Outcome::Busy, false);
        }
        let (proposer, serial) = (write.proposer, write.serial);
        let new = Proposer { highest: serial, applied: 0, used: index };
        self.proposers.entry(proposer).or_insert(new).add(serial, index);
        for change in &*write.changes {
            match change {
                Change::DeleteVolume { volume } => drop(self.epochs.remove(volume)),
                // A writer without an epoch leaves none.
                _ if write.epoch == 0 => {}
                _ => drop(self.epochs.insert(change.volume(), write.epoch)),
            }
        }
        (Outcome::Done, true)
    }

    /// Whether the write's proposer and volumes can be remembered; forgets an idle proposer for it.
    fn make_room(&mut self, index: u64, write: &Write) -> bool {
        if write.epoch > 0 {
            let mut new: Vec<VolumeId> = write.changes.iter().map(Change::volume).collect();
            new.sort_unstable();
            new.dedup();
            new.retain(|volume| !self.epochs.contains_key(volume));
            if self.epochs.len() + new.len() > EPOCHS_MAX {
                return false;
            }
        }
        if self.proposers.contains_key(&write.proposer) || self.proposers.len() < PROPOSERS_MAX {
            return true;
        }
        let oldest = self.proposers.iter().min_by_key(|(_, proposer)| proposer.used);
        let Some((&id, _)) =
            oldest.filter(|(_, oldest)| index.saturating_sub(oldest.used) >= PROPOSER_IDLE_ENTRIES)
        else {
            return false;
        };
        self.proposers.remove(&id);
        true
    }

    /// Raises a volume's writer epoch.
    pub fn fence(&mut self, volume: VolumeId, epoch: u64) -> Outcome {
        match self.epochs.get(&volume) {
            Some(&newer) if newer > epoch => return Outcome::Fenced { epoch: newer },
            None if self.epochs.len() == EPOCHS_MAX => return Outcome::Busy,
            _ => {}
        }
        self.epochs.insert(volume, epoch);
        Outcome::Done
    }

    /// A volume's writer epoch, 0 if it has none.
    #[must_use]
    pub fn epoch(&self, volume: VolumeId) -> u64 {
        self.epochs.get(&volume).copied().unwrap_or(0)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// If the control group's state is too large.
    pub fn encode(&self) -> Result<Vec<u8>, EncodingError> {
        let numbers = self.proposers.len() * 4 + self.epochs.len() * 2 + 2;
        let others = self.membership_bytes.len() + self.control.len();
        let mut into = Vec::with_capacity(others + numbers * size_of::<u64>());
        into.push(VERSION);
        into.extend((self.membership_bytes.len() as u16).to_le_bytes());
        into.extend_from_slice(&self.membership_bytes);
        into.extend((self.proposers.len() as u16).to_le_bytes());
        for (id, proposer) in &self.proposers {
            for number in [*id, proposer.highest, proposer.applied, proposer.used] {
                into.extend(number.to_le_bytes());
            }
        }
        into.extend((self.epochs.len() as u16).to_le_bytes());
        for (volume, epoch) in &self.epochs {
            into.extend(volume.0.to_le_bytes());
            into.extend(epoch.to_le_bytes());
        }
        let of = "bytes of the control state";
        let control = bounded(of, CONTROL_STATE_MAX_BYTES, self.control.len())?;
        into.extend((control as u32).to_le_bytes());
        into.extend_from_slice(&self.control);
        Ok(into)
    }

    /// What [`AppliedHead::encode`] made these bytes of.
    ///
    /// # Errors
    /// If there is nothing.
    pub fn decode(bytes: &[u8]) -> Result<AppliedHead, EncodingError> {
        let mut bytes = Bytes::of_version(VERSION, bytes)?;
        let len = bounded("bytes of a membership", MEMBERSHIP_MAX_BYTES + 32, bytes.u16()?.into())?;
        let membership_bytes = bytes.take(len)?.to_vec();
        let membership = decode_stored_membership(&membership_bytes)?;
        let count = bounded("proposers", PROPOSERS_MAX, bytes.u16()?.into())?;
        let mut proposers = BTreeMap::new();
        for _ in 0..count {
            let id = bytes.u64()?;
            if proposers.last_key_value().is_some_and(|(before, _)| *before >= id) {
                return Err(EncodingError::Order);
            }
            let (highest, applied, used) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
            proposers.insert(id, Proposer { highest, applied, used });
        }
        let count = bounded("epochs", EPOCHS_MAX, bytes.u16()?.into())?;
        let mut epochs = BTreeMap::new();
        for _ in 0..count {
            let volume = VolumeId(bytes.u32()?);
            if epochs.last_key_value().is_some_and(|(before, _)| *before >= volume) {
                return Err(EncodingError::Order);
            }
            epochs.insert(volume, bytes.u64()?);
        }
        let of = "bytes of the control state";
        let len = bounded(of, CONTROL_STATE_MAX_BYTES, bytes.u32()? as usize)?;
        let control = bytes.take(len)?.to_vec();
        bytes.end()?;
        Ok(AppliedHead { membership, membership_bytes, control, proposers, epochs })
    }
}
