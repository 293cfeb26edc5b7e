//! The handshake: every option in every state that matters, and every way to get it wrong.

use crate::client::{
    ACK, Client, ERR_EXT, ERR_INVALID, ERR_POLICY, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, READ,
    REP_CONTEXT, REP_INFO, REP_SERVER, STATUS, STYLES, Style, context_data, info_data,
    option_bytes,
};
use crate::harness::{SIZE, TestServer};
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::{Export, ServerOptions};

fn haggling(server: &TestServer) -> Client {
    let mut client = server.connect();
    client.send(&3u32.to_be_bytes());
    client
}

#[test]
fn go_reports_what_is_asked_for() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    let (kind, infos) = client.ask(6, &info_data("vm0", &[1, 2, 3, 77]));
    assert_eq!(kind, ACK);
    assert!(infos.iter().all(|(kind, _)| *kind == REP_INFO));
    let info = |wanted: u16| {
        let found = infos.iter().find(|(_, data)| data[..2] == wanted.to_be_bytes());
        found.map(|(_, data)| data[2..].to_vec()).expect("an answer")
    };
    assert_eq!(info(0)[..8], SIZE.to_be_bytes());
    assert_eq!(info(1), b"vm0");
    assert_eq!(info(2), b"memory");
    let sizes: Vec<u8> = [1u32, 4096, 32 << 20].iter().flat_map(|n| n.to_be_bytes()).collect();
    assert_eq!(info(3), sizes);
    assert_eq!(infos.len(), 4, "unknown kinds are ignored");
    // The same again with GO, and requests work.
    let (kind, again) = client.ask(7, &info_data("vm0", &[1, 2, 3, 77]));
    assert_eq!((kind, again), (ACK, infos));
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
    client.leave();
}

#[test]
fn export_flags_promise_what_is_there() {
    let server = TestServer::start();
    const HAS: u16 = 1;
    let (read_only, flush, fua, multi, cache) = (2, 4, 8, 1 << 8, 1 << 10);
    let (trim, zeroes, fast) = (1 << 5, 1 << 6, 1 << 11);
    let always = HAS | flush | fua | multi | cache;
    for style in STYLES {
        let df = if style == Style::Simple { 0 } else { 1 << 7 };
        let client = Client::open(&server.socket, "vm0", style);
        assert_eq!(client.flags, always | trim | zeroes | fast | df);
        let client = Client::open(&server.socket, "frozen", style);
        assert_eq!(client.flags, always | read_only | df);
    }
}

#[test]
fn export_name_with_and_without_zeroes() {
    let server = TestServer::start();
    for (flags, padding) in [(0u32, 124), (1, 124), (2, 0), (3, 0)] {
        let mut client = server.connect();
        client.send(&flags.to_be_bytes());
        client.send(&option_bytes(1, b"vm0"));
        let reply = client.receive(10 + padding);
        assert_eq!(reply[..8], SIZE.to_be_bytes());
        assert!(reply[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.read(4096, 4096), Ok(vec![0; 4096]));
        client.leave();
    }
}

#[test]
fn export_name_that_cannot_be_served_closes() {
    let server = TestServer::start();
    for name in [&b"nothing"[..], b"", b"a\0b", b"\xff\xfe", &[b'x'; 4097]] {
        let mut client = haggling(&server);
        client.send(&option_bytes(1, name));
        client.expect_end();
    }
    let mut client = haggling(&server);
    assert_eq!(client.ask(11, &[]).0, ACK);
    client.send(&option_bytes(1, b"vm0"));
    client.expect_end();
}

#[test]
fn clients_with_unknown_flags_are_dropped() {
    let server = TestServer::start();
    for flags in [4u32, 1 << 31, u32::MAX] {
        let mut client = server.connect();
        client.send(&flags.to_be_bytes());
        client.expect_end();
    }
}

#[test]
fn clients_that_are_not_fixed_may_only_name_an_export() {
    let server = TestServer::start();
    for option in [2u32, 3, 5, 6, 7, 8, 9, 10, 11, 99] {
        let mut client = server.connect();
        client.send(&0u32.to_be_bytes());
        client.send(&option_bytes(option, &[]));
        client.expect_end();
    }
}

#[test]
fn wrong_option_magic_closes() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    client.send(b"IHAVEOPS\0\0\0\x03\0\0\0\0");
    client.expect_end();
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    let server = TestServer::start();
    for data in [&b""[..], b"rubbish"] {
        let mut client = haggling(&server);
        assert_eq!(client.ask(2, data).0, ACK);
        client.expect_end();
    }
}

#[test]
fn list_names_every_export() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    let (kind, names) = client.ask(3, &[]);
    let expected: Vec<_> = ["big", "frozen", "vm0"]
        .iter()
        .map(|name| {
            let length = (name.len() as u32).to_be_bytes();
            (REP_SERVER, [&length[..], name.as_bytes()].concat())
        })
        .collect();
    assert_eq!((kind, names), (ACK, expected));
    assert_eq!(client.ask(3, b"x").0, ERR_INVALID);
}

