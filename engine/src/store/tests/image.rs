//! Goal: what recovery cannot prove it refuses, with a sentence, and what has a second copy it
//! takes from there.
//! Method: stores damaged or forged in one place, and devices on which some reads fail.

use super::*;
use crate::error::ErrorKind;
use crate::format::{
    BATCH_MAGIC, Root, SUPERBLOCK_LOCATIONS, Seal, SegmentHeader, Superblock, checksum,
    decode_root, encode_root,
};
use crate::store::ReadRange;
use crate::units::Location;
use std::io;

/// Starts a chunk's checksum: docs/format.md.
const CHUNK_SEED: u32 = 1;

/// Opens a store on a device where the reads that `fails` picks fail.
fn open_failing(mut disk: Disk, fails: impl Fn(&ReadRange) -> bool) -> Result<Bench> {
    let pool = pool();
    let mut recovery = Recovery::new(pool.clone(), disk.bytes(), false);
    loop {
        let wave = recovery.poll_wave();
        if wave.is_empty() {
            break;
        }
        let read = |read: &ReadRange| match fails(read) {
            true => Err(io::Error::other("injected")),
            false => disk.read_now(&pool, *read),
        };
        recovery.handle_wave(wave.iter().map(read).collect())?;
    }
    let store = recovery.finish(Nanos(0))?;
    Ok(Bench { store, disk, pool, now: Nanos(0), replies: Vec::new(), next_token: 0 })
}

/// The bytes of a store with two volumes, lone blocks and runs, all in the checkpoint.
fn image(seed: u64) -> Vec<u8> {
    let mut bench = Bench::small(seed);
    for (name, fill) in [("vm0", 1000), ("vm1", 2000)] {
        let volume = bench.create(name, 3000);
        for (first, blocks) in [(0, 1), (2, 1), (100, 40), (1000, 64)] {
            let data = bench.block(blocks, fill + first);
            bench.write(volume, first, data).expect("write");
        }
    }
    bench.run();
    bench.call(Request::Checkpoint).expect("checkpoint");
    bench.run();
    bench.disk.crash();
    bench.disk.contents().to_vec()
}

fn disk(image: &[u8]) -> Disk {
    let mut disk = Disk::new(image.len() as u64, 1);
    disk.restore(image);
    disk
}

fn open(image: &[u8]) -> Result<Bench> {
    Bench::open(disk(image))
}

