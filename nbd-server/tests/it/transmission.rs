//! Requests and replies: every command in every style, every refusal, every split of the stream.

use crate::client::{
    CACHE, Client, DF, DISC, FAST_ZERO, FLUSH, FUA, NO_HOLE, PAYLOAD_LEN, READ, REQ_ONE, RESIZE,
    STATUS, STYLES, Style, TRIM, WRITE, ZEROES,
};
use crate::harness::{CLOSED, DAMAGED, FULL, Gate, HeldExports, SIZE, TestServer};
use ashlar_nbd_server::ServerOptions;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;
const MIB: u64 = 1 << 20;

fn pattern(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64).map(|at| ((at * 31 + seed * 7) % 253) as u8 + 1).collect()
}

#[test]
fn every_command_in_every_style() {
    for style in STYLES {
        let server = TestServer::start();
        let mut client = Client::open(&server.socket, "vm0", style);
        assert_eq!(client.size, SIZE);
        let data = pattern(9000, 1);
        assert_eq!(client.write(5000, &data), 0);
        assert_eq!(client.read(5000, 9000).expect("read"), data);
        assert_eq!(client.read(4999, 1), Ok(vec![0]));
        assert_eq!(client.call((FLUSH, 0), 0, 0).errno, 0);
        assert_eq!(client.call((CACHE, 0), 0, SIZE).errno, 0);
        assert_eq!(client.call((ZEROES, 0), 6000, 1000).errno, 0);
        assert_eq!(client.read(6000, 1001).expect("read")[999..], [0, data[2000]]);
        assert_eq!(client.call((ZEROES, NO_HOLE), 0, SIZE).errno, 0);
        assert_eq!(client.call((TRIM, 0), 0, SIZE).errno, 0);
        assert_eq!(client.call((ZEROES, FAST_ZERO), 0, SIZE).errno, 0);
        assert_eq!(client.call((ZEROES, FAST_ZERO | NO_HOLE), 0, SIZE).errno, ENOTSUP);
        client.leave();
    }
}

#[test]
fn fua_is_accepted_on_every_command() {
    let server = TestServer::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = Client::open(&server.socket, "vm0", style);
        for (command, length) in
            [(READ, 1), (FLUSH, 0), (TRIM, 1), (CACHE, 1), (ZEROES, 1), (STATUS, 1)]
        {
            assert_eq!(client.call((command, FUA), 0, length).errno, 0, "command {command}");
        }
        client.start((WRITE, FUA), 0, 3, b"abc");
        assert_eq!(client.reply().errno, 0);
    }
}

#[test]
fn writes_reach_other_connections() {
    let server = TestServer::start();
    let mut one = Client::open(&server.socket, "vm0", Style::Simple);
    let mut two = Client::open(&server.socket, "vm0", Style::Extended);
    assert_eq!(one.write(4095, b"shared"), 0);
    assert_eq!(two.read(4095, 6), Ok(b"shared".to_vec()));
}

#[test]
fn zero_lengths_do_nothing() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        for command in [READ, TRIM, CACHE, ZEROES] {
            assert_eq!(client.call((command, 0), SIZE, 0).errno, 0, "command {command}");
        }
        assert_eq!(client.write(1, b""), 0);
        assert_eq!(client.call((STATUS, 0), 0, 0).errno, EINVAL);
        assert_eq!(client.call((READ, 0), SIZE + 1, 0).errno, EINVAL);
    }
}

#[test]
fn ranges_past_the_end_are_refused() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        let wrapping = u64::MAX - 3;
        for (offset, length) in
            [(SIZE, 1), (SIZE - 1, 2), (wrapping, 8), (u64::MAX, 1), (0, SIZE + 1)]
        {
            for command in [READ, TRIM, CACHE, STATUS] {
                assert_eq!(client.call((command, 0), offset, length).errno, EINVAL);
            }
            assert_eq!(client.call((ZEROES, 0), offset, length).errno, ENOSPC);
            assert_eq!(client.write(offset, &pattern(length as usize, 1)), ENOSPC);
        }
        assert_eq!(client.read(SIZE - 2, 2), Ok(vec![0; 2]));
        assert_eq!(client.write(SIZE - 2, b"ok"), 0);
        assert_eq!(client.write(SIZE - 2, b"\0\0"), 0);
    }
}

