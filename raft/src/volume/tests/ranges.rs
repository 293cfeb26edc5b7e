//! Byte ranges onto blocks of slices.

use super::*;
use ashlar_engine::ErrorKind;
use ashlar_engine::local::Extent;
use ashlar_engine::store::Mapping;
use futures_util::future::join_all;

#[test]
fn writes_of_any_alignment_change_their_bytes_and_no_others() {
    with_cluster(1, |cluster| async move {
        let handle = process(&cluster, 1).open();
        let mut model = vec![0; SIZE as usize];
        let end = SIZE - 1024;
        let ranges = [
            (0, 4096),
            (100, 8),
            (4000, 200),
            (4096, 100),
            (8192 - 100, 100),
            (5000, 9000),
            (SLICE - 1, 2),
            (SLICE - 4096, 8192),
            (SLICE - 300, SLICE + 700),
            (end, 1024),
            (end - 10, 20),
            (SIZE - 1, 1),
            (SIZE - 4096, 4096),
        ];
        for ((offset, length), fill) in ranges.into_iter().zip(1..) {
            handle.fill(offset, length as usize, fill).await.expect("writes");
            model[offset as usize..(offset + length) as usize].fill(fill);
            assert!(handle.whole().await == model, "{length} bytes at {offset}");
        }
        for (offset, length) in
            [(1, 1), (4095, 2), (SLICE - 5, 10), (3, 30_000), (SIZE - 1025, 1025)]
        {
            let read = handle.read(offset, length).await.expect("reads");
            let sizes: usize = read.iter().map(|part| part.len()).sum();
            assert_eq!(sizes, length as usize);
            let range = offset as usize..offset as usize + length as usize;
            assert!(handle.bytes(offset, length).await == model[range]);
        }
    });
}

/// Who writes parts of one block at once, from several handles, loses nothing of the others'.
#[test]
fn parts_of_a_block_written_at_once_are_all_there() {
    for seed in 0..10 {
        with_cluster(seed, |cluster| async move {
            let volume = process(&cluster, 1);
            let handles = [volume.open(), volume.open()];
            handles[0].fill(0, 8192, 200).await.expect("writes");
            let part = |i: u64| handles[i as usize % 2].fill(i * 512, 512, 1 + i as u8);
            let written = join_all((0..16).map(part)).await;
            assert!(written.iter().all(Result::is_ok), "{written:?}");
            let expected: Vec<u8> = (0..16).flat_map(|i| vec![1 + i; 512]).collect();
            assert_eq!(handles[0].bytes(0, 8192).await, expected);
        });
    }
}

/// A request over slices is a change of each, whole blocks where it has them whole.
#[test]
fn requests_are_split_at_slices_and_joined() {
    with_cluster(1, |cluster| async move {
        let handle = process(&cluster, 1).open();
        handle.fill(0, 1, 1).await.expect("writes");
        cluster.take_attempts();
        handle.fill(SLICE - 4096, 4096 + SLICE as usize + 4096, 5).await.expect("writes");
        let attempts = cluster.take_attempts();
        let of = |attempt: &groups::Attempt| (attempt.group, attempt.changes, attempt.blocks);
        let found: Vec<_> = attempts.iter().map(of).collect();
        assert_eq!(found, [(PgId(2), 1, 1), (PgId(3), 1, 4), (PgId(2), 1, 1)]);
        let read = handle.bytes(SLICE - 4097, SLICE as u32 + 2 * 4096 + 2).await;
        let expected = [vec![0], vec![5; SLICE as usize + 2 * 4096], vec![0]].concat();
        assert!(read == expected);
    });
}

