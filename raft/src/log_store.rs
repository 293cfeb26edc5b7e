//! A group's log and vote for openraft, kept by the engine.
//!
//! Invariants: an entry can be read when `append` returns, and openraft is told of it when it is
//! durable; a vote is durable when `save_vote` returns; votes, entries and truncations become
//! durable in the order of the calls. A log with damage, or of a member that is being brought up,
//! is not opened at all.
//!
//! The engine numbers the entries of a group without a gap. A member that was brought up by a
//! snapshot has a log that goes on behind the snapshot's entry, so its numbers are others:
//! [`Saved`] says how many.
//! Must never know: sockets, what entries mean.

mod admission;
mod mender;
mod saved;
#[cfg(test)]
mod tests;

pub(crate) use admission::Admission;
pub use mender::Mender;
pub(crate) use mender::Mending;
pub(crate) use saved::{Install, Saved};

use crate::limits::{READ_HEADS_MAX_BYTES, READ_MAX_BYTES, WIRE_CHANGE_MAX_BYTES};
use crate::runtime::{Watch, WatchSender};
use crate::types::encoding::decode_head;
use crate::types::{Changes, Config, Entry, LogId, Vote};
use ashlar_engine::local::LocalGroup;
use ashlar_engine::store::GroupEntry;
use ashlar_engine::{Error, ErrorKind};
use futures_util::stream::{Stream, try_unfold};
use openraft::LogIdOptionExt;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft_rt::Watch as _;
use openraft_rt::watch::{WatchReceiver as _, WatchSender as _};
use std::cell::Cell;
use std::fmt::{self, Debug};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;
use std::time::Duration;

/// Pause before a log that has no room is tried again.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// The log of one group. Cheap to clone; a clone reads what the other appends.
#[derive(Clone)]
pub struct LogStore {
    inner: Rc<Inner>,
}

struct Inner {
    group: LocalGroup,
    saved: Cell<Saved>,
    /// Nothing is changed any more.
    closed: Cell<bool>,
    admission: Admission,
    /// Entries up to here are given up, on the device soon.
    purged: Cell<Option<LogId>>,
    /// How far the log is durable, for those that wait.
    durable: WatchSender<Durable>,
    /// Truncations so far: what was appended before one may be gone when it becomes durable.
    truncations: Cell<u64>,
    /// How far the log was durable when [`LogStore::stands_still`] was asked last.
    looked: Cell<Option<u64>>,
    mending: Mending,
}

/// How large an entry is.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// In memory.
    bytes: usize,
    /// All but its blocks, on the wire.
    head_bytes: usize,
}

/// How far a log is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Durable {
    upto: Option<u64>,
    failed: bool,
}

impl LogStore {
    /// The log of `group`, as it was left.
    ///
    /// # Errors
    /// `InvalidData` if it is damaged: then it must be repaired from other nodes before openraft
    /// may see it.
    pub fn open(group: LocalGroup) -> io::Result<LogStore> {
        let state = group.state();
        if let Some(first) = state.faulty.first() {
            let (count, index) = (state.faulty.len(), first.index);
            let why = format!("{count} entries of the log are damaged, the first is {index}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let saved = Saved::load(&group).map_err(invalid)?;
        if matches!(saved.install, Install::Under { .. }) {
            let why = "the member is being brought up from another one's blocks";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let upto = state.durable.and_then(|id| saved.raft_id(id)).index();
        let (durable, _) = Watch::channel(Durable { upto, failed: false });
        let base = saved.base();
        let purged = state.purged.and_then(|id| saved.raft_id(id)).max(base);
        let (closed, admission) = (Cell::new(false), Admission::new(group.clone()));
        let (purged, saved, truncations) = (Cell::new(purged), Cell::new(saved), Cell::new(0));
        let log = LogStore {
            inner: Rc::new(Inner {
                group,
                saved,
                closed,
                admission,
                purged,
                durable,
                truncations,
                looked: Cell::default(),
                mending: Mending::default(),
            }),
        };
        // What a snapshot came in is no part of the log: openraft never has that given up.
        if let Some(base) = base {
            log.give_up(base);
        }
        Ok(log)
    }

    /// Says who gets damaged entries from other members.
    pub(crate) fn set_mender(&self, mender: Rc<dyn Mender>) {
        self.inner.mending.set(mender);
    }

    /// Changes nothing any more: who still tries is refused.
    pub(crate) fn close(&self) {
        self.inner.closed.set(true);
    }

    fn check_open(&self) -> io::Result<()> {
        match self.inner.closed.get() {
            true => Err(io::Error::other("the member has been stopped")),
            false => Ok(()),
        }
    }

    /// The way in for those who will have openraft append.
    pub(crate) fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    /// Identity of an entry that is retained, or the last one that was given up or applied.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        let saved = self.inner.saved.get();
        let id = self.inner.group.id_at(saved.engine_index(index))?;
        saved.raft_id(id).filter(|id| id.index() == index)
    }

    /// Whether an entry is in the log, or was.
    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.applied() >= Some(id) || self.id_at(id.index()) == Some(id)
    }

    /// The newest vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.inner.saved.get().vote
    }

