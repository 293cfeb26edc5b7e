//! Which blocks of the arena are free: a buddy allocator over block numbers.
//!
//! Freed runs of a power of two wait in a short list of their size, unmerged, so that the common
//! "free one, allocate one" costs a push and a pop. They are merged when something does not fit.
//! Invariant: a block is in at most one free run. Must never know: addresses, bytes.

/// End of a list.
const NONE: u32 = u32::MAX;
/// Block is not the start of a free run.
const NOT_FREE: u8 = u8::MAX;
/// Runs kept unmerged per size.
const RECENT_MAX: usize = 32;

/// Free runs of blocks, by size.
pub(super) struct Buddy {
    blocks: u32,
    /// First free run per order, linked through `next` and `previous`.
    free: Vec<u32>,
    /// Recently freed runs per order, not merged.
    recent: Vec<Vec<u32>>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Order of the free run that starts here, or `NOT_FREE`.
    order: Vec<u8>,
}

impl Buddy {
    /// All of `blocks` blocks free.
    pub(super) fn new(blocks: u32) -> Buddy {
        assert!(blocks < NONE);
        let orders = u32::BITS as usize - blocks.leading_zeros() as usize;
        let mut buddy = Buddy {
            blocks,
            free: vec![NONE; orders],
            recent: (0..orders).map(|_| Vec::with_capacity(RECENT_MAX)).collect(),
            next: vec![NONE; blocks as usize],
            previous: vec![NONE; blocks as usize],
            order: vec![NOT_FREE; blocks as usize],
        };
        buddy.merge_run(0, blocks);
        buddy
    }

    /// A run of exactly `count` blocks, if there is one.
    pub(super) fn allocate(&mut self, count: u32) -> Option<u32> {
        assert!(count > 0);
        let order = order_of(count);
        if order >= self.free.len() {
            return None;
        }
        let taken = match self.recent[order].pop() {
            Some(first) => Some(first),
            None => self.take(order).or_else(|| {
                self.merge_recent();
                self.take(order)
            }),
        };
        let first = taken?;
        let rest = (1_u32 << order) - count;
        if rest > 0 {
            self.merge_run(first + count, rest);
        }
        Some(first)
    }

    /// Takes back a run that `allocate` gave out.
    pub(super) fn free(&mut self, first: u32, count: u32) {
        assert!(count > 0 && first + count <= self.blocks);
        let order = order_of(count);
        let aligned = count.is_power_of_two() && first.is_multiple_of(count);
        if aligned && self.recent[order].len() < RECENT_MAX {
            self.recent[order].push(first);
        } else {
            self.merge_run(first, count);
        }
    }

    /// A run of `2^order` blocks, cut from the smallest free one that is large enough.
    fn take(&mut self, order: usize) -> Option<u32> {
        let found = (order..self.free.len()).find(|&at| self.free[at] != NONE)?;
        let first = self.free[found];
        self.unlink(first, found);
        for half in (order..found).rev() {
            self.link(first + (1 << half), half);
        }
        Some(first)
    }

    fn merge_recent(&mut self) {
        for order in 0..self.recent.len() {
            while let Some(first) = self.recent[order].pop() {
                self.merge_run(first, 1 << order);
            }
        }
    }

    /// Frees any run, as aligned powers of two, each merged with its free buddies.
    fn merge_run(&mut self, mut first: u32, mut count: u32) {
        while count > 0 {
            let fits = u32::BITS - 1 - count.leading_zeros();
            let order = fits.min(first.trailing_zeros()) as usize;
            self.merge(first, order);
            first += 1 << order;
            count -= 1 << order;
        }
    }

    fn merge(&mut self, mut first: u32, mut order: usize) {
        while order + 1 < self.free.len() {
            let buddy = first ^ (1 << order);
            if buddy >= self.blocks || self.order[buddy as usize] != order as u8 {
                break;
            }
            self.unlink(buddy, order);
            first = first.min(buddy);
            order += 1;
        }
        self.link(first, order);
    }

    fn link(&mut self, first: u32, order: usize) {
        assert!(self.order[first as usize] == NOT_FREE, "block {first} freed twice");
        let head = self.free[order];
        self.next[first as usize] = head;
        self.previous[first as usize] = NONE;
        if head != NONE {
            self.previous[head as usize] = first;
        }
        self.free[order] = first;
        self.order[first as usize] = order as u8;
    }

    fn unlink(&mut self, first: u32, order: usize) {
        let (previous, next) = (self.previous[first as usize], self.next[first as usize]);
        match previous {
            NONE => self.free[order] = next,
            _ => self.next[previous as usize] = next,
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.order[first as usize] = NOT_FREE;
    }
}

/// The smallest order whose runs hold `count` blocks.
fn order_of(count: u32) -> usize {
    count.next_power_of_two().trailing_zeros() as usize
}
