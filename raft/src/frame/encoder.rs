//! The sending side: frames become the bytes of a [`Message`], many in one.
//!
//! Must never know: sockets, when it is wise to send.

use super::header::Header;
use super::limits::{PART_MAX_BYTES, PAYLOAD_MAX_BYTES, VERSION_OF_HELLO};
use super::{Envelope, Kind, part_charge};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{Message, Part};

/// What is too long for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// The head.
    Head {
        /// Longest.
        max: usize,
        /// This one's bytes.
        found: usize,
    },
    /// A part.
    Part {
        /// Longest.
        max: usize,
        /// This one's bytes.
        found: usize,
    },
    /// All parts together, in whole blocks.
    Payload {
        /// Most.
        max: usize,
        /// This one's bytes.
        found: usize,
    },
}

/// Whether a frame of this kind can hold this head and payload.
///
/// # Errors
/// What is too long.
pub fn check_size(kind: Kind, head: &[u8], payload: &[Buffer]) -> Result<(), Oversize> {
    let max = kind.head_max_bytes();
    if head.len() > max {
        return Err(Oversize::Head { max, found: head.len() });
    }
    if let Some(part) = payload.iter().find(|part| part.len() > PART_MAX_BYTES) {
        return Err(Oversize::Part { max: PART_MAX_BYTES, found: part.len() });
    }
    let max = if kind.has_payload() { PAYLOAD_MAX_BYTES } else { 0 };
    let found = payload.iter().map(|part| part_charge(part.len())).sum();
    if found > max { Err(Oversize::Payload { max, found }) } else { Ok(()) }
}

/// Numbers and encodes the frames of one direction.
#[derive(Debug)]
pub struct Encoder {
    version: u16,
    sequence: u64,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { version: VERSION_OF_HELLO, sequence: 0 }
    }
}

impl Encoder {
    /// Frames are of this version from now on.
    pub fn set_version(&mut self, version: u16) {
        self.version = version;
    }

    /// Appends a frame to `into`.
    ///
    /// # Panics
    /// If [`check_size`] refuses it.
    pub fn encode(
        &mut self,
        envelope: &Envelope,
        head: &[u8],
        payload: Vec<Buffer>,
        into: &mut Message,
    ) {
        assert_eq!(check_size(envelope.kind, head, &payload), Ok(()), "the caller checks");
        let mut table = Vec::with_capacity(payload.len() * size_of::<u32>());
        let mut payload_sum = crc32fast::Hasher::new();
        for part in &payload {
            let length = u32::try_from(part.len()).expect("invariant: parts were checked");
            table.extend_from_slice(&length.to_le_bytes());
            payload_sum.update(part);
        }
        let mut head_sum = crc32fast::Hasher::new();
        head_sum.update(head);
        head_sum.update(&table);
        let header = Header {
            version: self.version,
            sequence: self.sequence,
            envelope: *envelope,
            head_bytes: head.len(),
            parts: payload.len(),
            payload_bytes: payload.iter().map(|part| part.len()).sum(),
            head_checksum: head_sum.finalize(),
            payload_checksum: payload_sum.finalize(),
        };
        self.sequence += 1;
        let before = into.head.len();
        into.head.extend_from_slice(&header.encode());
        into.head.extend_from_slice(head);
        into.head.extend_from_slice(&table);
        let added = into.head.len() - before;
        match into.parts.last_mut() {
            Some(Part::Head(count)) => *count += added,
            _ => into.parts.push(Part::Head(added)),
        }
        into.parts.extend(payload.into_iter().filter(|part| !part.is_empty()).map(Part::Payload));
    }
}
