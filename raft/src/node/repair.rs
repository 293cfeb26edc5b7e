//! Repair of a damaged log before its member runs: entries are asked of other nodes by their
//! identity, and written anew where they are.
//!
//! Any node that has the entry answers, whether its own member runs or not: where every log is
//! damaged, each elsewhere, all are repaired. One that no node has whole is put together of the
//! blocks that prove themselves here and there ([`super::left`]). An entry of which a block is gone
//! everywhere is left, and the member gets a snapshot.
//! Invariant: a log with a damaged entry is never shown to openraft, so that no member votes on a
//! hole.
//! Must never know: what entries mean.

use super::Inner;
use super::answer::{Answer, Fault};
use super::message::{EntryName, Message, bytes_of};
use super::replica::{refused, unknown};
use crate::control::PgId;
use crate::limits::{HEAD_MAX_BYTES, PROPOSAL_BLOCKS_MAX, REPAIR_ASK_MAX};
use crate::log_store::{Install, Saved};
use crate::placement::NodeId;
use crate::types::encoding::{Bytes, bounded, decode_changes, encode_changes, gather_blocks};
use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::LocalGroup;
use ashlar_engine::store::{Change, Faulty, GroupEntry};
use ashlar_engine::units::{GroupId, LogId};
use std::collections::BTreeSet;
use std::fmt::Display;

/// Head and changes of an entry.
pub(super) type Entry = (Vec<u8>, Vec<Change>);

impl Inner {
    /// Repairs all damaged entries of a group's log here. How many there were.
    pub(super) async fn repair_log(&self, id: PgId) -> Answer<usize> {
        let group = self.store.group(GroupId(id.0));
        let faulty = group.state().faulty;
        let saved = Saved::load(&group).map_err(|e| refused(ErrorKind::Corrupt, &e))?;
        if matches!(saved.install, Install::Under { .. }) {
            return Err(refused(ErrorKind::Busy, &"the member is being brought up by a snapshot"));
        }
        let mut fault = None;
        for Faulty { index, known } in &faulty {
            // The device may have failed to read it for a while only.
            if group.read(*index).await.is_ok() {
                continue;
            }
            let name = known.and_then(|known| {
                Some(EntryName { term: known.term, index: saved.raft_index(*index)? })
            });
            let (Some(known), Some(name)) = (*known, name) else {
                let why = format!("nobody knows what entry {index} was");
                fault = Some(refused(ErrorKind::Corrupt, &why));
                continue;
            };
            match self.entry_of_any(&group, *index, name).await {
                Ok((head, changes)) => {
                    let entry = GroupEntry { id: known, head, changes };
                    fault = group.restore(entry).await.map_err(Fault::Refused).err().or(fault);
                }
                Err(error) => fault = Some(error),
            }
        }
        fault.map_or(Ok(faulty.len()), Err)
    }

    /// Nodes that may have an entry of a group: those with members of it, else all that are known.
    fn who_may_have(&self, id: PgId) -> Vec<NodeId> {
        let map = self.map.newest();
        let members = map.groups().get(&id).map(|group| group.members.iter());
        let stores = members.into_iter().flatten().map(|member| member.store);
        let mut nodes: BTreeSet<NodeId> =
            stores.filter_map(|store| Some(map.stores().get(&store)?.node)).collect();
        if nodes.is_empty() {
            nodes.extend(map.nodes().keys());
            nodes.extend(self.options.peers.iter().map(|(node, _)| *node));
        }
        nodes.remove(&self.options.id);
        nodes.into_iter().collect()
    }

    async fn entry_of_any(&self, group: &LocalGroup, index: u64, name: EntryName) -> Answer<Entry> {
        let id = PgId(group.id().0);
        let mut fault = refused(ErrorKind::NotFound, &"no other node is known");
        let mut damaged = Vec::new();
        for node in self.who_may_have(id) {
            match self.ask_for_entry(node, id, Message::Entry(name)).await {
                Ok((bytes, parts)) => match self.decode_entry(&bytes, parts) {
                    Ok(entry) => return Ok(entry),
                    Err(error) => fault = error,
                },
                Err(error) => {
                    if matches!(&error, Fault::Refused(why) if why.kind() == ErrorKind::Corrupt) {
                        damaged.push(node);
                    }
                    fault = error;
                }
            }
        }
        match self.put_together(group, index, name, &damaged).await {
            Some(entry) => Ok(entry),
            None => Err(fault),
        }
    }

    /// Asks one node for something of an entry.
    pub(super) async fn ask_for_entry(
        &self,
        node: NodeId,
        id: PgId,
        message: Message,
    ) -> Answer<(Vec<u8>, Vec<Buffer>)> {
        let blocks_max = bytes_of(PROPOSAL_BLOCKS_MAX as u64) + HEAD_MAX_BYTES;
        let asked = self.ask(node, id, message, blocks_max);
        let answer = self.reactor.within(REPAIR_ASK_MAX, asked).await;
        answer.unwrap_or_else(|| Err(unknown(&"a node does not answer")))
    }

    /// An entry for another node: its head, the table of its changes, and their blocks.
    pub(super) async fn entry_for(
        &self,
        id: PgId,
        name: EntryName,
        payload: &mut Vec<Buffer>,
    ) -> Answer<Vec<u8>> {
        let (group, index) = self.find_entry(id, name)?;
        let entry = group.read(index).await.map_err(Fault::Refused)?;
        self.encode_entry(&entry, payload)
    }

    /// Where an entry of this name is here.
    pub(super) fn find_entry(&self, id: PgId, name: EntryName) -> Answer<(LocalGroup, u64)> {
        let group = self.store.group(GroupId(id.0));
        let saved = Saved::load(&group).map_err(|e| refused(ErrorKind::Corrupt, &e))?;
        let index = match saved.install {
            Install::Under { .. } => None,
            _ => Some(saved.engine_index(name.index)),
        };
        let index = index.filter(|index| saved.raft_index(*index) == Some(name.index));
        let found = index.and_then(|index| group.id_at(index));
        let Some(LogId { index, .. }) = found.filter(|found| found.term == name.term) else {
            return Err(refused(ErrorKind::NotFound, &"the entry is not in this log"));
        };
        Ok((group, index))
    }

    pub(super) fn encode_entry(
        &self,
        entry: &GroupEntry,
        payload: &mut Vec<Buffer>,
    ) -> Answer<Vec<u8>> {
        let table = encode_changes(&entry.changes).map_err(|e| refused(ErrorKind::Invalid, &e))?;
        let mut into = (entry.head.len() as u32).to_le_bytes().to_vec();
        into.extend(&entry.head);
        into.extend(table);
        payload.extend(gather_blocks(&entry.changes, self.reactor.pool()));
        Ok(into)
    }

    /// What [`Inner::encode_entry`] made these of.
    pub(super) fn decode_entry(&self, bytes: &[u8], mut parts: Vec<Buffer>) -> Answer<Entry> {
        let wrong = |error: &dyn Display| unknown(&format!("no entry was sent: {error}"));
        let mut bytes = Bytes::new(bytes);
        let len = bytes.u32().map_err(|e| wrong(&e))? as usize;
        let len = bounded("bytes of a head", HEAD_MAX_BYTES, len).map_err(|e| wrong(&e))?;
        let head = bytes.take(len).map_err(|e| wrong(&e))?.to_vec();
        if parts.len() > 1 {
            return Err(wrong(&"its blocks come in one part"));
        }
        let changes = decode_changes(bytes.rest(), parts.pop()).map_err(|e| wrong(&e))?;
        Ok((head, changes.into_vec()))
    }
}
