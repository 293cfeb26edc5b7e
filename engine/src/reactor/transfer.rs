//! What every transfer needs: a list of memory that shrinks as bytes move, and the checks before.
//!
//! Must never know: rings, sockets, devices.

use super::DeviceOp;
use crate::buffer::Buffer;
use crate::units::BLOCK_SIZE_BYTES;
use std::io;
use std::ops::Range;

/// Pieces of memory the kernel takes in one operation (`IOV_MAX`).
const PIECES_MAX: usize = 1024;
/// Bytes the kernel moves in one operation, in whole blocks.
const OP_MAX_BYTES: usize = 0x7fff_f000;
/// Times an operation is repeated that the kernel asked to repeat.
const RETRIES_MAX: u32 = 1000;

/// Pieces of memory, moved in order. Names memory; owning it is the caller's part.
#[derive(Default)]
pub(super) struct Gather {
    pieces: Vec<libc::iovec>,
    done: usize,
}

impl Gather {
    /// Adds a piece; joined with the one before if it follows it in memory.
    pub(super) fn push(&mut self, start: *mut u8, len: usize) {
        if len == 0 {
            return;
        }
        if let Some(last) = self.pieces.last_mut() {
            let end = last.iov_base.cast::<u8>().wrapping_add(last.iov_len);
            if end == start {
                last.iov_len += len;
                return;
            }
        }
        self.pieces.push(libc::iovec { iov_base: start.cast(), iov_len: len });
    }

    /// The pieces of the next operation.
    pub(super) fn rest(&self) -> &[libc::iovec] {
        let rest = &self.pieces[self.done..];
        &rest[..rest.len().min(PIECES_MAX)]
    }

    /// Length of a piece as one operation can move it.
    pub(super) fn op_len(piece: &libc::iovec) -> u32 {
        piece.iov_len.min(OP_MAX_BYTES) as u32
    }

    /// Takes note that `moved` bytes are done. True if that was all.
    pub(super) fn advance(&mut self, mut moved: usize) -> bool {
        while let Some(piece) = self.pieces.get_mut(self.done) {
            if moved < piece.iov_len {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(moved).cast();
                piece.iov_len -= moved;
                return false;
            }
            moved -= piece.iov_len;
            self.done += 1;
        }
        assert!(moved == 0, "the kernel moved more than there was");
        true
    }

    /// Whether every piece lies in `range`.
    pub(super) fn lies_in(&self, range: &Range<usize>) -> bool {
        self.pieces.iter().all(|piece| {
            let start = piece.iov_base.addr();
            range.start <= start && start + piece.iov_len <= range.end
        })
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.done = 0;
    }
}

/// Whether `result` only asks to try again.
pub(super) fn retriable(result: i32, retries: &mut u32) -> bool {
    let again = matches!(-result, libc::EINTR | libc::EAGAIN);
    *retries += u32::from(again);
    again && *retries <= RETRIES_MAX
}

/// Whether a device of `size_bytes` can carry out `op` at all.
pub(super) fn check(op: &DeviceOp, size_bytes: u64, read_only: bool) -> io::Result<()> {
    let (offset_bytes, buffers) = match op {
        DeviceOp::Read { offset_bytes, buffer } => (*offset_bytes, std::slice::from_ref(buffer)),
        DeviceOp::Write { offset_bytes, buffers, .. } => (*offset_bytes, &buffers[..]),
        DeviceOp::Sync => return Ok(()),
    };
    if read_only && matches!(op, DeviceOp::Write { .. }) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened read-only"));
    }
    let aligned = |buffer: &Buffer| {
        buffer.len().is_multiple_of(BLOCK_SIZE_BYTES)
            && buffer.as_ptr().addr().is_multiple_of(BLOCK_SIZE_BYTES)
    };
    if !offset_bytes.is_multiple_of(BLOCK_SIZE_BYTES as u64) || !buffers.iter().all(aligned) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not aligned to blocks"));
    }
    let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
    if len == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing to transfer"));
    }
    match offset_bytes.checked_add(len) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "past the end of the device")),
    }
}