#[test]
fn what_reaches_past_the_end_is_refused_and_changes_nothing() {
    with_cluster(1, |cluster| async move {
        let handle = process(&cluster, 1).open();
        let kind = |result: ashlar_engine::Result<()>| result.expect_err("is refused").kind();
        assert_eq!(kind(handle.fill(SIZE - 10, 11, 1).await), ErrorKind::Invalid);
        assert_eq!(kind(handle.trim(SIZE, 1).await), ErrorKind::Invalid);
        assert_eq!(kind(handle.write_zeroes(1, SIZE, false).await), ErrorKind::Invalid);
        assert_eq!(kind(handle.write_zeroes(u64::MAX, 2, false).await), ErrorKind::Invalid);
        assert_eq!(kind(handle.read(SIZE - 1, 2).await.map(drop)), ErrorKind::Invalid);
        assert_eq!(kind(handle.extents(SIZE, 1, 9).await.map(drop)), ErrorKind::Invalid);
        assert!(cluster.take_attempts().is_empty());
        handle.fill(SIZE, 0, 1).await.expect("nothing to do");
    });
    with_cluster(1, |cluster| async move {
        let handle = process_of(&cluster, 1, volume(4 << 20, 4 << 20)).open();
        let error = handle.fill(0, (1 << 20) + 1, 1).await.expect_err("is too long");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}

#[test]
fn trims_and_zeroes_of_partial_blocks() {
    with_cluster(1, |cluster| async move {
        let handle = process(&cluster, 1).open();
        let mut model = vec![9; SIZE as usize];
        handle.fill(0, SIZE as usize, 9).await.expect("writes");
        // Whole blocks alone are given back: the last one, short as it is, is whole.
        for (offset, length, whole) in [
            (100, 3000, 0..0),
            (100, 9000, 4096..8192),
            (SLICE - 4097, 4098, SLICE - 4096..SLICE),
            (SIZE - 1024, 1023, 0..0),
            (SIZE - 1025, 1025, SIZE - 1024..SIZE),
        ] {
            handle.trim(offset, length).await.expect("trims");
            model[whole.start as usize..whole.end as usize].fill(0);
            assert!(handle.whole().await == model, "{length} trimmed at {offset}");
        }
        handle.fill(0, SIZE as usize, 8).await.expect("writes");
        model.fill(8);
        for (offset, length) in
            [(100, 300), (4000, 5000), (SLICE - 50, 100), (SIZE - 5000, 5000), (SIZE - 3, 2)]
        {
            handle.write_zeroes(offset, length, false).await.expect("zeroes");
            model[offset as usize..(offset + length) as usize].fill(0);
            assert!(handle.whole().await == model, "{length} zeroed at {offset}");
        }
    });
}

fn lengths(extents: &[Extent]) -> Vec<(u64, Mapping)> {
    extents.iter().map(|extent| (extent.length_bytes, extent.mapping)).collect()
}

/// Extents of neighbouring slices are joined, cut to the range, and no more than asked for.
#[test]
fn extents_are_joined_over_slices() {
    use Mapping::{Data, Hole, Reserved};
    with_cluster(1, |cluster| async move {
        let handle = process(&cluster, 1).open();
        assert_eq!(lengths(&handle.extents(0, SIZE, 9).await.expect("extents")), [(SIZE, Hole)]);
        handle.fill(SLICE - 4096, 8192, 1).await.expect("writes");
        handle.write_zeroes(2 * SLICE - 8192, 8192 + SIZE - 2 * SLICE, true).await.expect("zeroes");
        let all = [
            (SLICE - 4096, Hole),
            (8192, Data),
            (SLICE - 12288, Hole),
            (8192 + SIZE - 2 * SLICE, Reserved),
        ];
        assert_eq!(lengths(&handle.extents(0, SIZE, 9).await.expect("extents")), all);
        assert_eq!(lengths(&handle.extents(0, SIZE, 2).await.expect("extents")), all[..2]);
        let one = handle.extents(SLICE - 100, 200, 9).await.expect("extents");
        assert_eq!(lengths(&one), [(200, Data)]);
        let edge = handle.extents(SLICE - 4097, 4098, 9).await.expect("extents");
        assert_eq!(lengths(&edge), [(1, Hole), (4097, Data)]);
        let end = handle.extents(SIZE - 1, 1, 9).await.expect("extents");
        assert_eq!(lengths(&end), [(1, Reserved)]);
        let first = handle.extents(0, SIZE, 0).await.expect("extents");
        assert_eq!(lengths(&first), all[..1], "at least one");
    });
}
