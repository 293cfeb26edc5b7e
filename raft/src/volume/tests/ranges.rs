//! Goal: requests of any place and length do to the volume's bytes what they say, and nothing else.
//! Method: by example, on a volume of four slices in two groups whose last block is short.

use super::fake::{Asked, Fate};
use super::*;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use ashlar_engine::store::Mapping;
use ashlar_engine::store::Mapping::{Data, Hole, Reserved};

struct Setup {
    node: Rc<Node>,
    handle: Rc<VolumeHandle>,
}

fn setup(reactor: &Reactor, spec: VolumeSpec) -> Setup {
    let node = Cluster::new(reactor).node(reactor);
    let handle = Rc::new(node.volume(spec).open());
    Setup { node, handle }
}

impl Setup {
    /// Writes all bytes.
    async fn fill(&self, fill: u8) {
        let size = self.handle.volume().spec().size_bytes;
        write(&self.node, &self.handle, 0..size, fill).await.expect("is written");
    }

    async fn all(&self) -> Vec<u8> {
        read(&self.handle, 0..self.handle.volume().spec().size_bytes).await
    }

    /// Runs of equal bytes.
    async fn runs(&self) -> Vec<(u8, usize)> {
        let all = self.all().await;
        all.chunk_by(|one, other| one == other).map(|run| (run[0], run.len())).collect()
    }

    async fn mappings(&self) -> Vec<(u64, Mapping)> {
        let size = self.handle.volume().spec().size_bytes;
        let extents = self.handle.extents(0, size, 99).await.expect("is told");
        extents.iter().map(|extent| (extent.length_bytes / BLOCK, extent.mapping)).collect()
    }
}

#[test]
fn requests_are_split_over_slices_and_joined() {
    simulated(1, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        let pattern: Vec<u8> = (0..SIZE).map(|at| (at / 7 % 251) as u8).collect();
        let mut data = reactor.pool().allocate(SIZE as usize);
        data.copy_from_slice(&pattern);
        setup.handle.write(0, data).await.expect("is written");
        for start in (0..SIZE).step_by(1777) {
            for end in (start + 1..=SIZE).step_by(3333).chain([SIZE]) {
                let found = read(&setup.handle, start..end).await;
                assert!(found == pattern[start as usize..end as usize], "{start}..{end}");
            }
        }
        let cluster = &setup.node.cluster;
        for (slice, part) in pattern.chunks(SLICE as usize).enumerate() {
            let group = if slice % 2 == 0 { &cluster.even } else { &cluster.odd };
            let kept = group.bytes(slice_id(FIRST_SLICE, slice));
            assert_eq!(kept.len() as u64, (part.len() as u64).next_multiple_of(BLOCK));
            assert!(kept.starts_with(part) && kept[part.len()..].iter().all(|byte| *byte == 0));
        }
        // Each slice was made and then written, each in one change.
        let changes = |seen: Vec<fake::Seen>| seen.iter().map(|s| s.changes).collect::<Vec<_>>();
        assert_eq!(changes(cluster.even.seen()), [1; 4]);
        assert_eq!(changes(cluster.odd.seen()), [1; 4]);
    });
}

#[test]
fn what_was_never_written_reads_as_zeroes_and_makes_no_slice() {
    simulated(2, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        assert_eq!(setup.runs().await, [(0, SIZE as usize)]);
        assert_eq!(setup.mappings().await.last().map(|run| run.1), Some(Hole));
        let cluster = &setup.node.cluster;
        assert!(cluster.even.seen().is_empty() && cluster.odd.seen().is_empty());
        assert!(setup.node.attached.borrow().is_empty(), "who only reads asks for no right");
    });
}

