//! A load: requests of one size at one depth, for a time or over a span once.
//!
//! Must never know: what the disk is.

use crate::program::failure::{Failure, Result};
use ashlar_engine::reactor::{RandomStream, Reactor, Task};
use ashlar_engine::units::Nanos;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Longest latency that is told apart.
const LATENCY_MAX_NANOS: u64 = 60_000_000_000;
/// Digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// Something to read and write. Clones are the same disk.
pub(super) trait Disk: Clone + 'static {
    /// Reads and throws away.
    fn read(&self, offset: u64, length: u32) -> impl Future<Output = Result<()>>;

    /// Writes anything.
    fn write(&self, offset: u64, length: u32) -> impl Future<Output = Result<()>>;
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) write: bool,
    pub(super) random: bool,
    pub(super) request_bytes: u32,
    pub(super) depth: u32,
}

impl Load {
    pub(super) const fn new(
        name: &'static str,
        write: bool,
        random: bool,
        request_bytes: u32,
        depth: u32,
    ) -> Load {
        Load { name, write, random, request_bytes, depth }
    }
}

/// What a load came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) requests: u64,
    pub(super) elapsed: Duration,
    pub(super) latency_nanos: Histogram<u64>,
}

/// What the workers of a load share.
struct Run<D> {
    reactor: Reactor,
    disk: D,
    load: Load,
    places: u64,
    deadline: Option<Nanos>,
    /// Place of the next sequential request.
    next: Cell<u64>,
    latency_nanos: RefCell<Histogram<u64>>,
}

/// Loads a disk for some time.
pub(super) async fn run<D: Disk>(
    reactor: &Reactor,
    disk: &D,
    load: &Load,
    span_bytes: u64,
    time: Duration,
) -> Result<Outcome> {
    let deadline = Some(reactor.now() + time);
    drive(reactor, disk, load, span_bytes, deadline).await
}

/// Writes a span once, from its start to its end.
pub(super) async fn fill<D: Disk>(
    reactor: &Reactor,
    disk: &D,
    load: &Load,
    span_bytes: u64,
) -> Result<()> {
    drive(reactor, disk, load, span_bytes, None).await.map(drop)
}

async fn drive<D: Disk>(
    reactor: &Reactor,
    disk: &D,
    load: &Load,
    span_bytes: u64,
    deadline: Option<Nanos>,
) -> Result<Outcome> {
    let histogram = Histogram::new_with_max(LATENCY_MAX_NANOS, LATENCY_DIGITS)
        .map_err(|error| Failure::new(format!("latencies cannot be counted: {error}")))?;
    let run = Rc::new(Run {
        reactor: reactor.clone(),
        disk: disk.clone(),
        load: *load,
        places: span_bytes / u64::from(load.request_bytes),
        deadline,
        next: Cell::new(0),
        latency_nanos: RefCell::new(histogram),
    });
    let started = reactor.now();
    let worker = |number| {
        let random = reactor.random(&format!("{} {number}", load.name));
        reactor.spawn(work(Rc::clone(&run), random))
    };
    let workers: Vec<Task<Result<()>>> = (0..load.depth).map(worker).collect();
    for worker in workers {
        worker.await?;
    }
    let elapsed = reactor.now().since(started);
    let latency_nanos = run.latency_nanos.borrow().clone();
    Ok(Outcome { requests: latency_nanos.len(), elapsed, latency_nanos })
}

/// One request after another.
async fn work<D: Disk>(run: Rc<Run<D>>, mut random: RandomStream) -> Result<()> {
    let length = run.load.request_bytes;
    while let Some(place) = run.place(&mut random) {
        let offset = place * u64::from(length);
        let started = run.reactor.now();
        match run.load.write {
            true => run.disk.write(offset, length).await?,
            false => run.disk.read(offset, length).await?,
        }
        let latency = run.reactor.now().since(started).as_nanos() as u64;
        run.latency_nanos.borrow_mut().saturating_record(latency);
    }
    Ok(())
}

impl<D> Run<D> {
    /// Where the next request goes; nothing at the end.
    fn place(&self, random: &mut RandomStream) -> Option<u64> {
        let next = self.next.replace(self.next.get() + 1);
        match self.deadline {
            None => (next < self.places).then_some(next),
            Some(deadline) if self.reactor.now() >= deadline => None,
            Some(_) if self.load.random => Some(random.below(self.places)),
            Some(_) => Some(next % self.places),
        }
    }
}
