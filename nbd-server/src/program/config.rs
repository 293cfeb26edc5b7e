//! Settings of `ashlar serve`, from a TOML file: the same names as the flags, and flags win.
//!
//! Must never know: what the settings do.

use super::address::parse_listen;
use super::busy_poll::BusyPollMicros;
use super::cli::{NewVolume, ServeArgs};
use super::failure::{Failure, Result};
use super::log::Level as LogLevel;
use super::size::Size;
use ashlar_engine::reactor::Address;
use ashlar_raft::control::ClusterId;
use ashlar_raft::node::{Timing, parse_address};
use ashlar_raft::placement::{Labels, Level, NodeId};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of the largest file that is read: settings are short.
const CONFIG_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Config {
    store: Option<PathBuf>,
    size: Option<Size>,
    create: Vec<Text<NewVolume>>,
    listen: Vec<Text<Listen>>,
    admin: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    read_only: bool,
    log: Option<LogLevel>,
    busy_poll_us: Option<BusyPollMicros>,
    id: Option<u64>,
    cluster: Option<Text<ClusterKey>>,
    address: Option<Text<PeerAddress>>,
    labels: Option<BTreeMap<String, String>>,
    peers: Vec<Text<Peer>>,
    witness: bool,
    heartbeat_ms: Option<u64>,
    election_min_ms: Option<u64>,
    election_max_ms: Option<u64>,
}

/// A value that is written as on the command line.
#[derive(Debug)]
struct Text<T>(T);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Text<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(D::Error::custom)
    }
}

#[derive(Debug)]
struct Listen(Address);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Listen, String> {
        parse_listen(text).map(Listen)
    }
}

/// Adds the settings of the file named in `args`, if one is, to those on the command line.
pub(crate) fn merge(args: &mut ServeArgs, level: &mut Option<LogLevel>) -> Result<()> {
    let Some(path) = args.config.clone() else { return Ok(()) };
    let config = parse(&path, &read(&path)?)?;
    args.node = node_settings(&path, &config)?;
    args.store = args.store.take().or(config.store);
    args.size = args.size.or(config.size);
    args.admin = args.admin.take().or(config.admin);
    args.pid_file = args.pid_file.take().or(config.pid_file);
    args.read_only |= config.read_only;
    args.busy_poll_us = args.busy_poll_us.or(config.busy_poll_us);
    if args.create.is_empty() {
        args.create = config.create.into_iter().map(|volume| volume.0).collect();
    }
    if args.listen.is_empty() {
        args.listen = config.listen.into_iter().map(|address| address.0.0).collect();
    }
    *level = level.or(config.log);
    if args.node.is_some() && !args.create.is_empty() {
        return Err(Failure::usage("a node of a cluster creates no volumes when it starts")
            .hint("use `ashlar volume create` when the cluster is there"));
    }
    if args.node.is_some() && args.read_only {
        return Err(Failure::usage("a node of a cluster cannot be read-only"));
    }
    Ok(())
}

/// What makes this a node of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    pub(crate) id: NodeId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) address: String,
    pub(crate) labels: Labels,
    pub(crate) peers: Vec<(NodeId, String)>,
    pub(crate) witness: bool,
    pub(crate) timing: Timing,
}

/// The settings of a node, if `id` says that this is one.
fn node_settings(path: &Path, config: &Config) -> Result<Option<NodeSettings>> {
    let refused = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let Some(id) = config.id else {
        let alone = config.cluster.is_none()
            && config.address.is_none()
            && config.labels.is_none()
            && config.peers.is_empty()
            && !config.witness;
        return match alone {
            true => Ok(None),
            false => {
                Err(refused("a node of a cluster needs its id: set id = 1 on the first".into()))
            }
        };
    };
    let Some(Text(PeerAddress(address))) = &config.address else {
        let why = "a node of a cluster needs the address where others reach it: \
                   set address = \"IP:PORT\"";
        return Err(refused(why.into()));
    };
    let mut labels = Labels::default();
    for (name, value) in config.labels.iter().flatten() {
        let level = Level::from_name(name).ok_or_else(|| {
            refused(format!("there is no label {name:?}: use operator, region, zone, rack or host"))
        })?;
        labels = labels.with(level, value).map_err(|error| refused(error.to_string()))?;
    }
    let default = Timing::default();
    let timing = Timing {
        heartbeat_ms: config.heartbeat_ms.unwrap_or(default.heartbeat_ms),
        election_min_ms: config.election_min_ms.unwrap_or(default.election_min_ms),
        election_max_ms: config.election_max_ms.unwrap_or(default.election_max_ms),
    };
    Ok(Some(NodeSettings {
        id: NodeId(id),
        cluster: config.cluster.as_ref().map(|cluster| cluster.0.0),
        address: address.clone(),
        labels,
        peers: config.peers.iter().map(|peer| (peer.0.0, peer.0.1.clone())).collect(),
        witness: config.witness,
        timing,
    }))
}

/// A cluster's identity: 32 hexadecimal digits.
#[derive(Debug)]
struct ClusterKey(ClusterId);

impl FromStr for ClusterKey {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<ClusterKey, String> {
        let refused = || format!("{text:?} is no cluster: it has 32 hexadecimal digits");
        let mut id = ClusterId([0; 16]);
        if text.len() != 32 || !text.is_ascii() {
            return Err(refused());
        }
        for (byte, digits) in id.0.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| refused())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| refused())?;
        }
        Ok(ClusterKey(id))
    }
}

/// Where other nodes reach a node.
#[derive(Debug)]
struct PeerAddress(String);

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<PeerAddress, String> {
        parse_address(text).map(|_| PeerAddress(text.into())).map_err(|error| error.to_string())
    }
}

/// Another node: `ID@IP:PORT`.
#[derive(Debug)]
struct Peer(NodeId, String);

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Peer, String> {
        let refused = || format!("{text:?} is no peer: write ID@IP:PORT");
        let (id, address) = text.split_once('@').ok_or_else(refused)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(refused)?;
        let PeerAddress(address) = address.parse()?;
        Ok(Peer(NodeId(id), address))
    }
}

fn read(path: &Path) -> Result<String> {
    let refused = |why: String| {
        Failure::new(format!("cannot read the settings in {}: {why}", path.display()))
    };
    let metadata = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if metadata.len() > CONFIG_MAX_BYTES {
        return Err(refused(format!("it has more than {CONFIG_MAX_BYTES} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))
}

fn parse(path: &Path, text: &str) -> Result<Config> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let key = key_at(text, line).map_or(String::new(), |key| format!("{key}: "));
        let message = error.message().trim().replace('\n', " ");
        Failure::usage(format!("{}, line {line}: {key}{message}", path.display()))
    })
}

/// The key whose value stands on a line: its own, or that of the list begun above.
fn key_at(text: &str, line: usize) -> Option<&str> {
    let above: Vec<&str> = text.lines().take(line).collect();
    let key = above.into_iter().rev().find_map(|line| line.split_once('='))?.0.trim();
    (!key.is_empty() && !key.contains(['"', '#', '['])).then_some(key)
}

#[cfg(test)]
mod tests;