#[test]
fn what_reaches_past_the_end_or_is_too_long_is_refused_and_does_nothing() {
    simulated(3, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        let (node, handle) = (&setup.node, &setup.handle);
        for range in [SIZE - 1..SIZE + 1, SIZE..SIZE + 1, 0..SIZE + 1] {
            assert_eq!(kind(write(node, handle, range.clone(), 1).await), ErrorKind::Invalid);
            let length = range.end - range.start;
            assert_eq!(kind(handle.read(range.start, length as u32).await), ErrorKind::Invalid);
            assert_eq!(kind(handle.trim(range.start, length).await), ErrorKind::Invalid);
            let zeroed = handle.write_zeroes(range.start, length, true).await;
            assert_eq!(kind(zeroed), ErrorKind::Invalid);
            assert_eq!(kind(handle.extents(range.start, length, 9).await), ErrorKind::Invalid);
        }
        assert_eq!(kind(handle.trim(u64::MAX, 2).await), ErrorKind::Invalid);
        let long = setup_long(&reactor);
        let max = ATOMIC_WRITE_MAX_BYTES as u64;
        let written = write(&long.node, &long.handle, 1..max + 2, 1).await;
        assert_eq!(kind(written), ErrorKind::Invalid);
        for node in [node, &long.node] {
            assert!(node.cluster.even.asked.borrow().is_empty());
        }
        write(&long.node, &long.handle, 1..max + 1, 1).await.expect("the longest is taken");
        assert_eq!(long.runs().await, [(0, 1), (1, max as usize), (0, (max - 1) as usize)]);
    });
}

fn setup_long(reactor: &Reactor) -> Setup {
    setup(reactor, whole(2 * ATOMIC_WRITE_MAX_BYTES as u64 / BLOCK))
}

#[test]
fn only_what_is_around_a_write_is_read_and_only_when_others_may_not_write() {
    simulated(4, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        let (node, handle, group) = (&setup.node, &setup.handle, &setup.node.cluster.even);
        write(node, handle, BLOCK + 5..4 * BLOCK + 5, 7).await.expect("is written");
        let asked = group.asked.borrow().clone();
        let [
            Asked::Fence(1),
            Asked::Fence(1),
            Asked::Write(_),
            Asked::Read(1, 1),
            Asked::Read(4, 1),
            last,
        ] = &asked[..]
        else {
            panic!("fenced and made, read, written: {asked:?}");
        };
        assert!(matches!(last, Asked::Write(seen) if (seen.changes, seen.blocks) == (1, 4)));
        group.forget();
        write(node, handle, 2 * BLOCK..4 * BLOCK, 8).await.expect("is written");
        assert!(matches!(&group.asked.borrow()[..], [Asked::Write(_)]), "whole blocks: no read");
        group.forget();
        write(node, handle, 9..11, 9).await.expect("is written");
        assert!(matches!(&group.asked.borrow()[..], [Asked::Read(0, 1), Asked::Write(_)]));
        let block = BLOCK as usize;
        let expected = [
            (0, 9),
            (9, 2),
            (0, block - 11 + 5),
            (7, block - 5),
            (8, 2 * block),
            (7, 5),
            (0, (SIZE - 4 * BLOCK - 5) as usize),
        ];
        assert_eq!(setup.runs().await, expected);
    });
}

#[test]
fn a_write_whose_surroundings_cannot_be_read_writes_nothing() {
    simulated(5, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        setup.fill(1).await;
        let group = &setup.node.cluster.even;
        group.forget();
        group.reads_fail.set(true);
        let written = write(&setup.node, &setup.handle, 5..6, 2).await;
        assert_eq!(kind(written), ErrorKind::Failed);
        assert!(group.seen().is_empty());
        group.reads_fail.set(false);
        // Nothing is held any more.
        write(&setup.node, &setup.handle, 5..6, 3).await.expect("is written");
        assert_eq!(setup.runs().await[..3], [(1, 5), (3, 1), (1, SIZE as usize - 6)]);
    });
}

