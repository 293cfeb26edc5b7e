//! A closed-loop NBD load on one or more connections, written for least client CPU per request.
//!
//! One blocking thread per connection: one send carries every request that the last receive freed,
//! one receive takes whatever replies have arrived. Payloads stand ready in the send buffer and are
//! never touched again; read payloads are skipped, not looked at. Loads are all reads or all
//! writes, so one of the two directions always carries headers only and blocking sends cannot
//! deadlock.
//!
//! Must never know: which server it talks to.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::address::Target;
use crate::client::{
    Attached, Command, REPLY_SIZE_BYTES, REQUEST_SIZE_BYTES, SIMPLE_REPLY_MAGIC, attach,
    encode_request, u32_at, u64_at,
};
use crate::procfs;
use crate::random::Random;
use crate::{Result, interrupt};

/// Deepest queue per connection.
pub const DEPTH_MAX: usize = 1024;
/// Longest request.
pub const REQUEST_MAX_BYTES: usize = 32 << 20;
/// Receive buffer: several requests' worth, small enough to stay in the L2 cache.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;
/// Longest latency that is told apart; 60 s.
const LATENCY_MAX_NANOS: u64 = 60_000_000_000;

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many requests on each connection.
    Requests(u64),
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Writes, else reads.
    pub write: bool,
    /// Uniformly random offsets, else sequential ones.
    pub random: bool,
    /// Bytes per request.
    pub request_bytes: usize,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Connections, each with its own thread.
    pub connections: usize,
    /// When it ends.
    pub until: Until,
    /// Only the first part of the export is used.
    pub span_bytes: Option<u64>,
    /// Random stream.
    pub seed: u64,
}

/// What a load measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests answered inside the measured time.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Wall time.
    pub elapsed: Duration,
    /// Latency in nanoseconds.
    pub latency: Histogram<u64>,
    /// CPU time of the client's threads.
    pub client_cpu: Duration,
    /// Bytes per request, for rates.
    pub request_bytes: usize,
}

impl Outcome {
    /// Requests per second.
    pub fn iops(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// MiB per second.
    pub fn mib_per_second(&self) -> f64 {
        self.iops() * self.request_bytes as f64 / (1 << 20) as f64
    }

    /// Client CPU in microseconds per request.
    pub fn client_micros_per_request(&self) -> f64 {
        self.client_cpu.as_secs_f64() * 1e6 / self.requests.max(1) as f64
    }

    /// Latency quantile in microseconds.
    pub fn micros_at(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Runs `load` against `target`.
pub fn run(target: &Target, load: &Load) -> Result<Outcome> {
    check(load)?;
    let mut clients = Vec::new();
    for index in 0..load.connections {
        let attached = attach(target)?;
        clients.push(Client::new(attached, load, index)?);
    }
    let started = Instant::now();
    let parts: Vec<Result<Part>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(move || client.run(started))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a load thread panicked".into())))
            .collect()
    });
    let mut outcome = Outcome {
        requests: 0,
        errors: 0,
        elapsed: started.elapsed(),
        latency: new_histogram(),
        client_cpu: Duration::ZERO,
        request_bytes: load.request_bytes,
    };
    for part in parts {
        let part = part?;
        outcome.requests += part.requests;
        outcome.errors += part.errors;
        outcome.client_cpu += part.cpu;
        outcome.latency.add(&part.latency).map_err(|e| format!("histogram: {e}"))?;
    }
    Ok(outcome)
}

fn check(load: &Load) -> Result<()> {
    if load.depth == 0 || load.depth > DEPTH_MAX || load.connections == 0 {
        return Err(format!("depth must be 1..={DEPTH_MAX}, connections at least 1"));
    }
    if load.request_bytes == 0 || load.request_bytes > REQUEST_MAX_BYTES {
        return Err(format!("request size must be 1..={REQUEST_MAX_BYTES}"));
    }
    Ok(())
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_NANOS, 3).expect("invariant: constant bounds are valid")
}

struct Part {
    requests: u64,
    errors: u64,
    cpu: Duration,
    latency: Histogram<u64>,
}

struct Client {
    attached: Attached,
    load: Load,
    random: Random,
    slots: u64,
    next_sequential: u64,
    /// `depth` requests with their payloads, headers rewritten in place before each send.
    send_buffer: Vec<u8>,
    receive_buffer: Vec<u8>,
    /// Sending time by cookie.
    sent_at: Vec<Instant>,
    free: Vec<u64>,
    issued: u64,
    part: Part,
}

