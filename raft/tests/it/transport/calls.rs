//! Goal: every call ends, with the answer or with the kind of error that is true.

use super::*;

#[test]
fn answers_come_back_in_any_order_with_their_parts() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        let calls: Vec<_> = (0..100)
            .map(|number| {
                let mut asked = request(LATER, 1, number as u32 % 3, number);
                asked.payload = vec![
                    buffer(&reactor, &[number as u8; 4096]),
                    buffer(&reactor, &[]),
                    buffer(&reactor, &vec![number as u8; 700 + number as usize]),
                ];
                nodes[0].call(2, asked)
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            let Reply { head, payload } = call.await.expect("an answer");
            assert_eq!(head, request(LATER, 1, 0, number as u64).head);
            let lengths: Vec<_> = payload.iter().map(|part| part.len()).collect();
            assert_eq!(lengths, [4096, 0, 700 + number]);
            assert!(payload.iter().all(|part| part.iter().all(|byte| *byte == number as u8)));
        }
        assert!(nodes.iter().all(Node::is_idle), "{:?}", nodes[0].peers);
        let seen = nodes[1].handler.seen.take();
        assert_eq!(seen.len(), 3);
        assert!(seen.values().all(|numbers| numbers.is_sorted()), "{seen:?}");
        shut_down(nodes).await;
    });
}

#[test]
fn a_mebibyte_arrives_intact() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        let mut content = vec![0; 1 << 20];
        reactor.random("content").fill_bytes(&mut content);
        let mut asked = request(ECHO, 1, 1, 1);
        asked.payload = vec![buffer(&reactor, &content), buffer(&reactor, &content[..4096])];
        asked.reply_max_bytes = 2 << 20;
        let reply = nodes[0].call(2, asked).await.expect("an answer");
        assert!(reply.payload[0][..] == content && reply.payload[1][..] == content[..4096]);
        drop(reply);
        shut_down(nodes).await;
    });
}

#[test]
fn errors_say_what_is_true() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        let call = |what| nodes[0].call(2, request(what, 1, 1, 1));
        let refused = call(REFUSE).await.expect_err("refused");
        assert_eq!(
            (refused.kind(), refused.to_string().as_str()),
            (ErrorKind::Refused, "will not")
        );
        assert_eq!(kind(call(BUSY).await.map(drop)), Err(ErrorKind::Busy));
        let large = call(LARGE).await.expect_err("too large for who asked");
        assert_eq!(large.kind(), ErrorKind::TooLarge);
        assert_eq!(large.to_string(), "the answer has 20000 bytes, the caller takes 16384");
        assert_eq!(kind(call(NEVER).await.map(drop)), Err(ErrorKind::TimedOut));
        let long = Request { head: vec![0; (256 << 10) + 1], ..Request::default() };
        assert_eq!(kind(nodes[0].call(2, long).await.map(drop)), Err(ErrorKind::TooLarge));
        let unknown = nodes[0].call(9, request(ECHO, 1, 1, 1)).await;
        assert_eq!(kind(unknown.map(drop)), Err(ErrorKind::Unreachable));
        // A connection that ends takes its calls with it.
        let lost = call(NEVER);
        reactor.sleep(Duration::from_millis(10)).await;
        nodes[1].peers.shutdown().await;
        let lost = lost.await.expect_err("lost");
        assert_eq!(lost.kind(), ErrorKind::Closed, "{lost}");
        reactor.sleep(Duration::from_millis(500)).await;
        let gone = call(ECHO).await.expect_err("nobody is there");
        assert_eq!(gone.kind(), ErrorKind::Unreachable, "{gone}");
        assert_eq!(nodes[1].handler.running.get(), 0, "handlers end with the connection");
        shut_down(nodes).await;
    });
}

#[test]
fn a_call_waits_for_the_attempt_under_way_and_fails_with_it() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        let error = node.call(2, request(ECHO, 1, 1, 1)).await.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(reactor.now().0 < 1_000_000, "long before the time-out");
        assert!(node.is_idle());
        shut_down(vec![node]).await;
    });
}

#[test]
fn giving_up_frees_the_slot_and_ends_the_handler() {
    quiet(|_world, reactor| async move {
        let bounds = Bounds { calls_max: 2, ..Bounds::default() };
        let nodes = nodes(&reactor, 2, bounds);
        let stuck: Vec<_> = (1..=2).map(|n| nodes[0].call(2, request(NEVER, 1, 1, n))).collect();
        let behind = nodes[0].call(2, request(ECHO, 1, 1, 3));
        reactor.sleep(Duration::from_millis(10)).await;
        assert_eq!(nodes[1].handler.running.get(), 2);
        assert_eq!(nodes[0].status_of(2).calls_waiting, 1);
        drop(stuck);
        behind.await.expect("there is room now");
        reactor.sleep(Duration::from_millis(10)).await;
        assert!(nodes.iter().all(Node::is_idle));
        shut_down(nodes).await;
    });
}

