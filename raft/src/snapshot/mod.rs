//! Bringing a member up whose entries the others have given up.
//!
//! A snapshot is a group's state after one entry: what is kept with the applied index, and its
//! volumes' live blocks. It is not written down anywhere: [`Source`] reads the blocks while the
//! group goes on, so some are newer than the entry. That does no harm: whoever is brought up gets
//! every entry behind the snapshot's too, and those end with the same blocks; it is not asked for
//! its blocks, and cannot come to lead, before it has them. [`Installer`] puts what comes through
//! the member's own log, as entries of the engine, so that a crash at any point leaves either a
//! whole member or one that knows it is none.
//!
//! Invariants: a log that has the snapshot's last entry is never given up for the snapshot; a
//! member that is being brought up acknowledges nothing, and votes only for who has all that the
//! snapshot gives.
//! Must never know: who decides that a snapshot is needed.

mod install;
pub(crate) mod message;
mod pace;
mod pieces;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use install::{Installer, settle};
pub use pace::Pace;
pub use source::Source;
