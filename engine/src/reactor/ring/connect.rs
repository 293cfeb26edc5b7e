//! Connecting a socket on the ring.
//!
//! Must never know: what connections are for.

use super::listener::stream;
use super::{Op, Ring};
use crate::reactor::{Address, LocalBox, Stream};
use io_uring::{opcode, types};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A connect in flight, with the address it names.
pub(super) struct Connecting {
    file: OwnedFd,
    address: Vec<u8>,
    result: Cell<Option<i32>>,
    waker: RefCell<Option<Waker>>,
}

/// Cancels the connect if nobody waits for it any more.
struct Waiting {
    ring: Rc<Ring>,
    connecting: Rc<Connecting>,
    key: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.connecting.result.get().is_none() {
            self.ring.cancel(self.key);
        }
    }
}

/// Connects to `address`.
pub(super) fn connect(ring: &Rc<Ring>, address: &Address) -> LocalBox<io::Result<Rc<dyn Stream>>> {
    let ring = Rc::clone(ring);
    let prepared = prepare(address);
    Box::pin(async move {
        if ring.closed.get() {
            return Err(io::Error::other("the reactor is shut down"));
        }
        let connecting = Rc::new(prepared?);
        let (start, len) = (connecting.address.as_ptr(), connecting.address.len());
        let fd = types::Fd(connecting.file.as_raw_fd());
        let entry = opcode::Connect::new(fd, start.cast(), len as libc::socklen_t).build();
        // SAFETY: the address is on the heap, and the operation keeps its owner.
        let key = unsafe { ring.start(Op::Connect(Rc::clone(&connecting)), entry) };
        let waiting = Waiting { ring, connecting, key };
        let result = poll_fn(|context| match waiting.connecting.result.get() {
            Some(result) => Poll::Ready(result),
            None => {
                waiting.connecting.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        stream(&waiting.ring, waiting.connecting.file.try_clone()?)
    })
}

fn prepare(address: &Address) -> io::Result<Connecting> {
    let (family, bytes) = match address {
        Address::Tcp(address @ SocketAddr::V4(_)) => (AddressFamily::INET, raw(address)),
        Address::Tcp(address @ SocketAddr::V6(_)) => (AddressFamily::INET6, raw(address)),
        Address::Unix(path) => (AddressFamily::UNIX, raw(&SocketAddrUnix::new(path)?)),
    };
    let file = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let result = Cell::new(None);
    Ok(Connecting { file, address: bytes, result, waker: RefCell::default() })
}

fn raw(address: &impl SocketAddrArg) -> Vec<u8> {
    // SAFETY: the pointer is valid for the length given, for the time of the call.
    unsafe {
        address.with_sockaddr(|start, len| {
            std::slice::from_raw_parts(start.cast::<u8>(), len as usize).to_vec()
        })
    }
}

/// The kernel is done with a connect.
pub(super) fn complete(connecting: &Connecting, result: i32) {
    connecting.result.set(Some(result));
    let waker = connecting.waker.take();
    if let Some(waker) = waker {
        waker.wake();
    }
}
