//! Goal: the kernel is entered exactly as often as the design says.
//! Method: count. Counts do not depend on the machine's load, as times do.

use super::{Scratch, bytes, pair, reactor, receive_into};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{
    Address, BlockDevice, DeviceOp, DeviceOptions, Message, Part, Reactor, Stats, Stream,
};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

const REQUEST_BYTES: usize = 4096 + 28;
const OPS: u64 = 500;

/// Sends requests of one size from a thread, `depth` at a time, and waits for as many answers.
fn client(address: &Address, depth: usize, rounds: u64) -> std::thread::JoinHandle<()> {
    let Address::Unix(path) = address.clone() else { panic!("is a path") };
    let sending = std::thread::Builder::new().spawn(move || {
        let mut stream = UnixStream::connect(path).expect("connects");
        let requests = vec![7; depth * REQUEST_BYTES];
        let mut answers = vec![0; depth * REQUEST_BYTES];
        for _ in 0..rounds {
            stream.write_all(&requests).expect("sent");
            stream.read_exact(&mut answers).expect("answered");
            assert!(answers == requests);
        }
    });
    sending.expect("starts")
}

/// What was done while `ops` requests were answered, the first few not counted.
fn counted(before: &mut Option<Stats>, reactor: &Reactor) -> Stats {
    let now = reactor.stats();
    let start = *before.get_or_insert(now);
    Stats {
        enters: now.enters - start.enters,
        turns: now.turns - start.turns,
        tasks_run: now.tasks_run - start.tasks_run,
        ops_submitted: now.ops_submitted - start.ops_submitted,
    }
}

async fn write_to_disk(device: &dyn BlockDevice, buffer: Buffer) -> Buffer {
    device.submit(0, DeviceOp::Write { offset_bytes: 0, buffers: vec![buffer], sync: true });
    let mut done = Vec::new();
    poll_fn(|context| device.poll_completions(context, &mut done)).await;
    let mut completion = done.pop().expect("one landed");
    completion.result.expect("written");
    completion.buffers.pop().expect("comes back")
}

/// Answers `ops` requests one by one; what that took for each beyond the first ten.
async fn serve_one_by_one(
    reactor: &Reactor,
    stream: &dyn Stream,
    device: Option<&dyn BlockDevice>,
) -> Stats {
    let mut before = None;
    let mut first = reactor.pool().allocate(65536);
    let mut block = reactor.pool().allocate(4096);
    for op in 0..OPS + 10 {
        if op == 10 {
            counted(&mut before, reactor);
        }
        let mut request = Vec::new();
        while request.len() < REQUEST_BYTES {
            first = receive_into(stream, first, &mut request).await.expect("received");
        }
        if let Some(device) = device {
            block = write_to_disk(device, block).await;
        }
        stream.send(bytes(&request)).await.0.expect("sent");
    }
    counted(&mut before, reactor)
}

fn one_by_one(device: Option<DeviceOptions>) -> Stats {
    let scratch = Scratch::new();
    let reactor = reactor();
    let listener = reactor.listen(&scratch.socket()).expect("can listen");
    let client = client(&listener.address(), 1, OPS + 10);
    let device =
        device.map(|options| reactor.open_device(scratch.file("disk"), &options).expect("opens"));
    let stats = reactor.block_on(async {
        let stream = listener.accept().await.expect("accepts");
        serve_one_by_one(&reactor, &*stream, device.as_deref()).await
    });
    client.join().expect("ends well");
    reactor.shutdown();
    stats
}

#[test]
fn a_request_and_its_answer_enter_twice() {
    let stats = one_by_one(None);
    assert_eq!((stats.enters, stats.ops_submitted), (2 * OPS, 2 * OPS));
}

#[test]
fn a_durable_write_in_between_enters_once_more() {
    let size = DeviceOptions { create_size_bytes: Some(1 << 20), ..DeviceOptions::default() };
    let stats = one_by_one(Some(size));
    assert_eq!((stats.enters, stats.ops_submitted), (3 * OPS, 3 * OPS));
}

/// Both ends in one reactor, so that nothing depends on who is faster: sixty-four requests in one
/// message, one coalesced answer. Each entry carries one end's send and the other's receive.
#[test]
fn sixty_four_requests_enter_as_often_as_one() {
    const DEPTH: usize = 64;
    let scratch = Scratch::new();
    let reactor = reactor();
    let stats = reactor.block_on(async {
        let (client, server) = pair(&reactor, &scratch.socket()).await;
        let own = reactor.clone();
        let serving = reactor.spawn(async move { serve_batches(&own, server, DEPTH).await });
        let mut first = reactor.pool().allocate(DEPTH * 32);
        let mut before = None;
        for op in 0..OPS + 10 {
            if op == 10 {
                counted(&mut before, &reactor);
            }
            client.send(bytes(&[1; DEPTH * 32])).await.0.expect("sent");
            let mut answer = Vec::new();
            first = receive_into(&*client, first, &mut answer).await.expect("answered");
            assert_eq!(answer.len(), DEPTH * 32);
        }
        drop(client);
        serving.await;
        counted(&mut before, &reactor)
    });
    reactor.shutdown();
    assert_eq!(stats.ops_submitted, 4 * OPS, "two receives and two sends each");
    // And one for the end of the stream.
    assert_eq!(stats.enters, 2 * OPS + 1, "per sixty-four requests");
}

async fn serve_batches(reactor: &Reactor, server: Rc<dyn Stream>, depth: usize) {
    let mut first = reactor.pool().allocate(65536);
    loop {
        let mut requests = Vec::new();
        first = receive_into(&*server, first, &mut requests).await.expect("received");
        if requests.is_empty() {
            return;
        }
        assert_eq!(requests.len(), depth * 32);
        let mut answer = Message::default();
        for request in requests.chunks(32) {
            answer.head.extend_from_slice(request);
            answer.parts.push(Part::Head(request.len()));
        }
        server.send(answer).await.0.expect("sent");
    }
}
