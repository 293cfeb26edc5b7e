//! Limits: what greedy, lazy and numerous clients get, and that the others do not notice.

use crate::client::{ACK, Client, READ, Style, info_data, option_bytes};
use crate::harness::{DAMAGED, Gate, HeldExports, TestServer};
use ashlar_engine::reactor::Reactor;
use ashlar_nbd_server::ServerOptions;
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

fn small(reactor: &Reactor) -> MemoryExports {
    MemoryExports::new([MemoryExport::new("vm0", 8 << 20, reactor.pool().clone())])
}

/// Sends until the socket takes no more. Returns the bytes that were taken.
fn stuff(client: &mut Client, request: &[u8]) -> usize {
    client.stream.set_nonblocking(true).expect("nonblocking");
    let mut sent = 0;
    let mut refused = 0;
    while refused < 1000 {
        match client.stream.write(&request[sent % request.len()..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // The server may be about to receive: give it time to.
                refused += 1;
                std::thread::yield_now();
            }
            Err(error) => panic!("send: {error}"),
        }
        assert!(sent < 64 << 20, "a client that reads no replies is not stopped");
    }
    sent
}

#[test]
fn clients_that_take_no_replies_are_bounded() {
    let server = TestServer::start();
    let mut writer = Client::open(&server.socket, "vm0", Style::Simple);
    assert_eq!(writer.write(0, &vec![7; 8 << 20]), 0);
    for (style, length) in
        [(Style::Simple, 1 << 20), (Style::Structured, 8 << 20), (Style::Simple, 4096)]
    {
        let mut lazy = Client::open(&server.socket, "vm0", style);
        let request = lazy.request_bytes((READ, 0), 1, 0, length, &[]);
        stuff(&mut lazy, &request);
        assert_eq!(writer.read(0, 4096), Ok(vec![7; 4096]), "others are served");
    }
    drop(writer);
    let (counters, _) = server.stop();
    // At most 32 MiB and 1024 requests in flight each, and what the sockets hold.
    assert!(counters.bytes_read < 3 * (40 << 20), "{counters:?}");
    assert!(counters.requests < 3 * 1200, "{counters:?}");
}

#[test]
fn requests_in_flight_are_bounded() {
    let gate = Gate::default();
    let held = gate.clone();
    let server =
        TestServer::with(ServerOptions::default(), move |reactor| HeldExports::new(reactor, held));
    let mut greedy = Client::open(&server.socket, "vm0", Style::Simple);
    let request = greedy.request_bytes((1, 0), 1, 0, 1, b"x");
    stuff(&mut greedy, &request);
    assert!(gate.waiting() <= 1024, "{} writes under way", gate.waiting());
    assert_eq!(server.connect_to("vm0").read(8192, 1), Ok(vec![0]));
    gate.open();
}

/// More bytes than may be in flight, in reads that fail one after the other.
#[test]
fn failed_reads_hold_nothing() {
    let gate = Gate::default();
    let server =
        TestServer::with(ServerOptions::default(), move |reactor| HeldExports::new(reactor, gate));
    let mut client = Client::open(&server.socket, "vm0", Style::Structured);
    for _ in 0..80 {
        assert_eq!(client.read(DAMAGED, 1 << 20), Err(5));
    }
    assert_eq!(client.read(0, 1), Ok(vec![0]));
}

#[test]
fn two_hundred_clients_at_once() {
    let server = TestServer::start();
    let mut clients: Vec<Client> =
        (0..200).map(|_| Client::open(&server.socket, "vm0", Style::Structured)).collect();
    for round in 0..3u64 {
        for (number, client) in clients.iter_mut().enumerate() {
            let data = [number as u8; 512];
            client.start((1, 0), number as u64 * 4096 + round * 512, 512, &data);
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.reply().errno, 0));
    }
    let (first, others) = clients.split_first_mut().expect("clients");
    for number in 0..=others.len() {
        assert_eq!(first.read(number as u64 * 4096, 1536), Ok(vec![number as u8; 1536]));
    }
    clients.into_iter().for_each(Client::leave);
    let (counters, cut) = server.stop();
    assert_eq!((counters.connections_accepted, counters.connections_refused, cut), (200, 0, 0));
}

#[test]
fn handshakes_that_do_not_end_are_ended() {
    let mut options = ServerOptions::default();
    options.handshake_timeout = Duration::from_millis(300);
    let server = TestServer::with(options, small);
    let mut served = Client::open(&server.socket, "vm0", Style::Simple);
    let mut silent = server.connect();
    let mut half = server.connect();
    half.send(&3u32.to_be_bytes());
    half.send(&option_bytes(7, &info_data("vm0", &[]))[..20]);
    silent.expect_end();
    half.expect_end();
    assert_eq!(served.read(0, 1), Ok(vec![0]), "only the handshake has a deadline");
}