#[test]
fn read_only_exports_refuse_every_change() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "frozen", style);
        assert_eq!(client.write(0, b"x"), EPERM);
        assert_eq!(client.call((ZEROES, 0), 0, 4096).errno, EPERM);
        assert_eq!(client.call((TRIM, 0), 0, 4096).errno, EPERM);
        assert_eq!(client.call((FLUSH, 0), 0, 0).errno, 0);
        assert_eq!(client.read(0, 1), Ok(vec![0]));
    }
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        for command in [RESIZE, 9, 100, u16::MAX] {
            assert_eq!(client.call((command, 0), 0, 512).errno, EINVAL, "command {command}");
        }
        let df = if style == Style::Simple { 0 } else { DF };
        for (command, allowed) in [
            (READ, FUA | df),
            (FLUSH, FUA),
            (TRIM, FUA),
            (CACHE, FUA),
            (ZEROES, FUA | NO_HOLE | FAST_ZERO),
            (STATUS, FUA | REQ_ONE),
        ] {
            for bit in 0..16 {
                let flag = 1 << bit;
                // With extended headers this one announces a payload.
                if flag & allowed == 0 && flag != PAYLOAD_LEN {
                    let reply = client.call((command, flag), 0, 0);
                    assert_eq!(reply.errno, EINVAL, "command {command} flag {flag:#x}");
                }
            }
        }
        for bit in 1..16 {
            let flag = 1 << bit;
            if flag != PAYLOAD_LEN || style != Style::Extended {
                // The payload is skipped: what follows is understood.
                client.start((WRITE, flag), 0, 700, &pattern(700, 2));
                assert_eq!(client.reply().errno, EINVAL);
            }
        }
        assert_eq!(client.call((FLUSH, 0), 0, 1).errno, EINVAL);
        assert_eq!(client.call((FLUSH, 0), 1, 0).errno, EINVAL);
        assert_eq!(client.read(0, 700), Ok(vec![0; 700]));
    }
}

#[test]
fn errors_carry_a_sentence() {
    let server = TestServer::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = Client::open(&server.socket, "vm0", style);
        assert_eq!(client.call((READ, 0), SIZE, 1).message, "past the end of the export");
    }
}

#[test]
fn extended_payloads_where_none_belong_are_skipped() {
    let server = TestServer::start();
    let mut client = Client::open(&server.socket, "vm0", Style::Extended);
    for command in [READ, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE] {
        client.start((command, PAYLOAD_LEN), 0, 100_000, &pattern(100_000, 3));
        assert_eq!(client.reply().errno, EINVAL, "command {command}");
    }
    assert_eq!(client.read(0, 1), Ok(vec![0]));
}

/// QEMU's client leaves the flag out and sends the payload all the same.
#[test]
fn extended_writes_without_their_flag_are_understood() {
    let server = TestServer::start();
    let mut client = Client::open(&server.socket, "vm0", Style::Extended);
    for (flag, errno) in [(0, 0), (1, 0), (2, EINVAL)] {
        let cookie = client.expect(WRITE, 0, 3);
        let mut bytes = client.request_bytes((READ, flag), cookie, 0, 3, b"abc");
        bytes[7] = 1;
        client.send(&bytes);
        assert_eq!(client.reply().errno, errno);
        assert_eq!(client.read(0, 3), Ok(b"abc".to_vec()));
    }
}

#[test]
fn payloads_beyond_the_limit_are_answered_and_end_the_connection() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "big", style);
        client.start((WRITE, 0), 0, (32 << 20) + 1, &[]);
        assert_eq!(client.reply().errno, EINVAL);
        client.expect_end();
        let mut client = Client::open(&server.socket, "big", style);
        assert_eq!(client.call((READ, 0), 0, (32 << 20) + 1).errno, EINVAL);
        assert_eq!(client.read(0, 1), Ok(vec![0]), "reads have no payload to skip");
    }
}

