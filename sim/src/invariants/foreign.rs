//! No foreign data: a sector shows zeroes, or one whole stamp of its own volume and address, from a
//! request that was really sent.

use super::Violation;
use crate::history::{Effect, Fate, History};
use crate::sector::Content;

/// The value that `content` stands for in the sector's history.
///
/// # Errors
/// If the sector can never have been meant to hold it.
pub fn judge(history: &History, address: u64, content: &Content) -> Result<u64, Violation> {
    let found = |what: String| {
        let why = format!("volume {} sector {address} holds {what}", history.volume);
        Err(Violation::new("foreign", why))
    };
    let stamp = match content {
        Content::Zero => return Ok(0),
        Content::Foreign(words) => return found(format!("no stamp: {words:x?}")),
        Content::Written(stamp) => stamp,
    };
    if (stamp.volume, stamp.address) != (history.volume, address) {
        return found(format!("another place's {stamp:?}"));
    }
    match history.op(stamp.sequence) {
        Some(op)
            if op.effect == Effect::Write
                && op.sectors.contains(&address)
                && op.fate != Fate::Refused =>
        {
            Ok(stamp.sequence)
        }
        Some(op) => found(format!("{stamp:?} of a request that was not: {op:?}")),
        None => found(format!("{stamp:?} of a request that never was")),
    }
}
