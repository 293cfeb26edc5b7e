//! Data of the options that carry some.
//!
//! Invariant: lengths that a client names are only ever compared with bytes that are there; they
//! are never added to, and nothing is allocated by them.
//! Must never know: exports, the state of the handshake.

use super::wire::Reader;
use crate::limits::STRING_MAX_BYTES;

/// Data of INFO and GO (proto: "NBD_OPT_INFO and NBD_OPT_GO").
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a str,
    /// Pairs of bytes, one for each kind asked for.
    kinds: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    pub(super) fn decode(data: &'a [u8]) -> Option<InfoRequest<'a>> {
        let mut reader = Reader(data);
        let name = string(reader.counted()?)?;
        let count = reader.u16()?;
        let kinds = reader.bytes(usize::from(count) * 2)?;
        reader.is_empty().then_some(InfoRequest { name, kinds })
    }

    pub(super) fn asks_for(&self, kind: u16) -> bool {
        self.kinds.chunks_exact(2).any(|pair| pair == kind.to_be_bytes())
    }
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug)]
pub(super) struct ContextQueries<'a> {
    pub(super) name: &'a str,
    pub(super) count: u32,
    queries: &'a [u8],
}

impl<'a> ContextQueries<'a> {
    /// Checks every query before any is used: a request is answered whole or refused whole.
    pub(super) fn decode(data: &'a [u8]) -> Option<ContextQueries<'a>> {
        let mut reader = Reader(data);
        let name = string(reader.counted()?)?;
        let count = reader.u32()?;
        let queries = reader.0;
        for _ in 0..count {
            string(reader.counted()?)?;
        }
        reader.is_empty().then_some(ContextQueries { name, count, queries })
    }

    pub(super) fn any(&self, mut matches: impl FnMut(&[u8]) -> bool) -> bool {
        let mut reader = Reader(self.queries);
        (0..self.count).any(|_| reader.counted().is_some_and(&mut matches))
    }
}

/// A protocol string (proto: "Conventions"): UTF-8, MUST NOT contain NUL, at most 4096 bytes.
pub(super) fn string(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > STRING_MAX_BYTES || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}
