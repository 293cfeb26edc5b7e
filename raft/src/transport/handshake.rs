//! How a connection comes to be: each side says hello, and each looks whom it has before it.
//!
//! Who calls says hello first. Invariant: nothing but a hello or a farewell is taken from a stream
//! before it is known whose it is.
//! Must never know: requests, when it is wise to call.

use super::connection::{self, Connection, Session};
use super::ending::{Ending, Misdeed};
use super::limits::{CONNECT_TIMEOUT, FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT};
use super::outgoing::Charge;
use super::peer::Peer;
use super::peers::Shared;
use crate::frame::{Decoder, Encoder, Envelope, Farewell, Hello, Kind, NodeId, Notice, Refusal};
use ashlar_engine::reactor::{Message, Stream};
use std::rc::Rc;

/// Calls a peer. When it returns well, there is a connection.
pub(super) async fn dial(shared: &Rc<Shared>, peer: &Rc<Peer>) -> Result<(), Ending> {
    let address = peer.address();
    let connecting = shared.reactor.connect(&address);
    let stream = shared.reactor.within(CONNECT_TIMEOUT, connecting).await;
    let stream = stream.ok_or(Ending::TimedOut)?.map_err(|error| Ending::Broken(error.kind()))?;
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(shared.reactor.pool().clone());
    peer.set_greeting();
    let greeting = greet(shared, peer, &*stream, &mut encoder, &mut decoder);
    let greeted = shared.reactor.within(HANDSHAKE_TIMEOUT, greeting).await;
    match greeted.unwrap_or(Err(Ending::TimedOut)) {
        Ok((hello, version)) => {
            encoder.set_version(version);
            decoder.set_version(version);
            let connection = Connection::new(shared, stream, encoder, &hello);
            open(shared, peer, connection, decoder);
            Ok(())
        }
        Err(ending) => {
            // The peer's own call may come now.
            peer.set_connecting();
            part(shared, &*stream, encoder, &ending).await;
            Err(ending)
        }
    }
}

/// Says hello and looks at the answer. Returns it, and the version to speak.
async fn greet(
    shared: &Shared,
    peer: &Peer,
    stream: &dyn Stream,
    encoder: &mut Encoder,
    decoder: &mut Decoder,
) -> Result<(Hello, u16), Ending> {
    let own = shared.hello(Some(peer.node));
    let mut message = Message::default();
    encoder.encode(&Envelope::bare(Kind::Hello), &own.encode(), Vec::new(), &mut message);
    let (result, _) = stream.send(message).await;
    result.map_err(|error| Ending::Broken(error.kind()))?;
    let hello = first_hello(stream, decoder).await?;
    let version = hello.check(&shared.identity, Some(peer.node)).map_err(Ending::Refused)?;
    peer.check_life(&hello).map_err(Ending::Refused)?;
    Ok((hello, version))
}

/// Takes a stream that came through a listener.
pub(super) async fn welcome(shared: &Rc<Shared>, stream: Rc<dyn Stream>) {
    let mut decoder = Decoder::new(shared.reactor.pool().clone());
    let hello = shared.reactor.within(HANDSHAKE_TIMEOUT, first_hello(&*stream, &mut decoder));
    let hello = hello.await.unwrap_or(Err(Ending::TimedOut));
    let judged = hello.and_then(|hello| {
        let (peer, version) = judge(shared, &hello).map_err(Ending::Refused)?;
        Ok((peer, version, hello))
    });
    match judged {
        Ok((peer, version, hello)) => {
            let connection = Connection::new(shared, stream, Encoder::default(), &hello);
            let own = shared.hello(Some(hello.identity.node));
            let envelope = Envelope::bare(Kind::Hello);
            connection.say(&envelope, &own.encode(), Charge::Reply(0));
            connection.outgoing.set_version(version);
            decoder.set_version(version);
            open(shared, &peer, connection, decoder);
        }
        Err(ending) => {
            if ending != Ending::Refused(Refusal::Duplicate) {
                shared.turn_away(stream.peer(), &ending);
            }
            part(shared, &*stream, Encoder::default(), &ending).await;
        }
    }
}

/// Whose a stream is on which `hello` was said, and what to speak on it.
fn judge(shared: &Shared, hello: &Hello) -> Result<(Rc<Peer>, u16), Refusal> {
    let version = hello.check(&shared.identity, None)?;
    let found: NodeId = hello.identity.node;
    let peer = shared.peer(found).ok_or(Refusal::Stranger { found })?;
    peer.judge(shared.identity.node, hello)?;
    Ok((peer, version))
}

/// The other side's hello.
async fn first_hello(stream: &dyn Stream, decoder: &mut Decoder) -> Result<Hello, Ending> {
    loop {
        if let Some(frame) = decoder.next_frame().map_err(Ending::Garbage)? {
            return match frame.envelope.kind {
                Kind::Hello => Hello::decode(&frame.head).map_err(Ending::BadHello),
                Kind::Close => {
                    let Notice { code, text } = Notice::decode(&frame.head);
                    Err(Ending::Told(Farewell::from_code(code), text))
                }
                _ => Err(Ending::Misbehaved(Misdeed::Hello)),
            };
        }
        let (result, buffers) = stream.receive(decoder.take_buffers()).await;
        match result {
            Ok(0) => return Err(Ending::Left),
            Ok(count) => decoder.handle_received(buffers, count),
            Err(error) => return Err(Ending::Broken(error.kind())),
        }
    }
}

/// Both have said hello: the connection is used from now on.
fn open(shared: &Rc<Shared>, peer: &Rc<Peer>, connection: Connection, decoder: Decoder) {
    let connection = Rc::new(connection);
    peer.connected(&connection);
    let session = Session { shared: Rc::clone(shared), peer: Rc::clone(peer), connection };
    let counted = shared.count_connection();
    shared
        .reactor
        .spawn(async move {
            connection::run(session, decoder).await;
            drop(counted);
        })
        .detach();
}

/// The last words on a stream that becomes no connection.
async fn part(shared: &Shared, stream: &dyn Stream, mut encoder: Encoder, ending: &Ending) {
    if let Some(notice) = ending.farewell() {
        let (envelope, mut message) = (Envelope::bare(Kind::Close), Message::default());
        encoder.encode(&envelope, &notice.encode(), Vec::new(), &mut message);
        shared.reactor.within(FAREWELL_TIMEOUT, stream.send(message)).await;
    }
    stream.shutdown();
}
