//! What the laboratory knows of a volume.
//!
//! Must never know: how requests travel.

use crate::history::History;
use std::cell::{Cell, RefCell};

/// Whether a volume exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its creation was asked for.
    Creating,
    /// It does.
    There,
    /// Its deletion was asked for.
    Deleting,
    /// It does not.
    Gone,
}

/// One life of a volume name.
#[derive(Debug)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it exists, as far as was answered.
    pub presence: Cell<Presence>,
    /// What was asked of it and seen in it.
    pub history: RefCell<History>,
}

impl Volume {
    /// A volume whose creation is about to be asked for.
    #[must_use]
    pub fn new(name: &str, life: u64, size_bytes: u64) -> Volume {
        let sectors = size_bytes / crate::sector::SECTOR_BYTES as u64;
        Volume {
            name: name.to_owned(),
            size_bytes,
            presence: Cell::new(Presence::Creating),
            history: RefCell::new(History::new(life, sectors)),
        }
    }

    /// Sectors of it.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.size_bytes / crate::sector::SECTOR_BYTES as u64
    }
}
