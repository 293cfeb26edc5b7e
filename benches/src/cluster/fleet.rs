//! The two sides: a single node, and three nodes that `ashlar cluster local` starts.
//!
//! Invariant: all of their processes are gone when the value is.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::address::Target;
use crate::table::process::tied_command;

/// Everything is ready within this time or has failed.
const READY_MAX: Duration = Duration::from_secs(90);
/// It ends within this time when it is asked to.
const END_MAX: Duration = Duration::from_secs(20);

/// Name of the volume.
const VOLUME: &str = "vm0";

/// Server processes that hold one volume.
#[derive(Debug)]
pub(super) struct Side {
    child: Child,
    /// Where the volume is.
    pub(super) target: Target,
    /// Its servers.
    pub(super) pids: Vec<u32>,
}

impl Side {
    /// One node with a store of its own.
    pub(super) fn single(
        program: &Path,
        folder: &Path,
        volume_bytes: u64,
        store_bytes: u64,
    ) -> Result<Side> {
        let mut command = tied_command(program);
        command.arg("serve").arg("--store").arg(folder.join("single.store"));
        command.arg("--size").arg(store_bytes.to_string());
        command.arg("--create").arg(format!("{VOLUME}:{volume_bytes}"));
        // The cluster is reached by TCP too.
        command.args(["--listen", "127.0.0.1:0"]);
        let (child, lines) = start(command, &folder.join("single.log"), 1, 0)?;
        let pids = vec![child.id()];
        Side::new(child, &lines, pids)
    }

    /// Three nodes.
    pub(super) fn cluster(
        program: &Path,
        folder: &Path,
        volume_bytes: u64,
        store_bytes: u64,
    ) -> Result<Side> {
        let mut command = tied_command(program);
        command.args(["cluster", "local", "--nodes", "3", "--dir"]).arg(folder.join("cluster"));
        command.arg("--size").arg(store_bytes.to_string());
        command.arg("--create").arg(format!("{VOLUME}:{volume_bytes}"));
        let (child, lines) = start(command, &folder.join("cluster.log"), 3, 3)?;
        let pid = |line: &String| line.strip_prefix("pid ")?.split(' ').nth(1)?.parse().ok();
        let pids = lines.iter().filter_map(pid).collect();
        Side::new(child, &lines, pids)
    }

    fn new(child: Child, lines: &[String], pids: Vec<u32>) -> Result<Side> {
        let ready = lines.iter().find_map(|line| line.strip_prefix("ready "));
        let ready = ready.ok_or("no server said where it is")?.trim_end_matches('/');
        let target = format!("{ready}/{VOLUME}").parse()?;
        Ok(Side { child, target, pids })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // A cluster ends its nodes when it is asked to; killed, it could not.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < END_MAX && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it; gives its lines once so many of them say `ready` and `pid`.
fn start(
    mut command: Command,
    log: &Path,
    ready: usize,
    pids: usize,
) -> Result<(Child, Vec<String>)> {
    let file = File::create(log).map_err(|e| format!("cannot create a log: {e}"))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let mut child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
    let stdout = child.stdout.take().expect("invariant: stdout is piped");
    let (sender, lines) = mpsc::channel();
    // Ends with the server, when its stdout closes.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let (mut said, started) = (Vec::new(), Instant::now());
    let count = |said: &[String], what: &str| said.iter().filter(|l| l.starts_with(what)).count();
    while count(&said, "ready ") < ready || count(&said, "pid ") < pids {
        match lines.recv_timeout(READY_MAX.saturating_sub(started.elapsed())) {
            Ok(line) => said.push(line),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                let why = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{command:?} did not become ready; it said:\n{why}"));
            }
        }
    }
    Ok((child, said))
}
