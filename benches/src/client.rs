//! The handshake of a small NBD client: fixed newstyle, `NBD_OPT_GO`, simple replies.
//!
//! Invariant: after `attach` the stream is in transmission phase with nothing buffered.
//! Must never know: what load will run over the connection.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::Result;
use crate::address::Target;

/// Magic of every simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Bytes of a request header.
pub const REQUEST_SIZE_BYTES: usize = 28;
/// Bytes of a simple reply header.
pub const REPLY_SIZE_BYTES: usize = 16;

const INIT_MAGIC: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Fixed newstyle and no zeroes.
const CLIENT_FLAGS: u32 = 0b11;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
/// Longest option reply worth reading: the spec's string limit and some headers.
const OPTION_REPLY_MAX_BYTES: u32 = 64 << 10;
/// A server that says nothing for this long is broken, not slow.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// NBD command numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Read bytes.
    Read = 0,
    /// Write bytes.
    Write = 1,
    /// Orderly end.
    Disconnect = 2,
    /// Flush what was acknowledged.
    Flush = 3,
}

/// A connected socket of either family.
#[derive(Debug)]
pub enum Stream {
    /// Unix domain.
    Unix(UnixStream),
    /// TCP.
    Tcp(TcpStream),
}

impl Stream {
    fn limit_silence(&self) -> std::io::Result<()> {
        match self {
            Stream::Unix(s) => s.set_read_timeout(Some(SILENCE_MAX)),
            Stream::Tcp(s) => s.set_read_timeout(Some(SILENCE_MAX)),
        }
    }

    /// One receive into `buffer`; 0 bytes (the peer is gone) is an error here.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let got = match self {
            Stream::Unix(s) => s.read(buffer),
            Stream::Tcp(s) => s.read(buffer),
        };
        match got {
            Ok(0) => Err("the server closed the connection".into()),
            Ok(n) => Ok(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                Err(format!("the server hangs: no reply for {SILENCE_MAX:?}"))
            }
            Err(e) => Err(format!("receive: {e}")),
        }
    }

    /// Receives exactly `buffer.len()` bytes.
    pub fn receive_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            done += self.receive(&mut buffer[done..])?;
        }
        Ok(())
    }

    /// Sends all bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Stream::Unix(s) => s.write_all(bytes),
            Stream::Tcp(s) => s.write_all(bytes),
        }
        .map_err(|e| format!("send: {e}"))
    }
}

/// A connection in transmission phase.
#[derive(Debug)]
pub struct Attached {
    /// The socket.
    pub stream: Stream,
    /// Size of the export.
    pub size_bytes: u64,
}

/// Connects to `target` and brings the connection into transmission phase.
pub fn attach(target: &Target) -> Result<Attached> {
    let mut stream = target.endpoint.connect()?;
    stream.limit_silence().map_err(|e| format!("receive timeout: {e}"))?;
    let mut hello = [0u8; 18];
    stream.receive_exact(&mut hello)?;
    if &hello[0..8] != INIT_MAGIC || &hello[8..16] != OPTION_MAGIC {
        return Err(format!("{target} is no newstyle NBD server"));
    }
    stream.send(&CLIENT_FLAGS.to_be_bytes())?;
    stream.send(&go_option(&target.export))?;
    let size_bytes = await_go(&mut stream, target)?;
    Ok(Attached { stream, size_bytes })
}

/// Writes a request header into `header`.
pub fn encode_request(header: &mut [u8], command: Command, cookie: u64, offset: u64, length: u32) {
    header[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&[0, 0]);
    header[6..8].copy_from_slice(&(command as u16).to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..28].copy_from_slice(&length.to_be_bytes());
}

fn go_option(export: &str) -> Vec<u8> {
    let name = export.as_bytes();
    let mut bytes = Vec::with_capacity(32 + name.len());
    bytes.extend_from_slice(OPTION_MAGIC);
    bytes.extend_from_slice(&OPTION_GO.to_be_bytes());
    bytes.extend_from_slice(&(name.len() as u32 + 6).to_be_bytes());
    bytes.extend_from_slice(&(name.len() as u32).to_be_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&0u16.to_be_bytes()); // no further information asked for
    bytes
}

fn await_go(stream: &mut Stream, target: &Target) -> Result<u64> {
    let mut size_bytes = None;
    loop {
        let mut header = [0u8; 20];
        stream.receive_exact(&mut header)?;
        let kind = u32_at(&header, 12);
        let length = u32_at(&header, 16);
        if u64_at(&header, 0) != OPTION_REPLY_MAGIC || length > OPTION_REPLY_MAX_BYTES {
            return Err(format!("{target} sent a malformed option reply"));
        }
        let mut body = vec![0u8; length as usize];
        stream.receive_exact(&mut body)?;
        match kind {
            REPLY_INFO if length >= 12 && u16::from_be_bytes([body[0], body[1]]) == INFO_EXPORT => {
                size_bytes = Some(u64_at(&body, 2));
            }
            REPLY_INFO => {}
            REPLY_ACK => {
                return size_bytes
                    .ok_or_else(|| format!("{target} did not name the export's size"));
            }
            other => {
                let text = String::from_utf8_lossy(&body);
                return Err(format!("{target} refused: {other:#x} {text}"));
            }
        }
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at)) << 32) | u64::from(u32_at(bytes, at + 4))
}
