//! Goal: a wrong cluster, a wrong node behind an address, the node itself, a stranger and an older
//! life are refused by name, on both sides.

use super::*;
use ashlar_engine::buffer::BufferPool;
use ashlar_raft::frame::{Farewell, FrameError, Notice, Refusal};
use ashlar_raft::transport::Ending;

/// What a node says to a caller that says `hello`, and whom it says it has turned away.
async fn answer(
    reactor: &Reactor,
    node: &Node,
    identity: Identity,
    wanted: Option<NodeId>,
    attempt: u64,
) -> (Notice, Option<Ending>) {
    let mut raw = Raw::connect(reactor, &node.address).await;
    raw.hello(identity, wanted, attempt).await;
    let frame = raw.next().await.expect("an answer");
    assert_eq!(frame.envelope.kind, Kind::Close);
    assert!(raw.next().await.is_none(), "closed");
    (Notice::decode(&frame.head), node.peers.turned_away().map(|who| who.why))
}

#[test]
fn wrong_callers_are_refused_by_name() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let us = Some(NodeId(1));
        let newer = Versions { oldest: 2, newest: 3 };
        let (cluster, own) = (ClusterId([8; 16]), identity(1));
        let wrong = [
            (
                Identity { cluster, ..identity(2) },
                us,
                Refusal::OtherCluster { expected: CLUSTER, found: cluster },
                Farewell::OtherCluster,
            ),
            (
                identity(2),
                Some(NodeId(3)),
                Refusal::OtherNode { expected: NodeId(3), found: NodeId(1) },
                Farewell::OtherNode,
            ),
            (own, us, Refusal::Itself, Farewell::Itself),
            (identity(3), us, Refusal::Stranger { found: NodeId(3) }, Farewell::Stranger),
            (
                Identity { versions: newer, ..identity(2) },
                us,
                Refusal::NoVersion { expected: Versions::OURS, found: newer },
                Farewell::NoVersion,
            ),
        ];
        for (identity, wanted, refusal, farewell) in wrong {
            let (notice, turned_away) = answer(&reactor, &node, identity, wanted, 1).await;
            assert_eq!(Farewell::from_code(notice.code), farewell);
            assert_eq!(notice.text, refusal.to_string());
            assert_eq!(turned_away, Some(Ending::Refused(refusal)));
        }
        assert_eq!(node.peers.turned_away().expect("somebody").count, 5);
        assert_eq!(node.status_of(2).connections, 0);
        shut_down(vec![node]).await;
    });
}

#[test]
fn of_two_lives_the_newer_counts() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let life = |incarnation| Identity { incarnation, ..identity(2) };
        let mut second = Raw::greet(&reactor, &node, life(2)).await;
        let (notice, _) = answer(&reactor, &node, life(1), None, 9).await;
        assert_eq!(Farewell::from_code(notice.code), Farewell::OlderLife);
        let (notice, turned_away) = answer(&reactor, &node, life(2), None, 999).await;
        assert_eq!(Farewell::from_code(notice.code), Farewell::Duplicate, "from before");
        let older = Refusal::OlderLife { expected: 2, found: 1 };
        assert_eq!(turned_away, Some(Ending::Refused(older)), "a double is nobody's fault");
        let third = Raw::greet(&reactor, &node, life(3)).await;
        let frame = second.next_word().await.expect("last words");
        assert_eq!(frame.envelope.kind, Kind::Close);
        assert!(second.next().await.is_none());
        drop(third);
        reactor.sleep(SECOND).await;
        let (notice, _) = answer(&reactor, &node, life(2), None, 9999).await;
        assert_eq!(Farewell::from_code(notice.code), Farewell::OlderLife, "remembered");
        shut_down(vec![node]).await;
    });
}

