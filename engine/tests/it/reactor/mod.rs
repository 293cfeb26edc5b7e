//! Goal: the reactor keeps its promises on a real kernel. Method: small programs on real files and
//! sockets, each in its own reactor.
mod devices;
mod enters;
mod sockets;
mod wakes;

use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::{
    Address, Message, Part, Reactor, ReactorOptions, ReceiveBuffers, Stream,
};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh reactor.
fn reactor() -> Reactor {
    Reactor::new(ReactorOptions::default()).expect("this machine has io_uring")
}

/// A free port of this machine.
pub(crate) fn tcp() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

/// Two connected streams: who connected, who accepted.
pub(crate) async fn pair(reactor: &Reactor, address: &Address) -> (Rc<dyn Stream>, Rc<dyn Stream>) {
    let listener = reactor.listen(address).expect("can listen");
    let client = reactor.connect(&listener.address()).await.expect("can connect");
    let server = listener.accept().await.expect("accepts");
    (client, server)
}

/// A message of these bytes.
pub(crate) fn bytes(content: &[u8]) -> Message {
    Message { head: content.to_vec(), parts: vec![Part::Head(content.len())] }
}

/// One receive, appended to `all`.
pub(crate) async fn receive_into(
    stream: &dyn Stream,
    first: Buffer,
    all: &mut Vec<u8>,
) -> io::Result<Buffer> {
    let buffers = ReceiveBuffers { first, first_filled: 0, second: None };
    let (count, buffers) = stream.receive(buffers).await;
    all.extend_from_slice(&buffers.first[..count?]);
    Ok(buffers.first)
}

/// A directory of its own for one test, gone with it.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = root.join(format!("scratch-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("can create");
        Scratch { path }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A short one: socket paths may have 107 bytes.
    fn socket(&self) -> Address {
        let name = self.path.file_name().expect("has a name").to_owned();
        Address::Unix(std::env::temp_dir().join(name).with_extension("sock"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
