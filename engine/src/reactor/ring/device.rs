//! A file or block device on the ring.
//!
//! Invariants: a transfer is continued until every byte is moved, or fails; its buffers and iovecs
//! stay in place until then and come back with the result.
//! Must never know: what is stored.

use super::{Op, Ring};
use crate::buffer::Buffer;
use crate::reactor::open::OpenedFile;
use crate::reactor::transfer::{Gather, check, retriable};
use crate::reactor::{BlockDevice, DeviceCompletion, DeviceOp};
use io_uring::{opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Transfers kept for their memory.
const SPARE_MAX: usize = 64;
/// Index of the arena among the registered buffers.
const ARENA_INDEX: u16 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write { flags: i32 },
    Sync,
}

/// One operation on its way, with the memory it uses.
pub(super) struct Transfer {
    token: u64,
    kind: Kind,
    offset_bytes: u64,
    buffers: Vec<Buffer>,
    gather: Gather,
    /// Every byte lies in the registered arena.
    fixed: bool,
    retries: u32,
}

/// What the device and its operations in flight share.
pub(super) struct DeviceCore {
    ring: Rc<Ring>,
    opened: OpenedFile,
    /// Place in the table of registered files.
    slot: Option<u32>,
    finished: RefCell<Vec<DeviceCompletion>>,
    waker: Cell<Option<Waker>>,
    #[expect(clippy::vec_box, reason = "boxes move into operations and back")]
    spare: RefCell<Vec<Box<Transfer>>>,
}

impl Drop for DeviceCore {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let io = self.ring.io.borrow();
            if io.submitter().register_files_update(slot, &[-1]).is_ok() {
                self.ring.support.file_slots.borrow_mut().push(slot);
            }
        }
    }
}

/// The handle: one consumer.
pub(super) struct FileDevice {
    core: Rc<DeviceCore>,
}

impl FileDevice {
    pub(super) fn new(ring: &Rc<Ring>, opened: OpenedFile) -> FileDevice {
        let mut slot = ring.support.file_slots.borrow_mut().pop();
        if let Some(taken) = slot {
            let files = [opened.file.as_raw_fd()];
            if ring.io.borrow().submitter().register_files_update(taken, &files).is_err() {
                ring.support.file_slots.borrow_mut().push(taken);
                slot = None;
            }
        }
        let core = DeviceCore {
            ring: Rc::clone(ring),
            opened,
            slot,
            finished: RefCell::default(),
            waker: Cell::default(),
            spare: RefCell::default(),
        };
        FileDevice { core: Rc::new(core) }
    }
}

impl BlockDevice for FileDevice {
    fn size_bytes(&self) -> u64 {
        self.core.opened.size_bytes
    }

    fn is_preallocated(&self) -> bool {
        self.core.opened.is_block_device
    }

    fn submit(&self, token: u64, op: DeviceOp) {
        let core = &self.core;
        let checked = check(&op, core.opened.size_bytes, core.opened.read_only);
        let mut transfer = core.spare.borrow_mut().pop().unwrap_or_else(Transfer::empty);
        transfer.prepare(token, op, &core.ring);
        match checked {
            _ if core.ring.closed.get() => {
                core.finish(transfer, Err(io::Error::other("the reactor is shut down")));
            }
            Ok(()) => start(core, transfer),
            Err(error) => core.finish(transfer, Err(error)),
        }
    }

    fn poll_completions(
        &self,
        context: &mut Context<'_>,
        into: &mut Vec<DeviceCompletion>,
    ) -> Poll<()> {
        let mut finished = self.core.finished.borrow_mut();
        if finished.is_empty() {
            let known = self.core.waker.take().filter(|known| known.will_wake(context.waker()));
            self.core.waker.set(Some(known.unwrap_or_else(|| context.waker().clone())));
            return Poll::Pending;
        }
        into.append(&mut finished);
        Poll::Ready(())
    }
}

