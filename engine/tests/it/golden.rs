//! Goal: every store that a release has written stays readable.
//! Method: images of small stores, made once, with what they hold written down as text: volumes,
//! extents, and the CRC-32 of every block that is not a hole. Today's code must find exactly that,
//! and must be able to go on from there.
//!
//! `ASHLAR_WRITE_GOLDEN=1 cargo test -p ashlar-engine --test it golden` makes the images anew: only
//! for a format version that no release has written yet.

use crate::sparse::{Device, Driven, format};
use ashlar_engine::store::{Change, GroupEntry, GroupRequest, Mapping, Outcome, Request};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, LogId, VolumeId};
use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Blocks of one read where nothing is expected.
const READ_BLOCKS: u64 = 128;
/// Largest image.
const IMAGE_MAX_BYTES: usize = 400 << 10;

fn file(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.{extension}"))
}

/// Formatted, never opened.
fn fresh() -> Device {
    format(*b"golden v2 fresh.")
}

/// Lone blocks, runs, overwrites, trims; two checkpoints, closed cleanly.
fn checkpoint() -> Device {
    let mut store = Driven::open(format(*b"golden v2 chkpt."), false).expect("opens");
    let volume = store.create("vm0", 3000);
    let other = store.create("db-1.data", 70_000);
    for i in 0..24 {
        store.write(volume, i * 3, 1, i);
    }
    store.write(volume, 100, 40, 100);
    store.write(other, 65_536, 18, 200);
    // So many pieces in one leaf that its image is a dense one, of runs and lone blocks.
    let dense = store.create("dense", 512);
    for i in 0..18 {
        store.write(dense, i * 21, 20, 400 + i);
    }
    store.write(dense, 510, 1, 500);
    store.call(Request::Checkpoint).expect("a checkpoint");
    store.write(volume, 110, 2, 300);
    store.write(volume, 511, 2, 301);
    store.zero(volume, 120, 4, false);
    store.zero(volume, 2000, 600, true);
    store.call(Request::Checkpoint).expect("a checkpoint");
    store.settle();
    store.device
}

/// A checkpoint, then a log that two openings wrote, with every kind of record a client can cause,
/// and an end that the power tore.
fn tail() -> Device {
    let mut store = Driven::open(format(*b"golden v2 tail.."), false).expect("opens");
    let kept = store.create("kept", 2000);
    let doomed = store.create("doomed", 500);
    store.write(kept, 0, 20, 1);
    store.write(doomed, 0, 5, 2);
    store.call(Request::Checkpoint).expect("a checkpoint");
    store.write(kept, 5, 3, 3);
    store.zero(kept, 10, 2, false);
    store.zero(kept, 1000, 50, true);
    store.write(kept, 1010, 1, 4);
    store.call(Request::DeleteVolume { volume: doomed }).expect("a deletion");
    // The second opening continues in a new epoch after an unclean end.
    let data = store.data(30, 64, 5);
    let torn = store.tear(Request::Write { volume: kept, first: BlockIndex(0), data }, 9);
    let mut store = Driven::open(torn, false).expect("opens");
    let late = store.create("late", 64);
    store.write(late, 3, 17, 6);
    store.write(kept, 1999, 1, 7);
    let data = store.data(16, 64, 8);
    store.tear(Request::Write { volume: late, first: BlockIndex(0), data }, 12)
}

/// Two groups: a checkpoint with entries purged, applied and not, then a log with each kind of
/// record of a group, and an entry that the power tore.
fn groups() -> Device {
    let mut store = Driven::open(format(*b"golden v2 groups"), false).expect("opens");
    let (one, two) = (GroupId(1), GroupId(70_000));
    let volume = VolumeId(VolumeId::GROUPS.0 + 5);
    let id = |term, index| LogId { term, leader: 3, index };
    let entry = |id, head, changes| GroupEntry { id, head: vec![id.index as u8; head], changes };
    let write = |store: &Driven, first, blocks, fill| Change::Write {
        volume,
        first: BlockIndex(first),
        data: store.data(blocks, 96, fill),
    };
    let changes =
        vec![Change::CreateVolume { volume, size_bytes: 800 << 12 }, write(&store, 3, 1, 1)];
    store.append(one, entry(id(1, 1), 10, changes));
    let changes = vec![write(&store, 100, 20, 2)];
    store.append(one, entry(id(1, 2), 1500, changes));
    store.append(one, entry(id(1, 3), 0, vec![write(&store, 110, 2, 3)]));
    store.store.apply_entries(one, 2, b"two".to_vec()).expect("applies");
    let vote = |vote: &[u8]| GroupRequest::Vote(vote.to_vec());
    store.call(Request::Group { group: two, request: vote(b"early") }).expect("a vote");
    store.call(Request::Checkpoint).expect("a checkpoint");
    let ask = |store: &mut Driven, group, request| {
        store.call(Request::Group { group, request }).expect("a request to a group");
    };
    ask(&mut store, one, GroupRequest::Purge(id(1, 1)));
    ask(&mut store, one, vote(b"late"));
    let zero = |reserve| Change::Zero { volume, first: BlockIndex(4), count: 9, reserve };
    store.append(one, entry(id(2, 4), 30, vec![zero(false)]));
    store.append(one, entry(id(2, 5), 30, vec![zero(true)]));
    ask(&mut store, one, GroupRequest::Truncate(5));
    store.append(one, entry(id(3, 5), 4, vec![Change::DeleteVolume { volume }]));
    store.append(two, entry(id(9, 0), 64, vec![]));
    store.settle();
    let torn = GroupRequest::Vote(b"torn".to_vec());
    store.tear(Request::Group { group: two, request: torn }, 0)
}

