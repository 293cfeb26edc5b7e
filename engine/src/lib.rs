//! Ashlar's storage engine.
pub mod buffer;
mod error;
pub mod format;
pub mod limits;
pub mod local;
pub mod reactor;
pub mod store;
pub mod units;

pub use error::{Error, ErrorKind, Result};
