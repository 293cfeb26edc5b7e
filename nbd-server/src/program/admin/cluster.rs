//! Requests carried out on a node of a cluster.
//!
//! Must never know: how requests come and answers go.

use super::cluster_report::{AdmittedReport, ClusterReport, InitReport};
use super::command::{Around, status_report, to_json};
use super::report::{VolumeReport, VolumesReport};
use super::{Executor, Request};
use crate::program::check::CheckReport;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::LocalBox;
use ashlar_engine::units::Nanos;
use ashlar_engine::{Error, ErrorKind, Result};
use ashlar_nbd_server::{ClusterExports, Server};
use ashlar_raft::control::{
    ClusterVolumeId, NodeSpec, Operation, Outcome, Policy, Settings, Volume,
};
use ashlar_raft::node::Node;
use ashlar_raft::placement::{Labels, NodeId};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;

/// How a volume is kept if nobody says: as a cluster of three nodes can.
const POLICY_DEFAULT: &str = "replicas=3";

/// A node that is served, for the admin socket.
#[derive(Clone)]
pub(crate) struct ServedNode {
    pub(crate) node: Node,
    pub(crate) store: LocalStore,
    pub(crate) server: Server<ClusterExports>,
    pub(crate) store_path: String,
    /// Where NBD clients connect, once they may.
    pub(crate) listen: Rc<RefCell<Vec<String>>>,
    pub(crate) started: Nanos,
}

impl Executor for Rc<ServedNode> {
    fn execute(&self, request: Request) -> LocalBox<Result<Value>> {
        let own = Rc::clone(self);
        Box::pin(async move { own.carry_out(request).await })
    }
}

fn invalid(why: impl Display) -> Error {
    Error::new(ErrorKind::Invalid, why.to_string())
}

impl ServedNode {
    async fn carry_out(&self, request: Request) -> Result<Value> {
        match request {
            Request::Status {} => Ok(to_json(self.status())),
            Request::Scrub {} => {
                let (scrubbed, store) = (self.node.scrub().await?, self.store_path.clone());
                Ok(to_json(CheckReport::of_node(store, self.node.map().volumes().len(), scrubbed)))
            }
            Request::VolumeList {} => Ok(to_json(VolumesReport { volumes: self.volumes() })),
            Request::VolumeShow { name } => Ok(to_json(self.volume(&name)?.1)),
            Request::VolumeCreate { name, size_bytes, policy } => {
                self.create(name, size_bytes, policy).await
            }
            Request::VolumeDelete { name, force: _ } => {
                let (id, last) = self.volume(&name)?;
                self.command(Operation::DeleteVolume { volume: id }).await?;
                Ok(to_json(last))
            }
            Request::ClusterInit { policy } => {
                let cluster = self.node.init(parse_policy(&policy)?).await?;
                Ok(to_json(InitReport::new(cluster, self.node.id())))
            }
            Request::ClusterStatus {} => {
                let status = self.node.status().await?;
                Ok(to_json(ClusterReport::new(&status, self.node.id())))
            }
            Request::ClusterAddNode { address, labels } => self.admit(address, &labels).await,
            Request::ClusterRemoveNode { id } => {
                self.done(Operation::RemoveNode { node: NodeId(id) }).await
            }
            Request::ClusterDrain { id, on } => {
                self.done(Operation::Drain { node: NodeId(id), on }).await
            }
            Request::ClusterSettings { grace_seconds, moves_max } => {
                let now = self.node.map().settings();
                let settings = Settings {
                    grace_seconds: grace_seconds.unwrap_or(now.grace_seconds),
                    moves_max: moves_max.unwrap_or(now.moves_max),
                };
                self.done(Operation::SetSettings { settings }).await
            }
        }
    }

    /// The control group's answer; what it refuses is an error.
    async fn command(&self, operation: Operation) -> Result<Outcome> {
        match self.node.command(operation).await? {
            Outcome::Refused(refusal) => Err(invalid(refusal)),
            outcome => Ok(outcome),
        }
    }

