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
