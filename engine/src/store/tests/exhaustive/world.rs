//! One store on one device, with every next step a choice.
//!
//! Must never know: which choices are made.

use super::device::{Device, Image};
use super::model::{self, Contents, Op, VOLUME};
use super::start::Start;
use crate::buffer::BufferPool;
use crate::store::{Request, Store};
use crate::units::{BlockIndex, Nanos, VolumeId};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What may happen next.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// A client submits these together.
    Submit(Vec<Op>),
    /// The operation in flight at this place ends.
    Complete(usize),
    /// Time passes until the store wants to be asked.
    Tick,
}

struct Submitted {
    op: Op,
    token: u64,
    acknowledged: bool,
}

/// What a schedule came to: checkpoints, segments begun, segments prepared, closing batches, blocks
/// relocated, segments cleaned.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reached(pub(super) [u64; 6]);

impl Reached {
    pub(super) fn most(&mut self, other: Reached) {
        self.0.iter_mut().zip(other.0).for_each(|(most, value)| *most = value.max(*most));
    }

    pub(super) fn checkpoints(self) -> u64 {
        self.0[0]
    }

    pub(super) fn segments_begun(self) -> u64 {
        self.0[1]
    }

    pub(super) fn segments_prepared(self) -> u64 {
        self.0[2]
    }

    pub(super) fn closing_batches(self) -> u64 {
        self.0[3]
    }

    pub(super) fn relocated_blocks(self) -> u64 {
        self.0[4]
    }

    pub(super) fn cleaned_segments(self) -> u64 {
        self.0[5]
    }
}

/// See the module.
pub(super) struct World {
    pub(super) store: Store,
    pub(super) device: Device,
    pub(super) pool: BufferPool,
    pub(super) now: Nanos,
    submitted: Vec<Submitted>,
    /// Contents before the first operation, after the first, and so on.
    pub(super) after: Vec<Contents>,
    /// So many operations of the history are certain.
    pub(super) certain: usize,
    next_token: u64,
    /// No version is written twice, not by a recovered store either.
    pub(super) first_version: usize,
    /// What had been reached when the history began.
    before: Reached,
    ticks: u64,
}

/// Hashes what is written to it.
struct Hashing<'a>(&'a mut DefaultHasher);

impl Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl World {
    pub(super) fn new(store: Store, device: Device, pool: BufferPool, before: Contents) -> World {
        World {
            store,
            device,
            pool,
            now: Nanos(0),
            submitted: Vec::new(),
            after: vec![before],
            certain: 0,
            next_token: 0,
            first_version: 0,
            before: Reached::default(),
            ticks: 0,
        }
    }

    /// Setup is over, the history begins.
    pub(super) fn begin(&mut self) {
        self.device.is_setup = false;
        self.before = self.count();
        self.pump();
    }

    fn count(&self) -> Reached {
        let counters = self.store.counters;
        Reached([
            counters.checkpoints,
            self.store.segments.next_sequence().0,
            self.store.segments.prepared().into(),
            self.ticks,
            counters.relocated_blocks,
            counters.cleaned_segments,
        ])
    }

    /// What the history came to.
    pub(super) fn reached(&self) -> Reached {
        let mut reached = self.count();
        reached.0.iter_mut().zip(self.before.0).for_each(|(now, before)| *now -= before);
        reached
    }

    /// A store that was just recovered, to be looked at.
    pub(super) fn reopened(start: &Start, store: Store, image: &Image) -> World {
        World::new(store, Device::new(image.clone()), start.pool.clone(), Contents::new())
    }

    /// Operations up to the last one that promises something.
    pub(super) fn promised(&self) -> usize {
        let last = self.submitted.iter().rposition(|submitted| submitted.op != Op::Checkpoint);
        last.map_or(0, |at| at + 1)
    }

    /// Operations submitted so far.
    pub(super) fn submitted(&self) -> usize {
        self.submitted.len()
    }

    /// The history so far, for messages.
    pub(super) fn history(&self) -> Vec<Op> {
        self.submitted.iter().map(|submitted| submitted.op).collect()
    }

    fn volume(&self) -> VolumeId {
        self.store.volume_by_name(VOLUME).map_or(VolumeId(0), |(id, _)| id)
    }

    pub(super) fn submit(&mut self, request: Request) -> u64 {
        self.next_token += 1;
        self.store.handle_request(self.now, self.next_token, request);
        self.next_token
    }