    async fn done(&self, operation: Operation) -> Result<Value> {
        self.command(operation).await?;
        Ok(Value::Null)
    }

    fn report(&self, id: ClusterVolumeId, volume: &Volume) -> VolumeReport {
        VolumeReport {
            name: volume.name.clone(),
            id: id.0,
            size_bytes: volume.size_bytes,
            mapped_bytes: None,
            clients: Some(self.node.volume_users(id) as u64),
            policy: self.node.map().policy(volume.policy).map(|policy| policy.to_string()),
            epoch: Some(volume.epoch),
            writer: volume.writer.map(|node| node.0),
        }
    }

    fn volumes(&self) -> Vec<VolumeReport> {
        let map = self.node.map();
        let live = map.volumes().iter().filter(|(_, volume)| !volume.deleting);
        let mut volumes: Vec<_> = live.map(|(id, volume)| self.report(*id, volume)).collect();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        volumes
    }

    fn volume(&self, name: &str) -> Result<(ClusterVolumeId, VolumeReport)> {
        let map = self.node.map();
        let (id, volume) = map.volume_by_name(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no volume {name:?}"))
        })?;
        Ok((id, self.report(id, volume)))
    }

    async fn create(&self, name: String, size_bytes: u64, policy: Option<String>) -> Result<Value> {
        let policy = parse_policy(policy.as_deref().unwrap_or(POLICY_DEFAULT))?;
        let status = self.node.status().await?;
        let down = status.nodes.iter().filter(|node| !node.up);
        let avoid = down.flat_map(|node| node.stores.iter().map(|store| store.id)).collect();
        let create = Operation::CreateVolume {
            name: name.clone(),
            size_bytes,
            policy,
            slice_bytes: None,
            avoid,
        };
        let created = self.command(create).await?;
        let Outcome::Volume(id) = created else {
            return Err(Error::new(ErrorKind::Failed, format!("the answer is {created:?}")));
        };
        // This node may learn of it a moment later than the control group's leader.
        let report = match self.node.map().volumes().get(&id) {
            Some(volume) => self.report(id, volume),
            None => VolumeReport {
                name,
                id: id.0,
                size_bytes,
                mapped_bytes: None,
                clients: Some(0),
                policy: Some(policy.to_string()),
                epoch: None,
                writer: None,
            },
        };
        Ok(to_json(report))
    }

    async fn admit(&self, address: String, labels: &str) -> Result<Value> {
        ashlar_raft::node::parse_address(&address)?;
        let labels: Labels = labels.parse().map_err(invalid)?;
        let no_cluster = || invalid("there is no cluster yet: make one with `ashlar cluster init`");
        let cluster = self.node.map().cluster().ok_or_else(no_cluster)?;
        let text = labels.to_string();
        let (nbd, incarnation) = (Vec::new(), 0);
        let node = NodeSpec { address: address.clone(), nbd, labels, incarnation };
        let admitted = self.command(Operation::AdmitNode { cluster, node }).await?;
        let Outcome::Node(id) = admitted else {
            return Err(Error::new(ErrorKind::Failed, format!("the answer is {admitted:?}")));
        };
        let status = self.node.status().await?;
        let peers = status.nodes.iter().filter(|node| node.id != id);
        let peers = peers.map(|node| format!("{}@{}", node.id, node.address)).collect();
        Ok(to_json(AdmittedReport::new(id, cluster, address, text, peers)))
    }

    fn status(&self) -> super::report::StatusReport {
        let around = Around {
            store_path: &self.store_path,
            listen: &self.listen.borrow(),
            read_only: false,
            started: self.started,
        };
        status_report(&self.store, &around, self.server.counters().into(), self.volumes())
    }
}

fn parse_policy(text: &str) -> Result<Policy> {
    text.parse().map_err(invalid)
}
