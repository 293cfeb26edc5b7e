//! Goal: a table that does not have an entry, or bytes that are not all of it, prove nothing.
//! Method: the table of a real entry, changed.

use super::*;
use crate::store::tests::Bench;
use crate::units::VolumeId;

const G: GroupId = GroupId(4);
const V: VolumeId = VolumeId(VolumeId::GROUPS.0 + 1);

/// An entry with a block, its read, and its blocks.
fn read_one() -> (Bench, EntryRead, TableCopy, Vec<u8>) {
    let mut bench = Bench::small(401);
    let id = LogId { term: 1, leader: 2, index: 1 };
    let create = Change::CreateVolume { volume: V, size_bytes: 1 << 20 };
    let write = Change::Write { volume: V, first: BlockIndex(2), data: bench.block(1, 7) };
    let entry = GroupEntry { id, head: b"head".to_vec(), changes: vec![create, write] };
    bench.store.append_entries(bench.now, 1, G, vec![entry]).expect("appends");
    bench.pump();
    bench.run();
    let entries = &bench.store.groups.by_id[&G].entries;
    let source = entries.source(1).expect("is not applied");
    let table = TableCopy::clone(&source.table);
    let record = source.record;
    let header = table.of.location;
    let sequence = bench.store.sequence_of(header);
    let stage = Stage::Header(1);
    let read = EntryRead {
        token: 9,
        group: G,
        id,
        header,
        record,
        sequence,
        stage,
        is_retry: true,
        restore: None,
        salvage: None,
    };
    let bytes = bench.block(1, 7).to_vec();
    (bench, read, table, bytes)
}

fn proved(bench: &Bench, read: &EntryRead, table: &TableCopy, bytes: &[u8]) -> bool {
    let mut buffer = bench.pool.allocate(bytes.len());
    buffer.copy_from_slice(bytes);
    bench.store.prove_entry(read, table, buffer).is_some()
}

#[test]
fn only_all_of_an_entry_proves_it() {
    let (bench, mut read, table, bytes) = read_one();
    assert!(proved(&bench, &read, &table, &bytes));
    assert!(!proved(&bench, &read, &table, &[]), "too few bytes");
    assert!(!proved(&bench, &read, &table, &[bytes.clone(), bytes.clone()].concat()));
    let mut changed = bytes.clone();
    changed[77] ^= 1;
    assert!(!proved(&bench, &read, &table, &changed));
    let none = TableCopy { checksums: Vec::new(), ..table.clone() };
    assert!(!proved(&bench, &read, &none, &bytes), "no checksums");
    let moved = Location(table.of.location.0 - 3);
    let of = Previous { location: moved, ..table.of };
    assert!(!proved(&bench, &read, &TableCopy { of, ..table.clone() }, &bytes), "elsewhere");
    let headless = TableCopy { inline: Vec::new(), ..table.clone() };
    assert!(!proved(&bench, &read, &headless, &bytes), "no head");
    let mut other = table.clone();
    other.records[2].kind = crate::format::RecordKind::Checkpoint;
    assert!(!proved(&bench, &read, &other, &bytes), "no change of a volume");
    other.records[0].kind = crate::format::RecordKind::Data;
    assert!(!proved(&bench, &read, &other, &bytes), "no entry");
    read.record = 99;
    assert!(!proved(&bench, &read, &table, &[]), "no such record");
}
