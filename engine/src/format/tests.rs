//! Goal: what is written is read back, any change is refused, and no bytes hurt a decoder.
//! Method: random structures round trip; one changed bit anywhere; arbitrary bytes, also with the
//! checksum made right, so that the checks behind it are reached.

mod forged;
mod groups;

use super::*;
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_RECORDS_MAX};
use crate::units::{BLOCK_SIZE_BYTES, Lsn};
use proptest::collection::vec;
use proptest::prelude::*;

const SEQUENCE: SegmentSequence = SegmentSequence(9);
const PLACE: Location = Location(777);

fn seal() -> Seal {
    Seal::new(DeviceId([3; 16]), FORMAT_VERSION)
}

fn kind() -> impl Strategy<Value = RecordKind> {
    use RecordKind::*;
    let all =
        [Data, Zero, ZeroReserved, Relocation, VolumeCreate, VolumeDelete, RecordKind::Checkpoint];
    (0..all.len()).prop_map(move |at| all[at])
}

fn record() -> impl Strategy<Value = Record> {
    let fields = (kind(), any::<u32>(), any::<u32>(), 0u32..9, any::<u32>());
    fields.prop_map(|(kind, volume, first, count, source)| {
        let (volume, first) = (VolumeId(volume), BlockIndex(first.into()));
        Record::plain(kind, volume, first, count, Location(source))
    })
}

/// Records whose payload fits a batch, and a checksum for each payload block.
fn table() -> impl Strategy<Value = (Vec<Record>, Vec<u32>)> {
    (vec(record(), 0..60), any::<u32>()).prop_map(|(records, sum)| {
        let blocks: u32 = records.iter().map(Record::payload_blocks).sum();
        (records, (0..blocks).map(|i| sum.wrapping_mul(i + 1)).collect())
    })
}

fn copy() -> impl Strategy<Value = Option<TableCopy>> {
    let fields = (table(), 1u32..600, 1u32..=5, any::<u32>(), any::<u64>());
    let copy = fields.prop_map(|((records, checksums), at, header_blocks, checksum, lsn)| {
        let of = Previous { location: Location(at), header_blocks, checksum, lsn: Lsn(lsn) };
        TableCopy { of, records, checksums, inline: Vec::new() }
    });
    proptest::option::of(copy)
}

fn header(flags: u16, numbers: [u64; 4]) -> BatchHeader {
    let [lsn, durable, epoch, epoch_first] = numbers;
    let (lsn, durable, epoch_first) = (Lsn(lsn), Lsn(durable), Lsn(epoch_first));
    BatchHeader {
        sequence: SEQUENCE,
        location: PLACE,
        flags,
        lsn,
        durable,
        epoch,
        epoch_first,
        preceding_empty: (epoch % 7) as u32,
    }
}

fn encoded(
    header: &BatchHeader,
    (records, checksums): &(Vec<Record>, Vec<u32>),
    copy: Option<&TableCopy>,
) -> Vec<u8> {
    let (old_records, old_sums) = copy.map_or((0, 0), |c| (c.records.len(), c.checksums.len()));
    let blocks = header_blocks(records.len(), checksums.len(), old_records, old_sums, 0);
    let mut area = vec![0xee; blocks as usize * BLOCK_SIZE_BYTES];
    let table = Table { records, checksums, inline: &[] };
    encode_batch(&seal(), header, table, copy, &mut area);
    area
}

fn decoded(bytes: &[u8]) -> Result<BatchTable, DecodeError> {
    decode_batch(&seal(), SEQUENCE, PLACE, bytes)
}

/// Makes an area's checksum right, whatever it holds.
fn reseal(area: &mut [u8]) {
    let sum = seal().place_checksum(SEQUENCE, PLACE, &area[12..]);
    area[8..12].copy_from_slice(&sum.to_le_bytes());
}

