//! `ashlar serve`: one thread, one reactor, for the store, its clients and its operators.
//!
//! Must never know: the NBD protocol, how volumes store blocks.

mod node;
mod pid_file;
pub(crate) mod signals;
mod started;

use super::address;
use super::admin::{self, ServedStore, Serving};
use super::cli::{STORE_DEFAULT, ServeArgs};
use super::failure::{Failure, Result};
use super::log::{self, Level};
use super::{config, output, store};
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{Address, Reactor, ReactorOptions};
use ashlar_nbd_server::{Exports, Server, ServerOptions, VolumeExports};
use pid_file::PidFile;
use signals::Signals;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How often the store is asked whether it has fenced itself.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Serves until a signal comes.
pub(crate) fn run(mut args: ServeArgs, mut level: Option<Level>) -> Result<()> {
    config::merge(&mut args, &mut level)?;
    if args.read_only && !args.create.is_empty() {
        return Err(Failure::usage("nothing can be created read-only: leave one of both out"));
    }
    log::start(level.unwrap_or(Level::Warn));
    let path = args.store.clone().unwrap_or_else(|| STORE_DEFAULT.into());
    let options =
        ReactorOptions { busy_poll_max: args.busy_poll_max(), ..ReactorOptions::default() };
    let reactor = Reactor::new(options)?;
    let signals = Signals::watch(&reactor)?;
    let served = match args.node.clone() {
        None => reactor.block_on(serve(&reactor, &args, &path, signals)),
        Some(settings) => reactor.block_on(node::serve(&reactor, &args, settings, &path, signals)),
    };
    reactor.shutdown();
    served
}

async fn serve(reactor: &Reactor, args: &ServeArgs, path: &Path, signals: Signals) -> Result<()> {
    let store = open_or_create(reactor, args, path).await?;
    create_volumes(args, &store).await?;
    let exports = Rc::new(VolumeExports::new(store.clone(), args.read_only));
    let mut options = ServerOptions::default();
    options.read_only = args.read_only;
    let server = Server::new(reactor.clone(), Rc::clone(&exports), options);
    let _pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    let socket = args.admin.clone().unwrap_or_else(|| store::admin_socket(path));
    let admin = admin::server::listen(reactor, &socket)?;
    let bound = listen(&server, &args.listen)?;
    let serving = Serving {
        server: server.clone(),
        exports,
        store_path: path.display().to_string(),
        listen: bound.iter().map(address::uri).collect(),
        read_only: args.read_only,
        started: reactor.now(),
    };
    let ready: String = serving.listen.iter().map(|uri| format!("ready {uri}\n")).collect();
    let served = ServedStore { store: store.clone(), serving: Rc::new(serving) };
    let admin = admin::server::serve(admin, reactor, Rc::new(served));
    output::say(&ready)?;
    let watch = reactor.spawn(watch(reactor.clone(), store.clone()));
    tracing::info!(store = %path.display(), "serving");
    signals.stopped().await;
    tracing::info!("stopping");
    watch.cancel().await;
    admin.cancel().await;
    let cut = server.shutdown().await;
    if cut > 0 {
        tracing::warn!(cut, "clients did not take their replies in time");
    }
    // Nothing was taken that would have to become durable, and nothing may be written.
    if args.read_only {
        return Ok(());
    }
    store.close().await.map_err(Failure::from)
}

async fn open_or_create(reactor: &Reactor, args: &ServeArgs, path: &Path) -> Result<LocalStore> {
    if !store::is_unused(path) {
        let store = store::open(reactor, path, args.read_only).await?;
        if let Some(size) = args.size {
            store::check_size(path, &store, size)?;
        }
        return Ok(store);
    }
    if args.read_only {
        return Err(Failure::new(format!("{} does not exist", path.display()))
            .hint("leave --read-only out to make it"));
    }
    let size = match args.size {
        Some(size) => size,
        None => match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > 0 => super::size::Size(metadata.len()),
            _ => store::default_size(args.create.iter().map(|volume| volume.size.0))?,
        },
    };
    let store = store::create_and_open(reactor, path, size).await?;
    tracing::info!(store = %path.display(), %size, "made a store");
    Ok(store)
}

async fn create_volumes(args: &ServeArgs, store: &LocalStore) -> Result<()> {
    for wanted in &args.create {
        match store.volume(&wanted.name) {
            Ok(found) if found.size_bytes() != wanted.size.0 => {
                let (name, bytes) = (&wanted.name, found.size_bytes());
                tracing::warn!("volume {name} exists with {bytes} bytes and stays as it is");
            }
            Ok(_) => {}
            Err(_) => drop(store.create_volume(&wanted.name, wanted.size.0).await?),
        }
    }
    Ok(())
}

/// Listens everywhere; returns the addresses with the ports in use.
fn listen<E: Exports>(server: &Server<E>, addresses: &[Address]) -> Result<Vec<Address>> {
    let standard = address::standard_listen();
    let addresses = if addresses.is_empty() { &standard } else { addresses };
    let listen =
        |address: &Address| server.listen(address).map_err(|error| cannot_listen(address, &error));
    addresses.iter().map(listen).collect()
}

/// Why nobody can be served at an address.
fn cannot_listen(address: &Address, error: &std::io::Error) -> Failure {
    let what = match address {
        Address::Tcp(socket) => socket.to_string(),
        Address::Unix(path) => path.display().to_string(),
    };
    let why = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program uses it".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(format!("cannot listen at {what}: {why}"))
        .hint("choose another address with --listen")
}

/// Says once that the store has fenced itself. Reads are still served.
async fn watch(reactor: Reactor, store: LocalStore) {
    loop {
        if let Some(error) = store.failed() {
            tracing::error!("{error}");
            return;
        }
        reactor.sleep(WATCH_INTERVAL).await;
    }
}
