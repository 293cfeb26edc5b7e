//! Describes the machine and the programs, without anything that names a host.

use std::path::Path;
use std::process::Command;

/// Lines of `name: value` for the report.
pub fn describe(folder: &Path) -> Vec<(String, String)> {
    let cpu = file_field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_kib: u64 = file_field("/proc/meminfo", "MemTotal")
        .and_then(|v| v.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let mut lines = vec![
        ("CPU".to_owned(), format!("{cpu}, {cores} cores")),
        ("memory".to_owned(), format!("{} GiB", (memory_kib + (1 << 19)) >> 20)),
        ("kernel".to_owned(), kernel()),
        ("file system".to_owned(), file_system(folder)),
        ("date".to_owned(), said("date", &["-u", "+%Y-%m-%d"])),
    ];
    for program in ["fio", "qemu-nbd", "nbdkit"] {
        lines.push((program.to_owned(), version(&said(program, &["--version"]))));
    }
    lines
}

fn file_field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Release without a vendor's suffix, which may say more than the version.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let digits = release.trim().split(|c: char| !c.is_ascii_digit() && c != '.').next();
    format!("Linux {}", digits.unwrap_or("unknown"))
}

fn file_system(folder: &Path) -> String {
    let path = folder.to_string_lossy();
    said("findmnt", &["--noheadings", "--output=FSTYPE", "--target", &path])
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("not found").trim().to_owned()
}

/// The first word with digits and dots.
fn version(text: &str) -> String {
    let is_version =
        |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = text.split_whitespace().find(is_version).unwrap_or("not found");
    word.trim_start_matches("fio-").to_owned()
}