impl Client {
    fn new(attached: Attached, load: &Load, index: usize) -> Result<Client> {
        let span = load.span_bytes.unwrap_or(attached.size_bytes).min(attached.size_bytes);
        let slots = span / load.request_bytes as u64;
        if slots == 0 {
            return Err("the export is smaller than one request".into());
        }
        let mut random = Random::new(load.seed ^ ((index as u64 + 1) << 32));
        let unit = Self::unit_bytes(load);
        let mut send_buffer = vec![0u8; unit * load.depth];
        random.fill(&mut send_buffer);
        let receive_bytes = RECEIVE_BUFFER_BYTES.max(load.request_bytes.min(1 << 20));
        Ok(Client {
            attached,
            load: *load,
            next_sequential: slots / load.connections as u64 * index as u64,
            random,
            slots,
            send_buffer,
            receive_buffer: vec![0u8; receive_bytes],
            sent_at: vec![Instant::now(); load.depth],
            free: (0..load.depth as u64).collect(),
            issued: 0,
            part: Part { requests: 0, errors: 0, cpu: Duration::ZERO, latency: new_histogram() },
        })
    }

    fn unit_bytes(load: &Load) -> usize {
        REQUEST_SIZE_BYTES + if load.write { load.request_bytes } else { 0 }
    }

    fn run(mut self, started: Instant) -> Result<Part> {
        let cpu_before = procfs::own_thread_cpu();
        let mut ending = false;
        self.send_free(started)?;
        while self.free.len() < self.load.depth {
            let now = self.receive_some()?;
            ending = ending || self.is_over(now - started) || interrupt::requested();
            if !ending {
                self.send_free(now)?;
            }
        }
        self.part.cpu = procfs::own_thread_cpu().saturating_sub(cpu_before);
        let mut goodbye = [0u8; REQUEST_SIZE_BYTES];
        encode_request(&mut goodbye, Command::Disconnect, 0, 0, 0);
        // The server may already have gone; all requests are answered, so that is no failure.
        let _ = self.attached.stream.send(&goodbye);
        interrupt::check()?;
        Ok(self.part)
    }

    fn is_over(&self, elapsed: Duration) -> bool {
        match self.load.until {
            Until::Elapsed(limit) => elapsed >= limit,
            Until::Requests(limit) => self.issued >= limit,
        }
    }

    fn next_offset(&mut self) -> u64 {
        let slot = if self.load.random {
            self.random.below(self.slots)
        } else {
            let slot = self.next_sequential % self.slots;
            self.next_sequential = slot + 1;
            slot
        };
        slot * self.load.request_bytes as u64
    }

    /// Sends a request for every free cookie in one send.
    fn send_free(&mut self, now: Instant) -> Result<()> {
        let (command, unit) = (
            if self.load.write { Command::Write } else { Command::Read },
            Self::unit_bytes(&self.load),
        );
        let room = match self.load.until {
            Until::Requests(limit) => limit.saturating_sub(self.issued),
            Until::Elapsed(_) => u64::MAX,
        };
        let count = (self.free.len() as u64).min(room) as usize;
        for index in 0..count {
            let offset = self.next_offset();
            let cookie = self.free.pop().expect("invariant: count is at most the free cookies");
            self.sent_at[cookie as usize] = now;
            let header = &mut self.send_buffer[index * unit..index * unit + REQUEST_SIZE_BYTES];
            encode_request(header, command, cookie, offset, self.load.request_bytes as u32);
        }
        self.issued += count as u64;
        self.attached.stream.send(&self.send_buffer[..count * unit])
    }

    /// Takes what has arrived and completes every whole reply in it; blocks for the rest of a
    /// reply that was cut, so that it returns between replies.
    fn receive_some(&mut self) -> Result<Instant> {
        let mut filled = self.attached.stream.receive(&mut self.receive_buffer)?;
        let now = Instant::now();
        let mut at = 0;
        while at < filled {
            if filled - at < REPLY_SIZE_BYTES {
                self.receive_buffer.copy_within(at..filled, 0);
                filled -= at;
                at = 0;
                let rest = &mut self.receive_buffer[filled..REPLY_SIZE_BYTES];
                self.attached.stream.receive_exact(rest)?;
                filled = REPLY_SIZE_BYTES;
            }
            let failed = self.complete(at, now)?;
            at += REPLY_SIZE_BYTES;
            if !self.load.write && !failed {
                let payload = self.load.request_bytes;
                let here = payload.min(filled - at);
                at += here;
                self.skip(payload - here)?;
            }
        }
        Ok(now)
    }

    fn skip(&mut self, mut bytes: usize) -> Result<()> {
        while bytes > 0 {
            let room = bytes.min(self.receive_buffer.len());
            bytes -= self.attached.stream.receive(&mut self.receive_buffer[..room])?;
        }
        Ok(())
    }

    fn complete(&mut self, at: usize, now: Instant) -> Result<bool> {
        let header = &self.receive_buffer[at..at + REPLY_SIZE_BYTES];
        if u32_at(header, 0) != SIMPLE_REPLY_MAGIC {
            return Err("the server's reply has a wrong magic".into());
        }
        let failed = u32_at(header, 4) != 0;
        let cookie = u64_at(header, 8);
        if cookie >= self.load.depth as u64 {
            return Err(format!("the server answered an unknown cookie {cookie}"));
        }
        let nanos = (now - self.sent_at[cookie as usize]).as_nanos() as u64;
        self.part.latency.saturating_record(nanos);
        self.part.requests += 1;
        self.part.errors += u64::from(failed);
        self.free.push(cookie);
        Ok(failed)
    }
}
