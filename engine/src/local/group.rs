//! A group on this thread: its log, and what its entries did to its volumes.
//!
//! Invariant: entries and other requests of a group take effect in the order of the calls.
//! Must never know: the rules by which the owner appends, truncates and applies.

use super::{LocalStore, LocalVolume};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Change, GroupEntry, GroupRequest, GroupSpan, GroupState, Outcome, Request};
use crate::units::{GroupId, LogId, VolumeId};
use std::future::Future;
use std::rc::Rc;

/// A group of a [`LocalStore`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalGroup {
    store: LocalStore,
    id: GroupId,
}

impl LocalStore {
    /// All groups that have left something in the store.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner.store.borrow().groups()
    }

    /// Groups that it may have.
    #[must_use]
    pub fn groups_max(&self) -> usize {
        self.inner.store.borrow().groups_max()
    }

    /// Whether entries must be given up at once. Cheap; [`LocalGroup::purge_wanted`] says which.
    #[must_use]
    pub fn is_short_for_groups(&self) -> bool {
        self.inner.store.borrow().is_short_for_groups()
    }

    /// The group; it is made by the first durable change to it. Not 0.
    #[must_use]
    pub fn group(&self, id: GroupId) -> LocalGroup {
        LocalGroup { store: self.clone(), id }
    }
}

impl LocalGroup {
    /// Its identity in the store.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The store it is in.
    #[must_use]
    pub fn store(&self) -> &LocalStore {
        &self.store
    }

    /// How far its log goes. Cheap.
    #[must_use]
    pub fn span(&self) -> GroupSpan {
        self.store.inner.store.borrow().group_span(self.id)
    }

