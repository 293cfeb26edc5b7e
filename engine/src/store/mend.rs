//! Mending: a block that does not prove itself is written anew, with what another copy of it says.
//!
//! Invariant: a block is mended only as long as the index points to where it was found damaged;
//! what was written since stays.
//! Must never know: where the other copy is, who vouches for it.

use super::Store;
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Record, RecordKind};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Location, VolumeId};

/// Where a block is: for [`super::Request::Mend`], and to tell whether it was written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(Location);

impl Place {
    /// Where on the device, in bytes.
    #[must_use]
    pub fn offset_bytes(self) -> u64 {
        self.0.offset_bytes()
    }
}

impl Store {
    /// Where a block's bytes are; `None` if it has none.
    #[must_use]
    pub fn place(&self, volume: VolumeId, block: BlockIndex) -> Option<Place> {
        let (place, _) = self.index.lookup(volume, block).place?;
        (place != super::leaf::RESERVED).then_some(Place(place))
    }

    pub(super) fn mend(
        &mut self,
        token: u64,
        volume: VolumeId,
        block: BlockIndex,
        place: Place,
        data: Buffer,
    ) -> Result<()> {
        if data.len() != BLOCK_SIZE_BYTES {
            return Err(Error::new(ErrorKind::Invalid, "a block is mended at a time"));
        }
        if self.spent {
            return Err(self.no_segment());
        }
        if self.place(volume, block) != Some(place) {
            // It was written meanwhile.
            self.reply(token, Ok(super::Outcome::Done));
            return Ok(());
        }
        self.counters.mended_blocks += 1;
        let Place(source) = place;
        let record = Record::plain(RecordKind::Relocation, volume, block, 1, source);
        self.push_record(Some(token), record, Some(data));
        Ok(())
    }
}
