//! Placement groups in memory.

use crate::control::{ClusterVolumeId, PgId};
use crate::state_machine::AppliedHead;
use crate::types::{Change, Outcome, Write};
use crate::volume::{Group, Groups, ProposeError, Writer};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::Extent;
use ashlar_engine::reactor::{LocalBox, RandomStream, Reactor};
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use ashlar_engine::{Error, ErrorKind, Result};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What becomes of one attempt to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is applied, and the outcome is told.
    Told,
    /// It is applied, and nobody is told.
    Silent,
    /// It is not applied, and nobody is told.
    Lost,
    /// Nobody is told, and it is applied so much later.
    Late(Duration),
    /// It is not applied, and the proposer is told so.
    Refused,
    /// The group remembers no more proposers.
    Crowded,
}

/// An attempt to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) group: PgId,
    pub(super) proposer: u64,
    pub(super) serial: u64,
    pub(super) epoch: u64,
    pub(super) changes: usize,
    pub(super) blocks: usize,
    /// It creates a slice.
    pub(super) creates: bool,
}

#[derive(Default)]
struct State {
    head: AppliedHead,
    index: u64,
    sizes: BTreeMap<VolumeId, u64>,
    /// Data of a block; `None`: zeroes that keep their space.
    blocks: BTreeMap<(VolumeId, u64), Option<Vec<u8>>>,
    /// Writes that were not judged to be retries.
    counted: u64,
    /// Proposals that are under way now, and the most there ever were.
    under_way: (usize, usize),
}

type Fates = Box<dyn FnMut(&Attempt) -> Fate>;

/// The groups of all processes.
pub(super) struct Cluster {
    pub(super) reactor: Reactor,
    random: RefCell<RandomStream>,
    states: RefCell<BTreeMap<PgId, State>>,
    fates: RefCell<Fates>,
    pub(super) attempts: RefCell<Vec<Attempt>>,
    epoch: Cell<u64>,
    pub(super) detached: RefCell<Vec<u64>>,
    /// Longest time of anything.
    pub(super) latency: Cell<Duration>,
}

impl Cluster {
    pub(super) fn new(reactor: &Reactor) -> Rc<Cluster> {
        Rc::new(Cluster {
            reactor: reactor.clone(),
            random: RefCell::new(reactor.random("groups")),
            states: RefCell::default(),
            fates: RefCell::new(Box::new(|_| Fate::Told)),
            attempts: RefCell::default(),
            epoch: Cell::new(0),
            detached: RefCell::default(),
            latency: Cell::new(Duration::from_millis(2)),
        })
    }

    /// Says what becomes of proposals from now on.
    pub(super) fn decide(&self, fates: impl FnMut(&Attempt) -> Fate + 'static) {
        *self.fates.borrow_mut() = Box::new(fates);
    }

    /// Attempts since this was asked last, but for those that create slices.
    pub(super) fn take_attempts(&self) -> Vec<Attempt> {
        self.attempts.take().into_iter().filter(|attempt| !attempt.creates).collect()
    }

    /// Writes that counted, of all groups.
    pub(super) fn counted(&self) -> u64 {
        self.states.borrow().values().map(|state| state.counted).sum()
    }

    /// The most proposals of a group that were under way at once.
    pub(super) fn under_way_most(&self) -> usize {
        self.states.borrow().values().map(|state| state.under_way.1).max().unwrap_or(0)
    }

    async fn travel(&self) {
        let most = self.latency.get().as_micros() as u64;
        let micros = self.random.borrow_mut().below(most + 1);
        self.reactor.sleep(Duration::from_micros(micros)).await;
    }

    fn apply(&self, group: PgId, write: &Write) -> Outcome {
        let mut states = self.states.borrow_mut();
        let state = states.entry(group).or_default();
        state.index += 1;
        let (outcome, counts) = state.head.write(state.index, write);
        if counts {
            state.counted += 1;
            write.changes.iter().for_each(|change| state.change(change));
        }
        outcome
    }
}

impl State {
    fn change(&mut self, change: &Change) {
        match *change {
            Change::CreateVolume { volume, size_bytes } => {
                let size = self.sizes.entry(volume).or_insert(size_bytes);
                assert_eq!(*size, size_bytes, "a slice changes its size");
            }
            Change::DeleteVolume { .. } => unreachable!("volumes delete no slices"),
            Change::Write { volume, first, ref data } => {
                for (block, data) in (first.0..).zip(data.chunks(BLOCK_SIZE_BYTES)) {
                    assert_eq!(data.len(), BLOCK_SIZE_BYTES, "not whole blocks");
                    self.check(volume, block);
                    self.blocks.insert((volume, block), Some(data.to_vec()));
                }
            }
            Change::Zero { volume, first, count, reserve } => {
                for block in first.0..first.0 + u64::from(count) {
                    self.check(volume, block);
                    match reserve {
                        true => drop(self.blocks.insert((volume, block), None)),
                        false => drop(self.blocks.remove(&(volume, block))),
                    }
                }
            }
        }
    }

    fn check(&self, volume: VolumeId, block: u64) {
        let size = self.sizes.get(&volume).expect("the slice is made before it is written");
        assert!(block * (BLOCK_SIZE_BYTES as u64) < *size, "behind the end of the slice");
    }
}

/// The groups, as one process reaches them.
pub(super) struct Process {
    cluster: Rc<Cluster>,
    number: u64,
    writers: RefCell<BTreeMap<PgId, Rc<Writer>>>,
}

