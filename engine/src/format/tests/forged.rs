//! Goal: behind a right checksum every impossible value is refused, each by its own check.
//! Method: one forged field at a time, the checksum made right again, the exact answer compared.

use super::*;
use crate::limits::{
    BATCH_HEADER_BLOCKS_MAX, SEGMENT_BLOCKS_MAX, SEGMENT_BLOCKS_MIN, SEGMENTS_MIN,
    VOLUME_MAX_BYTES, VOLUMES_MAX,
};

/// Bytes of a batch header before its records, and of a record.
const HEADER: usize = 120;
const RECORD: usize = 48;

fn data(first: u64, count: u32) -> Record {
    Record::plain(RecordKind::Data, VolumeId(1), BlockIndex(first), count, Location(0))
}

fn batch(records: Vec<Record>, copy: Option<&TableCopy>) -> Vec<u8> {
    let blocks: u32 = records.iter().map(Record::payload_blocks).sum();
    encoded(&header(0, [5, 4, 1, 1]), &(records, (0..blocks).collect()), copy)
}

fn copy_of(blocks: u32) -> TableCopy {
    let of = Previous { location: Location(600), header_blocks: 1, checksum: 1, lsn: Lsn(4) };
    let (records, checksums) = (vec![data(0, blocks)], (0..blocks).collect());
    TableCopy { of, records, checksums, inline: Vec::new() }
}

/// What a batch says once `value` is at `at` and the checksum fits.
fn forged(mut area: Vec<u8>, at: usize, value: &[u8]) -> Result<BatchTable, DecodeError> {
    area[at..at + value.len()].copy_from_slice(value);
    reseal(&mut area);
    decoded(&area)
}

#[test]
fn batch_with_one_impossible_number() {
    let area = batch(vec![data(7, 2)], Some(&copy_of(3)));
    assert!(decoded(&area).is_ok());
    let wrong: [(&str, usize, Vec<u8>); 12] = [
        ("version", 12, 99u16.to_le_bytes().into()),
        (
            "header blocks of the copy",
            46,
            (BATCH_HEADER_BLOCKS_MAX as u16 + 1).to_le_bytes().into(),
        ),
        ("records", 80, (BATCH_RECORDS_MAX + 1).to_le_bytes().into()),
        ("payload", 84, (BATCH_BLOCKS_MAX + 1).to_le_bytes().into()),
        ("payload that is not its records'", 84, 1u32.to_le_bytes().into()),
        ("copied records", 104, (BATCH_RECORDS_MAX + 1).to_le_bytes().into()),
        ("copied payload", 108, (BATCH_BLOCKS_MAX + 1).to_le_bytes().into()),
        ("copied payload that is not its records'", 108, 2u32.to_le_bytes().into()),
        ("kind 0", HEADER, vec![0]),
        ("kind after the last", HEADER, vec![13]),
        ("a range past the last block", HEADER + 16, u64::MAX.to_le_bytes().into()),
        ("a kind in the copy", HEADER + RECORD + 2 * 4, vec![77]),
    ];
    for (name, at, value) in wrong {
        assert_eq!(forged(area.clone(), at, &value), Err(DecodeError::Inconsistent), "{name}");
    }
    for blocks in [0, BATCH_HEADER_BLOCKS_MAX as u16 + 1, u16::MAX] {
        let found = forged(area.clone(), 14, &blocks.to_le_bytes());
        assert_eq!(found, Err(DecodeError::NotHere), "{blocks} header blocks");
    }
    assert_eq!(peek_sequence(&seal(), PLACE, &area), Some(SEQUENCE));
    assert_eq!(peek_sequence(&seal(), PLACE.offset(1), &area), None);
    assert_eq!(peek_sequence(&seal(), PLACE, &area[..HEADER - 1]), None);
}

/// A header that claims fewer blocks than its table takes: the table is never read past them.
#[test]
fn batch_whose_table_does_not_fit() {
    let zero = Record { kind: RecordKind::Zero, ..data(0, 1) };
    let records = batch(vec![zero; BATCH_RECORDS_MAX as usize], None);
    let sums = batch(vec![data(0, BATCH_BLOCKS_MAX)], Some(&copy_of(BATCH_BLOCKS_MAX)));
    for mut area in [records, sums] {
        assert_eq!(area.len(), 2 * BLOCK_SIZE_BYTES);
        assert!(decoded(&area).is_ok());
        area.truncate(BLOCK_SIZE_BYTES);
        assert_eq!(forged(area, 14, &1u16.to_le_bytes()), Err(DecodeError::Inconsistent));
    }
}

