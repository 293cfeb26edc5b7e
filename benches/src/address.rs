//! Where an NBD export is: `nbd://HOST:PORT/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
//!
//! Must never know: the NBD protocol.

use std::fmt;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Result;
use crate::client::Stream;

/// Port used when a URI names none.
const NBD_PORT_DEFAULT: u16 = 10809;

/// A server's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Unix domain socket.
    Unix(PathBuf),
    /// TCP `host:port`.
    Tcp(String),
}

impl Endpoint {
    /// Connects, with Nagle off on TCP.
    pub fn connect(&self) -> Result<Stream> {
        match self {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .map_err(|e| format!("cannot connect to {}: {e}", path.display()))?;
                Ok(Stream::Unix(stream))
            }
            Endpoint::Tcp(host) => {
                let stream = TcpStream::connect(host)
                    .map_err(|e| format!("cannot connect to {host}: {e}"))?;
                stream.set_nodelay(true).map_err(|e| format!("TCP_NODELAY on {host}: {e}"))?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// One export of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server's socket.
    pub endpoint: Endpoint,
    /// The export's name; may be empty (the server's default).
    pub export: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                write!(f, "nbd+unix:///{}?socket={}", self.export, path.display())
            }
            Endpoint::Tcp(host) => write!(f, "nbd://{host}/{}", self.export),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(uri: &str) -> Result<Target> {
        if let Some(rest) = uri.strip_prefix("nbd+unix://") {
            let (export, query) = rest.split_once('?').unwrap_or((rest, ""));
            let socket = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("socket="))
                .ok_or_else(|| format!("{uri}: a unix address needs ?socket=PATH"))?;
            let export = export.strip_prefix('/').unwrap_or(export).to_owned();
            return Ok(Target { endpoint: Endpoint::Unix(PathBuf::from(socket)), export });
        }
        let rest = uri
            .strip_prefix("nbd://")
            .ok_or_else(|| format!("{uri}: expected nbd://HOST/EXPORT or nbd+unix:///EXPORT"))?;
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { host.to_owned() } else { format!("{host}:{NBD_PORT_DEFAULT}") };
        Ok(Target { endpoint: Endpoint::Tcp(host), export: export.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_round_trip() {
        for uri in ["nbd+unix:///vm0?socket=/tmp/s", "nbd://127.0.0.1:1000/vm0", "nbd://h:10809/"] {
            assert_eq!(uri.parse::<Target>().unwrap().to_string(), uri);
        }
        let short: Target = "nbd://localhost".parse().unwrap();
        assert_eq!(short.to_string(), "nbd://localhost:10809/");
        assert!("http://x".parse::<Target>().is_err());
        assert!("nbd+unix:///x".parse::<Target>().is_err());
    }
}
