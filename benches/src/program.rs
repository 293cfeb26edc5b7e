//! Builds the program `ashlar` in the profile this very executable was built in.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// Builds it; gives its path. `ASHLAR_BIN` names another one.
pub fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ASHLAR_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|e| format!("where am I: {e}"))?;
    let (target, profile) =
        target_and_profile(&own).ok_or("this program is in no target directory: set ASHLAR_BIN")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "-p", "ashlar-nbd-server", "--bin", "ashlar"])
        .args(["--profile", if profile == "debug" { "dev" } else { &profile }])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .map_err(|e| format!("cannot run cargo: {e}; set ASHLAR_BIN"))?;
    if status.success() {
        Ok(target.join(profile).join("ashlar"))
    } else {
        Err("building ashlar failed".into())
    }
}

/// `target/debug/deps/it-0123` and `target/debug/ashlar-benches` both give `(target, debug)`.
fn target_and_profile(executable: &Path) -> Option<(PathBuf, String)> {
    let mut folder = executable.parent()?;
    if folder.file_name()? == "deps" {
        folder = folder.parent()?;
    }
    let profile = folder.file_name()?.to_str()?.to_owned();
    Some((folder.parent()?.to_owned(), profile))
}
