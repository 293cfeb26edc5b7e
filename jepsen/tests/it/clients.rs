//! Clients of all manners on one server: many, odd, rude, and there when it is told to end.

use std::sync::mpsc;

use ashlar_jepsen::nbd::{Command, Connection, Request};
use ashlar_jepsen::random::Random;
use ashlar_jepsen::server::{Kind, Server};

use crate::tools::{Place, is_ashlar};

const VOLUME_BYTES: u64 = 16 << 20;

fn connect(server: &Server) -> Connection {
    let setup = server.setup();
    Connection::open(&setup.socket(), &setup.volumes[0].0).unwrap()
}

fn request(command: Command, offset: u64, length: u32) -> Request {
    Request { command, flags: 0, cookie: 7, offset, length }
}

/// Goal: any byte range is served. Method: random ranges against a copy in memory.
#[test]
fn any_byte_range_is_served() {
    const SPAN: usize = 256 << 10;
    let place = Place::new("bytes", VOLUME_BYTES);
    let server = place.serve();
    let mut connection = connect(&server);
    let mut model = vec![0u8; SPAN];
    let mut random = Random::new(11);
    for _ in 0..600 {
        let longest = if random.below(4) == 0 { 40_000 } else { 3_000 };
        let length = 1 + random.below(longest) as usize;
        let at = random.below((SPAN - length) as u64) as usize;
        match random.below(4) {
            0 | 1 => {
                random.fill(&mut model[at..at + length]);
                connection.write(at as u64, &model[at..at + length]).unwrap();
            }
            2 => {
                model[at..at + length].fill(0);
                let zero = request(Command::WriteZeroes, at as u64, length as u32);
                connection.ask(zero, &[]).unwrap();
            }
            _ => {
                let mut found = vec![0u8; length];
                connection.read(at as u64, &mut found).unwrap();
                assert!(found == model[at..at + length], "{length} bytes at {at} differ");
            }
        }
    }
    server.kill().unwrap();
    let server = place.serve();
    let mut found = vec![0u8; SPAN];
    connect(&server).read(0, &mut found).unwrap();
    assert!(found == model, "the volume changed over a restart");
}

/// Goal: what one connection was told is written, every other one sees.
#[test]
fn connections_see_each_other() {
    const CONNECTIONS: usize = 24;
    let place = Place::new("multi", VOLUME_BYTES);
    let server = place.serve();
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| connect(&server)).collect();
    let mut random = Random::new(12);
    for turn in 0..400 {
        let offset = random.below(VOLUME_BYTES / 4096 - 1) * 4096 + random.below(4096);
        let mut bytes = vec![0u8; 1 + random.below(4096) as usize];
        random.fill(&mut bytes);
        connections[turn % CONNECTIONS].write(offset, &bytes).unwrap();
        let mut found = vec![0u8; bytes.len()];
        connections[random.below(CONNECTIONS as u64) as usize].read(offset, &mut found).unwrap();
        assert!(found == bytes, "turn {turn} was not seen");
    }
}

/// Goal: parts of one block written at the same time by different clients are all kept.
#[test]
fn neighbours_in_one_block_do_not_undo_each_other() {
    const WRITERS: usize = 8;
    const PART: usize = 4096 / WRITERS;
    const TURNS: u8 = 100;
    let place = Place::new("parts", VOLUME_BYTES);
    let server = place.serve();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let mut connection = connect(&server);
            scope.spawn(move || {
                for turn in 1..=TURNS {
                    let bytes = [turn ^ (writer as u8) << 4; PART];
                    connection.write((writer * PART) as u64, &bytes).unwrap();
                }
            });
        }
    });
    let mut block = vec![0u8; 4096];
    connect(&server).read(0, &mut block).unwrap();
    for (writer, part) in block.chunks(PART).enumerate() {
        assert!(part.iter().all(|b| *b == TURNS ^ (writer as u8) << 4), "writer {writer} lost");
    }
}

/// Goal: a client that is rude or vanishes hurts nobody else.
#[test]
fn rude_clients_hurt_nobody() {
    let place = Place::new("rude", VOLUME_BYTES);
    let server = place.serve();
    let mut polite = connect(&server);
    polite.write(0, &[1; 4096]).unwrap();

    let mut half_header = connect(&server);
    half_header.sender.bytes(&[0x25, 0x60, 0x95]).unwrap();
    let mut half_payload = connect(&server);
    half_payload.sender.send(request(Command::Write, 0, 65536), &[2; 1000]).unwrap();
    let mut rubbish = connect(&server);
    // The server may hang up before it has read all of it.
    let _ = rubbish.sender.bytes(&[0xee; 4096]);
    let mut deaf = connect(&server);
    for _ in 0..32 {
        deaf.sender.send(request(Command::Read, 0, 1 << 20), &[]).unwrap();
    }
    polite.write(4096, &[3; 4096]).unwrap();
    drop((half_header, half_payload, rubbish, deaf));

    let mut found = vec![0u8; 8192];
    polite.read(0, &mut found).unwrap();
    assert!(found[..4096] == [1; 4096] && found[4096..] == [3; 4096]);
    let out_of_range = polite.ask(request(Command::Read, VOLUME_BYTES, 4096), &[]);
    assert!(out_of_range.unwrap_err().contains("NBD error"));
    polite.read(0, &mut found).unwrap();
    connect(&server).read(0, &mut found).unwrap();
}

/// Goal: SIGTERM ends the server with exit code 0, and what was acknowledged is there afterwards.
#[test]
fn sigterm_drains() {
    let place = Place::new("term", VOLUME_BYTES);
    let server = place.serve();
    let _idle = connect(&server);
    let mut connection = connect(&server);
    let (sender, acknowledged) = mpsc::channel();
    let (status, last) = std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0u64.. {
                let block = number % (VOLUME_BYTES / 4096);
                let written = connection.write(block * 4096, &number.to_le_bytes());
                if written.is_err() || sender.send(number).is_err() {
                    return;
                }
            }
        });
        let first: Vec<_> = acknowledged.iter().take(100).collect();
        let status = server.terminate().unwrap_or_else(|error| panic!("{error}"));
        (status, acknowledged.iter().last().unwrap_or(first[99]))
    });
    if place.setup.kind == Kind::Ashlar {
        assert_eq!(status.code(), Some(0));
    }
    let server = place.serve();
    let mut found = [0u8; 8];
    let block = last % (VOLUME_BYTES / 4096);
    connect(&server).read(block * 4096, &mut found).unwrap();
    // The write after the last acknowledged one may have landed; it went to the next block.
    assert_eq!(u64::from_le_bytes(found), last);
}

/// Goal: an export that does not exist is refused by name, and the server stays.
#[test]
fn unknown_exports_are_refused() {
    if !is_ashlar("unknown_exports_are_refused") {
        return;
    }
    let place = Place::new("unknown", VOLUME_BYTES);
    let server = place.serve();
    for name in ["nobody", "vm0/", "../vm0", &"x".repeat(4096)] {
        let refused = Connection::open(&place.setup.socket(), name).unwrap_err();
        assert!(refused.contains("refused"), "{name}: {refused}");
    }
    connect(&server).write(0, &[1; 512]).unwrap();
}