#[test]
fn the_wrong_one_behind_an_address_is_refused_by_name() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        let other = Node::start(&reactor, identity(3), Bounds::default(), &unix(3));
        let cluster = ClusterId([8; 16]);
        let foreign = Identity { cluster, ..identity(4) };
        let foreign = Node::start(&reactor, foreign, Bounds::default(), &unix(4));
        for (peer, address) in [(2, 3), (4, 4), (5, 1)] {
            node.peers.set_peer(NodeId(peer), unix(address)).expect("a peer");
        }
        reactor.sleep(SECOND).await;
        for (peer, farewell, text) in [
            (2, Farewell::OtherNode, "wrong node: expected 2, found 3".to_owned()),
            (4, Farewell::OtherCluster, {
                let refusal = Refusal::OtherCluster { expected: cluster, found: CLUSTER };
                refusal.to_string()
            }),
            (5, Farewell::Itself, "this is the node itself".to_owned()),
        ] {
            let failure = node.status_of(peer).last_failure;
            assert_eq!(failure, Some(Ending::Told(farewell, text)));
            let refused = node.call(peer, request(ECHO, 1, 1, 1)).await.expect_err("refused");
            assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        }
        // One that lets everybody in is found out by its own hello.
        let listener = reactor.listen(&unix(6)).expect("can listen");
        node.peers.set_peer(NodeId(6), unix(6)).expect("a peer");
        let mut raw = Raw::new(&reactor, listener.accept().await.expect("is called"));
        let hello = raw.next().await.expect("a hello");
        let hello = Hello::decode(&hello.head).expect("a hello");
        assert_eq!((hello.identity, hello.wanted), (identity(1), Some(NodeId(6))));
        raw.hello(identity(7), None, 1).await;
        let frame = raw.next().await.expect("last words");
        assert_eq!(Notice::decode(&frame.head).text, "wrong node: expected 6, found 7");
        drop((raw, listener));
        shut_down(vec![node, other, foreign]).await;
    });
}

#[test]
fn who_does_not_say_hello_is_turned_away() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let mut raw = Raw::connect(&reactor, &node.address).await;
        raw.send_bytes(b"GET / HTTP/1.1\r\n\r\n").await;
        let frame = raw.next().await.expect("last words");
        let notice = Notice::decode(&frame.head);
        assert_eq!(Farewell::from_code(notice.code), Farewell::Garbage);
        assert_eq!(notice.text, "not a frame: a frame does not begin with GET / HT");
        let found = *b"GET / HT";
        let turned_away = node.peers.turned_away().expect("somebody");
        assert_eq!(turned_away.why, Ending::Garbage(FrameError::Magic { found }));
        assert!(turned_away.from.starts_with("unix, process"), "{}", turned_away.from);

        let mut raw = Raw::connect(&reactor, &node.address).await;
        raw.request(ECHO, 1).await;
        assert_eq!(raw.next().await.expect("last words").envelope.kind, Kind::Close);
        let why = node.peers.turned_away().expect("somebody").why;
        assert_eq!(why, Ending::Garbage(FrameError::Kind { found: Kind::Request as u8 }));

        let mut raw = Raw::connect(&reactor, &node.address).await;
        raw.send(Envelope::bare(Kind::Hello), b"hello", Vec::new()).await;
        assert_eq!(raw.next().await.expect("last words").envelope.kind, Kind::Close);
        let why = node.peers.turned_away().expect("somebody").why;
        assert!(matches!(why, Ending::BadHello(_)), "{why}");

        let mut silent = Raw::connect(&reactor, &node.address).await;
        assert!(silent.next().await.is_none(), "closed after a while");
        assert_eq!(node.peers.turned_away().expect("somebody").why, Ending::TimedOut);
        shut_down(vec![node]).await;
    });
}

#[test]
fn callers_that_say_nothing_are_bounded() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        let before = pool_bytes(reactor.pool());
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(reactor.connect(&node.address).await.expect("can connect"));
        }
        reactor.sleep(SECOND).await;
        let held = pool_bytes(reactor.pool()) - before;
        assert_eq!(held, 64 * (64 << 10), "a parse buffer for each of the first 64");
        reactor.sleep(SECOND * 5).await;
        assert_eq!(pool_bytes(reactor.pool()), before);
        shut_down(vec![node]).await;
    });
}

fn pool_bytes(pool: &BufferPool) -> usize {
    pool.in_use_bytes()
}

#[test]
fn a_node_knows_whom_it_cannot_have_as_peer() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        for nobody in [0, 1] {
            let refused = node.peers.set_peer(NodeId(nobody), unix(9));
            assert_eq!(kind(refused), Err(ErrorKind::Refused));
        }
        for peer in 2..=257 {
            node.peers.set_peer(NodeId(peer), unix(9)).expect("a peer");
        }
        assert_eq!(kind(node.peers.set_peer(NodeId(258), unix(9))), Err(ErrorKind::Busy));
        node.peers.shutdown().await;
        assert_eq!(kind(node.peers.set_peer(NodeId(2), unix(9))), Err(ErrorKind::Closed));
        let late = node.call(2, request(ECHO, 1, 1, 1)).await;
        assert_eq!(kind(late.map(drop)), Err(ErrorKind::Closed));
    });
}
