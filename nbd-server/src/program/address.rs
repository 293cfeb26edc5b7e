//! Addresses as people write them: where to listen, and where an export is.
//!
//! Must never know: what is spoken there.

use ashlar_engine::reactor::Address;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port that clients use when a URI names none.
pub(crate) const NBD_PORT_DEFAULT: u16 = 10809;
/// Bytes of the path of a Unix socket, as the kernel has it.
const UNIX_PATH_MAX_BYTES: usize = 107;

/// Parses `unix:PATH` or `IP:PORT`.
pub(crate) fn parse_listen(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        check_socket_path(Path::new(path))?;
        return Ok(Address::Unix(path.into()));
    }
    let socket = text.parse().map_err(|_| {
        format!("{text:?} is no address: write unix:PATH or IP:PORT, for example 127.0.0.1:10809")
    })?;
    Ok(Address::Tcp(socket))
}

/// Where clients are let in if nobody says.
pub(crate) fn standard_listen() -> [Address; 1] {
    [Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, NBD_PORT_DEFAULT)))]
}

/// Whether the kernel takes this path for a socket.
pub(crate) fn check_socket_path(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length == 0 {
        return Err("the path of a socket must not be empty".into());
    }
    if length > UNIX_PATH_MAX_BYTES {
        return Err(format!(
            "the path of a socket has at most {UNIX_PATH_MAX_BYTES} bytes, {:?} has {length}",
            path.display()
        ));
    }
    Ok(())
}

/// The URI of a server at this address.
pub(crate) fn uri(address: &Address) -> String {
    match address {
        Address::Tcp(socket) => format!("nbd://{socket}"),
        Address::Unix(path) => format!("nbd+unix:///?socket={}", path.display()),
    }
}

/// Where an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) server: Address,
    /// Empty for the server's default.
    pub(crate) export: String,
}

/// Parses `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
pub(crate) fn parse_target(uri: &str) -> Result<Target, String> {
    if let Some(rest) = uri.strip_prefix("nbd+unix://") {
        let (export, query) = rest.split_once('?').unwrap_or((rest, ""));
        let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
        let path = PathBuf::from(socket.ok_or_else(|| format!("{uri:?} needs ?socket=PATH"))?);
        check_socket_path(&path)?;
        let export = export.trim_start_matches('/').to_owned();
        return Ok(Target { server: Address::Unix(path), export });
    }
    let rest = uri.strip_prefix("nbd://").ok_or_else(|| {
        format!("{uri:?} is no NBD URI: write nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH")
    })?;
    let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Target { server: Address::Tcp(resolve(host)?), export: export.to_owned() })
}

fn resolve(host: &str) -> Result<std::net::SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port { host.to_owned() } else { format!("{host}:{NBD_PORT_DEFAULT}") };
    let mut found = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    found.next().ok_or_else(|| format!("{host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        assert_eq!(parse_listen("unix:/run/a b"), Ok(Address::Unix("/run/a b".into())));
        assert!(matches!(parse_listen("127.0.0.1:0"), Ok(Address::Tcp(_))));
        assert!(matches!(parse_listen("[::1]:10809"), Ok(Address::Tcp(_))));
        let long = format!("unix:/{}", "x".repeat(200));
        for text in ["", "nowhere", "unix:", "127.0.0.1", "127.0.0.1:99999", long.as_str()] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets() {
        let unix = parse_target("nbd+unix:///vm0?socket=/tmp/s").unwrap();
        assert_eq!((unix.server, unix.export.as_str()), (Address::Unix("/tmp/s".into()), "vm0"));
        let short = parse_target("nbd://127.0.0.1").unwrap();
        assert_eq!(uri(&short.server), "nbd://127.0.0.1:10809");
        for text in ["", "http://example", "nbd+unix:///vm0", "nbd+unix:///vm0?socket="] {
            assert!(parse_target(text).is_err(), "{text}");
        }
    }
}
