//! A raw NBD client. Bytes are put together here by hand, from the protocol's text: nothing is
//! shared with the server, so that both cannot be wrong in the same way.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_CONTEXT: u32 = 4;
pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const ERR_POLICY: u32 = 0x8000_0002;
pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const ERR_TOO_BIG: u32 = 0x8000_0009;
pub(crate) const ERR_EXT: u32 = 0x8000_000a;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const ZEROES: u16 = 6;
pub(crate) const STATUS: u16 = 7;
pub(crate) const RESIZE: u16 = 8;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;
pub(crate) const PAYLOAD_LEN: u16 = 32;

/// How the client asks for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Simple,
    Structured,
    Extended,
}

pub(crate) const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// A whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) errno: u32,
    pub(crate) message: String,
    /// Data of a read, put together.
    pub(crate) data: Vec<u8>,
    pub(crate) chunks: Vec<Chunk>,
    /// Extents of a block status.
    pub(crate) extents: Vec<(u64, u32)>,
    pub(crate) simple: bool,
}

struct Pending {
    command: u16,
    offset: u64,
    length: u64,
    reply: Reply,
    covered: u64,
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) style: Style,
    pub(crate) size: u64,
    pub(crate) flags: u16,
    next_cookie: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Client {
    /// Connects and checks the greeting; sends nothing.
    pub(crate) fn connect(path: &Path) -> Client {
        let mut stream = UnixStream::connect(path).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("timeout");
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("greeting");
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        Client {
            stream,
            style: Style::Simple,
            size: 0,
            flags: 0,
            next_cookie: 1,
            pending: BTreeMap::new(),
        }
    }

    /// Connects and haggles until requests can be sent.
    pub(crate) fn open(path: &Path, name: &str, style: Style) -> Client {
        let mut client = Client::connect(path);
        client.send(&3u32.to_be_bytes());
        match style {
            Style::Simple => {}
            Style::Structured => assert_eq!(client.ask(8, &[]).0, ACK),
            Style::Extended => assert_eq!(client.ask(11, &[]).0, ACK),
        }
        client.style = style;
        if style != Style::Simple {
            let (kind, found) = client.ask(10, &context_data(name, &["base:allocation"]));
            assert_eq!((kind, found.len()), (ACK, 1));
        }
        let (kind, infos) = client.ask(7, &info_data(name, &[]));
        assert_eq!(kind, ACK);
        client.learn(&infos);
        client
    }

    fn learn(&mut self, infos: &[(u32, Vec<u8>)]) {
        let export = infos.iter().find(|(_, data)| data[..2] == [0, 0]).expect("INFO_EXPORT");
        assert_eq!(export.1.len(), 12);
        self.size = u64::from_be_bytes(export.1[2..10].try_into().expect("8 bytes"));
        self.flags = u16::from_be_bytes(export.1[10..].try_into().expect("2 bytes"));
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub(crate) fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("receive");
        bytes
    }

    /// The server has closed, without sending anything more.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"", "bytes before the end"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    /// Sends an option and reads its replies up to the final one.
    pub(crate) fn ask(&mut self, option: u32, data: &[u8]) -> (u32, Vec<(u32, Vec<u8>)>) {
        self.send(&option_bytes(option, data));
        let mut replies = Vec::new();
        loop {
            let (kind, data) = self.option_reply(option);
            if kind == ACK || kind & 0x8000_0000 != 0 {
                if kind != ACK {
                    String::from_utf8(data).expect("messages are text");
                }
                return (kind, replies);
            }
            replies.push((kind, data));
        }
    }

    pub(crate) fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        let head = self.receive(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        assert_eq!(head[8..12], option.to_be_bytes(), "reply to another option");
        let kind = u32::from_be_bytes(head[12..16].try_into().expect("4 bytes"));
        let length = u32::from_be_bytes(head[16..].try_into().expect("4 bytes"));
        (kind, self.receive(length as usize))
    }

    /// The bytes of a request in this client's style, payload included.
    pub(crate) fn request_bytes(
        &self,
        (command, mut flags): (u16, u16),
        cookie: u64,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Vec<u8> {
        let extended = self.style == Style::Extended;
        if extended && command == WRITE {
            flags |= PAYLOAD_LEN;
        }
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let mut bytes = Vec::with_capacity(32 + payload.len());
        bytes.extend(magic.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        if extended {
            bytes.extend(length.to_be_bytes());
        } else {
            bytes.extend(u32::try_from(length).expect("compact length").to_be_bytes());
        }
        bytes.extend(payload);
        bytes
    }

    /// Notes a request that will be answered, and returns its cookie.
    pub(crate) fn expect(&mut self, command: u16, offset: u64, length: u64) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let reply = Reply { cookie, ..Reply::default() };
        let known =
            self.pending.insert(cookie, Pending { command, offset, length, reply, covered: 0 });
        assert!(known.is_none());
        cookie
    }

    pub(crate) fn start(
        &mut self,
        (command, flags): (u16, u16),
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> u64 {
        let cookie = self.expect(command, offset, length);
        let bytes = self.request_bytes((command, flags), cookie, offset, length, payload);
        self.send(&bytes);
        cookie
    }

    /// One request, and its reply.
    pub(crate) fn call(&mut self, what: (u16, u16), offset: u64, length: u64) -> Reply {
        let cookie = self.start(what, offset, length, &[]);
        let reply = self.reply();
        assert_eq!(reply.cookie, cookie);
        reply
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, u32> {
        let reply = self.call((READ, 0), offset, length);
        if reply.errno == 0 { Ok(reply.data) } else { Err(reply.errno) }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        let cookie = self.start((WRITE, 0), offset, data.len() as u64, data);
        let reply = self.reply();
        assert_eq!(reply.cookie, cookie);
        reply.errno
    }

    /// Leaves, and checks that the server closes.
    pub(crate) fn leave(mut self) {
        assert!(self.pending.is_empty());
        let bytes = self.request_bytes((DISC, 0), 0, 0, 0, &[]);
        self.send(&bytes);
        self.expect_end();
    }

    /// The next whole reply, to whatever request.
    pub(crate) fn reply(&mut self) -> Reply {
        loop {
            let magic = u32::from_be_bytes(self.receive(4).try_into().expect("4 bytes"));
            let done = match magic {
                0x6744_6698 => self.simple_reply(),
                0x668e_33ef => self.chunk(16),
                0x6e8a_278c => self.chunk(28),
                _ => panic!("not a reply: {magic:#x}"),
            };
            if let Some(reply) = done {
                return reply;
            }
        }
    }

    fn simple_reply(&mut self) -> Option<Reply> {
        assert_ne!(self.style, Style::Extended, "simple reply with extended headers");
        let head = self.receive(12);
        let cookie = u64::from_be_bytes(head[4..].try_into().expect("8 bytes"));
        let mut pending = self.pending.remove(&cookie).expect("reply to nothing");
        pending.reply.errno = u32::from_be_bytes(head[..4].try_into().expect("4 bytes"));
        pending.reply.simple = true;
        if pending.command == READ {
            assert_eq!(self.style, Style::Simple, "simple reply to a read");
            if pending.reply.errno == 0 {
                pending.reply.data = self.receive(pending.length as usize);
            }
        }
        Some(pending.reply)
    }

    fn chunk(&mut self, rest: usize) -> Option<Reply> {
        let extended = rest == 28;
        assert_eq!(self.style == Style::Extended, extended, "chunk of another style");
        let head = self.receive(rest);
        let flags = u16::from_be_bytes(head[..2].try_into().expect("2 bytes"));
        let kind = u16::from_be_bytes(head[2..4].try_into().expect("2 bytes"));
        let cookie = u64::from_be_bytes(head[4..12].try_into().expect("8 bytes"));
        let length = if extended {
            u64::from_be_bytes(head[20..].try_into().expect("8 bytes"))
        } else {
            u64::from(u32::from_be_bytes(head[12..].try_into().expect("4 bytes")))
        };
        assert!(length < 40 << 20);
        let payload = self.receive(length as usize);
        let mut pending = self.pending.remove(&cookie).expect("chunk to nothing");
        if extended {
            let offset = u64::from_be_bytes(head[12..20].try_into().expect("8 bytes"));
            assert_eq!(offset, pending.offset);
        }
        pending.take_chunk(Chunk { flags, kind, payload });
        if flags & 1 == 0 {
            self.pending.insert(cookie, pending);
            return None;
        }
        let whole = pending.command != READ || pending.covered == pending.length;
        assert!(whole || pending.reply.errno != 0, "read ended with parts missing");
        Some(pending.reply)
    }
}

impl Pending {
    fn take_chunk(&mut self, chunk: Chunk) {
        let payload = &chunk.payload;
        let u32_at = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("4"));
        let u64_at = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("8"));
        match chunk.kind {
            0 => assert!(payload.is_empty() && chunk.flags & 1 == 1),
            1 => {
                assert!(payload.len() >= 9 && self.command == READ);
                self.content(u64_at(0), &payload[8..]);
            }
            2 => {
                assert!(payload.len() == 12 && u32_at(8) > 0 && self.command == READ);
                self.content(u64_at(0), &vec![0; u32_at(8) as usize]);
            }
            5 => {
                assert!(
                    self.command == STATUS
                        && u32_at(0) == 1
                        && (payload.len() - 4).is_multiple_of(8)
                );
                self.reply.extents = (4..payload.len())
                    .step_by(8)
                    .map(|at| (u64::from(u32_at(at)), u32_at(at + 4)))
                    .collect();
            }
            6 => {
                assert!(self.command == STATUS && u32_at(0) == 1);
                assert_eq!(payload.len(), 8 + 16 * u32_at(4) as usize);
                self.reply.extents = (8..payload.len())
                    .step_by(16)
                    .map(|at| {
                        assert_eq!(u32_at(at + 8), 0, "padding");
                        (u64_at(at), u32_at(at + 12))
                    })
                    .collect();
            }
            0x8001 => {
                self.reply.errno = u32_at(0);
                assert_ne!(self.reply.errno, 0);
                let length = u16::from_be_bytes(payload[4..6].try_into().expect("2"));
                assert_eq!(payload.len(), 6 + usize::from(length));
                self.reply.message = String::from_utf8(payload[6..].to_vec()).expect("text");
            }
            other => panic!("unknown chunk {other}"),
        }
        self.reply.chunks.push(chunk);
    }

    fn content(&mut self, at: u64, bytes: &[u8]) {
        let start = at.checked_sub(self.offset).expect("chunk before the request") as usize;
        assert!(start + bytes.len() <= self.length as usize, "chunk past the request");
        self.reply.data.resize(self.length as usize, 0xee);
        self.reply.data[start..start + bytes.len()].copy_from_slice(bytes);
        self.covered += bytes.len() as u64;
    }
}

pub(crate) fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Data of INFO and GO.
pub(crate) fn info_data(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((kinds.len() as u16).to_be_bytes());
    kinds.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}
