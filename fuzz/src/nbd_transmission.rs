//! Request bytes, cut at random, against a naive reading of the same bytes in one piece.

use crate::input::Input;
use ashlar_engine::buffer::{BufferPool, PoolOptions};
use ashlar_engine::reactor::ReceiveBuffers;
use ashlar_nbd_server::limits::{PARSE_BUFFER_MIN_BYTES, PAYLOAD_MAX_BYTES, PIECE_MAX_BYTES};
use ashlar_nbd_server::proto::{Command, Event, Framing, Intake, Parameters, Refusal, Request};

/// What was understood.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Request(u64, u64, u64),
    Write(u64, u64, Vec<u8>),
    Refused(u64),
    Disconnect,
    Garbage,
}

/// The first bytes choose the session, the rest is its stream.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (shape, step) = (input.byte(), usize::from(input.u16()) + 1);
    let parameters = Parameters {
        framing: [Framing::Simple, Framing::Structured, Framing::Extended][usize::from(shape) % 3],
        size_bytes: [0, 4097, 3 << 20, u64::MAX][usize::from(shape >> 2) % 4],
        flags: 0,
        read_only: shape & 64 != 0,
        block_status: shape & 128 != 0,
    };
    let stream = input.0;
    let seen = intake(&parameters, stream, step);
    let naive = naive(&parameters, stream);
    assert_eq!(seen, naive);
}

fn intake(parameters: &Parameters, stream: &[u8], step: usize) -> Vec<Seen> {
    let pool = BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() });
    let parse = pool.allocate(PARSE_BUFFER_MIN_BYTES);
    let mut intake = Intake::new(*parameters, pool, parse, 0, 0);
    let mut seen = Vec::new();
    let mut writing: Option<(Request, Vec<u8>)> = None;
    let mut rest = stream;
    loop {
        let event = match intake.next_event() {
            Ok(event) => event,
            Err(_) => {
                seen.push(Seen::Garbage);
                return seen;
            }
        };
        assert!(writing.is_none() || matches!(event, Event::Write(_) | Event::NeedBytes));
        match event {
            Event::NeedBytes if rest.is_empty() => return seen,
            Event::NeedBytes => {
                let mut buffers = intake.take_buffers();
                let count = fill(&mut buffers, &rest[..step.min(rest.len())]);
                rest = &rest[count..];
                intake.handle_received(buffers, count);
            }
            Event::Request(request) => {
                check_request(parameters, &request);
                seen.push(Seen::Request(request.cookie, request.offset, request.length));
            }
            Event::Write(piece) => {
                let (request, mut data) = writing.take().unwrap_or((piece.request, Vec::new()));
                check_request(parameters, &request);
                assert_eq!(request, piece.request);
                assert_eq!(piece.offset, request.offset + data.len() as u64);
                assert!(!piece.data.is_empty() && piece.data.len() <= PIECE_MAX_BYTES as usize);
                data.extend_from_slice(&piece.data);
                assert_eq!(piece.last, data.len() as u64 == request.length);
                if piece.last {
                    seen.push(Seen::Write(request.cookie, request.offset, data));
                } else {
                    writing = Some((request, data));
                }
            }
            Event::Refuse(Refusal { cookie, close, .. }) => {
                seen.push(Seen::Refused(cookie));
                if close {
                    return seen;
                }
            }
            Event::Disconnect => {
                seen.push(Seen::Disconnect);
                return seen;
            }
        }
    }
}

/// A receive of as many of `bytes` as fit.
fn fill(buffers: &mut ReceiveBuffers, bytes: &[u8]) -> usize {
    let ReceiveBuffers { first, first_filled, second } = buffers;
    let room = &mut first[*first_filled..];
    assert!(!room.is_empty(), "a receive into nothing");
    let head = room.len().min(bytes.len());
    room[..head].copy_from_slice(&bytes[..head]);
    let tail = second.as_mut().map_or(0, |second| {
        let tail = second.len().min(bytes.len() - head);
        second[..tail].copy_from_slice(&bytes[head..head + tail]);
        tail
    });
    head + tail
}

fn check_request(parameters: &Parameters, request: &Request) {
    let end = request.offset.checked_add(request.length).expect("no overflow");
    assert!(end <= parameters.size_bytes);
    let changes =
        matches!(request.command, Command::Write | Command::WriteZeroes { .. } | Command::Trim);
    assert!(!(changes && parameters.read_only));
    let payload = matches!(request.command, Command::Write | Command::Read { .. });
    assert!(!payload || request.length <= u64::from(PAYLOAD_MAX_BYTES));
    let status = matches!(request.command, Command::BlockStatus { .. });
    assert!(!status || (parameters.block_status && request.length > 0));
}

/// The protocol's text again, without streaming and without regard for speed.
fn naive(parameters: &Parameters, mut stream: &[u8]) -> Vec<Seen> {
    let extended = parameters.framing == Framing::Extended;
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut seen = Vec::new();
    loop {
        if stream.len() >= 4 && stream[..4] != magic.to_be_bytes() {
            seen.push(Seen::Garbage);
            return seen;
        }
        let header_bytes = if extended { 32 } else { 28 };
        if stream.len() < header_bytes {
            return seen;
        }
        let number = |at: usize, count: usize| {
            stream[at..at + count].iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (flags, command) = (number(4, 2), number(6, 2));
        let (cookie, offset) = (number(8, 8), number(16, 8));
        let length = number(24, header_bytes - 24);
        if command == 2 {
            seen.push(Seen::Disconnect);
            return seen;
        }
        let carries = command == 1 || (extended && flags & 32 != 0);
        let payload = if carries { length } else { 0 };
        if payload > 32 << 20 {
            seen.push(Seen::Refused(cookie));
            return seen;
        }
        stream = &stream[header_bytes..];
        if (stream.len() as u64) < payload {
            return seen;
        }
        let (data, rest) = stream.split_at(payload as usize);
        stream = rest;
        seen.push(if !legal(parameters, command, flags, offset, length) {
            Seen::Refused(cookie)
        } else if command == 1 && length > 0 {
            Seen::Write(cookie, offset, data.to_vec())
        } else {
            Seen::Request(cookie, offset, length)
        });
    }
}

fn legal(parameters: &Parameters, command: u64, flags: u64, offset: u64, length: u64) -> bool {
    let framing = parameters.framing;
    let known = 1 | match command {
        0 if framing != Framing::Simple => 4,
        1 if framing == Framing::Extended => 32,
        6 => 2 | 16,
        7 => 8,
        0 | 1 | 3 | 4 | 5 => 0,
        _ => return false,
    };
    let inside = u128::from(offset) + u128::from(length) <= u128::from(parameters.size_bytes);
    let short = length <= 32 << 20 && (flags & 4 == 0 || length <= 1 << 20);
    flags & !known == 0
        && inside
        && (command != 3 || (offset == 0 && length == 0))
        && !(parameters.read_only && [1, 4, 6].contains(&command))
        && (command != 0 || short)
        && (command != 6 || flags & 18 != 18)
        && (command != 7 || (parameters.block_status && length > 0))
}