#[test]
fn requests_of_the_largest_payload() {
    let server = TestServer::start();
    for (seed, style) in STYLES.into_iter().enumerate() {
        let mut client = Client::open(&server.socket, "big", style);
        for offset in [0, 4097 + (1 << 40)] {
            let data = pattern(32 << 20, seed as u64);
            assert_eq!(client.write(offset, &data), 0);
            assert!(client.read(offset, 32 << 20).expect("read") == data);
        }
    }
}

#[test]
fn holes_are_sent_as_holes() {
    let server = TestServer::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = Client::open(&server.socket, "vm0", style);
        assert_eq!(client.write(MIB, b"data"), 0);
        let kinds = |reply: &crate::client::Reply| -> Vec<u16> {
            reply.chunks.iter().map(|chunk| chunk.kind).collect()
        };
        assert_eq!(kinds(&client.call((READ, 0), 0, MIB)), [2]);
        assert_eq!(kinds(&client.call((READ, DF), 0, MIB)), [1], "DF wants zeroes spelt out");
        assert_eq!(kinds(&client.call((READ, 0), 0, 3 * MIB)), [2, 1, 2]);
        assert_eq!(client.call((READ, DF), 0, MIB + 1).errno, EOVERFLOW);
        assert_eq!(kinds(&client.call((READ, 0), 0, 0)), [0]);
    }
}

#[test]
fn status_tells_holes_from_data() {
    let server = TestServer::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = Client::open(&server.socket, "vm0", style);
        assert_eq!(client.write(8192, &pattern(4096, 1)), 0);
        let whole = client.call((STATUS, 0), 0, SIZE).extents;
        assert_eq!(whole, [(8192, 3), (4096, 0), (SIZE - 12288, 3)]);
        assert_eq!(client.call((STATUS, REQ_ONE), 0, SIZE).extents, [(8192, 3)]);
        assert_eq!(client.call((STATUS, REQ_ONE), 9000, 10).extents, [(10, 0)]);
        assert_eq!(client.call((STATUS, 0), SIZE - 1, 1).extents, [(1, 3)]);
    }
}

#[test]
fn status_needs_a_selected_context() {
    let server = TestServer::start();
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    assert_eq!(client.call((STATUS, 0), 0, 4096).errno, EINVAL);
}

#[test]
fn sixty_four_bit_lengths() {
    let server = TestServer::start();
    let mut client = Client::open(&server.socket, "big", Style::Extended);
    let terabyte = 1 << 40;
    assert_eq!(client.call((STATUS, 0), 0, 5 * terabyte).extents, [(5 * terabyte, 3)]);
    assert_eq!(client.write(3 * terabyte, b"x"), 0);
    let middle = (3 * terabyte, 3);
    let rest = (2 * terabyte - 4096, 3);
    assert_eq!(client.call((STATUS, 0), 0, 5 * terabyte).extents, [middle, (4096, 0), rest]);
    assert_eq!(client.call((ZEROES, 0), 1, 5 * terabyte - 2).errno, 0);
    assert_eq!(client.call((TRIM, 0), 0, 5 * terabyte).errno, 0);
    assert_eq!(client.call((CACHE, 0), 0, 5 * terabyte).errno, 0);
    assert_eq!(client.read(3 * terabyte, 1), Ok(vec![0]));
    assert_eq!(client.call((READ, 0), 0, 1 << 32).errno, EINVAL);
}

#[test]
fn garbage_ends_the_connection_after_what_came_before() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        let cookie = client.expect(READ, 0, 10);
        let mut bytes = client.request_bytes((READ, 0), cookie, 0, 10, &[]);
        bytes.extend(b"GET / HTTP/1.1\r\nHost: storage\r\n\r\n");
        client.send(&bytes);
        assert_eq!(client.reply().data, [0; 10]);
        client.expect_end();
    }
    let mut client = Client::open(&server.socket, "vm0", Style::Extended);
    client.style = Style::Simple;
    let compact = client.request_bytes((READ, 0), 1, 0, 1, &[]);
    client.send(&compact);
    client.expect_end();
}

