//! Short runs with nodes as on real hosts; `cargo run --release -p ashlar-jepsen -- partitions`,
//! `rolling` and `rebuild` are the long ones.

use std::time::Duration;

use ashlar_jepsen::fleet::{Fleet, NODES, Plan};
use ashlar_jepsen::network::Network;
use ashlar_jepsen::partitions::{self, Cut};
use ashlar_jepsen::rounds::Options;
use ashlar_jepsen::server::Kind;
use ashlar_jepsen::temporary::TemporaryDirectory;
use ashlar_jepsen::{rebuild, rolling};

use crate::tools::may_cut;

fn options(seed: u64, rounds: u64, volumes: u64) -> Options {
    Options {
        kind: Kind::Ashlar,
        rounds,
        seed,
        connections: 3,
        volumes,
        volume_bytes: 16 << 20,
        store_bytes: Some(2 << 30),
        load: (Duration::from_millis(50), Duration::from_millis(400)),
        arguments: Vec::new(),
        verbose: false,
    }
}

#[test]
fn cut_links_lose_nothing_and_clients_of_a_majority_see_no_error() {
    if !may_cut("cut_links_lose_nothing_and_clients_of_a_majority_see_no_error") {
        return;
    }
    let directory = TemporaryDirectory::new("parts").unwrap();
    let ran = partitions::run(directory.path(), &options(2, 1, 1));
    let (outcome, report) = ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_clean(), "{outcome:#?}\n{report:#?}");
    assert!(outcome.acknowledged > 0 && outcome.reads > 0, "{outcome:#?}");
    assert_eq!(report.cuts.values().sum::<u64>(), 1, "{report:#?}");
}

/// A cut that cuts nothing would leave every run clean: who is alone must not be answered, and must
/// be again when the link is mended.
#[test]
fn a_node_that_is_alone_answers_nobody_until_its_links_are_mended() {
    if !may_cut("a_node_that_is_alone_answers_nobody_until_its_links_are_mended") {
        return;
    }
    let directory = TemporaryDirectory::new("alone").unwrap();
    let plan = Plan { volumes: vec![("vm0".to_owned(), 16 << 20)], ..Plan::default() };
    let network = Network::new(NODES).unwrap_or_else(|error| panic!("{error}"));
    let fleet = Fleet::start(directory.path(), Some(network), &plan);
    let fleet = fleet.unwrap_or_else(|error| panic!("{error}"));
    let mut connection = fleet.connect(2, "vm0").unwrap();
    connection.write(0, &[1; 4096]).unwrap();
    fleet.network().unwrap().cut(&Cut::Isolate(2).directions()).unwrap();
    let (sender, answered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(connection.write(0, &[2; 4096])));
        let early = answered.recv_timeout(Duration::from_secs(4));
        assert!(early.is_err(), "a write through a node that is alone: {early:?}");
        // The majority takes over, and knows nothing of that write.
        let mut found = [0u8; 4096];
        fleet.connect(0, "vm0").unwrap().read(0, &mut found).unwrap();
        assert_eq!(found, [1; 4096]);
        fleet.network().unwrap().heal().unwrap();
        let late = answered.recv_timeout(Duration::from_secs(40)).unwrap();
        assert_eq!(late, Ok(()), "after the links were mended");
    });
    fleet.await_whole().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn restarts_of_all_nodes_in_order_are_seen_by_no_client_of_others() {
    let directory = TemporaryDirectory::new("roll").unwrap();
    let ran = rolling::run(directory.path(), &options(3, 1, NODES as u64));
    let (outcome, report) = ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_clean(), "{outcome:#?}\n{report:#?}");
    assert!(outcome.acknowledged > 0 && report.reconnects > 0, "{outcome:#?}\n{report:#?}");
    assert_eq!(report.restarts, NODES as u64);
}

#[test]
fn a_node_that_lost_its_store_gets_it_back_under_load() {
    let directory = TemporaryDirectory::new("rebuild").unwrap();
    let options = rebuild::Options { mib: 32, before: Duration::from_secs(1), seed: 1 };
    let report = rebuild::run(directory.path(), &options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.errors, 0, "{report:#?}");
    let counts = [report.before, report.during].map(|seen| seen.map(|kind| kind.count > 0));
    assert_eq!(counts, [[true; 2]; 2], "{report:#?}");
}
