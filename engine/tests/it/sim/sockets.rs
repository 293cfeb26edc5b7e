//! Goal: simulated streams keep the seam's promises, whatever splits, delays and small buffers do,
//! and a cut loses an end of a stream, never its middle.

use super::{sim, world};
use crate::reactor::{bytes, pair, receive_into, tcp};
use ashlar_engine::reactor::sim::{Chance, Crash, FaultKind, Latency, NetFaults, WorldOptions};
use ashlar_engine::reactor::{
    Address, Message, Part, RandomStream, Reactor, ReceiveBuffers, Stream,
};
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

fn unix() -> Address {
    Address::Unix("socket".into())
}

fn rough() -> NetFaults {
    NetFaults {
        latency: Latency {
            stall: Chance(50_000),
            stall_max: Duration::from_millis(5),
            ..Latency::around(Duration::from_micros(50))
        },
        split: Chance(700_000),
        buffer_bytes: 3000,
        ..NetFaults::default()
    }
}

/// Receives until the end of the stream or an error.
async fn receive_all(reactor: &Reactor, stream: &dyn Stream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut all = Vec::new();
    loop {
        let (first, before) = (reactor.pool().allocate(4096), all.len());
        match receive_into(stream, first, &mut all).await {
            Ok(_) if all.len() == before => return (all, None),
            Ok(_) => {}
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

fn random_message(reactor: &Reactor, parts: u64, seed: u64) -> (Message, Vec<u8>) {
    let (mut message, mut all) = (Message::default(), Vec::new());
    let mut random = RandomStream::from_seed(seed);
    for _ in 0..parts {
        let mut content = vec![0; random.below(2000) as usize];
        random.fill_bytes(&mut content);
        all.extend_from_slice(&content);
        if random.below(2) == 0 {
            message.head.extend_from_slice(&content);
            message.parts.push(Part::Head(content.len()));
        } else {
            let mut buffer = reactor.pool().allocate(content.len());
            buffer.copy_from_slice(&content);
            message.parts.push(Part::Payload(buffer));
        }
    }
    (message, all)
}

async fn poll_once<T>(mut future: impl Future<Output = T> + Unpin) -> Option<T> {
    poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[test]
fn every_byte_arrives_in_order_through_a_rough_network() {
    for (seed, address) in (0..20).flat_map(|seed| [(seed, unix()), (seed, tcp())]) {
        let world = world(seed, WorldOptions { net: rough(), ..WorldOptions::default() });
        let reactor = world.reactor();
        reactor.block_on(async {
            let (client, server) = pair(&reactor, &address).await;
            let (message, all) = random_message(&reactor, 100, seed);
            let sending = reactor.spawn(async move {
                let (result, message) = client.send(message).await;
                result.expect("sent");
                assert!(message.head.is_empty() && message.parts.is_empty(), "comes back emptied");
            });
            assert!(receive_all(&reactor, &*server).await == (all, None));
            sending.await;
        });
        assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
        let faults = world.faults();
        assert!(faults.of(FaultKind::NetSplit) > 10 && faults.of(FaultKind::NetFull) > 10);
        assert!(faults.of(FaultKind::NetStall) > 0);
        reactor.shutdown();
    }
}

#[test]
fn a_cut_delivers_a_beginning_and_says_so_at_both_ends() {
    let (mut cuts, mut whole) = (0, 0);
    for seed in 0..200 {
        let net = NetFaults { cut: Chance(20_000), ..rough() };
        let world = world(seed, WorldOptions { net, ..WorldOptions::default() });
        let reactor = world.reactor();
        reactor.block_on(async {
            let (client, server) = pair(&reactor, &unix()).await;
            let (message, all) = random_message(&reactor, 50, seed);
            let sending = reactor.spawn(async move { (client.send(message).await.0, client) });
            let receiving = async { receive_all(&reactor, &*server).await };
            let sent = reactor.spawn(async move { sending.await.0 });
            let (received, error) = receiving.await;
            assert!(all.starts_with(&received), "bytes were lost in the middle");
            match error {
                None => assert_eq!(received.len(), all.len(), "an end before the end"),
                Some(kind) => assert_eq!(kind, ErrorKind::ConnectionReset),
            }
            let sent = sent.await.map_err(|error| error.kind());
            assert!(matches!(sent, Ok(()) | Err(ErrorKind::ConnectionReset)), "{sent:?}");
            assert!(sent.is_err() || error.is_none() || received.len() < all.len());
            assert_eq!(world.faults().of(FaultKind::NetCut), u64::from(error.is_some()));
            cuts += u64::from(error.is_some());
            whole += u64::from(error.is_none());
        });
        reactor.shutdown();
    }
    assert!(cuts > 20 && whole > 20, "{cuts} cut, {whole} whole");
}

#[test]
fn wrong_requests_are_refused() {
    let (_world, reactor) = sim(1);
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &unix()).await;
        for parts in [vec![], vec![Part::Head(2)], vec![Part::Head(3), Part::Head(usize::MAX)]] {
            let result = client.send(Message { head: vec![1, 2, 3], parts }).await.0;
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::InvalidInput));
        }
        for first_filled in [4096, 5000] {
            let first = reactor.pool().allocate(4096);
            let buffers = ReceiveBuffers { first, first_filled, second: None };
            let result = server.receive(buffers).await.0;
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::InvalidInput));
        }
        client.send(Message::default()).await.0.expect("nothing to send is fine");
        client.send(bytes(b"x")).await.0.expect("still works");
        let mut got = Vec::new();
        receive_into(&*server, reactor.pool().allocate(4096), &mut got).await.expect("received");
        assert_eq!(got, b"x");
    });
    reactor.shutdown();
}

