//! A short kill -9 run; `cargo run -p ashlar-jepsen -- kill9` is the long one.

use std::time::Duration;

use ashlar_jepsen::kill9::run;
use ashlar_jepsen::rounds::Options;
use ashlar_jepsen::server::Kind;
use ashlar_jepsen::temporary::TemporaryDirectory;

use crate::tools::has;

fn options(seed: u64) -> Options {
    let kind = Kind::from_environment();
    Options {
        kind,
        rounds: 8,
        seed,
        connections: 4,
        volumes: if kind == Kind::Ashlar { 2 } else { 1 },
        volume_bytes: 24 << 20,
        store_bytes: Some(256 << 20),
        load: (Duration::from_millis(20), Duration::from_millis(400)),
        arguments: Vec::new(),
        verbose: false,
    }
}

#[test]
fn kill9_loses_nothing() {
    let directory = TemporaryDirectory::new("kill9").unwrap();
    let outcome = run(directory.path(), &options(1)).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_clean(), "{outcome:#?}");
    assert!(outcome.acknowledged > 0 && outcome.reads > 0, "{outcome:#?}");
}

/// A judge that never convicts is worth nothing: a server that forgets must be found out.
#[test]
fn a_forgetful_server_is_found_out() {
    if !has("a_forgetful_server_is_found_out", &["qemu-nbd"]) {
        return;
    }
    let directory = TemporaryDirectory::new("forget").unwrap();
    let mut options = options(2);
    options.kind = Kind::QemuNbd;
    options.volumes = 1;
    options.load = (Duration::from_millis(200), Duration::from_millis(400));
    options.arguments = vec!["--snapshot".to_owned()];
    let outcome = run(directory.path(), &options).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.violations > 0, "{outcome:#?}");
}
