//! Looks at a store from inside: what it holds after a restart, its books, its bounds.
//!
//! Must never know: how requests travel, what is under way.

use crate::harm;
use crate::invariants::{Violation, atomic, linearizable, survives};
use crate::lab::Lab;
use crate::plan::Trust;
use crate::sector::SECTOR_BYTES;
use crate::volume::{Presence, Volume};
use ashlar_engine::Result;
use ashlar_engine::local::{LocalStore, LocalVolume};
use ashlar_engine::reactor::{BlockDevice, Reactor};
use ashlar_engine::store::Mapping;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of one read while looking through a volume.
const READ_BYTES: u64 = 1 << 20;
/// Memory that requests may take at once in a world of a few clients: far below what the server
/// grants to many.
const MEMORY_MAX_BYTES: usize = 128 << 20;
/// A store that is left alone is idle after this long, however slow its disk.
pub const QUIET: Duration = Duration::from_secs(20);
/// Segments that an empty store may still hold: two append points, and the last checkpoints.
const EMPTY_SEGMENTS_MAX: u64 = 4;

/// Now and then opens the store without writing, to see that looking changes nothing.
///
/// # Errors
/// As opening does.
pub async fn look_only(
    lab: &Lab,
    reactor: &Reactor,
    device: &Rc<dyn BlockDevice>,
) -> Result<Option<u64>> {
    if !lab.percent(25) {
        return Ok(None);
    }
    let store = LocalStore::open(reactor, Rc::clone(device), true).await?;
    let audit = store.audit();
    lab.check(audit.is_empty(), "books", || format!("opened read-only: {audit:?}"));
    Ok(Some(store.fingerprint()))
}

/// Recovery is idempotent: the same bytes give the same store.
pub fn same_twice(lab: &Lab, seen: Option<u64>, store: &LocalStore) {
    let now = store.fingerprint();
    let same = seen.is_none_or(|seen| seen == now) || lab.trust() >= Trust::Failing;
    lab.check(same, "recovery", || format!("{seen:x?} when looked at, {now:x} when opened"));
}

/// Everything that must hold when a store has just been opened.
pub async fn after_open(lab: &Lab, store: &LocalStore) {
    let audit = store.audit();
    lab.check(audit.is_empty(), "books", || format!("after opening: {audit:?}"));
    check_volumes(lab, store);
    if lab.trust() >= Trust::Damaged {
        delete_unknown(lab, store).await;
    }
    if let Some(settled) = lab.settled.take()
        && lab.trust() < Trust::Damaged
    {
        let now = books_of(store);
        lab.check(settled == now, "index", || format!("live {settled:?}, recovered {now:?}"));
    }
    lab.unreadable.set(0);
    let volumes: Vec<Rc<Volume>> = lab.volumes.borrow().values().cloned().collect();
    for volume in volumes {
        if lab.is_broken() {
            return;
        }
        match store.volume(&volume.name) {
            Ok(found) => look_through(lab, &volume, &found).await,
            Err(error) => lab.violation(Violation::new("volumes", error.to_string())),
        }
    }
    if lab.trust() == Trust::Honest {
        harm::judge_cost(lab, lab.unreadable.get());
    }
}

/// Volumes are those that were created and not deleted; where no answer came, either way.
fn check_volumes(lab: &Lab, store: &LocalStore) {
    let found = store.volumes();
    let mut known = lab.volumes.borrow_mut();
    let forgiving = lab.trust() >= Trust::Damaged;
    let mut wrong = Vec::new();
    known.retain(|name, volume| {
        let there = found.iter().find(|found| found.name == *name);
        let certain = volume.presence.get() == Presence::There && !forgiving;
        match there {
            Some(there) if there.size_bytes == volume.size_bytes => {
                volume.presence.set(Presence::There);
            }
            Some(there) => wrong.push(format!("{name} has {}", there.size_bytes)),
            None if certain => wrong.push(format!("{name} is gone")),
            None => {}
        }
        there.is_some()
    });
    for there in &found {
        if !known.contains_key(&there.name) && !forgiving {
            wrong.push(format!("{} came back", there.name));
        }
    }
    drop(known);
    lab.check(wrong.is_empty(), "volumes", || wrong.join(", "));
}

