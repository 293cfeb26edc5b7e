//! Goal: streams carry every byte, in order, however they are cut; dropped futures and vanished
//! peers hurt nobody.
//! Method: both ends in one reactor, or a plain thread with a blocking socket at the other end.

use super::{Scratch, bytes, pair, reactor, receive_into, tcp};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{
    Address, Message, Part, RandomStream, Reactor, ReceiveBuffers, Stream,
};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Receives exactly `len` bytes.
async fn receive_exactly(reactor: &Reactor, stream: &dyn Stream, len: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(len);
    let mut first = reactor.pool().allocate(1 << 20);
    while all.len() < len {
        first = receive_into(stream, first, &mut all).await.expect("received");
    }
    assert_eq!(all.len(), len, "more arrived than was sent");
    all
}

/// Polls once and drops: as a caller that gives up does.
async fn poll_once<T>(mut future: impl Future<Output = T> + Unpin) -> Option<T> {
    poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn random_buffer(reactor: &Reactor, len: usize, seed: u64) -> Buffer {
    let mut buffer = reactor.pool().allocate(len);
    RandomStream::from_seed(seed).fill_bytes(&mut buffer);
    buffer
}

/// 64 MiB in over a thousand parts of mixed kinds, with its bytes.
fn large_message(reactor: &Reactor) -> (Message, Vec<u8>) {
    let mut message = Message::default();
    let mut all = Vec::new();
    let mut random = RandomStream::from_seed(9);
    for part in 0..1500_u64 {
        if random.below(4) == 0 {
            let header = part.to_le_bytes();
            message.head.extend_from_slice(&header);
            message.parts.push(Part::Head(header.len()));
            all.extend_from_slice(&header);
        } else {
            let buffer = random_buffer(reactor, 1 + random.below(120_000) as usize, part);
            all.extend_from_slice(&buffer);
            message.parts.push(Part::Payload(buffer));
        }
    }
    assert!(all.len() > 64 << 20 && message.parts.len() > 1024);
    (message, all)
}

fn carries_a_large_message(address: &Address) {
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, address).await;
        let (message, all) = large_message(&reactor);
        let sending = reactor.spawn(async move {
            let (result, message) = client.send(message).await;
            result.expect("sent");
            assert!(message.head.is_empty() && message.parts.is_empty(), "comes back emptied");
            assert!(message.head.capacity() > 0, "with its memory");
            client
        });
        assert!(receive_exactly(&reactor, &*server, all.len()).await == all);
        drop(sending.await);
        let first = reactor.pool().allocate(4096);
        let end = server.receive(ReceiveBuffers { first, first_filled: 0, second: None }).await;
        assert_eq!(end.0.expect("an end is no error"), 0);
    });
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
}

#[test]
fn a_large_message_arrives_whole_over_unix() {
    carries_a_large_message(&Scratch::new().socket());
}

#[test]
fn a_large_message_arrives_whole_over_tcp() {
    carries_a_large_message(&tcp());
}

#[test]
fn two_buffers_are_filled_one_after_the_other() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        let content: Vec<u8> = (0..5000_u32).map(|number| number as u8).collect();
        client.send(bytes(&content)).await.0.expect("sent");
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
fn wrong_requests_are_refused() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
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
        assert_eq!(receive_exactly(&reactor, &*server, 1).await, b"x");
    });
    reactor.shutdown();
}

#[test]
fn a_dropped_receive_loses_nothing() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        let mut expected = Vec::new();
        let mut got = Vec::new();
        let mut random = RandomStream::from_seed(4);
        for round in 0..3000_u32 {
            let first = reactor.pool().allocate(4096);
            let buffers = ReceiveBuffers { first, first_filled: 4090, second: None };
            let receive = server.receive(buffers);
            if random.below(2) == 0 {
                client.send(bytes(&round.to_le_bytes())).await.0.expect("sent");
                expected.extend_from_slice(&round.to_le_bytes());
            }
            if let Some((count, buffers)) = poll_once(receive).await {
                let count = count.expect("received");
                got.extend_from_slice(&buffers.first[4090..4090 + count]);
            }
            if random.below(3) == 0 {
                reactor.yield_now().await;
            }
        }
        drop(client);
        let mut first = reactor.pool().allocate(4096);
        loop {
            let before = got.len();
            first = receive_into(&*server, first, &mut got).await.expect("received");
            if got.len() == before {
                break;
            }
        }
        assert!(!expected.is_empty() && got == expected);
    });
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
}

