//! Goal: whatever is asked for at the same time, by two nodes that take the volume over from each
//! other, and whatever becomes of proposals, every byte is one that it may be.
//! Method: phases of operations that run at the same time, random places, lengths and moments;
//! groups that lose, delay, repeat and refuse proposals, and answer nothing for a while. The model
//! knows for each byte the values that it may have: what an acknowledged operation of an earlier
//! phase replaced must never be seen again, and what is refused must never be seen at all.

use super::*;
use ashlar_engine::units::Nanos;
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    /// Of whole blocks.
    WriteBlocks,
    Zero {
        reserve: bool,
    },
    Trim,
    Read,
    /// Opens the volume anew.
    Open,
}

#[derive(Clone, Debug)]
struct Op {
    node: usize,
    kind: Kind,
    range: Range<u64>,
    after: Duration,
}

#[derive(Clone, Debug)]
struct Phase {
    ops: Vec<Op>,
    /// Seconds for which a group answers nothing.
    outages: [u64; 2],
}

fn ops() -> impl Strategy<Value = Op> {
    let kinds = prop_oneof![
        6 => Just(Kind::Write),
        4 => Just(Kind::WriteBlocks),
        2 => any::<bool>().prop_map(|reserve| Kind::Zero { reserve }),
        1 => Just(Kind::Trim),
        3 => Just(Kind::Read),
        1 => Just(Kind::Open),
    ];
    // Half of all near the boundary of two slices.
    let at = prop_oneof![0..SIZE, SLICE - 2 * BLOCK..SLICE + 2 * BLOCK];
    let length = prop_oneof![1..BLOCK, 1..12 * BLOCK];
    let node = prop_oneof![4 => Just(0_usize), 1 => Just(1_usize)];
    (node, kinds, at, length, 0..40_u64).prop_map(|(node, kind, at, length, after)| {
        let (mut start, mut end) = (at, (at + length).min(SIZE));
        if kind == Kind::WriteBlocks {
            start -= start % BLOCK;
            end = end.next_multiple_of(BLOCK).min(SIZE - SIZE % BLOCK).max(start);
        }
        Op { node, kind, range: start..end, after: Duration::from_millis(after) }
    })
}

fn phases() -> impl Strategy<Value = Vec<Phase>> {
    let outage = || prop_oneof![3 => Just(0), 1 => 1..90_u64];
    let outages = (outage(), outage()).prop_map(|(even, odd)| [even, odd]);
    let phase = (vec(ops(), 1..9), outages).prop_map(|(ops, outages)| Phase { ops, outages });
    vec(phase, 1..7)
}

/// An operation that has ended: the value that it writes, where, and what its caller knows.
#[derive(Clone)]
struct Change {
    value: u8,
    range: Range<u64>,
    known: Known,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Done,
    NotDone,
    Nothing,
}

/// The values that each byte may have, as bits.
struct Model {
    may: Vec<u64>,
    /// Values that may yet be written.
    open: u64,
}

impl Model {
    fn end_phase(&mut self, changes: &[Change]) {
        let (mut all, mut done) = (vec![0_u64; SIZE as usize], vec![false; SIZE as usize]);
        for change in changes.iter().filter(|change| change.known != Known::NotDone) {
            if change.known == Known::Nothing {
                self.open |= 1 << change.value;
            }
            for at in change.range.start as usize..change.range.end as usize {
                all[at] |= 1 << change.value;
                done[at] |= change.known == Known::Done;
            }
        }
        for (at, may) in self.may.iter_mut().enumerate() {
            *may = if done[at] { all[at] } else { *may | all[at] };
        }
    }

    /// Judges a read while `changes` are made.
    fn check(&self, range: &Range<u64>, bytes: &[u8], changes: &[Change]) {
        assert_eq!(bytes.len() as u64, range.end - range.start);
        let mut may = self.may[range.start as usize..range.end as usize].to_vec();
        for change in changes.iter().filter(|change| change.known != Known::NotDone) {
            let (start, end) = (change.range.start.max(range.start), change.range.end);
            for at in start..end.min(range.end) {
                may[(at - range.start) as usize] |= 1 << change.value;
            }
        }
        for (at, (byte, may)) in bytes.iter().zip(may).enumerate() {
            let place = range.start + at as u64;
            assert!(may >> byte & 1 == 1, "byte {place} is {byte}, not one of {may:#b}");
        }
    }

    /// What all bytes were when nothing was under way that its caller waits for.
    fn settle(&mut self, bytes: &[u8]) {
        self.check(&(0..SIZE), bytes, &[]);
        for (may, byte) in self.may.iter_mut().zip(bytes) {
            *may &= self.open | 1 << byte;
        }
    }
}

/// A node, and the handle that it uses.
struct Client {
    node: Rc<Node>,
    volume: Rc<ClusterVolume>,
    handle: RefCell<Rc<VolumeHandle>>,
}

impl Client {
    fn new(cluster: &Rc<Cluster>, reactor: &Reactor) -> Rc<Client> {
        let node = cluster.node(reactor);
        let volume = node.volume(sliced(SIZE, SLICE));
        let handle = RefCell::new(Rc::new(volume.open()));
        Rc::new(Client { node, volume, handle })
    }

