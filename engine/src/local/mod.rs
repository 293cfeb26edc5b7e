//! A store on a reactor: the driver that feeds the sans-IO store, and the local (same thread) API.
//!
//! Invariants: the store is touched only between two polls of tasks on this thread; a dropped call
//! is carried out all the same, its answer thrown away.
//! Must never know: record layouts, the NBD protocol.

mod calls;
mod group;
mod partial;
mod recover;
mod volume;

pub use calls::Answers;
pub use group::LocalGroup;
pub use volume::{Extent, LocalVolume};

use crate::error::{Error, ErrorKind, Result};
use crate::format::DeviceId;
use crate::reactor::{BlockDevice, DeviceCompletion, DeviceOp, Reactor, Sleep, Task};
use crate::store::{
    Geometry, Outcome, Recovery, Request, Store, StoreStatus, VolumeStatus, format_store,
};
use crate::units::{Nanos, VolumeId};
use calls::{Call, Calls};
use partial::Locks;
use recover::read_wave;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Inner {
    reactor: Reactor,
    device: Rc<dyn BlockDevice>,
    store: RefCell<Store>,
    calls: Calls,
    /// Wakes the driver; `None` while it is awake anyway.
    driver: RefCell<Option<Waker>>,
    /// Calls waiting until the store takes requests again.
    room: RefCell<Vec<Waker>>,
    locks: Locks,
    closed: Cell<bool>,
}

/// An open store on this thread's reactor. Cheap to clone.
#[derive(Clone)]
pub struct LocalStore {
    inner: Rc<Inner>,
    /// Ends with the last clone.
    _driver: Rc<Task<()>>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalStore")
    }
}

/// Carries out operations on a device and waits for all of them; results in order.
async fn carry_out(device: &dyn BlockDevice, ops: Vec<DeviceOp>) -> Vec<DeviceCompletion> {
    let count = ops.len();
    for (token, op) in ops.into_iter().enumerate() {
        device.submit(token as u64, op);
    }
    let mut done = Vec::with_capacity(count);
    poll_fn(|context| {
        while done.len() < count {
            if device.poll_completions(context, &mut done).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    })
    .await;
    done.sort_by_key(|completion| completion.token);
    done
}

fn device_error(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Device, format!("the device does not work: {error}"))
}

impl LocalStore {
    /// Makes an empty store of the first `size_bytes` of a device.
    ///
    /// # Errors
    /// If the size is out of range or the device fails.
    pub async fn format(
        reactor: &Reactor,
        device: &dyn BlockDevice,
        size_bytes: u64,
    ) -> Result<()> {
        let geometry = Geometry::for_size(size_bytes.min(device.size_bytes()))?;
        let mut id = DeviceId::default();
        reactor.random_once("device id").fill_bytes(&mut id.0);
        // Together: a file system makes the first write of a new file durable with everything else
        // that it holds back.
        for completion in carry_out(device, format_store(reactor.pool(), id, geometry)).await {
            completion.result.map_err(|error| device_error(&error))?;
        }
        Ok(())
    }

