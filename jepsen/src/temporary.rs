//! A directory that is gone when its owner is, whatever happened in between; with
//! `ASHLAR_JEPSEN_KEEP` set it stays, to be looked into.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory removed on drop.
#[derive(Debug)]
pub struct TemporaryDirectory {
    path: PathBuf,
}

impl TemporaryDirectory {
    /// Makes a fresh directory under `TMPDIR`.
    pub fn new(name: &str) -> Result<TemporaryDirectory> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: a unix socket's path may have 107 bytes.
        let leaf = format!("ashlar-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(leaf);
        fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(TemporaryDirectory { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside.
    pub fn join(&self, leaf: &str) -> PathBuf {
        self.path.join(leaf)
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if std::env::var_os("ASHLAR_JEPSEN_KEEP").is_some() {
            eprintln!("kept {}", self.path.display());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