/// Write, read, write and flush with every place where the stream may be cut in two.
#[test]
fn every_split_of_requests_is_understood() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        let size = if style == Style::Extended { 32 } else { 28 };
        for cut in 0..4 * size + 40 {
            let (one, two) = (pattern(30, cut), pattern(10, cut + 1));
            let mut script = Vec::new();
            for (command, offset, length, payload) in [
                (WRITE, 4090, 30, &one[..]),
                (READ, 100, 5, &[]),
                (WRITE, 5000, 10, &two),
                (FLUSH, 0, 0, &[]),
            ] {
                let cookie = client.expect(command, offset, length);
                script.extend(client.request_bytes((command, 0), cookie, offset, length, payload));
            }
            let (head, tail) = script.split_at(cut as usize);
            client.send(head);
            client.send(tail);
            (0..4).for_each(|_| assert_eq!(client.reply().errno, 0));
            assert_eq!(client.read(4090, 30), Ok(one));
            assert_eq!(client.read(5000, 10), Ok(two));
        }
    }
}

/// One byte at a time, over TCP too.
#[test]
fn single_bytes_and_tcp() {
    use std::io::{Read, Write};
    let server = TestServer::start();
    let mut client = Client::open(&server.socket, "vm0", Style::Structured);
    let cookie = client.expect(WRITE, 7, 5000);
    let bytes = client.request_bytes((WRITE, 0), cookie, 7, 5000, &pattern(5000, 9));
    bytes.iter().for_each(|byte| client.send(&[*byte]));
    assert_eq!(client.reply().errno, 0);
    assert_eq!(client.read(7, 5000), Ok(pattern(5000, 9)));
    let mut stream = std::net::TcpStream::connect(server.tcp).expect("connect");
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x02\0\0\0\0").expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("receive");
    assert_eq!(answer.len(), 18 + 20);
}

/// Thousands of requests in one go, answered whatever the order.
#[test]
fn long_pipelines_are_answered_whole() {
    let server = TestServer::start();
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        let mut script = Vec::new();
        for block in 0..1500u64 {
            let data = pattern(4096, block);
            let cookie = client.expect(WRITE, block * 4096, 4096);
            let bytes = client.request_bytes((WRITE, 0), cookie, block * 4096, 4096, &data);
            script.extend(bytes);
        }
        let mut sender = client.stream.try_clone().expect("clone");
        let thread = std::thread::Builder::new()
            .spawn(move || std::io::Write::write_all(&mut sender, &script))
            .expect("thread");
        (0..1500).for_each(|_| assert_eq!(client.reply().errno, 0));
        thread.join().expect("sender").expect("send");
        for block in 0..1500u64 {
            assert_eq!(client.read(block * 4096, 4096), Ok(pattern(4096, block)));
        }
    }
}

fn held(gate: &Gate) -> TestServer {
    let gate = gate.clone();
    TestServer::with(ServerOptions::default(), move |reactor| HeldExports::new(reactor, gate))
}

#[test]
fn replies_overtake_slow_requests() {
    let gate = Gate::default();
    let server = held(&gate);
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    let slow = client.start((WRITE, 0), 0, 3, b"abc");
    let fast = client.start((READ, 0), 8192, 1, &[]);
    assert_eq!(client.reply().cookie, fast);
    gate.open();
    assert_eq!(client.reply().cookie, slow);
}

#[test]
fn disconnect_waits_for_what_is_under_way() {
    let gate = Gate::default();
    let server = held(&gate);
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    let cookie = client.start((WRITE, 0), 0, 3, b"abc");
    let leave = client.request_bytes((DISC, 0), 0, 0, 0, &[]);
    client.send(&leave);
    gate.wait_for(1);
    gate.open();
    assert_eq!(client.reply().cookie, cookie);
    client.expect_end();
    assert_eq!(server.connect_to("vm0").read(0, 3), Ok(b"abc".to_vec()));
}

