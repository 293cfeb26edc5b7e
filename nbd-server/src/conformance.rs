//! What every [`Export`] must do, as a suite that any implementation can be put through.
//!
//! Runs against a fresh, zeroed export and compares with a plain vector. Panics on the first
//! difference, which is how tests fail. Must never know: how an export works.

use crate::export::{Export, ReadData};
use crate::limits::{EXTENTS_MAX, PIECE_MAX_BYTES};
use ashlar_engine::Result;
use ashlar_engine::buffer::{Buffer, BufferPool};
use ashlar_engine::local::Answers;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Size the suite wants, at least. Odd on purpose: nothing may depend on the end being aligned.
pub const SIZE_MIN_BYTES: u64 = 4 << 20;

/// Runs everything. `export` must be writable, zeroed and of at least [`SIZE_MIN_BYTES`].
///
/// # Panics
/// If the export does not do what it must.
pub async fn run<E: Export>(export: &E, pool: &BufferPool) {
    let mut suite = Suite { export, pool, model: vec![0; SIZE_MIN_BYTES as usize] };
    assert!(export.info().size_bytes >= SIZE_MIN_BYTES && !export.info().read_only);
    assert!(export.info().preferred_block_bytes.is_power_of_two());
    suite.check(0, 8192).await;
    suite.writes_of_every_alignment().await;
    suite.largest_piece().await;
    suite.started_requests_are_answered().await;
    suite.zeroes_and_trims().await;
    suite.status_agrees_with_contents().await;
    suite.overlapping_writes_do_not_tear().await;
    export.cache(0, SIZE_MIN_BYTES).await.expect("cache");
    export.flush().await.expect("flush");
    suite.check(0, SIZE_MIN_BYTES).await;
}

/// The bytes of a read, whatever pieces they came in.
///
/// # Panics
/// If the export returns a different number of bytes than were asked for.
pub async fn read_all<E: Export>(export: &E, offset: u64, length: u32) -> Vec<u8> {
    let bytes = match export.read(offset, length).await.expect("read") {
        ReadData::Whole(buffer) => buffer.to_vec(),
        ReadData::Pieces(buffers) => buffers.iter().flat_map(|buffer| buffer.to_vec()).collect(),
        ReadData::Zeroes => vec![0; length as usize],
    };
    assert_eq!(bytes.len(), length as usize, "length of a read at {offset}");
    bytes
}

/// Answers of requests that were started, in the order they came.
#[derive(Default)]
struct Inbox {
    answers: RefCell<VecDeque<(u64, Result<Vec<Buffer>>)>>,
    waker: RefCell<Option<Waker>>,
}

impl Answers for Inbox {
    fn answer(&self, tag: u64, result: Result<Vec<Buffer>>) {
        self.answers.borrow_mut().push_back((tag, result));
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Inbox {
    async fn next(&self) -> (u64, Vec<Buffer>) {
        let next = poll_fn(|context| match self.answers.borrow_mut().pop_front() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        });
        let (tag, result) = next.await;
        (tag, result.expect("done"))
    }
}

struct Suite<'a, E> {
    export: &'a E,
    pool: &'a BufferPool,
    model: Vec<u8>,
}

