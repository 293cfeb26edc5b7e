//! The same library without futures: every call waits on the calling thread.
//!
//! Must never know: anything the async face does not offer.

use super::StoreOptions;
use crate::error::Result;
use crate::local::Extent;
use crate::store::{StoreStatus, VolumeStatus};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

/// Runs a future of this library on the calling thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// An open store; see [`super::Store`].
#[derive(Clone, Debug)]
pub struct Store(super::Store);

/// A volume; see [`super::Volume`].
#[derive(Clone, Debug)]
pub struct Volume(super::Volume);

impl Store {
    /// As [`super::Store::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(options: StoreOptions) -> Result<Store> {
        wait(super::Store::open(options)).map(Store)
    }

    /// As [`super::Store::create_volume`].
    ///
    /// # Errors
    /// As there.
    pub fn create_volume(&self, name: &str, size_bytes: u64) -> Result<Volume> {
        wait(self.0.create_volume(name, size_bytes)).map(Volume)
    }

    /// As [`super::Store::volume`].
    ///
    /// # Errors
    /// As there.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        wait(self.0.volume(name)).map(Volume)
    }

    /// As [`super::Store::volumes`].
    ///
    /// # Errors
    /// As there.
    pub fn volumes(&self) -> Result<Vec<VolumeStatus>> {
        wait(self.0.volumes())
    }

    /// As [`super::Store::delete_volume`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_volume(&self, name: &str) -> Result<()> {
        wait(self.0.delete_volume(name))
    }

    /// As [`super::Store::status`].
    ///
    /// # Errors
    /// As there.
    pub fn status(&self) -> Result<StoreStatus> {
        wait(self.0.status())
    }

    /// As [`super::Store::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<()> {
        wait(self.0.close())
    }
}

impl Volume {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// As [`super::Volume::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        wait(self.0.read(offset, length))
    }

    /// As [`super::Volume::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        wait(self.0.write(offset, data))
    }

    /// As [`super::Volume::write_zeroes`].
    ///
    /// # Errors
    /// As there.
    pub fn write_zeroes(&self, offset: u64, length: u64, reserve: bool) -> Result<()> {
        wait(self.0.write_zeroes(offset, length, reserve))
    }

    /// As [`super::Volume::trim`].
    ///
    /// # Errors
    /// As there.
    pub fn trim(&self, offset: u64, length: u64) -> Result<()> {
        wait(self.0.trim(offset, length))
    }

    /// As [`super::Volume::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<()> {
        wait(self.0.flush())
    }

    /// As [`super::Volume::block_status`].
    ///
    /// # Errors
    /// As there.
    pub fn block_status(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        wait(self.0.block_status(offset, length, extents_max))
    }
}
