//! Changes on the wire: a table of what they do, and their blocks behind it, in the same order.
//!
//! On disk the engine's own records say what the table says. version u8, count u8, then for each
//! change a kind u8, volume u32, and by kind: first block u64 and blocks u32 (write, zero, zero
//! reserved); size u64 (create); nothing (delete).
//! Must never know: frames, sockets.

use super::EncodingError;
use super::bytes::{Bytes, bounded};
use crate::limits::{PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX};
use crate::types::{Change, Changes};
use ashlar_engine::buffer::{Buffer, BufferPool};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use std::fmt;

const VERSION: u8 = 1;

const WRITE: u8 = 1;
const ZERO: u8 = 2;
const ZERO_RESERVED: u8 = 3;
const CREATE: u8 = 4;
const DELETE: u8 = 5;

/// The table of `changes`. Their blocks follow it as they are.
///
/// # Errors
/// If there are too many.
pub fn encode_changes(changes: &[Change]) -> Result<Vec<u8>, EncodingError> {
    let count = bounded("changes", PROPOSAL_CHANGES_MAX, changes.len())?;
    let mut into = vec![VERSION, count as u8];
    let mut put = |kind: u8, volume: &VolumeId, rest: &[&[u8]]| {
        into.push(kind);
        into.extend(volume.0.to_le_bytes());
        rest.iter().for_each(|bytes| into.extend(*bytes));
    };
    for change in changes {
        match change {
            Change::Write { volume, first, data } => {
                let blocks = bounded("blocks", PROPOSAL_BLOCKS_MAX, data.len() / BLOCK_SIZE_BYTES)?;
                let blocks = blocks as u32;
                put(WRITE, volume, &[&first.0.to_le_bytes(), &blocks.to_le_bytes()]);
            }
            Change::Zero { volume, first, count, reserve } => {
                let kind = if *reserve { ZERO_RESERVED } else { ZERO };
                put(kind, volume, &[&first.0.to_le_bytes(), &count.to_le_bytes()]);
            }
            Change::CreateVolume { volume, size_bytes } => {
                put(CREATE, volume, &[&size_bytes.to_le_bytes()]);
            }
            Change::DeleteVolume { volume } => put(DELETE, volume, &[]),
        }
    }
    Ok(into)
}

/// All blocks of the changes, one after the other; `None` if there are none. Copied only if they
/// do not lie so already.
pub(crate) fn gather_blocks(changes: &[Change], pool: &BufferPool) -> Option<Buffer> {
    let blocks = || changes.iter().filter_map(Change::data);
    if let Some(joined) = Buffer::join(blocks()) {
        return Some(joined);
    }
    let total: usize = blocks().map(|data| data.len()).sum();
    if total == 0 {
        return None;
    }
    let mut gathered = pool.allocate(total);
    let mut at = 0;
    for data in blocks() {
        gathered[at..at + data.len()].copy_from_slice(data);
        at += data.len();
    }
    Some(gathered)
}

/// Lays the blocks of all changes one after the other, so that nobody copies them again.
pub(crate) fn lay_together(changes: &mut [Change], pool: &BufferPool) {
    let Some(mut rest) = gather_blocks(changes, pool) else { return };
    for data in changes.iter_mut().filter_map(Change::data_mut) {
        let (own, behind) = rest.split_at(data.len());
        *data = own;
        rest = behind;
    }
}

/// The changes of a table and of the blocks that came with it, which are cut into pieces, not
/// copied.
///
/// # Errors
/// If the table is none, or there are more or fewer blocks than it says.
pub fn decode_changes(table: &[u8], blocks: Option<Buffer>) -> Result<Changes, ChangesError> {
    let mut bytes = Bytes::of_version(VERSION, table)?;
    let count = bounded("changes", PROPOSAL_CHANGES_MAX, bytes.u8()?.into())?;
    let mut rest = blocks.filter(|blocks| !blocks.is_empty());
    let mut left = PROPOSAL_BLOCKS_MAX;
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, volume) = (bytes.u8()?, VolumeId(bytes.u32()?));
        changes.push(match kind {
            WRITE => {
                let first = BlockIndex(bytes.u64()?);
                let blocks = bounded("blocks", left, bytes.u32()? as usize)?;
                left -= blocks;
                Change::Write { volume, first, data: cut(&mut rest, blocks * BLOCK_SIZE_BYTES)? }
            }
            ZERO | ZERO_RESERVED => Change::Zero {
                volume,
                first: BlockIndex(bytes.u64()?),
                count: bytes.u32()?,
                reserve: kind == ZERO_RESERVED,
            },
            CREATE => Change::CreateVolume { volume, size_bytes: bytes.u64()? },
            DELETE => Change::DeleteVolume { volume },
            found => return Err(EncodingError::Kind { of: "change", found }.into()),
        });
    }
    bytes.end()?;
    match rest {
        None => Ok(changes.into()),
        Some(rest) => Err(ChangesError::Blocks { expected: 0, found: rest.len() }),
    }
}

/// The next `expected` bytes of what is left.
fn cut(rest: &mut Option<Buffer>, expected: usize) -> Result<Buffer, ChangesError> {
    let found = rest.as_ref().map_or(0, |rest| rest.len());
    let whole = rest.take().filter(|_| expected > 0 && expected <= found);
    let Some(whole) = whole else { return Err(ChangesError::Blocks { expected, found }) };
    let (piece, behind) = whole.split_at(expected);
    *rest = Some(behind).filter(|behind| !behind.is_empty());
    Ok(piece)
}

/// Why a table and blocks do not make changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangesError {
    /// The table is none.
    Table(EncodingError),
    /// Its blocks are not there, or more are than it says.
    Blocks {
        /// Bytes that a change, or the end of the table, should have had.
        expected: usize,
        /// Bytes that were left.
        found: usize,
    },
}

impl From<EncodingError> for ChangesError {
    fn from(error: EncodingError) -> ChangesError {
        ChangesError::Table(error)
    }
}

impl fmt::Display for ChangesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangesError::Table(error) => write!(f, "table of changes: {error}"),
            ChangesError::Blocks { expected, found } => {
                write!(f, "{expected} bytes of blocks were expected, {found} found")
            }
        }
    }
}

impl std::error::Error for ChangesError {}
