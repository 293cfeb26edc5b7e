//! Goal: damaged bytes are never served and never lose their neighbours.
//! Method: change bytes on the medium in every block the store uses and read everything back.

use super::*;
use crate::error::ErrorKind;
use crate::units::Location;

/// A store with lone blocks and runs, closed after a checkpoint (or with a tail to replay).
fn filled(seed: u64, checkpoint: bool) -> (Bench, VolumeId) {
    let mut bench = Bench::small(seed);
    let volume = bench.create("vm0", 3000);
    for i in 0..40 {
        let data = bench.block(1, i);
        bench.write(volume, i * 3, data).expect("write");
    }
    for i in 0..4 {
        let data = bench.block(64, 100 + i);
        bench.write(volume, 1000 + i * 64, data).expect("write");
    }
    bench.run();
    if checkpoint {
        bench.call(Request::Checkpoint).expect("checkpoint");
        bench.run();
    }
    (bench, volume)
}

fn contents(bench: &mut Bench, volume: VolumeId) -> Vec<Result<Vec<u8>>> {
    (0..1500).map(|block| bench.read(volume, block, 1)).collect()
}

#[test]
fn one_damaged_block_anywhere() {
    for checkpoint in [false, true] {
        let (mut bench, volume) = filled(3, checkpoint);
        let expected: Vec<_> =
            contents(&mut bench, volume).into_iter().map(|r| r.expect("good")).collect();
        bench.disk.crash();
        let image = bench.disk.contents().to_vec();
        let used: Vec<usize> = (0..image.len() / BLOCK_SIZE_BYTES)
            .filter(|at| {
                image[at * BLOCK_SIZE_BYTES..(at + 1) * BLOCK_SIZE_BYTES].iter().any(|b| *b != 0)
            })
            .collect();
        assert!(used.len() > 300);
        for at in used {
            let offset = Location(at as u32).offset_bytes();
            bench.disk.damage(offset + 100, 8);
            let mut damaged = Bench::open(bench.disk).unwrap_or_else(|e| panic!("block {at}: {e}"));
            let mut lost = 0;
            for (block, found) in contents(&mut damaged, volume).into_iter().enumerate() {
                match found {
                    Ok(bytes) => assert_eq!(bytes, expected[block], "block {block} after {at}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt);
                        lost += 1;
                    }
                }
            }
            assert!(lost <= 1, "damage at {at} lost {lost} blocks");
            bench = damaged;
            bench.disk.crash();
            bench.disk.restore(&image);
        }
    }
}

/// Empty batches that end a segment or close the log have no copy, and nothing to lose.
#[test]
fn damaged_empty_batches_lose_nothing() {
    let mut bench = Bench::small(6);
    let volume = bench.create("vm0", 8000);
    for i in 0..20 {
        let data = bench.block(100, i);
        bench.write(volume, i * 100, data).expect("write");
    }
    // Both append points close after this one.
    bench.call(Request::Checkpoint).expect("checkpoint");
    for i in 0..20 {
        let data = bench.block(100, 50 + i);
        bench.write(volume, i * 100, data).expect("write");
    }
    bench.run();
    let expected = bench.read(volume, 0, 250).expect("good");
    bench.disk.crash();
    let image = bench.disk.contents().to_vec();
    let headers: Vec<usize> = (0..image.len() / BLOCK_SIZE_BYTES)
        .filter(|at| image[at * BLOCK_SIZE_BYTES..].starts_with(b"ashBATCH"))
        .collect();
    assert!(headers.len() > 45);
    for at in headers {
        bench.disk.damage(Location(at as u32).offset_bytes() + 60, 1);
        let mut damaged = Bench::open(bench.disk).unwrap_or_else(|e| panic!("header {at}: {e}"));
        assert_eq!(damaged.read(volume, 0, 250).expect("reads"), expected, "header {at}");
        bench = damaged;
        bench.disk.crash();
        bench.disk.restore(&image);
    }
}

/// Batches that later ones vouch for are never cut off as torn, not even the last ones.
#[test]
fn a_log_that_lost_a_batch_is_refused() {
    let mut bench = Bench::small(7);
    let volume = bench.create("vm0", 1000);
    for i in 0..6 {
        let data = bench.block(1, i);
        bench.write(volume, i * 3, data).expect("write");
        bench.run();
    }
    bench.disk.crash();
    let image = bench.disk.contents().to_vec();
    let headers: Vec<u32> = (0..(image.len() / BLOCK_SIZE_BYTES) as u32)
        .filter(|at| image[*at as usize * BLOCK_SIZE_BYTES..].starts_with(b"ashBATCH"))
        .collect();
    assert!(headers.len() >= 12);
    // A header and the one that repeats it; at least one more vouches for both.
    for pair in headers.windows(2).take(headers.len() - 2) {
        pair.iter().for_each(|at| bench.disk.damage(Location(*at).offset_bytes() + 60, 1));
        match Bench::open(bench.disk) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
            Ok(_) => panic!("the batches at {pair:?} are forgotten"),
        }
        bench = Bench::small(7);
        bench.disk.restore(&image);
    }
}

