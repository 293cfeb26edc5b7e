//! Aligned memory that can be handed to the kernel.
//!
//! Invariants: a [`Buffer`] is the only owner of its byte range; ranges of one allocation never
//! overlap; memory goes back to its pool when the last piece is dropped.
//! Must never know: what the bytes mean, who does the I/O.
#![allow(unsafe_code)] // Raw memory shared with the kernel: mapping, heap blocks, slices over both.

mod arena;
mod buddy;
mod pool;
#[cfg(test)]
mod tests;

pub use pool::{BufferPool, PoolOptions};

use arena::HeapBlock;
use pool::PoolState;
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

/// A block-aligned range of memory with one owner. Dereferences to its bytes.
///
/// Aligned as allocated; a piece cut off by [`Buffer::split_at`] starts wherever the cut is.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

impl Buffer {
    /// Cuts the buffer in two at `at`, without copying.
    ///
    /// # Panics
    /// If `at` is past the end.
    #[must_use]
    pub fn split_at(self, at: usize) -> (Buffer, Buffer) {
        assert!(at <= self.len, "split at {at} of a buffer of {}", self.len);
        let owner = match &self.owner {
            Owner::Arena { pool, first } => {
                pool.share(*first);
                Owner::Arena { pool: Rc::clone(pool), first: *first }
            }
            Owner::Heap(block) => Owner::Heap(Rc::clone(block)),
        };
        // SAFETY: `at <= len`, so the new start is inside the allocation or one past its end.
        let start = unsafe { self.start.add(at) };
        let tail = Buffer { start, len: self.len - at, owner };
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
        // SAFETY: the range is initialised, owned by `self` alone and alive as long as `owner`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only way to the range.
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
