//! The two sources of raw memory: one anonymous mapping, and single aligned heap blocks.
//!
//! Invariant: every byte handed out is initialised (zeroed by the kernel or by the allocator, or
//! written by who had it before).
//! Must never know: how the memory is cut up.

use crate::units::BLOCK_SIZE_BYTES;
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment asked for, so that the kernel can back the arena with huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Heap blocks that a pool keeps for reuse: what an arena's worth of requests may have at once.
const SPARE_MAX_BYTES: usize = 32 << 20;

/// One anonymous mapping, unmapped when dropped.
pub(super) struct Arena {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    start: NonNull<u8>,
    bytes: usize,
}

impl Arena {
    /// Maps `bytes` (a multiple of the block size). `None` if the kernel refuses.
    pub(super) fn map(bytes: usize) -> Option<Arena> {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_SIZE_BYTES));
        let mapping_bytes = bytes + HUGE_PAGE_BYTES;
        // SAFETY: a fresh anonymous mapping touches no memory that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        let mapping = NonNull::new(address.cast::<u8>())?;
        let skip = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
        assert!(skip <= HUGE_PAGE_BYTES);
        // SAFETY: the mapping is `HUGE_PAGE_BYTES` longer than the arena.
        let start = unsafe { mapping.add(skip) };
        #[cfg(not(miri))]
        // SAFETY: advice about our own mapping; a refusal changes nothing.
        unsafe {
            libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Some(Arena { mapping, mapping_bytes, start, bytes })
    }

    /// Its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; buffers hold the pool, so none is left.
        unsafe {
            libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes);
        }
    }
}

/// Blocks of the heap that belong to one pool: those in use are counted, some of the others are
/// kept, because memory that is fresh from the kernel costs more than a copy of its size.
///
/// Invariant: every kept block is one that [`HeapBlock::allocate`] made, and nobody else has it.
#[derive(Default)]
pub(super) struct Heap {
    in_use_bytes: Cell<usize>,
    /// By size in bytes.
    spare: RefCell<BTreeMap<usize, Vec<NonNull<u8>>>>,
    spare_bytes: Cell<usize>,
}

impl Heap {
    /// Bytes of all blocks in use, and of what else was added.
    pub(super) fn in_use_bytes(&self) -> usize {
        self.in_use_bytes.get()
    }

    /// So many bytes more are in use.
    pub(super) fn add(&self, bytes: usize) {
        self.in_use_bytes.set(self.in_use_bytes.get() + bytes);
    }

    /// So many bytes less are in use.
    pub(super) fn remove(&self, bytes: usize) {
        self.in_use_bytes.set(self.in_use_bytes.get() - bytes);
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, BLOCK_SIZE_BYTES)
            .expect("invariant: a buffer is far smaller than the address space")
    }

    fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        let found = self.spare.borrow_mut().get_mut(&bytes)?.pop()?;
        self.spare_bytes.set(self.spare_bytes.get() - bytes);
        Some(found)
    }

    fn keep(&self, start: NonNull<u8>, bytes: usize) {
        if self.spare_bytes.get() + bytes > SPARE_MAX_BYTES {
            // Sizes that nobody asks for any more would stay for ever.
            self.free();
        }
        self.spare.borrow_mut().entry(bytes).or_default().push(start);
        self.spare_bytes.set(self.spare_bytes.get() + bytes);
    }

    fn free(&self) {
        for (bytes, blocks) in self.spare.take() {
            for start in blocks {
                // SAFETY: allocated with this layout by `HeapBlock::allocate`, and nobody has it.
                unsafe { std::alloc::dealloc(start.as_ptr(), Heap::layout(bytes)) }
            }
        }
        self.spare_bytes.set(0);
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.free();
    }
}

/// One aligned heap allocation, initialised. Goes back to its pool's heap when dropped.
pub(super) struct HeapBlock {
    start: NonNull<u8>,
    bytes: usize,
    heap: Rc<Heap>,
}

impl HeapBlock {
    /// Allocates `bytes`.
    pub(super) fn allocate(bytes: usize, heap: Rc<Heap>) -> HeapBlock {
        assert!(bytes > 0);
        let start = heap.take(bytes).unwrap_or_else(|| {
            let layout = Heap::layout(bytes);
            // SAFETY: the size is not zero.
            let start = unsafe { std::alloc::alloc_zeroed(layout) };
            NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
        });
        heap.add(bytes);
        HeapBlock { start, bytes, heap }
    }

    /// Another block of the same heap.
    pub(super) fn beside(&self, bytes: usize) -> HeapBlock {
        HeapBlock::allocate(bytes, Rc::clone(&self.heap))
    }

    /// Its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        self.heap.remove(self.bytes);
        self.heap.keep(self.start, self.bytes);
    }
}
