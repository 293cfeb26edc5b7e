//! fio writes and verifies, also across a kill of the server.

use crate::tools::{Place, command, has};

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
    let uri = format!("--uri={uri}");
    let mut arguments = vec!["--name=verify", "--ioengine=nbd", &uri, "--thread"];
    arguments.extend(["--verify=crc32c", "--verify_fatal=1", "--randseed=7", "--size=48M"]);
    arguments.extend(options);
    // fio leaves a state file in its working directory.
    let output = command("fio", &arguments).current_dir(place.directory.path()).output().unwrap();
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
    let options = ["--rw=randwrite", "--bs=4k", "--iodepth=32"];
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
