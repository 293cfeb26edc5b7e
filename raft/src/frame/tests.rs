//! Goal: what is sent is what is received however it is cut, any change is refused, and no bytes
//! hurt a decoder.
//! Method: random frames in pieces of random sizes; one changed byte anywhere; headers that lie
//! with a right checksum, so that the checks behind it are reached.

use super::limits::{HEAD_MAX_BYTES, PART_MAX_BYTES, PARTS_MAX, PAYLOAD_MAX_BYTES};
use super::*;
use ashlar_engine::buffer::{BufferPool, PoolOptions};
use ashlar_engine::reactor::{Message, Part, ReceiveBuffers};
use proptest::collection::vec;
use proptest::prelude::*;

/// A frame as it is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    envelope: Envelope,
    head: Vec<u8>,
    payload: Vec<Vec<u8>>,
}

fn pool() -> BufferPool {
    BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() })
}

fn buffers(pool: &BufferPool, payload: &[Vec<u8>]) -> Vec<Buffer> {
    let fill = |part: &Vec<u8>| {
        let mut buffer = pool.allocate(part.len());
        buffer.copy_from_slice(part);
        buffer
    };
    payload.iter().map(fill).collect()
}

/// What goes over the wire.
fn wire(frames: &[Sent]) -> Vec<u8> {
    let (pool, mut message, mut encoder) = (pool(), Message::default(), Encoder::default());
    for frame in frames {
        encoder.encode(&frame.envelope, &frame.head, buffers(&pool, &frame.payload), &mut message);
    }
    let (mut all, mut head) = (Vec::new(), &message.head[..]);
    for part in &message.parts {
        match part {
            Part::Head(count) => {
                let (now, later) = head.split_at(*count);
                (head, _) = (later, all.extend_from_slice(now));
            }
            Part::Payload(buffer) => all.extend_from_slice(buffer),
        }
    }
    assert!(head.is_empty());
    all
}

/// A receive of as many of `bytes` as fit.
fn fill(buffers: &mut ReceiveBuffers, bytes: &[u8]) -> usize {
    let room = &mut buffers.first[buffers.first_filled..];
    assert!(!room.is_empty(), "a receive into nothing");
    let first = room.len().min(bytes.len());
    room[..first].copy_from_slice(&bytes[..first]);
    let second = buffers.second.as_mut().map_or(0, |second| {
        let count = second.len().min(bytes.len() - first);
        second[..count].copy_from_slice(&bytes[first..first + count]);
        count
    });
    first + second
}

fn open(pool: &BufferPool) -> Decoder {
    let mut decoder = Decoder::new(pool.clone());
    decoder.set_version(1);
    decoder
}