#[test]
fn a_dropped_send_is_finished_before_the_next() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        let large = random_buffer(&reactor, 8 << 20, 1);
        let mut expected = large.to_vec();
        let message = Message { head: Vec::new(), parts: vec![Part::Payload(large)] };
        assert!(poll_once(client.send(message)).await.is_none(), "does not fit at once");
        expected.extend_from_slice(b"end");
        let sending = reactor.spawn(async move {
            client.send(bytes(b"end")).await.0.expect("sent");
            client
        });
        assert!(receive_exactly(&reactor, &*server, expected.len()).await == expected);
        drop(sending.await);
    });
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
}

#[test]
fn a_dropped_stream_ends_what_is_in_flight() {
    for address in [Scratch::new().socket(), tcp()] {
        let reactor = reactor();
        reactor.block_on(async {
            let (client, server) = pair(&reactor, &address).await;
            let first = reactor.pool().allocate(4096);
            let mut receive =
                server.receive(ReceiveBuffers { first, first_filled: 0, second: None });
            let payload = Part::Payload(random_buffer(&reactor, 32 << 20, 1));
            let mut send = server.send(Message { head: Vec::new(), parts: vec![payload] });
            assert!(poll_once(&mut receive).await.is_none());
            assert!(poll_once(&mut send).await.is_none());
            drop(server);
            assert!(send.await.0.is_err());
            assert!(!matches!(receive.await.0, Ok(1..)));
            drop(client);
        });
        assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
        reactor.shutdown();
    }
}

#[test]
fn shutdown_frees_the_memory_of_receives_nobody_answers() {
    let scratch = Scratch::new();
    let reactor = reactor();
    let pool = reactor.pool().clone();
    let (client, server) = reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        let waiting = Rc::clone(&server);
        let first = reactor.pool().allocate(4096);
        reactor
            .spawn(async move {
                let buffers = ReceiveBuffers { first, first_filled: 0, second: None };
                let _ = waiting.receive(buffers).await;
            })
            .detach();
        let payload = Part::Payload(random_buffer(&reactor, 32 << 20, 1));
        let message = Message { head: Vec::new(), parts: vec![payload] };
        assert!(poll_once(client.send(message)).await.is_none());
        reactor.yield_now().await;
        (client, server)
    });
    assert!(pool.in_use_bytes() > 0);
    reactor.shutdown();
    assert_eq!(pool.in_use_bytes(), 0, "buffers leaked");
    let result = reactor.block_on(client.send(bytes(b"late"))).0;
    assert!(result.is_err());
    drop((client, server));
}

#[test]
fn a_peer_that_vanishes_is_an_end_or_an_error() {
    for address in [Scratch::new().socket(), tcp()] {
        let reactor = reactor();
        reactor.block_on(async {
            let (client, server) = pair(&reactor, &address).await;
            drop(client);
            let mut sent = Ok(());
            for _ in 0..100 {
                sent = server.send(bytes(&[0; 4096])).await.0;
                if sent.is_err() {
                    break;
                }
                reactor.sleep(Duration::from_millis(1)).await;
            }
            let kind = sent.expect_err("nobody is there").kind();
            assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind:?}");
            let (result, _) = server.send(bytes(b"more")).await;
            assert_eq!(result.expect_err("stays broken").kind(), ErrorKind::BrokenPipe);
        });
        reactor.shutdown();
    }
}