type Make = fn() -> Device;

/// Of the newest version, which may be made anew until a release has written it.
const IMAGES: [(&str, Make); 4] =
    [("v2-fresh", fresh), ("v2-checkpoint", checkpoint), ("v2-tail", tail), ("v2-groups", groups)];
/// Of older versions: kept for ever.
const KEPT: [&str; 3] = ["v1-fresh", "v1-checkpoint", "v1-tail"];

/// Everything a client can see, as text.
fn describe(store: &mut Driven) -> String {
    describe_with(store, true)
}

fn describe_with(store: &mut Driven, read_holes: bool) -> String {
    let mut text = String::new();
    for volume in store.store.volumes() {
        let (id, blocks) = (volume.id, volume.size_bytes.div_ceil(BLOCK_SIZE_BYTES as u64));
        writeln!(text, "volume {} id {id} blocks {blocks}", volume.name).expect("memory");
        let mut first = 0;
        while first < blocks {
            let (count, mapping) = store.store.block_status(id, BlockIndex(first), blocks - first);
            writeln!(text, "  {mapping:?} {first} + {count}").expect("memory");
            if read_holes || mapping == Mapping::Data {
                describe_blocks(store, id, first..first + count, mapping, &mut text);
            }
            first += count;
        }
    }
    for group in store.store.groups() {
        describe_group(store, group, &mut text);
    }
    text
}

fn describe_group(store: &mut Driven, group: GroupId, text: &mut String) {
    let state = store.store.group_state(group);
    let known = [state.purged, state.applied, state.saved, state.last, state.durable];
    let known = known.map(|id| id.map_or("none".to_owned(), |id| id.to_string()));
    let [purged, applied, saved, last, durable] = known;
    let (vote, head) = (state.vote.escape_ascii(), state.applied_head.escape_ascii());
    writeln!(text, "group {group}: vote \"{vote}\", {} damaged", state.faulty.len())
        .expect("memory");
    writeln!(text, "  purged {purged} applied {applied} \"{head}\" saved {saved}").expect("memory");
    writeln!(text, "  last {last} durable {durable}").expect("memory");
    for index in
        state.first.into_iter().flat_map(|first| first..=state.last.unwrap_or_default().index)
    {
        let request = GroupRequest::Read(index);
        match store.call(Request::Group { group, request }).expect("an entry") {
            Outcome::Entry(entry) => {
                let (id, head) = (entry.id, crc32fast::hash(&entry.head));
                let bytes = entry.head.len();
                writeln!(text, "  entry {id} head {bytes} {head:08x}").expect("memory");
                entry.changes.iter().for_each(|change| describe_change(change, text));
            }
            other => panic!("an entry: {other:?}"),
        }
    }
    for (volume, size_bytes) in store.store.group_volumes(group) {
        writeln!(text, "  volume {volume} of {size_bytes}").expect("memory");
        let mut first = 0;
        while first < size_bytes >> 12 {
            let left = (size_bytes >> 12) - first;
            let (count, mapping) = store.store.block_status(volume, BlockIndex(first), left);
            writeln!(text, "  {mapping:?} {first} + {count}").expect("memory");
            describe_blocks(store, volume, first..first + count, mapping, text);
            first += count;
        }
    }
}