#[test]
fn overlapping_unaligned_writers_never_lose_each_others_bytes() {
    simulated(6, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        setup.fill(255).await;
        // Each has 700 bytes of its own, so most blocks are shared by six, and some writes by two
        // blocks or slices.
        let count = SIZE / 700;
        let writers = (0..count).map(|i| {
            let (node, handle) = (Rc::clone(&setup.node), Rc::clone(&setup.handle));
            let own = i * 700..(i + 1) * 700;
            start(&setup.node, async move { write(&node, &handle, own, i as u8).await })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("is written");
        }
        let mut expected: Vec<(u8, usize)> = (0..count).map(|i| (i as u8, 700)).collect();
        expected.push((255, (SIZE - count * 700) as usize));
        assert_eq!(setup.runs().await, expected);
    });
}

#[test]
fn whole_blocks_wait_only_for_who_reads_and_writes_back() {
    simulated(7, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        setup.fill(0).await;
        let group = &setup.node.cluster.even;
        group.otherwise.set(Fate::Done(Duration::from_secs(1)));
        group.forget();
        let begin = |range: Range<u64>, fill: u8| {
            let (node, handle) = (Rc::clone(&setup.node), Rc::clone(&setup.handle));
            start(&setup.node, async move {
                write(&node, &handle, range, fill).await.expect("is written");
                node.reactor.now()
            })
        };
        let began = reactor.now();
        let unaligned = begin(BLOCK + 1..BLOCK + 2, 1);
        reactor.sleep(Duration::from_millis(10)).await;
        let behind = begin(0..2 * BLOCK, 2);
        let beside = begin(3 * BLOCK..5 * BLOCK, 3);
        let over_it = begin(4 * BLOCK..6 * BLOCK, 4);
        reactor.sleep(Duration::from_millis(10)).await;
        // One proposal is under way at a time; those that wait for no lock are to share the next.
        let writer = format!("{:?}", setup.node.writer(EVEN));
        assert_eq!(writer, "Writer(1 open, 2 waiting)");
        let ends = [unaligned.await, beside.await, over_it.await, behind.await];
        let seconds = ends.map(|end| (end.0 - began.0) / 1_000_000_000);
        // The one behind comes while they are held for it.
        assert_eq!(seconds, [1, 2, 2, 2], "{ends:?}");
        let changes: Vec<usize> = group.seen().iter().map(|seen| seen.changes).collect();
        assert_eq!(changes, [1, 3]);
        let block = BLOCK as usize;
        let runs = setup.runs().await;
        let expected = [(2, 2 * block), (0, block), (3, block), (4, 2 * block)];
        assert_eq!(runs[..4], expected);
    });
}

#[test]
fn zeroes_keep_what_is_around_them() {
    simulated(8, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        setup.fill(1).await;
        let (block, size) = (BLOCK as usize, SIZE as usize);
        setup.handle.write_zeroes(10, 20, false).await.expect("is zeroed");
        assert_eq!(setup.runs().await, [(1, 10), (0, 20), (1, size - 30)]);
        assert_eq!(setup.mappings().await, [(SIZE / BLOCK, Data)], "a part stays data");
        setup.fill(1).await;
        // The end of block 1, blocks 2 to 17 over three slices, and the beginning of block 18.
        let (start, end) = (2 * BLOCK - 9, 18 * BLOCK + 11);
        setup.handle.write_zeroes(start, end - start, false).await.expect("is zeroed");
        let zeroed = (end - start) as usize;
        assert_eq!(setup.runs().await, [(1, 2 * block - 9), (0, zeroed), (1, size - end as usize)]);
        assert_eq!(setup.mappings().await[..2], [(2, Data), (16, Hole)]);
        setup.handle.write_zeroes(4 * BLOCK, BLOCK, true).await.expect("is reserved");
        assert_eq!(setup.mappings().await[..4], [(2, Data), (2, Hole), (1, Reserved), (13, Hole)]);
        setup.handle.write_zeroes(20 * BLOCK, 0, false).await.expect("nothing to do");
    });
}