    /// The last entry, or what is given up before it.
    pub(crate) fn last(&self) -> Option<LogId> {
        let last = self.inner.group.span().last;
        last.and_then(|id| self.inner.saved.get().raft_id(id)).max(self.inner.purged.get())
    }

    /// The last entry that is given up.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.inner.purged.get()
    }

    /// The last entry that is applied.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.inner.group.span().applied.and_then(|id| self.inner.saved.get().raft_id(id))
    }

    /// Index of the first entry that is kept, if any is.
    pub(crate) fn first(&self) -> Option<u64> {
        let first = self.inner.group.span().first?;
        let first = self.inner.saved.get().raft_index(first);
        Some(first.unwrap_or(0).max(self.inner.purged.get().next_index()))
    }

    /// Up to where entries should be given up, because the store is short of room.
    pub(crate) fn purge_wanted(&self) -> Option<u64> {
        let wanted = self.inner.group.purge_wanted()?;
        self.inner.saved.get().raft_index(wanted.index)
    }

    /// Applies the entries up to this index, but for those that are skipped.
    pub(crate) fn apply_except(
        &self,
        upto: u64,
        skipped: &[u64],
        applied_head: Vec<u8>,
    ) -> io::Result<()> {
        self.check_open()?;
        let saved = self.inner.saved.get();
        let skipped: Vec<u64> = skipped.iter().map(|index| saved.engine_index(*index)).collect();
        let upto = saved.engine_index(upto);
        let applied = self.inner.group.apply_except(upto, &skipped, applied_head);
        applied.map_err(|error| io_error(&error))
    }

    /// The group below.
    #[must_use]
    pub fn group(&self) -> &LocalGroup {
        &self.inner.group
    }

    /// Waits until the entry of this index is durable. It must be one that is never truncated.
    pub(crate) async fn wait_durable(&self, index: u64) -> io::Result<()> {
        let mut watched = self.inner.durable.subscribe();
        loop {
            let durable = *watched.borrow_and_update();
            if durable.upto >= Some(index) {
                return Ok(());
            }
            if durable.failed {
                return Err(io::Error::other("the log cannot be written any more"));
            }
            watched.changed().await.map_err(io::Error::other)?;
        }
    }

    /// The entry of this index, if it is in the log.
    async fn read(&self, index: u64) -> io::Result<Option<(Entry, Size)>> {
        if self.inner.purged.get().index() >= Some(index) {
            return Ok(None);
        }
        let saved = self.inner.saved.get();
        let own = saved.engine_index(index);
        let mut read = self.inner.group.read(own).await;
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt)
            && self.inner.mending.entries().await
        {
            read = self.inner.group.read(own).await;
        }
        let entry = match read {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&error)),
        };
        let head_bytes = entry.head.len() + WIRE_CHANGE_MAX_BYTES * (1 + entry.changes.len());
        let size = Size { bytes: entry.bytes(), head_bytes };
        let id = saved.raft_id(entry.id);
        let id = id.ok_or_else(|| io::Error::other("the entry is no entry of this log"))?;
        let head = decode_head(&entry.head).map_err(invalid)?;
        let payload = head.with_changes(Changes::from(entry)).map_err(invalid)?;
        Ok(Some((Entry::new(id, payload), size)))
    }

    /// Gives up entries at once for readers; on the device once a checkpoint has them applied.
    fn give_up(&self, upto: LogId) {
        let inner = Rc::clone(&self.inner);
        inner.purged.set(inner.purged.get().max(Some(upto)));
        let reactor = inner.group.store().reactor().clone();
        let upto = inner.saved.get().engine_index(upto.index());
        let purge = async move {
            // If the store has failed, whoever writes next is told; it starts with more entries.
            if let Some(upto) = inner.group.id_at(upto) {
                inner.group.purge(upto).await.ok();
            }
        };
        reactor.spawn(purge).detach();
    }

    /// Gives up what the store wants given up, where openraft does not get to it: it does nothing
    /// else while it waits for room or, if it follows, for what it appended. It finds out later.
    pub(crate) fn relieve(&self) {
        let wanted = self.purge_wanted().and_then(|index| self.id_at(index));
        if let Some(upto) = wanted.filter(|upto| Some(*upto) > self.inner.purged.get()) {
            self.give_up(upto);
        }
    }

    /// Whether entries wait to become durable, and none has since this was last asked.
    pub(crate) fn stands_still(&self) -> bool {
        let durable = self.inner.durable.borrow_watched().upto;
        self.inner.looked.replace(durable) == durable && self.last().index() > durable
    }

    /// The index to begin with, where `start` is asked for.
    pub(crate) fn begin(&self, start: u64) -> u64 {
        start.max(self.first().unwrap_or(0)).max(self.inner.purged.get().next_index())
    }

    /// Entries of this range, without a gap; as many as have this many bytes, and one at least.
    async fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let (mut bytes, mut heads) = (0, 0);
        for index in self.begin(start)..end {
            let Some((entry, size)) = self.read(index).await? else { break };
            entries.push(entry);
            bytes += size.bytes;
            heads += size.head_bytes;
            if bytes >= bytes_max || bytes_max < usize::MAX && heads >= READ_HEADS_MAX_BYTES {
                break;
            }
        }
        Ok(entries)
    }
}

