//! Nodes of a cluster, each a process `ashlar serve --config node.toml`, as on real hosts.
//!
//! The cluster is made by the commands that operators use. With a [`Network`] every node runs at a
//! host of its own; without, all are on loopback. Clients and commands come by unix sockets.
//!
//! Must never know: what the load is.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::nbd::Connection;
use crate::network::Network;
use crate::server::tied_command;
use crate::workload::lock;
use crate::{Result, binary};

/// Nodes of a cluster.
pub const NODES: usize = 3;
/// A node lets clients in within this time, however it was ended.
const READY_MAX: Duration = Duration::from_secs(60);
/// A node ends within this time when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Replicas have caught up within this time.
pub const WHOLE_MAX: Duration = Duration::from_secs(180);
/// Entries that a member may lack under load and count as caught up: less than a second of them.
pub const LAG_MAX: u64 = 4096;
/// Between two looks at something that has no event.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Where nodes of a network listen for each other.
const PORT: u16 = 7400;
/// Lines of a log that are shown.
const LOG_LINES_MAX: usize = 20;

/// What the cluster is to be.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Volumes: name and size.
    pub volumes: Vec<(String, u64)>,
    /// Bytes of each store; by default enough for the volumes.
    pub store_bytes: Option<u64>,
    /// Further lines of every `node.toml`.
    pub settings: String,
}

/// A running cluster; its processes are ended on drop.
#[derive(Debug)]
pub struct Fleet {
    directory: PathBuf,
    /// Whether a node runs; with it while it does.
    processes: [Mutex<Option<Child>>; NODES],
    /// Declared after the processes, so that it goes after them.
    network: Option<Network>,
}

impl Fleet {
    /// Makes a cluster of three nodes in `directory` and waits until it is whole.
    pub fn start(directory: &Path, network: Option<Network>, plan: &Plan) -> Result<Fleet> {
        let fleet =
            Fleet { directory: directory.to_owned(), processes: Default::default(), network };
        fleet.write_settings(0, &format!("id = 1\naddress = \"{}\"\n", fleet.address(0)?), plan)?;
        fleet.spawn(0)?;
        fleet.await_serving(0)?;
        fleet.ask(0, &["cluster", "init"])?;
        for node in 1..NODES {
            let address = fleet.address(node)?;
            let label = format!("host=node{}", node + 1);
            let admit = ["cluster", "add-node", &address, "--label", &label];
            fleet.write_settings(node, &fleet.ask(0, &admit)?, plan)?;
            fleet.spawn(node)?;
            fleet.await_serving(node)?;
        }
        fleet.await_nodes()?;
        for (name, size) in &plan.volumes {
            let size = size.to_string();
            let policy = ["--size", &size, "--policy", "replicas=3"];
            fleet.ask(0, &[&["volume", "create", name][..], &policy].concat())?;
        }
        fleet.await_whole()?;
        for node in 0..NODES {
            fleet.await_volumes(node, plan)?;
        }
        Ok(fleet)
    }

    /// The network, if they have one.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Attaches to a volume through a node, 0 to 2.
    pub fn connect(&self, node: usize, volume: &str) -> Result<Connection> {
        Connection::open(&self.socket(node), volume)
    }

    /// A node's NBD socket.
    pub fn socket(&self, node: usize) -> PathBuf {
        self.file(node, "nbd")
    }

