//! The laboratory: the whole stack of one machine in a simulated world, against an oracle.
//!
//! A seed makes a world, a [`plan`] of trouble, a store on a disk, an NBD server on it and clients;
//! the store lives and crashes many times, and after each restart all of it is looked through.
//! What was asked and seen is kept in a [`history`], and judged by the [`invariants`].

pub mod client;
pub mod harm;
pub mod history;
pub mod inspect;
pub mod invariants;
pub mod lab;
pub mod life;
pub mod plan;
pub mod program;
pub mod register;
pub mod sector;
pub mod seed;
pub mod volume;
pub mod workload;