    /// Whether a device holds a store, sound or not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn is_store(reactor: &Reactor, device: &dyn BlockDevice) -> Result<bool> {
        let mut recovery = Recovery::new(reactor.pool().clone(), device.size_bytes(), true);
        let results = read_wave(reactor, device, &mut recovery).await;
        let blank = |bytes: &[u8]| !bytes.starts_with(b"ASHLAR");
        if results.iter().flatten().all(|bytes| blank(bytes)) {
            for result in results {
                result.map_err(|error| device_error(&error))?;
            }
            return Ok(false);
        }
        Ok(true)
    }

    /// Opens the store on a device: recovers it and starts serving. Read-only writes nothing at
    /// all.
    ///
    /// # Errors
    /// If the device holds no store, one this version does not know, or one damaged beyond repair.
    pub async fn open(
        reactor: &Reactor,
        device: Rc<dyn BlockDevice>,
        read_only: bool,
    ) -> Result<LocalStore> {
        if !read_only {
            // What recovery reads may be in a volatile cache: later batches will vouch for it.
            for completion in carry_out(&*device, vec![DeviceOp::Sync]).await {
                completion.result.map_err(|error| device_error(&error))?;
            }
        }
        LocalStore::recover(reactor, device, read_only).await
    }

    /// Formats the first `size_bytes` of a device and opens the store. Nothing has to be synced:
    /// what recovery reads was durable when formatting ended.
    ///
    /// # Errors
    /// As [`LocalStore::format`] and [`LocalStore::open`].
    pub async fn create(
        reactor: &Reactor,
        device: Rc<dyn BlockDevice>,
        size_bytes: u64,
    ) -> Result<LocalStore> {
        LocalStore::format(reactor, &*device, size_bytes).await?;
        LocalStore::recover(reactor, device, false).await
    }

    async fn recover(
        reactor: &Reactor,
        device: Rc<dyn BlockDevice>,
        read_only: bool,
    ) -> Result<LocalStore> {
        let pool = reactor.pool().clone();
        let mut recovery = Recovery::new(pool, device.size_bytes(), read_only);
        loop {
            let results = read_wave(reactor, &*device, &mut recovery).await;
            if results.is_empty() {
                break;
            }
            recovery.handle_wave(results)?;
        }
        let mut store = recovery.finish(reactor.now())?;
        if device.is_preallocated() {
            store.set_preallocated();
        }
        let inner = Rc::new(Inner {
            reactor: reactor.clone(),
            device,
            store: RefCell::new(store),
            calls: Calls::default(),
            driver: RefCell::default(),
            room: RefCell::default(),
            locks: Locks::default(),
            closed: Cell::new(false),
        });
        let driver = reactor.spawn(drive(Rc::clone(&inner)));
        Ok(LocalStore { inner, _driver: Rc::new(driver) })
    }

    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        self.inner.store.borrow().volumes()
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn volume(&self, name: &str) -> Result<LocalVolume> {
        let store = self.inner.store.borrow();
        let found = store.volume_by_name(name);
        let (id, size_bytes) = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no volume {name:?}"))
        })?;
        Ok(LocalVolume::new(self.clone(), id, size_bytes))
    }

    /// Creates a thin volume.
    ///
    /// # Errors
    /// `Invalid` for a bad name or size, `Exists`, `NoSpace` for too many volumes.
    pub async fn create_volume(&self, name: &str, size_bytes: u64) -> Result<LocalVolume> {
        let request = Request::CreateVolume { name: name.to_owned(), size_bytes };
        match self.call(request).await? {
            Outcome::Created(id) => Ok(LocalVolume::new(self.clone(), id, size_bytes)),
            _ => Err(Error::new(ErrorKind::Failed, "the store answered another question")),
        }
    }

    /// Deletes a volume and frees everything it holds.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        let volume = self.volume(name)?.id();
        self.call(Request::DeleteVolume { volume }).await.map(drop)
    }

    /// Identity of the device: drawn when it was formatted.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        self.inner.store.borrow().device_id()
    }

    /// Space, segments, totals.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.inner.store.borrow().status()
    }

    /// Contradictions between the store's own books; empty if all is well.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        self.inner.store.borrow().audit()
    }

    /// What is mapped where, as one number: the same bytes on the device give the same.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.inner.store.borrow().fingerprint()
    }

    /// Writes a checkpoint: the next start replays nothing before it.
    ///
    /// # Errors
    /// `Failed` if the store has failed.
    pub async fn checkpoint(&self) -> Result<()> {
        self.call(Request::Checkpoint).await.map(drop)
    }

    /// Ends cleanly: waits for everything taken, writes a checkpoint, and takes nothing more.
    ///
    /// # Errors
    /// `Failed` if the store has failed.
    pub async fn close(&self) -> Result<()> {
        self.inner.closed.set(true);
        if self.inner.store.borrow().is_read_only() {
            return Ok(());
        }
        let clean = match self.submit(Request::Barrier).await {
            Ok(_) => self.submit(Request::Checkpoint).await.map(drop),
            Err(error) => Err(error),
        };
        let device_idle = |context: &mut Context<'_>| {
            if self.inner.store.borrow().is_idle() {
                return Poll::Ready(());
            }
            self.inner.room.borrow_mut().push(context.waker().clone());
            Poll::Pending
        };
        poll_fn(device_idle).await;
        clean
    }

    /// Why the store fenced itself, if it did.
    #[must_use]
    pub fn failed(&self) -> Option<Error> {
        self.inner.store.borrow().failed().cloned()
    }

    /// The reactor it runs on.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.inner.reactor
    }

    async fn call(&self, request: Request) -> Result<Outcome> {
        self.room().await?;
        self.submit(request).await
    }

    /// As `call`, but not while somebody holds one of these blocks: the last look at the locks and
    /// the hand-over to the store are one step.
    async fn call_unheld(
        &self,
        volume: VolumeId,
        blocks: std::ops::Range<u64>,
        request: Request,
    ) -> Result<Outcome> {
        loop {
            self.room().await?;
            if self.inner.locks.is_free(volume, &blocks) {
                return self.submit(request).await;
            }
            self.inner.locks.wait(volume, blocks.clone()).await;
        }
    }

    /// Waits until the store takes requests.
    async fn room(&self) -> Result<()> {
        let full = || self.inner.store.borrow().is_full_of_requests();
        if full() {
            poll_fn(|context| {
                if !full() {
                    return Poll::Ready(());
                }
                self.inner.room.borrow_mut().push(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
        if self.inner.closed.get() {
            return Err(Error::new(ErrorKind::Closed, "the store is closed"));
        }
        Ok(())
    }

    fn submit(&self, request: Request) -> Call {
        let inner = &self.inner;
        let (call, token) = inner.calls.begin();
        inner.submit(token, request);
        call
    }

    /// Whether a call on these blocks may be submitted now, behind nobody who waits.
    fn is_free(&self, volume: VolumeId, blocks: &std::ops::Range<u64>) -> bool {
        let inner = &self.inner;
        !inner.closed.get()
            && inner.room.borrow().is_empty()
            && !inner.store.borrow().is_full_of_requests()
            && inner.locks.is_free(volume, blocks)
    }

    /// Submits a call that is answered to `answers`.
    fn submit_direct(&self, request: Request, answers: Rc<dyn Answers>, tag: u64) {
        let token = self.inner.calls.begin_direct(answers, tag);
        self.inner.submit(token, request);
    }
}

impl Inner {
    fn submit(&self, token: u64, request: Request) {
        let now = self.reactor.now();
        self.store.borrow_mut().handle_request(now, token, request);
        self.wake_driver();
    }

    fn wake_driver(&self) {
        if let Some(waker) = self.driver.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Moves everything that can move between store, device and callers.
    fn pump(&self, context: &mut Context<'_>, done: &mut Vec<DeviceCompletion>) {
        loop {
            let waiting = self.device.poll_completions(context, done).is_pending();
            let now = self.reactor.now();
            let mut store = self.store.borrow_mut();
            for completion in done.drain(..) {
                store.handle_completion(now, completion);
            }
            while let Some((token, op)) = store.poll_io(now) {
                self.device.submit(token, op);
            }
            while let Some(reply) = store.poll_reply() {
                self.calls.answer(reply.token, reply.result);
            }
            if waiting {
                break;
            }
        }
        let store = self.store.borrow();
        let mut room = self.room.borrow_mut();
        if !room.is_empty() && (!store.is_full_of_requests() || store.is_idle()) {
            room.drain(..).for_each(Waker::wake);
        }
    }
}

/// When nobody drives the store any more, nobody is answered.
struct LetGo(Rc<Inner>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.calls.let_go();
    }
}

/// The driver task of a store.
async fn drive(inner: Rc<Inner>) {
    let inner = LetGo(inner);
    let inner = &*inner.0;
    let mut done = Vec::new();
    let mut timer: Option<(Nanos, Pin<Box<Sleep>>)> = None;
    poll_fn(|context| {
        loop {
            inner.pump(context, &mut done);
            // Set before the timer is looked at, so that a call made meanwhile is not missed.
            *inner.driver.borrow_mut() = Some(context.waker().clone());
            let Some(at) = inner.store.borrow().poll_timeout() else {
                timer = None;
                return Poll::Pending;
            };
            // Later with every write: one that was set before rings for nothing, but once.
            if timer.as_ref().is_none_or(|(set, _)| *set > at) {
                timer = Some((at, Box::pin(inner.reactor.sleep_until(at))));
            }
            let rang = timer.as_mut().is_some_and(|(_, t)| t.as_mut().poll(context).is_ready());
            if !rang {
                return Poll::Pending;
            }
            timer = None;
        }
    })
    .await
}

impl LocalStore {
    /// A volume that was found before; if it was deleted since, every call on it fails.
    pub(crate) fn volume_by_id(&self, id: VolumeId, size_bytes: u64) -> LocalVolume {
        LocalVolume::new(self.clone(), id, size_bytes)
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.inner.locks
    }

    pub(crate) fn place(
        &self,
        volume: VolumeId,
        block: crate::units::BlockIndex,
    ) -> Option<crate::store::Place> {
        self.inner.store.borrow().place(volume, block)
    }

    pub(crate) fn mapping(
        &self,
        volume: VolumeId,
        first: crate::units::BlockIndex,
        count: u64,
    ) -> (u64, crate::store::Mapping) {
        self.inner.store.borrow().block_status(volume, first, count)
    }
}
