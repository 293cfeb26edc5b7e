//! The reads of a recovery, carried out.
//!
//! Invariant: a read that fails is done once more; what fails twice is recovery's to judge.
//! Must never know: what is read.

use super::carry_out;
use crate::reactor::{BlockDevice, DeviceCompletion, DeviceOp, Reactor};
use crate::store::{ReadRange, ReadResult, Recovery};
use std::io;

/// Carries out the next wave of a recovery.
pub(super) async fn read_wave(
    reactor: &Reactor,
    device: &dyn BlockDevice,
    recovery: &mut Recovery,
) -> Vec<ReadResult> {
    let wave = recovery.poll_wave();
    let mut results = read_all(reactor, device, &wave).await;
    for (range, result) in wave.iter().zip(&mut results) {
        if result.is_err() {
            let again = read_all(reactor, device, std::slice::from_ref(range)).await;
            *result =
                again.into_iter().next().unwrap_or_else(|| Err(io::Error::other("no result")));
        }
    }
    results
}

async fn read_all(
    reactor: &Reactor,
    device: &dyn BlockDevice,
    ranges: &[ReadRange],
) -> Vec<ReadResult> {
    let reads = ranges.iter().map(|range| DeviceOp::Read {
        offset_bytes: range.offset_bytes,
        buffer: reactor.pool().allocate(range.bytes),
    });
    let done = carry_out(device, reads.collect()).await;
    let bytes = |mut done: DeviceCompletion| {
        let missing = || io::Error::other("the device kept the buffer");
        done.result.and_then(|()| done.buffers.pop().ok_or_else(missing))
    };
    done.into_iter().map(bytes).collect()
}
