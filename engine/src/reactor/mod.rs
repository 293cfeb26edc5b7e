//! The reactor: one thread, one executor, one ring for everything it does.
//!
//! This file holds the seams. Outside this room nothing names a ring, a file descriptor, an
//! `Instant` or a random source: it sees [`Reactor`] (clock, tasks, timers, random streams),
//! [`BlockDevice`], [`Listener`] and [`Stream`]. A simulated twin implements the same traits.
//! Must never know: record layouts, the store, the NBD protocol.

mod backend;
pub mod conformance;
mod executor;
mod handle;
mod open;
mod options;
mod random;
mod remote;
mod ring;
pub mod sim;
mod slab;
#[cfg(test)]
mod tests;
mod thread;
mod timers;
#[cfg(feature = "tokio-uring")]
mod tokio_device;
mod transfer;

pub use executor::Task;
pub use handle::{Reactor, Sleep};
pub use open::DeviceOptions;
pub use options::{ReactorOptions, Stats};
pub use random::RandomStream;
pub use remote::Remote;
pub use thread::start_thread;
#[cfg(feature = "tokio-uring")]
pub use tokio_device::TokioDevice;

use crate::buffer::Buffer;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A boxed future that stays on its thread.
pub type LocalBox<T> = Pin<Box<dyn Future<Output = T>>>;

/// One operation on a block device. Offsets and lengths are multiples of the block size.
#[derive(Debug)]
pub enum DeviceOp {
    /// Fills the whole buffer from `offset_bytes` on.
    Read {
        /// Where on the device.
        offset_bytes: u64,
        /// Filled whole, or the operation fails.
        buffer: Buffer,
    },
    /// Writes the buffers one after another from `offset_bytes` on.
    Write {
        /// Where on the device.
        offset_bytes: u64,
        /// Written in order, contiguously.
        buffers: Vec<Buffer>,
        /// Durable when it completes (`RWF_DSYNC`).
        sync: bool,
    },
    /// Makes every completed write durable.
    Sync,
}

/// A finished [`DeviceOp`]. The buffers come back whatever the result.
#[derive(Debug)]
pub struct DeviceCompletion {
    /// The token it was submitted with.
    pub token: u64,
    /// `Ok` only if every byte was transferred (and synced, if asked for).
    pub result: io::Result<()>,
    /// The operation's buffers, in order.
    pub buffers: Vec<Buffer>,
}

/// A file or block device: operations go in, completions come out in any order.
///
/// One consumer: the task that polls completions. Operations submitted are carried out even if
/// nobody polls. Short transfers are continued or turned into errors, never counted as success.
pub trait BlockDevice {
    /// Usable size in bytes.
    fn size_bytes(&self) -> u64;

    /// Whether every byte has its place on the medium already, as on a raw block device: writing
    /// it for the first time costs no more than writing it again.
    fn is_preallocated(&self) -> bool {
        false
    }

    /// Queues an operation; it is handed to the kernel at the end of the reactor's turn.
    fn submit(&self, token: u64, op: DeviceOp);

    /// Appends finished operations to `into`. `Pending`, with the waker stored, if there are none.
    fn poll_completions(
        &self,
        context: &mut Context<'_>,
        into: &mut Vec<DeviceCompletion>,
    ) -> Poll<()>;
}

/// A part of an outgoing [`Message`].
#[derive(Debug)]
pub enum Part {
    /// This many of the next bytes of the message's head.
    Head(usize),
    /// A whole buffer.
    Payload(Buffer),
}

/// Bytes to send: small pieces gathered in `head`, large ones as buffers, sent in `parts` order.
#[derive(Debug, Default)]
pub struct Message {
    /// All small pieces, one after another.
    pub head: Vec<u8>,
    /// The order on the wire.
    pub parts: Vec<Part>,
}

/// Memory for a receive: bytes go into `first[first_filled..]`, then into `second` from its start.
///
/// The second buffer lets a large payload land where it will be written from, while what follows it
/// lands in the parse buffer.
#[derive(Debug)]
pub struct ReceiveBuffers {
    /// Filled from `first_filled` on.
    pub first: Buffer,
    /// Bytes of `first` that are already in use.
    pub first_filled: usize,
    /// Filled when `first` is full.
    pub second: Option<Buffer>,
}

/// A connected byte stream (TCP or Unix). At most one receive and one send are in flight each.
pub trait Stream {
    /// Receives at least one byte; 0 is the end of the stream. The count is over both buffers.
    fn receive(&self, buffers: ReceiveBuffers) -> LocalBox<(io::Result<usize>, ReceiveBuffers)>;

    /// Sends the whole message; gives it back, emptied, so that its memory is reused.
    fn send(&self, message: Message) -> LocalBox<(io::Result<()>, Message)>;

    /// Ends both directions: pending and later operations end with an error or end of stream.
    fn shutdown(&self);

    /// The other end's address, for logs.
    fn peer(&self) -> String;
}

/// A listening socket.
pub trait Listener {
    /// The next connection.
    fn accept(&self) -> LocalBox<io::Result<std::rc::Rc<dyn Stream>>>;

    /// The bound address, with the port chosen by the system if 0 was asked for.
    fn address(&self) -> Address;
}

/// Where to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// TCP.
    Tcp(std::net::SocketAddr),
    /// A Unix stream socket at this path.
    Unix(std::path::PathBuf),
}