#[test]
fn trims_leave_partial_blocks_alone() {
    simulated(9, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        setup.fill(1).await;
        let (block, size) = (BLOCK as usize, SIZE as usize);
        setup.handle.trim(1, 2 * BLOCK - 2).await.expect("nothing to do");
        setup.handle.trim(5 * BLOCK, 0).await.expect("nothing to do");
        setup.handle.trim(7 * BLOCK, BLOCK - 1).await.expect("nothing to do");
        assert_eq!(setup.runs().await, [(1, size)]);
        setup.handle.trim(6 * BLOCK + 1, 4 * BLOCK).await.expect("is trimmed");
        let expected = [(1, 7 * block), (0, 3 * block), (1, size - 10 * block)];
        assert_eq!(setup.runs().await, expected);
        assert_eq!(setup.mappings().await[..2], [(7, Data), (3, Hole)]);
    });
}

#[test]
fn a_short_last_block_counts_as_whole() {
    simulated(10, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        let short = SIZE - SIZE % BLOCK;
        let (handle, last) = (&setup.handle, slice_id(FIRST_SLICE, 3));
        let odd = Rc::clone(&setup.node.cluster.odd);
        setup.fill(1).await;
        handle.trim(short, SIZE - short).await.expect("is trimmed");
        assert_eq!(setup.runs().await, [(1, short as usize), (0, (SIZE - short) as usize)]);
        let extents = handle.extents(short, SIZE - short, 9).await.expect("is told");
        assert_eq!(extents, [Extent { length_bytes: 1000, mapping: Hole }]);
        setup.fill(2).await;
        odd.forget();
        handle.write_zeroes(short, SIZE - short, true).await.expect("is reserved");
        assert!(matches!(&odd.asked.borrow()[..], [Asked::Write(seen)] if seen.blocks == 0));
        setup.fill(3).await;
        // Not its whole: written.
        handle.trim(short + 1, SIZE - short - 1).await.expect("nothing to do");
        handle.write_zeroes(short + 1, SIZE - short - 1, false).await.expect("is zeroed");
        assert_eq!(setup.runs().await, [(3, short as usize + 1), (0, 999)]);
        assert_eq!(odd.bytes(last).len() as u64, 3 * BLOCK);
    });
}

#[test]
fn extents_are_joined_over_slices_and_cut_to_the_range() {
    simulated(11, async |reactor| {
        let setup = setup(&reactor, sliced(SIZE, SLICE));
        let handle = &setup.handle;
        let told = async |range: Range<u64>, max: usize| {
            let found = handle.extents(range.start, range.end - range.start, max).await;
            let found = found.expect("is told");
            found.iter().map(|e| (e.length_bytes, e.mapping)).collect::<Vec<_>>()
        };
        write(&setup.node, handle, 6 * BLOCK..18 * BLOCK, 1).await.expect("is written");
        let (data, after) = (12 * BLOCK, SIZE - 18 * BLOCK);
        let all = [(6 * BLOCK, Hole), (data, Data), (after, Hole)];
        assert_eq!(told(0..SIZE, 9).await, all);
        assert_eq!(told(0..SIZE, 4).await, all);
        // Each slice but the first may begin with what is joined: then one less is told.
        assert_eq!(told(0..SIZE, 3).await, all[..2]);
        assert_eq!(told(0..SIZE, 2).await, all[..2]);
        assert_eq!(told(0..SIZE, 1).await, all[..1]);
        assert_eq!(told(0..SIZE, 0).await, all[..1], "at least one");
        let cut = told(5 * BLOCK + 7..17 * BLOCK + 9, 9).await;
        assert_eq!(cut, [(BLOCK - 7, Hole), (11 * BLOCK + 9, Data)]);
        assert_eq!(told(7 * BLOCK + 1..7 * BLOCK + 3, 9).await, [(2, Data)]);
        // A group that looks less far leaves no gap.
        setup.node.cluster.odd.looks_at.set(3);
        assert_eq!(told(0..SIZE, 9).await, [(6 * BLOCK, Hole), (5 * BLOCK, Data)]);
    });
}
