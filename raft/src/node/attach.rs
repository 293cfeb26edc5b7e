//! Volumes of the cluster that are open on this node, and how they reach their groups.
//!
//! Invariant: a volume is open once in a process, however many have a handle, so that its locks and
//! its right to write are one.
//! Must never know: byte ranges.

use super::answer::{Answer, Fault};
use super::message::Range;
use super::{Inner, Node};
use crate::control::{ClusterVolumeId, Operation, Outcome as Controlled, PgId};
use crate::types::{Changes, Outcome, Proposal, Write};
use crate::volume::{ClusterVolume, Group, Groups, ProposeError, VolumeHandle, VolumeSpec, Writer};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::Extent;
use ashlar_engine::reactor::LocalBox;
use ashlar_engine::units::{BlockIndex, VolumeId};
use ashlar_engine::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How long a read is tried at whoever leads, before who reads is told.
const READ_MAX: Duration = Duration::from_secs(30);
/// How long the control group is asked who may write, before what is known here must do.
const EPOCH_MAX: Duration = Duration::from_secs(3);
/// Pause before it is tried again.
const READ_PAUSE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Default)]
pub(super) struct Volumes {
    open: BTreeMap<ClusterVolumeId, Weak<ClusterVolume>>,
    writers: BTreeMap<PgId, Rc<Writer>>,
}

/// A group, as its writer reaches it.
struct OneGroup {
    node: Weak<Inner>,
    id: PgId,
}

/// All groups, as volumes reach them.
struct AllGroups {
    node: Weak<Inner>,
}

impl Node {
    /// Names of all volumes.
    #[must_use]
    pub fn volume_names(&self) -> Vec<String> {
        let map = self.map();
        let live = map.volumes().values().filter(|volume| !volume.deleting);
        let mut names: Vec<String> = live.map(|volume| volume.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Opens the volume of that name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_volume(&self, name: &str) -> Result<VolumeHandle> {
        let map = self.map();
        let (id, volume) = map.volume_by_name(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no volume {name:?}"))
        })?;
        let spec = VolumeSpec::new(id, volume);
        let mut volumes = self.inner.volumes.borrow_mut();
        let open = volumes.open.get(&id).and_then(Weak::upgrade);
        if let Some(open) = open.filter(|open| *open.spec() == spec) {
            return Ok(open.open());
        }
        let groups = Rc::new(AllGroups { node: Rc::downgrade(&self.inner) });
        let open = ClusterVolume::new(self.inner.reactor.clone(), groups, spec);
        volumes.open.retain(|_, volume| volume.strong_count() > 0);
        volumes.open.insert(id, Rc::downgrade(&open));
        Ok(open.open())
    }

    /// How many have a volume open on this node.
    #[must_use]
    pub fn volume_users(&self, id: ClusterVolumeId) -> usize {
        let volumes = self.inner.volumes.borrow();
        volumes.open.get(&id).and_then(Weak::upgrade).map_or(0, |volume| volume.handles())
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the node has ended")
}

impl Group for OneGroup {
    fn propose(&self, write: Write) -> LocalBox<std::result::Result<Outcome, ProposeError>> {
        let (node, id) = (self.node.upgrade(), self.id);
        Box::pin(async move {
            let node = node.ok_or_else(|| ProposeError::Unknown(gone()))?;
            let Write { proposer, serial, epoch, changes } = write;
            let changes = changes.into_shared();
            let make = || {
                let changes = Changes::from(Rc::clone(&changes));
                Proposal::Write(Write { proposer, serial, epoch, changes })
            };
            node.runtime.enter(node.propose(id, make)).await.map_err(|fault| match fault {
                Fault::Refused(error) => ProposeError::Refused(error),
                Fault::Unknown(error) => ProposeError::Unknown(error),
                // Nobody took it; the next one may.
                Fault::NotLeader(_) => {
                    let why = format!("placement group {id} has no leader");
                    ProposeError::Unknown(Error::new(ErrorKind::Failed, why))
                }
            })
        })
    }
}

impl AllGroups {
    /// Tries something until it is known, for as long as a reader waits.
    fn tried<T: 'static, F>(&self, ask: impl Fn(Rc<Inner>) -> F + 'static) -> LocalBox<Result<T>>
    where
        F: Future<Output = Answer<T>> + 'static,
    {
        let node = self.node.upgrade();
        Box::pin(async move {
            let node = node.ok_or_else(gone)?;
            let deadline = node.reactor.now() + READ_MAX;
            loop {
                let error = match node.runtime.enter(ask(Rc::clone(&node))).await {
                    Ok(found) => return Ok(found),
                    Err(Fault::Refused(error)) => return Err(error),
                    Err(Fault::Unknown(error)) => error,
                    Err(Fault::NotLeader(_)) => {
                        Error::new(ErrorKind::Failed, "the placement group has no leader")
                    }
                };
                if node.closed.get() || node.reactor.now() >= deadline {
                    return Err(error);
                }
                node.reactor.sleep(READ_PAUSE).await;
            }
        })
    }
}

impl Groups for AllGroups {
    fn writer(&self, group: PgId) -> Rc<Writer> {
        let node = self.node.upgrade().expect("invariant: volumes are used while their node is");
        let mut volumes = node.volumes.borrow_mut();
        let made = || {
            let one = OneGroup { node: self.node.clone(), id: group };
            Writer::new(node.reactor.clone(), Rc::new(one), node.proposer)
        };
        Rc::clone(volumes.writers.entry(group).or_insert_with(made))
    }