#[test]
fn writes_of_clients_that_vanish_are_finished() {
    let gate = Gate::default();
    let server = held(&gate);
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    client.start((WRITE, 0), 0, 3, b"abc");
    gate.wait_for(1);
    drop(client);
    gate.open();
    let mut other = server.connect_to("vm0");
    while other.read(0, 3) != Ok(b"abc".to_vec()) {
        std::thread::yield_now();
    }
    drop(other);
    assert_eq!(server.stop().1, 0);
}

#[test]
fn shutdown_answers_what_is_under_way() {
    let gate = Gate::default();
    let server = held(&gate);
    let mut client = Client::open(&server.socket, "vm0", Style::Structured);
    let mut idle = Client::open(&server.socket, "vm0", Style::Simple);
    let mut haggling = server.connect();
    haggling.send(&3u32.to_be_bytes());
    client.start((WRITE, 0), 0, 3, b"abc");
    gate.wait_for(1);
    server.begin_stop();
    idle.expect_end();
    haggling.expect_end();
    gate.open();
    assert_eq!(client.reply().errno, 0);
    client.expect_end();
    let (counters, cut) = server.stop();
    assert_eq!((counters.connections, counters.errors, cut), (0, 0, 0));
    assert_eq!((counters.requests, counters.bytes_written), (1, 3));
}

#[test]
fn half_closed_clients_get_their_replies() {
    let gate = Gate::default();
    let server = held(&gate);
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    client.start((WRITE, 0), 0, 3, b"abc");
    client.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    gate.wait_for(1);
    gate.open();
    assert_eq!(client.reply().errno, 0);
    client.expect_end();
}

#[test]
fn payloads_cut_short_change_nothing() {
    let server = TestServer::start();
    let mut check = server.connect_to("vm0");
    for style in STYLES {
        for sent in [0, 1, 4096, 100_000, 1_000_000 - 1] {
            let mut client = Client::open(&server.socket, "vm0", style);
            let bytes = client.request_bytes((WRITE, 0), 1, 0, 1_000_000, &pattern(sent, 5));
            client.send(&bytes);
            client.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
            client.expect_end();
            assert_eq!(check.read(0, 1_000_000), Ok(vec![0; 1_000_000]));
        }
    }
}

/// What the store cannot do is answered with the right error, for short and for long requests,
/// and the connection goes on.
#[test]
fn failures_of_the_store_are_reported() {
    let gate = Gate::default();
    gate.open();
    let server = held(&gate);
    for style in STYLES {
        let mut client = Client::open(&server.socket, "vm0", style);
        for (at, errno, text) in
            [(DAMAGED, 5, "Corrupt"), (FULL, ENOSPC, "NoSpace"), (CLOSED, 108, "Closed")]
        {
            for command in [READ, TRIM, CACHE, ZEROES] {
                let reply = client.call((command, 0), at + 1, 10);
                assert_eq!(reply.errno, errno);
                let told = style == Style::Simple || reply.message.starts_with(text);
                assert!(told, "{}", reply.message);
            }
            assert_eq!(client.write(at, b"x"), errno);
            // Long: the first piece is fine, the second fails, the third comes too late.
            let start = at - (MIB + MIB / 2);
            assert_eq!(client.call((READ, 0), start, 2 * MIB).errno, errno);
            assert_eq!(client.write(start, &pattern(2 << 20, 3)), errno);
            assert_eq!(client.call((TRIM, 0), start, MIB).errno, 0);
        }
        if style != Style::Simple {
            assert_eq!(client.call((STATUS, 0), DAMAGED, 1).errno, 5);
        }
        assert_eq!(client.read(0, 1), Ok(vec![0]));
        client.leave();
    }
    assert_eq!(server.stop().1, 0);
}
