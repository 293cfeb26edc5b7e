//! Serves 1 GiB of memory: `cargo run --release --example memory -- /tmp/nbd.sock`, then for
//! example `nbdinfo nbd+unix:///memory?socket=/tmp/nbd.sock`.

use ashlar_engine::reactor::{Address, Reactor, ReactorOptions};
use ashlar_nbd_server::memory::{MemoryExport, MemoryExports};
use ashlar_nbd_server::{Server, ServerOptions};
use std::rc::Rc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or("nbd.sock".to_owned()).into();
    Reactor::run(ReactorOptions::default(), |reactor| async move {
        let export = MemoryExport::new("memory", 1 << 30, reactor.pool().clone());
        let exports = Rc::new(MemoryExports::new([export]));
        let server = Server::new(reactor, exports, ServerOptions::default());
        server.listen(&Address::Unix(path))?;
        std::future::pending::<()>().await;
        Ok(())
    })?
}
