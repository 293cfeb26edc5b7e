//! Setting the ring up: the best the kernel offers, step by step down, and what it then supports.
//!
//! Also the two system values that the backend reads itself: the clock and the seed.

use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Nanos;
use io_uring::{Builder, IoUring, Probe, opcode};
use std::cell::RefCell;
use std::io;
use std::ops::Range;

/// Submission entries. A fuller turn enters the kernel more than once.
const SUBMISSIONS: u32 = 1024;
/// Completion entries. More in flight is fine (the kernel keeps the rest), but slower.
const COMPLETIONS: u32 = 8192;
/// Entries if the large ring does not fit in the memory this process may lock.
const SUBMISSIONS_SMALL: u32 = 128;
/// Completion entries of the small ring.
const COMPLETIONS_SMALL: u32 = 4096;
/// Least that is worth registering.
const ARENA_MIN_BYTES: usize = 1 << 20;
/// Devices that can have a registered file; others use their descriptor.
const FILES_MAX: u32 = 64;

/// What the kernel supports beyond the basics.
pub(super) struct Support {
    /// Addresses of the registered arena, buffer index 0.
    pub(super) arena: Option<Range<usize>>,
    /// Several buffers of the arena in one write.
    pub(super) write_vectored_fixed: bool,
    /// A poll that stays armed.
    pub(super) multishot_poll: bool,
    /// Time-outs by the clock that [`boot_time`] reads.
    pub(super) alarms: bool,
    /// Free places in the table of registered files.
    pub(super) file_slots: RefCell<Vec<u32>>,
}

/// A ring with one kernel's features.
pub(super) type Step = fn(&mut Builder);

/// From the newest kernels down.
pub(super) const STEPS: [Step; 3] = [deferred, cooperative, plain];

/// The first of `steps` that the kernel takes, and what it then supports.
pub(super) fn build(pool: &BufferPool, steps: &[Step]) -> Result<(IoUring, Support)> {
    let io = build_ring(steps).map_err(|error| Error::new(ErrorKind::Device, refusal(&error)))?;
    if !io.params().is_feature_ext_arg() {
        return Err(Error::new(ErrorKind::Device, "io_uring needs Linux 5.11 or newer"));
    }
    let mut probe = Probe::new();
    let probed = io.submitter().register_probe(&mut probe).is_ok();
    let arena = pool.arena_range().and_then(|range| register_arena(&io, range));
    let files = io.submitter().register_files_sparse(FILES_MAX).is_ok();
    let support = Support {
        arena,
        write_vectored_fixed: probed && probe.is_supported(opcode::WritevFixed::CODE),
        // As old as the resource tags (5.13), which have a flag of their own.
        multishot_poll: io.params().is_feature_resource_tagging(),
        // Of 5.15; the flag is of 5.17.
        alarms: io.params().is_feature_linked_file(),
        file_slots: RefCell::new(if files { (0..FILES_MAX).rev().collect() } else { Vec::new() }),
    };
    tracing::debug!(
        arena_bytes = support.arena.as_ref().map_or(0, Range::len),
        files,
        vectored = support.write_vectored_fixed,
        "ring set up"
    );
    Ok((io, support))
}

fn build_ring(steps: &[Step]) -> io::Result<IoUring> {
    let mut refused = None;
    for (submissions, completions) in
        [(SUBMISSIONS, COMPLETIONS), (SUBMISSIONS_SMALL, COMPLETIONS_SMALL)]
    {
        for step in steps {
            let mut builder = IoUring::builder();
            builder.dontfork().setup_clamp().setup_cqsize(completions);
            step(&mut builder);
            match builder.build(submissions) {
                Ok(io) => return Ok(io),
                Err(error) => refused = Some(error),
            }
        }
    }
    Err(refused.expect("invariant: at least one step was tried"))
}

/// Linux 6.1: completions are delivered only when the reactor asks, never by interrupting it.
fn deferred(builder: &mut Builder) {
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
}

/// Linux 5.19: completions are delivered at the next system call.
fn cooperative(builder: &mut Builder) {
    builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
}

fn plain(_: &mut Builder) {}

/// Why there is no ring, for a person.
pub(super) fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::EPERM | libc::EACCES) => "io_uring is not allowed here: \
            look at the sysctl kernel.io_uring_disabled and at the container's seccomp profile"
            .into(),
        Some(libc::ENOMEM) => "no memory for an io_uring: raise the limit on locked memory \
            (ulimit -l)"
            .into(),
        Some(libc::EMFILE | libc::ENFILE) => "too many open files for an io_uring".into(),
        _ => format!("cannot set up an io_uring: {error}"),
    }
}

/// Registers as much of the arena as this process may lock.
fn register_arena(io: &IoUring, range: Range<usize>) -> Option<Range<usize>> {
    let mut bytes = range.len();
    while bytes >= ARENA_MIN_BYTES {
        let whole = libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(range.start),
            iov_len: bytes,
        };
        // SAFETY: the kernel pins the pages itself, so the mapping may even go before the ring.
        match unsafe { io.submitter().register_buffers(&[whole]) } {
            Ok(()) => return Some(range.start..range.start + bytes),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => bytes /= 2,
            Err(error) => {
                tracing::info!(%error, "arena not registered: disk transfers cost a little more");
                return None;
            }
        }
    }
    None
}

/// Monotonic time, suspend included.
pub(super) fn boot_time() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, into one.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert!(result == 0, "the boot clock exists since Linux 2.6.39");
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A seed nobody can foresee.
pub(super) fn system_seed() -> Result<u64> {
    let mut seed = [0_u8; 8];
    // SAFETY: writes at most 8 bytes, into 8.
    let filled = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if filled == seed.len() as isize {
        return Ok(u64::from_ne_bytes(seed));
    }
    let error = io::Error::last_os_error();
    Err(Error::new(ErrorKind::Device, format!("the system gives no random numbers: {error}")))
}
