//! A whole connection: requests in random pieces against a vector, then a sudden or clean end.
//!
//! The server runs on the real reactor, the connection is a [`Pipe`].

use crate::input::Input;
use crate::pipe::{Pipe, ServerEnd};
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::{Server, ServerOptions};
use std::rc::Rc;

/// Larger than the largest piece, so that requests are cut.
const SIZE: usize = (1 << 20) + 300_000;
const OPS_MAX: usize = 64;

thread_local! {
    /// Rings are slow to make, and nothing of a run is left in one. Never dropped, for a reactor
    /// needs thread locals of its own to end.
    static REACTOR: &'static Reactor =
        Box::leak(Box::new(Reactor::new(ReactorOptions::default()).expect("io_uring")));
}

/// Runs the session that `data` describes.
pub fn target(data: &[u8]) {
    REACTOR.with(|reactor| reactor.block_on(session(Reactor::clone(reactor), Input(data))));
}

struct Client<'a> {
    pipe: Rc<Pipe>,
    input: Input<'a>,
    framing: u8,
    cookie: u64,
}

async fn session(reactor: Reactor, mut input: Input<'_>) {
    let export = MemoryExport::new("", SIZE as u64, reactor.pool().clone());
    let exports = Rc::new(MemoryExports::new([export]));
    let server = Server::new(reactor.clone(), exports, ServerOptions::default());
    let pipe = Rc::new(Pipe::default());
    server.serve(Rc::new(ServerEnd(Rc::clone(&pipe))));
    let framing = input.byte() % 3;
    let mut client = Client { pipe, input, framing, cookie: 0 };
    client.haggle().await;
    let mut model = vec![0; SIZE];
    for _ in 0..OPS_MAX {
        if client.input.is_empty() || !client.op(&mut model).await {
            break;
        }
    }
    let end = client.input.byte();
    if end & 1 == 1 {
        let leave = client.request(2, 0, 0, 0, &[]);
        client.pipe.send(&leave);
        assert!(client.pipe.receive(1).await.is_none(), "bytes after the last reply");
    } else if end & 2 == 2 {
        // A write that never gets all of its payload.
        let bytes = client.request(1, 0, 0, 1000, &[7; 999]);
        client.deliver(&bytes);
    }
    client.pipe.close();
    while server.counters().connections > 0 {
        reactor.yield_now().await;
    }
    assert_eq!(server.shutdown().await, 0);
}

impl Client<'_> {
    /// Sends in pieces of random size.
    fn deliver(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = match self.input.byte() {
                0..=127 => rest.len(),
                small @ 128..=191 => usize::from(small - 127),
                _ => usize::from(self.input.u16()) + 1,
            };
            let (piece, later) = rest.split_at(size.min(rest.len()));
            self.pipe.send(piece);
            rest = later;
        }
    }

    async fn haggle(&mut self) {
        self.pipe.send(&3u32.to_be_bytes());
        self.pipe.receive(18).await.expect("greeting");
        if let Some(option) = [None, Some(8), Some(11)][usize::from(self.framing)] {
            self.option(option, &[]).await;
            let contexts = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
            self.option(10, contexts).await;
        }
        self.option(7, &[0; 6]).await;
    }

    async fn option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.deliver(&bytes);
        loop {
            let head = self.pipe.receive(20).await.expect("option reply");
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("4"));
            self.pipe.receive(word(16) as usize).await.expect("option reply data");
            if word(12) == 1 {
                return;
            }
            assert!(word(12) < 1 << 31, "option {option} refused");
        }
    }

    fn request(&self, command: u16, flags: u16, offset: u64, length: u64, data: &[u8]) -> Vec<u8> {
        let extended = self.framing == 2;
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let flags = if extended && command == 1 { flags | 32 } else { flags };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        let length = length.to_be_bytes();
        bytes.extend(if extended { &length[..] } else { &length[4..] });
        bytes.extend(data);
        bytes
    }

    /// One request and its reply. False if the server ended the connection, as it should.
    async fn op(&mut self, model: &mut [u8]) -> bool {
        self.cookie += 1;
        let choice = self.input.byte();
        let offset = self.input.u32() as usize % SIZE;
        let length = match self.input.byte() {
            0..=127 => usize::from(self.input.u16()),
            _ => self.input.u32() as usize % SIZE,
        };
        // Sometimes past the end.
        let length = if choice & 128 == 0 { length.min(SIZE - offset) } else { length };
        let inside = offset + length <= SIZE;
        let command = [0, 1, 3, 4, 5, 6, 7, 9][usize::from(choice) % 8];
        let flags = if choice & 64 == 0 { 0 } else { self.input.u16() & !32 };
        let payload = if command == 1 { vec![choice | 1; length] } else { Vec::new() };
        let bytes = self.request(command, flags, offset as u64, length as u64, &payload);
        self.deliver(&bytes);
        let garbage = choice == 255;
        if garbage {
            self.deliver(b"garbage!");
        }
        let Some((errno, data)) = self.reply(command, offset, length).await else {
            panic!("no reply to command {command}");
        };
        let range = offset..offset + length;
        match (errno, command) {
            (0, 0) => assert!(data == model[range], "read differs"),
            (0, 1) => model[range].fill(choice | 1),
            (0, 4 | 6) => model[range].fill(0),
            (0, _) => {}
            _ => {
                let blameless = flags == 0 && inside && [0, 1, 4, 5, 6].contains(&command);
                assert!(!blameless, "command {command} refused with {errno}");
            }
        }
        assert!(errno != 0 || inside, "done past the end");
        if garbage {
            assert!(self.pipe.receive(1).await.is_none(), "garbage was answered");
        }
        !garbage
    }

    /// The whole reply: error value and data.
    async fn reply(&self, command: u16, offset: usize, length: usize) -> Option<(u32, Vec<u8>)> {
        let mut data = vec![0xee; if command == 0 { length } else { 0 }];
        loop {
            let magic = self.pipe.receive(4).await?;
            if magic == 0x6744_6698u32.to_be_bytes() {
                let head = self.pipe.receive(12).await?;
                let errno = u32::from_be_bytes(head[..4].try_into().expect("4 bytes"));
                assert_eq!(head[4..], self.cookie.to_be_bytes());
                if command == 0 && errno == 0 {
                    assert_eq!(self.framing, 0);
                    data = self.pipe.receive(length).await?;
                }
                return Some((errno, data));
            }
            let extended = self.framing == 2;
            let expected: u32 = if extended { 0x6e8a_278c } else { 0x668e_33ef };
            assert_eq!(magic, expected.to_be_bytes());
            let head = self.pipe.receive(if extended { 28 } else { 16 }).await?;
            assert_eq!(head[4..12], self.cookie.to_be_bytes());
            let last = head[head.len() - 4..].try_into().expect("4 bytes");
            let payload = self.pipe.receive(u32::from_be_bytes(last) as usize).await?;
            let number = |at: usize, count: usize| {
                payload[at..at + count].iter().fold(0, |value, byte| value << 8 | *byte as usize)
            };
            match u16::from_be_bytes([head[2], head[3]]) {
                0x8001 => return Some((number(0, 4) as u32, Vec::new())),
                1 => {
                    let at = number(0, 8) - offset;
                    data[at..at + payload.len() - 8].copy_from_slice(&payload[8..]);
                }
                2 => {
                    let at = number(0, 8) - offset;
                    data[at..at + number(8, 4)].fill(0);
                }
                _ => {}
            }
            if head[1] & 1 == 1 {
                return Some((0, data));
            }
        }
    }
}
