//! Requests carried out on an open store, with a server around it or without.
//!
//! Must never know: how requests come and answers go.

use super::report::{MemoryReport, NbdReport, StatusReport, VolumeReport, VolumesReport};
use super::{Executor, Request};
use crate::program::check;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::LocalBox;
use ashlar_engine::store::VolumeStatus;
use ashlar_engine::units::Nanos;
use ashlar_engine::{Error, ErrorKind, Result};
use ashlar_nbd_server::{Server, VolumeExports};
use serde_json::Value;
use std::rc::Rc;
use std::time::Duration;

/// How long a delete waits for clients that are just leaving.
const LEAVING_MAX: Duration = Duration::from_millis(300);
/// Between two looks at them.
const LEAVING_CHECK: Duration = Duration::from_millis(10);

/// What is around the store while it is served.
pub(crate) struct Serving {
    pub(crate) server: Server<VolumeExports>,
    pub(crate) exports: Rc<VolumeExports>,
    pub(crate) store_path: String,
    pub(crate) listen: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) started: Nanos,
}

/// A store that is served, for the admin socket.
pub(crate) struct ServedStore {
    pub(crate) store: LocalStore,
    pub(crate) serving: Rc<Serving>,
}

impl Executor for ServedStore {
    fn execute(&self, request: Request) -> LocalBox<Result<Value>> {
        let (store, serving) = (self.store.clone(), Rc::clone(&self.serving));
        Box::pin(async move { execute(&store, Some(&serving), request).await })
    }
}

/// Carries one request out.
pub(crate) async fn execute(
    store: &LocalStore,
    serving: Option<&Serving>,
    request: Request,
) -> Result<Value> {
    let changes = matches!(request, Request::VolumeCreate { .. } | Request::VolumeDelete { .. });
    if changes && serving.is_some_and(|serving| serving.read_only) {
        let why = "the store is served read-only: restart the server without --read-only";
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    match request {
        Request::Status {} => match serving {
            Some(serving) => Ok(to_json(status(store, serving))),
            None => Err(Error::new(ErrorKind::NotFound, "no server runs")),
        },
        Request::Scrub {} => {
            let path = serving.map(|serving| serving.store_path.clone()).unwrap_or_default();
            Ok(to_json(check::scrub(store, path).await?))
        }
        Request::VolumeList {} => {
            let report = |volume: &VolumeStatus| volume_report(serving, volume);
            let volumes = store.volumes().iter().map(report).collect();
            Ok(to_json(VolumesReport { volumes }))
        }
        Request::VolumeShow { name } => Ok(to_json(show(store, serving, &name)?)),
        Request::VolumeCreate { name, size_bytes, policy } => {
            check_alone(policy.as_deref())?;
            store.create_volume(&name, size_bytes).await?;
            Ok(to_json(show(store, serving, &name)?))
        }
        Request::VolumeDelete { name, force } => {
            let last = show(store, serving, &name)?;
            if let Some(serving) = serving.filter(|_| !force) {
                check_unused(store, serving, &name).await?;
            }
            store.delete_volume(&name).await?;
            Ok(to_json(last))
        }
        _ => {
            let why = "this server is no node of a cluster: start one with `id` in its config";
            Err(Error::new(ErrorKind::Invalid, why))
        }
    }
}

/// A store on its own keeps one copy.
fn check_alone(policy: Option<&str>) -> Result<()> {
    match policy {
        None | Some("replicas=1") => Ok(()),
        Some(policy) => {
            let why = format!("a single store cannot keep {policy}: ask a node of a cluster");
            Err(Error::new(ErrorKind::Invalid, why))
        }
    }
}

pub(super) fn to_json(report: impl serde::Serialize) -> Value {
    serde_json::to_value(report).expect("invariant: reports have only names and numbers")
}

fn volume_report(serving: Option<&Serving>, volume: &VolumeStatus) -> VolumeReport {
    let clients = serving.map(|serving| serving.exports.users(volume.id) as u64);
    VolumeReport::new(volume, clients)
}

fn show(store: &LocalStore, serving: Option<&Serving>, name: &str) -> Result<VolumeReport> {
    let volume = store.volumes().into_iter().find(|volume| volume.name == name);
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no volume {name:?}"));
    volume.as_ref().map(|volume| volume_report(serving, volume)).ok_or_else(missing)
}

/// Refuses a volume that clients have open. One that is closing its connection is waited for.
async fn check_unused(store: &LocalStore, serving: &Serving, name: &str) -> Result<()> {
    let (id, reactor) = (store.volume(name)?.id(), store.reactor());
    let deadline = reactor.now() + LEAVING_MAX;
    loop {
        let users = serving.exports.users(id);
        if users == 0 {
            return Ok(());
        }
        if reactor.now() >= deadline {
            let why = format!(
                "volume {name:?} is open by {users} client(s): disconnect them, or use --force"
            );
            return Err(Error::new(ErrorKind::Busy, why));
        }
        reactor.sleep(LEAVING_CHECK).await;
    }
}

fn status(store: &LocalStore, serving: &Serving) -> StatusReport {
    let report = |volume: &VolumeStatus| volume_report(Some(serving), volume);
    let volumes = store.volumes().iter().map(report).collect();
    let Serving { store_path, listen, read_only, started, .. } = serving;
    let around = Around { store_path, listen, read_only: *read_only, started: *started };
    status_report(store, &around, serving.server.counters().into(), volumes)
}

/// What a status says besides what the store knows.
pub(super) struct Around<'a> {
    pub(super) store_path: &'a str,
    pub(super) listen: &'a [String],
    pub(super) read_only: bool,
    pub(super) started: Nanos,
}

pub(super) fn status_report(
    store: &LocalStore,
    serving: &Around<'_>,
    nbd: NbdReport,
    volumes: Vec<VolumeReport>,
) -> StatusReport {
    let (status, reactor) = (store.status(), store.reactor());
    StatusReport {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_seconds: reactor.now().since(serving.started).as_secs_f64(),
        store: serving.store_path.to_owned(),
        listen: serving.listen.to_vec(),
        read_only: serving.read_only,
        space: (&status).into(),
        volumes,
        segments: (&status).into(),
        writes: (&status).into(),
        errors: (&status).into(),
        cleaner: (&status).into(),
        checkpoint: (&status).into(),
        memory: MemoryReport::new(&status, reactor.pool().in_use_bytes() as u64),
        nbd,
        reactor: reactor.stats().into(),
    }
}
