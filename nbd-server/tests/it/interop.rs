//! Other people's clients. Skipped, visibly, where a program is missing; with
//! `ASHLAR_REQUIRE_TOOLS=1` that is a failure.

use crate::harness::TestServer;
use ashlar_nbd_server::ServerOptions;
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program's path, or `None` with a line on stderr.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var_os("ASHLAR_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "{name} is missing");
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().expect("start");
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn server() -> TestServer {
    TestServer::with(ServerOptions::default(), |reactor| {
        MemoryExports::new([MemoryExport::new("vm0", 64 << 20, reactor.pool().clone())])
    })
}

fn uri(server: &TestServer, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", server.socket.display())
}

fn sample(path: &Path) {
    let mut state = 1u64;
    let mut bytes = vec![0u8; 20 << 20];
    for (block, chunk) in bytes.chunks_mut(4096).enumerate() {
        // Two holes among the data.
        if !(1000..2000).contains(&block) && !(4000..4100).contains(&block) {
            for byte in chunk {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
        }
    }
    std::fs::write(path, bytes).expect("sample");
}

#[test]
fn nbdinfo_reports_the_export() {
    let Some(nbdinfo) = tool("nbdinfo") else { return };
    let server = TestServer::start();
    let text =
        |arguments: &[&str]| String::from_utf8(run(&nbdinfo, arguments).stdout).expect("text");
    let size = text(&["--size", &uri(&server, "vm0")]);
    assert_eq!(size.trim().parse(), Ok(crate::harness::SIZE));
    let json = text(&["--json", &uri(&server, "vm0")]);
    for expected in [
        "\"can_multi_conn\": true",
        "\"can_fua\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"can_fast_zero\": true",
        "\"can_df\": true",
        "\"can_cache\": true",
        "\"can_flush\": true",
        "\"is_read_only\": false",
        "\"base:allocation\"",
        "\"block_size_maximum\": 33554432",
        "\"structured\": true",
    ] {
        assert!(json.contains(expected), "{expected} is missing in {json}");
    }
    let list = text(&["--list", &format!("nbd+unix://?socket={}", server.socket.display())]);
    for name in ["vm0", "frozen", "big"] {
        assert!(list.contains(&format!("export=\"{name}\"")), "{name} is missing in {list}");
    }
    assert!(text(&["--map", &uri(&server, "big")]).contains("hole,zero"));
    assert!(text(&["--json", &uri(&server, "frozen")]).contains("\"is_read_only\": true"));
}

#[test]
fn nbdcopy_there_and_back() {
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let server = server();
    let directory = server.socket.parent().expect("directory").to_owned();
    let (source, target) = (directory.join("source"), directory.join("target"));
    sample(&source);
    let (source_name, target_name) =
        (source.to_str().expect("text"), target.to_str().expect("text"));
    for extra in [&["--connections=4", "--requests=64"][..], &["--synchronous"]] {
        run(&nbdcopy, &[&[source_name, &uri(&server, "vm0")], extra].concat());
        run(&nbdcopy, &[&[&uri(&server, "vm0"), target_name], extra].concat());
        let copy = std::fs::read(&target).expect("copy");
        assert!(copy[..20 << 20] == std::fs::read(&source).expect("source"), "copy differs");
        assert!(copy[20 << 20..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn qemu_img_converts_and_compares() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let server = server();
    let directory = server.socket.parent().expect("directory").to_owned();
    let source = directory.join("source");
    sample(&source);
    let source = source.to_str().expect("text");
    let target = uri(&server, "vm0");
    run(&qemu_img, &["convert", "-n", "-f", "raw", "-O", "raw", source, &target]);
    run(&qemu_img, &["compare", "-f", "raw", "-F", "raw", source, &target]);
    let map = run(&qemu_img, &["map", "--output=json", "-f", "raw", &target]).stdout;
    assert!(String::from_utf8_lossy(&map).contains("\"zero\": true"));
    run(&qemu_img, &["info", &target]);
}

#[test]
fn qemu_io_writes_and_verifies() {
    let Some(qemu_io) = tool("qemu-io") else { return };
    let server = server();
    let commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 513 70001",
        "write -z 4096 8192",
        "write -f -P 0x33 2M 4M",
        "discard 3M 64k",
        "flush",
        "read -P 0x11 0 512",
        "read -P 0 4096 8192",
        "read -P 0x22 12288 50000",
        "read -P 0x33 2M 1M",
    ];
    let target = uri(&server, "vm0");
    let mut arguments = vec!["-f", "raw", target.as_str()];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    let output = run(&qemu_io, &arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("failed"), "{text}");
}
