//! What the tests share: skipping visibly, running programs, a server in a directory of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use ashlar_jepsen::network::Network;
use ashlar_jepsen::random::Random;
use ashlar_jepsen::server::{Kind, Server, Setup};
use ashlar_jepsen::temporary::TemporaryDirectory;

/// No program may take longer than this, in seconds; a hung server fails its test.
const PROGRAM_MAX_SECONDS: &str = "120";

/// Whether `test` can run; says so when it cannot, and fails if the machine should have had it.
pub(crate) fn has(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().copied().filter(|p| !is_installed(p)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(test, &missing.join(", "));
    let required = std::env::var_os("ASHLAR_REQUIRE_TOOLS").is_some_and(|v| v == "1");
    assert!(!required, "{test} needs {missing:?}, and ASHLAR_REQUIRE_TOOLS=1");
    false
}

/// Whether this machine lets `test` mount: root, FUSE and loop devices. Never a failure.
pub(crate) fn may_mount(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip(test, "root rights");
        return false;
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if fs::File::options().read(true).write(true).open(device).is_err() {
            skip(test, device);
            return false;
        }
    }
    true
}

/// Whether `test` can mount a fault disk. Missing rights are no failure, a missing program is one.
pub(crate) fn may_use_fuse(test: &str) -> bool {
    if !has(test, &["fusermount3"]) {
        return false;
    }
    if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        skip(test, "/dev/fuse");
        return false;
    }
    true
}

/// Whether `test` can cut links between nodes: root, and network namespaces. Missing rights are no
/// failure, a missing program is one.
pub(crate) fn may_cut(test: &str) -> bool {
    if !has(test, &["ip"]) {
        return false;
    }
    let missing = Network::missing();
    if let Some(what) = &missing {
        skip(test, what);
    }
    missing.is_none()
}

/// Whether the server is Ashlar itself: some tests ask for what only it has.
pub(crate) fn is_ashlar(test: &str) -> bool {
    let is_ashlar = Kind::from_environment() == Kind::Ashlar;
    if !is_ashlar {
        skip(test, "ashlar as the server");
    }
    is_ashlar
}

/// Straight to stderr, which the test harness does not capture as it does `eprintln!`.
pub(crate) fn skip(test: &str, need: &str) {
    let line = format!("skipped: {test} needs {need}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn is_installed(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    std::env::split_paths(&path_with_sbin()).any(|folder| folder.join(program).is_file())
}

/// Programs that make and mount file systems are often outside a user's path.
fn path_with_sbin() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::join_paths(std::env::split_paths(&path).chain(usual)).unwrap()
}

/// A program with a time limit.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", PROGRAM_MAX_SECONDS, program]).args(arguments);
    command.env("LC_ALL", "C").env("PATH", path_with_sbin()).current_dir("/");
    command
}

/// Runs a program.
pub(crate) fn output<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    command(program, arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program that must succeed; its stdout.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let output = output(program, arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let shown: Vec<_> = arguments.iter().map(|a| a.as_ref()).collect();
    assert!(
        output.status.success(),
        "{program} {shown:?}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Runs a program that must succeed and print JSON.
pub(crate) fn run_json<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> serde_json::Value {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{program}: {e} in {text}"))
}

/// A directory and how to serve a volume `vm0` from it.
pub(crate) struct Place {
    /// Declared first, so that it goes last.
    pub(crate) setup: Setup,
    pub(crate) directory: TemporaryDirectory,
}

impl Place {
    pub(crate) fn new(name: &str, volume_bytes: u64) -> Place {
        let directory = TemporaryDirectory::new(name).unwrap();
        let setup = Setup::new(directory.path(), volume_bytes);
        Place { setup, directory }
    }

    /// Starts the server; fails the test with the server's own words.
    pub(crate) fn serve(&self) -> Server {
        Server::start(&self.setup).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A path in the directory, as text for command lines.
    pub(crate) fn file(&self, leaf: &str) -> String {
        self.directory.join(leaf).to_str().unwrap().to_owned()
    }
}

/// A file with `pieces`: random bytes where the first is set, a hole where not.
pub(crate) fn write_pattern(path: &str, seed: u64, pieces: &[(bool, usize)]) {
    use std::io::{Seek, SeekFrom};
    let mut random = Random::new(seed);
    let mut file = fs::File::create(path).unwrap();
    let mut length = 0;
    for (has_data, bytes) in pieces {
        if *has_data {
            let mut data = vec![0u8; *bytes];
            random.fill(&mut data);
            file.seek(SeekFrom::Start(length)).unwrap();
            file.write_all(&data).unwrap();
        }
        length += *bytes as u64;
    }
    file.set_len(length).unwrap();
}

/// Whether two files have the same bytes.
pub(crate) fn same_bytes(one: &str, other: &str) -> bool {
    output("cmp", &[one, other]).status.success()
}
