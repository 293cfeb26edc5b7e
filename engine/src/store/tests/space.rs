//! Goal: space is exact, comes back, and a full store still reads, trims, deletes and overwrites.

use super::*;
use crate::error::ErrorKind;

fn fill(bench: &mut Bench, volume: VolumeId, blocks: u64) -> u64 {
    for first in (0..blocks).step_by(32) {
        let data = bench.block(32, first);
        if let Err(error) = bench.write(volume, first, data) {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            return first;
        }
    }
    blocks
}

#[test]
fn a_full_store_refuses_new_data_only() {
    let mut bench = Bench::small(9);
    let volume = bench.create("vm0", 1 << 20);
    let full = fill(&mut bench, volume, 1 << 20);
    let capacity = bench.store.status().capacity_bytes / 4096;
    assert!(full <= capacity && full + 64 > capacity, "{full} of {capacity}");
    for round in 0..2000u64 {
        let first = (round * 7919) % full;
        let data = bench.block(1, round);
        let expected = data.to_vec();
        bench.write(volume, first, data).expect("overwriting needs no new space");
        assert_eq!(bench.read(volume, first, 1).expect("read"), expected);
    }
    bench.zero(volume, 0, 64).expect("trim on a full store");
    let data = bench.block(32, 1);
    bench.write(volume, 1 << 19, data).expect("freed space is there again");
    let other = bench.create("vm1", 100);
    bench.call(Request::DeleteVolume { volume }).expect("delete on a full store");
    bench.run();
    bench.audit();
    assert_eq!(bench.store.status().data_bytes, 0);
    assert!(fill(&mut bench, other, 96) == 96);
    let mut bench = bench.crash().expect("recovers");
    bench.audit();
    assert_eq!(bench.store.status().data_bytes, 96 * 4096);
    assert!(bench.read(volume, 0, 1).is_err());
}

#[test]
fn overwriting_for_long_cleans_and_keeps_everything() {
    let mut bench = Bench::small(10);
    let blocks = bench.store.status().capacity_bytes / 4096 * 8 / 10;
    let volume = bench.create("vm0", blocks);
    let mut versions = vec![0u64; blocks as usize];
    for first in 0..blocks {
        let data = bench.block(1, first);
        versions[first as usize] = first;
        bench.request(Request::Write { volume, first: BlockIndex(first), data });
    }
    bench.run();
    for round in 0..4 * blocks {
        let first = (round * 7919 + round / 3) % blocks;
        let data = bench.block(1, blocks + round);
        versions[first as usize] = blocks + round;
        bench.request(Request::Write { volume, first: BlockIndex(first), data });
        if round % 16 == 0 {
            bench.step();
        }
    }
    bench.run();
    assert!(bench.replies.drain(..).all(|reply| reply.result.is_ok()));
    bench.audit();
    assert!(bench.store.status().counters.cleaned_segments > 20);
    let mut bench = bench.crash().expect("recovers");
    bench.audit();
    for (block, version) in versions.iter().enumerate() {
        let expected = bench.block(1, *version).to_vec();
        assert_eq!(bench.read(volume, block as u64, 1).expect("read"), expected);
    }
}