#[test]
fn lists_longer_than_any_buffer_are_complete() {
    let names = || (0..4000).map(|number| format!("volume-{number:0100}"));
    let server = TestServer::with(ServerOptions::default(), move |reactor| {
        MemoryExports::new(
            names().map(|name| MemoryExport::new(&name, 512, reactor.pool().clone())),
        )
    });
    let mut client = haggling(&server);
    let (kind, replies) = client.ask(3, &[]);
    assert_eq!(kind, ACK);
    let listed = replies.into_iter().map(|(_, data)| String::from_utf8(data[4..].to_vec()));
    assert!(listed.map(|name| name.expect("text")).eq(names()));
}

#[test]
fn default_export_is_the_only_one() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    assert_eq!(client.ask(6, &info_data("", &[])).0, ERR_UNKNOWN, "three exports");
    let server = TestServer::with(ServerOptions::default(), |reactor| {
        MemoryExports::new([MemoryExport::new("only", 4096, reactor.pool().clone())])
    });
    let mut client = Client::open(&server.socket, "", Style::Structured);
    assert_eq!(client.size, 4096);
    // Contexts selected by one name hold under the other.
    assert_eq!(client.call((STATUS, 0), 0, 4096).errno, 0);
}

#[test]
fn options_that_are_not_offered_are_unsupported() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    for option in [0u32, 4, 5, 12, 4711, u32::MAX] {
        assert_eq!(client.ask(option, &[]).0, ERR_UNSUP, "option {option}");
    }
    assert_eq!(client.ask(5, b"x").0, ERR_INVALID);
    // The client may go on without TLS.
    assert_eq!(client.ask(7, &info_data("vm0", &[])).0, ACK);
}

#[test]
fn malformed_info_and_go_are_invalid() {
    let server = TestServer::start();
    let good = info_data("vm0", &[0, 3]);
    let mut client = haggling(&server);
    for option in [6, 7] {
        for cut in 0..good.len() {
            assert_eq!(client.ask(option, &good[..cut]).0, ERR_INVALID, "cut at {cut}");
        }
        let longer = [&good[..], b"x"].concat();
        let counts_more = [&[0, 0, 0, 3], &b"vm0"[..], &[0, 9, 0, 0]].concat();
        let name = |name: &[u8]| [&(name.len() as u32).to_be_bytes()[..], name, &[0, 0]].concat();
        let bad = [longer, counts_more, name(b"a\0b"), name(b"\xc3\x28"), name(&[b'a'; 4097])];
        for data in bad {
            assert_eq!(client.ask(option, &data).0, ERR_INVALID);
        }
        assert_eq!(client.ask(option, &info_data(&"a".repeat(4096), &[])).0, ERR_UNKNOWN);
        assert_eq!(client.ask(option, &info_data("../vm0", &[])).0, ERR_UNKNOWN);
    }
    assert_eq!(client.ask(7, &good).0, ACK);
}

#[test]
fn structured_replies_and_extended_headers() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    assert_eq!(client.ask(8, b"x").0, ERR_INVALID);
    assert_eq!(client.ask(11, b"x").0, ERR_INVALID);
    assert_eq!(client.ask(8, &[]).0, ACK);
    assert_eq!(client.ask(11, &[]).0, ACK);
    assert_eq!(client.ask(8, &[]).0, ERR_EXT, "there is no way back");
    assert_eq!(client.ask(7, &info_data("vm0", &[])).0, ACK);
    client.style = Style::Extended;
    assert_eq!(client.read(0, 1), Ok(vec![0]));
}

#[test]
fn meta_contexts_are_listed_and_selected() {
    let server = TestServer::start();
    let found = |id: u32| vec![(REP_CONTEXT, [&id.to_be_bytes()[..], b"base:allocation"].concat())];
    let mut client = haggling(&server);
    for option in [9, 10] {
        let data = context_data("vm0", &["base:allocation"]);
        assert_eq!(client.ask(option, &data).0, ERR_INVALID, "structured replies come first");
    }
    assert_eq!(client.ask(8, &[]).0, ACK);
    let mut listed = |queries: &[&str]| client.ask(9, &context_data("vm0", queries));
    assert_eq!(listed(&[]), (ACK, found(0)));
    assert_eq!(listed(&["base:"]), (ACK, found(0)));
    assert_eq!(listed(&["qemu:", "base:allocation"]), (ACK, found(0)));
    for nothing in ["base:alloc", "base:allocation2", "qemu:dirty-bitmap:x", "", "x"] {
        assert_eq!(listed(&[nothing]), (ACK, vec![]));
    }
    let mut set = |queries: &[&str]| client.ask(10, &context_data("vm0", queries));
    assert_eq!(set(&[]), (ACK, vec![]));
    assert_eq!(set(&["base:"]), (ACK, vec![]));
    assert_eq!(set(&["x:y", "base:allocation", "base:allocation"]), (ACK, found(1)));
    assert_eq!(client.ask(10, &context_data("gone", &["base:allocation"])).0, ERR_UNKNOWN);
}

