//! A server on a thread of its own, on a Unix socket in a directory of its own.

use crate::client::Client;
use ashlar_engine::reactor::{Address, Reactor, ReactorOptions};
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::{Counters, Exports, Server, ServerOptions};
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
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
    thread: Option<JoinHandle<(Counters, usize)>>,
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
                let server = Server::new(reactor, exports, options);
                server.listen(&Address::Unix(path)).expect("listen");
                let any = Address::Tcp("127.0.0.1:0".parse().expect("address"));
                let Address::Tcp(tcp) = server.listen(&any).expect("listen") else {
                    panic!("a TCP listener has a TCP address");
                };
                ready.send(tcp).expect("ready");
                stopped(signal).await;
                let cut = server.shutdown().await;
                (server.counters(), cut)
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