/// The cleaner leaves a block that does not prove itself where it is, and says nothing else of it.
#[test]
fn damaged_blocks_survive_the_cleaner_as_damaged() {
    let mut bench = Bench::small(8);
    let blocks = bench.store.status().capacity_bytes / BLOCK_SIZE_BYTES as u64;
    let volume = bench.create("vm0", blocks);
    let kept = bench.block(64, 7);
    let expected = kept.to_vec();
    bench.write(volume, 0, kept).expect("write");
    bench.run();
    let place = bench.store.index.lookup(volume, BlockIndex(20)).place.expect("mapped").0;
    bench.disk.damage(place.offset_bytes() + 9, 3);
    for round in 0..3 * blocks / 16 {
        let first = 64 + (round * 16 * 7) % (blocks * 6 / 10);
        let data = bench.block(16, round);
        bench.write(volume, first, data).expect("write");
    }
    bench.run();
    assert!(bench.store.status().counters.cleaned_segments > 3);
    assert!(bench.store.status().counters.corrupt_blocks > 0, "the cleaner met the damage");
    bench.audit();
    let mut bench = bench.crash().expect("recovers");
    for block in 0..64u64 {
        let found = bench.read(volume, block, 1);
        if block == 20 {
            assert_eq!(found.expect_err("damaged").kind(), ErrorKind::Corrupt);
        } else {
            let at = block as usize * BLOCK_SIZE_BYTES;
            assert_eq!(found.expect("good"), expected[at..at + BLOCK_SIZE_BYTES], "block {block}");
        }
    }
}

/// A damaged block is written anew where nobody wrote it since, and then is as good as any.
#[test]
fn damaged_blocks_are_mended_unless_they_were_written_since() {
    let mut bench = Bench::small(9);
    let volume = bench.create("vm0", 64);
    let kept = bench.block(8, 7);
    let expected = kept.to_vec();
    bench.write(volume, 0, kept).expect("write");
    bench.run();
    let mut places = Vec::new();
    for block in [2, 5] {
        let place = bench.store.place(volume, BlockIndex(block)).expect("mapped");
        let (location, _) = bench.store.index.lookup(volume, BlockIndex(block)).place.expect("is");
        bench.disk.damage(location.offset_bytes() + 9, 3);
        assert!(bench.read(volume, block, 1).is_err());
        places.push(place);
    }
    let newer = bench.block(1, 99);
    let written = newer.to_vec();
    bench.write(volume, 5, newer).expect("write");
    for (block, place) in [2, 5].into_iter().zip(places) {
        let at = block as usize * BLOCK_SIZE_BYTES;
        let mut data = bench.block(1, 0);
        data.copy_from_slice(&expected[at..at + BLOCK_SIZE_BYTES]);
        let block = BlockIndex(block);
        bench.call(Request::Mend { volume, block, place, data }).expect("mends");
    }
    assert_eq!(bench.store.status().counters.mended_blocks, 1);
    bench.audit();
    let mut bench = bench.crash().expect("recovers");
    bench.audit();
    let mut found = bench.read(volume, 0, 8).expect("all good");
    assert_eq!(found[5 * BLOCK_SIZE_BYTES..6 * BLOCK_SIZE_BYTES], written);
    found[5 * BLOCK_SIZE_BYTES..6 * BLOCK_SIZE_BYTES]
        .copy_from_slice(&expected[5 * BLOCK_SIZE_BYTES..6 * BLOCK_SIZE_BYTES]);
    assert_eq!(found, expected);
}

#[test]
fn not_a_store_and_truncated_stores_are_named() {
    let error = |disk: Disk| Bench::open(disk).err().expect("refused").to_string();
    assert!(error(Disk::new(STORE_MIN_BYTES, 1)).contains("not an Ashlar store"));
    let (bench, _) = filled(4, true);
    let mut disk = Disk::new(STORE_MIN_BYTES / 2, 1);
    disk.restore(&bench.disk.contents()[..STORE_MIN_BYTES as usize / 2]);
    assert!(error(disk).contains("truncated"));
    let (mut bench, _) = filled(5, true);
    bench.disk.damage(16, 8);
    bench.disk.damage(256 * 4096 + 16, 8);
    assert!(error(bench.disk).contains("damaged"));
}
