//! Bad command lines and bad stores: one plain sentence, the right exit code, never a panic.

use std::fs;
use std::process::Output;

use ashlar_jepsen::binary;

use crate::tools::{Place, is_ashlar, output};

/// A plain sentence has at most this many lines (clap adds a usage hint).
const LINES_MAX: usize = 12;

/// Runs `ashlar`; `timeout` gives 124 when it hangs.
pub(crate) fn ashlar(arguments: &[&str]) -> Output {
    let program = binary::ashlar().unwrap_or_else(|error| panic!("{error}"));
    output(program.to_str().unwrap(), arguments)
}

/// An orderly refusal: one of `codes`, something to read, no panic.
pub(crate) fn assert_one_sentence(output: &Output, codes: &[i32]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap_or(-1);
    assert!(codes.contains(&code), "exit code {code}, not one of {codes:?}: {stderr}");
    assert!(!stderr.trim().is_empty(), "exit code {code} without a word");
    assert!(!stderr.contains("panicked") && !stderr.contains("Error {"), "{stderr}");
    let lines = if code == 2 { LINES_MAX } else { 2 };
    assert!(stderr.lines().count() <= lines, "more than a sentence: {stderr}");
}

fn serve(place: &Place, store: &str) -> Output {
    let socket = format!("unix:{}", place.file("bad.sock"));
    ashlar(&["serve", "--store", store, "--listen", &socket])
}

/// Formats a store of 64 MiB.
fn formatted(place: &Place, leaf: &str) -> String {
    let store = place.file(leaf);
    let output = ashlar(&["format", &store, "--size", "64M"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    store
}

#[test]
fn bad_flags_exit_with_2() {
    if !is_ashlar("bad_flags_exit_with_2") {
        return;
    }
    for arguments in [
        &["serve", "--nonsense"][..],
        &["nonsense"],
        &["serve", "--size", "many"],
        &["serve", "--create", "name-without-size"],
        &["serve", "--create", ":4G"],
        &["serve", "--listen", "nowhere"],
        &["format"],
        &["volume", "create"],
        &["bench", "--target", "http://example"],
    ] {
        assert_one_sentence(&ashlar(arguments), &[2]);
    }
}

#[test]
fn help_is_everywhere() {
    if !is_ashlar("help_is_everywhere") {
        return;
    }
    for command in [
        &[][..],
        &["format"],
        &["serve"],
        &["volume"],
        &["volume", "create"],
        &["volume", "list"],
        &["volume", "show"],
        &["volume", "delete"],
        &["status"],
        &["check"],
        &["bench"],
    ] {
        let output = ashlar(&[command, &["--help"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert!(text.contains("Usage"), "{command:?}: {text}");
    }
}

#[test]
fn files_that_are_no_stores_are_refused_and_kept() {
    if !is_ashlar("files_that_are_no_stores_are_refused_and_kept") {
        return;
    }
    let place = Place::new("nostore", 1 << 20);
    let text = place.file("text");
    fs::write(&text, "my thesis, the only copy\n".repeat(400_000)).unwrap();
    let before = fs::read(&text).unwrap();
    assert_one_sentence(&serve(&place, &text), &[1]);
    assert_one_sentence(&ashlar(&["check", &text]), &[1]);
    assert!(fs::read(&text).unwrap() == before, "a file that is no store was changed");
    assert_one_sentence(&serve(&place, place.directory.path().to_str().unwrap()), &[1]);
    assert_one_sentence(&serve(&place, &place.file("no/such/folder/store")), &[1]);
    assert_one_sentence(&ashlar(&["check", &place.file("absent")]), &[1]);
    assert!(!place.directory.join("absent").exists(), "check made a file");
}

#[test]
fn damaged_stores_are_refused() {
    if !is_ashlar("damaged_stores_are_refused") {
        return;
    }
    let place = Place::new("damaged", 1 << 20);
    let truncated = formatted(&place, "truncated");
    for length in [20 << 20, 4096, 100] {
        fs::File::options().write(true).open(&truncated).unwrap().set_len(length).unwrap();
        assert_one_sentence(&serve(&place, &truncated), &[1]);
        assert_one_sentence(&ashlar(&["check", &truncated]), &[1]);
    }
    let zeroed = formatted(&place, "zeroed");
    let length = fs::metadata(&zeroed).unwrap().len();
    fs::File::create(&zeroed).unwrap().set_len(length).unwrap();
    assert_one_sentence(&ashlar(&["check", &zeroed]), &[1]);
}

/// The format promises for ever: magic, then the version as a little-endian u32 at byte 8 of both
/// superblocks, the second one 1 MiB after the first.
#[test]
fn newer_stores_are_refused_and_kept() {
    if !is_ashlar("newer_stores_are_refused_and_kept") {
        return;
    }
    let place = Place::new("newer", 1 << 20);
    let store = formatted(&place, "store");
    let mut bytes = fs::read(&store).unwrap();
    for at in [8, (1 << 20) + 8] {
        bytes[at..at + 4].copy_from_slice(&77u32.to_le_bytes());
    }
    fs::write(&store, &bytes).unwrap();
    for refused in [serve(&place, &store), ashlar(&["check", &store])] {
        assert_one_sentence(&refused, &[1]);
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(stderr.contains("77"), "the version is not named: {stderr}");
    }
    assert!(fs::read(&store).unwrap() == bytes, "a newer store was changed");
}

#[test]
fn format_does_not_overwrite() {
    if !is_ashlar("format_does_not_overwrite") {
        return;
    }
    let place = Place::new("format", 1 << 20);
    let store = formatted(&place, "store");
    assert_one_sentence(&ashlar(&["format", &store, "--size", "64M"]), &[1]);
    let output = ashlar(&["format", &store, "--size", "64M", "--force"]);
    assert_eq!(output.status.code(), Some(0));
    for size in ["0", "1", "4095", "100K"] {
        let tiny = place.file("tiny");
        assert_one_sentence(&ashlar(&["format", &tiny, "--size", size]), &[1, 2]);
        assert!(!place.directory.join("tiny").exists(), "a refused format left a file");
    }
}

#[test]
fn addresses_in_use_are_refused() {
    if !is_ashlar("addresses_in_use_are_refused") {
        return;
    }
    let place = Place::new("inuse", 1 << 20);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = ashlar(&["serve", "--store", &place.file("s"), "--listen", &address]);
    assert_one_sentence(&output, &[1]);
    let long = format!("unix:{}/{}", place.directory.path().display(), "x".repeat(200));
    let output = ashlar(&["serve", "--store", &place.file("s"), "--listen", &long]);
    assert_one_sentence(&output, &[1, 2]);
    assert_one_sentence(&ashlar(&["status", "--store", &place.file("s")]), &[1]);
}
