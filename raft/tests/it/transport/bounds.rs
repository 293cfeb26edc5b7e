//! Goal: what is on its way is bounded on both sides, and nobody waits for somebody else.

use super::*;
use ashlar_raft::transport::Ending;

const SMALL: Bounds = Bounds {
    calls_max: 8,
    requests_max_bytes: 100_000,
    replies_max_bytes: 200_000,
    queued_max_bytes: 60_000,
    waiting_calls_max: 500,
    waiting_max_bytes: 10 << 20,
    handlers_max: 6,
    held_max_bytes: 100_000,
};

#[test]
fn callers_wait_for_room_and_all_are_served() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, SMALL);
        // Both ways at once: neither may wait for the other's answers.
        let calls: Vec<_> = (0..300)
            .flat_map(|number| [(0, 2, number), (1, 1, number)])
            .map(|(from, to, number)| {
                let mut asked = request(LATER, 1, 1, number);
                asked.payload = vec![buffer(&reactor, &[3; 10_000])];
                nodes[from].call(to, asked)
            })
            .collect();
        for call in calls {
            let reply = call.await.expect("an answer");
            assert_eq!(reply.payload[0][..], [3; 10_000]);
            for (node, peer) in [(0, 2), (1, 1)] {
                let status = nodes[node].status_of(peer);
                assert!(status.calls_sent <= SMALL.calls_max, "{status:?}");
                assert!(status.in_flight_bytes <= SMALL.requests_max_bytes, "{status:?}");
                assert!(status.held_bytes <= SMALL.held_max_bytes + 20_000, "{status:?}");
            }
        }
        for node in &nodes {
            assert!((1..=SMALL.handlers_max).contains(&node.handler.most.get()));
            assert!(node.handler.seen.borrow().values().all(|numbers| numbers.is_sorted()));
        }
        assert!(nodes.iter().all(Node::is_idle));
        shut_down(nodes).await;
    });
}

#[test]
fn who_calls_too_much_is_told_so() {
    quiet(|_world, reactor| async move {
        // As many as are sent: what is cancelled ends although there is no room.
        let bounds = Bounds { handlers_max: SMALL.calls_max, ..SMALL };
        let nodes = nodes(&reactor, 2, bounds);
        nodes[0].connected(&reactor, 2).await;
        let most = SMALL.calls_max + SMALL.waiting_calls_max;
        let calls: Vec<_> =
            (0..most).map(|n| nodes[0].call(2, request(NEVER, 1, 1, n as u64))).collect();
        let busy = nodes[0].call(2, request(ECHO, 1, 1, 0)).await;
        assert_eq!(kind(busy.map(drop)), Err(ErrorKind::Busy));
        for call in calls {
            assert_eq!(kind(call.await.map(drop)), Err(ErrorKind::TimedOut));
        }
        reactor.sleep(SECOND).await;
        assert!(nodes.iter().all(Node::is_idle));
        shut_down(nodes).await;
    });
}

#[test]
fn nothing_is_received_from_who_breaks_the_bounds() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), SMALL, &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let mut raw = Raw::greet(&reactor, &node, identity(2)).await;
        for number in 1..=50 {
            raw.request(NEVER, number).await;
        }
        raw.wait(SECOND).await;
        assert_eq!(node.handler.running.get(), SMALL.handlers_max);
        assert_eq!(node.handler.seen.borrow()[&(NodeId(2), 1, 1)].len(), SMALL.handlers_max);
        // Deaf, but not for ever: who is to blame for the silence is not cut for it.
        raw.wait(SECOND * 20).await;
        assert!(node.status_of(2).connected);
        raw.wait(SECOND * 10).await;
        let status = node.status_of(2);
        assert_eq!((status.connected, status.last_ending), (false, Some(Ending::Overloaded)));
        assert_eq!(node.handler.running.get(), 0);
        drop(raw);
        shut_down(vec![node]).await;
    });
}

#[test]
fn answers_that_are_not_taken_stop_the_intake_and_end_the_connection() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), SMALL, &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let mut raw = Raw::greet(&reactor, &node, identity(2)).await;
        let stream = Rc::clone(&raw.stream);
        let asking = reactor.spawn(async move {
            for number in 1..=100 {
                raw.request(LARGE, number).await;
            }
            raw
        });
        reactor.sleep(SECOND * 5).await;
        let status = node.status_of(2);
        assert!(status.connected && status.queued_bytes > 0, "{status:?}");
        let large = 20_000 + 64;
        assert!(status.queued_bytes < SMALL.held_max_bytes + large, "{status:?}");
        reactor.sleep(SECOND * 10).await;
        let status = node.status_of(2);
        assert_eq!((status.connected, status.queued_bytes), (false, 0));
        assert_eq!(status.last_ending, Some(Ending::Stalled));
        assert!(node.handler.seen.borrow()[&(NodeId(2), 1, 1)].len() < 100);
        stream.shutdown();
        drop(asking.await);
        shut_down(vec![node]).await;
    });
}

