//! Answers between nodes: what was done, or why not and whom to ask instead.
//!
//! version u8, then 0 and what was asked for; or 1 and the leader's store u64, 0 if nobody knows;
//! or 2 (refused) or 3 (its fate is unknown) with the error's kind u8 and its text.
//! Must never know: what was asked.

use super::message::VERSION;
use crate::placement::StoreId;
use crate::types::encoding::{Bytes, EncodingError};
use ashlar_engine::local::Extent;
use ashlar_engine::store::Mapping;
use ashlar_engine::{Error, ErrorKind};

/// Bytes of a text in an answer.
const TEXT_MAX_BYTES: usize = 512;

/// Why something was not done, by what to do about it.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// This node does not lead the group: nothing has happened. Who does, as far as it knows.
    NotLeader(Option<StoreId>),
    /// Nothing has happened, and asking again does not help.
    Refused(Error),
    /// It may have happened, or may yet.
    Unknown(Error),
}

/// What came of it.
pub(super) type Answer<T> = std::result::Result<T, Fault>;

const DONE: u8 = 0;
const NOT_LEADER: u8 = 1;
const REFUSED: u8 = 2;
const UNKNOWN: u8 = 3;

const KINDS: [ErrorKind; 9] = [
    ErrorKind::Failed, // Also what is not known.
    ErrorKind::Invalid,
    ErrorKind::NotFound,
    ErrorKind::Exists,
    ErrorKind::Busy,
    ErrorKind::NoSpace,
    ErrorKind::Corrupt,
    ErrorKind::Device,
    ErrorKind::Closed,
];

/// The bytes of an answer.
pub(super) fn encode(answer: Answer<Vec<u8>>) -> Vec<u8> {
    let mut into = vec![VERSION];
    match answer {
        Ok(bytes) => {
            into.push(DONE);
            into.extend(bytes);
        }
        Err(Fault::NotLeader(leader)) => {
            into.push(NOT_LEADER);
            into.extend(leader.map_or(0, |store| store.0).to_le_bytes());
        }
        Err(Fault::Refused(error)) => put_error(REFUSED, &error, &mut into),
        Err(Fault::Unknown(error)) => put_error(UNKNOWN, &error, &mut into),
    }
    into
}

fn put_error(code: u8, error: &Error, into: &mut Vec<u8>) {
    let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0);
    let text = error.to_string();
    into.extend([code, kind as u8]);
    into.extend(&text.as_bytes()[..text.floor_char_boundary(TEXT_MAX_BYTES)]);
}

/// What [`encode`] made these bytes of.
pub(super) fn decode(bytes: &[u8]) -> Answer<&[u8]> {
    let unknown = |error: EncodingError| {
        let why = format!("a node's answer is not understood: {error}");
        Fault::Unknown(Error::new(ErrorKind::Failed, why))
    };
    let mut taken = Bytes::of_version(VERSION, bytes).map_err(unknown)?;
    match taken.u8().map_err(unknown)? {
        DONE => Ok(taken.rest()),
        NOT_LEADER => {
            let leader = taken.u64().map_err(unknown)?;
            Err(Fault::NotLeader((leader > 0).then_some(StoreId(leader))))
        }
        code => {
            let kind = taken.u8().map_err(unknown)?;
            let kind = KINDS.get(usize::from(kind)).copied().unwrap_or(ErrorKind::Failed);
            let error = Error::new(kind, String::from_utf8_lossy(taken.rest()));
            Err(if code == REFUSED { Fault::Refused(error) } else { Fault::Unknown(error) })
        }
    }
}

/// Extents, as an answer.
pub(super) fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let mut into = Vec::with_capacity(9 * extents.len());
    for extent in extents {
        into.extend(extent.length_bytes.to_le_bytes());
        into.push(match extent.mapping {
            Mapping::Hole => 0,
            Mapping::Reserved => 1,
            Mapping::Data => 2,
        });
    }
    into
}

/// What [`encode_extents`] made these bytes of: at least one extent.
pub(super) fn decode_extents(bytes: &[u8]) -> std::result::Result<Vec<Extent>, EncodingError> {
    let (whole, rest) = bytes.as_chunks::<9>();
    if whole.is_empty() || !rest.is_empty() {
        return Err(EncodingError::Short { expected: 9, found: rest.len() });
    }
    let extent = |bytes: &[u8; 9]| {
        let (length, kind) = bytes.split_at(8);
        let mut length_bytes = [0; 8];
        length_bytes.copy_from_slice(length);
        let mapping = match kind[0] {
            0 => Mapping::Hole,
            1 => Mapping::Reserved,
            2 => Mapping::Data,
            found => return Err(EncodingError::Kind { of: "extent", found }),
        };
        Ok(Extent { length_bytes: u64::from_le_bytes(length_bytes), mapping })
    };
    whole.iter().map(extent).collect()
}
