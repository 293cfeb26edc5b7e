//! The pool: one arena cut into runs of blocks, the heap when it is empty, and a byte bound.
//!
//! Invariant: `in_use_bytes` counts every byte of every live allocation, arena and heap.
//! Must never know: what the buffers are used for.

use super::arena::{Arena, Heap, HeapBlock};
use super::buddy::Buddy;
use super::{Buffer, Owner};
use crate::units::BLOCK_SIZE_BYTES;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Arena of a pool that was not told otherwise.
const ARENA_BYTES_DEFAULT: usize = 32 << 20;
/// Bound of a pool that was not told otherwise.
const IN_USE_MAX_BYTES_DEFAULT: usize = 256 << 20;

/// How large a [`BufferPool`] is.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Bytes of the arena; 0 for none. Rounded down to whole blocks. Resident as a whole where it
    /// is registered with the kernel.
    pub arena_bytes: usize,
    /// Bytes that [`BufferPool::try_allocate`] lets be in use at once, arena and heap together.
    pub in_use_max_bytes: usize,
}

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        PoolOptions { arena_bytes: ARENA_BYTES_DEFAULT, in_use_max_bytes: IN_USE_MAX_BYTES_DEFAULT }
    }
}

/// What the buffers of a pool share.
pub(super) struct PoolState {
    arena: Option<Arena>,
    buddy: RefCell<Buddy>,
    /// Per block, if an allocation starts there: its blocks and how many buffers share it.
    runs: Vec<Cell<Run>>,
    heap: Rc<Heap>,
    in_use_max_bytes: usize,
}

#[derive(Clone, Copy, Default)]
struct Run {
    blocks: u32,
    sharers: u32,
}

impl PoolState {
    /// One more buffer shares the run that starts at `first`.
    pub(super) fn share(&self, first: u32) {
        let run = self.runs[first as usize].get();
        let sharers = run.sharers.checked_add(1).expect("invariant: fewer pieces than bytes");
        self.runs[first as usize].set(Run { sharers, ..run });
    }

    /// One buffer less; the last one frees the run.
    pub(super) fn release(&self, first: u32) {
        let run = self.runs[first as usize].get();
        assert!(run.sharers > 0);
        if run.sharers > 1 {
            self.runs[first as usize].set(Run { sharers: run.sharers - 1, ..run });
            return;
        }
        self.runs[first as usize].set(Run::default());
        self.buddy.borrow_mut().free(first, run.blocks);
        let bytes = run.blocks as usize * BLOCK_SIZE_BYTES;
        self.heap.remove(bytes);
    }
}

/// Hands out [`Buffer`]s from one arena. Cheap to clone; clones share the arena.
#[derive(Clone)]
pub struct BufferPool {
    state: Rc<PoolState>,
}

impl Default for BufferPool {
    fn default() -> BufferPool {
        BufferPool::new(PoolOptions::default())
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} bytes in use)", self.in_use_bytes())
    }
}

impl BufferPool {
    /// A pool. Without an arena, on the heap alone, if the kernel refuses to map it.
    #[must_use]
    pub fn new(options: PoolOptions) -> BufferPool {
        let blocks = options.arena_bytes / BLOCK_SIZE_BYTES;
        let blocks = u32::try_from(blocks).expect("invariant: an arena has fewer than 2^32 blocks");
        let arena = match blocks {
            0 => None,
            _ => Arena::map(blocks as usize * BLOCK_SIZE_BYTES),
        };
        let blocks = if arena.is_some() { blocks } else { 0 };
        let state = PoolState {
            arena,
            buddy: RefCell::new(Buddy::new(blocks)),
            runs: vec![Cell::default(); blocks as usize],
            heap: Rc::default(),
            in_use_max_bytes: options.in_use_max_bytes,
        };
        BufferPool { state: Rc::new(state) }
    }

    /// A buffer of exactly `len` bytes, aligned to a block. Contents are unspecified but
    /// initialised.
    ///
    /// Never refuses: takes from the heap when the arena is empty, whatever the bound. For memory
    /// that others may ask for without limit, use [`BufferPool::try_allocate`].
    #[must_use]
    pub fn allocate(&self, len: usize) -> Buffer {
        let blocks = len.div_ceil(BLOCK_SIZE_BYTES).max(1);
        match self.allocate_in_arena(blocks, len) {
            Some(buffer) => buffer,
            None => {
                let heap = Rc::clone(&self.state.heap);
                Buffer::on_heap(HeapBlock::allocate(blocks * BLOCK_SIZE_BYTES, heap), len)
            }
        }
    }

    /// As [`BufferPool::allocate`], but `None` if more than the pool's bound would be in use.
    #[must_use]
    pub fn try_allocate(&self, len: usize) -> Option<Buffer> {
        let bytes = len.div_ceil(BLOCK_SIZE_BYTES).max(1).checked_mul(BLOCK_SIZE_BYTES)?;
        let in_use = self.in_use_bytes().checked_add(bytes)?;
        (in_use <= self.state.in_use_max_bytes).then(|| self.allocate(len))
    }

    /// Bytes of all live buffers, counted in whole blocks.
    #[must_use]
    pub fn in_use_bytes(&self) -> usize {
        self.state.heap.in_use_bytes()
    }

    /// The bound that [`BufferPool::try_allocate`] keeps.
    #[must_use]
    pub fn in_use_max_bytes(&self) -> usize {
        self.state.in_use_max_bytes
    }

    /// The pool with this state.
    pub(super) fn of(state: &Rc<PoolState>) -> BufferPool {
        BufferPool { state: Rc::clone(state) }
    }

    /// Addresses of the arena, for registering it with a ring.
    pub(crate) fn arena_range(&self) -> Option<Range<usize>> {
        let arena = self.state.arena.as_ref()?;
        let start = arena.start().as_ptr().addr();
        Some(start..start + arena.bytes())
    }

    fn allocate_in_arena(&self, blocks: usize, len: usize) -> Option<Buffer> {
        let state = &self.state;
        let arena = state.arena.as_ref()?;
        let blocks = u32::try_from(blocks).ok()?;
        let first = state.buddy.borrow_mut().allocate(blocks)?;
        state.runs[first as usize].set(Run { blocks, sharers: 1 });
        let bytes = blocks as usize * BLOCK_SIZE_BYTES;
        state.heap.add(bytes);
        // SAFETY: the buddy allocator gives out block numbers inside the arena only.
        let start = unsafe { arena.start().add(first as usize * BLOCK_SIZE_BYTES) };
        let owner = Owner::Arena { pool: Rc::clone(state), first };
        Some(Buffer { start, len, owner, shared: Cell::new(false) })
    }
}