    fn open(&self) {
        self.handle.replace(Rc::new(self.volume.open()));
    }

    /// Carries an operation out: what it changed, or what it read.
    async fn carry_out(self: Rc<Client>, op: Op, value: u8) -> Ended {
        self.node.reactor.sleep(op.after).await;
        let handle = Rc::clone(&self.handle.borrow());
        let (Range { start, end }, length) = (op.range.clone(), op.range.end - op.range.start);
        let mut change = Change { value: 0, range: op.range.clone(), known: Known::Done };
        let result = match op.kind {
            Kind::Open => {
                self.open();
                return Ended::Read(0..0, Vec::new());
            }
            Kind::Read => return Ended::Read(op.range, read(&handle, start..end).await),
            Kind::Write | Kind::WriteBlocks => {
                change.value = value;
                write(&self.node, &handle, start..end, value).await
            }
            Kind::Zero { reserve } => handle.write_zeroes(start, length, reserve).await,
            Kind::Trim => {
                let last = if end == SIZE { end } else { end - end % BLOCK };
                let first = start.next_multiple_of(BLOCK);
                change.range = first.min(last)..last;
                handle.trim(start, length).await
            }
        };
        if let Err(error) = result {
            let written = matches!(op.kind, Kind::Write | Kind::WriteBlocks);
            let one = written && start / SLICE == (end - 1) / SLICE;
            let says =
                |words| error.kind() == ErrorKind::Failed && error.to_string().contains(words);
            let not_done = matches!(error.kind(), ErrorKind::Busy | ErrorKind::NoSpace);
            change.known = match not_done || says("this was not") {
                true if one => Known::NotDone,
                true => Known::Nothing,
                false if says("nobody knows whether this") => Known::Nothing,
                false => panic!("{op:?}: {error}"),
            };
            if error.kind() == ErrorKind::Busy && Rc::ptr_eq(&handle, &self.handle.borrow()) {
                self.open();
            }
        }
        Ended::Change(change)
    }
}

enum Ended {
    Change(Change),
    Read(Range<u64>, Vec<u8>),
}

async fn run(reactor: Reactor, phases: Vec<Phase>) {
    let cluster = Cluster::new(&reactor);
    for (group, name) in [(&cluster.even, "even"), (&cluster.odd, "odd")] {
        group.dice.replace(Some(reactor.random(name)));
    }
    let clients = [Client::new(&cluster, &reactor), Client::new(&cluster, &reactor)];
    let mut model = Model { may: vec![1; SIZE as usize], open: 0 };
    let mut value = 0;
    for phase in phases {
        for (group, seconds) in [&cluster.even, &cluster.odd].into_iter().zip(phase.outages) {
            group.outage_until.set(Nanos(reactor.now().0 + seconds * 1_000_000_000));
        }
        let ops = phase.ops.into_iter().map(|op| {
            value += 1;
            let client = &clients[op.node];
            start(&client.node, Rc::clone(client).carry_out(op, value))
        });
        let mut ended = Vec::new();
        for op in ops.collect::<Vec<_>>() {
            ended.push(op.await);
        }
        let changes = ended.iter().filter_map(|ended| match ended {
            Ended::Change(change) => Some(change.clone()),
            Ended::Read(..) => None,
        });
        let changes: Vec<Change> = changes.collect();
        for ended in &ended {
            if let Ended::Read(range, bytes) = ended {
                model.check(range, bytes, &changes);
            }
        }
        model.end_phase(&changes);
        let handle = Rc::clone(&clients[0].handle.borrow());
        model.settle(&read(&handle, 0..SIZE).await);
    }
    finish(&cluster, &clients, model).await;
}

/// When all is well again, everything is known in the end, and stays.
async fn finish(cluster: &Rc<Cluster>, clients: &[Rc<Client>; 2], mut model: Model) {
    let reactor = &clients[0].node.reactor;
    for group in [&cluster.even, &cluster.odd] {
        group.dice.replace(None);
    }
    reactor.sleep(Duration::from_secs(120)).await;
    for group in [EVEN, ODD] {
        for client in clients {
            let writer = format!("{:?}", client.node.writer(group));
            assert_eq!(writer, "Writer(0 open, 0 waiting)");
        }
    }
    let handle = Rc::new(clients[1].volume.open());
    model.open = 0;
    model.settle(&read(&handle, 0..SIZE).await);
    // The node may learn only by being refused that it lost the volume.
    let mut written = write(&clients[1].node, &handle, 1..SIZE - 1, 63).await;
    if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy) {
        let handle = clients[1].volume.open();
        written = write(&clients[1].node, &handle, 1..SIZE - 1, 63).await;
    }
    written.expect("is written");
    let change = Change { value: 63, range: 1..SIZE - 1, known: Known::Done };
    model.end_phase(&[change]);
    model.settle(&read(&handle, 0..SIZE).await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn every_byte_is_one_that_it_may_be(seed: u64, phases in phases()) {
        simulated(seed, |reactor| run(reactor, phases));
    }
}