/// Volumes that came back because the end of the log was lost are deleted once more.
async fn delete_unknown(lab: &Lab, store: &LocalStore) {
    for there in store.volumes() {
        if !lab.volumes.borrow().contains_key(&there.name)
            && let Err(error) = store.delete_volume(&there.name).await
        {
            let what = format!("{} stays: {error}", there.name);
            lab.violation(Violation::new("volumes", what));
        }
    }
}

/// Reads a whole volume and judges what it shows against all that was asked of it.
async fn look_through(lab: &Lab, volume: &Volume, found: &LocalVolume) {
    let mut contents: Vec<Option<u64>> = vec![None; volume.sectors() as usize];
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < volume.size_bytes {
        let length = READ_BYTES.min(volume.size_bytes - at);
        read_some(lab, volume, found, at, length, &mut bytes, &mut contents).await;
        if lab.is_broken() {
            return;
        }
        at += length;
    }
    judge(lab, volume, &contents);
}

async fn read_some(
    lab: &Lab,
    volume: &Volume,
    found: &LocalVolume,
    at: u64,
    length: u64,
    bytes: &mut Vec<u8>,
    contents: &mut [Option<u64>],
) {
    let begin = volume.history.borrow_mut().tick();
    match found.read(at, length as usize).await {
        Ok(buffers) => {
            bytes.clear();
            buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
            let first = at / SECTOR_BYTES as u64;
            let mut history = volume.history.borrow_mut();
            match history.seen(first, bytes, begin) {
                Ok(values) => {
                    let into = contents[first as usize..].iter_mut();
                    into.zip(values).for_each(|(into, value)| *into = Some(value));
                }
                Err(violation) => lab.violation(violation),
            }
        }
        // One damaged block hides its neighbours: they are read one by one.
        Err(_) if length > 4096 => {
            let mut part = at;
            while part < at + length {
                let length = 4096.min(at + length - part);
                Box::pin(read_some(lab, volume, found, part, length, bytes, contents)).await;
                part += length;
            }
        }
        Err(error) => {
            lab.log(|| format!("{} at {at}: {error}", volume.name));
            lab.unreadable.set(lab.unreadable.get() + 1);
            let excused = lab.may_fail_reads();
            lab.check(excused, "no false alarms", || format!("{}: {error}", volume.name));
        }
    }
}

fn judge(lab: &Lab, volume: &Volume, contents: &[Option<u64>]) {
    let mut history = volume.history.borrow_mut();
    let (mut found, unknown) = linearizable::judge(&history);
    found.extend(survives::judge(&history, contents));
    found.extend(atomic::judge(&history, contents));
    lab.count(|tally| tally.unknown += unknown);
    if lab.trust() >= Trust::Damaged {
        // The end of the log may have been damaged and cut; what was read is what there is.
        found.clear();
        history.forget_unread(contents);
    }
    history.settle(contents);
    drop(history);
    if let Some(violation) = found.into_iter().next() {
        lab.violation(violation);
    }
}

/// Judges what was seen while the store was up, whatever became of its disk.
pub fn judge_live(lab: &Lab) {
    for volume in lab.volumes.borrow().values() {
        let (found, _) = linearizable::judge(&volume.history.borrow());
        if lab.trust() >= Trust::Damaged {
            // The next life may begin with less: what it shows first is what there is.
            volume.history.borrow_mut().forget_unread(&vec![None; volume.sectors() as usize]);
        }
        if let Some(violation) = found.into_iter().next() {
            lab.violation(violation);
        }
    }
}

/// The books of a store as lines: volumes, and how each is mapped.
fn books_of(store: &LocalStore) -> Vec<String> {
    let line = |volume: ashlar_engine::store::VolumeStatus| {
        let found = store.volume(&volume.name).ok();
        let extents =
            found.and_then(|found| found.block_status(0, volume.size_bytes, usize::MAX).ok());
        format!("{volume:?} {extents:?}")
    };
    store.volumes().into_iter().map(line).collect()
}