    /// What it knows of itself. Looks at every entry: not for every request.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.store.inner.store.borrow().group_state(self.id)
    }

    /// Makes a vote durable: at most [`crate::limits::VOTE_MAX_BYTES`] that only the owner
    /// understands.
    ///
    /// # Errors
    /// `Invalid` if it is too long or the store has no groups, `Failed` if the store failed.
    pub async fn save_vote(&self, vote: &[u8]) -> Result<()> {
        self.call(GroupRequest::Vote(vote.to_vec())).await.map(drop)
    }

    /// Waits until the store has room for more: call it before [`LocalGroup::append`].
    ///
    /// # Errors
    /// `Closed` if the store is closed.
    pub async fn room(&self) -> Result<()> {
        self.store.room().await
    }

    /// Appends entries, in order; each is in the log whole or not at all. They can be read when
    /// this returns; the future ends when all are durable.
    ///
    /// The first entry of all has index 0 or 1, every other follows the one before.
    ///
    /// # Errors
    /// If they are refused, nothing is appended: `Invalid` if an entry breaks a bound or does not
    /// follow, `NoSpace` if the store is full, too much is not applied or too much is retained,
    /// `Failed` if the store failed. If the future says `NoSpace`, no segment could be had for some
    /// of them: those, and what followed them, are not in the log any more; [`GroupState::last`]
    /// tells what is.
    pub fn append(
        &self,
        entries: Vec<GroupEntry>,
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let inner = &self.store.inner;
        if inner.closed.get() {
            return Err(Error::new(ErrorKind::Closed, "the store is closed"));
        }
        let (call, token) = inner.calls.begin();
        let now = inner.reactor.now();
        let taken = inner.store.borrow_mut().append_entries(now, token, self.id, entries);
        if let Err(error) = taken {
            call.withdraw();
            return Err(error);
        }
        inner.wake_driver();
        Ok(async move { call.await.map(drop) })
    }

    /// Whether [`LocalGroup::append`] would take these entries now: what it refuses is gone.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check_append(&self, entries: &[GroupEntry]) -> Result<()> {
        self.store.inner.store.borrow().check_append(self.id, entries)
    }

    /// Whether there is room for entries with these changes, wherever in the log they come, if so
    /// many blocks more were appended and not applied.
    ///
    /// # Errors
    /// `NoSpace` if there is not, for now.
    pub fn check_room<'a>(
        &self,
        entries: impl Iterator<Item = &'a [Change]> + Clone,
        beyond_blocks: u64,
    ) -> Result<()> {
        self.store.inner.store.borrow().check_room(entries, beyond_blocks)
    }

    /// Blocks that may be appended and not applied, by all groups of the store. An owner that has
    /// every member take what one may have keeps well below that where entries are made: after a
    /// restart more are to be applied again.
    #[must_use]
    pub fn unapplied_max_blocks(&self) -> u64 {
        self.store.inner.store.borrow().unapplied_max_blocks()
    }

    /// Whether there is space for changes, and would be if `margin_blocks` more were mapped.
    ///
    /// # Errors
    /// `NoSpace` if there is not.
    pub fn check_changes(&self, changes: &[Change], margin_blocks: u64) -> Result<()> {
        self.store.inner.store.borrow().check_changes(changes, margin_blocks)
    }

    /// Identity of an entry that is retained, or the last purged or applied.
    #[must_use]
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.store.inner.store.borrow().group_id_at(self.id, index)
    }

    /// The entry of this index, durable or not: from memory, or from the device and proved.
    ///
    /// # Errors
    /// `NotFound` if it is not in the log, `Corrupt` if it does not prove itself.
    pub async fn read(&self, index: u64) -> Result<Rc<GroupEntry>> {
        match self.call(GroupRequest::Read(index)).await? {
            Outcome::Entry(entry) => Ok(entry),
            _ => Err(Error::new(ErrorKind::Failed, "the store answered another question")),
        }
    }

    /// What is left of the entry of this index: its blocks that prove themselves, one by one, and
    /// zeroes for others. The flags say which did: first for those that its head takes, if it
    /// takes whole blocks, then for those of its changes.
    ///
    /// # Errors
    /// `NotFound` if it is not in the log, `Corrupt` if nobody knows what it was made of.
    pub async fn salvage(&self, index: u64) -> Result<(Rc<GroupEntry>, Vec<bool>)> {
        match self.call(GroupRequest::Salvage(index)).await? {
            Outcome::Salvaged(entry, sound) => Ok((entry, sound)),
            _ => Err(Error::new(ErrorKind::Failed, "the store answered another question")),
        }
    }

    /// Writes a damaged entry anew where it is, with what another copy of the log says it holds;
    /// durable when it returns. Nothing is done if it is sound.
    ///
    /// # Errors
    /// `NotFound` if no entry of this identity is in the log, `Invalid` if this is not what it
    /// held, `Corrupt` if nobody knows where it was, `Device` if the device failed.
    pub async fn restore(&self, entry: GroupEntry) -> Result<()> {
        self.call(GroupRequest::Restore(entry)).await.map(drop)
    }

    /// Makes the entries after this index void, `None`: all of them. At once for readers, durable
    /// when it returns.
    ///
    /// # Errors
    /// `Invalid` if one of them is applied, `Failed` if the store failed.
    pub async fn truncate_after(&self, index: Option<u64>) -> Result<()> {
        let first = index.map_or(0, |index| index.saturating_add(1));
        self.call(GroupRequest::Truncate(first)).await.map(drop)
    }

    /// Gives up the entries up to this one, which must be applied; durable when it returns. Waits
    /// for a checkpoint if the durable one has not all of them applied.
    ///
    /// # Errors
    /// `Invalid` if it is not in the log or not applied, `Failed` if the store failed.
    pub async fn purge(&self, upto: LogId) -> Result<()> {
        self.call(GroupRequest::Purge(upto)).await.map(drop)
    }

    /// Applies the entries up to this index, in order, in memory: the volumes show their changes
    /// when it returns. Index and `applied_head` are durable together, with the next checkpoint; a
    /// restart begins with the durable one's, and they are to be applied again from there.
    ///
    /// # Errors
    /// `Invalid` if entries are missing or not durable yet, `Corrupt` if one is damaged. Nothing
    /// is applied then.
    pub fn apply(&self, upto: u64, applied_head: Vec<u8>) -> Result<()> {
        self.apply_except(upto, &[], applied_head)
    }

    /// As [`LocalGroup::apply`], but the entries of these indexes change nothing: the owner found
    /// that they must not. It must find the same when it applies them again after a restart.
    ///
    /// # Errors
    /// As [`LocalGroup::apply`].
    pub fn apply_except(&self, upto: u64, skipped: &[u64], applied_head: Vec<u8>) -> Result<()> {
        let mut store = self.store.inner.store.borrow_mut();
        store.apply_entries_except(self.id, upto, skipped, applied_head)
    }

    /// The group's volumes and their sizes in bytes: those that applied entries created.
    #[must_use]
    pub fn volumes(&self) -> Vec<(VolumeId, u64)> {
        self.store.inner.store.borrow().group_volumes(self.id)
    }

    /// A volume of the group, to read from: it changes by entries only, and refuses the rest.
    ///
    /// # Errors
    /// `NotFound` if no applied entry created it.
    pub fn volume(&self, id: VolumeId) -> Result<LocalVolume> {
        let found = self.volumes().into_iter().find(|(volume, _)| *volume == id);
        let (id, size_bytes) = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the group has no volume {id}"))
        })?;
        Ok(self.store.volume_by_id(id, size_bytes))
    }

    /// Up to where the group should purge, if the store is short of segments that entries hold.
    #[must_use]
    pub fn purge_wanted(&self) -> Option<LogId> {
        self.store.inner.store.borrow().purge_wanted(self.id)
    }

    async fn call(&self, request: GroupRequest) -> Result<Outcome> {
        self.store.call(Request::Group { group: self.id, request }).await
    }
}
