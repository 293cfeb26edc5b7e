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
use std::cell::RefCell;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How long a node that starts waits to know the cluster as it is now, before it lets clients in.
const SETTLE_MAX: Duration = Duration::from_secs(15);

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
    let listening = Rc::new(RefCell::default());
    let served = ServedNode {
        node: node.clone(),
        store: store.clone(),
        server: server.clone(),
        store_path: path.display().to_string(),
        listen: Rc::clone(&listening),
        started: reactor.now(),
    };
    let admin = admin::server::serve(admin, reactor, Rc::new(Rc::new(served)));
    // Clients must find every volume that there is; where nobody can say, they find those known.
    if !settle(&node, &signals).await {
        tracing::warn!("the control group does not answer: this node may know an old cluster");
    }
    let uris: Vec<String> = listen(&server, &args.listen)?.iter().map(address::uri).collect();
    let ready: String = uris.iter().map(|uri| format!("ready {uri}\n")).collect();
    listening.replace(uris);
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

/// Waits until the node knows the cluster as it is now; false: not in time. The end of the process
/// ends the wait.
async fn settle(node: &Node, signals: &Signals) -> bool {
    let (mut settled, mut stopped) = (pin!(node.settled(SETTLE_MAX)), pin!(signals.stopped()));
    poll_fn(|context| match stopped.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending => settled.as_mut().poll(context),
    })
    .await
}
