//! Syscalls per request: the noise-free guard of the hot path.
//!
//! Goal: parsing in batches, one send per turn and group commit stay as they are. Method: strace
//! counts while the raw client writes; counts do not depend on the machine's speed. The bounds are
//! a little wider than those of `docs/benchmarks.md`, because a young store also prepares its
//! segments.

use std::io::Write;
use std::process::Command;

use ashlar_benches::program;
use ashlar_benches::table::Workplace;
use ashlar_benches::table::servers::Ashlar;
use ashlar_benches::table::syscalls::{NOT_ALLOWED, count};

const VOLUME_BYTES: u64 = 128 << 20;

fn skip(test: &str, need: &str) {
    let line = format!("skipped: {test} needs {need}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Whether strace is there; a machine that should have it fails.
fn has_strace(test: &str) -> bool {
    let has = Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    if !has {
        skip(test, "strace");
        let required = std::env::var_os("ASHLAR_REQUIRE_TOOLS").is_some_and(|v| v == "1");
        assert!(!required, "{test} needs strace, and ASHLAR_REQUIRE_TOOLS=1");
    }
    has
}

#[test]
fn syscalls_per_write_stay_few() {
    if !has_strace("syscalls_per_write_stay_few") {
        return;
    }
    let place = Workplace::new(&std::env::temp_dir()).unwrap();
    let ashlar = Ashlar {
        program: program::build().unwrap(),
        store: place.path().join("store"),
        store_bytes: VOLUME_BYTES * 4,
        volume_bytes: VOLUME_BYTES,
    };
    let server = ashlar.start().unwrap();
    for (depth, bound) in [(64, 0.20), (1, 3.2)] {
        let counted = match count(&server, place.path(), depth, VOLUME_BYTES) {
            Err(error) if error == NOT_ALLOWED => {
                return skip("syscalls_per_write_stay_few", "the right to trace other processes");
            }
            counted => counted.unwrap(),
        };
        assert!(counted <= bound, "{counted} syscalls per write at depth {depth}, not {bound}");
    }
}
