//! nbdinfo and nbdcopy.

use ashlar_jepsen::server::Server;

use crate::tools::{Place, has, is_ashlar, run, run_json, same_bytes, write_pattern};

const VOLUME_BYTES: usize = 48 << 20;

fn export_of(server: &Server) -> serde_json::Value {
    run_json("nbdinfo", &["--json", &server.uri()])["exports"][0].clone()
}

#[test]
fn nbdinfo_sees_a_modern_export() {
    if !has("nbdinfo_sees_a_modern_export", &["nbdinfo"]) {
        return;
    }
    let place = Place::new("info", VOLUME_BYTES as u64);
    let server = place.serve();
    let export = export_of(&server);
    assert_eq!(export["export-size"], VOLUME_BYTES, "{export}");
    assert_eq!(export["is_read_only"], false, "{export}");
    for ability in ["can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"] {
        assert_eq!(export[ability], true, "{ability} in {export}");
    }
    let contexts = export["contexts"].as_array().unwrap();
    assert!(contexts.iter().any(|c| c == "base:allocation"), "{export}");
}

#[test]
fn nbdinfo_lists_every_volume() {
    let name = "nbdinfo_lists_every_volume";
    if !has(name, &["nbdinfo"]) || !is_ashlar(name) {
        return;
    }
    let mut place = Place::new("list", 8 << 20);
    place.setup.volumes.push(("second".to_owned(), 16 << 20));
    let _server = place.serve();
    let list = run_json("nbdinfo", &["--json", "--list", &place.setup.uri("")]);
    let exports = list["exports"].as_array().unwrap();
    let mut found: Vec<_> =
        exports.iter().map(|e| (e["export-name"].as_str(), e["export-size"].as_u64())).collect();
    found.sort();
    assert_eq!(found, [(Some("second"), Some(16 << 20)), (Some("vm0"), Some(8 << 20))]);
}

#[test]
fn nbdinfo_maps_data_and_holes() {
    let name = "nbdinfo_maps_data_and_holes";
    if !has(name, &["nbdinfo", "nbdcopy"]) {
        return;
    }
    let place = Place::new("map", VOLUME_BYTES as u64);
    let server = place.serve();
    let file = place.file("pattern");
    let (data, hole) = (8 << 20, 16 << 20);
    write_pattern(&file, 7, &[(true, data), (false, hole), (true, VOLUME_BYTES - data - hole)]);
    run("nbdcopy", &["--destination-is-zero", &file, &server.uri()]);
    let map = run_json("nbdinfo", &["--map", "--json", &server.uri()]);
    let extents = map.as_array().unwrap();
    // Neighbours of one kind may or may not be merged by the server.
    let zero_bytes: u64 = extents
        .iter()
        .filter(|e| e["type"].as_u64().unwrap() & 2 != 0)
        .map(|e| e["length"].as_u64().unwrap())
        .sum();
    assert_eq!(zero_bytes, hole as u64, "{map}");
    let total: u64 = extents.iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(total, VOLUME_BYTES as u64, "{map}");
}

#[test]
fn nbdcopy_round_trip() {
    if !has("nbdcopy_round_trip", &["nbdcopy", "cmp"]) {
        return;
    }
    let place = Place::new("copy", VOLUME_BYTES as u64);
    let mut server = place.serve();
    let (source, back) = (place.file("source"), place.file("back"));
    let pieces = [(true, 5 << 20), (false, 7 << 20), (true, 12345 * 512)];
    let rest = VOLUME_BYTES - pieces.iter().map(|p| p.1).sum::<usize>();
    for (seed, options) in [(1, vec![]), (2, vec!["--connections=4", "--requests=64"])] {
        write_pattern(&source, seed, &[pieces[0], pieces[1], pieces[2], (true, rest)]);
        let uri = server.uri();
        run("nbdcopy", &[options.clone(), vec!["--flush", &source, &uri]].concat());
        run("nbdcopy", &[options, vec![&uri, &back]].concat());
        assert!(same_bytes(&source, &back), "copy {seed} came back changed");
        server.kill().unwrap();
        server = place.serve();
        run("nbdcopy", &["--synchronous", &uri, &back]);
        assert!(same_bytes(&source, &back), "copy {seed} changed over a restart");
    }
}

#[test]
fn tcp_serves_as_well() {
    let name = "tcp_serves_as_well";
    if !has(name, &["nbdinfo"]) || !is_ashlar(name) {
        return;
    }
    let mut place = Place::new("tcp", 8 << 20);
    place.setup.arguments = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
    let server = place.serve();
    let line = server.ready_lines.iter().find(|l| l.starts_with("ready nbd://127.0.0.1:"));
    let line = line.unwrap_or_else(|| panic!("no TCP address in {:?}", server.ready_lines));
    let uri = format!("{}/vm0", line.trim_start_matches("ready ").trim_end_matches('/'));
    let size = run("nbdinfo", &["--size", &uri]);
    assert_eq!(size.trim(), (8 << 20).to_string());
}
