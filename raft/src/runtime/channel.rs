//! Channels and the mutex: tokio's, which need no runtime and serve waiters in order.
//!
//! Must never know: what is sent.

use openraft_rt::{SendError, TryRecvError};
use std::fmt;
use std::future::Future;
use tokio::sync::{mpsc, oneshot};

/// Bounded channels from many senders to one receiver.
#[derive(Debug)]
pub struct Mpsc;

/// Sends into an [`Mpsc`] channel.
pub struct MpscSender<T>(mpsc::Sender<T>);

/// Receives from an [`Mpsc`] channel.
pub struct MpscReceiver<T>(mpsc::Receiver<T>);

/// A sender that does not keep its [`Mpsc`] channel open.
pub struct MpscWeakSender<T>(mpsc::WeakSender<T>);

impl openraft_rt::Mpsc for Mpsc {
    type Sender<T> = MpscSender<T>;
    type Receiver<T> = MpscReceiver<T>;
    type WeakSender<T> = MpscWeakSender<T>;

    fn channel<T>(buffer: usize) -> (MpscSender<T>, MpscReceiver<T>) {
        let (sender, receiver) = mpsc::channel(buffer);
        (MpscSender(sender), MpscReceiver(receiver))
    }
}

impl<T> openraft_rt::MpscSender<Mpsc, T> for MpscSender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).await.map_err(|error| SendError(error.0))
    }

    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}

impl<T> openraft_rt::MpscReceiver<T> for MpscReceiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> {
        self.0.recv()
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T> openraft_rt::MpscWeakSender<Mpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> MpscSender<T> {
        MpscSender(self.0.clone())
    }
}

impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.clone())
    }
}

/// Channels for one value.
#[derive(Debug)]
pub struct Oneshot;

/// Sends the value of a [`Oneshot`] channel.
pub struct OneshotSender<T>(oneshot::Sender<T>);

impl openraft_rt::Oneshot for Oneshot {
    type Sender<T> = OneshotSender<T>;
    type Receiver<T> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

impl<T> openraft_rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// A mutex whose waiters are served in order.
#[derive(Debug)]
pub struct Mutex<T>(tokio::sync::Mutex<T>);

impl<T: 'static> openraft_rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, T>;

    fn new(value: T) -> Mutex<T> {
        Mutex(tokio::sync::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = tokio::sync::MutexGuard<'_, T>> {
        self.0.lock()
    }
}

/// The ends of channels, whose values need not be printable.
macro_rules! print_as {
    ($($name:ident),*) => {$(
        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

print_as!(MpscSender, MpscReceiver, MpscWeakSender, OneshotSender);
