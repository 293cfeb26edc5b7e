//! Goal: the reactor keeps its promises on a real kernel. Method: small programs on real files and
//! sockets, each in its own reactor.
mod sockets;

use ashlar_engine::reactor::{Address, Reactor, ReactorOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A fresh reactor.
fn reactor() -> Reactor {
    Reactor::new(ReactorOptions::default()).expect("this machine has io_uring")
}

/// A directory of its own for one test, gone with it.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = root.join(format!("scratch-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("can create");
        Scratch { path }
    }

    fn file(&self, name: &str) -> PathBuf {
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
