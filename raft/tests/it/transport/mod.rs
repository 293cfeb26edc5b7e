//! Goal: every call ends, order holds, nothing leaks, whatever peers and networks do.
//! Method: nodes with a handler that does what the request says, on the ring and in simulated
//! worlds; peers made of bare frames that break the rules.
mod admission;
mod bounds;
mod calls;
mod ring;
mod rough;
mod rules;

use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::reactor::{
    Address, LocalBox, Message, RandomStream, Reactor, ReceiveBuffers, Stream,
};
use ashlar_raft::frame::{
    ClusterId, Decoder, Encoder, Envelope, Frame, Hello, Identity, Kind, NodeId, Versions,
};
use ashlar_raft::transport::{
    Bounds, Error, ErrorKind, Handler, PeerStatus, Peers, Reply, Request, Result,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const SECOND: Duration = Duration::from_secs(1);

/// What a request wants of the handler: the first byte of its head.
const ECHO: u8 = 0;
const LATER: u8 = 1;
const NEVER: u8 = 2;
const REFUSE: u8 = 3;
const BUSY: u8 = 4;
const LARGE: u8 = 5;

fn identity(node: u64) -> Identity {
    Identity { cluster: CLUSTER, node: NodeId(node), incarnation: 1, versions: Versions::OURS }
}

/// A request that wants `what`, with a number that the handler writes down.
fn request(what: u8, group: u32, lane: u32, number: u64) -> Request {
    let mut head = vec![what];
    head.extend(number.to_le_bytes());
    Request::new(group, lane, head)
}

/// Numbers of the requests that came, by who sent them on which group and lane.
type Seen = BTreeMap<(NodeId, u32, u32), Vec<u64>>;

/// Does what requests say.
struct Obedient {
    reactor: Reactor,
    random: RefCell<RandomStream>,
    seen: RefCell<Seen>,
    running: Rc<Cell<usize>>,
    most: Cell<usize>,
}

/// Counts a handler until it is dropped.
struct Running(Rc<Cell<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Handler for Obedient {
    fn handle(
        &self,
        peer: NodeId,
        group: u32,
        lane: u32,
        head: Vec<u8>,
        payload: Vec<Buffer>,
    ) -> LocalBox<Result<Reply>> {
        let number = u64::from_le_bytes(head[1..9].try_into().expect("8 bytes"));
        self.seen.borrow_mut().entry((peer, group, lane)).or_default().push(number);
        self.running.set(self.running.get() + 1);
        self.most.set(self.most.get().max(self.running.get()));
        let running = Running(Rc::clone(&self.running));
        let reactor = self.reactor.clone();
        let pause = Duration::from_micros(self.random.borrow_mut().below(20_000));
        Box::pin(async move {
            let _running = running;
            match head[0] {
                ECHO => {}
                LATER => reactor.sleep(pause).await,
                NEVER => std::future::pending().await,
                REFUSE => return Err(Error::new(ErrorKind::Refused, "will not")),
                BUSY => return Err(Error::new(ErrorKind::Busy, "cannot now")),
                LARGE => return Ok(Reply { head: vec![0; 20_000], payload }),
                other => panic!("nobody asks for {other}"),
            }
            Ok(Reply { head, payload })
        })
    }
}

/// A node: its peers and the handler that serves them.
struct Node {
    peers: Peers,
    handler: Rc<Obedient>,
    address: Address,
}

impl Node {
    fn start(reactor: &Reactor, identity: Identity, bounds: Bounds, address: &Address) -> Node {
        let handler = Rc::new(Obedient {
            reactor: reactor.clone(),
            random: RefCell::new(reactor.random(&format!("handler {}", identity.node))),
            seen: RefCell::default(),
            running: Rc::default(),
            most: Cell::new(0),
        });
        let peers = Peers::new(reactor.clone(), identity, bounds, handler.clone());
        let address = peers.listen(address).expect("can listen");
        Node { peers, handler, address }
    }

    fn status_of(&self, node: u64) -> PeerStatus {
        let all = self.peers.status();
        all.into_iter().find(|status| status.node == NodeId(node)).expect("is a peer")
    }

    fn call(&self, node: u64, request: Request) -> ashlar_raft::transport::Call {
        self.peers.call(NodeId(node), request, 10 * SECOND)
    }

    /// Waits until there is a connection with `node`.
    async fn connected(&self, reactor: &Reactor, node: u64) {
        while !self.status_of(node).connected {
            reactor.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Nothing is under way.
    fn is_idle(&self) -> bool {
        self.handler.running.get() == 0
            && self.peers.status().iter().all(|status| {
                let PeerStatus { calls, calls_sent, calls_waiting, handlers, .. } = status;
                let bytes = status.in_flight_bytes + status.queued_bytes + status.held_bytes;
                [calls, calls_sent, calls_waiting, handlers, &bytes]
                    .iter()
                    .all(|count| **count == 0)
            })
    }
}

fn unix(node: u64) -> Address {
    Address::Unix(format!("node-{node}").into())
}

/// Nodes 1 to `count`, all peers of each other.
fn nodes(reactor: &Reactor, count: u64, bounds: Bounds) -> Vec<Node> {
    let start = |node| Node::start(reactor, identity(node), bounds, &unix(node));
    let nodes: Vec<_> = (1..=count).map(start).collect();
    introduce(&nodes);
    nodes
}

fn introduce(nodes: &[Node]) {
    for (at, node) in nodes.iter().enumerate() {
        for (other, peer) in nodes.iter().enumerate().filter(|(other, _)| *other != at) {
            let id = NodeId(other as u64 + 1);
            node.peers.set_peer(id, peer.address.clone()).expect("a peer");
        }
    }
}

async fn shut_down(nodes: Vec<Node>) {
    for node in &nodes {
        node.peers.shutdown().await;
    }
}

/// Runs `test` in a world, and looks that nothing is left.
fn in_world<T: Future>(
    seed: u64,
    options: WorldOptions,
    test: impl FnOnce(World, Reactor) -> T,
) -> T::Output {
    let world = World::new(seed, options);
    let reactor = world.reactor();
    let output = reactor.block_on(test(world.clone(), reactor.clone()));
    // What ended is dropped in the next turn.
    reactor.block_on(reactor.sleep(SECOND));
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
    output
}

fn quiet<T: Future>(test: impl FnOnce(World, Reactor) -> T) -> T::Output {
    in_world(1, WorldOptions::default(), test)
}

fn buffer(reactor: &Reactor, content: &[u8]) -> Buffer {
    let mut buffer = reactor.pool().allocate(content.len());
    buffer.copy_from_slice(content);
    buffer
}

fn kind<T>(result: Result<T>) -> std::result::Result<T, ErrorKind> {
    result.map_err(|error| error.kind())
}

/// A peer made of bare frames.
struct Raw {
    reactor: Reactor,
    stream: Rc<dyn Stream>,
    encoder: Encoder,
    decoder: Decoder,
}

impl Raw {
    fn new(reactor: &Reactor, stream: Rc<dyn Stream>) -> Raw {
        let decoder = Decoder::new(reactor.pool().clone());
        Raw { reactor: reactor.clone(), stream, encoder: Encoder::default(), decoder }
    }

    async fn connect(reactor: &Reactor, address: &Address) -> Raw {
        Raw::new(reactor, reactor.connect(address).await.expect("can connect"))
    }

    /// Connects to `node` as `identity`, up to the other's hello.
    async fn greet(reactor: &Reactor, node: &Node, identity: Identity) -> Raw {
        let mut raw = Raw::connect(reactor, &node.address).await;
        raw.hello(identity, None, 1000).await;
        let frame = raw.next().await.expect("an answer");
        assert_eq!(frame.envelope.kind, Kind::Hello, "{:?}", frame.head);
        raw.open();
        raw
    }

    fn open(&mut self) {
        self.encoder.set_version(1);
        self.decoder.set_version(1);
    }

    async fn hello(&mut self, identity: Identity, wanted: Option<NodeId>, attempt: u64) {
        let hello = Hello { identity, wanted, attempt };
        self.send(Envelope::bare(Kind::Hello), &hello.encode(), Vec::new()).await;
    }

    async fn send(&mut self, envelope: Envelope, head: &[u8], payload: Vec<Buffer>) {
        let mut message = Message::default();
        self.encoder.encode(&envelope, head, payload, &mut message);
        // The other side may have closed already; tests look at what it did.
        let _ = self.stream.send(message).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        let parts = vec![ashlar_engine::reactor::Part::Head(bytes.len())];
        let _ = self.stream.send(Message { head: bytes.to_vec(), parts }).await;
    }

    /// The next frame; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("nodes send frames") {
                return Some(frame);
            }
            let buffers: ReceiveBuffers = self.decoder.take_buffers();
            let (result, buffers) = self.stream.receive(buffers).await;
            match result {
                Ok(count) if count > 0 => self.decoder.handle_received(buffers, count),
                _ => return None,
            }
        }
    }

    /// The next frame that is no ping.
    async fn next_word(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.envelope.kind != Kind::Ping {
                return Some(frame);
            }
        }
    }

    /// Sends a request of this number.
    async fn request(&mut self, what: u8, number: u64) {
        let Request { head, .. } = request(what, 1, 1, number);
        let envelope = Envelope {
            kind: Kind::Request,
            group: 1,
            lane: 1,
            request: number,
            reply_max_bytes: 1 << 20,
        };
        self.send(envelope, &head, Vec::new()).await;
    }

    async fn wait(&self, duration: Duration) {
        self.reactor.sleep(duration).await;
    }
}
