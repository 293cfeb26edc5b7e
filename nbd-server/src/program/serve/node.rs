//! `ashlar serve` as a node of a cluster.
//!
//! Must never know: how nodes agree.

use super::pid_file::PidFile;
use super::signals::Signals;
use super::{listen, open_or_create, started, watch};
use crate::program::address;
use crate::program::admin::{self, ServedNode};
use crate::program::cli::ServeArgs;
use crate::program::config::NodeSettings;
use crate::program::failure::{Failure, Result};
use crate::program::{output, store};
use ashlar_engine::reactor::Reactor;
use ashlar_nbd_server::{ClusterExports, Server, ServerOptions};
use ashlar_raft::node::{Node, NodeOptions, parse_address};
use std::path::Path;
use std::rc::Rc;

pub(super) async fn serve(
    reactor: &Reactor,
    args: &ServeArgs,
    settings: NodeSettings,
    path: &Path,
    signals: Signals,
) -> Result<()> {
    let store = open_or_create(reactor, args, path).await?;
    let standard = address::standard_listen();
    let nbd = if args.listen.is_empty() { &standard[..] } else { &args.listen[..] };
    let options = NodeOptions {
        id: settings.id,
        cluster: settings.cluster,
        listen: parse_address(&settings.address)?,
        address: settings.address,
        nbd: nbd.iter().map(address::uri).collect(),
        labels: settings.labels,
        peers: settings.peers,
        witness: settings.witness,
        started: started::seconds(),
        timing: settings.timing,
    };
    let _pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    let node = Node::start(reactor, store.clone(), options).await?;
    let exports = Rc::new(ClusterExports::new(node.clone()));
    let server = Server::new(reactor.clone(), exports, ServerOptions::default());
    let socket = args.admin.clone().unwrap_or_else(|| store::admin_socket(path));
    let admin = admin::server::listen(reactor, &socket)?;
    let bound = listen(&server, &args.listen)?;
    let served = ServedNode {
        node: node.clone(),
        store: store.clone(),
        server: server.clone(),
        store_path: path.display().to_string(),
        listen: bound.iter().map(address::uri).collect(),
        started: reactor.now(),
    };
    let ready: String = served.listen.iter().map(|uri| format!("ready {uri}\n")).collect();
    let admin = admin::server::serve(admin, reactor, Rc::new(Rc::new(served)));
    output::say(&ready)?;
    let watch = reactor.spawn(watch(reactor.clone(), store.clone()));
    tracing::info!(store = %path.display(), node = %node.id(), "serving");
    signals.stopped().await;
    tracing::info!("stopping");
    watch.cancel().await;
    admin.cancel().await;
    let cut = server.shutdown().await;
    if cut > 0 {
        tracing::warn!(cut, "clients did not take their replies in time");
    }
    node.shutdown().await;
    store.close().await.map_err(Failure::from)
}
