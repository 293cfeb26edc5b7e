//! Fuzz targets: one module per decoder, each with `target(data)`, which panics when something
//! is wrong. `tests/replay.rs` runs every input in `corpus/` through its target.

mod device;
pub mod engine_format;
pub mod engine_recovery;
mod input;
pub mod nbd_handshake;
pub mod nbd_session;
pub mod nbd_transmission;
mod pipe;
pub mod raft_control;
pub mod raft_frame;
pub mod raft_messages;

/// Runs one input; panics if something is wrong.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("engine_batch", engine_format::batch),
    ("engine_chunk", engine_format::chunk),
    ("engine_groups", engine_format::groups),
    ("engine_recovery", engine_recovery::target),
    ("engine_root", engine_format::root),
    ("engine_segment", engine_format::segment),
    ("engine_superblock", engine_format::superblock),
    ("nbd_handshake", nbd_handshake::target),
    ("nbd_session", nbd_session::target),
    ("nbd_transmission", nbd_transmission::target),
    ("raft_control", raft_control::target),
    ("raft_frame", raft_frame::target),
    ("raft_messages", raft_messages::target),
];
