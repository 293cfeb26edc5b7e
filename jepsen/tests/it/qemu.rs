//! qemu-img and qemu-io.

use crate::tools::{Place, has, output, run, run_json, write_pattern};

const VOLUME_BYTES: usize = 32 << 20;

#[test]
fn qemu_img_converts_and_compares() {
    if !has("qemu_img_converts_and_compares", &["qemu-img"]) {
        return;
    }
    let place = Place::new("qimg", VOLUME_BYTES as u64);
    let server = place.serve();
    let (uri, raw, qcow) = (server.uri(), place.file("raw"), place.file("qcow2"));
    let (data, hole) = (4 << 20, 8 << 20);
    write_pattern(&raw, 3, &[(true, data), (false, hole), (true, VOLUME_BYTES - data - hole)]);
    run("qemu-img", &["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", &raw, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &uri]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &qcow]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &raw, &qcow]);
    let map = run_json("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let extents = map.as_array().unwrap();
    let zero_bytes: u64 =
        extents.iter().filter(|e| e["zero"] == true).map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(zero_bytes, hole as u64, "{map}");
}

#[test]
fn qcow2_lives_on_a_volume() {
    if !has("qcow2_lives_on_a_volume", &["qemu-img", "qemu-io"]) {
        return;
    }
    let place = Place::new("qcow", VOLUME_BYTES as u64);
    let server = place.serve();
    let uri = server.uri();
    run("qemu-img", &["create", "-f", "qcow2", &uri, "20M"]);
    let script = ["-f", "qcow2", "-c", "write -P 7 100k 3M", "-c", "discard 1M 1M", &uri];
    run("qemu-io", &script);
    server.kill().unwrap();
    let _server = place.serve();
    run("qemu-img", &["check", "-f", "qcow2", &uri]);
    io(&["-f", "qcow2"], &uri, &["read -P 7 100k 900k", "read -P 7 2M 1M", "read -P 0 4M 4M"]);
}

/// Runs qemu-io; a failed pattern shows in its output, whatever its exit code says.
fn io(options: &[&str], uri: &str, commands: &[&str]) {
    let mut arguments = options.to_vec();
    for command in commands {
        arguments.extend(["-c", *command]);
    }
    arguments.push(uri);
    let output = output("qemu-io", &arguments);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed =
        ["failed", "rror"].iter().any(|word| stdout.contains(word) || stderr.contains(word));
    assert!(output.status.success() && !failed, "{commands:?}\n{stdout}\n{stderr}");
}

#[test]
fn qemu_io_odd_alignments() {
    if !has("qemu_io_odd_alignments", &["qemu-io"]) {
        return;
    }
    let place = Place::new("qio", VOLUME_BYTES as u64);
    let server = place.serve();
    let uri = server.uri();
    let raw = ["-f", "raw", "-d", "unmap"];
    io(
        &raw,
        &uri,
        &[
            "write -P 0xaa 0 1M",
            "write -P 0xbb 513 1023",
            "write -P 0xcc 4095 2",
            "write -f -P 0xdd 65535 65538",
            "read -P 0xaa 0 513",
            "read -P 0xbb 513 1023",
            "read -P 0xaa 1536 2559",
            "read -P 0xcc 4095 2",
            "read -P 0xaa 4097 61438",
            "read -P 0xdd 65535 65538",
        ],
    );
    io(
        &raw,
        &uri,
        &[
            "write -z 5000 10000",
            "read -P 0 5000 10000",
            "read -P 0xaa 4097 903",
            "read -P 0xaa 15000 1000",
            "write -z -u 200k 100k",
            "read -P 0 200k 100k",
            "discard 512k 256k",
            "read -P 0xaa 768k 256k",
            "flush",
        ],
    );
    io(
        &raw,
        &uri,
        &[
            "aio_write -P 1 2M 64k",
            "aio_write -P 2 2176k 64k",
            "aio_write -P 3 2304k 512",
            "aio_flush",
            "read -P 1 2M 64k",
            "read -P 2 2176k 64k",
            "read -P 3 2304k 512",
        ],
    );
    let end = VOLUME_BYTES - 1;
    io(&raw, &uri, &[&format!("write -P 9 {end} 1"), &format!("read -P 9 {end} 1")]);
    server.kill().unwrap();
    let _server = place.serve();
    io(
        &raw,
        &uri,
        &["read -P 0xbb 513 1023", "read -P 0 5000 10000", &format!("read -P 9 {end} 1")],
    );
}