/// A client that asks about thousands of exports, each with a pause of the network.
#[test]
fn a_handshake_that_goes_on_gets_more_time() {
    let mut options = ServerOptions::default();
    options.handshake_timeout = Duration::from_millis(300);
    let server = TestServer::with(options, small);
    let mut client = server.connect();
    client.send(&3u32.to_be_bytes());
    for _ in 0..200 {
        assert_eq!(client.ask(6, &info_data("vm0", &[])).0, ACK);
    }
    client.stream.set_read_timeout(Some(Duration::from_millis(600))).expect("a time-out");
    assert!(client.stream.read(&mut [0]).is_err(), "nothing is said unasked, nor is it closed");
    client.stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    assert_eq!(client.ask(6, &info_data("vm0", &[])).0, ACK);
}

/// Clients that hold all memory and take no replies: the others get by on what is granted to
/// everybody, and what needs more waits until the lazy are cut.
#[test]
fn lazy_clients_are_cut_when_memory_is_short() {
    let mut options = ServerOptions::default();
    options.in_flight_total_max_bytes = 66 << 20;
    options.send_stall_max = Duration::from_secs(1);
    let server = TestServer::with(options, small);
    let mut honest = Client::open(&server.socket, "vm0", Style::Simple);
    assert_eq!(honest.write(0, &vec![7; 8 << 20]), 0);
    let mut lazy: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(&server.socket, "vm0", Style::Simple);
        let request = client.request_bytes((READ, 0), 1, 0, 1 << 20, &[]);
        stuff(&mut client, &request);
        lazy.push(client);
    }
    for at in 0..100 {
        assert_eq!(honest.read(at * 4096, 4096), Ok(vec![7; 4096]));
    }
    assert_eq!(honest.read(0, 8 << 20), Ok(vec![7; 8 << 20]));
    honest.leave();
}

/// A server that goes down does not wait for clients that take no replies.
#[test]
fn shutdown_cuts_clients_that_take_no_replies() {
    let mut options = ServerOptions::default();
    options.drain_timeout = Duration::from_millis(300);
    let server = TestServer::with(options, small);
    let mut lazy = Client::open(&server.socket, "vm0", Style::Simple);
    let request = lazy.request_bytes((READ, 0), 1, 0, 1 << 20, &[]);
    stuff(&mut lazy, &request);
    let (counters, _) = server.stop();
    assert_eq!(counters.connections, 0);
}

#[test]
fn options_of_one_handshake_are_bounded() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send(&3u32.to_be_bytes());
    let batch = option_bytes(99, &[]).repeat(256);
    let mut closed = false;
    for _ in 0..300 {
        closed = client.stream.write_all(&batch).is_err();
        if closed {
            break;
        }
        let mut answered = 0;
        while answered < 256 && !closed {
            let mut head = [0; 20];
            match std::io::Read::read_exact(&mut client.stream, &mut head) {
                Ok(()) => {
                    client.receive(head[19].into());
                    answered += 1;
                }
                Err(_) => closed = true,
            }
        }
    }
    assert!(closed, "more than 76,000 options were answered");
}

/// Entries to the kernel per request: what the server costs beyond the work itself. A bound on
/// counts, not on time; the client sends each round of requests in one go.
#[test]
fn kernel_entries_per_request_are_few() {
    // Requests in flight, rounds, entries per hundred requests.
    for (depth, rounds, limit) in [(64, 100, 15), (1, 500, 300)] {
        for (command, data) in [(1, vec![7; 4096]), (READ, vec![])] {
            let server = TestServer::start();
            let mut client = Client::open(&server.socket, "vm0", Style::Simple);
            for _ in 0..rounds {
                let mut script = Vec::new();
                for block in 0..depth {
                    let cookie = client.expect(command, block * 4096, 4096);
                    let what = (command, 0);
                    script.extend(client.request_bytes(what, cookie, block * 4096, 4096, &data));
                }
                client.send(&script);
                (0..depth).for_each(|_| assert_eq!(client.reply().errno, 0));
            }
            client.leave();
            let (enters, requests) = (server.stop_enters(), rounds * depth);
            eprintln!("depth {depth} command {command}: {enters} entries, {requests} requests");
            let allowed = requests * limit / 100 + 50;
            assert!(enters <= allowed, "{enters} entries for {requests} requests");
        }
    }
}
