//! `ashlar cluster local`: a cluster of node processes on this machine.
//!
//! Must never know: how nodes agree.

use super::cli::LocalArgs;
use super::folder::{Folder, free_address};
use super::process::{self, NodeProcess};
use crate::program::admin::Request;
use crate::program::admin::client::ask;
use crate::program::admin::cluster_report::{AdmittedReport, ClusterReport};
use crate::program::admin::report::{StatusReport, VolumesReport};
use crate::program::cli::StoreArgs;
use crate::program::failure::{Failure, Result};
use crate::program::output::{complain, say};
use crate::program::serve::signals::Signals;
use crate::program::store;
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use serde::de::DeserializeOwned;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Time for a node to answer, and for the cluster to become whole.
const START_MAX: Duration = Duration::from_secs(60);
/// Time for nodes to end when they are asked to.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Most copies of a volume that are made unasked.
const REPLICAS: u16 = 3;
/// Nodes of a cluster if nobody says.
const NODES_DEFAULT: u16 = 3;

/// See the module.
pub(super) fn run(args: &LocalArgs) -> Result<()> {
    let folder = Folder::open(&args.dir)?;
    let reactor = Reactor::new(ReactorOptions::default())?;
    let signals = Signals::watch(&reactor)?;
    let mut local = Local { reactor: reactor.clone(), folder, nodes: Vec::new() };
    let result = match args.restart {
        Some(node) => reactor.block_on(local.restart(node)),
        None => reactor.block_on(async {
            let ran = local.run(args, &signals).await;
            local.stop().await;
            ran
        }),
    };
    reactor.shutdown();
    result
}

struct Local {
    reactor: Reactor,
    folder: Folder,
    nodes: Vec<NodeProcess>,
}

