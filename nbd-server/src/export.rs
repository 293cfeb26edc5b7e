//! What is served: one [`Export`], and the registry that finds them by name.
//!
//! Invariants an export keeps: any byte range inside it may be asked for, whatever its alignment;
//! a write is atomic and durable when its future resolves; requests may overlap and run at once.
//! Must never know: the protocol, sockets.

use crate::proto::Errno;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::Answers;
use ashlar_engine::{Error, ErrorKind, Result};
use std::future::Future;
use std::rc::Rc;

/// What a client is told about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Canonical name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Requests of this size and alignment are served best; a power of two, at least 512.
    pub preferred_block_bytes: u32,
}

/// A part of an export with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, never 0.
    pub length_bytes: u64,
    /// No space is allocated for it.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// Bytes that were read.
#[derive(Debug)]
pub enum ReadData {
    /// One buffer of exactly the length asked for.
    Whole(Buffer),
    /// Buffers that together have exactly the length asked for, in order.
    Pieces(Vec<Buffer>),
    /// All of it reads as zeroes.
    Zeroes,
}

impl From<Vec<Buffer>> for ReadData {
    fn from(mut buffers: Vec<Buffer>) -> ReadData {
        match (buffers.len(), buffers.pop()) {
            (1, Some(buffer)) => ReadData::Whole(buffer),
            (_, last) => {
                buffers.extend(last);
                ReadData::Pieces(buffers)
            }
        }
    }
}

/// A range of bytes that can be served. Callers check bounds and read-only before they call.
pub trait Export: 'static {
    /// Name, size and properties. The size may grow while clients are connected.
    fn info(&self) -> ExportInfo;

    /// Reads at most [`crate::limits::PIECE_MAX_BYTES`].
    fn read(&self, offset: u64, length: u32) -> impl Future<Output = Result<ReadData>>;

    /// Writes `data` at `offset`, atomically; durable when it resolves. At most
    /// [`crate::limits::PIECE_MAX_BYTES`].
    fn write(&self, offset: u64, data: Buffer) -> impl Future<Output = Result<()>>;

    /// As [`Export::read`], for requests that need no task: true if it is started, and its answer
    /// goes to `answers`, at the earliest when this has returned.
    fn start_read(&self, offset: u64, length: u32, answers: Rc<dyn Answers>, tag: u64) -> bool {
        let _ = (offset, length, answers, tag);
        false
    }

    /// As [`Export::write`], for requests that need no task: its answer goes to `answers`, at the
    /// earliest when this has returned.
    ///
    /// # Errors
    /// With the data, if nothing is started.
    fn start_write(
        &self,
        offset: u64,
        data: Buffer,
        answers: Rc<dyn Answers>,
        tag: u64,
    ) -> std::result::Result<(), Buffer> {
        let _ = (offset, answers, tag);
        Err(data)
    }

    /// Makes a range read as zeroes; with `allocate`, later writes to it need no new space.
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        allocate: bool,
    ) -> impl Future<Output = Result<()>>;

    /// Gives a range up: it may read as anything until it is written again.
    fn trim(&self, offset: u64, length: u64) -> impl Future<Output = Result<()>>;

    /// Resolves when every write that had resolved before the call is durable.
    fn flush(&self) -> impl Future<Output = Result<()>>;

    /// A hint that a range will be read soon. The range may be the whole export: doing little or
    /// nothing is fine.
    fn cache(&self, offset: u64, length: u64) -> impl Future<Output = Result<()>>;

    /// The extents from `offset` on: at least one, at most `extents_max`, not longer than
    /// `length` together (shorter is fine when finding out more would take long), neighbours
    /// different.
    fn block_status(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> impl Future<Output = Result<Vec<Extent>>>;
}

/// Finds exports by name.
pub trait Exports: 'static {
    /// What it hands out.
    type Export: Export;

    /// Up to `names_max` names that come after `after`, in ascending order of their bytes.
    fn list(&self, after: &str, names_max: usize) -> Vec<String>;

    /// The export of that name. The empty name is the default: the only export, if there is
    /// exactly one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none, or whatever keeps it from being served.
    fn open(&self, name: &str) -> Result<Rc<Self::Export>>;
}

/// The NBD error for an engine error: the one place where kinds become numbers on the wire.
#[must_use]
pub fn errno_of(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::Exists => Errno::Invalid,
        ErrorKind::NoSpace => Errno::NoSpace,
        ErrorKind::Closed => Errno::Shutdown,
        _ => Errno::Io,
    }
}
