//! A listening socket on the ring.
//!
//! Invariant: a connection accepted while nobody waits is kept for the next who does.
//! Must never know: what connections are for.

use super::socket::SocketStream;
use super::{Op, Ring};
use crate::reactor::transfer::retriable;
use crate::reactor::{Address, Listener, LocalBox, Stream};
use io_uring::{opcode, types};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Connections the kernel keeps while nobody accepts.
const BACKLOG_MAX: i32 = 1024;

/// What the listener and its accept in flight share.
pub(super) struct Acceptor {
    ring: Rc<Ring>,
    file: OwnedFd,
    address: Address,
    /// Of the socket file, to remove no other.
    identity: Option<(u64, u64)>,
    /// Key of the accept in flight.
    flying: Cell<Option<u64>>,
    retries: Cell<u32>,
    accepted: RefCell<VecDeque<io::Result<OwnedFd>>>,
    waker: RefCell<Option<Waker>>,
}

/// The handle. Dropping it stops listening.
struct SocketListener {
    acceptor: Rc<Acceptor>,
}

/// Binds and listens.
pub(super) fn listen(ring: &Rc<Ring>, address: &Address) -> io::Result<Rc<dyn Listener>> {
    if ring.closed.get() {
        return Err(io::Error::other("the reactor is shut down"));
    }
    let (file, address) = match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            let bound = Address::Tcp(listener.local_addr()?);
            (OwnedFd::from(listener), bound)
        }
        Address::Unix(path) => (OwnedFd::from(bind_unix(path)?), address.clone()),
    };
    rustix::net::listen(&file, BACKLOG_MAX)?;
    let identity = identity(&address);
    let acceptor = Acceptor {
        ring: Rc::clone(ring),
        file,
        address,
        identity,
        flying: Cell::new(None),
        retries: Cell::new(0),
        accepted: RefCell::default(),
        waker: RefCell::default(),
    };
    Ok(Rc::new(SocketListener { acceptor: Rc::new(acceptor) }))
}

/// Binds; a socket file that nobody listens at any more is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

/// Whether `path` is a socket that nobody listens at. Does not wait for a busy listener.
fn is_abandoned(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|probe| rustix::net::connect(&probe, &address))
        .is_err_and(|error| error == Errno::CONNREFUSED)
}

/// Device and inode of the socket file.
fn identity(address: &Address) -> Option<(u64, u64)> {
    let Address::Unix(path) = address else { return None };
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

impl Drop for SocketListener {
    fn drop(&mut self) {
        if let Some(key) = self.acceptor.flying.get() {
            self.acceptor.ring.cancel(key);
        }
        if let Address::Unix(path) = &self.acceptor.address
            && self.acceptor.identity == identity(&self.acceptor.address)
        {
            // A leftover does no harm: the next to listen there replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener for SocketListener {
    fn accept(&self) -> LocalBox<io::Result<Rc<dyn Stream>>> {
        let acceptor = Rc::clone(&self.acceptor);
        Box::pin(async move {
            let file = poll_fn(|context| {
                if let Some(accepted) = acceptor.accepted.borrow_mut().pop_front() {
                    return Poll::Ready(accepted);
                }
                if acceptor.ring.closed.get() {
                    return Poll::Ready(Err(io::Error::other("the reactor is shut down")));
                }
                acceptor.waker.replace(Some(context.waker().clone()));
                start(&acceptor);
                Poll::Pending
            })
            .await?;
            stream(&acceptor.ring, file)
        })
    }

    fn address(&self) -> Address {
        self.acceptor.address.clone()
    }
}

fn start(acceptor: &Rc<Acceptor>) {
    if acceptor.flying.get().is_some() {
        return;
    }
    let fd = types::Fd(acceptor.file.as_raw_fd());
    let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
        .flags(libc::SOCK_CLOEXEC)
        .build();
    // SAFETY: the entry names no memory; the operation keeps the acceptor's descriptor open.
    let key = unsafe { acceptor.ring.start(Op::Accept(Rc::clone(acceptor)), entry) };
    acceptor.flying.set(Some(key));
}

/// The kernel is done with an accept.
pub(super) fn complete(acceptor: &Rc<Acceptor>, result: i32) {
    acceptor.flying.set(None);
    let mut retries = acceptor.retries.get();
    let again = !acceptor.ring.closed.get() && retriable(result, &mut retries);
    acceptor.retries.set(if again { retries } else { 0 });
    if again {
        return start(acceptor);
    }
    let accepted = match result {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        // SAFETY: a descriptor that the kernel just made for this accept.
        file => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
    };
    acceptor.accepted.borrow_mut().push_back(accepted);
    let waker = acceptor.waker.take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A connected socket as a stream.
pub(super) fn stream(ring: &Rc<Ring>, file: OwnedFd) -> io::Result<Rc<dyn Stream>> {
    let peer = match rustix::net::getpeername(&file) {
        Ok(Some(address)) => describe(address, &file)?,
        // A peer that is gone already shows with the first receive.
        Ok(None) | Err(_) => "unknown".into(),
    };
    Ok(Rc::new(SocketStream::new(ring, file, peer)))
}

fn describe(address: SocketAddrAny, file: &OwnedFd) -> io::Result<String> {
    if let Ok(address) = SocketAddr::try_from(address) {
        rustix::net::sockopt::set_tcp_nodelay(file, true)?;
        return Ok(address.to_string());
    }
    let credentials = rustix::net::sockopt::socket_peercred(file)?;
    Ok(format!("unix, process {}", credentials.pid.as_raw_nonzero()))
}