impl Local {
    async fn run(&mut self, args: &LocalArgs, signals: &Signals) -> Result<()> {
        let known = self.folder.nodes();
        let count = args.nodes.unwrap_or(if known > 0 { known } else { NODES_DEFAULT });
        if count < known {
            let why = format!("{} has {known} nodes already", args.dir.display());
            return Err(Failure::usage(why).hint("leave --nodes out, or use another --dir"));
        }
        let mut stopped = pin!(signals.stopped());
        let started = {
            let mut start = pin!(self.start(args, count));
            poll_fn(|context| match stopped.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => start.as_mut().poll(context).map(Some),
            })
            .await
        };
        match started {
            None => return Ok(()),
            Some(result) => result?,
        }
        for node in 1..=count {
            say(&format!("ready nbd://{}\n", self.folder.nbd(node)?))?;
        }
        for node in &self.nodes {
            say(&format!("pid {} {}\n", node.node, node.pid()))?;
        }
        let watch = self.watch();
        let mut watch = pin!(watch);
        poll_fn(|context| {
            let _never = watch.as_mut().poll(context);
            stopped.as_mut().poll(context)
        })
        .await;
        Ok(())
    }

    /// Starts all nodes, makes the cluster where there is none, and waits until it is whole.
    async fn start(&mut self, args: &LocalArgs, count: u16) -> Result<()> {
        let size = match args.size {
            Some(size) => size,
            None => store::default_size(args.create.iter().map(|volume| volume.size.0))?,
        };
        let known = self.folder.nodes();
        if known == 0 {
            self.folder.write_first(&free_address()?, size)?;
        }
        for node in 1..=known.max(1) {
            self.start_node(node)?;
        }
        self.answers(1).await?;
        let policy = format!("replicas={}", count.min(REPLICAS));
        let status: ClusterReport = self.ask(1, &Request::ClusterStatus {})?;
        if status.cluster.is_none() && known <= 1 {
            self.ask_any(1, &Request::ClusterInit { policy: policy.clone() })?;
        }
        for node in known.max(1) + 1..=count {
            let address = free_address()?;
            let labels = format!("host=node{node}");
            let admit = Request::ClusterAddNode { address, labels };
            let admitted: AdmittedReport = self.ask(1, &admit)?;
            self.folder.write_admitted(node, &admitted, size)?;
            self.start_node(node)?;
        }
        for node in 2..=count {
            self.answers(node).await?;
        }
        self.whole(count).await?;
        self.create(args, &policy).await
    }

    fn start_node(&mut self, node: u16) -> Result<()> {
        if let Some(pid) = process::running(&self.folder, node) {
            let why = format!("node {node} runs already, as process {pid}");
            return Err(Failure::new(why).hint("stop it first"));
        }
        self.nodes.push(NodeProcess::start(&self.folder, node)?);
        Ok(())
    }

    async fn create(&self, args: &LocalArgs, policy: &str) -> Result<()> {
        for volume in &args.create {
            let all: VolumesReport = self.ask(1, &Request::VolumeList {})?;
            if all.volumes.iter().any(|known| known.name == volume.name) {
                continue;
            }
            let create = Request::VolumeCreate {
                name: volume.name.clone(),
                size_bytes: volume.size.0,
                policy: Some(policy.to_owned()),
            };
            self.ask_any(1, &create)?;
        }
        let has_all = |report: &VolumesReport| {
            let has = |name: &str| report.volumes.iter().any(|known| known.name == name);
            args.create.iter().all(|volume| has(&volume.name))
        };
        let what = "every node knows all volumes, and every placement group has a leader";
        self.until(what, || {
            let led = |cluster: &ClusterReport| {
                cluster.placement_groups.iter().all(|group| group.leader.is_some())
            };
            self.nodes.iter().all(|node| {
                let volumes = self.ask::<VolumesReport>(node.node, &Request::VolumeList {});
                volumes.is_ok_and(|report| has_all(&report))
            }) && self.ask(1, &Request::ClusterStatus {}).is_ok_and(|cluster| led(&cluster))
        })
        .await
    }

    /// Waits until all nodes have a store in the cluster and are heard.
    async fn whole(&self, count: u16) -> Result<()> {
        self.until("all nodes are in the cluster", || {
            let cluster = self.ask::<ClusterReport>(1, &Request::ClusterStatus {});
            cluster.is_ok_and(|cluster| {
                let fine = |node: &&crate::program::admin::cluster_report::NodeReport| {
                    node.alive && node.state != "joining" && !node.stores.is_empty()
                };
                cluster.nodes.iter().filter(fine).count() >= usize::from(count)
            })
        })
        .await
    }

    /// Waits until a node lets clients in.
    async fn answers(&self, node: u16) -> Result<()> {
        let what = format!("node {node} lets clients in");
        let listens = || {
            let status = self.ask::<StatusReport>(node, &Request::Status {});
            status.is_ok_and(|status| !status.listen.is_empty())
        };
        self.until(&what, listens).await
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let deadline = self.reactor.now() + START_MAX;
        while !holds() {
            if self.reactor.now() >= deadline {
                let why = format!("waited {} s and not: {what}", START_MAX.as_secs());
                return Err(Failure::new(why).hint("see the nodes' logs in the folder"));
            }
            self.reactor.sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    fn ask_any(&self, node: u16, request: &Request) -> Result<serde_json::Value> {
        let place = StoreArgs { store: None, admin: Some(self.folder.socket(node)) };
        ask(&place, request)
    }

    fn ask<R: DeserializeOwned>(&self, node: u16, request: &Request) -> Result<R> {
        serde_json::from_value(self.ask_any(node, request)?)
            .map_err(|error| Failure::new(format!("node {node} answers in another way: {error}")))
    }

    /// Says when nodes end; never ends itself.
    async fn watch(&mut self) {
        loop {
            self.reactor.sleep(LOOK_INTERVAL).await;
            self.nodes.retain_mut(|node| match node.ended() {
                None => true,
                Some(status) => {
                    complain(&format!("node {} has ended: {status}", node.node));
                    false
                }
            });
        }
    }

    /// Ends all nodes of the folder, also those that were started again by others.
    async fn stop(&mut self) {
        self.nodes.iter().for_each(NodeProcess::stop);
        let own: Vec<u32> = self.nodes.iter().map(NodeProcess::pid).collect();
        let others = || {
            let found = (1..=self.folder.nodes()).filter_map(|n| process::running(&self.folder, n));
            found.filter(|pid| !own.contains(pid)).collect::<Vec<u32>>()
        };
        others().into_iter().for_each(process::stop);
        let deadline = self.reactor.now() + STOP_MAX;
        loop {
            self.nodes.retain_mut(|node| node.ended().is_none());
            if self.nodes.is_empty() && others().is_empty() || self.reactor.now() >= deadline {
                break;
            }
            self.reactor.sleep(LOOK_INTERVAL).await;
        }
        self.nodes.iter_mut().for_each(NodeProcess::kill);
    }

    /// Starts a node again. It runs on when this has ended; `stop` of the cluster finds it.
    async fn restart(&mut self, node: u16) -> Result<()> {
        if node == 0 || node > self.folder.nodes() {
            let why = format!("there is no node {node} in this folder");
            return Err(
                Failure::usage(why).hint("give the --dir of a local cluster, and 1 or more")
            );
        }
        self.start_node(node)?;
        self.answers(node).await?;
        let pid = self.nodes.first().map_or(0, NodeProcess::pid);
        say(&format!("ready nbd://{}\npid {node} {pid}\n", self.folder.nbd(node)?))
    }
}