/// The store's numbers add up, to the byte.
pub fn books(lab: &Lab, store: &LocalStore, when: &str) {
    let audit = store.audit();
    lab.check(audit.is_empty(), "books", || format!("{when}: {audit:?}"));
    let status = store.status();
    let segments = status.segments;
    let kinds =
        [segments.unprepared, segments.free, segments.open, segments.sealed, segments.empty];
    lab.check(kinds.iter().sum::<u64>() == segments.total, "space", || format!("{segments:?}"));
    let volumes = store.volumes();
    let mapped: u64 = volumes.iter().map(|volume| volume.mapped_bytes).sum();
    let counted = status.data_bytes + status.reserved_bytes;
    lab.check(mapped == counted, "space", || format!("{when}: {mapped} mapped, {status:?}"));
    let (mut data, mut reserved) = (0, 0);
    for volume in volumes {
        let Ok(found) = store.volume(&volume.name) else { continue };
        // The last block of a volume counts whole.
        let whole = |length: u64| length.next_multiple_of(4096);
        for extent in found.block_status(0, volume.size_bytes, usize::MAX).unwrap_or_default() {
            match extent.mapping {
                Mapping::Data => data += whole(extent.length_bytes),
                Mapping::Reserved => reserved += whole(extent.length_bytes),
                Mapping::Hole => {}
            }
        }
    }
    let exact = (data, reserved) == (status.data_bytes, status.reserved_bytes);
    lab.check(exact, "space", || format!("{when}: extents {data} + {reserved}, {status:?}"));
}

/// What must hold for a store that fenced itself.
pub async fn fenced(lab: &Lab, store: &LocalStore) {
    lab.log(|| format!("fenced: {:?}", store.failed()));
    let excused = lab.trust() >= Trust::Failing;
    lab.check(excused, "no false alarms", || format!("fenced: {:?}", store.failed()));
    let checkpoint = store.checkpoint().await;
    lab.check(checkpoint.is_err(), "fenced", || "a fenced store wrote a checkpoint".to_owned());
    let created = store.create_volume("after", 4096).await;
    lab.check(created.is_err(), "fenced", || "a fenced store created a volume".to_owned());
}

/// Waits until nothing is under way, and remembers the books.
pub async fn fall_idle(lab: &Lab, reactor: &Reactor, store: &LocalStore) {
    let mut last = None;
    for _ in 0..100 {
        reactor.sleep(QUIET).await;
        let status = store.status();
        if status.failed.is_some() {
            return;
        }
        let busy = status.checkpoint_running || status.cleaner_running;
        if !busy && last == Some(status.durable_lsn) {
            break;
        }
        last = Some(status.durable_lsn);
    }
    lab.log(|| "idle".to_owned());
    books(lab, store, "idle");
    *lab.settled.borrow_mut() = Some(books_of(store));
}

/// Deletes everything and expects to find nothing.
pub async fn delete_everything(lab: &Lab, reactor: &Reactor, store: &LocalStore) {
    let names: Vec<String> = lab.volumes.borrow().keys().cloned().collect();
    for name in names {
        if let Err(error) = store.delete_volume(&name).await {
            let fenced = store.failed().is_some();
            return lab.check(fenced, "volumes", || format!("{name} stays: {error}"));
        }
        lab.volumes.borrow_mut().remove(&name);
    }
    for _ in 0..3 {
        if store.checkpoint().await.is_err() {
            return;
        }
        reactor.sleep(QUIET).await;
    }
    books(lab, store, "empty");
    let status = store.status();
    let nothing = status.data_bytes == 0 && status.reserved_bytes == 0;
    let held = status.segments.open + status.segments.sealed + status.segments.empty;
    lab.check(nothing && held <= EMPTY_SEGMENTS_MAX, "space", || {
        format!("everything was deleted, and {held} segments are held: {status:?}")
    });
}

/// Nothing grows without bound.
pub fn bounds(lab: &Lab, reactor: &Reactor) {
    let in_use = reactor.pool().in_use_bytes();
    lab.check(in_use <= MEMORY_MAX_BYTES, "bounded", || format!("{in_use} bytes of buffers"));
}