#[track_caller]
fn corrupt(result: Result<Bench>, why: &str) {
    let error = result.map(|_| ()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

/// Everything that [`image`] wrote, of the volume of that name.
#[track_caller]
fn intact(bench: &mut Bench, name: &str, fill: u64) {
    let (volume, _) = bench.store.volume_by_name(name).expect("the volume");
    for (first, blocks) in [(0, 1), (2, 1), (100, 40), (1000, 64)] {
        let expected = bench.block(blocks, fill + first).to_vec();
        assert_eq!(bench.read(volume, first, blocks as u32).expect("reads"), expected);
    }
    bench.audit();
}

fn flip(image: &mut [u8], place: Location) {
    image[place.offset_bytes() as usize + 50] ^= 1;
}

fn part(image: &mut [u8], place: Location, blocks: u32) -> &mut [u8] {
    let at = place.offset_bytes() as usize;
    &mut image[at..at + blocks as usize * BLOCK_SIZE_BYTES]
}

fn superblock(image: &[u8]) -> Superblock {
    Superblock::decode(&image[..BLOCK_SIZE_BYTES], 0).expect("a superblock")
}

fn root(image: &mut [u8]) -> Root {
    let superblock = superblock(image);
    let bytes = part(image, superblock.root_location, superblock.root_blocks);
    decode_root(bytes, superblock.root_checksum).expect("a root")
}

/// Puts another root in both places, and superblocks that prove it.
fn forge_root(image: &mut [u8], root: &Root) {
    let superblock = superblock(image);
    let (bytes, root_checksum) = encode_root(root);
    for place in [superblock.root_location, superblock.root_mirror] {
        part(image, place, superblock.root_blocks).copy_from_slice(&bytes);
    }
    let superblock = Superblock { root_checksum, ..superblock };
    for (copy, place) in SUPERBLOCK_LOCATIONS.into_iter().enumerate() {
        part(image, place, 1).copy_from_slice(&superblock.encode(copy as u32));
    }
}

#[test]
fn superblocks_that_cannot_be_read() {
    let image = image(51);
    let offsets = SUPERBLOCK_LOCATIONS.map(|place| place.offset_bytes());
    for bad in offsets {
        let mut bench = open_failing(disk(&image), |read| read.offset_bytes == bad).expect("opens");
        intact(&mut bench, "vm0", 1000);
    }
    corrupt(open_failing(disk(&image), |read| offsets.contains(&read.offset_bytes)), "damaged");
}

#[test]
fn the_most_telling_reason_is_given() {
    let image = image(52);
    let [first, second] = SUPERBLOCK_LOCATIONS;
    let mut newer = image.clone();
    part(&mut newer, first, 1).fill(0);
    part(&mut newer, second, 1)[8] = 9;
    let error = open(&newer).map(|_| ()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(error.to_string().contains("version 9"), "{error}");
    // Each copy in the other's place: both whole, neither what it must be.
    let mut swapped = image.clone();
    let copy = part(&mut swapped, first, 1).to_vec();
    part(&mut swapped, second, 1).copy_from_slice(&copy);
    part(&mut swapped, first, 1).fill(0);
    corrupt(open(&swapped), "impossible values");
}

#[test]
fn a_root_is_taken_from_its_second_copy() {
    let image = image(53);
    let superblock = superblock(&image);
    let places = [superblock.root_location, superblock.root_mirror];
    for place in places {
        let mut image = image.clone();
        flip(&mut image, place);
        intact(&mut open(&image).expect("opens"), "vm1", 2000);
    }
    let both = |read: &ReadRange| places.map(|p| p.offset_bytes()).contains(&read.offset_bytes);
    corrupt(open_failing(disk(&image), both), "root");
    let mut image = image;
    places.into_iter().for_each(|place| flip(&mut image, place));
    corrupt(open(&image), "root");
}

#[test]
fn a_chunk_is_taken_from_its_second_copy() {
    let mut image = image(54);
    let chunks = root(&mut image).chunks;
    assert!(!chunks.is_empty());
    for chunk in &chunks {
        let mut image = image.clone();
        flip(&mut image, chunk.location);
        intact(&mut open(&image).expect("opens"), "vm0", 1000);
        flip(&mut image, chunk.mirror);
        corrupt(open(&image), "piece of the index");
        flip(&mut image, chunk.location);
        intact(&mut open(&image).expect("opens"), "vm1", 2000);
    }
}

/// More chunks than one wave of reads, some only in their second copy.
#[test]
fn many_chunks() {
    let mut bench = Bench::small(55);
    let volume = bench.create("vm0", 1 << 20);
    for i in 0..70u64 {
        let data = bench.block(1, i);
        bench.write(volume, i * 512, data).expect("write");
        bench.call(Request::Checkpoint).expect("checkpoint");
    }
    bench.run();
    bench.disk.crash();
    let mut image = bench.disk.contents().to_vec();
    let chunks = root(&mut image).chunks;
    assert!(chunks.len() >= 65, "{} chunks", chunks.len());
    chunks.iter().step_by(2).for_each(|chunk| flip(&mut image, chunk.location));
    let mut bench = open(&image).expect("opens");
    for i in 0..70u64 {
        let expected = bench.block(1, i).to_vec();
        assert_eq!(bench.read(volume, i * 512, 1).expect("reads"), expected);
    }
    bench.audit();
}

/// A leaf whose checksums are right and whose entries are impossible: written by something else.
#[test]
fn a_leaf_that_contradicts_itself_is_refused() {
    let mut image = image(56);
    let mut root = root(&mut image);
    let chunk = root.chunks.last_mut().expect("a chunk");
    for place in [chunk.location, chunk.mirror] {
        let bytes = part(&mut image, place, chunk.blocks);
        // The first entry of the first image: no blocks.
        bytes[24 + 12 + 2..24 + 12 + 4].fill(0);
        chunk.checksum = checksum(CHUNK_SEED, bytes);
    }
    forge_root(&mut image, &root);
    corrupt(open(&image), "contradicts itself");
}

/// Images of a volume that the root does not know count for nothing.
#[test]
fn images_of_a_deleted_volume_are_left_out() {
    let mut image = image(57);
    let mut root = root(&mut image);
    root.volumes.retain(|volume| volume.name == "vm1");
    forge_root(&mut image, &root);
    let mut bench = open(&image).expect("opens");
    intact(&mut bench, "vm1", 2000);
    assert!(bench.store.volume_by_name("vm0").is_none());
    assert_eq!(bench.store.status().data_bytes, 106 * 4096);
    bench.call(Request::Checkpoint).expect("checkpoint");
    bench.run();
    intact(&mut bench.crash().expect("recovers"), "vm1", 2000);
}

/// Five batches after each other, none of them in a checkpoint, and where their headers are.
fn tail(seed: u64) -> (Vec<u8>, Vec<Location>) {
    let mut bench = Bench::small(seed);
    let volume = bench.create("vm0", 3000);
    for i in 0..4 {
        let data = bench.block(2, i);
        bench.write(volume, i * 2, data).expect("write");
    }
    bench.run();
    bench.disk.crash();
    let image = bench.disk.contents().to_vec();
    let blocks = image.chunks_exact(BLOCK_SIZE_BYTES).enumerate();
    let headers = blocks.filter(|(_, block)| block.starts_with(&BATCH_MAGIC));
    let headers: Vec<_> = headers.map(|(at, _)| Location(at as u32)).collect();
    assert!(headers.len() >= 5);
    (image, headers)
}

/// A batch is in its own header and in the next one: it takes both to lose it, and then it is said.
#[test]
fn a_lost_batch_is_never_skipped() {
    let (image, headers) = tail(58);
    for pair in headers[..5].windows(2) {
        let mut image = image.clone();
        flip(&mut image, pair[0]);
        let mut bench = open(&image).expect("the copy tells");
        let (volume, _) = bench.store.volume_by_name("vm0").expect("the volume");
        for i in 0..4 {
            let expected = bench.block(2, i).to_vec();
            assert_eq!(bench.read(volume, i * 2, 2).expect("reads"), expected);
        }
        flip(&mut image, pair[1]);
        corrupt(open(&image), "is lost");
    }
}

#[test]
fn a_creation_is_in_two_blocks() {
    let (image, headers) = tail(59);
    let payload = [headers[0].offset(1), headers[0].offset(2)];
    for place in payload {
        let mut image = image.clone();
        flip(&mut image, place);
        assert!(open(&image).expect("opens").store.volume_by_name("vm0").is_some());
    }
    let mut image = image;
    payload.into_iter().for_each(|place| flip(&mut image, place));
    corrupt(open(&image), "created a volume");
}

/// A segment that cannot be read at all may hold what was acknowledged: it is not passed over.
#[test]
fn an_unreadable_segment_of_the_log_is_refused() {
    let (image, headers) = tail(60);
    let start = Location(headers[0].0 - 1);
    let header = part(&mut image.clone(), start, 1).to_vec();
    let seal = Seal::new(superblock(&image).device, superblock(&image).version);
    assert!(SegmentHeader::decode(&seal, start, &header).is_ok());
    let end = start.offset(superblock(&image).segment_blocks).offset_bytes();
    let inside = |read: &ReadRange| (start.offset_bytes()..end).contains(&read.offset_bytes);
    corrupt(open_failing(disk(&image), inside), "cannot be read");
    // Its first blocks can be read, the rest cannot.
    let readable = start.offset(2).offset_bytes();
    let rest = |read: &ReadRange| inside(read) && read.offset_bytes + read.bytes as u64 > readable;
    corrupt(open_failing(disk(&image), rest), "cannot be read");
    // Every block can be read, but not all of them at once.
    let long = |read: &ReadRange| inside(read) && read.bytes > 2 * BLOCK_SIZE_BYTES;
    let mut bench = open_failing(disk(&image), long).expect("block by block");
    let (volume, _) = bench.store.volume_by_name("vm0").expect("the volume");
    for i in 0..4 {
        let expected = bench.block(2, i).to_vec();
        assert_eq!(bench.read(volume, i * 2, 2).expect("reads"), expected);
    }
    bench.audit();
}
