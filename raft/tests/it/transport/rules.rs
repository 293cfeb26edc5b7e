//! Goal: a peer that breaks the rules of the protocol is cut and named; others feel nothing.

use super::*;
use ashlar_raft::frame::{Farewell, FrameError, Notice};
use ashlar_raft::transport::{Ending, Misdeed};

/// Lets a peer do `harm` on a connection that works; returns how the node says that it ended, and
/// the last words to the peer.
fn after(harm: impl AsyncFnOnce(&mut Raw)) -> (Ending, Option<Notice>) {
    quiet(|_world, reactor| async move {
        let nodes = nodes(&reactor, 2, Bounds::default());
        nodes[0].peers.set_peer(NodeId(3), unix(3)).expect("a peer");
        let mut raw = Raw::greet(&reactor, &nodes[0], identity(3)).await;
        raw.request(ECHO, 7).await;
        let frame = raw.next().await.expect("an answer");
        assert_eq!((frame.envelope.kind, frame.envelope.request), (Kind::Reply, 7));
        harm(&mut raw).await;
        let mut last = None;
        while let Some(frame) = raw.next_word().await {
            last = Some(frame);
        }
        let last = last.filter(|frame| frame.envelope.kind == Kind::Close);
        let notice = last.map(|frame| Notice::decode(&frame.head));
        raw.wait(Duration::from_millis(10)).await;
        let status = nodes[0].status_of(3);
        assert!(!status.connected, "{status:?}");
        assert_eq!(nodes[0].handler.running.get(), 0);
        nodes[0].call(2, request(ECHO, 1, 1, 1)).await.expect("others feel nothing");
        assert_eq!(nodes[0].status_of(2).connections, 1);
        shut_down(nodes).await;
        (status.last_ending.expect("it ended"), notice)
    })
}

fn envelope(kind: Kind, request: u64) -> Envelope {
    Envelope { request, ..Envelope::bare(kind) }
}

#[test]
fn rubbish_is_cut_and_named() {
    let (ending, notice) = after(async |raw: &mut Raw| raw.send_bytes(&[0x55; 100]).await);
    let found = [0x55; 8];
    assert_eq!(ending, Ending::Garbage(FrameError::Magic { found }));
    let notice = notice.expect("last words");
    assert_eq!(Farewell::from_code(notice.code), Farewell::Garbage);
    assert_eq!(notice.text, "not a frame: a frame does not begin with UUUUUUUU");
}

#[test]
fn a_damaged_payload_is_cut_and_named() {
    let (ending, _) = after(async |raw: &mut Raw| {
        let payload = vec![buffer(&raw.reactor, &[1; 5000])];
        let mut message = Message::default();
        let request = envelope(Kind::OneWay, 8);
        raw.encoder.encode(&request, &[ECHO; 9], payload, &mut message);
        let mut bytes = message.head;
        bytes.extend([1; 4999]);
        bytes.push(2);
        raw.send_bytes(&bytes).await;
    });
    assert!(matches!(ending, Ending::Garbage(FrameError::PayloadChecksum { .. })), "{ending}");
}

#[test]
fn misdeeds_are_cut_and_named() {
    let (ending, _) = after(async |raw: &mut Raw| raw.hello(identity(3), None, 2).await);
    assert_eq!(ending, Ending::Misbehaved(Misdeed::Hello));
    let (ending, notice) = after(async |raw: &mut Raw| {
        raw.request(NEVER, 8).await;
        raw.request(NEVER, 8).await;
    });
    assert_eq!(ending, Ending::Misbehaved(Misdeed::RequestTwice));
    let text = "the other side broke the rules: two requests of one number";
    assert_eq!(notice.expect("last words").text, text);
}

#[test]
fn an_answer_that_nobody_waits_for_does_no_harm() {
    let (ending, _) = after(async |raw: &mut Raw| {
        for (kind, number) in [(Kind::Reply, 99), (Kind::Error, 98), (Kind::Cancel, 97)] {
            raw.send(envelope(kind, number), &[], Vec::new()).await;
        }
        raw.request(ECHO, 8).await;
        assert_eq!(raw.next_word().await.expect("an answer").envelope.request, 8);
        let farewell = Notice { code: 200, text: "enough".into() };
        raw.send(Envelope::bare(Kind::Close), &farewell.encode(), Vec::new()).await;
    });
    assert_eq!(ending, Ending::Told(Farewell::Unknown, "enough".into()));
}

#[test]
fn a_cancelled_request_has_no_answer() {
    let (ending, _) = after(async |raw: &mut Raw| {
        raw.request(LATER, 8).await;
        raw.send(envelope(Kind::Cancel, 8), &[], Vec::new()).await;
        raw.wait(SECOND / 2).await;
        raw.request(ECHO, 9).await;
        assert_eq!(raw.next_word().await.expect("an answer").envelope.request, 9);
        raw.stream.shutdown();
    });
    assert_eq!(ending, Ending::Left);
}

#[test]
fn too_large_an_answer_is_cut_and_named() {
    quiet(|_world, reactor| async move {
        let node = Node::start(&reactor, identity(1), Bounds::default(), &unix(1));
        node.peers.set_peer(NodeId(3), unix(3)).expect("a peer");
        let mut raw = Raw::greet(&reactor, &node, identity(3)).await;
        let mut asked = request(ECHO, 1, 1, 1);
        asked.reply_max_bytes = 100;
        let call = node.call(3, asked);
        let frame = raw.next_word().await.expect("a request");
        assert_eq!(frame.envelope.reply_max_bytes, 100);
        let reply = envelope(Kind::Reply, frame.envelope.request);
        raw.send(reply, &[0; 101], Vec::new()).await;
        assert_eq!(kind(call.await.map(drop)), Err(ErrorKind::Closed));
        let ending = node.status_of(3).last_ending;
        assert_eq!(ending, Some(Ending::Misbehaved(Misdeed::ReplyTooLarge)));
        drop(raw);
        shut_down(vec![node]).await;
    });
}
