//! The laboratory: the whole stack of one machine, or of a cluster, in a simulated world, against
//! an oracle.
//!
//! A seed makes a world, a [`plan`] of trouble, a store on a disk, an NBD server on it and clients;
//! the store lives and crashes many times, and after each restart all of it is looked through.
//! Or it makes machines, a node of a cluster on each, and a [`cluster::nemesis`] that takes them
//! down, stops them and cuts them off while clients go from one to another.
//! What was asked and seen is kept in a [`history`], and judged by the [`invariants`].

pub mod client;
pub mod cluster;
pub mod harm;
pub mod history;
pub mod inspect;
pub mod invariants;
pub mod lab;
pub mod life;
pub mod notes;
pub mod plan;
pub mod program;
pub mod register;
pub mod sector;
pub mod seed;
pub mod volume;
pub mod workload;
