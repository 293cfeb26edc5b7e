//! One seed from its beginning to its end: a disk, a store, lives and crashes.
//!
//! Must never know: how seeds are spread over processes.

use crate::harm;
use crate::inspect;
use crate::invariants::Violation;
use crate::lab::{DISK, Lab};
use crate::life::{self, End, Ending};
use crate::notes::Tally;
use crate::plan::{Class, Limits, Plan, Trust};
use crate::volume::Presence;
use crate::workload;
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::DeviceOptions;
use ashlar_engine::reactor::sim::{Crash, Stop, World, WorldOptions};
use std::rc::Rc;
use std::time::Duration;

/// Virtual time that a seed may last.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Turns that a seed may take.
const TURNS_MAX: u64 = 3_000_000;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The broken promise, if one was.
    pub violation: Option<Violation>,
    /// What was done.
    pub tally: Tally,
    /// Hash of everything that happened.
    pub trace: u64,
    /// Lives begun.
    pub lives: u32,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, limits: &Limits, is_verbose: bool) -> Outcome {
    let plan = Plan::draw(seed, limits);
    let options = WorldOptions {
        shuffle_tasks: plan.has(Class::Shuffle),
        net: plan.net.clone(),
        skip: limits.skip.clone(),
        time_max: TIME_MAX,
        turns_max: TURNS_MAX,
        ..WorldOptions::default()
    };
    let world = World::new(seed, options);
    let disk = world.create_disk(DISK, STORE_MIN_BYTES);
    let lab = Lab::new(world, disk, plan, limits.clone(), is_verbose);
    lab.log(|| format!("seed {seed}: {:?}", lab.plan));
    begin(&lab);
    let mut lives = 0;
    while lives < lab.plan.lives && !lab.is_broken() {
        lives += 1;
        let is_last = lives == lab.plan.lives;
        if !one_life(&lab, is_last) {
            break;
        }
    }
    let mut tally = lab.tally.borrow().clone();
    tally.faults = lab.world.faults();
    tally.virtual_nanos = lab.world.now().0;
    Outcome { violation: lab.first_violation(), tally, trace: lab.world.trace_hash(), lives }
}

/// Formats the disk and creates the first volumes.
fn begin(lab: &Rc<Lab>) {
    lab.peace();
    let reactor = lab.world.reactor();
    let volumes = 1 + lab.below(2);
    let formatting = async {
        let device = reactor.open_device(DISK, &DeviceOptions::default())?;
        LocalStore::format(&reactor, &*device, STORE_MIN_BYTES).await?;
        let store = LocalStore::open(&reactor, device, false).await?;
        for name in ["a", "b"].into_iter().take(volumes as usize) {
            workload::create(lab, &store, name).await;
        }
        store.close().await
    };
    let result = lab.world.run(&reactor, Stop::Never, formatting);
    if let Some(Err(error)) = result {
        lab.violation(Violation::new("opens", format!("formatting failed: {error}")));
    }
    reactor.shutdown();
}

/// One life and how it ends. False: the seed is over.
fn one_life(lab: &Rc<Lab>, is_last: bool) -> bool {
    let ending = match lab.below(100) {
        _ if is_last && lab.percent(30) => Ending::Empty,
        0..55 => Ending::Abrupt,
        55..80 => Ending::Idle,
        _ => Ending::Clean,
    };
    let stop = match ending {
        Ending::Abrupt if lab.plan.has(Class::Early) && lab.percent(40) => {
            Stop::AfterDeviceOps(lab.below(40))
        }
        Ending::Abrupt => Stop::AfterDeviceOps(30 + lab.below(u64::from(lab.plan.requests) * 2)),
        _ if lab.percent(10) => Stop::AfterDeviceOps(20 + lab.below(400)),
        _ => Stop::Never,
    };
    lab.log(|| format!("a life begins: {ending:?}, {stop:?}"));
    let reactor = lab.world.reactor();
    let pool = reactor.pool().clone();
    let living = life::live(Rc::clone(lab), reactor.clone(), ending);
    let end = lab.world.run(&reactor, stop, living);
    let is_closed = end == Some(End::Well) && matches!(ending, Ending::Clean | Ending::Empty);
    let crash =
        if lab.plan.has(Class::Power) && lab.percent(60) { Crash::PowerLoss } else { Crash::Kill };
    lab.log(|| format!("{end:?}, then {crash:?}"));
    lab.world.crash(crash);
    reactor.shutdown();
    drop(reactor);
    lab.count(|tally| tally.crashes += u64::from(!is_closed));
    if end != Some(End::Well) || ending == Ending::Abrupt {
        lab.settled.take();
    }
    stop_histories(lab);
    inspect::judge_live(lab);
    let is_whole = end == Some(End::Well) && ending != Ending::Abrupt;
    // A damaged block and a failing read are two faults.
    let is_alone = lab.trust() == Trust::Honest;
    if is_whole && is_alone && lab.plan.has(Class::Damage) && lab.percent(50) {
        harm::damage_one(lab);
    }
    if is_whole && lab.trust() == Trust::Damaged && lab.percent(10) {
        harm::damage_stretch(lab);
    }
    let left = pool.in_use_bytes();
    lab.check(left == 0, "bounded", || format!("{left} bytes of buffers leaked"));
    !matches!(end, Some(End::Refused | End::Broken))
}

/// What was not answered will not be.
fn stop_histories(lab: &Lab) {
    for volume in lab.volumes.borrow().values() {
        volume.history.borrow_mut().stop();
        if volume.presence.get() == Presence::Gone {
            lab.violation(Violation::new("harness", "a volume that is gone is listed"));
        }
    }
}
