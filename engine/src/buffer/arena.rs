//! The two sources of raw memory: one anonymous mapping, and single aligned heap blocks.
//!
//! Invariant: every byte handed out is initialised (zeroed by the kernel or by the allocator).
//! Must never know: how the memory is cut up.

use crate::units::BLOCK_SIZE_BYTES;
use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment asked for, so that the kernel can back the arena with huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

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

/// One aligned, zeroed heap allocation that takes itself off its pool's count when dropped.
pub(super) struct HeapBlock {
    start: NonNull<u8>,
    layout: Layout,
    in_use_bytes: Rc<Cell<usize>>,
}

impl HeapBlock {
    /// Allocates `bytes` and adds them to `in_use_bytes`.
    pub(super) fn allocate(bytes: usize, in_use_bytes: Rc<Cell<usize>>) -> HeapBlock {
        assert!(bytes > 0);
        let layout = Layout::from_size_align(bytes, BLOCK_SIZE_BYTES)
            .expect("invariant: a buffer is far smaller than the address space");
        // SAFETY: the size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { std::alloc::handle_alloc_error(layout) };
        in_use_bytes.set(in_use_bytes.get() + bytes);
        HeapBlock { start, layout, in_use_bytes }
    }

    /// Another block, counted where this one is.
    pub(super) fn beside(&self, bytes: usize) -> HeapBlock {
        HeapBlock::allocate(bytes, Rc::clone(&self.in_use_bytes))
    }

    /// Its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        self.in_use_bytes.set(self.in_use_bytes.get() - self.layout.size());
        // SAFETY: allocated with this layout in `allocate`, freed once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}
