//! What has killed NBD servers before, each by its name: none of it may stop this one.

use crate::client::{
    ACK, Client, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, READ, STATUS, Style,
    context_data, info_data, option_bytes,
};
use crate::harness::TestServer;

fn haggling(server: &TestServer) -> Client {
    let mut client = server.connect();
    client.send(&3u32.to_be_bytes());
    client
}

/// The server still serves newcomers.
fn alive(server: &TestServer) {
    let mut client = Client::open(&server.socket, "vm0", Style::Structured);
    assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
    client.leave();
}

/// A name length of 2^32 - 1, which wrapped to 0 when 1 was added.
#[test]
fn cve_2022_26495_name_length_wraps() {
    let server = TestServer::start();
    for option in [6, 7, 9, 10] {
        let mut client = haggling(&server);
        assert_eq!(client.ask(8, &[]).0, ACK);
        for length in [u32::MAX, u32::MAX - 1, u32::MAX - 5, 1 << 31] {
            let data = [&length.to_be_bytes()[..], &[0; 60]].concat();
            assert_eq!(client.ask(option, &data).0, ERR_INVALID);
        }
    }
    let mut client = haggling(&server);
    client.send(b"IHAVEOPT\0\0\0\x01\xff\xff\xff\xff");
    client.expect_end();
    alive(&server);
}

/// INFO and GO bodies longer than the buffer that was meant for them.
#[test]
fn cve_2022_26496_oversized_info_body() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    for length in [1025, 4096, 8192] {
        let mut data = info_data("vm0", &[]);
        data.resize(length, 0xff);
        assert_eq!(client.ask(7, &data).0, ERR_INVALID);
    }
    let kinds = vec![3; 4000];
    assert_eq!(client.ask(6, &info_data("vm0", &kinds)).0, ACK, "4000 kinds fit");
    assert_eq!(client.ask(6, &info_data("vm0", &vec![3; 4096])).0, ERR_TOO_BIG);
    alive(&server);
}

/// Export names of thousands of bytes, copied into a buffer on the stack.
#[test]
fn cve_2017_15118_long_export_names() {
    let server = TestServer::start();
    for length in [256, 3000, 4096] {
        let name = "n".repeat(length);
        let mut client = haggling(&server);
        assert_eq!(client.ask(7, &info_data(&name, &[0, 1, 2, 3])).0, ERR_UNKNOWN);
        client.send(&option_bytes(1, name.as_bytes()));
        client.expect_end();
    }
    alive(&server);
}

/// Options of 4 GiB, which a server drained for as long as the client cared to send.
#[test]
fn cve_2017_15119_huge_options() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    client.send(b"IHAVEOPT\0\0\0\x03\xff\xff\xff\xff");
    client.expect_end();
    // Many of the largest that are drained add up to the same.
    let mut client = haggling(&server);
    let mut told = 0;
    loop {
        client.send(b"IHAVEOPT\0\0\0\x03\0\0\x40\0");
        if std::io::Write::write_all(&mut client.stream, &[0; 16384]).is_err() {
            break;
        }
        let mut head = [0; 20];
        if std::io::Read::read_exact(&mut client.stream, &mut head).is_err() {
            break;
        }
        let length = u32::from_be_bytes(head[16..].try_into().expect("4 bytes"));
        client.receive(length as usize);
        told += 1;
        assert!(told < 100, "drained without end");
    }
    alive(&server);
}

/// A name just within its limit, and a reply with that name just beyond.
#[test]
fn cve_2020_10761_reply_near_the_limit() {
    let server = TestServer::start();
    for length in 4080..=4096 {
        let name = "x".repeat(length);
        let mut client = haggling(&server);
        assert_eq!(client.ask(8, &[]).0, ACK);
        assert_eq!(client.ask(6, &info_data(&name, &[1])).0, ERR_UNKNOWN);
        assert_eq!(client.ask(10, &context_data(&name, &["base:"])).0, ERR_UNKNOWN);
    }
    let query = "base:".to_owned() + &"q".repeat(4091);
    let mut client = haggling(&server);
    assert_eq!(client.ask(8, &[]).0, ACK);
    assert_eq!(client.ask(9, &context_data("vm0", &[&query])), (ACK, vec![]));
    alive(&server);
}

/// Clients that come and go while the server shuts down.
#[test]
fn cve_2024_7409_close_race_at_shutdown() {
    for round in 0..20 {
        let server = TestServer::start();
        let mut clients: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&3u32.to_be_bytes());
            if number % 2 == 0 {
                client.send(&option_bytes(7, &info_data("vm0", &[])));
            }
        }
        server.begin_stop();
        clients.truncate(round % 10);
        assert_eq!(server.stop().1, 0);
    }
}

/// Options out of order, which met an assertion.
#[test]
fn cve_2019_14851_options_out_of_order() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    assert_eq!(client.ask(10, &context_data("vm0", &["base:allocation"])).0, ERR_INVALID);
    assert_eq!(client.ask(9, &[]).0, ERR_INVALID);
    assert_eq!(client.ask(11, &[]).0, ACK);
    assert_eq!(client.ask(11, &[]).0, ACK);
    assert_eq!(client.ask(6, &info_data("vm0", &[])).0, ACK);
    assert_eq!(client.ask(10, &context_data("vm0", &["base:allocation"])).0, ACK);
    assert_eq!(client.ask(5, &[]).0, ERR_UNSUP);
    assert_eq!(client.ask(7, &info_data("vm0", &[])).0, ACK);
    client.style = Style::Extended;
    assert_eq!(client.call((STATUS, 0), 0, 512).extents, [(512, 3)]);
    alive(&server);
}

/// Bytes sent together with STARTTLS, which were kept as if they had come encrypted. There is no
/// TLS here: they are plain options, before and after the refusal.
#[test]
fn cve_2021_3716_injection_at_starttls() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    let script = [option_bytes(8, &[]), option_bytes(5, &[]), option_bytes(3, &[])].concat();
    client.send(&script);
    assert_eq!(client.option_reply(8).0, ACK);
    assert_eq!(client.option_reply(5).0, ERR_UNSUP);
    assert_eq!(client.option_reply(3).0, 2);
    alive(&server);
}

/// Block status over 4 GiB and more, where 32-bit lengths wrapped.
#[test]
fn cve_2025_47711_status_of_four_gigabytes() {
    let server = TestServer::start();
    let mut client = Client::open(&server.socket, "big", Style::Structured);
    for length in [u32::MAX, u32::MAX - 1, 1 << 31] {
        let reply = client.call((STATUS, 0), 0, u64::from(length));
        assert_eq!(reply.extents, [(u64::from(length), 3)]);
    }
    let mut client = Client::open(&server.socket, "big", Style::Extended);
    for length in [1 << 32, (1 << 32) + 1, (1 << 32) - 1, 5 << 40] {
        for flags in [0, 8] {
            let reply = client.call((STATUS, flags), 0, length);
            assert_eq!(reply.extents, [(length, 3)]);
        }
    }
    alive(&server);
}

/// Nothing is opened for a client that has not chosen: only garbage is answered with a close.
#[test]
fn cve_2019_14850_nothing_is_opened_before_it_is_chosen() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    let request = client.request_bytes((READ, 0), 1, 0, 512, &[]);
    client.send(&request);
    client.expect_end();
    let (counters, _) = server.stop();
    assert_eq!((counters.requests, counters.bytes_read), (0, 0));
}