impl Inner {
    /// What was appended before so many truncations is durable up to this index, or will not be.
    fn appended(&self, upto: u64, truncations: u64, result: &io::Result<()>) {
        self.durable.send_if_modified(|durable| {
            match result {
                Ok(()) if truncations == self.truncations.get() => {
                    durable.upto = durable.upto.max(Some(upto));
                }
                Ok(()) => return false,
                Err(_) => durable.failed = true,
            }
            true
        });
    }
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let last_purged_log_id = self.inner.purged.get();
        Ok(LogState { last_purged_log_id, last_log_id: self.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.check_open()?;
        let saved = Saved { vote: Some(*vote), ..self.inner.saved.get() };
        saved.save(&self.inner.group).await.map_err(|error| io_error(&error))?;
        self.inner.saved.set(saved);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry>,
    {
        let inner = &self.inner;
        let reactor = inner.group.store().reactor();
        self.check_open()?;
        let saved = inner.saved.get();
        let made = entries.into_iter().map(|entry| saved.engine_entry(entry));
        let made: Vec<GroupEntry> = made.collect::<Result<_, _>>()?;
        let last = made.last().and_then(|entry| saved.raft_index(entry.id.index));
        let Some(last) = last else {
            flushed.io_completed(Ok(()));
            return Ok(());
        };
        // openraft takes an error for the end of this member. Who proposes or sends waits before it
        // comes here, so this is rare.
        while let Err(error) = inner.group.check_append(&made) {
            if error.kind() != ErrorKind::NoSpace {
                return Err(io_error(&error));
            }
            self.relieve();
            reactor.sleep(ROOM_PAUSE).await;
        }
        let durable = inner.group.append(made).map_err(|error| io_error(&error))?;
        let (inner, truncations) = (Rc::clone(inner), inner.truncations.get());
        let tell = async move {
            let result = durable.await.map_err(|error| io_error(&error));
            inner.appended(last, truncations, &result);
            flushed.io_completed(result);
        };
        reactor.spawn(tell).detach();
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.check_open()?;
        let (inner, last) = (&self.inner, last.index());
        inner.truncations.set(inner.truncations.get() + 1);
        inner.durable.send_if_modified(|durable| {
            durable.upto = durable.upto.min(last);
            true
        });
        let saved = inner.saved.get();
        let in_engine = last.map(|last| saved.engine_index(last)).or(saved.engine_base());
        inner.group.truncate_after(in_engine).await.map_err(|error| io_error(&error))?;
        // All that was appended before is durable now too.
        let kept = inner.group.span().durable.and_then(|id| saved.raft_id(id)).index();
        inner.durable.send_if_modified(|durable| {
            durable.upto = durable.upto.max(kept.min(last));
            true
        });
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.check_open()?;
        self.give_up(upto);
        Ok(())
    }
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug,
    {
        let (start, end) = bounds(&range);
        self.entries(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        // openraft sends what it gets, which must have no hole before it. The link lets what has no
        // entries then fail.
        if self.begin(start) > start {
            return Ok(Vec::new());
        }
        self.entries(start, end, READ_MAX_BYTES).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>>
    where
        RB: RangeBounds<u64> + Clone + Debug,
    {
        let (start, end) = bounds(&range);
        let first = self.begin(start);
        try_unfold((self.clone(), first), move |(store, index)| async move {
            if index >= end {
                return Ok(None);
            }
            let found = store.read(index).await?;
            Ok(found.map(|(entry, _)| (entry, (store, index + 1))))
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogStore({})", self.inner.group.id())
    }
}

/// First index, and the one behind the last.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The engine's error, for openraft.
pub(crate) fn io_error(error: &Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::Invalid => io::ErrorKind::InvalidInput,
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::NoSpace => io::ErrorKind::StorageFull,
        ErrorKind::Corrupt => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}
