//! NBD clients of a cluster: they go from node to node, take volumes over, and wait for answers.
//!
//! Must never know: how the cluster is troubled.

use super::lab::{ClusterLab, Kept};
use super::site::Site;
use super::writers::HandleId;
use crate::client::{Answer, Client, Request, Style, command};
use crate::history::{Effect, Fate};
use crate::invariants::Violation;
use crate::plan::Class;
use crate::sector::{BLOCK_SECTORS, SECTOR_BYTES, encode_all};
use ashlar_nbd_server::proto::Errno;
use ashlar_nbd_server::proto::wire::command_flag;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// How long a client waits for a node to let it in.
const OPEN_MAX: Duration = Duration::from_secs(8);
/// How long a request of a client may take at a node that lives: a write is tried for 30 s, and
/// what it waits for before that, for as long.
const ANSWER_MAX: Duration = Duration::from_secs(130);
/// Pause before a client that was turned away asks elsewhere.
const PAUSE: Duration = Duration::from_millis(50);
const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

/// What one connection is.
struct Seat {
    client: Rc<Client>,
    kept: Rc<Kept>,
    site: Rc<Site>,
    /// `None`: it only reads.
    handle: Option<HandleId>,
    writer: u64,
}

/// A client of one volume, until all requests are used up. `writes`: or it only reads.
pub async fn client(lab: Rc<ClusterLab>, kept: Rc<Kept>, number: u64, writes: bool) {
    let mut home = number as usize % lab.sites.len();
    while lab.goes_on() {
        if lab.plan.has(Class::Takeover) && lab.percent(40) || !writes {
            home = lab.below(lab.sites.len() as u64) as usize;
        }
        let site = Rc::clone(&lab.sites[home]);
        let style = STYLES[lab.below(3) as usize];
        let (reactor, name) = (&lab.reactor, &kept.volume.name);
        let address = site.nbd();
        let opening = Client::open(reactor, &address, name, style);
        let Some(Ok(Some(client))) = reactor.within(OPEN_MAX, opening).await else {
            reactor.sleep(PAUSE).await;
            home = (home + 1) % lab.sites.len();
            continue;
        };
        // Asked for now: a client that knocked at a node that was down is let in by its next life.
        let process = (home, site.life());
        let handle = writes.then(|| kept.writers.borrow_mut().open(process));
        lab.log(|| format!("{name}: client {number} is at node {}, {handle:?}", site.number));
        let workers: Vec<_> = (0..lab.plan.depth)
            .map(|i| {
                let (client, kept) = (Rc::clone(&client), Rc::clone(&kept));
                let writer = number * 100 + u64::from(i);
                let seat = Seat { client, kept, site: Rc::clone(&site), handle, writer };
                reactor.spawn(worker(Rc::clone(&lab), seat))
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
async fn worker(lab: Rc<ClusterLab>, seat: Seat) {
    let leave = if lab.plan.has(Class::Takeover) || seat.handle.is_none() { 8 } else { 1 };
    while lab.goes_on() && !seat.client.is_gone() {
        lab.budget.set(lab.budget.get().saturating_sub(1));
        let well = match seat.handle {
            Some(handle) if lab.percent(60) => change(&lab, &seat, handle).await,
            _ => read(&lab, &seat).await,
        };
        if !well || lab.percent(leave) {
            return;
        }
        // Bursts, so that writes gather; and pauses, so that there are some at every time.
        let pauses = match lab.budget.get() {
            0 => 80,
            _ if lab.plan.has(Class::Tight) => 5,
            _ => 40,
        };
        if lab.percent(pauses) {
            lab.reactor.sleep(Duration::from_micros(lab.below(300_000))).await;
        }
    }
}

fn range(lab: &ClusterLab, kept: &Kept) -> Range<u64> {
    let sectors = kept.volume.sectors();
    let unit = if lab.plan.has(Class::Partial) && lab.percent(60) { 1 } else { BLOCK_SECTORS };
    let tight = lab.plan.has(Class::Tight);
    let heavy = lab.plan.fills() && lab.percent(if tight { 80 } else { 50 });
    let (least, most) = match heavy {
        true if tight => (1024, 1024),
        true => (1, 2048),
        false if lab.percent(80) => (1, 16),
        false => (1, 256),
    };
    let count = (least + lab.below(most)).next_multiple_of(unit).min(sectors);
    let hot = if lab.percent(60) { (count + 32).min(sectors) } else { sectors };
    let first = lab.below(hot - count + 1) / unit * unit;
    first..first + count
}

/// Asks and waits. A node that lives and is left alone must answer.
async fn call(lab: &ClusterLab, seat: &Seat, request: Request, payload: &[u8]) -> Answer {
    let before = seat.site.disturbed();
    let asked = seat.client.call(request, payload);
    match lab.reactor.within(ANSWER_MAX, asked).await {
        Some(answer) => answer,
        None => {
            let paused = seat.site.machine().is_none_or(|machine| machine.is_paused());
            let alone = seat.site.disturbed() == before && !seat.client.is_gone() && !paused;
            seat.client.cut();
            lab.check(!alone, "answers", || {
                format!("node {} does not answer {request:?}", seat.site.number)
            });
            Answer::Gone
        }
    }
}

/// Whether an error may be: notes it, and breaks the seed if not.
fn refused(lab: &ClusterLab, seat: &Seat, request: Request, errno: u32, excused: bool) {
    lab.count(|tally| tally.refused += 1);
    lab.check(excused, "no false alarms", || {
        format!("error {errno} for {request:?} at node {}", seat.site.number)
    });
}

async fn read(lab: &ClusterLab, seat: &Seat) -> bool {
    let sectors = range(lab, &seat.kept);
    let (offset, length) = bytes(&sectors);
    let request = Request { command: command::READ, flags: 0, offset, length };
    let asked = lab.reactor.now();
    let history = &seat.kept.volume.history;
    let begin = history.borrow_mut().tick();
    match call(lab, seat, request, &[]).await {
        Answer::Data(data) => {
            lab.count(|tally| tally.acknowledged += 1);
            if let Err(found) = history.borrow_mut().seen(sectors.start, &data, begin) {
                lab.violation(found);
            }
            true
        }
        Answer::Error(errno) => {
            refused(lab, seat, request, errno, lab.may_fail(asked));
            true
        }
        _ => {
            lab.count(|tally| tally.lost += 1);
            false
        }
    }
}

fn bytes(sectors: &Range<u64>) -> (u64, u64) {
    let sector = SECTOR_BYTES as u64;
    (sectors.start * sector, (sectors.end - sectors.start) * sector)
}

/// What to do to which sectors: the command, its flags, and what it comes to.
fn choose(lab: &ClusterLab, kept: &Kept) -> (u16, u16, Effect, Range<u64>, Range<u64>) {
    let asked = range(lab, kept);
    let zeroes = lab.plan.has(Class::Zeroes);
    match lab.below(100) {
        0..12 if zeroes => {
            let whole = |at: u64| at / BLOCK_SECTORS * BLOCK_SECTORS;
            let first = asked.start.next_multiple_of(BLOCK_SECTORS);
            let last = match asked.end == kept.volume.sectors() {
                true => asked.end,
                false => whole(asked.end),
            };
            (command::TRIM, 0, Effect::Zero, asked, first.min(last)..last)
        }
        12..18 if zeroes => (command::WRITE_ZEROES, 0, Effect::Zero, asked.clone(), asked),
        18..22 if zeroes => {
            let flags = command_flag::NO_HOLE;
            (command::WRITE_ZEROES, flags, Effect::Zero, asked.clone(), asked)
        }
        _ => (command::WRITE, 0, Effect::Write, asked.clone(), asked),
    }
}

async fn change(lab: &ClusterLab, seat: &Seat, handle: HandleId) -> bool {
    let volume = &seat.kept.volume;
    let (command, flags, effect, asked, sectors) = choose(lab, &seat.kept);
    let (offset, length) = bytes(&asked);
    let request = Request { command, flags, offset, length };
    // Zeroes over parts of blocks are several changes.
    let whole = |at: u64| at.is_multiple_of(BLOCK_SECTORS);
    let atomic = effect == Effect::Write || whole(sectors.start) && whole(sectors.end);
    let nothing = sectors.is_empty();
    let id = volume.history.borrow_mut().begin(effect, sectors.clone(), atomic);
    let mut payload = Vec::new();
    if command == command::WRITE {
        payload.resize(length as usize, 0);
        let life = volume.history.borrow().volume;
        encode_all(life, asked.start, seat.writer, id.sequence(), &mut payload);
    }
    let since = lab.reactor.now();
    let answer = call(lab, seat, request, &payload).await;
    lab.log(|| {
        let (name, sequence) = (&volume.name, id.sequence());
        format!("{name} {sequence} {effect:?} {sectors:?} by {handle:?}: {answer:?}")
    });
    let fate = match answer {
        Answer::Done => Fate::Done,
        Answer::Error(errno) => {
            let fenced = seat.kept.writers.borrow().may_be_fenced(handle);
            let full = errno == Errno::NoSpace as u32 && lab.plan.fills();
            refused(lab, seat, request, errno, fenced || full || lab.may_fail(since));
            Fate::Lost
        }
        _ => {
            lab.count(|tally| tally.lost += 1);
            Fate::Lost
        }
    };
    volume.history.borrow_mut().end(id, fate);
    if fate != Fate::Done {
        return false;
    }
    lab.count(|tally| tally.acknowledged += 1);
    let (begin, end) = {
        let history = volume.history.borrow();
        let op = &history.ops[id.0 as usize];
        (op.begin, op.end)
    };
    if !nothing && let Err(found) = seat.kept.writers.borrow_mut().acknowledged(handle, begin, end)
    {
        lab.violation(found);
    }
    true
}
