//! Bytes of the device's structures: decoders never panic, give only what fits their bounds, and
//! what they accept is what encoding it again gives.
//!
//! The first byte of an input says whether the checksum is made right first, so that the fuzzer
//! also reaches what stands behind it.

use ashlar_engine::format::{
    ChunkRef, ChunkWriter, DeviceId, FORMAT_VERSION, GroupImage, Seal, SegmentHeader, Superblock,
    Table, decode_batch, decode_chunk, decode_group_piece, decode_root, encode_batch,
    encode_group_pieces, encode_root, header_blocks, peek_sequence,
};
use ashlar_engine::limits::{BATCH_BLOCKS_MAX, BATCH_RECORDS_MAX};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, Location, Lsn, SegmentSequence};

const SEQUENCE: SegmentSequence = SegmentSequence(9);
const PLACE: Location = Location(777);

fn seal() -> Seal {
    Seal::new(DeviceId([3; 16]), FORMAT_VERSION)
}

/// The input behind its first byte, padded to blocks, and whether to make the checksum right.
fn padded(data: &[u8]) -> (bool, Vec<u8>) {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let mut bytes = rest.to_vec();
    bytes.resize(rest.len().next_multiple_of(BLOCK_SIZE_BYTES).max(BLOCK_SIZE_BYTES), 0);
    (first & 1 == 1, bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A superblock.
pub fn superblock(data: &[u8]) {
    let (reseal, mut block) = padded(data);
    block.truncate(BLOCK_SIZE_BYTES);
    if reseal {
        let mut sum = crc32fast::Hasher::new_with_initial(1);
        put(&mut block, 0, b"ASHLAR\x01\n\x01\0\0\0");
        sum.update(&block[16..]);
        put(&mut block, 12, &sum.finalize().to_le_bytes());
    }
    for copy in [0, 1] {
        if let Ok(found) = Superblock::decode(&block, copy) {
            assert_eq!(Superblock::decode(&found.encode(copy), copy), Ok(found));
            assert!(found.device_blocks() <= 1 << 32);
        }
    }
}

/// A segment header.
pub fn segment(data: &[u8]) {
    let (reseal, mut block) = padded(data);
    block.truncate(BLOCK_SIZE_BYTES);
    if reseal {
        put(&mut block, 0, b"ashSEGMT");
        put(&mut block, 16, &seal().device().0);
        put(&mut block, 40, &PLACE.0.to_le_bytes());
        let sequence = u64::from_le_bytes(block[32..40].try_into().expect("8 bytes"));
        let sum = seal().place_checksum(SegmentSequence(sequence), PLACE, &block[12..]);
        put(&mut block, 8, &sum.to_le_bytes());
    }
    if let Ok(found) = SegmentHeader::decode(&seal(), PLACE, &block) {
        let mut again = vec![0; BLOCK_SIZE_BYTES];
        found.encode(&seal(), &mut again);
        assert_eq!(SegmentHeader::decode(&seal(), PLACE, &again), Ok(found));
    }
}

/// A batch's header area.
pub fn batch(data: &[u8]) {
    let (reseal, mut area) = padded(data);
    if reseal {
        put(&mut area, 0, b"ashBATCH");
        put(&mut area, 12, &1u16.to_le_bytes());
        put(&mut area, 16, &seal().device().0);
        put(&mut area, 32, &SEQUENCE.0.to_le_bytes());
        put(&mut area, 40, &PLACE.0.to_le_bytes());
        let blocks = usize::from(u16::from_le_bytes([area[14], area[15]]));
        let end = area.len().min(blocks.max(1) * BLOCK_SIZE_BYTES);
        let sum = seal().place_checksum(SEQUENCE, PLACE, &area[12..end]);
        put(&mut area, 8, &sum.to_le_bytes());
    }
    let _ = peek_sequence(&seal(), PLACE, &area);
    let Ok(found) = decode_batch(&seal(), SEQUENCE, PLACE, &area) else { return };
    assert!(found.records.len() <= BATCH_RECORDS_MAX as usize);
    assert!(found.checksums.len() <= BATCH_BLOCKS_MAX as usize);
    let payload: u32 = found.records.iter().map(|record| record.payload_blocks()).sum();
    assert_eq!(payload as usize, found.checksums.len());
    let old = found.previous.as_ref();
    let (old_records, old_sums) = old.map_or((0, 0), |c| (c.records.len(), c.checksums.len()));
    let (records, sums) = (found.records.len(), found.checksums.len());
    let inline = found.inline.len() + old.map_or(0, |copy| copy.inline.len());
    let blocks = header_blocks(records, sums, old_records, old_sums, inline);
    let mut again = vec![0; blocks as usize * BLOCK_SIZE_BYTES];
    let (records, checksums) = (&found.records, &found.checksums);
    let table = Table { records, checksums, inline: &found.inline };
    encode_batch(&seal(), &found.header, table, old, &mut again);
    let again = decode_batch(&seal(), SEQUENCE, PLACE, &again).expect("it was just written");
    assert_eq!((again.records, again.checksums), (found.records, found.checksums));
    assert_eq!(again.inline, found.inline);
    assert_eq!((again.header, again.previous), (found.header, found.previous));
}

fn crc(bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(1);
    sum.update(bytes);
    sum.finalize()
}

/// A chunk of a checkpoint. Its checksum lies elsewhere, so it is always right here.
pub fn chunk(data: &[u8]) {
    let (_, bytes) = padded(data);
    let lsn = Lsn(u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")));
    let (location, mirror) = (Location(600), Location(700));
    let reference = ChunkRef { location, mirror, blocks: 1, checksum: crc(&bytes), lsn };
    let Some(reader) = decode_chunk(&bytes, &reference) else { return };
    let mut writer = ChunkWriter::new(lsn);
    let mut images = 0;
    for image in reader {
        writer.push(image.volume, image.leaf, image.form, |into| into.copy_from_slice(image.body));
        images += 1;
    }
    let (again, checksum) = writer.finish();
    assert!(again.len() <= bytes.len());
    let reference = ChunkRef { checksum, ..reference };
    assert_eq!(decode_chunk(&again, &reference).map(Iterator::count), Some(images));
}

/// A checkpoint's root. Its checksum lies elsewhere, so it is always right here.
pub fn root(data: &[u8]) {
    let (_, bytes) = padded(data);
    let Some(found) = decode_root(&bytes, crc(&bytes)) else { return };
    let (again, checksum) = encode_root(&found);
    assert!(again.len() <= bytes.len());
    assert_eq!(decode_root(&again, checksum), Some(found));
}

/// A piece of a checkpoint's groups, and the images in it. Its checksum lies elsewhere, so it is
/// always right here.
pub fn groups(data: &[u8]) {
    let (_, bytes) = padded(data);
    let lsn = Lsn(u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")));
    let (location, mirror) = (Location(600), Location(700));
    let reference = ChunkRef { location, mirror, blocks: 1, checksum: crc(&bytes), lsn };
    let Some((_, mut rest)) = decode_group_piece(&bytes, &reference) else { return };
    let mut again = Vec::new();
    let mut images = Vec::new();
    while let Some((image, after)) = GroupImage::decode(rest) {
        assert!(image.entries.len() <= rest.len());
        image.encode(&mut again);
        images.push(image);
        rest = after;
    }
    let mut rest = &again[..];
    for image in images {
        let (found, after) = GroupImage::decode(rest).expect("it was just written");
        assert_eq!(found, image);
        rest = after;
    }
    assert!(rest.is_empty());
    let pieces = encode_group_pieces(lsn, &again);
    let parts = pieces.iter().map(|(piece, checksum)| {
        let reference = ChunkRef { checksum: *checksum, ..reference };
        decode_group_piece(piece, &reference).expect("it was just written").1
    });
    assert_eq!(parts.collect::<Vec<_>>().concat(), again);
}
