//! Node processes of a cluster on this machine.
//!
//! Must never know: what nodes do.

use super::folder::Folder;
use crate::program::failure::{Failure, Result};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A node that this process has started.
#[derive(Debug)]
pub(super) struct NodeProcess {
    pub(super) node: u16,
    child: Child,
}

impl NodeProcess {
    /// Starts a node; what it says goes to its log. It is in a process group of its own, so that an
    /// interrupt at the terminal reaches only who sees to its orderly end.
    pub(super) fn start(folder: &Folder, node: u16) -> Result<NodeProcess> {
        let refused =
            |error: std::io::Error| Failure::new(format!("cannot start node {node}: {error}"));
        let log = OpenOptions::new().create(true).append(true).open(folder.log(node));
        let log = log.map_err(refused)?;
        let mut command = Command::new(std::env::current_exe().map_err(refused)?);
        command.arg("serve").arg("--config").arg(folder.config(node));
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(refused)?).stderr(log);
        let child = command.process_group(0).spawn().map_err(refused)?;
        Ok(NodeProcess { node, child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end.
    pub(super) fn stop(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        // It may have ended just now.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The process that runs a node of a folder, whoever started it.
pub(super) fn running(folder: &Folder, node: u16) -> Option<u32> {
    let text = std::fs::read_to_string(folder.pid_file(node)).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    // The number may have been given to another process since.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = folder.config(node);
    let ours =
        command.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes());
    (ours && is_alive(pid)).then_some(pid)
}

/// Asks a process to end.
pub(super) fn stop(pid: u32) {
    signal(pid, Signal::TERM);
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // It may have ended just now.
        kill_process(pid, signal).ok();
    }
}

fn is_alive(pid: u32) -> bool {
    Pid::from_raw(pid as i32).is_some_and(|pid| test_kill_process(pid).is_ok())
}
