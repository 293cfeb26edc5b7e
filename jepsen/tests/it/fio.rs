//! fio writes and verifies, also across a kill of the server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ashlar_jepsen::Result;
use ashlar_jepsen::fleet::{Fleet, LAG_MAX, NODES, Plan, WHOLE_MAX};
use ashlar_jepsen::network::Network;
use ashlar_jepsen::partitions::Cut;
use ashlar_jepsen::temporary::TemporaryDirectory;

use crate::tools::{Place, command, has, may_cut};

const VOLUME_BYTES: u64 = 64 << 20;

/// Whether fio was built with its NBD engine.
fn has_engine(test: &str) -> bool {
    if !has(test, &["fio"]) {
        return false;
    }
    let listing = crate::tools::run("fio", &["--enghelp"]);
    assert!(listing.contains("nbd"), "this fio has no nbd engine:\n{listing}");
    true
}

fn fio(place: &Place, uri: &str, options: &[&str]) {
    fio_in(place.directory.path(), uri, options);
}

fn fio_in(directory: &Path, uri: &str, options: &[&str]) {
    let uri = format!("--uri={uri}");
    let mut arguments = vec!["--name=verify", "--ioengine=nbd", &uri, "--thread"];
    arguments.extend(["--verify=crc32c", "--verify_fatal=1", "--size=48M"]);
    arguments.extend(options);
    // fio leaves a state file in its working directory.
    let output = command("fio", &arguments).current_dir(directory).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fio {options:?}\n{stdout}\n{stderr}");
}

#[test]
fn fio_verifies_random_writes() {
    if !has_engine("fio_verifies_random_writes") {
        return;
    }
    let place = Place::new("fio", VOLUME_BYTES);
    let server = place.serve();
    let options = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--randseed=7"];
    fio(&place, &server.uri(), &[&options[..], &["--do_verify=1"]].concat());
    let uri = server.uri();
    server.kill().unwrap();
    let _server = place.serve();
    fio(&place, &uri, &[&options[..], &["--verify_only=1"]].concat());
}

#[test]
fn fio_verifies_mixed_sizes() {
    if !has_engine("fio_verifies_mixed_sizes") {
        return;
    }
    let place = Place::new("fiomix", VOLUME_BYTES);
    let server = place.serve();
    let split = "--bssplit=512/20:1k/10:4k/40:12k/10:64k/15:1m/5";
    fio(&place, &server.uri(), &["--rw=randwrite", split, "--iodepth=16"]);
    fio(&place, &server.uri(), &["--rw=rw", "--bs=128k", "--iodepth=8"]);
}

/// Goal: fio, which verifies all it writes, notices nothing of what happens to other nodes. Method:
/// it runs against one node again and again, while the leader and a follower are killed and come
/// back, and their links are cut and mended; the last run is verified through another node.
#[test]
fn fio_verifies_while_other_nodes_die_and_links_are_cut() {
    let test = "fio_verifies_while_other_nodes_die_and_links_are_cut";
    if !has_engine(test) || !may_cut(test) {
        return;
    }
    let directory = TemporaryDirectory::new("fioparts").unwrap();
    let plan = Plan { volumes: vec![("vm0".to_owned(), VOLUME_BYTES)], ..Plan::default() };
    let network = Network::new(NODES).unwrap_or_else(|error| panic!("{error}"));
    let fleet = Fleet::start(directory.path(), Some(network), &plan);
    let fleet = fleet.unwrap_or_else(|error| panic!("{error}"));
    let leader = fleet.leader().unwrap();
    let serving = (leader + 1) % NODES;
    let uri = fleet.uri(serving, "vm0");
    let done = AtomicBool::new(false);
    let options = ["--rw=randwrite", "--bssplit=4k/80:64k/15:1m/5", "--iodepth=16"];
    let last = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut seed = 0;
            while !done.load(Ordering::SeqCst) {
                seed += 1;
                let random = format!("--randseed={seed}");
                fio_in(
                    directory.path(),
                    &uri,
                    &[&options[..], &["--do_verify=1", &random]].concat(),
                );
            }
            seed
        });
        let troubled = trouble(&fleet, leader, serving);
        done.store(true, Ordering::SeqCst);
        troubled.unwrap_or_else(|error| panic!("{error}"));
        writing.join().unwrap()
    });
    let random = format!("--randseed={last}");
    let verify = [&options[..], &["--verify_only=1", &random]].concat();
    fio_in(directory.path(), &fleet.uri(leader, "vm0"), &verify);
}

fn trouble(fleet: &Fleet, leader: usize, serving: usize) -> Result<()> {
    let network = fleet.network().ok_or("there is no network")?;
    let follower = 3 - leader - serving;
    let healthy = || fleet.await_healthy(WHOLE_MAX, LAG_MAX);
    let stay = |millis| std::thread::sleep(Duration::from_millis(millis));
    for victim in [leader, follower] {
        stay(200);
        fleet.kill(victim)?;
        stay(500);
        fleet.restart(victim)?;
        healthy()?;
    }
    // Whoever leads by now, but for the node that fio is attached to.
    let leads = fleet.leader().filter(|leader| *leader != serving).unwrap_or(leader);
    for cut in [Cut::Isolate(leads), Cut::Mute(3 - leads - serving)] {
        network.cut(&cut.directions())?;
        stay(2500);
        network.heal()?;
        healthy()?;
    }
    Ok(())
}
