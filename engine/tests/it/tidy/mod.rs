//! Goal: the rules of ARCHITECTURE.md and CONTRIBUTING.md hold for every file of the workspace.
//! Method: read all sources; each rule is a function from text to violations, and is shown here to
//! find one in a snippet.

mod rules;
mod source;

use rules::Room;
use source::{File, files, is_test};

/// Rooms of the engine and what each may import. `lib` ties all together.
const ROOMS: [Room; 10] = [
    Room { name: "marks", imports: &[], only: None },
    Room { name: "units", imports: &[], only: None },
    Room { name: "limits", imports: &["units"], only: None },
    Room { name: "error", imports: &[], only: None },
    Room { name: "buffer", imports: &["units"], only: None },
    Room { name: "format", imports: &["limits", "units"], only: None },
    Room {
        name: "store",
        imports: &["buffer", "error", "format", "limits", "reactor", "units"],
        only: Some(("reactor", &["DeviceOp", "DeviceCompletion"])),
    },
    Room { name: "reactor", imports: &["buffer", "error", "units"], only: None },
    Room {
        name: "local",
        imports: &["buffer", "error", "format", "limits", "reactor", "store", "units"],
        only: Some(("format", &["DeviceId"])),
    },
    Room {
        name: "embedded",
        imports: &["buffer", "error", "limits", "local", "reactor", "store", "units"],
        only: None,
    },
];

/// Rooms of `raft` that must not know the others.
const RAFT_ROOMS: [Room; 2] = [
    Room { name: "frame", imports: &[], only: None },
    Room { name: "transport", imports: &["frame"], only: None },
];

/// Crates of the workspace and which of each other they may use.
const CRATES: [(&str, &[&str]); 7] = [
    ("engine", &[]),
    ("raft", &["engine"]),
    ("nbd-server", &["engine", "raft"]),
    ("benches", &[]),
    ("jepsen", &[]),
    ("fuzz", &["engine", "nbd-server", "raft"]),
    ("sim", &["engine", "nbd-server", "raft"]),
];

/// The only files that may hold `unsafe`.
const UNSAFE: [&str; 10] = [
    "engine/src/buffer/arena.rs",
    "engine/src/buffer/mod.rs",
    "engine/src/buffer/pool.rs",
    "engine/src/reactor/ring/connect.rs",
    "engine/src/reactor/ring/device.rs",
    "engine/src/reactor/ring/listener.rs",
    "engine/src/reactor/ring/mod.rs",
    "engine/src/reactor/ring/setup.rs",
    "engine/src/reactor/ring/socket.rs",
    "engine/src/reactor/tokio_device.rs",
];

/// Words of the kernel and of the clock: only in the reactor and under the buffers.
const KERNEL_WORDS: [&str; 16] = [
    "io_uring",
    "rustix",
    "libc",
    "tokio",
    "tokio_uring",
    "OwnedFd",
    "RawFd",
    "BorrowedFd",
    "AsFd",
    "AsRawFd",
    "FromRawFd",
    "IntoRawFd",
    "Instant",
    "SystemTime",
    "RandomState",
    "getrandom",
];
/// As above, for paths.
const KERNEL_PATHS: [&str; 4] = ["std::fs", "std::thread", "std::os::fd", "TcpStream"];

/// Files longer than the limit, each with the reason and its own limit.
const LONG_FILES: [(&str, usize); 0] = [];

#[track_caller]
fn none(violations: impl IntoIterator<Item = String>) {
    let found: Vec<_> = violations.into_iter().collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

fn product() -> impl Iterator<Item = File> {
    files(&["rs"]).into_iter().filter(|file| file.path.contains("/src/") && !is_test(&file.path))
}

/// The room of an engine file: the first part of its path, without what follows an underscore.
fn room_of(path: &str) -> Option<&str> {
    let first = first_of(path, "engine/src/")?;
    Some(first.split_once('_').map_or(first, |(room, _)| room))
}

/// The first part of a path behind `prefix`, without extension.
fn first_of<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)?.split(['/', '.']).next()
}

#[test]
fn rooms_import_in_one_direction() {
    let mut wrong = Vec::new();
    for file in product() {
        match room_of(&file.path) {
            None | Some("lib") => {}
            Some(name) => match ROOMS.iter().find(|room| room.name == name) {
                Some(room) => wrong.extend(rules::imports(room, &file.path, &file.text)),
                None => wrong.push(format!("{}: a room that the table does not know", file.path)),
            },
        }
        let of_raft = first_of(&file.path, "raft/src/");
        let room = RAFT_ROOMS.iter().find(|room| Some(room.name) == of_raft);
        wrong.extend(room.iter().flat_map(|room| rules::imports(room, &file.path, &file.text)));
    }
    none(wrong);
}

