//! The commands of the program `ashlar` against a running server and a store at rest.

use ashlar_jepsen::nbd::Connection;
use ashlar_jepsen::server::Server;
use serde_json::Value;

use crate::bad_input::{ashlar, assert_one_sentence};
use crate::tools::{Place, is_ashlar};

const VOLUME_BYTES: u64 = 16 << 20;

/// Runs `ashlar ARGUMENTS --store STORE`; its stdout.
fn on_store(place: &Place, arguments: &[&str]) -> String {
    let store = place.file("store");
    let output = ashlar(&[arguments, &["--store", &store]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "ashlar {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let text = on_store(place, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("ashlar {arguments:?}: {e} in {text}"))
}

fn refused(place: &Place, arguments: &[&str]) {
    let store = place.file("store");
    let output = ashlar(&[arguments, &["--store", &store]].concat());
    assert_one_sentence(&output, &[1, 2]);
}

/// Whether `name` stands in a listing, as a word of its own.
fn lists(listing: &Value, name: &str) -> bool {
    match listing {
        Value::String(text) => text == name,
        Value::Array(items) => items.iter().any(|item| lists(item, name)),
        Value::Object(fields) => fields.values().any(|item| lists(item, name)),
        _ => false,
    }
}

#[test]
fn volumes_come_and_go_while_serving() {
    if !is_ashlar("volumes_come_and_go_while_serving") {
        return;
    }
    let place = Place::new("admin", VOLUME_BYTES);
    let _server = place.serve();
    on_store(&place, &["volume", "create", "extra", "--size", "8M"]);
    let listing = json(&place, &["volume", "list"]);
    assert!(lists(&listing, "extra") && lists(&listing, "vm0"), "{listing}");
    let mut extra = Connection::open(&place.setup.socket(), "extra").unwrap();
    assert_eq!(extra.size_bytes, 8 << 20);
    extra.write(0, &[5; 4096]).unwrap();
    assert!(lists(&json(&place, &["volume", "show", "extra"]), "extra"));
    drop(extra);
    refused(&place, &["volume", "create", "extra", "--size", "8M"]);
    refused(&place, &["volume", "show", "nobody"]);
    refused(&place, &["volume", "delete", "nobody"]);
    on_store(&place, &["volume", "delete", "extra"]);
    assert!(!lists(&json(&place, &["volume", "list"]), "extra"));
    assert!(Connection::open(&place.setup.socket(), "extra").is_err());
    on_store(&place, &["volume", "create", "extra", "--size", "8M"]);
    let mut found = [9u8; 4096];
    Connection::open(&place.setup.socket(), "extra").unwrap().read(0, &mut found).unwrap();
    assert!(found == [0; 4096], "a new volume shows an old one's bytes");
}

#[test]
fn volumes_outlive_the_server() {
    if !is_ashlar("volumes_outlive_the_server") {
        return;
    }
    let place = Place::new("outlive", VOLUME_BYTES);
    let server = place.serve();
    on_store(&place, &["volume", "create", "kept", "--size", "8M"]);
    on_store(&place, &["volume", "create", "gone", "--size", "8M"]);
    on_store(&place, &["volume", "delete", "gone"]);
    server.kill().unwrap();
    let _server = place.serve();
    let listing = json(&place, &["volume", "list"]);
    assert!(lists(&listing, "kept") && !lists(&listing, "gone"), "{listing}");
}

#[test]
fn odd_volumes_are_refused() {
    if !is_ashlar("odd_volumes_are_refused") {
        return;
    }
    let place = Place::new("oddvol", VOLUME_BYTES);
    let server = place.serve();
    let long = "x".repeat(5000);
    for name in ["", "a@b", "a/b", "a b", "..", "a\nb", long.as_str()] {
        refused(&place, &["volume", "create", name, "--size", "8M"]);
    }
    for size in ["0", "513", "-1", "8X", "", "99999999999999999999", "1.5G"] {
        refused(&place, &["volume", "create", "fine", "--size", size]);
    }
    let listing = json(&place, &["volume", "list"]);
    assert!(!lists(&listing, "fine"), "{listing}");
    drop(server);
}

#[test]
fn status_reports() {
    if !is_ashlar("status_reports") {
        return;
    }
    let place = Place::new("status", VOLUME_BYTES);
    let _server = place.serve();
    let status = json(&place, &["status"]);
    assert!(status.is_object(), "{status}");
    assert!(!on_store(&place, &["status"]).trim().is_empty());
}

#[test]
fn check_finds_a_healthy_store_healthy() {
    if !is_ashlar("check_finds_a_healthy_store_healthy") {
        return;
    }
    let place = Place::new("check", VOLUME_BYTES);
    for end in [Server::kill as fn(Server) -> _, |s| s.terminate().map(|_| ())] {
        let server = place.serve();
        let mut connection = Connection::open(&place.setup.socket(), "vm0").unwrap();
        for number in 0..100u64 {
            connection.write(number * 8192, &[number as u8; 5000]).unwrap();
        }
        end(server).unwrap();
        let output = ashlar(&["check", &place.file("store"), "--json"]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap_or_else(|e| panic!("{e} in {stdout}"));
    }
}

#[test]
fn a_second_server_is_refused() {
    if !is_ashlar("a_second_server_is_refused") {
        return;
    }
    let place = Place::new("second", VOLUME_BYTES);
    let _server = place.serve();
    let mut connection = Connection::open(&place.setup.socket(), "vm0").unwrap();
    connection.write(0, &[7; 4096]).unwrap();
    let (store, socket) = (place.file("store"), format!("unix:{}", place.file("other.sock")));
    let second = ashlar(&["serve", "--store", &store, "--listen", &socket]);
    assert_one_sentence(&second, &[1]);
    let mut found = [0u8; 4096];
    connection.read(0, &mut found).unwrap();
    assert!(found == [7; 4096]);
    let mut fresh = Connection::open(&place.setup.socket(), "vm0").unwrap();
    fresh.read(0, &mut found).unwrap();
    assert_one_sentence(&ashlar(&["format", &store, "--size", "64M", "--force"]), &[1]);
    assert_one_sentence(&ashlar(&["check", &store]), &[1]);
}
