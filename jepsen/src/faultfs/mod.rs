//! A disk of our own that breaks on demand, as a file that any program can open.
//!
//! Fault model. An answered write is durable if it had to be (`O_DSYNC`), or with the next sync
//! that begins after it. When the power goes, of every other write any sectors of 512 bytes are
//! there, all, none, its beginning, its end or some, and no sector is ever half old and half new;
//! writes reach the disk in any order. The length of the file survives the same way. On
//! demand reads, writes and syncs fail, once or for ever, here or everywhere; what failed is there
//! in part. Bits flip, operations go astray, room ends, operations stall, and the disk may lie:
//! then durable writes and syncs do nothing, and only what a full cache pushed out is durable.
//! Not modelled: two writes under way to the same place (the later one wins).
//!
//! Must never know: what the program stores.

mod disk;
mod fault;
mod image;
mod mount;

pub use disk::{Counts, Disk};
pub use fault::{Effect, Fault, Operation};
pub use image::{SECTOR_SIZE_BYTES, Survival};
pub use mount::Mount;
