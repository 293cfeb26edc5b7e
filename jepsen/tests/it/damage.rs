//! A store whose bytes rot: the damaged block is an error, never wrong data; all else is served.

use std::fs;

use ashlar_jepsen::nbd::Connection;
use ashlar_jepsen::sector::{self, Content, Place as SectorPlace, SECTOR_SIZE_BYTES, Stamp};

use crate::bad_input::ashlar;
use crate::tools::{Place, is_ashlar};

const VOLUME_BYTES: u64 = 8 << 20;
const BLOCK_SIZE_BYTES: u64 = 4096;
/// Damaged blocks, far from each other and from the end of the log.
const DAMAGED: [u64; 3] = [5, 700, 1500];

fn stamp_of(sector: u64) -> (SectorPlace, Stamp) {
    (SectorPlace { volume: 0, sector }, Stamp { writer: 1, sequence: sector + 1 })
}

/// The bytes of a block of the volume; every sector of it differs from every other.
fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; BLOCK_SIZE_BYTES as usize];
    for (index, bytes) in bytes.chunks_exact_mut(SECTOR_SIZE_BYTES).enumerate() {
        let (place, stamp) = stamp_of(number * 8 + index as u64);
        sector::encode(bytes, place, stamp);
    }
    bytes
}

#[test]
fn rot_is_an_error_and_never_data() {
    if !is_ashlar("rot_is_an_error_and_never_data") {
        return;
    }
    let place = Place::new("rot", VOLUME_BYTES);
    let server = place.serve();
    let mut connection = Connection::open(&place.setup.socket(), "vm0").unwrap();
    for number in 0..VOLUME_BYTES / BLOCK_SIZE_BYTES {
        connection.write(number * BLOCK_SIZE_BYTES, &block(number)).unwrap();
    }
    assert!(server.terminate().unwrap().success());
    damage(&place.file("store"));

    let output = ashlar(&["check", &place.file("store")]);
    let said = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert_eq!(output.status.code(), Some(1), "{said:?}");
    assert!(said.concat().contains("vm0"), "the volume is not named: {said:?}");
    assert!(!said.concat().contains("panicked"), "{said:?}");

    let _server = place.serve();
    // While it serves, the same is found.
    let output = ashlar(&["scrub", "--json", "--store", &place.file("store")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["sound"], false, "{report}");
    assert_eq!(report["damaged_blocks"], DAMAGED.len(), "{report}");
    assert_eq!(report["damaged"][0]["first_block"], DAMAGED[0], "{report}");
    let mut connection = Connection::open(&place.setup.socket(), "vm0").unwrap();
    let mut found = vec![0u8; BLOCK_SIZE_BYTES as usize];
    for number in 0..VOLUME_BYTES / BLOCK_SIZE_BYTES {
        let read = connection.read(number * BLOCK_SIZE_BYTES, &mut found);
        if DAMAGED.contains(&number) {
            let error = read.expect_err("a damaged block was served");
            assert!(error.contains("NBD error 5 "), "not EIO: {error}");
        } else {
            read.unwrap();
            assert!(found == block(number), "block {number} changed");
        }
    }
    for number in DAMAGED {
        connection.write(number * BLOCK_SIZE_BYTES, &block(number)).unwrap();
        connection.read(number * BLOCK_SIZE_BYTES, &mut found).unwrap();
        let (place, stamp) = stamp_of(number * 8);
        let content = sector::decode(&found[..SECTOR_SIZE_BYTES], place);
        assert_eq!(content, Content::Written(stamp), "a damaged block cannot be written anew");
    }
    let output = ashlar(&["scrub", "--store", &place.file("store")]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("sound"), "{output:?}");
}

/// Finds the damaged blocks by their content and flips one bit in each, wherever they are.
fn damage(store: &str) {
    let mut bytes = fs::read(store).unwrap();
    for number in DAMAGED {
        let wanted = block(number);
        let mut places = Vec::new();
        for (index, found) in bytes.chunks_exact(BLOCK_SIZE_BYTES as usize).enumerate() {
            if found == wanted {
                places.push(index * BLOCK_SIZE_BYTES as usize);
            }
        }
        assert!(!places.is_empty(), "block {number} is nowhere in the store");
        for at in places {
            bytes[at + 1234] ^= 0x10;
        }
    }
    fs::write(store, &bytes).unwrap();
}
