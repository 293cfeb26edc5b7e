//! Bytes between nodes, cut at random, against a naive reading of the same bytes in one piece. What
//! is understood encodes to the bytes it came from, and no more memory is held than one frame has.

use crate::input::Input;
use ashlar_engine::buffer::{BufferPool, PoolOptions};
use ashlar_engine::reactor::{Message, Part, ReceiveBuffers};
use ashlar_raft::frame::limits::{PARSE_BUFFER_BYTES, PAYLOAD_MAX_BYTES};
use ashlar_raft::frame::{Decoder, Encoder, Frame, Hello, Kind, Notice};

const HEADER: usize = 64;

/// The first bytes choose how the stream is received, the rest is the stream. If the first bit is
/// set, what can be made right in it is: so the fuzzer reaches what stands behind the checksums.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (shape, step) = (input.byte(), usize::from(input.u16()) + 1);
    let mut stream = input.0.to_vec();
    if shape & 1 != 0 {
        reseal(&mut stream);
    }
    let greeting = shape & 2 != 0;
    let (frames, garbage) = decode(&stream, step, greeting);
    assert_eq!((frames, garbage), naive(&stream, greeting));
}

/// Ends of the frames understood, and whether garbage followed.
fn decode(stream: &[u8], step: usize, greeting: bool) -> (Vec<usize>, bool) {
    let pool = BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() });
    let mut decoder = Decoder::new(pool.clone());
    if !greeting {
        decoder.set_version(1);
    }
    let (mut encoder, mut rest) = (Encoder::default(), stream);
    let (mut ends, mut at) = (Vec::new(), 0);
    loop {
        assert!(pool.in_use_bytes() <= PARSE_BUFFER_BYTES + PAYLOAD_MAX_BYTES);
        match decoder.next_frame() {
            Err(_) => return (ends, true),
            Ok(Some(frame)) => {
                if frame.envelope.kind == Kind::Hello {
                    decoder.set_version(1);
                }
                check(&frame);
                let again = encode(&mut encoder, frame);
                assert!(stream[at..].starts_with(&again), "frame {}", ends.len());
                at += again.len();
                ends.push(at);
            }
            Ok(None) if rest.is_empty() => return (ends, false),
            Ok(None) => {
                let mut buffers = decoder.take_buffers();
                let count = fill(&mut buffers, &rest[..step.min(rest.len())]);
                rest = &rest[count..];
                decoder.handle_received(buffers, count);
            }
        }
    }
}

/// A receive of as many of `bytes` as fit.
fn fill(buffers: &mut ReceiveBuffers, bytes: &[u8]) -> usize {
    let room = &mut buffers.first[buffers.first_filled..];
    assert!(!room.is_empty(), "a receive into nothing");
    let head = room.len().min(bytes.len());
    room[..head].copy_from_slice(&bytes[..head]);
    let tail = buffers.second.as_mut().map_or(0, |second| {
        let tail = second.len().min(bytes.len() - head);
        second[..tail].copy_from_slice(&bytes[head..head + tail]);
        tail
    });
    head + tail
}

/// What a frame may hold, and what stands in the heads of some.
fn check(frame: &Frame) {
    let kind = frame.envelope.kind;
    assert!(frame.head.len() <= kind.head_max_bytes());
    assert!(kind.has_payload() || frame.payload.is_empty());
    assert_eq!(kind.is_numbered(), frame.envelope.request != 0);
    if let (Kind::Hello, Ok(hello)) = (kind, Hello::decode(&frame.head)) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    assert!(Notice::decode(&frame.head).encode().len() <= Kind::Error.head_max_bytes());
}

