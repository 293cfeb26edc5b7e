//! A network of its own for the nodes of a cluster, whose links can be cut.
//!
//! Every host is a network namespace, joined by a veth pair to a further namespace that routes
//! between them. A direction is cut by a rule of the router that drops what goes that way, so a
//! host sees what it would see of a broken switch: nothing. No error comes back, connections are
//! not reset. Unix sockets, by which clients come, do not care about namespaces.
//!
//! Needs root and `ip` of iproute2. Must never know: what hosts say to each other.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::workload::lock;

/// Namespaces of this program begin so; what follows is the process id.
const NAME: &str = "ashlar-jepsen";
/// Where `ip` keeps namespaces that have a name.
const NAMESPACES: &str = "/run/netns";
/// Where cuts stand among the router's rules: before all but the one for local addresses.
const RULE_PRIORITY: u32 = 100;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A direction: from one host to another.
pub type Direction = (usize, usize);

/// Hosts, and a router between them; all is deleted on drop.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: usize,
    cut: Mutex<BTreeSet<Direction>>,
}

impl Network {
    /// Why this machine cannot have one, if it cannot.
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("root rights".to_owned());
        }
        let name = format!("{NAME}-{}-probe", std::process::id());
        let made = ip(&["netns", "add", &name]).and_then(|()| {
            let pair = ["-n", &name, "link", "add", "one", "type", "veth", "peer", "name", "two"];
            let rule = ["-n", &name, "rule", "add", "from", "10.0.0.1", "blackhole"];
            ip(&pair).and_then(|()| ip(&rule))
        });
        // It may not have been made.
        let _ = ip(&["netns", "del", &name]);
        made.err().map(|error| format!("network namespaces: {error}"))
    }

    /// Makes `hosts` hosts of which each reaches all others.
    pub fn new(hosts: usize) -> Result<Network> {
        remove_left_over();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{NAME}-{}-{number}", std::process::id());
        // From here on a failure deletes what was made.
        let network = Network { prefix, hosts, cut: Mutex::default() };
        let router = network.router();
        ip(&["netns", "add", &router])?;
        for host in 0..hosts {
            ip(&["netns", "add", &network.name(host)])?;
            network.join(host)?;
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        ip(&["netns", "exec", &router, "sh", "-c", forward])?;
        Ok(network)
    }

    fn join(&self, host: usize) -> Result<()> {
        let (name, port, subnet) = (self.name(host), format!("port{host}"), host + 1);
        let router = self.router();
        ip(&[
            "-n", &router, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &name,
        ])?;
        let gateway = format!("10.77.{subnet}.1");
        batch(&router, &format!("addr add {gateway}/24 dev {port}\nlink set {port} up\n"))?;
        let own = self.address(host);
        let lines = format!(
            "link set lo up\naddr add {own}/24 dev eth0\nlink set eth0 up\n\
             route add default via {gateway}\n"
        );
        batch(&name, &lines)
    }

    /// A host's IP address.
    pub fn address(&self, host: usize) -> String {
        format!("10.77.{}.2", host + 1)
    }

    /// Number of hosts.
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// What to run before a program's path so that it runs at a host, under the same process id.
    pub fn runner(&self, host: usize) -> Vec<String> {
        let words = ["ip", "netns", "exec", &self.name(host)];
        words.map(str::to_owned).to_vec()
    }

    /// Cuts all these directions at once.
    pub fn cut(&self, directions: &[Direction]) -> Result<()> {
        let mut cut = lock(&self.cut);
        let new: BTreeSet<_> = directions.iter().filter(|way| !cut.contains(way)).collect();
        let lines: String = new.iter().map(|way| self.rule("add", **way)).collect();
        batch(&self.router(), &lines)?;
        cut.extend(new);
        Ok(())
    }

    /// Mends everything.
    pub fn heal(&self) -> Result<()> {
        let mut cut = lock(&self.cut);
        let lines: String = cut.iter().map(|way| self.rule("del", *way)).collect();
        batch(&self.router(), &lines)?;
        cut.clear();
        Ok(())
    }

    /// A line of a batch for `ip`.
    fn rule(&self, what: &str, (from, to): Direction) -> String {
        let (from, to) = (self.address(from), self.address(to));
        format!("rule {what} pref {RULE_PRIORITY} from {from} to {to} blackhole\n")
    }

    fn name(&self, host: usize) -> String {
        format!("{}-host{host}", self.prefix)
    }

    fn router(&self) -> String {
        format!("{}-router", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in (0..self.hosts).map(|host| self.name(host)).chain([self.router()]) {
            // It may not have been made. Its end of each veth pair goes with it, and so the other.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// Deletes what runs left that were killed.
fn remove_left_over() {
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(NAME).and_then(|rest| rest.split('-').nth(1));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another run may do the same.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// Runs `ip`, which must succeed.
fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run ip: {e}"))?;
    succeeded(&output, &arguments.join(" "))
}

/// Runs lines in a namespace, by one process.
fn batch(namespace: &str, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let refused = |error| format!("cannot run ip: {error}");
    let mut child = command.spawn().map_err(refused)?;
    let mut stdin = child.stdin.take().expect("invariant: stdin is piped");
    stdin.write_all(lines.as_bytes()).map_err(refused)?;
    drop(stdin);
    succeeded(&child.wait_with_output().map_err(refused)?, lines)
}

fn succeeded(output: &Output, what: &str) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {what}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
