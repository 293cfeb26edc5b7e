//! NBD server over Ashlar volumes.
//!
//! [`proto`] is the protocol as state machines over bytes, [`export`] the seam to what is served,
//! [`server`] ties both to a reactor. Nothing here knows how a volume stores its blocks; nothing
//! in `proto` knows sockets, tasks or clocks.
//!
//! ```no_run
//! use ashlar_engine::reactor::{Address, Reactor, ReactorOptions};
//! use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
//! use ashlar_nbd_server::{Server, ServerOptions};
//! use std::rc::Rc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! Reactor::run(ReactorOptions::default(), |reactor| async move {
//!     let export = MemoryExport::new("memory", 1 << 30, reactor.pool().clone());
//!     let exports = Rc::new(MemoryExports::new([export]));
//!     let server = Server::new(reactor, exports, ServerOptions::default());
//!     server.listen(&Address::Tcp("127.0.0.1:10809".parse()?))?;
//!     std::future::pending().await
//! })?
//! # }
//! ```
mod cluster_export;
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
mod volume_export;

pub use cluster_export::{ClusterExport, ClusterExports};
pub use export::{Export, ExportInfo, Exports, Extent, ReadData};
pub use server::{Counters, Server, ServerOptions};
pub use volume_export::{VolumeExport, VolumeExports};
