//! One life of the store: opened, looked through, used, and ended in one of several ways.
//!
//! Must never know: what single requests do, how bytes are judged.

use crate::inspect::{self, QUIET};
use crate::invariants::Violation;
use crate::lab::{DISK, Lab};
use crate::plan::{Class, Trust};
use crate::workload;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Chance, DiskFaults, FaultKind};
use ashlar_engine::reactor::{Address, BlockDevice, DeviceOptions, Reactor};
use ashlar_engine::{Error, ErrorKind};
use ashlar_nbd_server::{Server, ServerOptions, VolumeExports};
use std::rc::Rc;
use std::time::Duration;

/// How a life is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In the middle of requests.
    Abrupt,
    /// Everything is answered and nothing is under way; then it is killed.
    Idle,
    /// The store is closed in order.
    Clean,
    /// As `Clean`, but everything is deleted first, and nothing may be left.
    Empty,
}

/// How it did end, if it was not stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As meant.
    Well,
    /// The store fenced itself.
    Fenced,
    /// The store would not open, and had a right not to.
    Refused,
    /// A promise was broken.
    Broken,
}

/// Lives one life.
pub async fn live(lab: Rc<Lab>, reactor: Reactor, ending: Ending) -> End {
    let device = match reactor.open_device(DISK, &DeviceOptions::default()) {
        Ok(device) => device,
        Err(error) => {
            lab.violation(Violation::new("opens", format!("the disk: {error}")));
            return End::Broken;
        }
    };
    let Some(store) = open(&lab, &reactor, device).await else {
        return if lab.is_broken() { End::Broken } else { End::Refused };
    };
    lab.count(|tally| tally.recoveries += 1);
    inspect::after_open(&lab, &store).await;
    lab.trouble();
    if lab.is_broken() {
        return End::Broken;
    }
    let syncs = failed_syncs(&lab);
    serve(&lab, &reactor, &store, ending).await;
    if failed_syncs(&lab) > syncs && ending != Ending::Abrupt {
        reactor.sleep(QUIET).await;
        let fenced = store.failed().is_some();
        lab.check(fenced, "fenced", || "a sync failed, and the store went on".to_owned());
    }
    if lab.is_broken() {
        return End::Broken;
    }
    if store.failed().is_some() {
        inspect::fenced(&lab, &store).await;
        return End::Fenced;
    }
    inspect::books(&lab, &store, "after use");
    if ending == Ending::Empty {
        lab.peace();
        inspect::delete_everything(&lab, &reactor, &store).await;
    }
    if ending == Ending::Idle {
        inspect::fall_idle(&lab, &reactor, &store).await;
    }
    if matches!(ending, Ending::Clean | Ending::Empty) {
        if let Err(error) = store.close().await {
            lab.log(|| format!("close failed: {error}"));
            let expected = store.failed().is_some();
            lab.check(expected, "closes", || format!("a sound store did not close: {error}"));
            return End::Fenced;
        }
        lab.log(|| "closed".to_owned());
    }
    if lab.is_broken() { End::Broken } else { End::Well }
}

/// Opens the store, again if the disk fails, at last without faults.
async fn open(lab: &Lab, reactor: &Reactor, device: Rc<dyn BlockDevice>) -> Option<LocalStore> {
    let quiet = || {
        let planned = lab.plan.disk.clone();
        lab.disk.set_faults(DiskFaults {
            // A sync that fails here loses what nobody can tell from durable: two faults.
            sync_lost: Chance::NEVER,
            sync_reverted: Chance::NEVER,
            ..planned
        });
    };
    for attempt in 0..3 {
        match attempt {
            0 | 1 => quiet(),
            _ => {
                lab.peace();
                if lab.trust() == Trust::Damaged || lab.damage.get() > 0 {
                    lab.disk.heal();
                }
            }
        }
        let seen = match inspect::look_only(lab, reactor, &device).await {
            Ok(seen) => seen,
            Err(error) => {
                refused(lab, attempt, &error);
                continue;
            }
        };
        match LocalStore::open(reactor, Rc::clone(&device), false).await {
            Ok(store) => {
                inspect::same_twice(lab, seen, &store);
                lab.log(|| format!("opened: {:?}", store.status().durable_lsn));
                return Some(store);
            }
            Err(error) => refused(lab, attempt, &error),
        }
    }
    None
}

/// The store would not open: only failing or damaged disks excuse that.
fn refused(lab: &Lab, attempt: u32, error: &Error) {
    lab.log(|| format!("refused ({:?}): {error}", error.kind()));
    lab.count(|tally| tally.damaged += u64::from(error.kind() == ErrorKind::Corrupt));
    // A bad place where the next batch's header would be may hide one: that is said, not guessed.
    let hides = error.kind() == ErrorKind::Corrupt && error.to_string().contains("cannot be read");
    if hides && lab.damaged_block.get().is_some() {
        lab.disk.heal();
        lab.damaged_block.set(None);
        return;
    }
    let excused = match lab.trust() {
        // What was taken for a torn end, and written over, does not come back with healing.
        Trust::Lying | Trust::Damaged => true,
        Trust::Failing => attempt < 2,
        Trust::Honest => false,
    };
    lab.check(excused, "opens", || format!("the store was refused: {error}"));
}

fn failed_syncs(lab: &Lab) -> u64 {
    lab.faults_of(FaultKind::SyncLost) + lab.faults_of(FaultKind::SyncReverted)
}

/// Where clients connect.
#[must_use]
pub fn address() -> Address {
    Address::Unix("nbd".into())
}

async fn serve(lab: &Rc<Lab>, reactor: &Reactor, store: &LocalStore, ending: Ending) {
    let exports = Rc::new(VolumeExports::new(store.clone(), false));
    let server = Server::new(reactor.clone(), exports, ServerOptions::default());
    if let Err(error) = server.listen(&address()) {
        return lab.violation(Violation::new("serves", format!("cannot listen: {error}")));
    }
    lab.budget.set(lab.plan.requests);
    let mut tasks = Vec::new();
    for number in 0..lab.plan.clients {
        let client = workload::client(Rc::clone(lab), reactor.clone(), store.clone(), number);
        tasks.push(reactor.spawn(client));
    }
    if lab.plan.has(Class::Volumes) {
        let admin = workload::admin(Rc::clone(lab), reactor.clone(), store.clone());
        tasks.push(reactor.spawn(admin));
    }
    for task in tasks {
        task.await;
    }
    lab.check(server.counters().connections <= u64::from(lab.plan.clients) + 64, "bounded", || {
        format!("connections: {:?}", server.counters())
    });
    if ending != Ending::Abrupt && store.failed().is_none() {
        let cut = server.shutdown().await;
        lab.check(server.counters().connections == 0, "bounded", || {
            format!("{cut} connections cut, {:?} after the end", server.counters())
        });
    }
    reactor.sleep(Duration::from_millis(lab.below(3))).await;
}