fn describe_change(change: &Change, text: &mut String) {
    match change {
        Change::Write { volume, first, data } => {
            let (first, sum) = (first.0, crc32fast::hash(data));
            writeln!(text, "    write {volume} {first} {} {sum:08x}", data.len()).expect("memory");
        }
        Change::Zero { volume, first, count, reserve } => {
            let kind = if *reserve { "reserve" } else { "zero" };
            writeln!(text, "    {kind} {volume} {} {count}", first.0).expect("memory");
        }
        Change::CreateVolume { volume, size_bytes } => {
            writeln!(text, "    create {volume} of {size_bytes}").expect("memory");
        }
        Change::DeleteVolume { volume } => {
            writeln!(text, "    delete {volume}").expect("memory");
        }
    }
}

fn describe_blocks(
    store: &mut Driven,
    volume: VolumeId,
    blocks: Range<u64>,
    mapping: Mapping,
    text: &mut String,
) {
    let step = if mapping == Mapping::Data { 1 } else { READ_BLOCKS };
    for block in blocks.clone().step_by(step as usize) {
        let count = step.min(blocks.end - block);
        match store.read(volume, block, count as u32) {
            Ok(bytes) if mapping == Mapping::Data => {
                writeln!(text, "    {block} {:08x}", crc32fast::hash(&bytes)).expect("memory");
            }
            Ok(bytes) => assert!(bytes.iter().all(|byte| *byte == 0), "{block} is not zero"),
            Err(_) => writeln!(text, "    {block} damaged").expect("memory"),
        }
    }
}

/// Opens an image without writing, then for writing, and goes on in it.
fn check(image: &Device, expected: &str) {
    let mut store = Driven::open(image.clone(), true).expect("opens read-only");
    assert_eq!(describe(&mut store), expected);
    assert_eq!(store.device.blocks, image.blocks, "a read-only store wrote something");
    let mut store = Driven::open(image.clone(), false).expect("opens");
    assert_eq!(describe(&mut store), expected);
    assert_eq!(store.store.audit(), Vec::<String>::new());
    store.settle();
    let added = store.create("added-later", 100);
    store.write(added, 7, 2, 9);
    store.call(Request::DeleteVolume { volume: added }).expect("a deletion");
    store.call(Request::Checkpoint).expect("a checkpoint");
    store.settle();
    let mut store = Driven::open(store.device, false).expect("opens again");
    assert_eq!(describe(&mut store), expected);
    assert_eq!(store.store.audit(), Vec::<String>::new());
}

#[test]
fn golden_images_hold_what_they_held() {
    if std::env::var_os("ASHLAR_WRITE_GOLDEN").is_some() {
        for (name, make) in IMAGES {
            let image = make();
            let mut store = Driven::open(image.clone(), true).expect("opens");
            std::fs::create_dir_all(file(name, "bin").parent().expect("a folder")).expect("made");
            std::fs::write(file(name, "bin"), image.pack()).expect("written");
            std::fs::write(file(name, "txt"), describe(&mut store)).expect("written");
        }
    }
    for name in KEPT.into_iter().chain(IMAGES.map(|(name, _)| name)) {
        let packed = std::fs::read(file(name, "bin")).expect("an image");
        assert!(packed.len() <= IMAGE_MAX_BYTES, "{name}: {} bytes", packed.len());
        let expected = std::fs::read_to_string(file(name, "txt")).expect("what it holds");
        check(&Device::unpack(&packed), &expected);
    }
}

#[test]
fn images_hold_what_they_are_for() {
    let packed = tail().pack();
    assert_eq!(Device::unpack(&packed).pack(), packed);
    let found = describe(&mut Driven::open(tail(), true).expect("opens"));
    assert!(found.contains("volume kept") && found.contains("volume late"));
    assert!(!found.contains("doomed") && found.contains("Reserved"));
    let fresh = describe(&mut Driven::open(fresh(), true).expect("opens"));
    assert_eq!(fresh, "");
}

/// Damage to any one block of the image (every fourth is tried) is either harmless or named, and
/// costs one block.
#[test]
fn a_damaged_image_is_noticed() {
    let image = checkpoint();
    let expected = describe_with(&mut Driven::open(image.clone(), true).expect("opens"), false);
    let mut named = 0;
    for number in image.blocks.keys().step_by(4) {
        let mut damaged = image.clone();
        damaged.blocks.get_mut(number).expect("a block")[50] ^= 1;
        let mut store = Driven::open(damaged, true).unwrap_or_else(|e| panic!("{number}: {e}"));
        let found = describe_with(&mut store, false);
        let lines = found.lines().zip(expected.lines()).filter(|(now, then)| now != then);
        let changed: Vec<_> = lines.map(|(now, _)| now.trim()).collect();
        assert!(changed.len() <= 1, "block {number}: {changed:?}");
        assert!(changed.iter().all(|line| line.ends_with(" damaged")), "{number}: {changed:?}");
        named += changed.len();
    }
    assert!(named > 50, "only {named} blocks of data in the image");
}