#[test]
fn malformed_context_queries_are_invalid() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    assert_eq!(client.ask(8, &[]).0, ACK);
    let good = context_data("vm0", &["base:allocation", "x:y"]);
    for option in [9, 10] {
        for cut in 0..good.len() {
            assert_eq!(client.ask(option, &good[..cut]).0, ERR_INVALID, "cut at {cut}");
        }
        assert_eq!(client.ask(option, &[&good[..], b"x"].concat()).0, ERR_INVALID);
        let mut many = context_data("vm0", &[]);
        let count = many.len() - 4;
        many[count..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(client.ask(option, &many).0, ERR_INVALID);
    }
}

/// A selection holds only for its export, and a failed one selects nothing.
#[test]
fn contexts_of_another_export_do_not_count() {
    let server = TestServer::start();
    for (second, expected) in [(None, 0), (Some("big"), 22), (Some("gone"), 22)] {
        let mut client = haggling(&server);
        assert_eq!(client.ask(8, &[]).0, ACK);
        for name in [Some("vm0"), second].into_iter().flatten() {
            client.ask(10, &context_data(name, &["base:allocation"]));
        }
        assert_eq!(client.ask(7, &info_data("vm0", &[])).0, ACK);
        client.style = Style::Structured;
        assert_eq!(client.call((STATUS, 0), 0, 4096).errno, expected);
    }
}

#[test]
fn long_options_are_drained_and_refused() {
    let server = TestServer::start();
    let mut client = haggling(&server);
    for option in [3, 6, 7, 10, 4711] {
        assert_eq!(client.ask(option, &vec![7; 10_000]).0, ERR_TOO_BIG, "option {option}");
    }
    assert_eq!(client.ask(7, &info_data("vm0", &[])).0, ACK);
}

#[test]
fn every_split_of_a_handshake_is_understood() {
    let server = TestServer::start();
    let mut script = 3u32.to_be_bytes().to_vec();
    script.extend(option_bytes(8, &[]));
    script.extend(option_bytes(10, &context_data("vm0", &["base:allocation"])));
    script.extend(option_bytes(7, &info_data("vm0", &[])));
    let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0]);
    request.extend(1u64.to_be_bytes());
    request.extend([0; 8]);
    request.extend(16u32.to_be_bytes());
    script.extend(request);
    for cut in 0..script.len() {
        let mut client = server.connect();
        client.send(&script[..cut]);
        client.send(&script[cut..]);
        assert_eq!(client.option_reply(8).0, ACK);
        assert_eq!(client.option_reply(10).0, REP_CONTEXT);
        assert_eq!(client.option_reply(10).0, ACK);
        assert_eq!(client.option_reply(7).0, REP_INFO);
        assert_eq!(client.option_reply(7).0, ACK);
        client.style = Style::Structured;
        client.expect(READ, 0, 16);
        assert_eq!(client.reply().data, vec![0; 16]);
    }
}

#[test]
fn read_only_servers_serve_everything_read_only() {
    let mut options = ServerOptions::default();
    options.read_only = true;
    let server = TestServer::with(options, |reactor| {
        let export = MemoryExport::new("vm0", SIZE, reactor.pool().clone());
        assert!(!export.info().read_only);
        MemoryExports::new([export])
    });
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    assert_eq!(client.flags & 2, 2);
    assert_eq!(client.write(0, b"x"), 1);
}

#[test]
fn one_client_too_many_is_told_so() {
    let mut options = ServerOptions::default();
    options.connections_max = 2;
    let server = TestServer::with(options, |reactor| {
        MemoryExports::new([MemoryExport::new("vm0", SIZE, reactor.pool().clone())])
    });
    let first = Client::open(&server.socket, "vm0", Style::Simple);
    let mut second = Client::open(&server.socket, "vm0", Style::Simple);
    let mut third = haggling(&server);
    assert_eq!(third.ask(7, &info_data("vm0", &[])).0, ERR_POLICY);
    assert_eq!(third.ask(2, &[]).0, ACK);
    third.expect_end();
    assert_eq!(second.read(0, 1), Ok(vec![0]));
    first.leave();
    second.leave();
    let mut fourth = haggling(&server);
    assert_eq!(fourth.ask(7, &info_data("vm0", &[])).0, ACK);
    drop(fourth);
    let (counters, cut) = server.stop();
    assert_eq!((counters.connections_refused, cut), (1, 0));
}
