//! Runs `engine_recovery` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ashlar_fuzz::engine_recovery::target(data));
