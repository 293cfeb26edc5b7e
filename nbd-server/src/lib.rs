//! NBD server over Ashlar volumes.
//!
//! [`proto`] is the protocol as state machines over bytes, [`export`] the seam to what is served,
//! [`server`] and [`session`] tie both to a reactor. Nothing here knows how a volume stores its
//! blocks; nothing in `proto` knows sockets, tasks or clocks.
pub mod conformance;
pub mod export;
mod flow;
pub mod limits;
pub mod memory;
mod outgoing;
pub mod proto;
mod serve;
pub mod server;
mod session;

pub use export::{Export, ExportInfo, Exports, Extent, ReadData};
pub use server::{Counters, Server, ServerOptions};