#[test]
fn two_buffers_are_filled_one_after_the_other() {
    let (_world, reactor) = sim(1);
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &unix()).await;
        let content: Vec<u8> = (0..5000_u32).map(|number| number as u8).collect();
        client.send(bytes(&content)).await.0.expect("sent");
        reactor.sleep(Duration::from_secs(1)).await;
        let mut first = reactor.pool().allocate(4096);
        first[..100].fill(0xaa);
        let second = Some(reactor.pool().allocate(4096));
        let buffers = ReceiveBuffers { first, first_filled: 100, second };
        let (count, buffers) = server.receive(buffers).await;
        assert_eq!(count.expect("received"), 5000);
        assert!(buffers.first[..100].iter().all(|&byte| byte == 0xaa), "what was there stays");
        assert_eq!(buffers.first[100..], content[..3996]);
        assert_eq!(buffers.second.expect("comes back")[..1004], content[3996..]);
    });
    reactor.shutdown();
}

#[test]
fn dropped_futures_lose_nothing() {
    let net = NetFaults { buffer_bytes: 100, ..rough() };
    let world = world(1, WorldOptions { net, ..WorldOptions::default() });
    let reactor = world.reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &unix()).await;
        let (message, mut expected) = random_message(&reactor, 20, 1);
        assert!(poll_once(client.send(message)).await.is_none(), "does not fit at once");
        expected.extend_from_slice(b"end");
        let own = reactor.clone();
        let sending = reactor.spawn(async move {
            client.send(bytes(b"end")).await.0.expect("sent");
            drop((client, own));
        });
        let mut got = Vec::new();
        let mut random = RandomStream::from_seed(4);
        while got.len() < expected.len() {
            let first = reactor.pool().allocate(4096);
            let buffers = ReceiveBuffers { first, first_filled: 4000, second: None };
            if let Some((count, buffers)) = poll_once(server.receive(buffers)).await {
                let count = count.expect("received");
                got.extend_from_slice(&buffers.first[4000..4000 + count]);
            }
            if random.below(2) == 0 {
                reactor.sleep(Duration::from_micros(random.below(100))).await;
            }
        }
        assert!(got == expected);
        sending.await;
    });
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
}