proptest! {
    #[test]
    fn batch_round_trip(
        table in table(), copy in copy(), flags in 0u16..4, numbers in any::<[u64; 4]>(),
        tail in 0usize..5000,
    ) {
        let header = header(flags, numbers);
        let mut area = encoded(&header, &table, copy.as_ref());
        let blocks = (area.len() / BLOCK_SIZE_BYTES) as u32;
        area.resize(area.len() + tail, 0x77);
        let found = decoded(&area).expect("it was just written");
        prop_assert_eq!(found.header, header);
        prop_assert_eq!(found.header_blocks, blocks);
        prop_assert_eq!((found.records, found.checksums), table);
        prop_assert_eq!(found.previous, copy);
        prop_assert_eq!(peek_sequence(&seal(), PLACE, &area), Some(SEQUENCE));
    }

    #[test]
    fn changed_batch_is_refused(
        table in table(), copy in copy(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let mut area = encoded(&header(0, [5, 4, 1, 1]), &table, copy.as_ref());
        let at = at.index(area.len());
        area[at] ^= 1 << bit;
        prop_assert!(decoded(&area).is_err());
    }

    #[test]
    fn batch_elsewhere_is_refused(table in table(), by in 1u32..9) {
        let area = encoded(&header(0, [5, 4, 1, 1]), &table, None);
        let refused = Err(DecodeError::NotHere);
        prop_assert_eq!(decode_batch(&seal(), SEQUENCE, PLACE.offset(by), &area), refused.clone());
        let later = SegmentSequence(SEQUENCE.0 + u64::from(by));
        prop_assert_eq!(decode_batch(&seal(), later, PLACE, &area), refused.clone());
        let other = Seal::new(DeviceId([by as u8; 16]), FORMAT_VERSION);
        if by != 3 {
            prop_assert_eq!(decode_batch(&other, SEQUENCE, PLACE, &area), refused);
        }
    }

    #[test]
    fn cut_batch_says_what_it_needs(table in table(), copy in copy(), keep in 0usize..4096) {
        let area = encoded(&header(0, [5, 4, 1, 1]), &table, copy.as_ref());
        let blocks = (area.len() / BLOCK_SIZE_BYTES) as u32;
        let wanted =
            if keep < 120 { DecodeError::NotHere } else { DecodeError::Short { blocks } };
        prop_assert_eq!(decoded(&area[..keep]), Err(wanted));
    }

    #[test]
    fn batch_with_forged_numbers_is_bounded(
        table in table(), copy in copy(), forged in vec((12usize..4096, any::<u8>()), 1..20),
        head in vec((12usize..120, any::<u8>()), 0..6),
    ) {
        let mut area = encoded(&header(0, [5, 4, 1, 1]), &table, copy.as_ref());
        for (at, value) in forged.into_iter().chain(head) {
            area[at] = value;
        }
        reseal(&mut area);
        if let Ok(found) = decoded(&area) {
            prop_assert!(found.records.len() <= BATCH_RECORDS_MAX as usize);
            prop_assert!(found.checksums.len() <= BATCH_BLOCKS_MAX as usize);
            let payload: u32 = found.records.iter().map(Record::payload_blocks).sum();
            prop_assert_eq!(payload as usize, found.checksums.len());
        }
    }

    #[test]
    fn segment_header_round_trip_and_change(
        sequence in 1u64.., cold in any::<bool>(), at in 0usize..4096, bit in 0u8..8,
    ) {
        let flags = if cold { FLAG_COLD } else { 0 };
        let header = SegmentHeader { sequence: SegmentSequence(sequence), location: PLACE, flags };
        let mut block = vec![0xee; BLOCK_SIZE_BYTES];
        header.encode(&seal(), &mut block);
        prop_assert_eq!(SegmentHeader::decode(&seal(), PLACE, &block), Ok(header));
        let elsewhere = SegmentHeader::decode(&seal(), PLACE.offset(1), &block);
        prop_assert_eq!(elsewhere, Err(DecodeError::NotHere));
        block[at] ^= 1 << bit;
        prop_assert!(SegmentHeader::decode(&seal(), PLACE, &block).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_structure(bytes in vec(any::<u8>(), 0..9000)) {
        prop_assert!(decoded(&bytes).is_err());
        prop_assert!(peek_sequence(&seal(), PLACE, &bytes).is_none());
        prop_assert!(SegmentHeader::decode(&seal(), PLACE, &bytes).is_err());
        prop_assert!(Superblock::decode(&bytes, 0).is_err());
        let sum = checksum(LAYOUT_VERSION, &bytes);
        prop_assert!(decode_root(&bytes, sum).is_none());
        let reference = ChunkRef { checksum: sum, ..reference() };
        prop_assert!(decode_chunk(&bytes, &reference).is_none());
    }
}

fn reference() -> ChunkRef {
    let (location, mirror) = (Location(600), Location(700));
    ChunkRef { location, mirror, blocks: 1, checksum: 0, lsn: Lsn(4) }
}

/// Volume, leaf, and the number of sparse entries (above 341: dense).
fn images() -> impl Strategy<Value = Vec<(u32, u32, u16)>> {
    vec((any::<u32>(), any::<u32>(), 0u16..400), 0..12)
}

fn form(entries: u16) -> LeafForm {
    if entries > 341 { LeafForm::Dense } else { LeafForm::Sparse(entries) }
}

fn body(volume: u32, len: usize) -> Vec<u8> {
    (0..len).map(|i| (volume as usize).wrapping_mul(i + 3) as u8).collect()
}

fn chunk(images: &[(u32, u32, u16)]) -> (Vec<u8>, ChunkRef) {
    let mut writer = ChunkWriter::new(reference().lsn);
    for &(volume, leaf, entries) in images {
        let form = form(entries);
        let fill = |into: &mut [u8]| into.copy_from_slice(&body(volume, form.body_bytes()));
        writer.push(VolumeId(volume), leaf, form, fill);
    }
    let (bytes, checksum) = writer.finish();
    (bytes, ChunkRef { checksum, ..reference() })
}

fn name() -> impl Strategy<Value = String> {
    vec(0u8..26, 1..=128).prop_map(|letters| letters.iter().map(|l| char::from(b'a' + l)).collect())
}

fn root() -> impl Strategy<Value = Root> {
    let volume = (any::<u32>(), name(), 0u64..=1 << 48, any::<u64>()).prop_map(
        |(id, name, size_bytes, created)| RootVolume {
            id: VolumeId(id),
            name,
            size_bytes,
            created: Lsn(created),
        },
    );
    let chunk = any::<[u32; 5]>().prop_map(|[location, mirror, blocks, checksum, lsn]| ChunkRef {
        location: Location(location),
        mirror: Location(mirror),
        blocks,
        checksum,
        lsn: Lsn(lsn.into()),
    });
    let chunks = (vec(chunk.clone(), 0..300), vec(chunk, 0..5));
    (any::<[u64; 4]>(), any::<[u32; 2]>(), vec(volume, 0..30), chunks).prop_map(
        |(long, short, volumes, (chunks, groups))| Root {
            lsn: Lsn(long[0]),
            epoch: long[1],
            replay_from: SegmentSequence(long[2]),
            next_sequence: SegmentSequence(long[3]),
            next_volume: VolumeId(short[0]),
            prepared_segments: short[1],
            volumes,
            chunks,
            groups,
        },
    )
}

proptest! {
    #[test]
    fn chunk_round_trip(images in images()) {
        let (bytes, reference) = chunk(&images);
        prop_assert_eq!(bytes.len() % BLOCK_SIZE_BYTES, 0);
        let reader = decode_chunk(&bytes, &reference).expect("it was just written");
        let found: Vec<_> = reader.collect();
        prop_assert_eq!(found.len(), images.len());
        for (image, (volume, leaf, entries)) in found.iter().zip(images) {
            prop_assert_eq!((image.volume, image.leaf), (VolumeId(volume), leaf));
            prop_assert_eq!(image.form, form(entries));
            prop_assert_eq!(image.body, &body(volume, image.form.body_bytes())[..]);
        }
    }

    #[test]
    fn changed_chunk_is_refused(
        images in images(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let (mut bytes, reference) = chunk(&images);
        let other = ChunkRef { lsn: Lsn(5), ..reference };
        prop_assert!(decode_chunk(&bytes, &other).is_none());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode_chunk(&bytes, &reference).is_none());
    }

    #[test]
    fn forged_chunk_is_bounded(
        images in images(), forged in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        head in vec((16usize..48, any::<u8>()), 0..6),
    ) {
        let (mut bytes, reference) = chunk(&images);
        for (at, value) in forged {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        head.into_iter().for_each(|(at, value)| bytes[at] = value);
        let reference = ChunkRef { checksum: checksum(LAYOUT_VERSION, &bytes), ..reference };
        if let Some(reader) = decode_chunk(&bytes, &reference) {
            let used: usize = reader.map(|image| image.body.len() + 12).sum();
            prop_assert!(used <= bytes.len());
        }
    }

    #[test]
    fn root_round_trip_and_change(
        root in root(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let (mut bytes, sum) = encode_root(&root);
        prop_assert_eq!(bytes.len() % BLOCK_SIZE_BYTES, 0);
        prop_assert_eq!(decode_root(&bytes, sum), Some(root));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(decode_root(&bytes, sum), None);
    }

    #[test]
    fn forged_root_is_bounded(
        root in root(), forged in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        head in vec((8usize..24, any::<u8>()), 0..6),
    ) {
        let (mut bytes, _) = encode_root(&root);
        for (at, value) in forged {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        head.into_iter().for_each(|(at, value)| bytes[at] = value);
        if let Some(found) = decode_root(&bytes, checksum(LAYOUT_VERSION, &bytes)) {
            prop_assert!(found.volumes.len() * 152 + found.chunks.len() * 24 <= bytes.len());
        }
    }
}

/// A CRC over bytes that end in their own CRC does not depend on them.
#[test]
fn data_that_carries_its_own_crc_is_told_apart() {
    let identity = BlockIdentity {
        sequence: SEQUENCE,
        location: PLACE,
        volume: VolumeId(1),
        block: BlockIndex(2),
    };
    for unit in [512, BLOCK_SIZE_BYTES] {
        let block = |fill: u8| {
            let mut bytes = vec![fill; BLOCK_SIZE_BYTES];
            for part in bytes.chunks_exact_mut(unit) {
                let (data, sum) = part.split_at_mut(unit - 4);
                sum.copy_from_slice(&crc32fast::hash(data).to_le_bytes());
            }
            bytes
        };
        let (old, new) = (block(1), block(2));
        assert_eq!(checksum(7, &old), checksum(7, &new), "why this is not a CRC");
        let sums = [&old, &new].map(|bytes| seal().block_checksum(identity, bytes));
        assert_ne!(sums[0], sums[1]);
        let torn = [&new[..2048], &old[2048..]].concat();
        assert!(!sums.contains(&seal().block_checksum(identity, &torn)));
    }
}

/// Bytes that were written for any other place, owner, life or device are not this block.
#[test]
fn a_blocks_checksum_covers_all_of_its_identity() {
    let right = BlockIdentity {
        sequence: SEQUENCE,
        location: PLACE,
        volume: VolumeId(1),
        block: BlockIndex(2),
    };
    let wrong = [
        BlockIdentity { sequence: SegmentSequence(SEQUENCE.0 + 1), ..right },
        BlockIdentity { location: PLACE.offset(1), ..right },
        BlockIdentity { volume: VolumeId(2), ..right },
        BlockIdentity { block: BlockIndex(3), ..right },
    ];
    let bytes = vec![7; BLOCK_SIZE_BYTES];
    let device: [u8; 16] = std::array::from_fn(|i| i as u8);
    let mut other_device = device;
    other_device[15] += 1;
    for version in [1, FORMAT_VERSION] {
        let seal = Seal::new(DeviceId(device), version);
        let sum = seal.block_checksum(right, &bytes);
        for identity in wrong {
            assert_ne!(seal.block_checksum(identity, &bytes), sum, "{version}: {identity:?}");
        }
        let other = Seal::new(DeviceId(other_device), version);
        assert_ne!(other.block_checksum(right, &bytes), sum);
    }
}
