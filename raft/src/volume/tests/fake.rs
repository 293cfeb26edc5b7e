//! Groups in memory, and nodes that use them.
//!
//! A group judges writes with the state machine's own [`AppliedHead`]; what becomes of a proposal
//! on its way is said by [`Fate`]s. It holds every proposal to the bounds of entries, and panics
//! where a volume asks for what must never be asked for.

use super::*;
use crate::state_machine::AppliedHead;
use crate::types::{Change, Proposal};
use ashlar_engine::reactor::RandomStream;
use ashlar_engine::store::Mapping;
use ashlar_engine::units::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

/// What becomes of a proposal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// Carried out, and answered after this time.
    Done(Duration),
    /// Never carried out, and nobody knows.
    Lost,
    /// Carried out after this time, and nobody knows.
    Unsure(Duration),
    /// Not carried out, as the answer says.
    Refused(ErrorKind),
    /// Judged: the group remembers as many proposers as it may.
    Busy,
}

/// What a group was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Fence(u64),
    /// First block and count.
    Read(u64, u64),
    Write(Seen),
}

/// A proposal as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: Nanos,
    pub(super) serial: u64,
    pub(super) epoch: u64,
    pub(super) changes: usize,
    pub(super) blocks: usize,
}

#[derive(Clone)]
enum Block {
    Hole,
    Reserved,
    Data(Rc<[u8]>),
}

impl Block {
    fn mapping(&self) -> Mapping {
        match self {
            Block::Hole => Mapping::Hole,
            Block::Reserved => Mapping::Reserved,
            Block::Data(_) => Mapping::Data,
        }
    }
}

#[derive(Default)]
struct State {
    head: AppliedHead,
    index: u64,
    volumes: BTreeMap<VolumeId, Vec<Block>>,
}

/// See the module.
pub(super) struct FakeGroup {
    reactor: Reactor,
    state: RefCell<State>,
    /// What becomes of the next proposals,
    pub(super) fates: RefCell<VecDeque<Fate>>,
    /// and of all others.
    pub(super) otherwise: Cell<Fate>,
    /// Or it is drawn, and longest delays with it.
    pub(super) dice: RefCell<Option<RandomStream>>,
    /// Until then every proposal is lost or unsure.
    pub(super) outage_until: Cell<Nanos>,
    /// A serial that is always lost.
    pub(super) stuck: Cell<Option<u64>>,
    /// It refuses whatever needs room.
    pub(super) full: Cell<bool>,
    pub(super) reads_fail: Cell<bool>,
    /// Nobody leads: what is asked to be fenced waits.
    pub(super) fences_wait: Cell<bool>,
    /// Blocks that are looked at for extents at once.
    pub(super) looks_at: Cell<u64>,
    pub(super) asked: RefCell<Vec<Asked>>,
    /// Writes that were carried out, and not as retries.
    pub(super) done: Cell<usize>,
    under_way: Cell<usize>,
    pub(super) under_way_max: Cell<usize>,
}

impl FakeGroup {
    fn new(reactor: &Reactor) -> Rc<FakeGroup> {
        Rc::new(FakeGroup {
            reactor: reactor.clone(),
            state: RefCell::default(),
            fates: RefCell::default(),
            otherwise: Cell::new(Fate::Done(Duration::from_millis(1))),
            dice: RefCell::default(),
            outage_until: Cell::default(),
            stuck: Cell::default(),
            full: Cell::default(),
            reads_fail: Cell::default(),
            fences_wait: Cell::default(),
            looks_at: Cell::new(u64::MAX),
            asked: RefCell::default(),
            done: Cell::default(),
            under_way: Cell::default(),
            under_way_max: Cell::default(),
        })
    }

