//! A connection without a network: what the test sends arrives in pieces of its choosing.

use ashlar_engine::reactor::{LocalBox, Message, Part, ReceiveBuffers, Stream};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Both directions of a connection. The server's end is a [`Stream`].
#[derive(Default)]
pub(crate) struct Pipe {
    to_server: RefCell<VecDeque<Vec<u8>>>,
    to_client: RefCell<Vec<u8>>,
    client_closed: Cell<bool>,
    server_closed: Cell<bool>,
    server: RefCell<Option<Waker>>,
    client: RefCell<Option<Waker>>,
}

/// The server's end.
pub(crate) struct ServerEnd(pub(crate) Rc<Pipe>);

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}

impl Pipe {
    /// Sends one piece: it arrives in a receive of its own, or in several.
    pub(crate) fn send(&self, piece: &[u8]) {
        if !piece.is_empty() {
            self.to_server.borrow_mut().push_back(piece.to_vec());
            wake(&self.server);
        }
    }

    /// The client is gone.
    pub(crate) fn close(&self) {
        self.client_closed.set(true);
        wake(&self.server);
    }

    /// Exactly `count` bytes; `None` if the server closes before.
    pub(crate) async fn receive(&self, count: usize) -> Option<Vec<u8>> {
        poll_fn(|context| {
            let mut bytes = self.to_client.borrow_mut();
            if bytes.len() >= count {
                return Poll::Ready(Some(bytes.drain(..count).collect()));
            }
            if self.server_closed.get() {
                return Poll::Ready(None);
            }
            *self.client.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffers: &mut ReceiveBuffers,
    ) -> Poll<io::Result<usize>> {
        if self.server_closed.get() {
            return Poll::Ready(Ok(0));
        }
        let mut pieces = self.to_server.borrow_mut();
        let Some(piece) = pieces.front_mut() else {
            if self.client_closed.get() {
                return Poll::Ready(Ok(0));
            }
            *self.server.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        };
        let ReceiveBuffers { first, first_filled, second } = buffers;
        let mut count = 0;
        for target in [Some(&mut first[*first_filled..]), second.as_deref_mut()] {
            let target = target.unwrap_or_default();
            let part = target.len().min(piece.len() - count);
            target[..part].copy_from_slice(&piece[count..count + part]);
            count += part;
        }
        assert!(count > 0, "a receive into nothing");
        piece.drain(..count);
        if piece.is_empty() {
            pieces.pop_front();
        }
        Poll::Ready(Ok(count))
    }
}

impl Stream for ServerEnd {
    fn receive(
        &self,
        mut buffers: ReceiveBuffers,
    ) -> LocalBox<(io::Result<usize>, ReceiveBuffers)> {
        let pipe = Rc::clone(&self.0);
        Box::pin(async move {
            let result = poll_fn(|context| pipe.poll_receive(context, &mut buffers)).await;
            (result, buffers)
        })
    }

    fn send(&self, mut message: Message) -> LocalBox<(io::Result<()>, Message)> {
        let result = if self.0.client_closed.get() || self.0.server_closed.get() {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            let mut target = self.0.to_client.borrow_mut();
            let mut head = &message.head[..];
            for part in &message.parts {
                match part {
                    Part::Head(count) => {
                        target.extend_from_slice(&head[..*count]);
                        head = &head[*count..];
                    }
                    Part::Payload(buffer) => target.extend_from_slice(buffer),
                }
            }
            assert!(head.is_empty(), "a message whose head is longer than its parts");
            Ok(())
        };
        message.head.clear();
        message.parts.clear();
        wake(&self.0.client);
        Box::pin(std::future::ready((result, message)))
    }

    fn shutdown(&self) {
        self.0.server_closed.set(true);
        wake(&self.0.client);
        wake(&self.0.server);
    }

    fn peer(&self) -> String {
        "pipe".to_owned()
    }
}
