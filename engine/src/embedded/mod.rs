//! The embedded library: a store on a thread of its own, usable from any thread and any runtime.
//!
//! Invariants: every method may be called from many threads at once; a dropped future is safe, its
//! request is carried out all the same; what callers have under way is bounded.
//! Must never know: record layouts, the NBD protocol.

pub mod blocking;
mod channel;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{ATOMIC_WRITE_MAX_BYTES, QUEUED_MAX_BYTES};
use crate::local::{Extent, LocalStore, LocalVolume};
use crate::reactor::{DeviceOptions, Reactor, ReactorOptions, Remote, start_thread};
use crate::store::{StoreStatus, VolumeStatus};
use channel::{Gate, Receiver, Sender, answer};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Bytes that a request counts for besides its data.
const REQUEST_BYTES: usize = 512;

thread_local! {
    /// The store of this reactor thread.
    static LOCAL: RefCell<Option<LocalStore>> = const { RefCell::new(None) };
}

/// Which store to open, and whether to make it.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    path: PathBuf,
    create_size_bytes: Option<u64>,
    read_only: bool,
    reactor: ReactorOptions,
}

impl StoreOptions {
    /// The store in this file or block device. It must exist.
    pub fn new(path: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            path: path.into(),
            create_size_bytes: None,
            read_only: false,
            reactor: ReactorOptions::default(),
        }
    }

    /// Makes a store of this size if there is none.
    #[must_use]
    pub fn create(mut self, size_bytes: u64) -> StoreOptions {
        self.create_size_bytes = Some(size_bytes);
        self
    }

    /// Writes nothing; the store may be open read-only elsewhere.
    #[must_use]
    pub fn read_only(mut self) -> StoreOptions {
        self.read_only = true;
        self
    }
}

struct Shared {
    remote: Remote,
    gate: Arc<Gate>,
    /// Dropping it ends the thread.
    close: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// An open store. Cheap to clone; closes in the background when the last clone is dropped, at once
/// with [`Store::close`].
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// A volume of a [`Store`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Volume {
    store: Store,
    name: String,
    id: crate::units::VolumeId,
    size_bytes: u64,
}

async fn open_local(reactor: &Reactor, options: &StoreOptions) -> Result<LocalStore> {
    let device_options = DeviceOptions {
        create_size_bytes: options.create_size_bytes.filter(|_| !options.path.exists()),
        read_only: options.read_only,
        ..DeviceOptions::default()
    };
    let device = reactor.open_device(&options.path, &device_options)?;
    if let Some(size_bytes) = options.create_size_bytes
        && !LocalStore::is_store(reactor, &*device).await?
    {
        return LocalStore::create(reactor, device, size_bytes).await;
    }
    let opened = LocalStore::open(reactor, device, options.read_only).await;
    opened.map_err(|error| error.context(options.path.display()))
}

/// Body of the store's thread: opens, tells how it went, serves until told to close.
async fn serve(
    reactor: Reactor,
    options: StoreOptions,
    opened: Sender<Result<()>>,
    close: Receiver<()>,
) {
    let store = match open_local(&reactor, &options).await {
        Ok(store) => store,
        Err(error) => return opened.send(Err(error)),
    };
    LOCAL.set(Some(store.clone()));
    opened.send(Ok(()));
    close.await;
    LOCAL.set(None);
    // A failure was told to every caller whose request it concerned.
    drop(store.close().await);
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store is closed")
}