#[test]
fn crates_import_in_one_direction() {
    let mut wrong = Vec::new();
    for file in files(&["rs", "toml"]) {
        let Some((name, inside)) = file.path.split_once('/') else { continue };
        let product = inside.starts_with("src/") || inside == "Cargo.toml";
        let Some((_, allowed)) = CRATES.iter().find(|(of, _)| *of == name) else {
            wrong.push(format!("{}: a crate that the table does not know", file.path));
            continue;
        };
        let foreign = |named: &String| named != name && !allowed.contains(&named.as_str());
        let named = rules::crates_named(&file.path, &file.text).into_iter().filter(foreign);
        let named = named.filter(|_| product);
        wrong.extend(named.map(|other| format!("{}: must not know {other}", file.path)));
    }
    none(wrong);
}

/// Whether a file may speak with the kernel itself: the reactor, what it hands to the kernel, and
/// what is no part of the data path.
fn may_name_the_kernel(path: &str) -> bool {
    const ALLOWED: [&str; 8] = [
        "engine/src/reactor/",
        "engine/src/buffer/",
        "nbd-server/src/program/bench/cpu.rs", // CPU time for a report.
        "nbd-server/src/program/cluster/process.rs", // Signals to nodes that it has started.
        "nbd-server/src/program/serve/started.rs", // Wall time of the start.
        "benches/",
        "jepsen/",
        "fuzz/",
    ];
    ALLOWED.iter().any(|prefix| path.starts_with(prefix))
}

/// Settings, pid files and signals of the program; the library's callers, who wait on threads of
/// their own; processes that run seeds. None is on the data path.
fn may_use_files_and_threads(path: &str) -> bool {
    const ALLOWED: [&str; 3] =
        ["nbd-server/src/program/", "engine/src/embedded/", "sim/src/program/"];
    ALLOWED.iter().any(|prefix| path.starts_with(prefix))
}

/// openraft's runtime on the reactor: its trait has an `Instant`, which is the reactor's clock, and
/// its channels are tokio's, which need no runtime. Nothing else of either is named there.
const RUNTIME_ROOM: &str = "raft/src/runtime/";
const RUNTIME_WORDS: [&str; 2] = ["Instant", "tokio"];
const RUNTIME_PATHS: [&str; 7] = [
    "std::time::Instant",
    "std::time::{",
    "tokio::fs",
    "tokio::net",
    "tokio::runtime",
    "tokio::task",
    "tokio::time",
];

#[test]
fn only_the_reactor_knows_the_kernel_and_the_clock() {
    let mut wrong = Vec::new();
    for file in product().filter(|file| !may_name_the_kernel(&file.path)) {
        let mut words = KERNEL_WORDS.to_vec();
        if file.path.starts_with(RUNTIME_ROOM) {
            words.retain(|word| !RUNTIME_WORDS.contains(word));
            wrong.extend(rules::paths_forbidden(&file.path, &file.text, &RUNTIME_PATHS));
        }
        wrong.extend(rules::words_forbidden(&file.path, &file.text, &words));
        if !may_use_files_and_threads(&file.path) {
            wrong.extend(rules::paths_forbidden(&file.path, &file.text, &KERNEL_PATHS));
        }
    }
    none(wrong);
}

#[test]
fn unsafe_stands_where_it_may() {
    let has = |file: &File| rules::has_unsafe(&file.text);
    let found: Vec<_> =
        files(&["rs"]).into_iter().filter(has).map(|file| file.path.clone()).collect();
    assert_eq!(found, UNSAFE, "the list of files with unsafe code");
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for file in product() {
        let lines = rules::product_lines(&file.path, &file.text);
        let known = LONG_FILES.iter().find(|(path, _)| *path == file.path);
        let max = known.map_or(rules::FILE_LINES_MAX, |(_, max)| *max);
        if lines > max {
            wrong.push(format!("{}: {lines} lines, at most {max}", file.path));
        }
        if known.is_some() && lines <= rules::FILE_LINES_MAX {
            wrong.push(format!("{}: needs no exception any more", file.path));
        }
    }
    for file in files(&["rs"]) {
        wrong.extend(rules::long_functions(&file.path, &file.text));
    }
    none(wrong);
}

#[test]
fn sources_are_clean() {
    let all = files(&["rs", "toml", "md", "run", "service"]);
    let mut wrong: Vec<_> =
        all.iter().flat_map(|file| rules::characters(&file.path, &file.text)).collect();
    wrong.extend(all.iter().flat_map(|file| rules::traces(&file.path, &file.text)));
    wrong.extend(product().filter_map(|file| rules::documented(&file.path, &file.text)));
    none(wrong);
}

#[test]
fn the_walk_finds_every_crate() {
    let all = files(&["rs", "toml"]);
    for (name, _) in CRATES {
        for wanted in ["Cargo.toml", "src/lib.rs"] {
            let path = format!("{name}/{wanted}");
            let there = all.iter().any(|file| file.path == path);
            assert!(there, "{path} was not looked at");
        }
    }
    assert!(all.iter().all(|file| !file.path.contains("target/")));
}

