//! Recovery of a damaged store: never panics, and what it serves is a state the store once had.
//!
//! A small store is made once: volumes, lone blocks, runs, trims, a checkpoint, a log behind it by
//! two openings. The input is a list of damages to its blocks: bytes changed, blocks lost, blocks
//! put in another's place. Whatever can be read afterwards must belong to one moment of its past,
//! and one that is not before the checkpoint.

use crate::device::{Blocks, Driven, carry_out, pool};
use crate::input::Input;
use ashlar_engine::format::{DeviceId, SUPERBLOCK_LOCATIONS};
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::store::{Geometry, Outcome, Request, format_store};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Damages of one input.
const DAMAGES_MAX: usize = 24;
/// Blocks of the volume that is looked at.
const VOLUME_BLOCKS: u64 = 700;

/// What each block of each volume holds: the number its bytes were made of; 0 for zeroes.
type State = BTreeMap<String, Vec<u64>>;

struct Past {
    device: Blocks,
    /// After every request since the checkpoint, oldest first.
    states: Vec<State>,
}

/// Makes the store, noting what it holds after every request.
struct Maker {
    driven: Driven,
    volumes: BTreeMap<String, VolumeId>,
    state: State,
    states: Vec<State>,
}

fn block(fill: u64) -> Vec<u8> {
    (0..BLOCK_SIZE_BYTES as u64).map(|i| (fill * 37 + i * (fill | 1)) as u8 | 1).collect()
}

impl Maker {
    fn call(&mut self, request: Request) -> Outcome {
        let outcome = self.driven.call(request).expect("memory works");
        self.states.push(self.state.clone());
        outcome
    }

    fn create(&mut self, name: &str) {
        self.state.insert(name.to_owned(), vec![0; VOLUME_BLOCKS as usize]);
        let size_bytes = VOLUME_BLOCKS * BLOCK_SIZE_BYTES as u64;
        let request = Request::CreateVolume { name: name.to_owned(), size_bytes };
        let Outcome::Created(id) = self.call(request) else { panic!("a volume") };
        self.volumes.insert(name.to_owned(), id);
    }

    fn write(&mut self, name: &str, first: u64, count: u64, fill: u64) {
        let mut data = pool().allocate(count as usize * BLOCK_SIZE_BYTES);
        for (i, into) in data.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
            into.copy_from_slice(&block(fill + i as u64));
            self.state.get_mut(name).expect("a volume")[first as usize + i] = fill + i as u64;
        }
        self.call(Request::Write { volume: self.volumes[name], first: BlockIndex(first), data });
    }

    fn zero(&mut self, name: &str, first: u64, count: u64, reserve: bool) {
        let blocks = self.state.get_mut(name).expect("a volume");
        blocks[first as usize..(first + count) as usize].fill(0);
        let (volume, first) = (self.volumes[name], BlockIndex(first));
        self.call(Request::Zero { volume, first, count, reserve });
    }
}

fn make() -> Past {
    let geometry = Geometry::for_size(STORE_MIN_BYTES).expect("the smallest store");
    let mut device = Blocks::new();
    for op in format_store(&pool(), DeviceId([5; 16]), geometry) {
        carry_out(&mut device, op);
    }
    let driven = Driven::open(device, STORE_MIN_BYTES, false).expect("a fresh store");
    let (volumes, states) = (BTreeMap::new(), Vec::new());
    let mut maker = Maker { driven, volumes, state: State::new(), states };
    maker.create("a");
    maker.create("b");
    for i in 0..12 {
        maker.write("a", i * 5, 1, 10 + i);
    }
    maker.write("a", 500, 30, 50);
    maker.write("b", 0, 4, 100);
    maker.driven.call(Request::Checkpoint).expect("memory works");
    maker.states.clear();
    maker.states.push(maker.state.clone());
    maker.write("a", 505, 20, 200);
    maker.zero("a", 508, 3, false);
    maker.write("a", 5, 1, 300);
    // An unclean end: whatever the first opening still had to do is lost.
    let device = std::mem::take(&mut maker.driven.device);
    maker.driven = Driven::open(device, STORE_MIN_BYTES, false).expect("recovers");
    maker.zero("b", 1, 2, true);
    maker.create("c");
    maker.write("c", 7, 18, 400);
    maker.state.remove("b");
    maker.call(Request::DeleteVolume { volume: maker.volumes["b"] });
    maker.write("a", 0, 2, 500);
    // Only so far that the last batch is closed: a checkpoint would leave no tail to damage.
    Past { device: maker.driven.device, states: maker.states }
}