#[test]
fn a_slow_peer_a_dead_one_and_a_full_one_delay_nobody() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 3, SMALL);
        nodes[0].peers.set_peer(NodeId(8), unix(8)).expect("a peer that is not there");
        nodes[0].peers.set_peer(NodeId(9), unix(9)).expect("a peer that does not listen to us");
        let listener = reactor.listen(&unix(9)).expect("can listen");
        nodes[0].connected(&reactor, 2).await;
        nodes[0].connected(&reactor, 3).await;
        let deaf = Raw::new(&reactor, listener.accept().await.expect("is called"));
        let stuck: Vec<_> = (0..100)
            .flat_map(|number| [2, 8, 9].map(|node| (node, number)))
            .map(|(node, number)| {
                let mut asked = request(NEVER, 1, 1, number);
                asked.payload = vec![buffer(&reactor, &[1; 20_000])];
                nodes[0].call(node, asked)
            })
            .collect();
        for number in 0..100 {
            let before = reactor.now();
            nodes[0].call(3, request(ECHO, 1, 1, number)).await.expect("an answer");
            assert!(reactor.now().since(before) < Duration::from_millis(1));
        }
        for call in stuck {
            assert!(call.await.is_err());
        }
        drop((deaf, listener));
        shut_down(nodes).await;
    });
}

#[test]
fn who_does_not_take_what_is_sent_is_cut() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let mut raw = Raw::greet(&reactor, &node, identity(2)).await;
        let mut asked = request(ECHO, 1, 1, 1);
        asked.payload = vec![buffer(&reactor, &vec![1; 1 << 20])];
        let call = node.peers.call(NodeId(2), asked, SECOND * 60);
        for _ in 0..12 {
            assert!(node.status_of(2).connected);
            raw.wait(Duration::from_millis(800)).await;
            // It speaks, but does not listen.
            raw.send(Envelope::bare(Kind::Ping), &[], Vec::new()).await;
        }
        raw.wait(SECOND).await;
        let status = node.status_of(2);
        assert_eq!((status.connected, status.calls_sent), (false, 0), "{status:?}");
        assert_eq!(status.last_ending, Some(Ending::Stalled));
        assert_eq!(kind(call.await.map(drop)), Err(ErrorKind::Closed));
        drop(raw);
        shut_down(vec![node]).await;
    });
}

#[test]
fn an_idle_connection_lives_and_a_silent_one_is_cut() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        nodes[0].connected(&reactor, 2).await;
        reactor.sleep(SECOND * 3600).await;
        for (node, peer) in [(0, 2), (1, 1)] {
            let status = nodes[node].status_of(peer);
            assert_eq!((status.connected, status.connections), (true, 1), "{status:?}");
        }
        shut_down(nodes).await;

        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(4));
        let listener = reactor.listen(&unix(2)).expect("can listen");
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let mut raw = Raw::new(&reactor, listener.accept().await.expect("is called"));
        assert_eq!(raw.next().await.expect("a hello").envelope.kind, Kind::Hello);
        raw.hello(identity(2), Some(NodeId(1)), 1).await;
        raw.open();
        drop(listener);
        let stuck = node.call(2, request(ECHO, 1, 1, 1));
        assert_eq!(raw.next().await.expect("it").envelope.kind, Kind::Request);
        let before = reactor.now();
        let mut pings = 0;
        let last = loop {
            let frame = raw.next().await.expect("last words");
            if frame.envelope.kind != Kind::Ping {
                break frame;
            }
            pings += 1;
        };
        let silence = reactor.now().since(before);
        assert!((SECOND * 5 - SECOND / 10..SECOND * 6).contains(&silence), "{silence:?}");
        assert!((3..=6).contains(&pings), "{pings}");
        assert_eq!(last.envelope.kind, Kind::Close);
        assert_eq!(&last.head[1..], b"nothing was heard for too long");
        assert_eq!(kind(stuck.await.map(drop)), Err(ErrorKind::Closed));
        assert!(!node.status_of(2).connected);
        assert_eq!(node.status_of(2).last_ending, Some(Ending::Silent));
        drop(raw);
        shut_down(vec![node]).await;
    });
}
