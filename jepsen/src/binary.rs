//! Where the program under test is.
//!
//! `ASHLAR_BIN` if set; else `cargo build` makes it once, in the profile and target directory this
//! very executable came from, so that a run never judges a stale binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::Result;

static BINARY: OnceLock<Result<PathBuf>> = OnceLock::new();

/// The path of `ashlar`.
pub fn ashlar() -> Result<PathBuf> {
    BINARY.get_or_init(locate).clone()
}

fn locate() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ASHLAR_BIN") {
        let path = PathBuf::from(path);
        let is_there = path.is_file();
        return if is_there { Ok(path) } else { Err(format!("ASHLAR_BIN: no file {path:?}")) };
    }
    let own = std::env::current_exe().map_err(|e| format!("where am I: {e}"))?;
    let (target, profile) = target_and_profile(&own)
        .ok_or_else(|| format!("{} is in no target directory: set ASHLAR_BIN", own.display()))?;
    build(&target, &profile)?;
    let path = target.join(&profile).join("ashlar");
    if path.is_file() { Ok(path) } else { Err(format!("the build left no {}", path.display())) }
}

/// `target/debug/deps/it-0123` and `target/debug/ashlar-jepsen` both give `(target, debug)`.
fn target_and_profile(executable: &Path) -> Option<(PathBuf, String)> {
    let mut folder = executable.parent()?;
    if folder.file_name()? == "deps" {
        folder = folder.parent()?;
    }
    let profile = folder.file_name()?.to_str()?.to_owned();
    Some((folder.parent()?.to_owned(), profile))
}

fn build(target: &Path, profile: &str) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let profile = if profile == "debug" { "dev" } else { profile };
    let output = Command::new(cargo)
        .args(["build", "--quiet", "-p", "ashlar-nbd-server", "--bin", "ashlar"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run cargo to build ashlar: {e}; set ASHLAR_BIN"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("building ashlar failed:\n{}", String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_is_read_off_the_own_path() {
        for path in ["/w/target/release/deps/it-1", "/w/target/release/ashlar-jepsen"] {
            let (target, profile) = target_and_profile(Path::new(path)).unwrap();
            assert_eq!((target.to_str().unwrap(), profile.as_str()), ("/w/target", "release"));
        }
    }
}
