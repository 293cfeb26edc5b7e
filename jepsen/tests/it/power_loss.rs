//! Short runs of power loss; `cargo run --release -p ashlar-jepsen -- power-loss` is the long one.

use std::time::Duration;

use ashlar_jepsen::power_loss::{run, run_lying};
use ashlar_jepsen::rounds::Options;
use ashlar_jepsen::server::Kind;
use ashlar_jepsen::temporary::TemporaryDirectory;

use crate::tools::{is_ashlar, may_use_fuse};

fn options(seed: u64, rounds: u64) -> Options {
    Options {
        kind: Kind::Ashlar,
        rounds,
        seed,
        connections: 4,
        volumes: 2,
        volume_bytes: 24 << 20,
        store_bytes: Some(128 << 20),
        load: (Duration::from_millis(20), Duration::from_millis(300)),
        arguments: Vec::new(),
        verbose: false,
    }
}

#[test]
fn power_loss_loses_nothing() {
    let test = "power_loss_loses_nothing";
    if !is_ashlar(test) || !may_use_fuse(test) {
        return;
    }
    let directory = TemporaryDirectory::new("power").unwrap();
    let run = run(directory.path(), &options(1, 6));
    let (outcome, counts) = run.unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_clean(), "{outcome:#?}");
    assert!(outcome.acknowledged > 0 && outcome.reads > 0, "{outcome:#?}");
    assert!(counts.cuts >= 6 && counts.durable_writes > 0, "{counts:?}");
}

/// A judge that never convicts is worth nothing: a disk that loses what it promised must be found
/// out. What is left must be right or refused all the same.
#[test]
fn a_lying_disk_is_found_out() {
    let test = "a_lying_disk_is_found_out";
    if !is_ashlar(test) || !may_use_fuse(test) {
        return;
    }
    let lies = run_lying(&options(2, 6)).unwrap_or_else(|error| panic!("{error}"));
    assert!(lies.acknowledged > 0, "{lies:#?}");
    assert!(lies.lost > 0 || lies.refused > 0, "nobody saw a loss: {lies:#?}");
    assert_eq!(lies.violations, 0, "{lies:#?}");
}