#[test]
fn segment_header_with_impossible_values() {
    let good = SegmentHeader { sequence: SEQUENCE, location: PLACE, flags: FLAG_COLD };
    let mut block = vec![0; BLOCK_SIZE_BYTES];
    let mut decode = |header: SegmentHeader, cut: usize| {
        header.encode(&seal(), &mut block);
        SegmentHeader::decode(&seal(), PLACE, &block[..cut])
    };
    assert_eq!(decode(good, BLOCK_SIZE_BYTES), Ok(good));
    assert_eq!(decode(good, 47), Err(DecodeError::NotHere));
    assert_eq!(decode(good, 512), Err(DecodeError::NotHere));
    let unborn = SegmentHeader { sequence: SegmentSequence(0), ..good };
    assert_eq!(decode(unborn, BLOCK_SIZE_BYTES), Err(DecodeError::Inconsistent));
    let flags = SegmentHeader { flags: FLAG_SEAL, ..good };
    assert_eq!(decode(flags, BLOCK_SIZE_BYTES), Err(DecodeError::Inconsistent));
}

/// The chunk after a change behind which its checksum fits again.
fn reopened(bytes: &[u8], at: usize, value: &[u8]) -> Option<usize> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    let reference = ChunkRef { checksum: checksum(LAYOUT_VERSION, &bytes), ..reference() };
    decode_chunk(&bytes, &reference).map(Iterator::count)
}

#[test]
fn chunk_with_impossible_values() {
    let (bytes, _) = chunk(&[(1, 1, 2), (1, 2, 400), (1, 3, 5)]);
    let reopened = |at, value: &[u8]| reopened(&bytes, at, value);
    assert_eq!(reopened(0, b"ashCHUNK"), Some(3));
    assert_eq!(reopened(0, b"ashROOT1"), None);
    assert_eq!(reopened(8, &99u64.to_le_bytes()), None, "of another checkpoint");
    assert_eq!(reopened(20, &u32::MAX.to_le_bytes()), None, "longer than the chunk");
    assert_eq!(reopened(20, &23u32.to_le_bytes()), None, "shorter than its own header");
    let tiny = ChunkRef { checksum: checksum(LAYOUT_VERSION, &[1; 23]), ..reference() };
    assert!(decode_chunk(&[1; 23], &tiny).is_none());
    // What follows the images that are right is not served.
    assert_eq!(reopened(16, &9u32.to_le_bytes()), Some(3), "more images than there are");
    assert_eq!(reopened(20, &30u32.to_le_bytes()), Some(0), "ends in an image's head");
    assert_eq!(reopened(20, &80u32.to_le_bytes()), Some(1), "ends in an image's body");
    let second = 24 + 12 + 2 * 12;
    assert_eq!(reopened(second + 8, &2u16.to_le_bytes()), Some(1), "an unknown form");
    assert_eq!(reopened(second + 10, &1u16.to_le_bytes()), Some(1), "a dense leaf has no count");
    assert_eq!(reopened(24 + 10, &513u16.to_le_bytes()), Some(0), "more entries than blocks");
}

fn volume(name: &str, size_bytes: u64) -> RootVolume {
    RootVolume { id: VolumeId(1), name: name.into(), size_bytes, created: Lsn(1) }
}

#[test]
fn root_with_impossible_values() {
    let volumes = vec![volume("vm0", 512)];
    let chunks = vec![reference()];
    let (bytes, sum) = encode_root(&Root { volumes, chunks, ..Root::default() });
    let found = decode_root(&bytes, sum).expect("it was just written");
    assert_eq!((found.volumes.len(), found.chunks.len()), (1, 1));
    let reopened = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        decode_root(&bytes, checksum(LAYOUT_VERSION, &bytes))
    };
    assert_eq!(reopened(0, b"ashCHUNK"), None);
    assert_eq!(reopened(8, &99u32.to_le_bytes()), None, "of another version");
    assert_eq!(reopened(12, &(VOLUMES_MAX as u32 + 1).to_le_bytes()), None);
    assert_eq!(reopened(12, &2u32.to_le_bytes()), None, "a volume that is none");
    assert_eq!(reopened(16, &200u32.to_le_bytes()), None, "more chunks than fit");
    assert_eq!(decode_root(&bytes[..63], checksum(LAYOUT_VERSION, &bytes[..63])), None);
}

