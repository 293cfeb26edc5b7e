//! A group's log and vote for openraft, kept by the engine.
//!
//! Invariants: an entry can be read when `append` returns, and openraft is told of it when it is
//! durable; a vote is durable when `save_vote` returns; votes, entries and truncations become
//! durable in the order of the calls. A log with damage is not opened at all.
//! Must never know: sockets, what entries mean.

use crate::limits::{READ_HEADS_MAX_BYTES, READ_MAX_BYTES, WIRE_CHANGE_MAX_BYTES};
use crate::runtime::{Watch, WatchSender};
use crate::types::encoding::{decode_head, decode_vote, encode_head, encode_vote};
use crate::types::{Changes, Config, Entry, LogId, Payload, Proposal, Vote, log_id};
use ashlar_engine::buffer::BufferPool;
use ashlar_engine::local::LocalGroup;
use ashlar_engine::store::GroupEntry;
use ashlar_engine::{Error, ErrorKind};
use futures_util::stream::{Stream, try_unfold};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, LogIdOptionExt};
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
    vote: Cell<Option<Vote>>,
    /// Entries up to here are given up, on the device soon.
    purged: Cell<Option<LogId>>,
    /// How far the log is durable, for those that wait.
    durable: WatchSender<Durable>,
    /// Truncations so far: what was appended before one may be gone when it becomes durable.
    truncations: Cell<u64>,
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
        let vote = match &*state.vote {
            [] => None,
            bytes => Some(decode_vote(bytes).map_err(invalid)?),
        };
        let upto = state.durable.map(|id| id.index);
        let (durable, _) = Watch::channel(Durable { upto, failed: false });
        let purged = Cell::new(state.purged.map(from_engine));
        let (vote, truncations) = (Cell::new(vote), Cell::new(0));
        Ok(LogStore { inner: Rc::new(Inner { group, vote, purged, durable, truncations }) })
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
        let entry = match self.inner.group.read(index).await {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&error)),
        };
        let head_bytes = entry.head.len() + WIRE_CHANGE_MAX_BYTES * (1 + entry.changes.len());
        let (id, size) = (from_engine(entry.id), Size { bytes: entry.bytes(), head_bytes });
        let head = decode_head(&entry.head).map_err(invalid)?;
        let payload = head.with_changes(Changes::from(entry)).map_err(invalid)?;
        Ok(Some((Entry::new(id, payload), size)))
    }

    /// The index to begin with, where `start` is asked for.
    fn begin(&self, start: u64) -> u64 {
        let state = self.inner.group.state();
        let kept = state.first.unwrap_or(0).max(self.inner.purged.get().next_index());
        start.max(kept)
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
        let last = self.inner.group.state().last.map(from_engine);
        Ok(LogState { last_purged_log_id, last_log_id: last.max(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = encode_vote(vote);
        self.inner.group.save_vote(&bytes).await.map_err(|error| io_error(&error))?;
        self.inner.vote.set(Some(*vote));
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry>,
    {
        let inner = &self.inner;
        let reactor = inner.group.store().reactor();
        inner.group.room().await.map_err(|error| io_error(&error))?;
        let made = entries.into_iter().map(|entry| to_engine_entry(entry, reactor.pool()));
        let made: Vec<GroupEntry> = made.collect::<Result<_, _>>()?;
        let Some(last) = made.last().map(|entry| entry.id.index) else {
            flushed.io_completed(Ok(()));
            return Ok(());
        };
        // openraft takes an error for the end of this member. There is room again when entries are
        // applied or given up, or when somebody makes some; others go on meanwhile.
        while let Err(error) = inner.group.check_append(&made) {
            if error.kind() != ErrorKind::NoSpace {
                return Err(io_error(&error));
            }
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
        let (inner, last) = (&self.inner, last.index());
        inner.truncations.set(inner.truncations.get() + 1);
        inner.durable.send_if_modified(|durable| {
            durable.upto = durable.upto.min(last);
            true
        });
        inner.group.truncate_after(last).await.map_err(|error| io_error(&error))?;
        // All that was appended before is durable now too.
        let kept = inner.group.state().durable.map(|id| id.index);
        inner.durable.send_if_modified(|durable| {
            durable.upto = durable.upto.max(kept.min(last));
            true
        });
        Ok(())
    }

    /// Gives up what is purged at once for readers; on the device once a checkpoint has it.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let inner = Rc::clone(&self.inner);
        inner.purged.set(inner.purged.get().max(Some(upto)));
        let reactor = inner.group.store().reactor().clone();
        let purge = async move {
            // If the store has failed, whoever writes next is told; it starts with more entries.
            inner.group.purge(to_engine(upto)).await.ok();
        };
        reactor.spawn(purge).detach();
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
        Ok(self.inner.vote.get())
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

/// The engine's identity of an entry. There is one leader in a term, so the term says which.
fn to_engine(id: LogId) -> ashlar_engine::units::LogId {
    let (term, index) = (id.committed_leader_id().term, id.index());
    ashlar_engine::units::LogId { term, leader: 0, index }
}

/// See [`to_engine`].
pub(crate) fn from_engine(id: ashlar_engine::units::LogId) -> LogId {
    log_id(id.term, id.index)
}

fn to_engine_entry(entry: Entry, pool: &BufferPool) -> io::Result<GroupEntry> {
    let (id, payload): (LogId, Payload) = (entry.log_id, entry.payload);
    let head = encode_head(&payload).map_err(invalid)?;
    let changes = match payload {
        EntryPayload::Normal(Proposal::Write(write)) => write.changes.into_vec(pool),
        _ => Vec::new(),
    };
    Ok(GroupEntry { id: to_engine(id), head, changes })
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
