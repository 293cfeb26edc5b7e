//! The file that names this process.
//!
//! Must never know: who reads it.

use crate::program::failure::{Failure, Result};
use std::path::{Path, PathBuf};

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes it; replaces that of a process that ended without removing it.
    pub(super) fn write(path: &Path) -> Result<PidFile> {
        let text = format!("{}\n", std::process::id());
        std::fs::write(path, text).map_err(|error| {
            let what = format!("cannot write the pid file {}: {error}", path.display());
            Failure::new(what).hint("choose another place with --pid-file")
        })?;
        Ok(PidFile { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A leftover names a process that is gone, which its readers must expect anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}
