//! The folder of a cluster on this machine: settings, stores, sockets and logs of its nodes.
//!
//! Must never know: processes.

use super::settings;
use crate::program::admin::cluster_report::AdmittedReport;
use crate::program::failure::{Failure, Result};
use crate::program::size::Size;
use crate::program::store;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Most nodes of a local cluster.
const NODES_MAX: u16 = 16;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Folder> {
        let refused = |error: std::io::Error| {
            Failure::new(format!("cannot use the folder {}: {error}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(refused)?;
        Ok(Folder(std::fs::canonicalize(path).map_err(refused)?))
    }

    fn file(&self, node: u16, what: &str) -> PathBuf {
        self.0.join(format!("node{node}.{what}"))
    }

    pub(super) fn config(&self, node: u16) -> PathBuf {
        self.file(node, "toml")
    }

    fn store(&self, node: u16) -> PathBuf {
        self.file(node, "store")
    }

    pub(super) fn socket(&self, node: u16) -> PathBuf {
        store::admin_socket(&self.store(node))
    }

    pub(super) fn pid_file(&self, node: u16) -> PathBuf {
        self.file(node, "pid")
    }

    pub(super) fn log(&self, node: u16) -> PathBuf {
        self.file(node, "log")
    }

    /// How many nodes it has settings of.
    pub(super) fn nodes(&self) -> u16 {
        (1..=NODES_MAX).take_while(|node| self.config(*node).exists()).count() as u16
    }

    /// Where a node's NBD clients reach it, as its settings say.
    pub(super) fn nbd(&self, node: u16) -> Result<String> {
        let text = std::fs::read_to_string(self.config(node)).map_err(|error| {
            let path = self.config(node);
            Failure::new(format!("cannot read {}: {error}", path.display()))
        })?;
        let address = text.lines().find_map(|line| line.strip_prefix("listen = [\""));
        let address = address.and_then(|rest| rest.strip_suffix("\"]"));
        address.map(str::to_owned).ok_or_else(|| {
            Failure::new(format!("{} does not say where to listen", self.config(node).display()))
        })
    }

    /// Writes the settings of the first node.
    pub(super) fn write_first(&self, address: &str, size: Size) -> Result<()> {
        let own = format!("id = 1\naddress = \"{address}\"\nlabels = {{ host = \"node1\" }}\n");
        self.write(1, &own, size)
    }

    /// Writes the settings of a node that was admitted.
    pub(super) fn write_admitted(
        &self,
        node: u16,
        admitted: &AdmittedReport,
        size: Size,
    ) -> Result<()> {
        self.write(node, &settings(admitted), size)
    }

    fn write(&self, node: u16, own: &str, size: Size) -> Result<()> {
        let text = format!(
            "{own}listen = [\"{}\"]\nstore = {:?}\nsize = \"{size}\"\n\
             pid-file = {:?}\n",
            free_address()?,
            self.store(node),
            self.pid_file(node),
        );
        let path = self.config(node);
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
    }
}

/// An address on this machine that nobody uses now.
pub(super) fn free_address() -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    let address = address.map_err(|error| Failure::new(format!("no port is free: {error}")))?;
    Ok(address.to_string())
}