#[test]
fn an_answer_after_its_time_out_is_dropped() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        nodes[0].call(2, request(ECHO, 1, 1, 0)).await.expect("an answer");
        // So short that the answer is on its way when the time is up, again and again.
        for number in 1..200 {
            let mut asked = request(ECHO, 1, 1, number);
            asked.payload = vec![buffer(&reactor, &[1; 4096])];
            let limit = Duration::from_micros(number);
            let answer = nodes[0].peers.call(NodeId(2), asked, limit).await;
            assert!(matches!(kind(answer), Ok(_) | Err(ErrorKind::TimedOut)));
        }
        let reply = nodes[0].call(2, request(ECHO, 1, 1, 500)).await.expect("an answer");
        assert_eq!(reply.head, request(ECHO, 1, 1, 500).head, "its own, no other's");
        reactor.sleep(SECOND).await;
        assert!(nodes.iter().all(Node::is_idle));
        assert_eq!(nodes[0].status_of(2).connections, 1);
        shut_down(nodes).await;
    });
}

#[test]
fn what_is_told_arrives_in_order_with_what_is_asked() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        let mut told = Vec::new();
        for number in 0..50 {
            told.push(nodes[0].peers.post(NodeId(2), request(LATER, 1, 1, 2 * number), SECOND));
            drop(nodes[0].call(2, request(ECHO, 2, 1, 0)));
            told.push(nodes[0].peers.post(
                NodeId(2),
                request(REFUSE, 1, 1, 2 * number + 1),
                SECOND,
            ));
        }
        for told in told {
            told.await.expect("is on its way");
        }
        nodes[0].call(2, request(ECHO, 1, 1, 100)).await.expect("an answer");
        let seen = nodes[1].handler.seen.borrow()[&(NodeId(1), 1, 1)].clone();
        assert_eq!(seen, (0..=100).collect::<Vec<_>>());
        shut_down(nodes).await;
    });
}

#[test]
fn a_node_that_starts_again_is_found_again() {
    quiet(|_world, reactor| async move {
        let mut nodes = nodes(&reactor, 2, Bounds::default());
        for incarnation in 2..6 {
            let asked = request(ECHO, 1, 1, incarnation);
            nodes[0].call(2, asked).await.expect("an answer");
            let before = nodes.pop().expect("node 2");
            before.peers.shutdown().await;
            reactor.sleep(SECOND * 4).await;
            let identity = Identity { incarnation, ..identity(2) };
            let after = Node::start(&reactor, identity, Bounds::default(), &unix(2));
            after.peers.set_peer(NodeId(1), unix(1)).expect("a peer");
            nodes.push(after);
            nodes[0].connected(&reactor, 2).await;
        }
        shut_down(nodes).await;
    });
}

#[test]
fn a_peer_that_is_removed_is_a_stranger() {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        let stuck = nodes[0].call(2, request(NEVER, 1, 1, 1));
        reactor.sleep(Duration::from_millis(10)).await;
        nodes[0].peers.remove_peer(NodeId(2));
        assert_eq!(kind(stuck.await.map(drop)), Err(ErrorKind::Closed));
        let unknown = nodes[0].call(2, request(ECHO, 1, 1, 2)).await;
        assert_eq!(kind(unknown.map(drop)), Err(ErrorKind::Unreachable));
        reactor.sleep(SECOND).await;
        let refused = nodes[1].call(1, request(ECHO, 1, 1, 2)).await.expect_err("is told so");
        assert_eq!(refused.kind(), ErrorKind::Refused);
        let text = "node 1 cannot be reached: the other side closed the connection: \
                    the cluster has no node 2";
        assert_eq!(refused.to_string(), text);
        nodes[0].peers.set_peer(NodeId(2), unix(2)).expect("a peer again");
        nodes[0].call(2, request(ECHO, 1, 1, 3)).await.expect("an answer");
        shut_down(nodes).await;
    });
}

#[test]
fn a_peer_that_moves_is_called_where_it_is() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        let moved = Node::start(&reactor, identity(2), Bounds::default(), &unix(3));
        moved.peers.set_peer(NodeId(1), unix(9)).expect("a peer, where nobody listens");
        node.peers.set_peer(NodeId(2), unix(2)).expect("a peer");
        reactor.sleep(SECOND).await;
        assert!(!node.status_of(2).connected);
        node.peers.set_peer(NodeId(2), unix(3)).expect("the same peer");
        node.connected(&reactor, 2).await;
        moved.call(1, request(ECHO, 1, 1, 1)).await.expect("the connection is there for both");
        shut_down(vec![node, moved]).await;
    });
}
