//! Goal: streams carry every byte, in order, however they are cut; dropped futures and vanished
//! peers hurt nobody.

use super::{Scratch, reactor};
use ashlar_engine::reactor::{Address, Message, Part, Reactor, ReceiveBuffers, Stream};
use std::rc::Rc;

async fn pair(reactor: &Reactor, address: &Address) -> (Rc<dyn Stream>, Rc<dyn Stream>) {
    let listener = reactor.listen(address).expect("can listen");
    let client = reactor.connect(&listener.address()).await.expect("can connect");
    let server = listener.accept().await.expect("accepts");
    (client, server)
}

fn bytes(content: &[u8]) -> Message {
    Message { head: content.to_vec(), parts: vec![Part::Head(content.len())] }
}

#[test]
fn echo_over_unix() {
    let scratch = Scratch::new();
    let reactor = reactor();
    reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        client.send(bytes(b"hello")).await.0.expect("sent");
        let first = reactor.pool().allocate(4096);
        let (count, buffers) =
            server.receive(ReceiveBuffers { first, first_filled: 0, second: None }).await;
        assert_eq!(&buffers.first[..count.expect("received")], b"hello");
    });
    reactor.shutdown();
}
