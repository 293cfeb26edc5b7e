//! Goal: records and images of groups come back as they were written, and nothing else is taken.
//! Method: random entries and images round trip; one wrong field at a time.

use super::*;
use crate::limits::{BATCH_INLINE_MAX_BYTES, ENTRY_CHANGES_MAX, LEADER_MAX};
use crate::units::{GroupId, LogId};

fn group_record(kind: RecordKind, group: u32, id: LogId) -> Record {
    let plain = Record::plain(kind, VolumeId(0), BlockIndex(id.leader), 0, Location(0));
    Record { group: GroupId(group), term: id.term, index: id.index, ..plain }
}

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), 0..=LEADER_MAX, 0..u64::MAX).prop_map(|(term, leader, index)| LogId {
        term,
        leader,
        index,
    })
}

/// An entry with a head and data changes: its records and its inline bytes.
fn entry() -> impl Strategy<Value = (Vec<Record>, Vec<u8>)> {
    let head = prop_oneof![0usize..60, 1000usize..1030, 4000usize..9000];
    (1u32.., log_id(), head, vec((0u32..9, 1u32..4), 0..5)).prop_map(
        |(group, id, head, changes)| {
            let entry = group_record(RecordKind::Entry, group, id);
            let count = head_blocks(head);
            let inline = if count == 0 { vec![7; padded(head)] } else { Vec::new() };
            let fields = (changes.len() as u16, head as u32);
            let entry = Record { count, changes: fields.0, head_bytes: fields.1, ..entry };
            let change = |(volume, count): (u32, u32)| {
                let volume = VolumeId(VolumeId::GROUPS.0 + volume);
                let plain =
                    Record::plain(RecordKind::Data, volume, BlockIndex(5), count, Location(0));
                Record { group: entry.group, term: id.term, index: id.index, ..plain }
            };
            (std::iter::once(entry).chain(changes.into_iter().map(change)).collect(), inline)
        },
    )
}

/// A table of entries and votes, as far as they fit a batch.
fn group_table() -> impl Strategy<Value = TableCopy> {
    (vec(entry(), 1..12), any::<u32>()).prop_map(|(entries, sum)| {
        let of = Previous { location: PLACE, header_blocks: 1, checksum: 3, lsn: Lsn(8) };
        let (records, checksums) = (Vec::new(), Vec::new());
        let mut table = TableCopy { of, records, checksums, inline: Vec::new() };
        for (records, inline) in entries {
            if table.inline.len() + inline.len() + 12 > BATCH_INLINE_MAX_BYTES {
                continue;
            }
            table.records.extend(records);
            table.inline.extend(inline);
        }
        let vote = group_record(RecordKind::Vote, 3, LogId::default());
        table.records.push(Record { head_bytes: 10, ..vote });
        table.inline.extend([1; 12]);
        let blocks: u32 = table.records.iter().map(Record::payload_blocks).sum();
        table.checksums = (0..blocks).map(|i| sum.wrapping_mul(i + 1)).collect();
        table
    })
}

fn area_of(seal: &Seal, table: &TableCopy, copy: Option<&TableCopy>) -> Vec<u8> {
    let (old_records, old_sums) = copy.map_or((0, 0), |c| (c.records.len(), c.checksums.len()));
    let inline = table.inline.len() + copy.map_or(0, |copy| copy.inline.len());
    let (records, sums) = (table.records.len(), table.checksums.len());
    let blocks = header_blocks(records, sums, old_records, old_sums, inline);
    let mut area = vec![0xee; blocks as usize * BLOCK_SIZE_BYTES];
    encode_batch(seal, &header(0, [5, 4, 1, 1]), table.table(), copy, &mut area);
    area
}

