//! The seam to who can get what is damaged here from other members.

use ashlar_engine::reactor::LocalBox;
use ashlar_engine::units::{BlockIndex, VolumeId};
use std::cell::RefCell;
use std::rc::Rc;

/// Gets what is damaged here from other members.
pub trait Mender {
    /// Repairs damaged entries of the log. False: not all of them.
    fn entries(&self) -> LocalBox<bool>;

    /// Mends damaged blocks of a volume. False: not all of them.
    fn blocks(&self, volume: VolumeId, first: BlockIndex, count: u64) -> LocalBox<bool>;
}

/// The mender, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Mending(RefCell<Option<Rc<dyn Mender>>>);

impl Mending {
    pub(crate) fn set(&self, mender: Rc<dyn Mender>) {
        self.0.replace(Some(mender));
    }

    pub(crate) async fn entries(&self) -> bool {
        let mender = self.0.borrow().clone();
        match mender {
            Some(mender) => mender.entries().await,
            None => false,
        }
    }

    pub(crate) async fn blocks(&self, volume: VolumeId, first: BlockIndex, count: u64) -> bool {
        let mender = self.0.borrow().clone();
        match mender {
            Some(mender) => mender.blocks(volume, first, count).await,
            None => false,
        }
    }
}
