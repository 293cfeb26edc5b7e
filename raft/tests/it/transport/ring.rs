//! Goal: the same on a real kernel, over Unix sockets and TCP.

use super::*;
use ashlar_engine::reactor::ReactorOptions;
use std::sync::atomic::{AtomicU32, Ordering};

/// An address of its own for one node; short, for socket paths may have 107 bytes.
fn socket() -> Address {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ashlar-raft-{}-{number}.sock", std::process::id());
    Address::Unix(std::env::temp_dir().join(name))
}

fn tcp() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

fn on_the_ring<T: Future>(test: impl Fn(Reactor, fn() -> Address) -> T) {
    for address in [socket, tcp] {
        let reactor = Reactor::new(ReactorOptions::default()).expect("this machine has io_uring");
        reactor.block_on(test(reactor.clone(), address));
        let pool = reactor.pool().clone();
        reactor.shutdown();
        assert_eq!(pool.in_use_bytes(), 0, "buffers leaked");
    }
}

fn three(reactor: &Reactor, address: fn() -> Address) -> Vec<Node> {
    let start = |node| Node::start(reactor, identity(node), Bounds::default(), &address());
    let nodes: Vec<_> = (1..=3).map(start).collect();
    introduce(&nodes);
    nodes
}

#[test]
fn payloads_arrive_intact_in_many_calls_at_once() {
    on_the_ring(|reactor, address| async move {
        let nodes = three(&reactor, address);
        let mut content = vec![0; 1 << 20];
        reactor.random("content").fill_bytes(&mut content);
        let calls: Vec<_> = (0..60)
            .map(|number| {
                let mut asked = request(LATER, 1, 1, number);
                let len = [1 << 20, 4096, 5][number as usize % 3];
                asked.payload = vec![buffer(&reactor, &content[..len]), buffer(&reactor, &[9; 99])];
                asked.reply_max_bytes = 2 << 20;
                nodes[number as usize % 2].call(3, asked)
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            let reply = call.await.expect("an answer");
            let len = [1 << 20, 4096, 5][number % 3];
            assert!(reply.payload[0][..] == content[..len] && reply.payload[1][..] == [9; 99]);
        }
        for (peer, first) in [(1, 0), (2, 1)] {
            let seen = nodes[2].handler.seen.borrow()[&(NodeId(peer), 1, 1)].clone();
            assert_eq!(seen, (first..60).step_by(2).collect::<Vec<_>>());
        }
        assert!(nodes.iter().all(Node::is_idle));
        shut_down(nodes).await;
    });
}

#[test]
fn small_calls_share_sends() {
    on_the_ring(|reactor, address| async move {
        let nodes = three(&reactor, address);
        nodes[0].connected(&reactor, 2).await;
        let before = reactor.stats();
        for round in 0..20 {
            let calls: Vec<_> = (0..100)
                .map(|n| nodes[0].call(2, request(ECHO, 1, n as u32 % 7, 100 * round + n)))
                .collect();
            for call in calls {
                call.await.expect("an answer");
            }
        }
        let ops = reactor.stats().ops_submitted - before.ops_submitted;
        assert!(ops < 500, "{ops} operations for 2000 calls");
        shut_down(nodes).await;
    });
}

#[test]
fn a_node_that_starts_again_is_found_again() {
    on_the_ring(|reactor, address| async move {
        let mut nodes = three(&reactor, address);
        nodes[0].call(3, request(ECHO, 1, 1, 1)).await.expect("an answer");
        let stuck = nodes[0].call(3, request(NEVER, 1, 1, 2));
        nodes[0].call(3, request(ECHO, 1, 1, 3)).await.expect("an answer");
        let before = nodes.pop().expect("node 3");
        before.peers.shutdown().await;
        assert_eq!(kind(stuck.await.map(drop)), Err(ErrorKind::Closed));
        let again = Identity { incarnation: 2, ..identity(3) };
        nodes.push(Node::start(&reactor, again, Bounds::default(), &address()));
        introduce(&nodes);
        nodes[0].connected(&reactor, 3).await;
        nodes[0].call(3, request(ECHO, 1, 1, 4)).await.expect("an answer");
        assert_eq!(nodes[0].status_of(3).connections, 2);
        assert_eq!(nodes[0].status_of(2).connections, 1);
        shut_down(nodes).await;
    });
}

#[test]
fn rubbish_is_cut_and_named() {
    on_the_ring(|reactor, address| async move {
        let nodes = three(&reactor, address);
        nodes[0].peers.set_peer(NodeId(4), address()).expect("a peer");
        let mut raw = Raw::greet(&reactor, &nodes[0], identity(4)).await;
        raw.send_bytes(&[1; 64]).await;
        let last = raw.next_word().await.expect("last words");
        assert_eq!(last.envelope.kind, Kind::Close);
        assert!(raw.next().await.is_none());
        let ending = nodes[0].status_of(4).last_ending.expect("it ended");
        let text = r"not a frame: a frame does not begin with \x01\x01\x01\x01\x01\x01\x01\x01";
        assert_eq!(ending.to_string(), text);
        nodes[0].call(2, request(ECHO, 1, 1, 1)).await.expect("others feel nothing");
        drop(raw);
        shut_down(nodes).await;
    });
}