proptest! {
    #[test]
    fn group_batch_round_trip(table in group_table(), copy in proptest::option::of(group_table())) {
        let area = area_of(&seal(), &table, copy.as_ref());
        let found = decoded(&area).expect("it was just written");
        prop_assert_eq!(found.records, table.records);
        prop_assert_eq!((found.checksums, found.inline), (table.checksums, table.inline));
        prop_assert_eq!(found.previous, copy);
    }

    #[test]
    fn group_images_round_trip(images in vec(image(), 0..5)) {
        let mut bytes = Vec::new();
        images.iter().for_each(|image| image.encode(&mut bytes));
        let mut rest = Vec::new();
        for (number, (piece, checksum)) in
            encode_group_pieces(Lsn(9), &bytes).into_iter().enumerate()
        {
            let reference = ChunkRef { checksum, lsn: Lsn(9), ..reference() };
            let decoded = decode_group_piece(&piece, &reference);
            let (found, part) = decoded.expect("it was just written");
            prop_assert_eq!(found as usize, number);
            prop_assert!(decode_chunk(&piece, &reference).is_none());
            rest.extend_from_slice(part);
            let later = ChunkRef { lsn: Lsn(10), ..reference };
            prop_assert!(decode_group_piece(&piece, &later).is_none());
            let other = ChunkRef { checksum: checksum ^ 1, ..reference };
            prop_assert!(decode_group_piece(&piece, &other).is_none());
        }
        let mut rest = &rest[..];
        for image in images {
            let (found, after) = GroupImage::decode(rest).expect("it was just written");
            prop_assert_eq!(found, image);
            rest = after;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn image_bytes_never_hurt(image in image(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = Vec::new();
        image.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Some((found, rest)) = GroupImage::decode(&bytes) {
            prop_assert!(found.entries.len() <= bytes.len() && rest.len() < bytes.len());
        }
        prop_assert!(GroupImage::decode(&bytes[..at]).is_none());
    }
}

fn image() -> impl Strategy<Value = GroupImage> {
    let entry = (1u64..4, 0u64..3, any::<u32>(), any::<u16>(), 0u8..4);
    let volume = (any::<u32>(), 0u64..1 << 48);
    let volume = volume.prop_map(|(id, size)| (VolumeId(id | VolumeId::GROUPS.0), size));
    let fields = (1u32.., 0u64..1 << 60, any::<[bool; 3]>(), log_id());
    let bytes = (vec(any::<u8>(), 0..65), vec(any::<u8>(), 0..200));
    let parts = (fields, bytes, vec(entry, 0..40), vec(volume, 0..4));
    parts.prop_map(
        |((id, first, [purged, applied, set], log_id), (vote, head), entries, volumes)| {
            let first = first + 1;
            let set = set || purged || !entries.is_empty();
            let entries = entries.into_iter().enumerate().map(|(i, entry)| {
                let (term, leader, location, record, state) = entry;
                let state = match state {
                    0 => EntryState::Fine,
                    1 => EntryState::Faulty,
                    2 => EntryState::Lost,
                    _ => EntryState::Unknown,
                };
                let id = LogId { term, leader, index: first + i as u64 };
                EntryImage { id, location: Location(location), record, state }
            });
            GroupImage {
                id: GroupId(id),
                vote,
                purged: purged.then_some(LogId { index: first - 1, ..log_id }),
                applied: applied.then_some(log_id),
                applied_head: head,
                first: set.then_some(first),
                entries: entries.collect(),
                volumes,
            }
        },
    )
}

#[test]
fn group_records_with_one_impossible_field() {
    let id = LogId { term: 4, leader: 2, index: 6 };
    let entry = Record { changes: 1, head_bytes: 5, ..group_record(RecordKind::Entry, 3, id) };
    let volume = VolumeId(VolumeId::GROUPS.0 + 1);
    let plain = Record::plain(RecordKind::Data, volume, BlockIndex(5), 2, Location(0));
    let change = Record { group: GroupId(3), term: 4, index: 6, ..plain };
    let is_taken = |records: &[Record], inline: usize| {
        let of = Previous { location: PLACE, header_blocks: 1, checksum: 3, lsn: Lsn(8) };
        let blocks: u32 = records.iter().map(Record::payload_blocks).sum();
        let (checksums, inline) = ((0..blocks).collect(), vec![0; inline]);
        let table = TableCopy { of, records: records.to_vec(), checksums, inline };
        decoded(&area_of(&seal(), &table, None)).is_ok()
    };
    assert!(is_taken(&[entry, change], 8));
    assert!(is_taken(&[Record { changes: 0, ..entry }], 8));
    let zero = |kind| Record { kind, ..change };
    for kind in [
        RecordKind::Zero,
        RecordKind::ZeroReserved,
        RecordKind::VolumeDelete,
        RecordKind::GroupVolume,
    ] {
        assert!(is_taken(&[entry, zero(kind)], 8), "{kind:?}");
    }
    let wrong: [(&str, Vec<Record>); 14] = [
        ("a change too few", vec![entry]),
        ("a change without its entry", vec![change]),
        ("a change of another group", vec![entry, Record { group: GroupId(4), ..change }]),
        ("a change of another term", vec![entry, Record { term: 5, ..change }]),
        ("a change of another index", vec![entry, Record { index: 7, ..change }]),
        ("a change of a plain volume", vec![entry, Record { volume: VolumeId(1), ..change }]),
        (
            "a relocation as a change",
            vec![entry, Record { kind: RecordKind::Relocation, ..change }],
        ),
        ("an entry as a change", vec![entry, Record { changes: 0, ..entry }]),
        ("an entry of no group", vec![Record { group: GroupId(0), changes: 0, ..entry }]),
        ("a short head in blocks", vec![Record { count: 1, changes: 0, ..entry }]),
        ("a long head without blocks", vec![Record { head_bytes: 1025, changes: 0, ..entry }]),
        ("a leader too high", vec![Record { first: BlockIndex(1 << 63), changes: 0, ..entry }]),
        ("a vote of no group", vec![group_record(RecordKind::Vote, 0, id)]),
        (
            "a vote too long",
            vec![Record { head_bytes: 65, ..group_record(RecordKind::Vote, 3, id) }],
        ),
    ];
    for (name, records) in wrong {
        assert!(!is_taken(&records, 1028), "{name}");
    }
    let many = vec![change; ENTRY_CHANGES_MAX + 1];
    let many = [vec![Record { changes: many.len() as u16, ..entry }], many].concat();
    assert!(!is_taken(&many, 8), "too many changes");
    let long = Record { count: 258, ..change };
    assert!(!is_taken(&[entry, long], 8), "too many blocks");
}

/// Version 1 has no groups: their kinds are refused there, their columns not looked at.
#[test]
fn version_1_knows_no_groups() {
    let old = Seal::new(DeviceId([3; 16]), 1);
    let of = Previous { location: PLACE, header_blocks: 1, checksum: 3, lsn: Lsn(8) };
    let data = Record::plain(RecordKind::Data, VolumeId(1), BlockIndex(5), 1, Location(0));
    let columns = Record { group: GroupId(7), term: 8, index: 9, head_bytes: 10, ..data };
    let table =
        |record| TableCopy { of, records: vec![record], checksums: vec![1], inline: Vec::new() };
    let area = area_of(&old, &table(columns), None);
    let found = decode_batch(&old, SEQUENCE, PLACE, &area).expect("a batch");
    assert_eq!(found.records, [data]);
    let vote = group_record(RecordKind::Vote, 3, LogId::default());
    let vote = TableCopy { checksums: Vec::new(), ..table(vote) };
    let area = area_of(&old, &vote, None);
    assert_eq!(decode_batch(&old, SEQUENCE, PLACE, &area), Err(DecodeError::Inconsistent));
    assert!(decoded(&area_of(&seal(), &vote, None)).is_ok());
}