impl DeviceCore {
    fn finish(&self, mut transfer: Box<Transfer>, result: io::Result<()>) {
        let buffers = std::mem::take(&mut transfer.buffers);
        self.finished.borrow_mut().push(DeviceCompletion {
            token: transfer.token,
            result,
            buffers,
        });
        transfer.gather.clear();
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(transfer);
        }
        drop(spare);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Transfer {
    fn empty() -> Box<Transfer> {
        Box::new(Transfer {
            token: 0,
            kind: Kind::Sync,
            offset_bytes: 0,
            buffers: Vec::new(),
            gather: Gather::default(),
            fixed: false,
            retries: 0,
        })
    }

    fn prepare(&mut self, token: u64, op: DeviceOp, ring: &Ring) {
        self.token = token;
        self.retries = 0;
        self.fixed = false;
        (self.kind, self.offset_bytes, self.buffers) = match op {
            DeviceOp::Read { offset_bytes, buffer } => (Kind::Read, offset_bytes, vec![buffer]),
            DeviceOp::Write { offset_bytes, buffers, sync } => {
                let flags = if sync { libc::RWF_DSYNC } else { 0 };
                (Kind::Write { flags }, offset_bytes, buffers)
            }
            DeviceOp::Sync => (Kind::Sync, 0, Vec::new()),
        };
        let reads = matches!(self.kind, Kind::Read);
        for buffer in &mut self.buffers {
            // What is written may be shared.
            let start = if reads { buffer.as_mut_ptr() } else { buffer.as_ptr().cast_mut() };
            self.gather.push(start, buffer.len());
        }
        if let Some(arena) = &ring.support.arena {
            self.fixed = self.gather.lies_in(arena);
        }
    }

    fn entry(&self, core: &DeviceCore) -> squeue::Entry {
        let entry = match core.slot {
            Some(slot) => self.entry_for(types::Fixed(slot), core),
            None => self.entry_for(types::Fd(core.opened.file.as_raw_fd()), core),
        };
        // To a worker of the kernel's at once: this thread serves everybody.
        if core.opened.may_block { entry.flags(squeue::Flags::ASYNC) } else { entry }
    }

    fn entry_for<F: UseFile>(&self, file: F, core: &DeviceCore) -> squeue::Entry {
        let offset = self.offset_bytes;
        let iovecs = self.gather.rest();
        let (first, count) = (iovecs.as_ptr(), iovecs.len() as u32);
        match (self.kind, iovecs) {
            (Kind::Sync, _) => file.sync(),
            (_, []) => unreachable!("an empty transfer is refused"),
            (Kind::Read, [one]) => file.read(one, offset, self.fixed),
            (Kind::Read, _) => unreachable!("a read has one buffer"),
            (Kind::Write { flags }, [one]) => file.write(one, offset, flags, self.fixed),
            (Kind::Write { flags }, _) => {
                let fixed = self.fixed && core.ring.support.write_vectored_fixed;
                file.write_vectored(first, count, offset, flags, fixed)
            }
        }
    }
}

/// The entries, for a registered file or a descriptor.
trait UseFile: Sized {
    fn sync(self) -> squeue::Entry;
    fn read(self, memory: &libc::iovec, offset: u64, fixed: bool) -> squeue::Entry;
    fn write(self, memory: &libc::iovec, offset: u64, flags: i32, fixed: bool) -> squeue::Entry;
    fn write_vectored(
        self,
        iovecs: *const libc::iovec,
        count: u32,
        offset: u64,
        flags: i32,
        fixed: bool,
    ) -> squeue::Entry;
}

macro_rules! use_file {
    ($file:ty) => {
        impl UseFile for $file {
            fn sync(self) -> squeue::Entry {
                opcode::Fsync::new(self).flags(types::FsyncFlags::DATASYNC).build()
            }

            fn read(self, memory: &libc::iovec, offset: u64, fixed: bool) -> squeue::Entry {
                let (start, len) = (memory.iov_base.cast(), Gather::op_len(memory));
                if fixed {
                    let entry = opcode::ReadFixed::new(self, start, len, ARENA_INDEX);
                    return entry.offset(offset).build();
                }
                opcode::Read::new(self, start, len).offset(offset).build()
            }

            fn write(
                self,
                memory: &libc::iovec,
                offset: u64,
                flags: i32,
                fixed: bool,
            ) -> squeue::Entry {
                let (start, len) = (memory.iov_base.cast_const().cast(), Gather::op_len(memory));
                if fixed {
                    let entry = opcode::WriteFixed::new(self, start, len, ARENA_INDEX);
                    return entry.offset(offset).rw_flags(flags).build();
                }
                opcode::Write::new(self, start, len).offset(offset).rw_flags(flags).build()
            }

            fn write_vectored(
                self,
                iovecs: *const libc::iovec,
                count: u32,
                offset: u64,
                flags: i32,
                fixed: bool,
            ) -> squeue::Entry {
                if fixed {
                    let entry = opcode::WritevFixed::new(self, iovecs, count, ARENA_INDEX);
                    return entry.offset(offset).rw_flags(flags).build();
                }
                opcode::Writev::new(self, iovecs, count).offset(offset).rw_flags(flags).build()
            }
        }
    };
}
use_file!(types::Fixed);
use_file!(types::Fd);

fn start(core: &Rc<DeviceCore>, transfer: Box<Transfer>) {
    let entry = transfer.entry(core);
    // SAFETY: the buffers and the iovecs are on the heap and owned by the boxed transfer.
    unsafe { core.ring.start(Op::Device(Rc::clone(core), transfer), entry) };
}

/// The kernel is done with one step of a transfer.
pub(super) fn complete(core: &Rc<DeviceCore>, mut transfer: Box<Transfer>, result: i32) {
    if result < 0 {
        if retriable(result, &mut transfer.retries) {
            return start(core, transfer);
        }
        return core.finish(transfer, Err(io::Error::from_raw_os_error(-result)));
    }
    let moved = result as usize;
    if transfer.kind == Kind::Sync || transfer.gather.advance(moved) {
        return core.finish(transfer, Ok(()));
    }
    if moved == 0 {
        let error = match transfer.kind {
            Kind::Read => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::WriteZero,
        };
        return core.finish(transfer, Err(error.into()));
    }
    transfer.offset_bytes += moved as u64;
    start(core, transfer);
}
