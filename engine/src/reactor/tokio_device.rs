//! A second [`BlockDevice`], on `tokio-uring`: it keeps the seam honest.
//!
//! Slower than the ring's own: no `RWF_DSYNC`, no registered memory. Lives inside
//! `tokio_uring::start`. Must never know: what is stored.
#![allow(unsafe_code)] // The crate's buffer traits are promises about addresses.

use super::open::{OpenedFile, open};
use super::transfer::check;
use super::{BlockDevice, DeviceCompletion, DeviceOp, DeviceOptions};
use crate::buffer::Buffer;
use crate::error::Result;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::fs::File;

/// A file or block device on the `tokio-uring` runtime of this thread.
pub struct TokioDevice {
    core: Rc<Core>,
}

struct Core {
    file: File,
    size_bytes: u64,
    read_only: bool,
    finished: RefCell<Vec<DeviceCompletion>>,
    waker: Cell<Option<Waker>>,
}

impl TokioDevice {
    /// Opens as [`Reactor::open_device`](super::Reactor::open_device) does.
    ///
    /// # Errors
    /// As there.
    pub fn open(path: impl AsRef<Path>, options: &DeviceOptions) -> Result<TokioDevice> {
        let OpenedFile { file, size_bytes, read_only, .. } = open(path.as_ref(), options)?;
        let file = File::from_std(file.into());
        let core = Core {
            file,
            size_bytes,
            read_only,
            finished: RefCell::default(),
            waker: Cell::default(),
        };
        Ok(TokioDevice { core: Rc::new(core) })
    }
}

impl fmt::Debug for TokioDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokioDevice({} bytes)", self.core.size_bytes)
    }
}

impl BlockDevice for TokioDevice {
    fn size_bytes(&self) -> u64 {
        self.core.size_bytes
    }

    fn submit(&self, token: u64, op: DeviceOp) {
        let core = Rc::clone(&self.core);
        if let Err(error) = check(&op, core.size_bytes, core.read_only) {
            let buffers = match op {
                DeviceOp::Read { buffer, .. } => vec![buffer],
                DeviceOp::Write { buffers, .. } => buffers,
                DeviceOp::Sync => Vec::new(),
            };
            return core.finish(DeviceCompletion { token, result: Err(error), buffers });
        }
        tokio_uring::spawn(async move {
            let (result, buffers) = core.carry_out(op).await;
            core.finish(DeviceCompletion { token, result, buffers });
        });
    }

    fn poll_completions(
        &self,
        context: &mut Context<'_>,
        into: &mut Vec<DeviceCompletion>,
    ) -> Poll<()> {
        let mut finished = self.core.finished.borrow_mut();
        if finished.is_empty() {
            self.core.waker.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        into.append(&mut finished);
        Poll::Ready(())
    }
}

impl Core {
    async fn carry_out(&self, op: DeviceOp) -> (io::Result<()>, Vec<Buffer>) {
        match op {
            DeviceOp::Read { offset_bytes, buffer } => {
                let (result, memory) = self.file.read_exact_at(Memory(buffer), offset_bytes).await;
                (result, vec![memory.0])
            }
            DeviceOp::Write { offset_bytes, buffers, sync } => {
                let (mut result, written) = self.write(offset_bytes, buffers).await;
                if sync && result.is_ok() {
                    result = self.file.sync_data().await;
                }
                (result, written)
            }
            DeviceOp::Sync => (self.file.sync_data().await, Vec::new()),
        }
    }

    async fn write(
        &self,
        mut offset_bytes: u64,
        buffers: Vec<Buffer>,
    ) -> (io::Result<()>, Vec<Buffer>) {
        let mut result = Ok(());
        let mut written = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            let len = buffer.len() as u64;
            if result.is_err() || len == 0 {
                written.push(buffer); // All come back, also those after a failure.
                continue;
            }
            let (outcome, memory) = self.file.write_all_at(Memory(buffer), offset_bytes).await;
            result = outcome;
            offset_bytes += len;
            written.push(memory.0);
        }
        (result, written)
    }

    fn finish(&self, completion: DeviceCompletion) {
        self.finished.borrow_mut().push(completion);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A buffer as `tokio-uring` wants it.
struct Memory(Buffer);

// SAFETY: a buffer's bytes stay where they are while the handle moves, and are all initialised.
unsafe impl IoBuf for Memory {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above; the handle is the only owner of the bytes.
unsafe impl IoBufMut for Memory {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _: usize) {}
}
