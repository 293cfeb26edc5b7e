//! A store that is 80 % full, overwritten at random: cleaning keeps up, nothing hangs or is lost.

use ashlar_jepsen::nbd::Connection;
use ashlar_jepsen::random::Random;

use crate::tools::{Place, is_ashlar};

const STORE_BYTES: u64 = 512 << 20;
const VOLUME_BYTES: u64 = 409 << 20;
const FILL_BYTES: usize = 1 << 20;
const BLOCK_SIZE_BYTES: u64 = 4096;
/// Requests of four blocks; small enough to leave holes in every segment.
const OVERWRITES: u64 = 30_000;

/// A server silent for half a minute fails the client, so a hang fails the test.
#[test]
fn overwriting_a_full_store_goes_on() {
    if !is_ashlar("overwriting_a_full_store_goes_on") {
        return;
    }
    let mut place = Place::new("full", VOLUME_BYTES);
    place.setup.store_bytes = Some(STORE_BYTES);
    let server = place.serve();
    let mut connection = Connection::open(&place.setup.socket(), "vm0").unwrap();
    let fill = vec![0xab; FILL_BYTES];
    for offset in (0..VOLUME_BYTES).step_by(FILL_BYTES) {
        connection.write(offset, &fill).unwrap();
    }
    let mut random = Random::new(21);
    let mut last = vec![0u64; (VOLUME_BYTES / BLOCK_SIZE_BYTES) as usize];
    let mut bytes = vec![0u8; 4 * BLOCK_SIZE_BYTES as usize];
    for turn in 1..=OVERWRITES {
        let first = random.below(last.len() as u64 - 3);
        for (index, block) in bytes.chunks_exact_mut(BLOCK_SIZE_BYTES as usize).enumerate() {
            block[..8].copy_from_slice(&turn.to_le_bytes());
            last[first as usize + index] = turn;
        }
        connection.write(first * BLOCK_SIZE_BYTES, &bytes).unwrap();
    }
    server.kill().unwrap();
    let _server = place.serve();
    let mut connection = Connection::open(&place.setup.socket(), "vm0").unwrap();
    let filled = u64::from_le_bytes([0xab; 8]);
    let mut found = [0u8; 8];
    for (block, turn) in last.iter().enumerate() {
        connection.read(block as u64 * BLOCK_SIZE_BYTES, &mut found).unwrap();
        let wanted = if *turn == 0 { filled } else { *turn };
        assert_eq!(u64::from_le_bytes(found), wanted, "block {block}");
    }
}
