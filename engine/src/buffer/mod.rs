//! Aligned memory that can be handed to the kernel.
//!
//! Invariants: the byte range of a [`Buffer`] that is not marked as shared overlaps no other one's,
//! and only such a range is written to; memory goes back to its pool when its last piece is gone.
//! Must never know: what the bytes mean, who does the I/O.
#![allow(unsafe_code)] // Raw memory shared with the kernel: mapping, heap blocks, slices over both.

mod arena;
mod buddy;
mod pool;
#[cfg(test)]
mod tests;

pub use pool::{BufferPool, PoolOptions};

use crate::units::BLOCK_SIZE_BYTES;
use arena::HeapBlock;
use pool::PoolState;
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

/// Who frees the memory under a [`Buffer`].
enum Owner {
    /// A run of arena blocks, counted in the pool's table under its first block.
    Arena { pool: Rc<PoolState>, first: u32 },
    /// A heap block of its own.
    Heap(Rc<HeapBlock>),
}

impl Owner {
    /// One more buffer in the same allocation.
    fn share(&self) -> Owner {
        match self {
            Owner::Arena { pool, first } => {
                pool.share(*first);
                Owner::Arena { pool: Rc::clone(pool), first: *first }
            }
            Owner::Heap(block) => Owner::Heap(Rc::clone(block)),
        }
    }

    fn is_same(&self, other: &Owner) -> bool {
        match (self, other) {
            (Owner::Arena { pool, first }, Owner::Arena { pool: of, first: one }) => {
                Rc::ptr_eq(pool, of) && first == one
            }
            (Owner::Heap(block), Owner::Heap(other)) => Rc::ptr_eq(block, other),
            _ => false,
        }
    }
}

/// A block-aligned range of memory. Dereferences to its bytes.
///
/// A value, as a `Vec` is, but a clone is cheap: it shares the memory until one of the two is
/// written to, which then takes a copy.
/// Aligned as allocated; a piece cut off by [`Buffer::split_at`] starts wherever the cut is.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
    /// Whether there is, or was, a clone of any of it.
    shared: Cell<bool>,
}

impl Buffer {
    /// Cuts the buffer in two at `at`, without copying.
    ///
    /// # Panics
    /// If `at` is past the end.
    #[must_use]
    pub fn split_at(self, at: usize) -> (Buffer, Buffer) {
        assert!(at <= self.len, "split at {at} of a buffer of {}", self.len);
        // SAFETY: `at <= len`, so the new start is inside the allocation or one past its end.
        let start = unsafe { self.start.add(at) };
        let (owner, shared) = (self.owner.share(), self.shared.clone());
        let tail = Buffer { start, len: self.len - at, owner, shared };
        let mut head = self;
        head.len = at;
        (head, tail)
    }

    /// Keeps the first `len` bytes.
    ///
    /// # Panics
    /// If `len` is longer than the buffer.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "truncate to {len} of a buffer of {}", self.len);
        self.len = len;
    }

    /// The pieces as one, without copying, if each begins where the one before ends: pieces that
    /// [`Buffer::split_at`] made, or clones of them.
    #[must_use]
    pub fn join<'a>(pieces: impl IntoIterator<Item = &'a Buffer>) -> Option<Buffer> {
        let mut pieces = pieces.into_iter();
        let mut joined = pieces.next()?.clone();
        for piece in pieces {
            let end = joined.start.as_ptr().wrapping_add(joined.len);
            if end != piece.start.as_ptr() || !joined.owner.is_same(&piece.owner) {
                return None;
            }
            piece.shared.set(true);
            joined.len += piece.len;
        }
        Some(joined)
    }

    /// Takes a copy, to be written to.
    #[cold]
    fn unshare(&mut self) {
        let mut own = match &self.owner {
            Owner::Arena { pool, .. } => BufferPool::of(pool).allocate(self.len),
            Owner::Heap(block) => {
                let bytes = self.len.next_multiple_of(BLOCK_SIZE_BYTES).max(BLOCK_SIZE_BYTES);
                Buffer::on_heap(block.beside(bytes), self.len)
            }
        };
        own.copy_from_slice(self);
        *self = own;
    }

    fn on_heap(block: HeapBlock, len: usize) -> Buffer {
        let (start, owner) = (block.start(), Owner::Heap(Rc::new(block)));
        Buffer { start, len, owner, shared: Cell::new(false) }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        self.shared.set(true);
        let (owner, shared) = (self.owner.share(), Cell::new(true));
        Buffer { start: self.start, len: self.len, owner, shared }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Owner::Arena { pool, first } = &self.owner {
            pool.release(*first);
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the range is initialised, alive as long as `owner`, and written to by nobody but
        // through `&mut self`, or by nobody at all if it is shared.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.shared.get() {
            self.unshare();
        }
        // SAFETY: as in `deref`, and `&mut self` is the only way to the range: it is not shared.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.owner {
            Owner::Arena { .. } => "arena",
            Owner::Heap(_) => "heap",
        };
        write!(f, "Buffer({} bytes, {place})", self.len)
    }
}