#[test]
fn wrong_imports_are_found() {
    let store = ROOMS.iter().find(|room| room.name == "store").expect("the store's room");
    let wrong = |text: &str| rules::imports(store, "engine/src/store/read.rs", text).len();
    assert_eq!(wrong("use crate::format::Seal;\nuse super::Io;\n"), 0);
    assert_eq!(wrong("use crate::reactor::DeviceOp;\n"), 0);
    assert_eq!(wrong("use crate::reactor::{DeviceCompletion, DeviceOp};\n"), 0);
    assert_eq!(wrong("use crate::reactor::{DeviceOp, Reactor};\n"), 1);
    assert_eq!(wrong("fn f(r: &crate::reactor::Reactor) {}\n"), 1);
    assert_eq!(wrong("use crate::local::LocalStore;\n"), 1);
    assert_eq!(wrong("use super::super::local::LocalStore;\n"), 1);
    assert_eq!(wrong("// crate::local\n#[cfg(test)]\nmod t { use crate::local::X; }\n"), 0);
    assert_eq!(wrong("use crate::{local, units};\n"), 1);
    assert_eq!(room_of("engine/src/embedded_blocking.rs"), Some("embedded"));
    assert_eq!(first_of("raft/src/frame/hello.rs", "raft/src/"), Some("frame"));
    let frame = &RAFT_ROOMS[0];
    let wrong = |text: &str| rules::imports(frame, "raft/src/frame/hello.rs", text).len();
    assert_eq!(wrong("use super::limits::A;\nuse crate::frame::NodeId;\n"), 0);
    assert_eq!(wrong("use crate::transport::Peers;\n"), 1);
}

#[test]
fn wrong_crates_are_found() {
    let named = rules::crates_named;
    assert_eq!(named("a.rs", "use ashlar_raft::Group; // ashlar_engine\n"), ["raft"]);
    assert!(named("a.rs", "let package = \"ashlar-nbd-server\";\n").is_empty());
    assert_eq!(named("a.toml", "ashlar-nbd-server.workspace = true\n"), ["nbd-server"]);
    assert!(named("a.toml", "name = \"ashlar-engine\"\n").is_empty());
}

#[test]
fn kernel_words_and_unsafe_are_found() {
    let words = |text: &str| rules::words_forbidden("a.rs", text, &KERNEL_WORDS).len();
    assert_eq!(words("use std::time::Instant;\nlet ring = io_uring::IoUring::new(8);"), 2);
    assert_eq!(words("// Instant\nlet instant = \"rustix\";"), 0);
    assert_eq!(rules::paths_forbidden("a.rs", "std::fs::read(p)", &KERNEL_PATHS).len(), 1);
    assert!(rules::has_unsafe("fn f() { unsafe { g() } }"));
    assert!(rules::has_unsafe("#![allow(unsafe_code)]"));
    assert!(!rules::has_unsafe("// unsafe\nlet a = \"unsafe\";"));
}

#[test]
fn long_files_and_functions_are_found() {
    let lines = "let a = 1;\n".repeat(rules::FUNCTION_LINES_MAX - 2);
    assert!(rules::long_functions("a.rs", &format!("fn f() {{\n{lines}}}\n")).is_empty());
    let long = format!("fn g() {{}}\nfn f() {{\nlet a = \"}}\";\n{lines}}}\n");
    assert_eq!(rules::long_functions("a.rs", &long), ["a.rs:2: fn f has 71 lines"]);
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{lines}}}\n");
    assert_eq!(rules::product_lines("engine/src/a.rs", &tested), 1);
    assert_eq!(rules::product_lines("engine/src/a.rs", &lines), 68);
    assert_eq!(rules::product_lines("engine/src/a/tests.rs", &lines), 0);
}

#[test]
fn dirt_is_found() {
    let wrong = |text: &str| rules::characters("a.rs", text).len();
    assert_eq!(wrong("fine\n"), 0);
    assert_eq!(wrong("a\tb\nc \n\u{e9}\n"), 3);
    assert_eq!(wrong("no newline"), 1);
    assert_eq!(wrong("a\r\n"), 1);
    assert_eq!(wrong("a\n\n"), 1);
    assert_eq!(wrong(&format!("{}\n", "x".repeat(101))), 1);
    assert_eq!(wrong(&format!("let a = \"{}\n\";\n", "x".repeat(101))), 0);
    assert_eq!(wrong(&format!("    // {}\n", "x".repeat(101))), 1);
    let traces = |text: &str| rules::traces("a.rs", text).len();
    for (head, tail) in [("TO", "DO: x"), ("(to", "do!())"), ("#[ign", "ore]"), (" /ro", "ot/x")] {
        assert_eq!(traces(&format!("{head}{tail}")), 1, "{head}{tail}");
    }
    assert_eq!(traces("mktemp /tmp/aXXXXXX, TODOS, target/home/x"), 0);
    assert!(rules::documented("a.rs", "use b;\n").is_some());
}
