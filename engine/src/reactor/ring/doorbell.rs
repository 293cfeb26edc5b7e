//! The doorbell: an eventfd that the ring polls.
//!
//! Polled, not read through the ring: a ring read of an eventfd regressed in Linux 6.15.4.

use crate::error::{Error, ErrorKind, Result};
use crate::reactor::remote::Doorbell;
use io_uring::types::Fd;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsRawFd, OwnedFd};

pub(super) struct EventFd {
    file: OwnedFd,
}

impl EventFd {
    pub(super) fn new() -> Result<EventFd> {
        match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(file) => Ok(EventFd { file }),
            Err(error) => Err(Error::new(
                ErrorKind::Device,
                format!("cannot create an event descriptor: {error}"),
            )),
        }
    }

    pub(super) fn fd(&self) -> Fd {
        Fd(self.file.as_raw_fd())
    }

    /// Back to zero, so that a new poll waits for a new ring.
    pub(super) fn clear(&self) {
        // Nothing to read is fine: somebody rang and it was cleared before.
        let _ = rustix::io::read(&self.file, &mut [0; 8]);
    }
}

impl Doorbell for EventFd {
    fn ring(&self) {
        // A full counter refuses the write, and is ringing already.
        let _ = rustix::io::write(&self.file, &1_u64.to_ne_bytes());
    }
}
