//! The NBD server over a real reactor, seen by a raw client and by other people's programs.
mod client;
mod handshake;
mod harness;
mod interop;
mod limits;
mod model;
mod past_killers;
mod pieces;
mod transmission;