#[test]
fn a_shut_down_stream_wakes_its_receive() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        let first = reactor.pool().allocate(4096);
        let receive = server.receive(ReceiveBuffers { first, first_filled: 0, second: None });
        let task = reactor.spawn(receive);
        reactor.yield_now().await;
        server.shutdown();
        assert_eq!(task.await.0.expect("an end"), 0);
        assert_eq!(receive_exactly(&reactor, &*client, 0).await, b"");
    });
    reactor.shutdown();
}

#[test]
fn two_hundred_connections_at_once() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let listener = reactor.listen(&scratch.socket()).expect("can listen");
        let address = listener.address();
        let own = reactor.clone();
        reactor
            .spawn(async move {
                while let Ok(stream) = listener.accept().await {
                    let reactor = own.clone();
                    own.spawn(async move { echo(&reactor, &*stream).await }).detach();
                }
            })
            .detach();
        let mut clients = Vec::new();
        for number in 0..200_u32 {
            let (reactor, address) = (reactor.clone(), address.clone());
            clients.push(reactor.clone().spawn(async move {
                let stream = reactor.connect(&address).await.expect("can connect");
                for round in 0..20 {
                    let content: Vec<u8> = (0..300).map(|at| (at ^ number ^ round) as u8).collect();
                    stream.send(bytes(&content)).await.0.expect("sent");
                    assert!(receive_exactly(&reactor, &*stream, 300).await == content);
                }
            }));
        }
        for client in clients {
            client.await;
        }
    });
    reactor.shutdown();
}

/// Sends back what comes until the end.
async fn echo(reactor: &Reactor, stream: &dyn Stream) {
    let mut first = reactor.pool().allocate(65536);
    loop {
        let mut content = Vec::new();
        first = match receive_into(stream, first, &mut content).await {
            Ok(first) => first,
            Err(_) => return,
        };
        if content.is_empty() || stream.send(bytes(&content)).await.0.is_err() {
            return;
        }
    }
}

#[test]
fn addresses_are_reported_and_refusals_told() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let listener = reactor.listen(&tcp()).expect("can listen");
        let Address::Tcp(bound) = listener.address() else { panic!("is TCP") };
        assert_ne!(bound.port(), 0);
        let client = reactor.connect(&listener.address()).await.expect("can connect");
        assert_eq!(client.peer(), bound.to_string());
        drop(listener);
        let refused = reactor.connect(&Address::Tcp(bound)).await.err().map(|error| error.kind());
        assert_eq!(refused, Some(ErrorKind::ConnectionRefused));

        let unix = scratch.socket();
        let listener = reactor.listen(&unix).expect("can listen");
        let taken = reactor.listen(&unix).err().map(|error| error.kind());
        assert_eq!(taken, Some(ErrorKind::AddrInUse));
        let client = reactor.connect(&unix).await.expect("can connect");
        assert!(client.peer().starts_with("unix, process "), "{}", client.peer());
        drop(listener);
        let gone = reactor.connect(&unix).await.err().map(|error| error.kind());
        assert_eq!(gone, Some(ErrorKind::NotFound), "the socket file goes with its listener");
        let Address::Unix(path) = &unix else { panic!("is a path") };
        drop(std::os::unix::net::UnixListener::bind(path).expect("binds"));
        let listener = reactor.listen(&unix).expect("replaces what nobody listens at");
        drop(listener);
    });
    reactor.shutdown();
}

#[test]
fn a_dropped_accept_keeps_the_connection_for_the_next() -> io::Result<()> {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let listener = reactor.listen(&scratch.socket())?;
        assert!(poll_once(listener.accept()).await.is_none());
        let client = reactor.connect(&listener.address()).await?;
        reactor.sleep(Duration::from_millis(1)).await;
        let server = listener.accept().await?;
        client.send(bytes(b"hi")).await.0?;
        assert_eq!(receive_exactly(&reactor, &*server, 2).await, b"hi");
        io::Result::Ok(())
    })?;
    reactor.shutdown();
    Ok(())
}
