//! Goal: a checkpoint whose groups are not all there, or are no groups, is refused.
//! Method: a recovery that has read a checkpoint, given other pieces of groups.

use super::*;
use crate::buffer::Buffer;
use crate::error::ErrorKind;
use crate::format::{ChunkRef, encode_group_pieces};
use crate::store::tests::Bench;
use crate::store::{Change, GroupEntry};
use crate::units::{GroupId, LogId, Lsn, VolumeId};

/// A recovery of a store with a group, read as far as it goes.
fn recovered() -> (Bench, Recovery) {
    let mut bench = Bench::small(501);
    let id = LogId { term: 1, leader: 1, index: 1 };
    let create = Change::CreateVolume { volume: VolumeId::GROUPS, size_bytes: 512 };
    let entry = GroupEntry { id, head: Vec::new(), changes: vec![create] };
    bench.store.append_entries(bench.now, 1, GroupId(3), vec![entry]).expect("appends");
    bench.pump();
    bench.run();
    bench.call(crate::store::Request::Checkpoint).expect("a checkpoint");
    bench.run();
    let mut recovery = Recovery::new(bench.pool.clone(), bench.disk.bytes(), true);
    loop {
        let wave = recovery.poll_wave();
        if wave.is_empty() {
            return (bench, recovery);
        }
        let results = wave.iter().map(|read| bench.disk.read_now(&bench.pool, *read)).collect();
        recovery.handle_wave(results).expect("recovers");
    }
}

fn piece(bench: &Bench, images: &[u8]) -> (ChunkRef, Buffer) {
    let (bytes, checksum) = encode_group_pieces(Lsn(5), images).remove(0);
    let mut buffer = bench.pool.allocate(bytes.len());
    buffer.copy_from_slice(&bytes);
    let blocks = (bytes.len() / crate::units::BLOCK_SIZE_BYTES) as u32;
    let location = Location(0);
    let reference = ChunkRef { location, mirror: location, blocks, checksum, lsn: Lsn(5) };
    (reference, buffer)
}

#[test]
fn pieces_that_are_missing_or_no_groups_are_refused() {
    let (bench, mut recovery) = recovered();
    assert!(!recovery.root.groups.is_empty(), "the checkpoint has groups");
    assert_eq!(recovery.load_chunks().expect_err("no pieces").kind(), ErrorKind::Corrupt);
    recovery.chunks.push(piece(&bench, b"no group at all"));
    assert_eq!(recovery.load_groups().expect_err("no group").kind(), ErrorKind::Corrupt);
}
