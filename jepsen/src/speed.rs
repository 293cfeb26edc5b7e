//! What a file system can do past the page cache, for ratios.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::random::Random;

/// Bytes of one request.
const REQUEST_BYTES: usize = 4 << 20;
/// What a buffer of such requests must be aligned to.
const ALIGNMENT: usize = 4096;

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speeds {
    /// One write after the other to a new file, durable at the end.
    pub write: f64,
    /// The same, while as many bytes are read from another file: no copy is faster.
    pub copy: f64,
}

/// Bytes a second.
pub fn speed(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64()
}

/// Measures the file system of `directory` with files of `bytes`; they are gone afterwards.
pub fn measure(directory: &Path, bytes: u64) -> Result<Speeds> {
    let (first, second) = (directory.join("speed.1"), directory.join("speed.2"));
    let measured = speeds(&first, &second, bytes.next_multiple_of(REQUEST_BYTES as u64));
    for path in [first, second] {
        let _ = std::fs::remove_file(path); // It may not have been made.
    }
    measured.map_err(|e| format!("measuring the disk: {e}"))
}

fn speeds(first: &Path, second: &Path, bytes: u64) -> std::io::Result<Speeds> {
    let write = speed(bytes, write(first, bytes)?);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(first, bytes));
        let written = self::write(second, bytes);
        let read =
            reader.join().unwrap_or_else(|_| Err(std::io::Error::other("a reader panicked")));
        read.and(written.map(drop))
    })?;
    Ok(Speeds { write, copy: speed(bytes, started.elapsed()) })
}

fn open(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32).open(path)
}

fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    &mut buffer[start..start + REQUEST_BYTES]
}

fn write(path: &Path, bytes: u64) -> std::io::Result<Duration> {
    let mut file = open(path, OpenOptions::new().write(true).create(true))?;
    let mut buffer = vec![0; REQUEST_BYTES + ALIGNMENT];
    let buffer = aligned(&mut buffer);
    Random::new(1).fill(buffer);
    let started = Instant::now();
    for _ in 0..bytes / REQUEST_BYTES as u64 {
        file.write_all(buffer)?;
    }
    file.sync_all()?;
    Ok(started.elapsed())
}

fn read(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = open(path, OpenOptions::new().read(true))?;
    let mut buffer = vec![0; REQUEST_BYTES + ALIGNMENT];
    let buffer = aligned(&mut buffer);
    for _ in 0..bytes / REQUEST_BYTES as u64 {
        file.read_exact(buffer)?;
    }
    Ok(())
}