fn damage(blocks: &mut Blocks, numbers: &[u32], input: &mut Input<'_>) {
    let pick = |input: &mut Input<'_>| numbers[usize::from(input.u16()) % numbers.len()];
    let (kind, number) = (input.byte() % 4, pick(input));
    match kind {
        0 | 1 => {
            let at = usize::from(input.u16()) % BLOCK_SIZE_BYTES;
            let change = input.byte() | 1;
            if let Some(bytes) = blocks.get_mut(&number) {
                bytes[at] ^= change;
            }
        }
        2 => drop(blocks.remove(&number)),
        _ => {
            // A misdirected write.
            if let Some(bytes) = blocks.get(&pick(input)).cloned() {
                blocks.insert(number, bytes);
            }
        }
    }
}

/// What can be read of a volume: `None` for blocks that did not prove themselves.
fn contents(driven: &mut Driven, volume: VolumeId) -> Vec<Option<Vec<u8>>> {
    let read = |block: u64| {
        let request = Request::Read { volume, first: BlockIndex(block), count: 1 };
        match driven.call(request) {
            Ok(Outcome::Read(parts)) => Some(parts.iter().flat_map(|part| part.to_vec()).collect()),
            _ => None,
        }
    };
    (0..VOLUME_BLOCKS).map(read).collect()
}

fn belongs_to(found: &BTreeMap<String, Vec<Option<Vec<u8>>>>, state: &State) -> bool {
    let zeroes = vec![0; BLOCK_SIZE_BYTES];
    let is =
        |bytes: &Vec<u8>, fill: u64| *bytes == if fill == 0 { zeroes.clone() } else { block(fill) };
    found.keys().eq(state.keys())
        && found.iter().all(|(name, blocks)| {
            let wanted = state[name].iter();
            blocks.iter().zip(wanted).all(|(bytes, fill)| match bytes {
                Some(bytes) => is(bytes, *fill),
                None => true,
            })
        })
}

/// Damages the store as the input says and opens what is left.
pub fn target(data: &[u8]) {
    static PAST: OnceLock<Past> = OnceLock::new();
    let past = PAST.get_or_init(make);
    let mut blocks = past.device.clone();
    let numbers: Vec<u32> = blocks.keys().copied().collect();
    let mut input = Input(data);
    for _ in 0..DAMAGES_MAX {
        if input.is_empty() {
            break;
        }
        damage(&mut blocks, &numbers, &mut input);
    }
    let superblocks = SUPERBLOCK_LOCATIONS.map(|place| blocks.contains_key(&place.0));
    let Ok(mut driven) = Driven::open(blocks, STORE_MIN_BYTES, data.len().is_multiple_of(2)) else {
        assert!(!data.is_empty(), "an undamaged store was refused");
        return;
    };
    assert!(superblocks.contains(&true), "a store without superblocks was opened");
    let volumes: Vec<_> = driven.store.volumes();
    let mut found = BTreeMap::new();
    for volume in volumes {
        found.insert(volume.name, contents(&mut driven, volume.id));
    }
    let state = past.states.iter().rposition(|state| belongs_to(&found, state));
    let state = state.expect("what is served is no state that the store ever had");
    if data.is_empty() {
        assert_eq!(state + 1, past.states.len(), "an undamaged store lost something");
        assert!(found.values().flatten().all(Option::is_some));
    }
    driven.settle();
    assert_eq!(driven.store.audit(), Vec::<String>::new());
}