#[test]
fn ends_are_told() {
    for address in [unix(), tcp()] {
        let (_world, reactor) = sim(3);
        reactor.block_on(async {
            // A dropped stream ends what is in flight on it.
            let (client, server) = pair(&reactor, &address).await;
            let first = reactor.pool().allocate(4096);
            let mut receive =
                server.receive(ReceiveBuffers { first, first_filled: 0, second: None });
            let payload = Part::Payload(reactor.pool().allocate(1 << 20));
            let mut send = server.send(Message { head: Vec::new(), parts: vec![payload] });
            assert!(poll_once(&mut receive).await.is_none());
            assert!(poll_once(&mut send).await.is_none());
            drop(server);
            assert!(send.await.0.is_err());
            assert!(!matches!(receive.await.0, Ok(1..)));
            drop(client);

            // A peer that vanishes is an error for who sends.
            let (client, server) = pair(&reactor, &address).await;
            drop(client);
            let mut sent = Ok(());
            while sent.is_ok() {
                sent = server.send(bytes(&[0; 4096])).await.0;
                reactor.sleep(Duration::from_millis(1)).await;
            }
            let (result, _) = server.send(bytes(b"more")).await;
            assert_eq!(result.expect_err("stays broken").kind(), ErrorKind::BrokenPipe);

            // A stream that is shut down wakes its own receive, and its peer's.
            let (client, server) = pair(&reactor, &address).await;
            let first = reactor.pool().allocate(4096);
            let receive = server.receive(ReceiveBuffers { first, first_filled: 0, second: None });
            let task = reactor.spawn(receive);
            reactor.yield_now().await;
            server.shutdown();
            assert_eq!(task.await.0.expect("an end"), 0);
            assert_eq!(receive_all(&reactor, &*client).await, (Vec::new(), None));
        });
        assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
        reactor.shutdown();
    }
}

#[test]
fn shutdown_frees_the_memory_of_streams_held_elsewhere() {
    let (_world, reactor) = sim(4);
    let pool = reactor.pool().clone();
    let (client, server) = reactor.block_on(async {
        let (client, server) = pair(&reactor, &unix()).await;
        let waiting = Rc::clone(&server);
        let first = reactor.pool().allocate(4096);
        let buffers = ReceiveBuffers { first, first_filled: 0, second: None };
        reactor.spawn(async move { drop(waiting.receive(buffers).await) }).detach();
        let payload = Part::Payload(reactor.pool().allocate(1 << 20));
        let message = Message { head: Vec::new(), parts: vec![payload] };
        assert!(poll_once(client.send(message)).await.is_none());
        reactor.yield_now().await;
        (client, server)
    });
    assert!(pool.in_use_bytes() > 0);
    reactor.shutdown();
    assert_eq!(pool.in_use_bytes(), 0, "buffers leaked");
    assert!(reactor.block_on(client.send(bytes(b"late"))).0.is_err());
    drop((client, server));
}

#[test]
fn addresses_are_told_and_refusals_too() {
    let (world, reactor) = sim(5);
    reactor.block_on(async {
        let listener = reactor.listen(&tcp()).expect("can listen");
        let Address::Tcp(bound) = listener.address() else { panic!("is TCP") };
        assert_ne!(bound.port(), 0);
        let taken = reactor.listen(&listener.address()).err().map(|error| error.kind());
        assert_eq!(taken, Some(ErrorKind::AddrInUse));
        let client = reactor.connect(&listener.address()).await.expect("can connect");
        assert_eq!(client.peer(), bound.to_string());
        drop(listener);
        let refused = reactor.connect(&Address::Tcp(bound)).await.err().map(|error| error.kind());
        assert_eq!(refused, Some(ErrorKind::ConnectionRefused));
        let listener = reactor.listen(&unix()).expect("can listen");
        assert!(poll_once(listener.accept()).await.is_none());
        let client = reactor.connect(&unix()).await.expect("can connect");
        assert!(client.peer().starts_with("unix, process "), "{}", client.peer());
        listener.accept().await.expect("a dropped accept keeps it for the next");
        drop(listener);
        let gone = reactor.connect(&unix()).await.err().map(|error| error.kind());
        assert_eq!(gone, Some(ErrorKind::NotFound), "the socket file goes with its listener");
        let _left = Box::leak(Box::new(reactor.listen(&unix()).expect("can listen")));
    });
    world.crash(Crash::Kill);
    reactor.shutdown();
    let reactor = world.reactor();
    reactor.block_on(async {
        let left = reactor.connect(&unix()).await.err().map(|error| error.kind());
        assert_eq!(left, Some(ErrorKind::ConnectionRefused), "a killed one leaves its file");
        drop(reactor.listen(&unix()).expect("replaces what nobody listens at"));
    });
    reactor.shutdown();
}
