//! Runs `nbd_handshake` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ashlar_fuzz::nbd_handshake::target(data));
