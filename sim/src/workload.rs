//! Clients and an administrator: what they ask for, and what they make of the answers.
//!
//! Must never know: how the world fails.

use crate::client::{Answer, Client, Request, Style, command};
use crate::history::{Effect, Fate, OpId};
use crate::inspect;
use crate::invariants::Violation;
use crate::lab::Lab;
use crate::life::address;
use crate::plan::{Canary, Class, Trust};
use crate::sector::{BLOCK_SECTORS, SECTOR_BYTES, encode_all};
use crate::volume::{Presence, Volume};
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::Reactor;
use ashlar_nbd_server::proto::Errno;
use ashlar_nbd_server::proto::wire::command_flag;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Sectors of the largest request that is promised to be atomic.
const ATOMIC_SECTORS: u64 = 2048;
/// Names of volumes: few, so that they are used again.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What a client does next.
struct Choice {
    command: u16,
    flags: u16,
    sectors: Range<u64>,
}

/// One client: connects, sends requests, leaves, until this life's requests are used up.
pub async fn client(lab: Rc<Lab>, reactor: Reactor, store: LocalStore, number: u32) {
    while lab.budget.get() > 0 && store.failed().is_none() {
        let there: Vec<Rc<Volume>> = lab.volumes.borrow().values().cloned().collect();
        let there: Vec<_> =
            there.into_iter().filter(|v| v.presence.get() == Presence::There).collect();
        if there.is_empty() {
            if !lab.plan.has(Class::Volumes) {
                return;
            }
            reactor.sleep(Duration::from_millis(1)).await;
            lab.budget.set(lab.budget.get().saturating_sub(1));
            continue;
        }
        let volume = Rc::clone(&there[lab.below(there.len() as u64) as usize]);
        let style = [Style::Simple, Style::Structured, Style::Extended][lab.below(3) as usize];
        let client = match Client::open(&reactor, &address(), &volume.name, style).await {
            Ok(Some(client)) => client,
            Ok(None) => {
                let gone = volume.presence.get() != Presence::There;
                lab.check(gone, "serves", || format!("{:?} was refused", volume.name));
                continue;
            }
            Err(error) => {
                let cut = lab.plan.has(Class::Cut);
                lab.check(cut, "serves", || format!("cannot connect: {error}"));
                reactor.sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let same =
            volume.presence.get() != Presence::There || client.size_bytes == volume.size_bytes;
        lab.check(same, "serves", || format!("{:?} has {}", volume.name, client.size_bytes));
        let workers: Vec<_> = (0..lab.plan.depth)
            .map(|i| {
                let writer = u64::from(number) * 100 + u64::from(i);
                let (lab, store) = (Rc::clone(&lab), store.clone());
                reactor.spawn(worker(
                    lab,
                    reactor.clone(),
                    store,
                    Rc::clone(&client),
                    volume.clone(),
                    writer,
                ))
            })
            .collect();
        for worker in workers {
            worker.await;
        }
        client.cut();
        if let Some(what) = client.garbage() {
            lab.violation(Violation::new("protocol", what));
        }
    }
}

/// One request after the other on a connection that others use too.
async fn worker(
    lab: Rc<Lab>,
    reactor: Reactor,
    store: LocalStore,
    client: Rc<Client>,
    volume: Rc<Volume>,
    writer: u64,
) {
    while lab.budget.get() > 0 && !client.is_gone() && volume.presence.get() != Presence::Gone {
        lab.budget.set(lab.budget.get() - 1);
        let choice = choose(&lab, &volume, client.style);
        if lab.plan.has(Class::Vanish) && lab.percent(2) {
            vanish(&lab, &reactor, &client, &volume, &choice, writer).await;
            return;
        }
        match choice.command {
            command::READ => read(&lab, &store, &client, &volume, &choice).await,
            command::BLOCK_STATUS => status(&lab, &store, &client, &volume, &choice).await,
            command::FLUSH => flush(&lab, &store, &client, &volume).await,
            _ => change(&lab, &store, &client, &volume, &choice, writer).await,
        }
        inspect::bounds(&lab, &reactor);
        if lab.percent(10) {
            reactor.sleep(Duration::from_micros(lab.below(3000))).await;
        }
        // Now and then most of a volume's requests meet in the same moment.
        if lab.percent(1) {
            return;
        }
    }
}

fn choose(lab: &Lab, volume: &Volume, style: Style) -> Choice {
    let zeroes = lab.plan.has(Class::Zeroes);
    let heavy = if lab.plan.has(Class::Heavy) { 30 } else { 0 };
    let (command, flags) = match lab.below(100 + heavy) {
        0..30 => (command::READ, 0),
        30..36 => (command::FLUSH, 0),
        36..46 if zeroes => (command::TRIM, 0),
        46..52 if zeroes => (command::WRITE_ZEROES, 0),
        52..58 if zeroes => (command::WRITE_ZEROES, command_flag::NO_HOLE),
        58..61 if style != Style::Simple => (command::BLOCK_STATUS, 0),
        61..64 => (command::READ, command_flag::DF),
        _ => (command::WRITE, 0),
    };
    let flags = flags | if lab.percent(20) { command_flag::FUA } else { 0 };
    let flags = match (command, style) {
        (command::READ, Style::Simple) => 0,
        (command::BLOCK_STATUS | command::FLUSH, _) => 0,
        (command::READ, _) => flags & !command_flag::FUA,
        _ => flags,
    };
    Choice { command, flags, sectors: range(lab, volume, command) }
}

fn range(lab: &Lab, volume: &Volume, command: u16) -> Range<u64> {
    let sectors = volume.sectors();
    let unit = if lab.plan.has(Class::Partial) && lab.percent(60) { 1 } else { BLOCK_SECTORS };
    let most = match lab.below(100) {
        0..50 => 16,
        50..85 => 256,
        _ if lab.plan.has(Class::Heavy) => 2048,
        _ if lab.plan.has(Class::Large) && command != command::READ => 5000,
        _ => 2048,
    };
    let limit = if command == command::READ { 2048 * 4 } else { u64::MAX };
    let most = most.min(sectors).min(limit);
    let count = match lab.plan.has(Class::Heavy) && command == command::WRITE && lab.percent(50) {
        true => most.min(2048),
        false => 1 + lab.below(most),
    };
    let count = count.next_multiple_of(unit).min(sectors);
    let hot = if lab.percent(50) { (count + 64).min(sectors) } else { sectors };
    let first = lab.below(hot - count + 1) / unit * unit;
    first..first + count
}

/// What an error says about a request.
fn excused(lab: &Lab, store: &LocalStore, volume: &Volume, errno: u32, is_read: bool) -> bool {
    let gone = volume.presence.get() != Presence::There;
    if errno == Errno::NoSpace as u32 {
        // Writes under way count in full, also those that overwrite.
        // A segment that could not be prepared counts as one that is not there.
        let classes = [Class::Heavy, Class::Large, Class::Full, Class::WriteError];
        return !is_read && classes.into_iter().any(|class| lab.plan.has(class));
    }
    let failed = !is_read && store.failed().is_some();
    errno == Errno::Io as u32 && (gone || failed || lab.may_fail_reads())
}

fn refusal(lab: &Lab, store: &LocalStore, volume: &Volume, request: Request, errno: u32) {
    lab.count(|tally| tally.refused += 1);
    let is_read = matches!(request.command, command::READ | command::BLOCK_STATUS);
    let right = excused(lab, store, volume, errno, is_read);
    lab.check(right, "no false alarms", || {
        format!("error {errno} for {request:?} of {:?}, fenced: {:?}", volume.name, store.failed())
    });
}

fn request(choice: &Choice) -> Request {
    let bytes = SECTOR_BYTES as u64;
    let Range { start, end } = choice.sectors;
    let (command, flags) = (choice.command, choice.flags);
    Request { command, flags, offset: start * bytes, length: (end - start) * bytes }
}

async fn read(lab: &Lab, store: &LocalStore, client: &Client, volume: &Volume, choice: &Choice) {
    let request = request(choice);
    let begin = volume.history.borrow_mut().tick();
    match client.call(request, &[]).await {
        Answer::Data(mut bytes) => {
            lab.count(|tally| tally.acknowledged += 1);
            if lab.limits.canary == Some(Canary::SwappedSectors) && bytes.len() >= 1024 {
                let (one, two) = bytes.split_at_mut(SECTOR_BYTES);
                one.swap_with_slice(&mut two[..SECTOR_BYTES]);
            }
            let first = choice.sectors.start;
            if let Err(found) = volume.history.borrow_mut().seen(first, &bytes, begin) {
                lab.violation(found);
            }
        }
        Answer::Error(errno) => refusal(lab, store, volume, request, errno),
        Answer::Gone => lab.count(|tally| tally.lost += 1),
        other => wrong(lab, request, &other),
    }
}

fn wrong(lab: &Lab, request: Request, answer: &Answer) {
    lab.violation(Violation::new("protocol", format!("{answer:?} to {request:?}")));
}

async fn flush(lab: &Lab, store: &LocalStore, client: &Client, volume: &Volume) {
    let request = Request { command: command::FLUSH, flags: 0, offset: 0, length: 0 };
    let was_failed = store.failed().is_some();
    match client.call(request, &[]).await {
        Answer::Done => {
            lab.count(|tally| tally.acknowledged += 1);
            lab.check(!was_failed, "fenced", || "a fenced store flushed".to_owned());
        }
        Answer::Error(errno) => refusal(lab, store, volume, request, errno),
        Answer::Gone => lab.count(|tally| tally.lost += 1),
        other => wrong(lab, request, &other),
    }
}

async fn status(lab: &Lab, store: &LocalStore, client: &Client, volume: &Volume, choice: &Choice) {
    let request = request(choice);
    match client.call(request, &[]).await {
        Answer::Extents(extents) => {
            let total: u64 = extents.iter().map(|(length, _)| length).sum();
            let fits = total <= request.length && extents.iter().all(|(length, _)| *length > 0);
            lab.check(fits, "protocol", || format!("{extents:?} for {request:?}"));
        }
        Answer::Error(errno) => refusal(lab, store, volume, request, errno),
        Answer::Gone => lab.count(|tally| tally.lost += 1),
        other => wrong(lab, request, &other),
    }
}

/// What a request does to which sectors, and whether all of it is promised at once.
fn effect(volume: &Volume, choice: &Choice) -> (Effect, Range<u64>, bool) {
    let Range { start, end } = choice.sectors;
    let small = end - start <= ATOMIC_SECTORS;
    let whole = |at: u64| at.is_multiple_of(BLOCK_SECTORS) || at == volume.sectors();
    match choice.command {
        command::WRITE => (Effect::Write, start..end, small),
        command::WRITE_ZEROES => (Effect::Zero, start..end, small || whole(start) && whole(end)),
        _ => {
            let first = start.next_multiple_of(BLOCK_SECTORS);
            let after =
                if end == volume.sectors() { end } else { end / BLOCK_SECTORS * BLOCK_SECTORS };
            (Effect::Zero, first.min(after)..after, true)
        }
    }
}

async fn change(
    lab: &Lab,
    store: &LocalStore,
    client: &Client,
    volume: &Volume,
    choice: &Choice,
    writer: u64,
) {
    let request = request(choice);
    let (kind, sectors, atomic) = effect(volume, choice);
    let was_failed = store.failed().is_some();
    let id = volume.history.borrow_mut().begin(kind, sectors, atomic);
    let payload = payload(volume, choice, writer, id);
    let lies = lab.limits.canary == Some(Canary::LyingClient) && lab.percent(2);
    let answer = match lies {
        true => Answer::Done,
        false => client.call(request, &payload).await,
    };
    lab.log(|| {
        let (volume, sequence) = (&volume.name, id.sequence());
        format!("{volume} {sequence} {} {:?}: {answer:?}", name(choice), choice.sectors)
    });
    let fate = match answer {
        Answer::Done => {
            lab.count(|tally| tally.acknowledged += 1);
            let nothing = volume.history.borrow().ops[id.0 as usize].sectors.is_empty();
            lab.check(!was_failed || nothing, "fenced", || {
                format!("a fenced store did {request:?}")
            });
            Fate::Done
        }
        Answer::Error(errno) => {
            refusal(lab, store, volume, request, errno);
            let none = errno == Errno::NoSpace as u32 && atomic;
            if none { Fate::Refused } else { Fate::Lost }
        }
        Answer::Gone => {
            lab.count(|tally| tally.lost += 1);
            Fate::Lost
        }
        other => return wrong(lab, request, &other),
    };
    volume.history.borrow_mut().end(id, fate);
}

fn name(choice: &Choice) -> &'static str {
    match choice.command {
        command::WRITE => "write",
        command::TRIM => "trim",
        _ if choice.flags & command_flag::NO_HOLE != 0 => "zero, keep",
        _ => "zero",
    }
}

fn payload(volume: &Volume, choice: &Choice, writer: u64, id: OpId) -> Vec<u8> {
    if choice.command != command::WRITE {
        return Vec::new();
    }
    let count = choice.sectors.end - choice.sectors.start;
    let mut payload = vec![0; count as usize * SECTOR_BYTES];
    let life = volume.history.borrow().volume;
    encode_all(life, choice.sectors.start, writer, id.sequence(), &mut payload);
    payload
}

/// Leaves in the middle of a write, or with requests under way.
async fn vanish(
    lab: &Lab,
    reactor: &Reactor,
    client: &Client,
    volume: &Volume,
    choice: &Choice,
    writer: u64,
) {
    if choice.command == command::WRITE && !choice.sectors.is_empty() {
        let (kind, sectors, atomic) = effect(volume, choice);
        let id = volume.history.borrow_mut().begin(kind, sectors, atomic);
        let payload = payload(volume, choice, writer, id);
        let bytes = lab.below(payload.len() as u64 + 28) as usize;
        lab.log(|| format!("{} {} vanishes after {bytes}", volume.name, id.sequence()));
        client.begin_write(request(choice), &payload, bytes);
        reactor.sleep(Duration::from_micros(lab.below(200))).await;
        client.cut();
        volume.history.borrow_mut().end(id, Fate::Lost);
    }
    client.cut();
}

/// Creates and deletes volumes while others use them.
pub async fn admin(lab: Rc<Lab>, reactor: Reactor, store: LocalStore) {
    for _ in 0..lab.below(4) {
        reactor.sleep(Duration::from_micros(lab.below(20_000))).await;
        if store.failed().is_some() || lab.is_broken() {
            return;
        }
        let name = name_of_a_volume(&lab);
        let known = lab.volumes.borrow().get(&name).cloned();
        match known {
            None => create(&lab, &store, &name).await,
            Some(volume) if volume.presence.get() == Presence::There => {
                delete(&lab, &store, &volume).await;
            }
            Some(_) => {}
        }
    }
}

/// A name to create a volume under, or of one to delete.
fn name_of_a_volume(lab: &Lab) -> String {
    let names: Vec<String> = lab.volumes.borrow().keys().cloned().collect();
    match lab.trust() {
        // Where the end of the log may be lost, an older life of a name could come back.
        Trust::Damaged | Trust::Lying if names.is_empty() || lab.percent(50) => {
            format!("v{}", lab.next_life())
        }
        Trust::Damaged | Trust::Lying => names[lab.below(names.len() as u64) as usize].clone(),
        _ => NAMES[lab.below(NAMES.len() as u64) as usize].to_owned(),
    }
}

/// Creates a volume and remembers it.
pub async fn create(lab: &Lab, store: &LocalStore, name: &str) {
    let blocks = lab.plan.volume_bytes / 4096;
    let mut size = (1 + blocks / 2 + lab.below(blocks)) * 4096;
    if lab.percent(30) {
        size += 512 * lab.below(8);
    }
    let volume = Rc::new(Volume::new(name, lab.next_life(), size));
    lab.volumes.borrow_mut().insert(name.to_owned(), Rc::clone(&volume));
    let result = store.create_volume(name, size).await;
    lab.log(|| format!("create {name} of {size}: {:?}", result.as_ref().map(|_| ())));
    match result {
        Ok(_) => volume.presence.set(Presence::There),
        Err(error) => lab.check(store.failed().is_some(), "volumes", || {
            format!("{name} was not created: {error}")
        }),
    }
}

async fn delete(lab: &Lab, store: &LocalStore, volume: &Rc<Volume>) {
    volume.presence.set(Presence::Deleting);
    let result = store.delete_volume(&volume.name).await;
    lab.log(|| format!("delete {}: {result:?}", volume.name));
    match result {
        Ok(()) => {
            volume.presence.set(Presence::Gone);
            lab.volumes.borrow_mut().remove(&volume.name);
        }
        Err(error) => lab.check(store.failed().is_some(), "volumes", || {
            format!("{} was not deleted: {error}", volume.name)
        }),
    }
}
