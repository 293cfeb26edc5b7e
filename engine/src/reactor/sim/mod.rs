//! The simulated twin of the ring: a world of one seed, with virtual time, disks and sockets that
//! fail as told.
//!
//! Everything that happens in a [`World`] follows from its seed, its options and what the program
//! does: the same in every build, every process, every run. [`World::trace_hash`] proves it.
//!
//! # Fault model
//! Without faults, a world is a machine that keeps its promises, and no others:
//! - Device operations take a random time and so end in any order. A write takes effect as a whole
//!   when it ends; overlapping ones in the order they end.
//! - A write without `sync` that ended is read back, but is volatile. A sync makes durable what
//!   ended before the sync was submitted. A sync write makes its own bytes durable, no others.
//! - [`Crash::Kill`]: processes and sockets are gone. What ended stays as it was, volatile or
//!   durable; each write in flight has happened not at all, whole, or up to some block, and is
//!   volatile.
//! - [`Crash::PowerLoss`]: as a kill, and of everything volatile or in flight any subset of
//!   512-byte sectors survives, each with any of its volatile versions. What was durable stays.
//! - Sockets deliver bytes in order, each once, after a random time, in pieces cut anywhere.
//!   What the sender's end took may still be lost with the connection.
//! - The clock jumps to the next thing that happens. A turn takes at least 100 ns.
//!
//! Faults, each counted in [`World::faults`] when it is injected, and none beyond what it says:
//!
//! - `ReadError` fails a read and scribbles on its buffer. `BadBlock` fails every read of a block
//!   until it is written. Neither changes the disk.
//! - `WriteError` fails a write, of which any subset of sectors lands, volatile. `ShortError` fails
//!   a read or write, of which blocks up to some point are transferred, volatile. `Full` fails a
//!   write that needs a block never written before; blocks before that may land, volatile. None
//!   touches another sector.
//! - `SyncLost` fails a sync: what it was for reads back until it is written again, and the next
//!   power loss takes it for certain, whatever is synced later. `SyncReverted` fails a sync: any
//!   subset of the blocks it was for is as it was durable. `SyncLied` reports a sync or a sync
//!   write done that was not; a later sync makes up for it. None changes what was durable.
//! - `MisdirectedWrite` puts a sync write elsewhere on the disk, whole, and leaves its own place as
//!   it was. `MisdirectedRead` reads from elsewhere. Neither touches a third place.
//! - `BitRot`, `Garbage`, `Zeroed` and `Stale` change one bit or one sector at rest, durable or
//!   not. With `MisdirectedWrite` the only ones that damage what was durable; never a spared range.
//! - `Short` lets the first blocks of an operation take effect before the rest. It does not fail.
//! - `Stall` delays an operation by up to `stall_max`, `NetStall` bytes and what is behind them.
//! - `NetSplit` cuts what is handed over at any byte. `NetCut` resets a connection, and what is on
//!   its way is lost: a receiver has a beginning of what was sent, then an error.
//! - `NetGarble` changes one bit of what is sent over TCP: its checksum does not find everything.
//! - `Torn` and `NetFull` are part of the promises above, counted to show that they were met: a
//!   power loss took something, a sender waited for room.
//!
//! # Machines
//! A [`Machine`] is a host of its own, in the turns of one reactor: with a clock that starts where
//! it likes and is faster or slower than the world's, and disks that the world's user says are its.
//! - It is killed or loses its power alone. Killed: its kernel closes its sockets. Without power:
//!   whoever it was connected to hears nothing until the host is there again; then connections of
//!   its former life are reset.
//! - It is paused: no task runs, no timer fires; disks and sockets go on.
//! - Cuts, from host to host and so perhaps one way only: bytes, ends of streams and new
//!   connections stay on the way until the cut is lifted. Nothing is lost by a cut alone.
//!
//! Damage at rest lies over the disk as it should be: [`SimDisk::heal`] lifts it, and
//! [`SimDisk::corruptions`] tells of each whether it was read or overwritten since.
//!
//! One thread. Another thread may ring the doorbell, but the world does not wait for it: where
//! nothing more can happen it panics and says so.
//! Must never know: what the disks hold, what the streams say.

mod backend;
mod device;
mod disk;
mod events;
mod faults;
mod inject;
mod ledger;
mod link;
mod machine;
mod medium;
mod net;
mod stream;
mod trace;
mod world;

pub use disk::{Damage, Image, SimDisk};
pub use faults::{Chance, DiskFaults, FaultCounts, FaultId, FaultKind, Latency, NetFaults};
pub use ledger::Corruption;
pub use machine::{Host, Machine, MachineOptions};
pub use world::{Crash, Stop, World, WorldOptions};