impl<E: Export> Suite<'_, E> {
    async fn write(&mut self, offset: u64, length: usize, seed: u8) {
        let mut buffer = self.pool.allocate(length);
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = (index % 251) as u8 ^ seed;
        }
        self.model[offset as usize..][..length].copy_from_slice(&buffer);
        self.export.write(offset, buffer).await.expect("write");
    }

    async fn check(&self, offset: u64, length: u64) {
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(u64::from(PIECE_MAX_BYTES));
            let bytes = read_all(self.export, at, part as u32).await;
            let model = &self.model[at as usize..][..part as usize];
            let wrong = bytes.iter().zip(model).position(|(found, expected)| found != expected);
            assert_eq!(wrong.map(|index| at + index as u64), None, "first wrong byte");
            at += part;
        }
    }

    /// Requests without a future: taken or left as they are, and whatever is taken is answered
    /// once, under its tag, as the awaited ones are.
    async fn started_requests_are_answered(&mut self) {
        let inbox = Rc::new(Inbox::default());
        let ranges = [(0, 4096), (4096, 12288), (1, 4096), (8192, 100), (0, 4097), (40960, 65536)];
        let mut taken = 0;
        for (tag, (offset, length)) in (100..).zip(ranges) {
            let mut buffer = self.pool.allocate(length);
            buffer.fill(tag as u8);
            self.model[offset as usize..][..length].fill(tag as u8);
            match self.export.start_write(offset, buffer, inbox.clone(), tag) {
                Ok(()) => {
                    let (answered, bytes) = inbox.next().await;
                    assert!(answered == tag && bytes.is_empty());
                }
                Err(data) => {
                    assert!(data.len() == length && data.iter().all(|byte| *byte == tag as u8));
                    self.export.write(offset, data).await.expect("write");
                }
            }
            self.check(0, 131_072).await;
        }
        for (tag, (offset, length)) in (200..).zip(ranges) {
            let answers = inbox.clone();
            taken += usize::from(self.export.start_read(offset, length as u32, answers, tag));
        }
        while taken > 0 {
            let (tag, buffers) = inbox.next().await;
            let (offset, length) = ranges[tag as usize - 200];
            let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
            assert!(bytes == self.model[offset as usize..][..length], "a read at {offset}");
            taken -= 1;
        }
        assert!(inbox.answers.borrow().is_empty(), "answered once");
    }

    async fn writes_of_every_alignment(&mut self) {
        let edges = [0u64, 1, 511, 512, 4095, 4096, 4097, 8191];
        let lengths = [1usize, 2, 511, 512, 513, 4095, 4096, 4097, 8192, 12289];
        for (seed, (offset, length)) in
            edges.iter().flat_map(|edge| lengths.map(|length| (*edge, length))).enumerate()
        {
            self.write(65536 + offset, length, seed as u8).await;
            self.check(65536 - 4096, 32768).await;
        }
    }

    async fn largest_piece(&mut self) {
        for offset in [1 << 20, (1 << 20) + 1] {
            self.write(offset, PIECE_MAX_BYTES as usize, offset as u8).await;
            self.check(offset - 1, u64::from(PIECE_MAX_BYTES) + 1).await;
        }
    }

    async fn zeroes_and_trims(&mut self) {
        for (offset, length, allocate) in
            [(1 << 20, 1, false), ((1 << 20) + 4095, 8194, false), (1_100_000, 300_000, true)]
        {
            self.export.write_zeroes(offset, length, allocate).await.expect("write zeroes");
            self.model[offset as usize..][..length as usize].fill(0);
            self.check(offset - 4096, length + 8192).await;
        }
        // Inside a trimmed range anything may be read; outside nothing may change.
        let (offset, length) = (1_500_001, 40_000);
        self.export.trim(offset, length).await.expect("trim");
        self.check(offset - 10_000, 10_000).await;
        self.check(offset + length, 10_000).await;
        self.write(offset, length as usize, 99).await;
        self.check(offset - 1, length + 2).await;
    }

    async fn status_agrees_with_contents(&mut self) {
        for (offset, length) in [(0, SIZE_MIN_BYTES), (70_001, 5), (1_100_000, 300_001)] {
            for extents_max in [1, 3, EXTENTS_MAX] {
                let extents =
                    self.export.block_status(offset, length, extents_max).await.expect("status");
                assert!(!extents.is_empty() && extents.len() <= extents_max);
                let mut at = offset;
                for extent in &extents {
                    assert!(extent.length_bytes > 0, "empty extent at {at}");
                    let end = at + extent.length_bytes;
                    assert!(end <= offset + length, "status past the range");
                    let zero = self.model[at as usize..end as usize].iter().all(|byte| *byte == 0);
                    assert!(zero || !extent.zero, "data at {at}..{end} reported as zeroes");
                    at = end;
                }
                let alike = |pair: &[crate::Extent]| {
                    (pair[0].hole, pair[0].zero) == (pair[1].hole, pair[1].zero)
                };
                assert!(!extents.windows(2).any(alike), "neighbouring extents with one status");
            }
        }
    }

    /// Two writes that share their range: one of them wins, whole.
    async fn overlapping_writes_do_not_tear(&mut self) {
        let (offset, length) = (2_000_003u64, 20_000usize);
        for _ in 0..4 {
            let mut one = self.pool.allocate(length);
            one.fill(1);
            let mut two = self.pool.allocate(length);
            two.fill(2);
            let (first, second) =
                join(self.export.write(offset, one), self.export.write(offset, two)).await;
            first.and(second).expect("write");
            let bytes = read_all(self.export, offset, length as u32).await;
            assert!(bytes.iter().all(|byte| *byte == bytes[0]) && bytes[0] > 0, "torn write");
            self.model[offset as usize..][..length].copy_from_slice(&bytes);
        }
        self.check(offset - 4096, length as u64 + 8192).await;
    }
}

/// Runs two futures at once.
async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut left, mut right) = (None, None);
    std::future::poll_fn(|context| {
        use std::task::Poll;
        if left.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(context)
        {
            left = Some(output);
        }
        if right.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(context)
        {
            right = Some(output);
        }
        match (left.take(), right.take()) {
            (Some(one), Some(two)) => Poll::Ready((one, two)),
            (one, two) => {
                (left, right) = (one, two);
                Poll::Pending
            }
        }
    })
    .await
}