    /// Proposals that came, the newest last.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let asked = self.asked.borrow();
        let seen = asked.iter().filter_map(|asked| match asked {
            Asked::Write(seen) => Some(seen.clone()),
            _ => None,
        });
        seen.collect()
    }

    /// Forgets what it was asked for.
    pub(super) fn forget(&self) {
        self.asked.borrow_mut().clear();
        self.done.set(0);
        self.under_way_max.set(0);
    }

    /// The bytes of a volume, as they are now.
    pub(super) fn bytes(&self, volume: VolumeId) -> Vec<u8> {
        let count = self.state.borrow().volumes[&volume].len() as u64;
        self.copy(volume, 0, count)
    }

    fn copy(&self, volume: VolumeId, first: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; (count * BLOCK) as usize];
        let state = self.state.borrow();
        let Some(blocks) = state.volumes.get(&volume) else { return bytes };
        let blocks = &blocks[first as usize..(first + count) as usize];
        for (into, block) in bytes.chunks_mut(BLOCK as usize).zip(blocks) {
            if let Block::Data(data) = block {
                into.copy_from_slice(data);
            }
        }
        bytes
    }

    async fn travel(&self) {
        let micros = self.dice.borrow_mut().as_mut().map_or(100, |dice| dice.below(3000));
        self.reactor.sleep(Duration::from_micros(micros)).await;
    }

    fn fate(&self, serial: u64) -> Fate {
        if self.stuck.get() == Some(serial) {
            return Fate::Lost;
        }
        let outage = self.reactor.now() < self.outage_until.get();
        if let Some(dice) = self.dice.borrow_mut().as_mut() {
            let delay = Duration::from_millis(match dice.below(3) {
                0 => dice.below(5),
                1 => dice.below(2000),
                _ => dice.below(60_000),
            });
            return match dice.below(if outage { 3 } else { 12 }) {
                0 => Fate::Lost,
                1 | 2 => Fate::Unsure(delay),
                3 => Fate::Busy,
                4 => Fate::Refused(ErrorKind::NoSpace),
                _ => Fate::Done(Duration::from_micros(dice.below(20_000))),
            };
        }
        self.fates.borrow_mut().pop_front().unwrap_or(self.otherwise.get())
    }

    async fn propose(self: Rc<FakeGroup>, write: Write) -> ProposeResult {
        let proposal = Proposal::Write(write);
        proposal.check().expect("a proposal keeps its bounds");
        let Proposal::Write(write) = proposal else { unreachable!() };
        let (serial, epoch, at) = (write.serial, write.epoch, self.reactor.now());
        let (changes, blocks) = (write.changes.len(), write.blocks());
        self.asked.borrow_mut().push(Asked::Write(Seen { at, serial, epoch, changes, blocks }));
        self.under_way.set(self.under_way.get() + 1);
        self.under_way_max.set(self.under_way_max.get().max(self.under_way.get()));
        let result = self.decide(write).await;
        self.under_way.set(self.under_way.get() - 1);
        result
    }

    async fn decide(self: &Rc<FakeGroup>, write: Write) -> ProposeResult {
        let unknown = || ProposeError::Unknown(Error::new(ErrorKind::Failed, "no answer"));
        let full = self.full.get() && write.blocks() > 0;
        let fate = if full { Fate::Refused(ErrorKind::NoSpace) } else { self.fate(write.serial) };
        match fate {
            Fate::Done(after) => {
                let outcome = self.apply(&write);
                self.reactor.sleep(after).await;
                Ok(outcome)
            }
            Fate::Lost => {
                self.travel().await;
                Err(unknown())
            }
            Fate::Unsure(after) => {
                let own = Rc::clone(self);
                let late = async move {
                    own.reactor.sleep(after).await;
                    own.apply(&write);
                };
                self.reactor.spawn(late).detach();
                self.travel().await;
                Err(unknown())
            }
            Fate::Refused(kind) => {
                self.travel().await;
                Err(ProposeError::Refused(Error::new(kind, "the group does not want it")))
            }
            Fate::Busy => {
                self.travel().await;
                Ok(Outcome::Busy)
            }
        }
    }

    fn apply(&self, write: &Write) -> Outcome {
        let mut state = self.state.borrow_mut();
        state.index += 1;
        let index = state.index;
        let (outcome, carry_out) = state.head.write(index, write);
        if carry_out {
            self.done.set(self.done.get() + 1);
            write.changes.iter().for_each(|change| state.change(change));
        }
        outcome
    }

    fn extents(&self, volume: VolumeId, first: u64, count: u64, max: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let state = self.state.borrow();
        for block in first..first + count.min(self.looks_at.get()) {
            let blocks = state.volumes.get(&volume);
            let mapping = blocks.map_or(Mapping::Hole, |blocks| blocks[block as usize].mapping());
            let count = extents.len();
            match extents.last_mut() {
                Some(last) if last.mapping == mapping => last.length_bytes += BLOCK,
                _ if count == max => break,
                _ => extents.push(Extent { length_bytes: BLOCK, mapping }),
            }
        }
        extents
    }
}

impl State {
    fn change(&mut self, change: &Change) {
        let exists = "a slice is made before it is written";
        match change {
            Change::CreateVolume { volume, size_bytes } => {
                let blocks = vec![Block::Hole; (size_bytes / BLOCK) as usize];
                self.volumes.entry(*volume).or_insert(blocks);
            }
            Change::DeleteVolume { .. } => unreachable!("volumes do not delete slices"),
            Change::Write { volume, first, data } => {
                let blocks = self.volumes.get_mut(volume).expect(exists);
                let into = &mut blocks[first.0 as usize..];
                assert!(data.len() / BLOCK as usize <= into.len(), "past the end of a slice");
                for (into, bytes) in into.iter_mut().zip(data.chunks(BLOCK as usize)) {
                    *into = Block::Data(bytes.into());
                }
            }
            Change::Zero { volume, first, count, reserve } => {
                let blocks = self.volumes.get_mut(volume).expect(exists);
                let range = first.0 as usize..first.0 as usize + *count as usize;
                let new = if *reserve { Block::Reserved } else { Block::Hole };
                blocks[range].fill(new);
            }
        }
    }
}