fn encode(encoder: &mut Encoder, frame: Frame) -> Vec<u8> {
    let mut message = Message::default();
    encoder.encode(&frame.envelope, &frame.head, frame.payload, &mut message);
    let (mut bytes, mut head) = (Vec::new(), &message.head[..]);
    for part in &message.parts {
        let now: &[u8] = match part {
            Part::Head(count) => {
                let (now, later) = head.split_at(*count);
                head = later;
                now
            }
            Part::Payload(buffer) => buffer,
        };
        bytes.extend_from_slice(now);
    }
    bytes
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

/// What of a frame is there: its head with the table, and its parts.
fn lengths(frame: &[u8]) -> (usize, usize) {
    (number(frame, 40) + 4 * number(frame, 44), number(frame, 48))
}

/// Makes magic, number and checksums of every frame right that is there.
fn reseal(stream: &mut [u8]) {
    let (mut at, mut sequence) = (0, 0u64);
    while stream.len() - at >= HEADER {
        let frame = &mut stream[at..];
        frame[..8].copy_from_slice(b"ashFRAME");
        frame[32..40].copy_from_slice(&sequence.to_le_bytes());
        let (head, payload) = lengths(frame);
        if let Some(bytes) = frame.get(HEADER..HEADER + head) {
            let sum = crc32fast::hash(bytes);
            frame[56..60].copy_from_slice(&sum.to_le_bytes());
        }
        if let Some(bytes) = frame.get(HEADER + head..HEADER + head + payload) {
            let sum = crc32fast::hash(bytes);
            frame[60..64].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = crc32fast::hash(&frame[12..HEADER]);
        frame[8..12].copy_from_slice(&sum.to_le_bytes());
        at = stream.len().min(at + HEADER + head + payload);
        sequence += 1;
    }
}

/// The protocol's text again, without streaming and without regard for speed.
fn naive(stream: &[u8], mut greeting: bool) -> (Vec<usize>, bool) {
    let (mut ends, mut at) = (Vec::new(), 0);
    loop {
        let frame = &stream[at..];
        let known = frame.len().min(8);
        if frame[..known] != b"ashFRAME"[..known] {
            return (ends, true);
        }
        if frame.len() < HEADER {
            return (ends, false);
        }
        if !header_is_legal(frame, ends.len() as u64, greeting) {
            return (ends, true);
        }
        let (head, payload) = lengths(frame);
        let Some(bytes) = frame.get(HEADER..HEADER + head) else { return (ends, false) };
        let table = &bytes[number(frame, 40)..];
        let parts: Vec<usize> = (0..table.len()).step_by(4).map(|at| number(table, at)).collect();
        let blocks: usize = parts.iter().map(|part| part.div_ceil(4096).max(1)).sum();
        let legal = crc32fast::hash(bytes) as usize == number(frame, 56)
            && parts.iter().all(|part| *part <= 257 * 4096)
            && parts.iter().sum::<usize>() == payload
            && blocks <= 4 * 257;
        if !legal {
            return (ends, true);
        }
        let Some(bytes) = frame.get(HEADER + head..HEADER + head + payload) else {
            return (ends, false);
        };
        if crc32fast::hash(bytes) as usize != number(frame, 60) {
            return (ends, true);
        }
        greeting &= frame[14] != 1;
        at += HEADER + head + payload;
        ends.push(at);
    }
}

fn header_is_legal(frame: &[u8], sequence: u64, greeting: bool) -> bool {
    let kind = frame[14];
    let head_max = match kind {
        1 => 512,
        2 | 3 | 5 => (1 << 20) + (64 << 10),
        4 | 7 => 256,
        6 | 8 => 0,
        _ => return false,
    };
    let payload = [2, 3, 5].contains(&kind);
    let numbered = [2, 3, 4, 5, 6].contains(&kind);
    crc32fast::hash(&frame[12..HEADER]) as usize == number(frame, 8)
        && frame[12..14] == [1, 0]
        && frame[15] == 0
        && frame[32..40] == sequence.to_le_bytes()
        && (frame[24..32] != [0; 8]) == numbered
        && (kind == 2 || number(frame, 52) == 0)
        && number(frame, 40) <= head_max
        && number(frame, 44) <= if payload { 4 * 257 } else { 0 }
        && number(frame, 48) <= if payload { 4 * 257 * 4096 } else { 0 }
        && (!greeting || [1, 7].contains(&kind))
}
