//! One server process: started, awaited, killed, always reaped.
//!
//! The program under test is `ashlar`. `ASHLAR_JEPSEN_SERVER=qemu-nbd` puts qemu's server in its
//! place, which tells a broken run from a broken server; a peer serves one volume only.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, binary};

/// A server must accept clients within this time, also after a crash.
const READY_MAX: Duration = Duration::from_secs(60);
/// A server that closed its stdout is gone within this time.
const EXIT_MAX: Duration = Duration::from_secs(1);
/// A drain must end within this time.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Between two looks at something that has no event.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The program under test.
    Ashlar,
    /// A peer that tells a broken run from a broken server.
    QemuNbd,
}

impl Kind {
    /// As `ASHLAR_JEPSEN_SERVER` says; Ashlar unless told otherwise.
    pub fn from_environment() -> Kind {
        match std::env::var("ASHLAR_JEPSEN_SERVER").as_deref() {
            Ok("qemu-nbd") => Kind::QemuNbd,
            _ => Kind::Ashlar,
        }
    }
}

/// What to serve, and where its files are.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which program.
    pub kind: Kind,
    /// Directory for the store, the sockets and the log.
    pub directory: PathBuf,
    /// The store, if it is not in the directory.
    pub device: Option<PathBuf>,
    /// Size of the store, where the program lets one choose.
    pub store_bytes: Option<u64>,
    /// Volumes: name and size.
    pub volumes: Vec<(String, u64)>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Setup {
    /// One volume `vm0` in `directory`, served by the chosen program.
    pub fn new(directory: &Path, volume_bytes: u64) -> Setup {
        Setup {
            kind: Kind::from_environment(),
            directory: directory.to_owned(),
            device: None,
            store_bytes: None,
            volumes: vec![("vm0".to_owned(), volume_bytes)],
            arguments: Vec::new(),
        }
    }

    /// The store (or the image of a peer).
    pub fn store(&self) -> PathBuf {
        self.device.clone().unwrap_or_else(|| self.directory.join("store"))
    }

    /// The admin socket.
    pub fn admin(&self) -> PathBuf {
        self.directory.join("store.sock")
    }

    /// The NBD socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("nbd.sock")
    }

    /// What the server said to stderr.
    pub fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// URI of a volume.
    pub fn uri(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.socket().display())
    }

    fn command(&self) -> Result<Command> {
        match self.kind {
            Kind::Ashlar => self.ashlar_command(),
            Kind::QemuNbd => self.qemu_command(),
        }
    }

    fn ashlar_command(&self) -> Result<Command> {
        let mut command = tied_command(&binary::ashlar()?);
        command.arg("serve").arg("--store").arg(self.store());
        command.arg("--admin").arg(self.admin());
        command.arg("--listen").arg(format!("unix:{}", self.socket().display()));
        if let Some(size) = self.store_bytes {
            command.arg("--size").arg(size.to_string());
        }
        for (name, size) in &self.volumes {
            command.arg("--create").arg(format!("{name}:{size}"));
        }
        command.args(&self.arguments);
        Ok(command)
    }

    fn qemu_command(&self) -> Result<Command> {
        let [(name, size)] = self.volumes.as_slice() else {
            return Err("qemu-nbd serves exactly one volume".into());
        };
        let file = OpenOptions::new().create(true).append(true).open(self.store());
        file.and_then(|file| file.set_len(*size)).map_err(|e| format!("image: {e}"))?;
        let _ = std::fs::remove_file(self.socket()); // a killed peer leaves its socket behind
        let mut command = tied_command(Path::new("qemu-nbd"));
        // Killed in the middle of a copy into the page cache, it would leave half a sector.
        command.args(["-f", "raw", "--cache=none", "--persistent", "--shared=64"]);
        command.args(["--discard=unmap", "-x", name]);
        command.args(&self.arguments).arg("-k").arg(self.socket()).arg(self.store());
        Ok(command)
    }
}

/// A command whose process dies with this one, also when this one is killed.
pub fn tied_command(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    child: Child,
    ready: mpsc::Receiver<String>,
    /// What it printed to say where it listens.
    pub ready_lines: Vec<String>,
    /// From start to accepting clients.
    pub ready_after: Duration,
}

impl Server {
    /// Starts a server and waits until it accepts clients.
    pub fn start(setup: &Setup) -> Result<Server> {
        // The first one may have to build the program: that is no part of its start.
        setup.command()?;
        let started = Instant::now();
        let mut server = Server::spawn(setup)?;
        match setup.kind {
            Kind::Ashlar => server.await_ready_line(started)?,
            Kind::QemuNbd => server.await_socket(started)?,
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Starts a server without waiting for it.
    pub fn spawn(setup: &Setup) -> Result<Server> {
        let log = File::options().create(true).append(true).open(setup.log());
        let log = log.map_err(|e| format!("cannot open the server's log: {e}"))?;
        let mut command = setup.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        let stdout = child.stdout.take().expect("invariant: stdout is piped");
        let (sender, ready) = mpsc::channel();
        // Ends with the server, when its stdout closes.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if line.starts_with("ready ") && sender.send(line).is_err() {
                    return;
                }
            }
        });
        let setup = setup.clone();
        let (ready_lines, ready_after) = (Vec::new(), Duration::ZERO);
        Ok(Server { setup, child, ready, ready_lines, ready_after })
    }

    /// How it was started.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// URI of its first volume.
    pub fn uri(&self) -> String {
        self.setup.uri(&self.setup.volumes[0].0)
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and the process is gone.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|e| format!("kill: {e}"))?;
        Ok(())
    }

    /// SIGTERM; the exit status once it has drained.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).map_err(|e| format!("SIGTERM: {e}"))?;
        self.await_exit(DRAIN_MAX)
    }

    /// Waits for the process to end by itself.
    pub fn await_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if started.elapsed() < limit => std::thread::sleep(LOOK_INTERVAL),
                Ok(None) => return Err(format!("still running after {limit:?}")),
                Err(error) => return Err(format!("wait: {error}")),
            }
        }
    }

    /// The end of what the server said to stderr.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.setup.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// One `ready` line for each address asked for.
    fn await_ready_line(&mut self, started: Instant) -> Result<()> {
        let further = self.setup.arguments.iter().filter(|a| *a == "--listen").count();
        while self.ready_lines.len() < 1 + further {
            let rest = READY_MAX.saturating_sub(started.elapsed());
            let line = self.ready.recv_timeout(rest).map_err(|_| self.not_ready())?;
            self.ready_lines.push(line);
        }
        Ok(())
    }

    fn await_socket(&mut self, started: Instant) -> Result<()> {
        while UnixStream::connect(self.setup.socket()).is_err() {
            if started.elapsed() > READY_MAX || !self.is_running() {
                return Err(self.not_ready());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Why there is no server: it closed its stdout and ends, or it hangs.
    fn not_ready(&mut self) -> String {
        let state = match self.await_exit(EXIT_MAX) {
            Ok(status) => format!("ended ({status})"),
            Err(_) => "does not accept clients".to_owned(),
        };
        format!("the server {state}; it said:\n{}", self.log_tail())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
