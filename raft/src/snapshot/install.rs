//! A snapshot that comes in: through the group's log, one entry of the engine per piece.
//!
//! Order is what makes it safe. First it is made durable that there is no member to count on; then
//! the log is cut where it was applied, the old volumes are deleted, the new ones made and filled;
//! last, an entry that holds what is kept with the applied index, and, when that is durable, how
//! the log is numbered from here on.
//! Must never know: sockets, whether a snapshot should be taken in.

use crate::limits::{APPLY_ENTRIES_MAX, PROPOSAL_CHANGES_MAX, SNAPSHOT_ROOM_ATTEMPTS};
use crate::log_store::{Install, Saved};
use crate::runtime::Mutex;
use crate::types::{Change, LogId, Vote};
use ashlar_engine::local::LocalGroup;
use ashlar_engine::store::GroupEntry;
use ashlar_engine::units::LogId as EngineId;
use ashlar_engine::{Error, ErrorKind, Result};
use openraft_rt::Mutex as _;
use std::cell::Cell;

/// See the module.
pub(crate) struct Installer {
    group: LocalGroup,
    vote: Vote,
    /// Pieces that were taken; entries are appended one after the other.
    pieces: Mutex<u64>,
    /// Another one took over.
    stopped: Cell<bool>,
}

impl Installer {
    /// Empties the group for a snapshot that ends with `last`. Nobody else may change it from now
    /// on.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn begin(group: LocalGroup, vote: Vote, last: LogId) -> Result<Installer> {
        let saved = load(&group)?;
        let vote = newer(vote, saved.vote);
        let upto = match saved.install {
            Install::Under { upto } => upto.max(last),
            _ => last,
        };
        let saved = Saved { vote: Some(vote), install: Install::Under { upto } };
        saved.save(&group).await?;
        let applied = group.span().applied.map(|id| id.index);
        group.truncate_after(applied).await?;
        let installer = Installer { group, vote, pieces: Mutex::new(0), stopped: Cell::new(false) };
        let old = installer.group.volumes();
        for some in old.chunks(PROPOSAL_CHANGES_MAX) {
            let deletions = some.iter().map(|(volume, _)| Change::DeleteVolume { volume: *volume });
            installer.append(deletions.collect(), Vec::new()).await?.done().await?;
        }
        // Entries of before must not be applied again: what they were skipped for is gone.
        installer.make_room().await?;
        Ok(installer)
    }

    /// Takes a piece in; durable when this returns.
    ///
    /// # Errors
    /// `Invalid` if a piece before it is missing; as the store says.
    pub(crate) async fn take(&self, number: u64, changes: Vec<Change>) -> Result<()> {
        let appended = {
            let mut pieces = self.pieces.lock().await;
            if number != *pieces {
                let why = format!("piece {number} of a snapshot came where {} follows", *pieces);
                return Err(Error::new(ErrorKind::Invalid, why));
            }
            let appended = self.append(changes, Vec::new()).await?;
            *pieces += 1;
            appended
        };
        appended.done().await
    }

    /// Ends the snapshot: the member is as one that has applied everything up to `last`.
    ///
    /// # Errors
    /// `Invalid` if pieces are missing; as the store says.
    pub(crate) async fn finish(&self, pieces: u64, last: LogId, head: Vec<u8>) -> Result<()> {
        let taken = self.pieces.lock().await;
        if *taken != pieces {
            let why = format!("{} of {pieces} pieces of a snapshot came", *taken);
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let appended = self.append(Vec::new(), head).await?;
        let engine = appended.index;
        appended.done().await?;
        let install = Install::Done { engine, raft: last };
        // It may have voted meanwhile.
        let vote = newer(self.vote, load(&self.group)?.vote);
        Saved { vote: Some(vote), install }.save(&self.group).await
    }

    /// Ends this one without a snapshot, so that another one can begin.
    pub(crate) async fn stop(&self) {
        // Who appends just now ends first.
        let _pieces = self.pieces.lock().await;
        self.stopped.set(true);
    }

    fn check(&self) -> Result<()> {
        match self.stopped.get() {
            true => Err(Error::new(ErrorKind::Closed, "a newer snapshot has begun")),
            false => Ok(()),
        }
    }

    /// Appends an entry. An empty head says that it is not the last one.
    async fn append(&self, changes: Vec<Change>, head: Vec<u8>) -> Result<Appended<'_>> {
        let mut entries = vec![GroupEntry { id: self.next(), head: head.clone(), changes }];
        let mut attempts = 0;
        loop {
            self.group.room().await?;
            self.check()?;
            entries[0].id = self.next();
            match self.group.check_append(&entries) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    attempts += 1;
                    if attempts > SNAPSHOT_ROOM_ATTEMPTS || !self.make_room().await? {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if self.group.purge_wanted().is_some() {
            self.make_room().await?;
        }
        let index = self.next().index;
        entries[0].id = self.next();
        let durable = self.group.append(entries)?;
        Ok(Appended { installer: self, durable: Box::pin(durable), index, head })
    }

    /// Gives up the entries that are applied; false if there are none.
    async fn make_room(&self) -> Result<bool> {
        let state = self.group.state();
        let Some(applied) = state.applied.filter(|applied| state.first <= Some(applied.index))
        else {
            return Ok(false);
        };
        self.group.purge(applied).await?;
        Ok(true)
    }

    /// The next entry's identity. Terms of the engine stay as they are: Raft's are kept elsewhere.
    fn next(&self) -> EngineId {
        match self.group.span().last {
            Some(last) => EngineId { index: last.index + 1, ..last },
            None => EngineId { term: 0, leader: 0, index: 0 },
        }
    }
}

fn load(group: &LocalGroup) -> Result<Saved> {
    Saved::load(group).map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
}

/// The newer one of a leader's vote and the own.
fn newer(leaders: Vote, own: Option<Vote>) -> Vote {
    own.filter(|own| *own > leaders).unwrap_or(leaders)
}

/// An entry that is in the log.
struct Appended<'a> {
    installer: &'a Installer,
    durable: std::pin::Pin<Box<dyn Future<Output = Result<()>>>>,
    index: u64,
    head: Vec<u8>,
}

impl Appended<'_> {
    /// Waits until it is durable, and applies it.
    async fn done(self) -> Result<()> {
        self.durable.await?;
        self.installer.check()?;
        let group = &self.installer.group;
        // Entries are durable in order; a later one may have been applied with this one.
        if group.span().applied.is_some_and(|applied| applied.index >= self.index) {
            return Ok(());
        }
        group.apply(self.index, self.head)
    }
}

/// Applies what a snapshot brought, as far as that was not durable: before a log is opened.
///
/// # Errors
/// As the store says.
pub(crate) async fn settle(group: &LocalGroup) -> Result<()> {
    let Install::Done { engine, .. } = load(group)?.install else { return Ok(()) };
    let applied = |group: &LocalGroup| group.span().applied.map(|id| id.index);
    while applied(group) < Some(engine) {
        let from = applied(group).map_or(0, |index| index + 1);
        let upto = (from + APPLY_ENTRIES_MAX as u64).min(engine);
        let head = match upto == engine {
            true => group.read(engine).await?.head.clone(),
            false => Vec::new(),
        };
        group.apply(upto, head)?;
    }
    Ok(())
}