    /// URI of a volume at a node.
    pub fn uri(&self, node: usize, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.socket(node).display())
    }

    /// A node's store.
    pub fn store(&self, node: usize) -> PathBuf {
        self.file(node, "store")
    }

    /// SIGKILL; the process is gone when this returns.
    pub fn kill(&self, node: usize) -> Result<()> {
        let mut process = lock(&self.processes[node]).take().ok_or("the node does not run")?;
        process.kill().and_then(|()| process.wait()).map_err(|e| format!("kill: {e}"))?;
        Ok(())
    }

    /// SIGTERM, and an orderly end.
    pub fn terminate(&self, node: usize) -> Result<()> {
        let mut process = lock(&self.processes[node]).take().ok_or("the node does not run")?;
        let asked = kill_process(Pid::from_child(&process), Signal::TERM);
        asked.map_err(|e| format!("SIGTERM: {e}"))?;
        let started = Instant::now();
        while started.elapsed() < STOP_MAX {
            match process.try_wait().map_err(|e| format!("wait: {e}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.said(node, &format!("it ended with {status}"))),
                None => std::thread::sleep(LOOK_INTERVAL),
            }
        }
        // Handed back, so that it does not outlive this.
        lock(&self.processes[node]).replace(process);
        Err(self.said(node, &format!("it runs {STOP_MAX:?} after SIGTERM")))
    }

    /// Starts a node that does not run, without waiting for it.
    pub fn spawn(&self, node: usize) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.file(node, "log"));
        let log = log.map_err(|e| format!("cannot make a log: {e}"))?;
        let own = binary::ashlar()?;
        let mut command = match &self.network {
            None => tied_command(&own),
            Some(network) => {
                let runner = network.runner(node);
                let mut command = tied_command(Path::new(&runner[0]));
                command.args(&runner[1..]).arg(own);
                command
            }
        };
        command.args(["serve", "--config"]).arg(self.file(node, "toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        let before = lock(&self.processes[node]).replace(process);
        assert!(before.is_none(), "node {} was started twice", node + 1);
        Ok(())
    }

    /// Starts a node again; it serves when this returns.
    pub fn restart(&self, node: usize) -> Result<()> {
        self.spawn(node)?;
        self.await_serving(node)
    }

    /// Whether a node runs.
    pub fn is_running(&self, node: usize) -> bool {
        lock(&self.processes[node]).as_mut().is_some_and(|p| matches!(p.try_wait(), Ok(None)))
    }

    /// Waits until a node lets clients in.
    pub fn await_serving(&self, node: usize) -> Result<()> {
        let serves = || UnixStream::connect(self.socket(node)).is_ok();
        let started = Instant::now();
        while !serves() {
            if started.elapsed() > READY_MAX || !self.is_running(node) {
                return Err(self.said(node, "it does not serve"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// What `ashlar cluster status --json` says at a node.
    pub fn status(&self, node: usize) -> Result<Value> {
        let text = self.ask(node, &["cluster", "status", "--json"])?;
        serde_json::from_str(&text).map_err(|e| format!("status is no JSON: {e}"))
    }

    /// What each node says of the cluster and of its own store, for people.
    pub fn all_status(&self) -> String {
        let say = |node, what: &[&str]| match self.ask(node, what) {
            Ok(text) => format!("node {}, {}:\n{text}\n", node + 1, what.join(" ")),
            Err(error) => error,
        };
        let both = |node| say(node, &["cluster", "status"]) + &say(node, &["status"]);
        (0..NODES).map(both).collect()
    }

    /// Node that leads the first placement group of volumes, as any node knows.
    pub fn leader(&self) -> Option<usize> {
        let led = |node| leader(&self.status(node).ok()?);
        (0..NODES).find_map(led)
    }

    /// Runs a command of `ashlar` that asks a node; its stdout.
    pub fn ask(&self, node: usize, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary::ashlar()?);
        command.args(arguments).arg("--admin").arg(self.file(node, "sock"));
        let output: Output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!(
                "node {}: {arguments:?}: {}",
                node + 1,
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// Waits until, as every node sees it, all placement groups have three voters that lack
    /// nothing, and nothing is degraded. Under load there is always something that one lacks.
    pub fn await_whole(&self) -> Result<()> {
        self.await_healthy(WHOLE_MAX, 0)
    }

    /// As [`Fleet::await_whole`], for as long, and members may lack so many entries.
    pub fn await_healthy(&self, longest: Duration, lag_max: u64) -> Result<()> {
        for node in 0..NODES {
            let healthy = || is_healthy(&self.status(node).ok()?, lag_max);
            self.until(node, "healthy", longest, healthy)?;
        }
        Ok(())
    }

    /// Stores of a node that hold replicas, as another one says.
    pub fn stores_of(&self, node: usize) -> Result<BTreeSet<u64>> {
        let status = self.status((node + 1) % NODES)?;
        let id = &status["nodes"][node]["id"];
        let groups = status["placement_groups"].as_array().into_iter().flatten();
        let members = groups.filter_map(|group| group["members"].as_array()).flatten();
        let own = members.filter(|member| member["node"] == *id);
        Ok(own.filter_map(|member| member["store"].as_u64()).collect())
    }

    /// Waits until none of these stores holds a replica of a node any more, but others do.
    pub fn await_replaced(
        &self,
        node: usize,
        stores: &BTreeSet<u64>,
        longest: Duration,
    ) -> Result<()> {
        self.until(node, "on a new store", longest, || {
            let now = self.stores_of(node).ok()?;
            (!now.is_empty() && now.is_disjoint(stores)).then_some(())
        })
    }

    fn await_nodes(&self) -> Result<()> {
        self.until(0, "joined by all", WHOLE_MAX, || {
            let status = self.status(0).ok()?;
            let nodes = status["nodes"].as_array()?;
            let fine = |node: &&Value| {
                node["alive"] == true && node["state"] == "up" && node["stores"][0].is_object()
            };
            (nodes.iter().filter(fine).count() == NODES).then_some(())
        })
    }

    fn await_volumes(&self, node: usize, plan: &Plan) -> Result<()> {
        let known = |name: &String| self.connect(node, name).is_ok();
        let all = || plan.volumes.iter().all(|(name, _)| known(name)).then_some(());
        self.until(node, "told of all volumes", WHOLE_MAX, all)
    }

    fn until(
        &self,
        node: usize,
        what: &str,
        longest: Duration,
        holds: impl Fn() -> Option<()>,
    ) -> Result<()> {
        let started = Instant::now();
        while holds().is_none() {
            if started.elapsed() > longest {
                let status = self.status(node).map(|status| status.to_string());
                let what = format!("it is not {what} after {longest:?}: {status:?}");
                return Err(self.said(node, &what));
            }
            std::thread::sleep(5 * LOOK_INTERVAL);
        }
        Ok(())
    }

    /// The end of a node's log.
    fn said(&self, node: usize, what: &str) -> String {
        let log = std::fs::read_to_string(self.file(node, "log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n");
        format!("node {}: {what}; it said:\n{tail}", node + 1)
    }

    /// Where other nodes reach a node.
    fn address(&self, node: usize) -> Result<String> {
        match &self.network {
            Some(network) => Ok(format!("{}:{PORT}", network.address(node))),
            None => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
                let address = listener.and_then(|listener| listener.local_addr());
                Ok(address.map_err(|e| format!("no port is free: {e}"))?.to_string())
            }
        }
    }

    fn write_settings(&self, node: usize, own: &str, plan: &Plan) -> Result<()> {
        let volumes: u64 = plan.volumes.iter().map(|(_, size)| size).sum();
        // Room for logs of groups and for the cleaner.
        let size = plan.store_bytes.unwrap_or((2 * volumes).max(512 << 20));
        let text = format!(
            "{own}listen = [\"unix:{}\"]\nstore = {:?}\nsize = \"{size}\"\nadmin = {:?}\n{}",
            self.socket(node).display(),
            self.store(node),
            self.file(node, "sock"),
            plan.settings,
        );
        let path = self.file(node, "toml");
        std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    fn file(&self, node: usize, what: &str) -> PathBuf {
        self.directory.join(format!("node{}.{what}", node + 1))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &self.processes {
            if let Some(mut process) = lock(process).take() {
                // Both fail only if the process has been reaped already.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

/// Whether nothing is amiss, as one of the nodes says, and members lack at most so many entries.
fn is_healthy(status: &Value, lag_max: u64) -> Option<()> {
    let groups = status["placement_groups"].as_array()?;
    let has_all = |member: &Value| {
        let lag = member["lag_entries"].as_u64();
        member["role"] == "voter"
            && member["alive"] == true
            && lag.is_some_and(|lag| lag <= lag_max)
    };
    let whole = |group: &Value| {
        let members = group["members"].as_array();
        !group["leader"].is_null()
            && members.is_some_and(|m| m.len() == NODES && m.iter().all(has_all))
    };
    let fine = status["degraded"].as_array()?.is_empty();
    (fine && groups.len() > 1 && groups.iter().all(whole)).then_some(())
}

fn leader(status: &Value) -> Option<usize> {
    let leader = status["placement_groups"].as_array()?.get(1)?["leader"].as_u64()?;
    let nodes = status["nodes"].as_array()?;
    nodes.iter().position(|node| node["id"] == leader)
}
