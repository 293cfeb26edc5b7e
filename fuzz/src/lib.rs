//! Fuzz targets: one module per decoder, each with `target(data)`, which panics when something
//! is wrong. `tests/replay.rs` runs every input in `corpus/` through its target.

mod input;
pub mod nbd_handshake;
pub mod nbd_session;
pub mod nbd_transmission;
mod pipe;

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, fn(&[u8])); 3] = [
    ("nbd_handshake", nbd_handshake::target),
    ("nbd_session", nbd_session::target),
    ("nbd_transmission", nbd_transmission::target),
];
