//! A short run against a cluster; `cargo run --release -p ashlar-jepsen -- cluster` is the long
//! one.

use std::time::Duration;

use ashlar_jepsen::cluster::{NODES, Nodes, run};
use ashlar_jepsen::rounds::Options;
use ashlar_jepsen::server::Kind;
use ashlar_jepsen::temporary::TemporaryDirectory;

use crate::bad_input::ashlar;

#[test]
fn nodes_that_die_lose_nothing_and_clients_of_others_see_no_error() {
    let directory = TemporaryDirectory::new("cluster").unwrap();
    let options = Options {
        kind: Kind::Ashlar,
        rounds: 3,
        seed: 1,
        connections: 3,
        volumes: 1,
        volume_bytes: 24 << 20,
        store_bytes: None,
        load: (Duration::from_millis(50), Duration::from_millis(600)),
        arguments: Vec::new(),
        verbose: false,
    };
    let (outcome, _) = run(directory.path(), &options).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_clean(), "{outcome:#?}");
    assert!(outcome.acknowledged > 0 && outcome.reads > 0, "{outcome:#?}");
}

/// All nodes die at once, before anything but their logs is durable.
#[test]
fn a_cluster_goes_on_after_all_its_nodes_died() {
    let directory = TemporaryDirectory::new("alldie").unwrap();
    let nodes = Nodes::start(directory.path(), &[("vm0".to_owned(), 16 << 20)]).unwrap();
    let bytes = vec![7u8; 8192];
    nodes.connect(1, "vm0").unwrap().write(4096, &bytes).unwrap();
    (0..NODES).for_each(|node| nodes.kill(node).unwrap());
    (0..NODES).for_each(|node| nodes.restart(node).unwrap());
    nodes.await_whole().unwrap();
    let mut found = vec![0u8; 8192];
    nodes.connect(2, "vm0").unwrap().read(4096, &mut found).unwrap();
    assert_eq!(found, bytes);
    let path = |leaf: String| directory.path().join(leaf).to_str().unwrap().to_owned();
    let checked = |arguments: &[&str]| {
        let output = ashlar(arguments);
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["sound"], true, "{report}");
        assert!(report["checked_bytes"].as_u64() >= Some(8192), "{report}");
    };
    (1..=NODES).for_each(|node| {
        checked(&["scrub", "--json", "--store", &path(format!("node{node}.store"))]);
    });
    (0..NODES).for_each(|node| nodes.kill(node).unwrap());
    // What a node holds is checked as the volumes of a single store are.
    (1..=NODES).for_each(|node| checked(&["check", "--json", &path(format!("node{node}.store"))]));
}