impl Store {
    /// Opens a store (and makes it first, if asked to).
    ///
    /// # Errors
    /// `Device` or `Corrupt` if there is no usable store there, `Busy` if another process has it.
    pub async fn open(options: StoreOptions) -> Result<Store> {
        let (opened, wait_opened) = answer();
        let (close, wait_close) = answer();
        let reactor_options = options.reactor.clone();
        let main = move |reactor| serve(reactor, options, opened, wait_close);
        let (remote, thread) = start_thread("ashlar-store", reactor_options, main)?;
        wait_opened.await.unwrap_or_else(|| Err(closed()))?;
        let shared = Shared {
            remote,
            gate: Gate::new(QUEUED_MAX_BYTES),
            close: Mutex::new(Some(close)),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// Runs `work` on the store's thread.
    async fn call<T, F>(
        &self,
        bytes: usize,
        work: impl FnOnce(LocalStore) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        let permit = self.shared.gate.pass(bytes + REQUEST_BYTES).await;
        let (sender, receiver) = answer();
        self.shared.remote.post(move || {
            let Some(store) = LOCAL.with_borrow(Clone::clone) else { return };
            let reactor = store.reactor().clone();
            let task = reactor.spawn(async move {
                let result = work(store).await;
                drop(permit);
                sender.send(result);
            });
            task.detach();
        });
        receiver.await.unwrap_or_else(|| Err(closed()))
    }

    /// Creates a thin volume.
    ///
    /// # Errors
    /// `Invalid` for a bad name or size, `Exists`, `NoSpace` for too many volumes.
    pub async fn create_volume(&self, name: &str, size_bytes: u64) -> Result<Volume> {
        let owned = name.to_owned();
        let create = move |store: LocalStore| async move {
            store.create_volume(&owned, size_bytes).await.map(|volume| volume.id())
        };
        let id = self.call(0, create).await?;
        Ok(Volume { store: self.clone(), name: name.to_owned(), id, size_bytes })
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn volume(&self, name: &str) -> Result<Volume> {
        let owned = name.to_owned();
        let find = move |store: LocalStore| async move {
            store.volume(&owned).map(|volume| (volume.id(), volume.size_bytes()))
        };
        let (id, size_bytes) = self.call(0, find).await?;
        Ok(Volume { store: self.clone(), name: name.to_owned(), id, size_bytes })
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn volumes(&self) -> Result<Vec<VolumeStatus>> {
        self.call(0, |store| async move { Ok(store.volumes()) }).await
    }

    /// Deletes a volume and frees everything it holds.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.call(0, move |store| async move { store.delete_volume(&name).await }).await
    }

    /// Space, segments, totals.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn status(&self) -> Result<StoreStatus> {
        self.call(0, |store| async move { Ok(store.status()) }).await
    }

    /// Ends cleanly: everything taken is carried out, and the next start has nothing to replay.
    /// Other clones get `Closed` from then on. Waits for the store's thread, a few milliseconds.
    ///
    /// # Errors
    /// `Failed` if the store has failed, `Closed` if it was closed before.
    pub async fn close(&self) -> Result<()> {
        let result = self.call(0, |store| async move { store.close().await }).await;
        self.end();
        let thread = self.shared.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            return Err(Error::new(ErrorKind::Failed, "the store's thread panicked"));
        }
        result
    }

    fn end(&self) {
        if let Ok(mut close) = self.shared.close.lock() {
            drop(close.take());
        }
    }
}

impl Volume {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size_bytes
    }

    /// The volume as it is now: deleted ones are not found, even if the name exists again.
    fn local(store: &LocalStore, id: crate::units::VolumeId, size_bytes: u64) -> LocalVolume {
        store.volume_by_id(id, size_bytes)
    }

    async fn call<T, F>(
        &self,
        bytes: usize,
        work: impl FnOnce(LocalVolume) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        let (id, size_bytes) = (self.id, self.size_bytes);
        self.store.call(bytes, move |store| work(Volume::local(&store, id, size_bytes))).await
    }

    /// Reads `length` bytes from `offset` on. Any range inside the volume.
    ///
    /// # Errors
    /// `Invalid` past the end, `Corrupt` if what is stored does not prove itself.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(ATOMIC_WRITE_MAX_BYTES));
        while bytes.len() < length {
            let at = offset.saturating_add(bytes.len() as u64);
            let part = (length - bytes.len()).min(ATOMIC_WRITE_MAX_BYTES);
            let read = move |volume: LocalVolume| async move {
                let buffers = volume.read(at, part).await?;
                let mut bytes = Vec::with_capacity(part);
                buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
                Ok(bytes)
            };
            let read = self.call(part, read).await?;
            bytes.extend_from_slice(&read);
        }
        Ok(bytes)
    }

    /// Writes `data` at `offset`; durable when it returns. Any range inside the volume. Up to
    /// [`ATOMIC_WRITE_MAX_BYTES`] it is atomic; more is written in pieces, each atomic.
    ///
    /// # Errors
    /// `Invalid` past the end, `NoSpace` if the store is full, `Failed` if the store has failed.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        for (i, piece) in data.chunks(ATOMIC_WRITE_MAX_BYTES).enumerate() {
            let at = offset.saturating_add((i * ATOMIC_WRITE_MAX_BYTES) as u64);
            let piece = piece.to_vec();
            let write = move |volume: LocalVolume| async move {
                let mut buffer = volume.store().reactor().pool().allocate(piece.len());
                buffer.copy_from_slice(&piece);
                drop(piece);
                volume.write(at, buffer).await
            };
            self.call(data.len().min(ATOMIC_WRITE_MAX_BYTES), write).await?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes; whole blocks give their space back, or keep it if `reserve`.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64, reserve: bool) -> Result<()> {
        let zero = move |volume: LocalVolume| async move {
            volume.write_zeroes(offset, length, reserve).await
        };
        self.call(0, zero).await
    }

    /// Gives a range's whole blocks back.
    ///
    /// # Errors
    /// `Invalid` past the end, `Failed` if the store has failed.
    pub async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        let trim = move |volume: LocalVolume| async move { volume.trim(offset, length).await };
        self.call(0, trim).await
    }

    /// Writes that have returned are durable already; this tells whether the store still works.
    ///
    /// # Errors
    /// `Failed` if the store has failed.
    pub async fn flush(&self) -> Result<()> {
        self.call(0, |volume| async move { volume.flush().await }).await
    }

    /// The extents from `offset` on: at most `extents_max`, covering at most `length` bytes.
    ///
    /// # Errors
    /// `Invalid` past the end.
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        let status = move |volume: LocalVolume| async move {
            volume.block_status(offset, length, extents_max)
        };
        self.call(0, status).await
    }
}
