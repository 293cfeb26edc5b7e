//! A guest in QEMU that moves from node to node while it runs.

use std::fs;
use std::path::Path;

use ashlar_jepsen::migrate;
use ashlar_jepsen::temporary::TemporaryDirectory;

use crate::tools::{has, run, skip};

#[test]
fn a_running_guest_moves_between_nodes() {
    if !has("a_running_guest_moves_between_nodes", &[migrate::QEMU]) {
        return;
    }
    let directory = TemporaryDirectory::new("migrate").unwrap();
    let report = migrate::run(directory.path(), 3).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.migrations, 3);
    assert!(report.writes >= 4 * 3 * 16, "{report:?}");
}

#[test]
fn the_guest_is_what_its_source_says() {
    if !cfg!(target_arch = "x86_64") {
        return skip("the_guest_is_what_its_source_says", "an assembler for x86");
    }
    if !has("the_guest_is_what_its_source_says", &["as", "ld"]) {
        return;
    }
    let directory = TemporaryDirectory::new("guest").unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/migrate/guest.s");
    run("as", &["--32", "-o", &file("o"), &source.display().to_string()]);
    let flat = ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o"];
    run("ld", &[&flat[..], &[&file("bin"), &file("o")]].concat());
    assert_eq!(fs::read(file("bin")).unwrap(), migrate::boot_sector());
}
