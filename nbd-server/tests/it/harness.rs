//! A server on a thread of its own, on a Unix socket in a directory of its own.

use crate::client::{Client, Style};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{Address, Reactor, ReactorOptions};
use ashlar_engine::{Error, ErrorKind, Result};
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::{
    Counters, Export, ExportInfo, Exports, Extent, ReadData, Server, ServerOptions,
};
use std::future::poll_fn;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread::{Builder, JoinHandle};

/// Size of the exports of [`TestServer::start`]. Not a multiple of a block.
pub(crate) const SIZE: u64 = (8 << 20) + 1234;

#[derive(Default)]
struct Signal {
    set: bool,
    waker: Option<Waker>,
}

pub(crate) struct TestServer {
    pub(crate) socket: PathBuf,
    pub(crate) tcp: std::net::SocketAddr,
    directory: PathBuf,
    stop: Arc<Mutex<Signal>>,
    thread: Option<JoinHandle<(Counters, usize, u64)>>,
}

impl TestServer {
    /// Exports "vm0" (writable), "frozen" (read-only) and "big" (5 TiB).
    pub(crate) fn start() -> TestServer {
        TestServer::with(ServerOptions::default(), |reactor| {
            let pool = reactor.pool();
            MemoryExports::new([
                MemoryExport::new("vm0", SIZE, pool.clone()),
                MemoryExport::new("frozen", SIZE, pool.clone()).read_only(),
                MemoryExport::new("big", 5 << 40, pool.clone()),
            ])
        })
    }

    pub(crate) fn with<X: Exports>(
        options: ServerOptions,
        exports: impl FnOnce(&Reactor) -> X + Send + 'static,
    ) -> TestServer {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("ashlar-nbd-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let socket = directory.join("socket");
        let stop = Arc::new(Mutex::new(Signal::default()));
        let (ready, wait_ready) = mpsc::channel();
        let (path, signal) = (socket.clone(), Arc::clone(&stop));
        let serve = move || {
            Reactor::run(ReactorOptions::default(), |reactor| async move {
                let exports = Rc::new(exports(&reactor));
                let server = Server::new(reactor.clone(), exports, options);
                server.listen(&Address::Unix(path)).expect("listen");
                let any = Address::Tcp("127.0.0.1:0".parse().expect("address"));
                let Address::Tcp(tcp) = server.listen(&any).expect("listen") else {
                    panic!("a TCP listener has a TCP address");
                };
                ready.send(tcp).expect("ready");
                stopped(signal).await;
                let cut = server.shutdown().await;
                (server.counters(), cut, reactor.stats().enters)
            })
            .expect("reactor")
        };
        let thread = Builder::new().name("server".to_owned()).spawn(serve).expect("thread");
        let tcp = wait_ready.recv().expect("the server starts");
        TestServer { socket, tcp, directory, stop, thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// A client that may send requests.
    pub(crate) fn connect_to(&self, name: &str) -> Client {
        Client::open(&self.socket, name, Style::Structured)
    }

    /// Asks the server to shut down, without waiting.
    pub(crate) fn begin_stop(&self) {
        let mut signal = self.stop.lock().expect("lock");
        signal.set = true;
        if let Some(waker) = signal.waker.take() {
            waker.wake();
        }
    }

    /// Shuts down. Returns the counters and how many connections had to be cut.
    pub(crate) fn stop(mut self) -> (Counters, usize) {
        let (counters, cut, _) = self.join();
        (counters, cut)
    }

    /// Shuts down. Returns how often the server entered the kernel.
    pub(crate) fn stop_enters(mut self) -> u64 {
        self.join().2
    }

    fn join(&mut self) -> (Counters, usize, u64) {
        self.begin_stop();
        self.thread.take().expect("running").join().expect("the server did not panic")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.begin_stop();
        let ended = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            assert!(!matches!(ended, Some(Err(_))), "the server panicked");
        }
    }
}

async fn stopped(signal: Arc<Mutex<Signal>>) {
    poll_fn(|context| {
        let mut signal = signal.lock().expect("lock");
        signal.waker = Some(context.waker().clone());
        if signal.set { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Holds operations up until it is opened. Cloned between threads.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
    wakers: Vec<Waker>,
}

impl Gate {
    pub(crate) fn open(&self) {
        let mut state = self.0.0.lock().expect("lock");
        state.open = true;
        state.wakers.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.0.lock().expect("lock").waiting
    }

    /// Blocks until this many operations have come to the gate.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.0.0.lock().expect("lock");
        drop(self.0.1.wait_while(state, |state| state.waiting < count).expect("lock"));
    }

    async fn pass(&self) {
        let mut come = false;
        poll_fn(|context| {
            let mut state = self.0.0.lock().expect("lock");
            if !std::mem::replace(&mut come, true) {
                state.waiting += 1;
                self.0.1.notify_all();
            }
            if state.open {
                return Poll::Ready(());
            }
            state.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Where a [`HeldExport`] has a damaged block, a full one, and one that is going away.
pub(crate) const DAMAGED: u64 = 2 << 20;
pub(crate) const FULL: u64 = 5 << 20;
pub(crate) const CLOSED: u64 = 15 << 19;
/// Writes that begin here do not wait at the gate.
const UNGATED: Range<u64> = 6 << 20..7 << 20;

fn fault(offset: u64, length: u64) -> Result<()> {
    for (at, kind) in
        [(DAMAGED, ErrorKind::Corrupt), (FULL, ErrorKind::NoSpace), (CLOSED, ErrorKind::Closed)]
    {
        if offset < at + 4096 && at < offset + length {
            return Err(Error::new(kind, format!("{kind:?} at {at}")));
        }
    }
    Ok(())
}

/// A memory export whose writes wait at a gate, and which fails in some places.
pub(crate) struct HeldExport {
    memory: MemoryExport,
    gate: Gate,
}

impl Export for HeldExport {
    fn info(&self) -> ExportInfo {
        self.memory.info()
    }
    async fn read(&self, offset: u64, length: u32) -> Result<ReadData> {
        fault(offset, length.into())?;
        self.memory.read(offset, length).await
    }
    async fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        if !UNGATED.contains(&offset) {
            self.gate.pass().await;
        }
        fault(offset, data.len() as u64)?;
        self.memory.write(offset, data).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, allocate: bool) -> Result<()> {
        fault(offset, length)?;
        self.memory.write_zeroes(offset, length, allocate).await
    }
    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        fault(offset, length)?;
        self.memory.trim(offset, length).await
    }
    async fn flush(&self) -> Result<()> {
        self.memory.flush().await
    }
    async fn cache(&self, offset: u64, length: u64) -> Result<()> {
        fault(offset, length)?;
        self.memory.cache(offset, length).await
    }
    async fn block_status(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        fault(offset, length)?;
        self.memory.block_status(offset, length, most).await
    }
}

/// One [`HeldExport`], under every name.
pub(crate) struct HeldExports(Rc<HeldExport>);

impl HeldExports {
    pub(crate) fn new(reactor: &Reactor, gate: Gate) -> HeldExports {
        let memory = MemoryExport::new("vm0", SIZE, reactor.pool().clone());
        HeldExports(Rc::new(HeldExport { memory, gate }))
    }
}

impl Exports for HeldExports {
    type Export = HeldExport;
    fn list(&self, _after: &str, _names_max: usize) -> Vec<String> {
        Vec::new()
    }
    fn open(&self, _name: &str) -> Result<Rc<HeldExport>> {
        Ok(Rc::clone(&self.0))
    }
}
