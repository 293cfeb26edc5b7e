//! Runs `nbd_transmission` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ashlar_fuzz::nbd_transmission::target(data));