/// One group of a process.
pub(super) struct One {
    pub(super) cluster: Rc<Cluster>,
    pub(super) id: PgId,
}

impl Process {
    pub(super) fn new(cluster: &Rc<Cluster>, number: u64) -> Process {
        Process { cluster: Rc::clone(cluster), number, writers: RefCell::default() }
    }
}

fn unknown() -> ProposeError {
    ProposeError::Unknown(Error::new(ErrorKind::Failed, "nobody answers"))
}

impl Group for One {
    fn propose(&self, write: Write) -> LocalBox<std::result::Result<Outcome, ProposeError>> {
        let (cluster, id) = (Rc::clone(&self.cluster), self.id);
        Box::pin(async move {
            let creates = |change: &Change| matches!(change, Change::CreateVolume { .. });
            let attempt = Attempt {
                group: id,
                proposer: write.proposer,
                serial: write.serial,
                epoch: write.epoch,
                changes: write.changes.len(),
                blocks: write.blocks(),
                creates: write.changes.iter().any(creates),
            };
            let fate = cluster.fates.borrow_mut()(&attempt);
            cluster.attempts.borrow_mut().push(attempt);
            let count = |by: isize| {
                let mut states = cluster.states.borrow_mut();
                let (now, most) = &mut states.entry(id).or_default().under_way;
                *now = now.checked_add_signed(by).expect("begins before it ends");
                *most = (*most).max(*now);
            };
            count(1);
            cluster.travel().await;
            let outcome = match fate {
                Fate::Told => Ok(cluster.apply(id, &write)),
                Fate::Silent => {
                    cluster.apply(id, &write);
                    Err(unknown())
                }
                Fate::Lost => Err(unknown()),
                Fate::Late(time) => {
                    let own = Rc::clone(&cluster);
                    let late = async move {
                        own.reactor.sleep(time).await;
                        own.apply(id, &write);
                    };
                    cluster.reactor.spawn(late).detach();
                    Err(unknown())
                }
                Fate::Refused => {
                    Err(ProposeError::Refused(Error::new(ErrorKind::NoSpace, "the store is full")))
                }
                Fate::Crowded => Ok(Outcome::Busy),
            };
            cluster.travel().await;
            count(-1);
            outcome
        })
    }
}

impl Groups for Process {
    fn writer(&self, group: PgId) -> Rc<Writer> {
        let made = || {
            let one = One { cluster: Rc::clone(&self.cluster), id: group };
            Writer::new(self.cluster.reactor.clone(), Rc::new(one), self.number)
        };
        Rc::clone(self.writers.borrow_mut().entry(group).or_insert_with(made))
    }

    fn read(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> LocalBox<Result<Vec<Buffer>>> {
        let cluster = Rc::clone(&self.cluster);
        Box::pin(async move {
            cluster.travel().await;
            let read = |block| {
                let states = cluster.states.borrow();
                let data = states.get(&group).and_then(|state| state.blocks.get(&(volume, block)));
                let mut buffer = cluster.reactor.pool().allocate(BLOCK_SIZE_BYTES);
                match data {
                    Some(Some(data)) => buffer.copy_from_slice(data),
                    _ => buffer.fill(0),
                }
                buffer
            };
            let parts = (first.0..first.0 + count).map(read).collect();
            cluster.travel().await;
            Ok(parts)
        })
    }

    fn extents(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
        extents_max: usize,
    ) -> LocalBox<Result<Vec<Extent>>> {
        let cluster = Rc::clone(&self.cluster);
        Box::pin(async move {
            cluster.travel().await;
            let states = cluster.states.borrow();
            let mut extents: Vec<Extent> = Vec::new();
            for block in first.0..first.0 + count {
                let found = states.get(&group).and_then(|state| state.blocks.get(&(volume, block)));
                let mapping = match found {
                    None => Mapping::Hole,
                    Some(None) => Mapping::Reserved,
                    Some(Some(_)) => Mapping::Data,
                };
                let length_bytes = BLOCK_SIZE_BYTES as u64;
                if let Some(last) = extents.last_mut().filter(|last| last.mapping == mapping) {
                    last.length_bytes += length_bytes;
                } else if extents.len() < extents_max {
                    extents.push(Extent { length_bytes, mapping });
                } else {
                    break;
                }
            }
            Ok(extents)
        })
    }

    fn fence(&self, group: PgId, volume: VolumeId, epoch: u64) -> LocalBox<Result<Outcome>> {
        let cluster = Rc::clone(&self.cluster);
        Box::pin(async move {
            cluster.travel().await;
            let mut states = cluster.states.borrow_mut();
            Ok(states.entry(group).or_default().head.fence(volume, epoch))
        })
    }

    fn attach(&self, _: ClusterVolumeId) -> LocalBox<Result<u64>> {
        let cluster = Rc::clone(&self.cluster);
        Box::pin(async move {
            cluster.travel().await;
            cluster.epoch.set(cluster.epoch.get() + 1);
            Ok(cluster.epoch.get())
        })
    }

    /// A process hears of nothing: it finds out when it is refused.
    fn newest_epoch(&self, _: ClusterVolumeId) -> Option<u64> {
        None
    }

    fn detach(&self, _: ClusterVolumeId, epoch: u64) {
        self.cluster.detached.borrow_mut().push(epoch);
    }
}
