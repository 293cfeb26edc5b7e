//! What is kept of a member besides its entries: its vote, and how its log is numbered.
//!
//! It lies in the engine's place for the group's vote. version u8; flag u8 and the vote, zeroes
//! without one; install u8; the engine's index u64, term and index u64 of the snapshot's last
//! entry.
//! Must never know: sockets, what entries mean.

use super::invalid;
use crate::limits::{SAVED_BYTES, VOTE_BYTES};
use crate::types::encoding::{Bytes, EncodingError, decode_vote, encode_head, encode_vote};
use crate::types::{Entry, LogId, Payload, Proposal, Vote, log_id};
use ashlar_engine::local::LocalGroup;
use ashlar_engine::store::GroupEntry;
use ashlar_engine::units::LogId as EngineId;
use openraft::EntryPayload;
use std::io;

const VERSION: u8 = 1;

/// How far the newest snapshot was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Install {
    /// There never was one.
    #[default]
    Never,
    /// One that ends with this entry is under way: there is neither a log nor volumes to count on.
    Under { upto: LogId },
    /// The engine's entry of this index ended it, and stands for this entry of Raft.
    Done { engine: u64, raft: LogId },
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) vote: Option<Vote>,
    pub(crate) install: Install,
}

impl Saved {
    /// What a group has kept.
    ///
    /// # Errors
    /// If that is not understood.
    pub(crate) fn load(group: &LocalGroup) -> Result<Saved, EncodingError> {
        match &*group.state().vote {
            [] => Ok(Saved::default()),
            bytes => Saved::decode(bytes),
        }
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// As the engine says.
    pub(crate) async fn save(&self, group: &LocalGroup) -> ashlar_engine::Result<()> {
        group.save_vote(&self.encode()).await
    }

    fn encode(&self) -> Vec<u8> {
        let mut into = vec![VERSION, u8::from(self.vote.is_some())];
        into.extend(self.vote.as_ref().map_or(vec![0; VOTE_BYTES], encode_vote));
        let (install, engine, raft) = match self.install {
            Install::Never => (0, 0, log_id(0, 0)),
            Install::Under { upto } => (1, 0, upto),
            Install::Done { engine, raft } => (2, engine, raft),
        };
        into.push(install);
        for number in [engine, raft.committed_leader_id().term, raft.index()] {
            into.extend(number.to_le_bytes());
        }
        debug_assert_eq!(into.len(), SAVED_BYTES);
        into
    }

    fn decode(bytes: &[u8]) -> Result<Saved, EncodingError> {
        let mut bytes = Bytes::of_version(VERSION, bytes)?;
        let has_vote = bytes.flag("vote")?;
        let vote = bytes.take(VOTE_BYTES)?;
        let vote = if has_vote { Some(decode_vote(vote)?) } else { None };
        let install = bytes.u8()?;
        let (engine, raft) = (bytes.u64()?, log_id(bytes.u64()?, bytes.u64()?));
        let install = match install {
            0 => Install::Never,
            1 => Install::Under { upto: raft },
            2 => Install::Done { engine, raft },
            found => return Err(EncodingError::Kind { of: "install", found }),
        };
        bytes.end()?;
        Ok(Saved { vote, install })
    }

    /// The entry that the snapshot ends with.
    pub(super) fn base(&self) -> Option<LogId> {
        match self.install {
            Install::Done { raft, .. } => Some(raft),
            _ => None,
        }
    }

    /// The engine's index of that.
    pub(super) fn engine_base(&self) -> Option<u64> {
        match self.install {
            Install::Done { engine, .. } => Some(engine),
            _ => None,
        }
    }

    /// The index by which the engine knows an entry that is not older than the snapshot.
    pub(crate) fn engine_index(&self, index: u64) -> u64 {
        match self.install {
            Install::Done { engine, raft } => index.saturating_sub(raft.index()) + engine,
            _ => index,
        }
    }

    /// Raft's index of the engine's entry; `None` if that came before the snapshot's end.
    pub(crate) fn raft_index(&self, index: u64) -> Option<u64> {
        match self.install {
            Install::Done { engine, raft } => Some(index.checked_sub(engine)? + raft.index()),
            _ => Some(index),
        }
    }

    /// The engine's identity of an entry. There is one leader in a term, so the term says which.
    pub(super) fn engine_id(&self, id: LogId) -> EngineId {
        let index = self.engine_index(id.index());
        EngineId { term: id.committed_leader_id().term, leader: 0, index }
    }

    /// See [`Saved::engine_id`].
    pub(super) fn raft_id(&self, id: EngineId) -> Option<LogId> {
        match self.install {
            // The engine's terms are those of before the snapshot up to here.
            Install::Done { engine, raft } if engine == id.index => Some(raft),
            _ => Some(log_id(id.term, self.raft_index(id.index)?)),
        }
    }

    pub(super) fn engine_entry(&self, entry: Entry) -> io::Result<GroupEntry> {
        let (id, payload): (LogId, Payload) = (entry.log_id, entry.payload);
        let head = encode_head(&payload).map_err(invalid)?;
        let changes = match payload {
            EntryPayload::Normal(Proposal::Write(write)) => write.changes.into_vec(),
            _ => Vec::new(),
        };
        Ok(GroupEntry { id: self.engine_id(id), head, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_found_again() {
        let done = Install::Done { engine: 7, raft: log_id(3, 1000) };
        for install in [Install::Never, Install::Under { upto: log_id(3, 9) }, done] {
            for vote in [None, Some(Vote::new_committed(4, 2))] {
                let saved = Saved { vote, install };
                let bytes = saved.encode();
                assert_eq!(Saved::decode(&bytes), Ok(saved));
                for end in 0..bytes.len() {
                    assert!(Saved::decode(&bytes[..end]).is_err());
                }
            }
        }
    }

    #[test]
    fn entries_behind_a_snapshot_have_other_numbers() {
        let install = Install::Done { engine: 7, raft: log_id(3, 1000) };
        let saved = Saved { vote: None, install };
        assert_eq!(saved.engine_index(1001), 8);
        assert_eq!(saved.raft_index(8), Some(1001));
        assert_eq!(saved.raft_id(saved.engine_id(log_id(5, 1300))), Some(log_id(5, 1300)));
        assert_eq!(saved.raft_id(EngineId { term: 1, leader: 0, index: 7 }), saved.base());
        assert_eq!(saved.raft_index(6), None);
    }
}
