//! Encoding of everything a server sends after its greeting.
//!
//! Every function appends to a byte vector; payloads of reads are not copied here, the caller
//! sends them behind the head.
//! Must never know: when or in which order replies are sent.

use super::wire::{self, chunk, state};
use super::{Errno, Framing};
use crate::export::Extent;
use crate::limits::{MESSAGE_MAX_BYTES, STRING_MAX_BYTES};

/// The id under which `base:allocation` is selected; any value would do.
pub const ALLOCATION_CONTEXT_ID: u32 = 1;

const _: () = assert!(MESSAGE_MAX_BYTES <= STRING_MAX_BYTES);

/// The request a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// How it is framed.
    pub framing: Framing,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset.
    pub offset: u64,
}

/// The longest start of `text` that fits a message, cut between characters.
#[must_use]
pub fn clip(text: &str) -> &str {
    let mut end = text.len().min(MESSAGE_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A reply to an option.
pub(super) fn option(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    let length = u32::try_from(data.len()).expect("invariant: option replies are short");
    out.extend_from_slice(&wire::OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
}

/// Success of a request that returns no data. Structured replies leave room for simple ones here
/// (proto: "Simple reply message"), and they are shorter; extended headers do not.
pub fn done(out: &mut Vec<u8>, to: To) {
    match to.framing {
        Framing::Extended => chunk_header(out, to, chunk::FLAG_DONE, chunk::NONE, 0),
        _ => simple(out, to.cookie, 0),
    }
}

/// End of a read that has no data: structured replies MUST NOT be simple for reads.
pub fn read_done(out: &mut Vec<u8>, to: To) {
    match to.framing {
        Framing::Simple => simple(out, to.cookie, 0),
        _ => chunk_header(out, to, chunk::FLAG_DONE, chunk::NONE, 0),
    }
}

/// Failure of any request; ends its reply.
pub fn error(out: &mut Vec<u8>, to: To, errno: Errno, message: &str) {
    if to.framing == Framing::Simple {
        return simple(out, to.cookie, errno as u32);
    }
    let message = clip(message);
    let length = u16::try_from(message.len()).expect("invariant: messages are clipped");
    chunk_header(out, to, chunk::FLAG_DONE, chunk::ERROR, 6 + u32::from(length));
    out.extend_from_slice(&(errno as u32).to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message.as_bytes());
}

/// What stands before `length` bytes of data read at `at`. Simple replies have one such part, for
/// the whole request; of chunks the last one is marked.
pub fn data(out: &mut Vec<u8>, to: To, at: u64, length: u32, last: bool) {
    if to.framing == Framing::Simple {
        return simple(out, to.cookie, 0);
    }
    chunk_header(out, to, done_flag(last), chunk::OFFSET_DATA, 8 + length);
    out.extend_from_slice(&at.to_be_bytes());
}

/// `length` bytes from `at` on read as zeroes. Not for simple replies.
pub fn hole(out: &mut Vec<u8>, to: To, at: u64, length: u32, last: bool) {
    chunk_header(out, to, done_flag(last), chunk::OFFSET_HOLE, 12);
    out.extend_from_slice(&at.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// Extents of `base:allocation`; ends its reply. Lengths of the compact kind have 32 bits, and
/// its requests cannot be longer; should one be, the status stops where they end.
pub fn block_status(out: &mut Vec<u8>, to: To, extents: &[Extent]) {
    let extended = to.framing == Framing::Extended;
    let (kind, fixed, each) =
        if extended { (chunk::BLOCK_STATUS_EXT, 8, 16) } else { (chunk::BLOCK_STATUS, 4, 8) };
    let count = u32::try_from(extents.len()).expect("invariant: extents are bounded");
    chunk_header(out, to, chunk::FLAG_DONE, kind, fixed + each * count);
    out.extend_from_slice(&ALLOCATION_CONTEXT_ID.to_be_bytes());
    if extended {
        out.extend_from_slice(&count.to_be_bytes());
    }
    for extent in extents {
        let hole = if extent.hole { state::HOLE } else { 0 };
        let zero = if extent.zero { state::ZERO } else { 0 };
        if extended {
            out.extend_from_slice(&extent.length_bytes.to_be_bytes());
            out.extend_from_slice(&u64::from(hole | zero).to_be_bytes());
        } else {
            let length = u32::try_from(extent.length_bytes)
                .expect("invariant: compact requests are shorter than 4 GiB");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&(hole | zero).to_be_bytes());
        }
    }
}

fn done_flag(last: bool) -> u16 {
    if last { chunk::FLAG_DONE } else { 0 }
}

fn simple(out: &mut Vec<u8>, cookie: u64, errno: u32) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&errno.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&bytes);
}

fn chunk_header(out: &mut Vec<u8>, to: To, flags: u16, kind: u16, length: u32) {
    let extended = to.framing == Framing::Extended;
    let magic = if extended { wire::EXTENDED_REPLY_MAGIC } else { wire::STRUCTURED_REPLY_MAGIC };
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&magic.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&to.cookie.to_be_bytes());
    if extended {
        bytes[16..24].copy_from_slice(&to.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&u64::from(length).to_be_bytes());
        out.extend_from_slice(&bytes);
    } else {
        bytes[16..20].copy_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&bytes[..20]);
    }
}
