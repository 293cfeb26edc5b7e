//! Starts the servers that are compared and ends them by process id.
//!
//! Invariant: a server's process is gone when its `Server` is, also when this program is killed
//! (`setpriv --pdeathsig`).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::process::{Reaped, tied_command};
use crate::address::{Endpoint, Target};
use crate::{Result, interrupt};

/// A server accepts clients within this time or has failed.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two looks at a socket that is to appear.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Name of the volume everywhere.
pub const VOLUME: &str = "vm0";

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Reaped,
    /// Where its volume is.
    pub target: Target,
    /// From start to accepting clients.
    pub ready_after: Duration,
}

impl Server {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// SIGKILL.
    pub fn kill(self) {
        drop(self);
    }
}

/// How to start Ashlar on one store.
#[derive(Clone, Debug)]
pub struct Ashlar {
    /// The program.
    pub program: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// Size of the store.
    pub store_bytes: u64,
    /// Size of the volume.
    pub volume_bytes: u64,
}

impl Ashlar {
    /// Starts it; returns when it accepts clients.
    pub fn start(&self) -> Result<Server> {
        let socket = self.store.with_extension("nbd");
        let mut command = tied_command(&self.program);
        command.arg("serve").arg("--store").arg(&self.store);
        command.arg("--size").arg(self.store_bytes.to_string());
        command.arg("--create").arg(format!("{VOLUME}:{}", self.volume_bytes));
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let log = self.store.with_extension("log");
        let log = File::create(&log).map_err(|e| format!("cannot create a log: {e}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let started = Instant::now();
        let mut child = spawn(command)?;
        let stdout = child.0.stdout.take().expect("invariant: stdout is piped");
        let (sender, lines) = mpsc::channel();
        // Ends with the server, when its stdout closes.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if line.starts_with("ready ") && sender.send(()).is_err() {
                    return;
                }
            }
        });
        lines.recv_timeout(READY_MAX).map_err(|_| self.why_not_ready())?;
        let ready_after = started.elapsed();
        Ok(Server { child, target: target(&socket), ready_after })
    }

    /// Its report about itself; `None` if it gives none.
    pub fn status(&self) -> Option<serde_json::Value> {
        let mut command = Command::new(&self.program);
        command.args(["status", "--json", "--store"]).arg(&self.store).stdin(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        serde_json::from_slice(&output.stdout).ok()
    }

    fn why_not_ready(&self) -> String {
        let log = std::fs::read_to_string(self.store.with_extension("log")).unwrap_or_default();
        format!("{} did not become ready; it said:\n{log}", self.program.display())
    }
}

/// `qemu-nbd` with `cache=none` and io_uring: its fastest honest setting.
pub fn qemu_nbd(image: &Path) -> Result<Server> {
    let socket = image.with_extension("qemu");
    let mut command = tied_command(Path::new("qemu-nbd"));
    command.args(["-f", "raw", "--persistent", "--shared=16", "--discard=unmap"]);
    command.args(["--cache=none", "--aio=io_uring", "-x", VOLUME, "-k"]).arg(&socket).arg(image);
    await_socket(command, &socket)
}

/// `nbdkit file`: writes stop in the page cache.
pub fn nbdkit_file(image: &Path) -> Result<Server> {
    let socket = image.with_extension("nbdkit");
    let mut command = tied_command(Path::new("nbdkit"));
    command.args(["--foreground", "--exportname", VOLUME, "--unix"]).arg(&socket);
    command.arg("file").arg(image);
    await_socket(command, &socket)
}

fn target(socket: &Path) -> Target {
    Target { endpoint: Endpoint::Unix(socket.to_owned()), export: VOLUME.to_owned() }
}

fn spawn(mut command: Command) -> Result<Reaped> {
    let child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
    Ok(Reaped(child))
}

fn await_socket(mut command: Command, socket: &Path) -> Result<Server> {
    let path = socket.with_added_extension("log");
    let log = File::create(&path).map_err(|e| format!("cannot create a log: {e}"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let started = Instant::now();
    let mut child = spawn(command)?;
    while UnixStream::connect(socket).is_err() {
        interrupt::check()?;
        let ended = !matches!(child.0.try_wait(), Ok(None));
        if ended || started.elapsed() > READY_MAX {
            let said = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(format!("{} did not appear; its server said: {said}", socket.display()));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(Server { child, target: target(socket), ready_after: started.elapsed() })
}