/// Everything that a stream says, received in pieces of the given sizes, over and over.
fn read(stream: &[u8], steps: &[usize]) -> (Vec<Sent>, Result<(), FrameError>) {
    let pool = pool();
    let (mut seen, mut rest, mut steps) = (Vec::new(), stream, steps.iter().cycle());
    let mut decoder = open(&pool);
    let result = loop {
        match decoder.next_frame() {
            Err(error) => break Err(error),
            Ok(Some(Frame { envelope, head, payload })) => {
                let payload = payload.iter().map(|part| part.to_vec()).collect();
                seen.push(Sent { envelope, head, payload });
            }
            Ok(None) if rest.is_empty() => break Ok(()),
            Ok(None) => {
                let step = *steps.next().expect("endless");
                let mut buffers = decoder.take_buffers();
                let count = fill(&mut buffers, &rest[..step.min(rest.len())]);
                rest = &rest[count..];
                decoder.handle_received(buffers, count);
            }
        }
    };
    drop(decoder);
    assert_eq!(pool.in_use_bytes(), 0, "memory leaked");
    (seen, result)
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    (0..=max, any::<u8>()).prop_map(|(len, seed)| {
        (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    let kind = (0..Kind::ALL.len()).prop_map(|at| Kind::ALL[at]);
    let numbers = (any::<u32>(), any::<u32>(), 1..u64::MAX, any::<u32>());
    let content = (bytes(300), vec(bytes(9000), 0..4));
    (kind, numbers, content).prop_map(|(kind, (group, lane, request, bound), (head, payload))| {
        let mut head = head;
        head.truncate(kind.head_max_bytes());
        let request = if kind.is_numbered() { request } else { 0 };
        let reply_max_bytes = if kind == Kind::Request { bound } else { 0 };
        let payload = if kind.has_payload() { payload } else { Vec::new() };
        let envelope = Envelope { kind, group, lane, request, reply_max_bytes };
        Sent { envelope, head, payload }
    })
}

proptest! {
    #[test]
    fn what_is_sent_is_received_however_it_is_cut(
        frames in vec(sent(), 0..6),
        steps in vec(1usize..6000, 1..8),
    ) {
        let stream = wire(&frames);
        prop_assert_eq!(read(&stream, &steps), (frames.clone(), Ok(())));
        prop_assert_eq!(read(&stream, &[1]), (frames, Ok(())));
    }

    #[test]
    fn any_changed_byte_is_refused(
        frames in vec(sent(), 1..4),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        step in 1usize..5000,
    ) {
        let mut stream = wire(&frames);
        let at = at.index(stream.len());
        stream[at] ^= change;
        let (seen, result) = read(&stream, &[step]);
        prop_assert!(result.is_err(), "byte {at}");
        prop_assert!(seen.len() < frames.len() && frames.starts_with(&seen));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(stream in vec(any::<u8>(), 1..300), step in 1usize..100) {
        let (seen, result) = read(&stream, &[step]);
        prop_assert!(seen.is_empty());
        prop_assert!(result.is_err() || FRAME_MAGIC.starts_with(&stream));
    }

    #[test]
    fn hellos_come_back(
        numbers in (any::<[u8; 16]>(), 1..u64::MAX, any::<u64>(), any::<u64>(), any::<u64>()),
        versions in (1u16.., 0u16..9),
        more in vec(any::<u8>(), 0..9),
    ) {
        let (cluster, node, incarnation, wanted, attempt) = numbers;
        let oldest = versions.0;
        let versions = Versions { oldest, newest: oldest.saturating_add(versions.1) };
        let (cluster, node) = (ClusterId(cluster), NodeId(node));
        let identity = Identity { cluster, node, incarnation, versions };
        let wanted = (wanted % 2 == 1).then_some(NodeId(wanted));
        let hello = Hello { identity, wanted, attempt };
        let mut head = hello.encode();
        head.extend(more);
        prop_assert_eq!(Hello::decode(&head), Ok(hello));
    }
}

fn request(head: Vec<u8>, payload: Vec<Vec<u8>>) -> Sent {
    let envelope =
        Envelope { kind: Kind::Request, group: 7, lane: 1, request: 9, reply_max_bytes: 100 };
    Sent { envelope, head, payload }
}

#[test]
fn the_largest_frame_passes() {
    let payload = (0..4).map(|at| vec![at; PART_MAX_BYTES]).collect();
    let frames = [request(vec![5; HEAD_MAX_BYTES], payload), request(vec![], vec![vec![]])];
    let (seen, result) = read(&wire(&frames), &[100_000, 3]);
    assert!(seen == frames && result == Ok(()));
}

#[test]
fn large_parts_are_received_where_they_stay() {
    let pool = pool();
    let stream = wire(&[request(vec![1; 10], vec![vec![2; 100_000]]), request(vec![3], vec![])]);
    let mut decoder = open(&pool);
    let mut buffers = decoder.take_buffers();
    let start = fill(&mut buffers, &stream[..1000]);
    decoder.handle_received(buffers, start);
    assert!(matches!(decoder.next_frame(), Ok(None)));
    let mut buffers = decoder.take_buffers();
    let there = 1000 - HEADER_BYTES - 10 - 4;
    assert_eq!((buffers.first.len(), buffers.first_filled), (100_000, there));
    let place = buffers.first.as_ptr();
    let count = fill(&mut buffers, &stream[start..]);
    assert_eq!(start + count, stream.len(), "and what follows, in the same receive");
    decoder.handle_received(buffers, count);
    let frame = decoder.next_frame().expect("no error").expect("a frame");
    assert_eq!(frame.payload[0].as_ptr(), place);
    assert!(place.addr().is_multiple_of(BLOCK_SIZE_BYTES), "aligned");
    assert_eq!(frame.payload[0][..], [2; 100_000]);
    assert_eq!(decoder.next_frame().expect("no error").expect("a frame").head, [3]);
}

#[test]
fn a_stranger_may_only_say_hello() {
    for (kind, taken) in [(Kind::Hello, true), (Kind::Close, true), (Kind::Ping, false)] {
        let stream =
            wire(&[Sent { envelope: Envelope::bare(kind), head: vec![], payload: vec![] }]);
        let mut decoder = Decoder::new(pool());
        let mut buffers = decoder.take_buffers();
        let count = fill(&mut buffers, &stream);
        decoder.handle_received(buffers, count);
        let expected = FrameError::Kind { found: kind as u8 };
        match decoder.next_frame() {
            Ok(frame) => assert!(taken && frame.is_some()),
            Err(error) => assert!(!taken && error == expected, "{error}"),
        }
    }
}

/// A request whose header was changed by `change`, with its checksum made right again.
fn forged(change: impl FnOnce(&mut [u8])) -> FrameError {
    let mut stream = wire(&[request(vec![1, 2, 3], vec![vec![4; 10], vec![5; 20]])]);
    change(&mut stream);
    let sum = crc32fast::hash(&stream[12..HEADER_BYTES]);
    stream[8..12].copy_from_slice(&sum.to_le_bytes());
    read(&stream, &[4096]).1.expect_err("refused")
}

fn set(at: usize, number: u32) -> impl FnOnce(&mut [u8]) {
    move |stream: &mut [u8]| stream[at..at + 4].copy_from_slice(&number.to_le_bytes())
}

/// Offsets of the header's fields.
const HEAD_BYTES: usize = 40;
const PARTS: usize = 44;
const PAYLOAD_BYTES: usize = 48;
const HEAD_CHECKSUM: usize = 56;
const TABLE: usize = HEADER_BYTES + 3;

#[test]
fn lies_with_a_right_checksum_are_refused() {
    use FrameError::*;
    let wrong = |result: FrameError, expected: FrameError| assert_eq!(result, expected);
    wrong(forged(|stream| stream[12] = 2), Version { expected: 1, found: 2 });
    wrong(forged(|stream| stream[14] = 9), Kind { found: 9 });
    wrong(forged(|stream| stream[15] = 1), Flags { found: 1 });
    wrong(forged(|stream| stream[32] = 1), Sequence { expected: 0, found: 1 });
    wrong(forged(|stream| stream[14] = 3), Shape { found: super::Kind::Reply });
    wrong(forged(|stream| stream[14] = 8), Shape { found: super::Kind::Ping });
    wrong(forged(|stream| stream[24..32].fill(0)), Shape { found: super::Kind::Request });
    let (max, found) = (HEAD_MAX_BYTES, HEAD_MAX_BYTES + 1);
    wrong(forged(set(HEAD_BYTES, found as u32)), HeadBytes { max, found });
    let (max, found) = (PARTS_MAX, u32::MAX as usize);
    wrong(forged(set(PARTS, u32::MAX)), Parts { max, found });
    let max = PAYLOAD_MAX_BYTES;
    wrong(forged(set(PAYLOAD_BYTES, u32::MAX)), PayloadBytes { max, found });
    wrong(forged(set(PAYLOAD_BYTES, 31)), PayloadSum { expected: 31, found: 30 });
    let error = forged(|stream| {
        stream[TABLE..TABLE + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let sum = crc32fast::hash(&stream[HEADER_BYTES..TABLE + 8]);
        stream[HEAD_CHECKSUM..HEAD_CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
    });
    wrong(error, PartBytes { max: PART_MAX_BYTES, found });
}

#[test]
fn small_parts_count_as_the_blocks_they_take() {
    let pool = pool();
    let parts = |count: usize| buffers(&pool, &vec![vec![0; 1]; count]);
    assert_eq!(check_size(Kind::Request, &[], &parts(PARTS_MAX)), Ok(()));
    let (max, found) = (PAYLOAD_MAX_BYTES, PAYLOAD_MAX_BYTES + BLOCK_SIZE_BYTES);
    let refused = check_size(Kind::Request, &[], &parts(PARTS_MAX + 1));
    assert_eq!(refused, Err(Oversize::Payload { max, found }));
    let refused = check_size(Kind::Error, &[0; 257], &[]);
    assert_eq!(refused, Err(Oversize::Head { max: 256, found: 257 }));
    let long = [pool.allocate(PART_MAX_BYTES + 1)];
    let (max, found) = (PART_MAX_BYTES, PART_MAX_BYTES + 1);
    assert_eq!(check_size(Kind::Reply, &[], &long), Err(Oversize::Part { max, found }));
    let found = BLOCK_SIZE_BYTES;
    let refused = check_size(Kind::Cancel, &[], &parts(1));
    assert_eq!(refused, Err(Oversize::Payload { max: 0, found }));
    assert_eq!(charged_bytes(5, [0, 1, 4096, 4097]), 5 + 5 * BLOCK_SIZE_BYTES);
}

fn identity(node: u64) -> Identity {
    let cluster = ClusterId([1; 16]);
    Identity { cluster, node: NodeId(node), incarnation: 1, versions: Versions::OURS }
}

#[test]
fn the_wrong_ones_are_refused_by_name() {
    let (own, their) = (identity(1), identity(2));
    let hello = |identity, wanted| Hello { identity, wanted, attempt: 1 };
    let (us, them) = (Some(NodeId(1)), Some(NodeId(2)));
    assert_eq!(hello(their, us).check(&own, None), Ok(1));
    assert_eq!(hello(their, None).check(&own, them), Ok(1));
    let check = |hello: Hello, expected| hello.check(&own, expected).expect_err("refused");
    let foreign = Identity { cluster: ClusterId([2; 16]), ..their };
    let (expected, found) = (own.cluster, foreign.cluster);
    assert_eq!(check(hello(foreign, us), None), Refusal::OtherCluster { expected, found });
    assert_eq!(check(hello(own, us), None), Refusal::Itself);
    let (expected, found) = (NodeId(3), NodeId(1));
    let refused = check(hello(their, Some(expected)), None);
    assert_eq!(refused, Refusal::OtherNode { expected, found });
    let refused = check(hello(their, us), Some(expected));
    assert_eq!(refused, Refusal::OtherNode { expected, found: NodeId(2) });
    let newer = Identity { versions: Versions { oldest: 2, newest: 3 }, ..their };
    let (expected, found) = (own.versions, newer.versions);
    assert_eq!(check(hello(newer, us), None), Refusal::NoVersion { expected, found });
}

#[test]
fn the_newest_common_version_is_spoken() {
    let versions = |oldest, newest| Versions { oldest, newest };
    let common = |a: (u16, u16), b: (u16, u16)| {
        let (a, b) = (versions(a.0, a.1), versions(b.0, b.1));
        assert_eq!(a.common(b), b.common(a));
        a.common(b)
    };
    assert_eq!(common((1, 3), (2, 5)), Some(3));
    assert_eq!(common((1, 9), (4, 5)), Some(5));
    assert_eq!(common((1, 1), (1, 1)), Some(1));
    assert_eq!(common((1, 2), (3, 4)), None);
}

#[test]
fn no_hello_is_taken_for_one() {
    let good = Hello { identity: identity(3), wanted: None, attempt: 0 }.encode();
    let found = good.len() - 1;
    let short = Hello::decode(&good[..found]);
    assert_eq!(short, Err(HelloError::Length { expected: good.len(), found }));
    let changed = |at: usize, byte: u8| {
        let mut head = good.clone();
        head[at] = byte;
        Hello::decode(&head)
    };
    assert_eq!(changed(16, 0), Err(HelloError::Nobody));
    let found = Versions { oldest: 2, newest: 1 };
    assert_eq!(changed(48, 2), Err(HelloError::Versions { found }));
    let found = Versions { oldest: 0, newest: 1 };
    assert_eq!(changed(48, 0), Err(HelloError::Versions { found }));
}

#[test]
fn notices_come_back_and_long_ones_are_cut() {
    let notice = Notice { code: 3, text: "no".into() };
    assert_eq!(Notice::decode(&notice.encode()), notice);
    let long = Notice { code: 3, text: "\u{20ac}".repeat(100) };
    let head = long.encode();
    assert_eq!(head.len(), limits::NOTICE_MAX_BYTES);
    assert_eq!(Notice::decode(&head).text, "\u{20ac}".repeat(85));
    assert_eq!(Notice::decode(&[]), Notice { code: 0, text: String::new() });
    for code in 0..=20 {
        let reason = Farewell::from_code(code);
        assert_eq!(reason as u8, if code <= 12 { code } else { 0 });
    }
}