    fn read(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> LocalBox<Result<Vec<Buffer>>> {
        let range = Range { volume, first, count };
        self.tried(move |node| async move { node.read(group, range).await })
    }

    fn extents(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
        extents_max: usize,
    ) -> LocalBox<Result<Vec<Extent>>> {
        let range = Range { volume, first, count };
        self.tried(move |node| async move { node.extents(group, range, extents_max).await })
    }

    fn fence(&self, group: PgId, volume: VolumeId, epoch: u64) -> LocalBox<Result<Outcome>> {
        // Doing it again changes nothing.
        self.tried(move |node| async move {
            node.propose(group, || Proposal::Fence { volume, epoch }).await
        })
    }

    fn attach(&self, volume: ClusterVolumeId) -> LocalBox<Result<u64>> {
        let node = self.node.upgrade();
        Box::pin(async move {
            let node = node.ok_or_else(gone)?;
            let own = node.options.id;
            let attach = Operation::Attach { volume, node: own };
            match node.runtime.enter(node.command(attach)).await? {
                Controlled::Attached { epoch, .. } => Ok(epoch),
                Controlled::Refused(refusal) => {
                    Err(Error::new(ErrorKind::Invalid, refusal.to_string()))
                }
                other => {
                    let why = format!("the control group answered {other:?}");
                    Err(Error::new(ErrorKind::Failed, why))
                }
            }
        })
    }

    fn newest_epoch(&self, volume: ClusterVolumeId) -> LocalBox<Option<u64>> {
        let node = self.node.upgrade();
        Box::pin(async move {
            let node = node?;
            let asking = node.runtime.enter(node.volume_epoch(volume));
            let asked = node.reactor.within(EPOCH_MAX, asking).await;
            // Without the control group, what was heard of it must do: slices refuse the rest.
            let heard = || node.map.newest().volumes().get(&volume).map(|volume| volume.epoch);
            asked.and_then(|asked| asked.ok()).or_else(heard)
        })
    }

    fn detach(&self, volume: ClusterVolumeId, epoch: u64) {
        let Some(node) = self.node.upgrade() else { return };
        let detach = Operation::Detach { volume, node: node.options.id, epoch };
        let own = Rc::clone(&node);
        node.runtime.start_task(async move {
            // If it cannot be said, the next writer takes the right over all the same.
            own.command(detach).await.ok();
        });
    }
}
