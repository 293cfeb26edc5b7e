//! A whole cluster in a simulated world: real nodes with their openraft, stores, transport and NBD
//! servers, one on each of a few hosts, under clients that go from one to another.
//!
//! A seed forms a cluster, makes trouble in [`nemesis`] while [`clients`] write and read, heals
//! everything, and judges: what was acknowledged is there, replicas are alike, nobody who was
//! fenced wrote, nobody led in a term that another led in, and all came back.

pub mod clients;
pub mod lab;
pub mod nemesis;
mod plan;
pub mod rot;
pub mod run;
pub mod site;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod writers;

pub use plan::ClusterPlan;
pub use run::run;
