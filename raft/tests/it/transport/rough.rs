//! Goal: on a network that splits, delays and cuts, every call ends, order holds, nothing is handed
//! over twice, nothing leaks, and when the trouble ends all nodes are connected, once.

use super::*;
use ashlar_engine::reactor::sim::{Chance, FaultKind, Latency, NetFaults};
use std::collections::BTreeSet;

fn trouble() -> NetFaults {
    NetFaults {
        latency: Latency {
            stall: Chance(20_000),
            stall_max: Duration::from_millis(300),
            ..Latency::around(Duration::from_micros(100))
        },
        split: Chance(300_000),
        cut: Chance(3_000),
        buffer_bytes: 20_000,
        garble: Chance::NEVER,
    }
}

/// What became of the calls, by kind; `None` is an answer.
type Ends = BTreeMap<Option<u8>, usize>;

/// Calls everybody from `from`, in rows; returns how the calls ended.
async fn load(reactor: Reactor, nodes: Rc<Vec<Node>>, from: usize) -> Ends {
    let mut random = reactor.random(&format!("load {from}"));
    let (mut ends, mut number) = (Ends::new(), 0);
    for _ in 0..40 {
        let mut calls = Vec::new();
        for _ in 0..random.below(30) {
            number += 1;
            let to = (from as u64 + 1 + random.below(2)) % 3 + 1;
            let what = [ECHO, LATER, LATER, NEVER, REFUSE][random.below(5) as usize];
            let mut asked = request(what, random.below(2) as u32, random.below(2) as u32, number);
            let parts = random.below(3);
            asked.payload = (0..parts)
                .map(|_| buffer(&reactor, &vec![number as u8; random.below(9000) as usize]))
                .collect();
            asked.reply_max_bytes = 60_000;
            let limit = Duration::from_micros(random.below(400_000));
            let call = nodes[from].peers.call(NodeId(to), asked, limit);
            match random.below(20) {
                0 => drop(call),
                _ => calls.push((number, call)),
            }
        }
        for (number, call) in calls {
            let end = match call.await {
                Ok(reply) => {
                    assert_eq!(reply.head[1..9], number.to_le_bytes(), "another call's answer");
                    let right = |part: &Buffer| part.iter().all(|byte| *byte == number as u8);
                    assert!(reply.payload.iter().all(right));
                    None
                }
                Err(error) => Some(error.kind() as u8),
            };
            *ends.entry(end).or_default() += 1;
        }
        reactor.sleep(Duration::from_micros(random.below(200_000))).await;
    }
    ends
}

#[test]
fn every_call_ends_and_order_holds() {
    let (mut all, mut cuts) = (Ends::new(), 0);
    for seed in 0..40 {
        let options = WorldOptions { net: trouble(), ..WorldOptions::default() };
        let ends = in_world(seed, options, |world, reactor| async move {
            let bounds = Bounds { calls_max: 10, queued_max_bytes: 50_000, ..Bounds::default() };
            let nodes = Rc::new(nodes(&reactor, 3, bounds));
            let loads: Vec<_> = (0..3)
                .map(|from| reactor.spawn(load(reactor.clone(), Rc::clone(&nodes), from)))
                .collect();
            let mut ends = Ends::new();
            for load in loads {
                let more = load.await;
                more.into_iter().for_each(|(end, count)| *ends.entry(end).or_default() += count);
            }
            let cuts = world.faults().of(FaultKind::NetCut);
            world.set_net_faults(NetFaults::default());
            reactor.sleep(SECOND * 8).await;
            for (from, to) in [(0, 2), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2)] {
                let reply = nodes[from].call(to, request(ECHO, 9, 9, 1)).await;
                reply.unwrap_or_else(|error| panic!("seed {seed}: {from} to {to}: {error}"));
            }
            for node in nodes.iter() {
                assert!(node.is_idle(), "seed {seed}: {:?}", node.peers);
                for (key, numbers) in node.handler.seen.borrow().iter() {
                    let twice = numbers.len() - numbers.iter().collect::<BTreeSet<_>>().len();
                    assert_eq!(twice, 0, "seed {seed}: {key:?} {numbers:?}");
                    assert!(numbers.is_sorted(), "seed {seed}: {key:?} {numbers:?}");
                }
                node.peers.shutdown().await;
                assert!(node.peers.status().is_empty());
            }
            (ends, cuts)
        });
        cuts += ends.1;
        ends.0.into_iter().for_each(|(end, count)| *all.entry(end).or_default() += count);
    }
    // The trouble was there, and so were all ends that it can bring.
    assert!(cuts > 100, "{cuts} cuts");
    use ErrorKind::*;
    for kind in [Unreachable, TimedOut, Closed, Refused] {
        assert!(all.get(&Some(kind as u8)).is_some_and(|count| *count > 20), "{kind:?}: {all:?}");
    }
    assert!(all[&None] > 3000, "{all:?}");
}

#[test]
fn two_that_call_at_once_keep_one_connection() {
    let mut doubles = 0;
    for seed in 0..300 {
        let net = NetFaults {
            latency: Latency {
                spread_sixteenths: 24,
                ..Latency::around(Duration::from_micros(1 + seed * 10))
            },
            ..NetFaults::default()
        };
        let options = WorldOptions { net, ..WorldOptions::default() };
        doubles += in_world(seed, options, |_world, reactor| async move {
            let nodes = nodes(&reactor, 2, Bounds::default());
            let there = nodes[0].call(2, request(LATER, 1, 1, 1));
            let back = nodes[1].call(1, request(LATER, 1, 1, 1));
            there.await.expect("an answer");
            back.await.expect("an answer");
            reactor.sleep(SECOND * 2).await;
            let counts = [(0, 2), (1, 1)].map(|(node, peer)| {
                let status = nodes[node].status_of(peer);
                assert!(status.connected, "seed {seed}: {status:?}");
                status.connections
            });
            reactor.sleep(SECOND * 60).await;
            let later = [(0, 2), (1, 1)].map(|(node, peer)| nodes[node].status_of(peer));
            assert_eq!(later.each_ref().map(|status| status.connections), counts, "{later:?}");
            assert_eq!(counts, [1, 1], "seed {seed}");
            let failed = later.iter().any(|status| status.last_failure.is_some());
            shut_down(nodes).await;
            u64::from(failed)
        });
    }
    assert!(doubles > 0, "the two never called at once");
}

#[test]
fn the_same_world_runs_the_same_way() {
    let run = |seed| {
        let options = WorldOptions { net: trouble(), ..WorldOptions::default() };
        in_world(seed, options, |world, reactor| async move {
            let nodes = Rc::new(nodes(&reactor, 3, Bounds::default()));
            let ends = load(reactor.clone(), Rc::clone(&nodes), 0).await;
            for node in nodes.iter() {
                node.peers.shutdown().await;
            }
            (ends, world.trace_hash())
        })
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).1, run(6).1);
}
