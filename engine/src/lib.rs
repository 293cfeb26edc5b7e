//! Ashlar's storage engine: durable, thin, log-structured volumes in one file or block device.
//!
//! ```
//! use ashlar_engine::{StoreOptions, blocking::Store};
//!
//! fn main() -> ashlar_engine::Result<()> {
//!     let path = std::env::temp_dir().join(format!("ashlar-doc-{}.store", std::process::id()));
//!     let store = Store::open(StoreOptions::new(&path).create(256 << 20))?;
//!     let volume = store.create_volume("vm0", 1 << 30)?;
//!     volume.write(4096, b"durable when this returns")?;
//!     assert_eq!(volume.read(4096, 7)?, b"durable");
//!     assert_eq!(volume.read(1 << 20, 4)?, [0; 4]);
//!     volume.trim(0, 1 << 20)?;
//!     store.close()?;
//!     std::fs::remove_file(path).map_err(|_| ()).ok();
//!     Ok(())
//! }
//! ```
//!
//! [`Store`] and [`Volume`] are the same with futures, for any runtime. Every request is durable
//! when it returns; one of up to [`limits::ATOMIC_WRITE_MAX_BYTES`] is atomic, also across a power
//! cut. Underneath, [`store`] is the log-structured store without I/O, [`format`](mod@format) its
//! bytes, [`reactor`] the thread with its ring, and [`local`] a store on a reactor of one's own.

#[macro_use]
pub mod marks;

pub mod buffer;
mod embedded;
mod error;
pub mod format;
pub mod limits;
pub mod local;
pub mod reactor;
pub mod store;
pub mod units;

pub use embedded::{Store, StoreOptions, Volume, blocking};
pub use error::{Error, ErrorKind, Result};
