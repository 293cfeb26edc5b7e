//! Goal: after a crash between any two operations of the device, every group's log, votes and
//! volumes are those of one moment of the past, not before what was acknowledged.
//! Method: random requests to two groups and to a plain volume beside them, in one order; naive
//! worlds, one per request, of which one must be found after the restart.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(900)];
const BLOCKS: u64 = 48;
const PLAIN_BLOCKS: u64 = 24;

#[derive(Clone, Debug, PartialEq)]
enum Did {
    Write { volume: u8, first: u64, count: u64, version: u64 },
    Zero { volume: u8, first: u64, count: u64, reserve: bool },
    Create { volume: u8 },
    Delete { volume: u8 },
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    id: LogId,
    head: Vec<u8>,
    did: Vec<Did>,
}

/// What the log was told, in order.
#[derive(Clone, Debug)]
enum Told {
    Append(usize, Entry),
    Cut(usize, u64),
    Vote(usize, Vec<u8>),
    Plain(u64, u64),
}

#[derive(Clone, Debug, Default)]
struct GroupWorld {
    entries: BTreeMap<u64, Entry>,
    vote: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct World {
    groups: [GroupWorld; 2],
    plain: BTreeMap<u64, u64>,
}

impl World {
    fn tell(&mut self, told: &Told) {
        match told {
            Told::Append(group, entry) => {
                self.groups[*group].entries.insert(entry.id.index, entry.clone());
            }
            Told::Cut(group, index) => drop(self.groups[*group].entries.split_off(index)),
            Told::Vote(group, vote) => self.groups[*group].vote = vote.clone(),
            Told::Plain(block, version) => drop(self.plain.insert(*block, *version)),
        }
    }
}

/// Volumes of a group: what each block holds.
type Volumes = BTreeMap<u8, Vec<u64>>;

fn apply(volumes: &mut Volumes, entry: &Entry) {
    for did in &entry.did {
        match *did {
            Did::Create { volume } => {
                volumes.entry(volume).or_insert_with(|| vec![0; BLOCKS as usize]);
            }
            Did::Delete { volume } => drop(volumes.remove(&volume)),
            Did::Write { volume, first, count, version } => {
                let range = first as usize..(first + count) as usize;
                if let Some(blocks) = volumes.get_mut(&volume).and_then(|b| b.get_mut(range)) {
                    blocks.fill(version);
                }
            }
            Did::Zero { volume, first, count, .. } => {
                let range = first as usize..(first + count) as usize;
                if let Some(blocks) = volumes.get_mut(&volume).and_then(|b| b.get_mut(range)) {
                    blocks.fill(0);
                }
            }
        }
    }
}

fn volume_id(group: usize, volume: u8) -> VolumeId {
    VolumeId(VolumeId::GROUPS.0 + 16 * group as u32 + u32::from(volume))
}

#[derive(Clone, Debug, Default)]
struct Applied {
    /// Every entry that was ever applied.
    entries: BTreeMap<u64, Entry>,
    index: Option<u64>,
    purge_issued: Option<u64>,
    purge_done: Option<u64>,
}

impl Applied {
    fn volumes(&self, upto: Option<u64>) -> Volumes {
        let mut volumes = Volumes::new();
        let upto = upto.map_or(0, |upto| upto + 1);
        self.entries.range(..upto).for_each(|(_, entry)| apply(&mut volumes, entry));
        volumes
    }
}

enum Wait {
    /// So many told things are durable.
    Told(u64),
    Purge(usize, u64),
}

struct Model {
    bench: Bench,
    plain: VolumeId,
    /// As of the last acknowledgement, and what was told since.
    base: World,
    open: VecDeque<Told>,
    /// Told things in `base`.
    done: u64,
    now: World,
    applied: [Applied; 2],
    waits: BTreeMap<u64, Wait>,
    version: u64,
    term: u64,
}

fn head_of(group: usize, index: u64) -> Vec<u8> {
    vec![index as u8 ^ group as u8; 1 + (index as usize * 37) % 300]
}

fn fill(version: u64, block: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK_SIZE_BYTES];
    }
    let mut bytes = vec![version as u8 | 1; BLOCK_SIZE_BYTES];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..16].copy_from_slice(&block.to_le_bytes());
    bytes
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut bench = Bench::small(seed);
        let plain = bench.create("vm0", PLAIN_BLOCKS);
        Model {
            bench,
            plain,
            base: World::default(),
            open: VecDeque::new(),
            done: 0,
            now: World::default(),
            applied: Default::default(),
            waits: BTreeMap::new(),
            version: 0,
            term: 1,
        }
    }

    fn told(&mut self, told: Told) {
        self.now.tell(&told);
        self.open.push_back(told);
    }

    fn wait_for(&mut self, token: u64) {
        self.waits.insert(token, Wait::Told(self.done + self.open.len() as u64));
    }

    fn data(&self, first: u64, count: u64, version: u64) -> Buffer {
        let mut data = self.bench.pool.allocate(count as usize * BLOCK_SIZE_BYTES);
        for (i, block) in data.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
            block.copy_from_slice(&fill(version, first + i as u64));
        }
        data
    }

    fn change(&self, group: usize, did: &Did) -> Change {
        let id = |volume| volume_id(group, volume);
        match *did {
            Did::Write { volume, first, count, version } => Change::Write {
                volume: id(volume),
                first: BlockIndex(first),
                data: self.data(first, count, version),
            },
            Did::Zero { volume, first, count, reserve } => Change::Zero {
                volume: id(volume),
                first: BlockIndex(first),
                count: count as u32,
                reserve,
            },
            Did::Create { volume } => {
                let size_bytes = BLOCKS * BLOCK_SIZE_BYTES as u64;
                Change::CreateVolume { volume: id(volume), size_bytes }
            }
            Did::Delete { volume } => Change::DeleteVolume { volume: id(volume) },
        }
    }

    fn append(&mut self, group: usize, heads: &[u16], plans: &[(u8, u8, u64, u64)]) {
        let mut entries = Vec::new();
        for head in heads {
            self.version += 1;
            let next = self.now.groups[group].entries.keys().next_back().map_or(1, |last| last + 1);
            let next = next.max(self.applied[group].index.map_or(1, |applied| applied + 1));
            let did = plans.iter().map(|&(kind, volume, first, count)| match kind {
                0 => Did::Create { volume },
                1 => Did::Delete { volume },
                2 => Did::Zero { volume, first, count, reserve: count % 2 == 0 },
                _ => Did::Write { volume, first, count, version: self.version },
            });
            let id = LogId { term: self.term, leader: 5, index: next };
            let head = vec![self.version as u8; usize::from(*head)];
            let entry = Entry { id, head: head.clone(), did: did.collect() };
            let changes = entry.did.iter().map(|did| self.change(group, did)).collect();
            entries.push(GroupEntry { id, head, changes });
            self.told(Told::Append(group, entry));
        }
        let token = self.bench.append(GROUPS[group], entries).expect("appends");
        self.wait_for(token);
    }

    fn cut(&mut self, group: usize, back: u64) {
        let last = self.now.groups[group].entries.keys().next_back().copied().unwrap_or(0);
        let first = self.applied[group].index.map_or(1, |applied| applied + 1);
        let index = (last + 1).saturating_sub(back).max(first);
        self.term += 1;
        self.told(Told::Cut(group, index));
        let request = GroupRequest::Truncate(index);
        let token = self.bench.request(Request::Group { group: GROUPS[group], request });
        self.wait_for(token);
        let expected = self.now.groups[group].entries.values().next_back().map(|entry| entry.id);
        let state = self.bench.store.group_state(GROUPS[group]);
        assert_eq!(state.last, expected.or(state.purged));
    }

    fn apply(&mut self, group: usize, part: u64) {
        let state = self.bench.store.group_state(GROUPS[group]);
        let Some(durable) = state.durable else { return };
        let next = self.applied[group].index.map_or(1, |applied| applied + 1);
        if durable.index < next {
            return;
        }
        let upto = next + (durable.index - next) * part / 8;
        for index in next..=upto {
            let entry = self.now.groups[group].entries[&index].clone();
            self.applied[group].entries.insert(index, entry);
        }
        self.applied[group].index = Some(upto);
        let head = head_of(group, upto);
        self.bench.store.apply_entries(GROUPS[group], upto, head).expect("applies");
        self.check_volumes(group, Some(upto));
    }

    fn purge(&mut self, group: usize, keep: u64) {
        let Some(applied) = self.applied[group].index else { return };
        let index = applied.saturating_sub(keep);
        if self.applied[group].purge_issued.is_some_and(|issued| issued >= index) || index == 0 {
            return;
        }
        self.applied[group].purge_issued = Some(index);
        let request = GroupRequest::Purge(self.applied[group].entries[&index].id);
        let token = self.bench.request(Request::Group { group: GROUPS[group], request });
        self.waits.insert(token, Wait::Purge(group, index));
    }

    /// Takes all answers.
    fn settle(&mut self) {
        for reply in std::mem::take(&mut self.bench.replies) {
            reply.result.expect("no request of the workload fails");
            match self.waits.remove(&reply.token) {
                Some(Wait::Told(count)) => {
                    while self.done < count {
                        let told = self.open.pop_front().expect("it was told");
                        self.base.tell(&told);
                        self.done += 1;
                    }
                }
                Some(Wait::Purge(group, index)) => {
                    let done = &mut self.applied[group].purge_done;
                    *done = (*done).max(Some(index));
                }
                None => {}
            }
        }
    }

    fn check_volumes(&mut self, group: usize, upto: Option<u64>) {
        let expected = self.applied[group].volumes(upto);
        let found = self.bench.store.group_volumes(GROUPS[group]);
        let ids = expected.keys().map(|volume| volume_id(group, *volume));
        assert!(found.iter().map(|(id, _)| *id).eq(ids), "{found:?}, {upto:?}");
        for (volume, blocks) in expected {
            let bytes = self.bench.read(volume_id(group, volume), 0, BLOCKS as u32);
            let bytes = bytes.expect("reads");
            let pairs = bytes.chunks_exact(BLOCK_SIZE_BYTES).zip(blocks);
            for (block, (bytes, version)) in pairs.enumerate() {
                assert!(bytes == fill(version, block as u64), "volume {volume} block {block}");
            }
        }
    }

    fn check_entry(&mut self, group: usize, entry: &Entry) {
        let found = self.bench.entry(GROUPS[group], entry.id.index).expect("reads");
        assert_eq!((found.id, &found.head), (entry.id, &entry.head));
        assert_eq!(found.changes.len(), entry.did.len());
        for (found, did) in found.changes.iter().zip(&entry.did) {
            let expected = self.change(group, did);
            assert_eq!(found.volume(), expected.volume());
            if let Change::Write { .. } = found {
                assert!(written(found) == written(&expected), "{did:?}");
            }
        }
    }

    /// Whether this world is what the store shows.
    fn is_now(&mut self, world: &World, plain: &BTreeMap<u64, u64>) -> bool {
        let logs = world.groups.iter().zip(GROUPS).all(|(world, group)| {
            let state = self.bench.store.group_state(group);
            let from = state.purged.map_or(0, |purged| purged.index + 1);
            let ids = world.entries.range(from..).map(|(_, entry)| Some(entry.id));
            let last = state.last.filter(|last| last.index >= from).map_or(from, |l| l.index + 1);
            let first = state.first.unwrap_or(last);
            let found = (first..last).map(|index| self.bench.store.group_id_at(group, index));
            ids.eq(found) && world.vote == state.vote
        });
        logs && world.plain == *plain
    }

    fn crash(self) -> Model {
        let lower: Vec<_> =
            GROUPS.iter().map(|group| self.bench.store.group_state(*group).saved).collect();
        let Model { bench, .. } = self;
        let bench = bench.crash().expect("recovers");
        // Recovery changes nothing: twice is once.
        let bench = bench.crash().expect("recovers again");
        bench.audit();
        let mut model = Model { bench, waits: BTreeMap::new(), ..self };
        let plain = model.plain_versions();
        let (mut world, mut found) = (model.base.clone(), None);
        for told in std::iter::once(None).chain(model.open.clone().into_iter().map(Some)) {
            told.iter().for_each(|told| world.tell(told));
            if model.is_now(&world, &plain) {
                found = Some(world.clone());
            }
        }
        let Some(world) = found else {
            let states = GROUPS.map(|group| model.bench.store.group_state(group));
            panic!("no moment of the past: {states:?}, told {:?}", model.open);
        };
        for (group, lower) in lower.into_iter().enumerate() {
            model.check_restarted(group, lower);
        }
        model.open.clear();
        (model.base, model.now) = (world.clone(), world);
        model
    }

    fn plain_versions(&mut self) -> BTreeMap<u64, u64> {
        let bytes = self.bench.read(self.plain, 0, PLAIN_BLOCKS as u32).expect("reads");
        let blocks = bytes.chunks_exact(BLOCK_SIZE_BYTES).enumerate();
        let versions = blocks.map(|(block, bytes)| {
            let version = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
            assert!(bytes == fill(version, block as u64), "block {block} is mixed");
            (block as u64, version)
        });
        versions.filter(|(_, version)| *version > 0).collect()
    }

    /// What was applied is as of a checkpoint, and can be read before it is applied again.
    fn check_restarted(&mut self, group: usize, lower: Option<LogId>) {
        let state = self.bench.store.group_state(GROUPS[group]);
        let index = state.applied.map(|applied| applied.index);
        let was = self.applied[group].index;
        assert!(index >= lower.map(|id| id.index) && index <= was, "{index:?}, {lower:?}, {was:?}");
        let expected = index.map_or(Vec::new(), |index| head_of(group, index));
        assert_eq!((state.applied_head, &state.faulty[..]), (expected, &[][..]));
        let purged = state.purged.map(|purged| purged.index);
        let Applied { purge_done, purge_issued, .. } = self.applied[group];
        assert!(purged >= purge_done && purged <= purge_issued && purged <= index);
        self.applied[group].purge_issued = purged;
        self.applied[group].purge_done = purged;
        self.check_volumes(group, index);
        if let Some(was) = was {
            let head = head_of(group, was);
            self.bench.store.apply_entries(GROUPS[group], was, head).expect("applies again");
            self.check_volumes(group, Some(was));
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append { group: usize, heads: Vec<u16>, plans: Vec<(u8, u8, u64, u64)> },
    Cut { group: usize, back: u64 },
    Vote { group: usize, vote: Vec<u8> },
    Apply { group: usize, part: u64 },
    Purge { group: usize, keep: u64 },
    Read { group: usize, back: usize },
    Plain { block: u64 },
    Steps(usize),
    Checkpoint,
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = (0..BLOCKS, prop_oneof![3 => 1u64..4, 1 => 4u64..40]);
    let plan = (0u8..9, 0u8..3, range)
        .prop_map(|(kind, volume, (first, count))| (kind, volume, first, count));
    let plan = plan.prop_map(|(kind, volume, first, count)| match kind {
        1 => (if count % 3 == 0 { 1 } else { 3 }, volume, first, count),
        _ => (kind, volume, first, count.min(BLOCKS - first)),
    });
    let head = prop_oneof![6 => 0u16..200, 1 => 900u16..1100, 1 => 4000u16..9000];
    let plans = prop::collection::vec(plan, 0..4);
    let heads = prop::collection::vec(head, 1..4);
    let group = 0usize..2;
    let op = prop_oneof![
        16 => (group.clone(), heads, plans)
            .prop_map(|(group, heads, plans)| Op::Append { group, heads, plans }),
        3 => (group.clone(), 1u64..5).prop_map(|(group, back)| Op::Cut { group, back }),
        2 => (group.clone(), prop::collection::vec(1u8.., 1..64))
            .prop_map(|(group, vote)| Op::Vote { group, vote }),
        8 => (group.clone(), 0u64..9).prop_map(|(group, part)| Op::Apply { group, part }),
        3 => (group.clone(), 0u64..4).prop_map(|(group, keep)| Op::Purge { group, keep }),
        2 => (group, 0usize..9).prop_map(|(group, back)| Op::Read { group, back }),
        6 => (0..PLAIN_BLOCKS).prop_map(|block| Op::Plain { block }),
        12 => (0usize..12).prop_map(Op::Steps),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..250)
}

fn step(mut model: Model, op: Op) -> Model {
    match op {
        Op::Append { group, heads, plans } => model.append(group, &heads, &plans),
        Op::Cut { group, back } => model.cut(group, back),
        Op::Vote { group, vote } => {
            model.told(Told::Vote(group, vote.clone()));
            let request = GroupRequest::Vote(vote);
            let token = model.bench.request(Request::Group { group: GROUPS[group], request });
            model.wait_for(token);
        }
        Op::Apply { group, part } => model.apply(group, part),
        Op::Purge { group, keep } => model.purge(group, keep),
        Op::Read { group, back } => {
            let entries = &model.now.groups[group].entries;
            let from = model.bench.store.group_state(GROUPS[group]).first.unwrap_or(u64::MAX);
            let entry = entries.range(from..).rev().nth(back).map(|(_, entry)| entry.clone());
            entry.iter().for_each(|entry| model.check_entry(group, entry));
        }
        Op::Plain { block } => {
            model.version += 1;
            let version = model.version;
            model.told(Told::Plain(block, version));
            let data = model.data(block, 1, version);
            let (volume, first) = (model.plain, BlockIndex(block));
            let token = model.bench.request(Request::Write { volume, first, data });
            model.wait_for(token);
        }
        Op::Steps(count) => (0..count).for_each(|_| {
            model.bench.step();
        }),
        Op::Checkpoint => drop(model.bench.request(Request::Checkpoint)),
        Op::Crash => {
            model.settle();
            model = model.crash();
        }
    }
    model.settle();
    model
}

fn run(seed: u64, ops: Vec<Op>) {
    let mut model = Model::new(seed);
    for op in ops {
        model = step(model, op);
    }
    model = model.crash();
    model.bench.run();
    model.settle();
    model.bench.audit();
    for (group, id) in GROUPS.into_iter().enumerate() {
        let from = model.bench.store.group_state(id).first.unwrap_or(u64::MAX);
        let entries = model.now.groups[group].entries.clone();
        entries.range(from..).for_each(|(_, entry)| model.check_entry(group, entry));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, ..Default::default() })]
    #[test]
    fn groups_are_as_of_one_moment(seed in 1u64..u64::MAX, ops in ops()) {
        run(seed, ops);
    }
}