    /// Hands all operations to the device and notes all answers.
    pub(super) fn pump(&mut self) {
        while let Some((token, op)) = self.store.poll_io(self.now) {
            self.device.submit(token, op);
        }
        while let Some(reply) = self.store.poll_reply() {
            reply.result.expect("no operation of a history fails");
            let known = self.submitted.iter().position(|known| known.token == reply.token);
            if let Some(at) = known {
                self.submitted[at].acknowledged = true;
                // A checkpoint promises nothing about operations that were not acknowledged.
                if self.submitted[at].op != Op::Checkpoint {
                    self.certain = self.certain.max(at + 1);
                }
            }
        }
    }

    pub(super) fn take(&mut self, choice: &Choice) {
        match choice {
            Choice::Submit(ops) => {
                for op in ops {
                    let number = self.submitted.len();
                    let version = op.version(self.first_version + number);
                    let request = op.request(&self.pool, self.volume(), version);
                    let token = self.submit(request);
                    self.submitted.push(Submitted { op: *op, token, acknowledged: false });
                    let mut after = self.after[number].clone();
                    op.apply(&mut after, version);
                    self.after.push(after);
                }
            }
            Choice::Complete(at) => {
                let completion = self.device.complete(*at);
                self.store.handle_completion(self.now, completion);
            }
            Choice::Tick => {
                let at = self.store.poll_timeout().expect("the store waits for something");
                self.now = self.now.max(at);
                self.ticks += 1;
            }
        }
        self.pump();
    }

    /// Everything that may happen next, if a history has at most `ops_max` operations.
    pub(super) fn choices(&self, ops: &[Op], ops_max: usize) -> Vec<Choice> {
        let mut choices = Vec::new();
        let mut together = vec![Vec::new()];
        for _ in self.submitted.len()..ops_max {
            let longer = together.iter().flat_map(|head| ops.iter().map(move |op| (head, op)));
            let longer = longer.filter_map(|(head, op)| self.extend(head, *op)).collect();
            together = longer;
            choices.extend(together.iter().cloned().map(Choice::Submit));
        }
        choices.extend((0..self.device.in_flight()).map(Choice::Complete));
        choices.extend(self.store.poll_timeout().map(|_| Choice::Tick));
        choices
    }

    /// `head` and then `op`, if that makes sense.
    fn extend(&self, head: &[Op], op: Op) -> Option<Vec<Op>> {
        let mut volumes = self.after.last().expect("there is a first").clone();
        head.iter().for_each(|op| op.apply(&mut volumes, 0));
        // Nobody creates what the store is still deleting.
        op.applies(&volumes).then(|| head.iter().copied().chain([op]).collect())
    }

    /// Ends everything in flight, oldest first, and if `ticks`, lets time pass until all is quiet.
    pub(super) fn settle(&mut self, ticks: bool) {
        loop {
            if self.device.in_flight() > 0 {
                self.take(&Choice::Complete(0));
            } else if ticks && self.store.poll_timeout().is_some() {
                self.take(&Choice::Tick);
            } else {
                return;
            }
        }
    }

    /// Reads one block; nothing else may be going on.
    pub(super) fn read(&mut self, volume: VolumeId, block: u64) -> Vec<u8> {
        let first = BlockIndex(block);
        let token = self.submit(Request::Read { volume, first, count: 1 });
        loop {
            if let Some(reply) = self.store.poll_reply() {
                assert_eq!(reply.token, token);
                return model::read_bytes(reply.result);
            }
            // Only what the read asked for: no poll that would start work of the store itself.
            let (token, op) = self.store.ready.pop_front().expect("a read is under way");
            self.device.submit(token, op);
            let completion = self.device.complete(self.device.in_flight() - 1);
            self.store.handle_completion(self.now, completion);
        }
    }

    /// Equal for two worlds of one start that go on in the same way: device, store and history.
    pub(super) fn fingerprint(&self) -> u128 {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.now.hash(&mut hasher);
            self.device.fingerprint(&mut hasher);
            for submitted in &self.submitted {
                (submitted.op, submitted.acknowledged).hash(&mut hasher);
            }
            let store = &self.store;
            let mut text = Hashing(&mut hasher);
            write!(text, "{:?}{:?}{:?}", store.log, store.checkpointer, store.cleaner)
                .and_then(|()| write!(text, "{:?}{:?}", store.segments, store.preparing))
                .expect("hashing does not fail");
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }
}
