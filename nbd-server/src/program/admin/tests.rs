//! Goal: the admin socket answers what it is asked, refuses everything else, and outlives both.
//! Method: a server on a store in a temporary file, and a plain client on a thread of its own.

use super::command::Serving;
use super::{Answer, CLIENTS_MAX, LINE_MAX_BYTES, Request, ServedStore, server};
use crate::program::size::Size;
use crate::program::store;
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use ashlar_nbd_server::{Server, ServerOptions, VolumeExports};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let leaf = format!("ashlar-admin-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(leaf);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `client` on a thread against the socket of a server with a fresh store.
#[allow(clippy::disallowed_methods)] // The client must not share the server's thread.
fn with_server(client: impl FnOnce(&Path) + Send + 'static) {
    let folder = Folder::new();
    let (store_path, socket) = (folder.0.join("store"), folder.0.join("admin"));
    let reactor = Reactor::new(ReactorOptions::default()).unwrap();
    reactor.block_on(async {
        let device = store::create(&reactor, &store_path, Size(80 << 20)).await.unwrap();
        drop(device);
        let store = store::open(&reactor, &store_path, false).await.unwrap();
        let exports = Rc::new(VolumeExports::new(store.clone(), false));
        let options = ServerOptions::default();
        let serving = Serving {
            server: Server::new(reactor.clone(), Rc::clone(&exports), options),
            exports,
            store_path: "store".into(),
            listen: Vec::new(),
            read_only: false,
            started: reactor.now(),
        };
        let listener = server::listen(&reactor, &socket).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let served = ServedStore { store: store.clone(), serving: Rc::new(serving) };
        let admin = server::serve(listener, &reactor, Rc::new(served));
        let at = socket.clone();
        let thread = std::thread::spawn(move || client(&at));
        while !thread.is_finished() {
            reactor.sleep(std::time::Duration::from_millis(1)).await;
        }
        admin.cancel().await;
        store.close().await.unwrap();
        assert!(!socket.exists(), "the socket stays behind");
        thread.join().unwrap();
    });
    reactor.shutdown();
}

fn ask_raw(socket: &Path, line: &[u8]) -> Option<Answer> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(line).ok()?;
    read_answer(&stream)
}

fn read_answer(stream: &UnixStream) -> Option<Answer> {
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}

fn ask(socket: &Path, request: &Request) -> Result<Value, String> {
    let line = serde_json::to_string(request).unwrap() + "\n";
    match ask_raw(socket, line.as_bytes()).unwrap() {
        Answer::Done(report) => Ok(report),
        Answer::Error(refusal) => Err(refusal.kind),
    }
}

fn create(name: &str, size_bytes: u64) -> Request {
    Request::VolumeCreate { name: name.into(), size_bytes, policy: None }
}

#[test]
fn volumes_and_status() {
    with_server(|socket| {
        assert_eq!(ask(socket, &create("a", 1 << 20)).unwrap()["size_bytes"], 1 << 20);
        assert_eq!(ask(socket, &create("a", 1 << 20)), Err("exists".into()));
        assert_eq!(ask(socket, &create("b", 100)), Err("invalid".into()));
        let listing = ask(socket, &Request::VolumeList {}).unwrap();
        assert_eq!(listing["volumes"].as_array().unwrap().len(), 1);
        let status = ask(socket, &Request::Status {}).unwrap();
        assert_eq!(status["volumes"][0]["name"], "a");
        assert!(status["space"]["capacity_bytes"].as_u64().unwrap() > 0);
        assert_eq!(status["pid"], std::process::id());
        let delete = Request::VolumeDelete { name: "a".into(), force: false };
        assert_eq!(ask(socket, &delete).unwrap()["name"], "a");
        assert_eq!(ask(socket, &delete), Err("not-found".into()));
        let show = Request::VolumeShow { name: "a".into() };
        assert_eq!(ask(socket, &show), Err("not-found".into()));
    });
}

#[test]
fn bad_input_gets_an_error() {
    with_server(|socket| {
        let lines: [&[u8]; 8] = [
            b"\n",
            b"{}\n",
            b"null\n",
            b"{\"command\":\"nonsense\"}\n",
            b"{\"command\":\"status\",\"more\":1}\n",
            b"{\"command\":\"volume-create\",\"name\":\"a\"}\n",
            b"{\"command\":\"volume-create\",\"name\":\"a\",\"size_bytes\":-1}\n",
            b"\xff\xfe\x00\n",
        ];
        for line in lines {
            let answer = ask_raw(socket, line);
            assert!(matches!(&answer, Some(Answer::Error(why)) if why.kind == "invalid"));
        }
        let deep = [vec![b'['; LINE_MAX_BYTES - 1], vec![b'\n']].concat();
        assert!(matches!(ask_raw(socket, &deep), Some(Answer::Error(_))));
        assert!(ask(socket, &Request::Status {}).is_ok());
    });
}

#[test]
fn endless_lines_are_cut() {
    with_server(|socket| {
        let mut stream = UnixStream::connect(socket).unwrap();
        // The server may hang up before it has read all of it.
        let _ = stream.write_all(&vec![b'x'; LINE_MAX_BYTES * 4]);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(ask(socket, &Request::Status {}).is_ok());
    });
}

#[test]
fn several_requests_on_one_connection() {
    with_server(|socket| {
        let mut stream = UnixStream::connect(socket).unwrap();
        let line = serde_json::to_string(&Request::VolumeList {}).unwrap() + "\n";
        stream.write_all(line.repeat(3).as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().take(3);
        assert_eq!(lines.map(|line| line.unwrap()).filter(|line| line.contains("done")).count(), 3);
    });
}

#[test]
fn clients_are_bounded() {
    with_server(|socket| {
        let clients: Vec<_> =
            (0..CLIENTS_MAX).map(|_| UnixStream::connect(socket).unwrap()).collect();
        let mut first = &clients[0];
        first.write_all(b"{\"command\":\"volume-list\"}\n").unwrap();
        assert!(read_answer(first).is_some());
        let mut refused = UnixStream::connect(socket).unwrap();
        assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);
        drop(clients);
    });
}

#[test]
fn a_living_socket_is_not_taken() {
    let folder = Folder::new();
    let socket = folder.0.join("admin");
    let reactor = Reactor::new(ReactorOptions::default()).unwrap();
    reactor.block_on(async {
        let living = server::listen(&reactor, &socket).unwrap();
        let refused = server::listen(&reactor, &socket).err().unwrap();
        assert!(refused.sentence.contains("--admin"), "{refused}");
        drop(living);
        // Dead: a socket file that nobody listens at.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        server::listen(&reactor, &socket).map(drop).unwrap();
    });
    reactor.shutdown();
}
