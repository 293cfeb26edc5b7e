//! A minimal NBD client: fixed newstyle, `NBD_OPT_GO`, simple replies, two halves.
//!
//! The sending and the receiving half may live on two threads, so a client that pipelines large
//! requests cannot deadlock with a server that stops receiving until its replies are taken.
//!
//! Must never know: what the bytes mean.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::Result;

/// Force unit access.
pub const FLAG_FUA: u16 = 1 << 0;
/// Write zeroes without making a hole.
pub const FLAG_NO_HOLE: u16 = 1 << 1;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CLIENT_FLAGS: u32 = 0b11; // fixed newstyle, no zeroes
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
/// Longest option reply worth reading.
const OPTION_REPLY_MAX_BYTES: usize = 64 << 10;
/// A server silent for this long with requests in flight has hung. Longer than a cluster takes to
/// say that it cannot answer.
const SILENCE_MAX: Duration = Duration::from_secs(45);

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
    /// Discard bytes.
    Trim = 4,
    /// Zero bytes.
    WriteZeroes = 6,
}

/// A request header.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Command flags.
    pub flags: u16,
    /// Chosen by the client, repeated in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

/// A reply header.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// The request's cookie.
    pub cookie: u64,
    /// 0, or an NBD error value.
    pub error: u32,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender(Stream);

/// The receiving half.
#[derive(Debug)]
pub struct Receiver(Stream);

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn halves(self) -> std::io::Result<(Sender, Receiver)> {
        let twin = match &self {
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                Stream::Unix(stream.try_clone()?)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream.try_clone()?)
            }
        };
        Ok((Sender(self), Receiver(twin)))
    }
}

/// A connection in transmission phase.
#[derive(Debug)]
pub struct Connection {
    /// Size of the export.
    pub size_bytes: u64,
    /// The sending half.
    pub sender: Sender,
    /// The receiving half.
    pub receiver: Receiver,
}

impl Connection {
    /// Attaches to `export` at the unix socket `path`.
    pub fn open(path: &Path, export: &str) -> Result<Connection> {
        let stream = UnixStream::connect(path)
            .map_err(|e| format!("cannot connect to {}: {e}", path.display()))?;
        Connection::attach(Stream::Unix(stream), export)
    }

    /// Attaches to `export` at `HOST:PORT`.
    pub fn open_tcp(address: &str, export: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address);
        let stream = stream.map_err(|e| format!("cannot connect to {address}: {e}"))?;
        Connection::attach(Stream::Tcp(stream), export)
    }

    fn attach(stream: Stream, export: &str) -> Result<Connection> {
        let halves = stream.halves();
        let (mut sender, mut receiver) = halves.map_err(|e| format!("cannot use a socket: {e}"))?;
        let size_bytes = handshake(&mut sender, &mut receiver, export)?;
        Ok(Connection { size_bytes, sender, receiver })
    }

    /// Reads synchronously; nothing else may be in flight.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len() as u32;
        self.ask(Request { command: Command::Read, flags: 0, cookie: 1, offset, length }, &[])?;
        self.receiver.payload(buffer)
    }

    /// Writes synchronously; nothing else may be in flight.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u32;
        self.ask(Request { command: Command::Write, flags: 0, cookie: 1, offset, length }, bytes)
    }

    /// Sends one request and takes its reply header; an NBD error is an error.
    pub fn ask(&mut self, request: Request, payload: &[u8]) -> Result<()> {
        self.sender.send(request, payload)?;
        let reply = self.receiver.reply()?;
        match (reply.cookie == request.cookie, reply.error) {
            (true, 0) => Ok(()),
            (true, error) => Err(format!("NBD error {error} for {request:?}")),
            (false, _) => Err(format!("reply to unknown cookie {}", reply.cookie)),
        }
    }
}

impl Sender {
    /// Sends a request with its payload.
    pub fn send(&mut self, request: Request, payload: &[u8]) -> Result<()> {
        let mut header = [0u8; 28];
        header[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[4..6].copy_from_slice(&request.flags.to_be_bytes());
        header[6..8].copy_from_slice(&(request.command as u16).to_be_bytes());
        header[8..16].copy_from_slice(&request.cookie.to_be_bytes());
        header[16..24].copy_from_slice(&request.offset.to_be_bytes());
        header[24..28].copy_from_slice(&request.length.to_be_bytes());
        self.bytes(&header)?;
        self.bytes(payload)
    }

    /// Sends raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = match &mut self.0 {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        };
        sent.map_err(|e| format!("send: {e}"))
    }
}

impl Receiver {
    /// Takes one reply header.
    pub fn reply(&mut self) -> Result<Reply> {
        let header: [u8; 16] = self.array()?;
        if u32_at(&header, 0) != SIMPLE_REPLY_MAGIC {
            return Err(format!("reply with wrong magic {:#x}", u32_at(&header, 0)));
        }
        Ok(Reply { error: u32_at(&header, 4), cookie: u64_at(&header, 8) })
    }

    /// Takes the bytes of a read reply.
    pub fn payload(&mut self, buffer: &mut [u8]) -> Result<()> {
        let received = match &mut self.0 {
            Stream::Unix(stream) => stream.read_exact(buffer),
            Stream::Tcp(stream) => stream.read_exact(buffer),
        };
        received.map_err(|e| format!("receive: {e}"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0u8; N];
        self.payload(&mut bytes)?;
        Ok(bytes)
    }
}

fn handshake(sender: &mut Sender, receiver: &mut Receiver, export: &str) -> Result<u64> {
    let hello: [u8; 18] = receiver.array()?;
    if &hello[0..8] != b"NBDMAGIC" || u64_at(&hello, 8) != OPTION_MAGIC {
        return Err("the peer is no newstyle NBD server".into());
    }
    let mut go = CLIENT_FLAGS.to_be_bytes().to_vec();
    go.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    go.extend_from_slice(&OPTION_GO.to_be_bytes());
    go.extend_from_slice(&(export.len() as u32 + 6).to_be_bytes());
    go.extend_from_slice(&(export.len() as u32).to_be_bytes());
    go.extend_from_slice(export.as_bytes());
    go.extend_from_slice(&[0, 0]);
    sender.bytes(&go)?;
    let mut size_bytes = None;
    loop {
        let header: [u8; 20] = receiver.array()?;
        let (kind, length) = (u32_at(&header, 12), u32_at(&header, 16) as usize);
        if u64_at(&header, 0) != OPTION_REPLY_MAGIC || length > OPTION_REPLY_MAX_BYTES {
            return Err("malformed option reply".into());
        }
        let mut body = vec![0u8; length];
        receiver.payload(&mut body)?;
        match kind {
            REPLY_INFO if length >= 12 && body[0..2] == [0, 0] => {
                size_bytes = Some(u64_at(&body, 2));
            }
            REPLY_INFO => {}
            REPLY_ACK => return size_bytes.ok_or_else(|| "no export size was sent".to_owned()),
            other => return Err(format!("refused: {other:#x} {}", String::from_utf8_lossy(&body))),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("invariant: four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("invariant: eight bytes"))
}
