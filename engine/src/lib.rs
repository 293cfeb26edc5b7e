//! Ashlar's storage engine.
pub mod buffer;
mod error;
pub mod limits;
pub mod reactor;
pub mod units;

pub use error::{Error, ErrorKind, Result};