type ProposeResult = std::result::Result<Outcome, ProposeError>;

/// The way of one node to a group.
struct Leader(Rc<FakeGroup>);

impl Group for Leader {
    fn propose(&self, write: Write) -> LocalBox<ProposeResult> {
        Box::pin(Rc::clone(&self.0).propose(write))
    }
}

/// Two groups, and who may write.
pub(super) struct Cluster {
    pub(super) even: Rc<FakeGroup>,
    pub(super) odd: Rc<FakeGroup>,
    epoch: Cell<u64>,
    nodes: Cell<u64>,
}

impl Cluster {
    pub(super) fn new(reactor: &Reactor) -> Rc<Cluster> {
        let (even, odd) = (FakeGroup::new(reactor), FakeGroup::new(reactor));
        Rc::new(Cluster { even, odd, epoch: Cell::new(0), nodes: Cell::new(0) })
    }

    pub(super) fn group(&self, group: PgId) -> Rc<FakeGroup> {
        Rc::clone(if group == EVEN { &self.even } else { &self.odd })
    }

    /// One more process that has volumes of the cluster open.
    pub(super) fn node(self: &Rc<Cluster>, reactor: &Reactor) -> Rc<Node> {
        self.nodes.set(self.nodes.get() + 1);
        Rc::new(Node {
            reactor: reactor.clone(),
            cluster: Rc::clone(self),
            proposer: self.nodes.get(),
            writers: RefCell::default(),
            hears: Cell::new(false),
            attached: RefCell::default(),
            detached: RefCell::default(),
        })
    }
}

/// A process of the cluster.
pub(super) struct Node {
    pub(super) reactor: Reactor,
    pub(super) cluster: Rc<Cluster>,
    proposer: u64,
    writers: RefCell<BTreeMap<PgId, Rc<Writer>>>,
    /// Whether the control group answers it.
    pub(super) hears: Cell<bool>,
    /// Epochs that it asked for,
    pub(super) attached: RefCell<Vec<u64>>,
    /// and gave back.
    pub(super) detached: RefCell<Vec<u64>>,
}

impl Node {
    /// A volume as this process has it.
    pub(super) fn volume(self: &Rc<Node>, spec: VolumeSpec) -> Rc<ClusterVolume> {
        ClusterVolume::new(self.reactor.clone(), Rc::clone(self) as Rc<dyn Groups>, spec)
    }
}

impl Groups for Node {
    fn writer(&self, group: PgId) -> Rc<Writer> {
        let leader = || Rc::new(Leader(self.cluster.group(group)));
        let new = || Writer::new(self.reactor.clone(), leader(), self.proposer);
        Rc::clone(self.writers.borrow_mut().entry(group).or_insert_with(new))
    }

    fn read(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> LocalBox<Result<Vec<Buffer>>> {
        let (group, reactor) = (self.cluster.group(group), self.reactor.clone());
        Box::pin(async move {
            group.travel().await;
            group.asked.borrow_mut().push(Asked::Read(first.0, count));
            if group.reads_fail.get() {
                return Err(Error::new(ErrorKind::Failed, "nobody leads"));
            }
            let bytes = group.copy(volume, first.0, count);
            group.travel().await;
            // In more than one piece, so that they must be put together.
            let pieces = bytes.chunks(3 * BLOCK as usize).map(|piece| {
                let mut buffer = reactor.pool().allocate(piece.len());
                buffer.copy_from_slice(piece);
                buffer
            });
            Ok(pieces.collect())
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
        let group = self.cluster.group(group);
        Box::pin(async move { Ok(group.extents(volume, first.0, count, extents_max)) })
    }

    fn fence(&self, group: PgId, volume: VolumeId, epoch: u64) -> LocalBox<Result<Outcome>> {
        let group = self.cluster.group(group);
        Box::pin(async move {
            group.travel().await;
            while group.fences_wait.get() {
                group.reactor.sleep(Duration::from_millis(100)).await;
            }
            group.asked.borrow_mut().push(Asked::Fence(epoch));
            let outcome = group.state.borrow_mut().head.fence(volume, epoch);
            group.travel().await;
            Ok(outcome)
        })
    }

    fn attach(&self, _: ClusterVolumeId) -> LocalBox<Result<u64>> {
        let epoch = self.cluster.epoch.get() + 1;
        self.cluster.epoch.set(epoch);
        self.attached.borrow_mut().push(epoch);
        Box::pin(async move { Ok(epoch) })
    }

    fn newest_epoch(&self, _: ClusterVolumeId) -> LocalBox<Option<u64>> {
        let newest = self.hears.get().then(|| self.cluster.epoch.get());
        Box::pin(async move { newest })
    }

    fn detach(&self, _: ClusterVolumeId, epoch: u64) {
        self.detached.borrow_mut().push(epoch);
    }
}