#[test]
fn volume_descriptions_that_are_none() {
    let mut bytes = Vec::new();
    volume("vm0", 512).encode(&mut bytes);
    let decode = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        RootVolume::decode(&bytes)
    };
    assert_eq!(decode(0, &1u32.to_le_bytes()), Some(volume("vm0", 512)));
    assert_eq!(RootVolume::decode(&bytes[..RootVolume::BYTES - 1]), None);
    assert_eq!(decode(4, &129u32.to_le_bytes()), None, "a name longer than its field");
    assert_eq!(decode(4, &0u32.to_le_bytes()), None, "no name");
    assert_eq!(decode(4, &4u32.to_le_bytes()), None, "a name with a NUL");
    assert_eq!(decode(24, &[0xff]), None, "not UTF-8");
    assert_eq!(decode(24, b"../"), None, "a path");
    assert_eq!(decode(8, &(VOLUME_MAX_BYTES + 512).to_le_bytes()), None, "too large");
}

#[test]
fn volume_names() {
    for name in ["a", "vm0", "A.b_c-9", &"n".repeat(128)] {
        assert_eq!(validate_volume_name(name), None, "{name}");
    }
    let refused = [("", "empty"), (".x", "start"), ("-x", "start"), ("a@b", "holds only")];
    for (name, why) in refused {
        assert!(validate_volume_name(name).is_some_and(|said| said.contains(why)), "{name}");
    }
    assert!(validate_volume_name(&"n".repeat(129)).is_some_and(|said| said.contains("at most")));
    assert!(validate_volume_name("n\u{e4}me").is_some());
}

#[test]
fn superblock_with_impossible_values() {
    let good = Superblock {
        version: FORMAT_VERSION,
        device: DeviceId([7; 16]),
        generation: 3,
        segment_blocks: SEGMENT_BLOCKS_MIN,
        segments: SEGMENTS_MIN,
        root_location: Location(600),
        root_mirror: Location(700),
        root_blocks: 2,
        root_checksum: 99,
        root_lsn: Lsn(12),
    };
    let decode = |superblock: Superblock| Superblock::decode(&superblock.encode(0), 0);
    assert_eq!(decode(good), Ok(good));
    let fresh =
        Superblock { root_location: Location(0), root_mirror: Location(0), root_blocks: 0, ..good };
    assert_eq!(decode(fresh), Ok(fresh));
    let impossible = [
        Superblock { version: FORMAT_VERSION_OLDEST - 1, ..good },
        Superblock { segment_blocks: SEGMENT_BLOCKS_MIN - 1, ..good },
        Superblock { segment_blocks: SEGMENT_BLOCKS_MAX + 1, ..good },
        Superblock { segments: SEGMENTS_MIN - 1, ..good },
        Superblock { segment_blocks: SEGMENT_BLOCKS_MAX, segments: u32::MAX, ..good },
        Superblock { root_location: Location(0), ..good },
        Superblock { root_mirror: Location(0), ..good },
        Superblock { root_location: Location(511), ..good },
        Superblock { root_mirror: Location(1), ..good },
        Superblock { root_blocks: 0, ..good },
        Superblock { root_blocks: u32::MAX, ..good },
        Superblock { root_mirror: Location(u32::MAX), ..good },
    ];
    for superblock in impossible {
        assert_eq!(decode(superblock), Err(SuperblockError::Inconsistent), "{superblock:?}");
    }
    let refused = |block: &[u8]| Superblock::decode(block, 0).expect_err("refused");
    assert_eq!(refused(&good.encode(0)[..79]), SuperblockError::NotAStore);
    assert_eq!(refused(&good.encode(0)[..512]), SuperblockError::NotAStore);
    let mut torn = good.encode(0);
    torn[4000] = 1;
    assert_eq!(refused(&torn), SuperblockError::Checksum);
    let sentences: Vec<String> = [
        SuperblockError::NotAStore,
        SuperblockError::Version { found: 9 },
        SuperblockError::Checksum,
        SuperblockError::Inconsistent,
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    assert!(sentences[0].contains("not an Ashlar store") && sentences[1].contains("version 9"));
    assert!(sentences[2..].iter().all(|sentence| sentence.contains("damaged")));
}

#[test]
fn a_device_is_shown_in_hex() {
    assert_eq!(DeviceId([0xa5; 16]).to_string(), "a5".repeat(16));
}
