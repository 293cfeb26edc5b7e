//! Opening a device that another process may be about to let go of.
//!
//! The kernel closes the files of an `io_uring` some time after the process that had it is gone: a
//! server that restarts after a crash finds its store locked by nobody for some milliseconds.
//! Must never know: what is on the device.

use super::failure::{Failure, Result};
use ashlar_engine::ErrorKind;
use ashlar_engine::reactor::{BlockDevice, DeviceOptions, Reactor};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How long a lock is waited for that no living process holds.
const ABANDONED_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(2);

/// Opens and locks a device; refused if a living process uses it.
pub(super) async fn open(
    reactor: &Reactor,
    path: &Path,
    options: &DeviceOptions,
) -> Result<Rc<dyn BlockDevice>> {
    let deadline = reactor.now() + ABANDONED_MAX;
    loop {
        let error = match reactor.open_device(path, options) {
            Ok(device) => return Ok(device),
            Err(error) if error.kind() == ErrorKind::Busy => error,
            Err(error) => return Err(refusal(path, error)),
        };
        let holder = living_holder(path);
        if holder.is_some() || reactor.now() >= deadline {
            let who = holder.map_or("another process".into(), |pid| format!("process {pid}"));
            return Err(Failure::from(error)
                .hint(format!("{who} uses it: stop it, or ask it through its admin socket")));
        }
        reactor.sleep(RETRY).await;
    }
}

/// Adds what can be done about it.
fn refusal(path: &Path, error: ashlar_engine::Error) -> Failure {
    let failure = Failure::from(error);
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => failure.hint("name a file in it"),
        _ if is_forbidden(path) => {
            failure.hint("run as its owner, or let its owner change its mode")
        }
        _ => failure,
    }
}

fn is_forbidden(path: &Path) -> bool {
    let opened = std::fs::File::options().read(true).write(true).open(path);
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The living process that holds the lock of a file, if the kernel tells.
fn living_holder(path: &Path) -> Option<u32> {
    let inode = std::fs::metadata(path).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    holders(&locks, inode).find(|pid| is_alive(*pid))
}

/// Processes that `/proc/locks` says lock a file of this number.
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131077 0 EOF`
    locks.lines().filter_map(move |line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK").skip(3);
        let pid = words.next()?.parse().ok()?;
        let file = words.next()?.rsplit(':').next()?;
        (file.parse() == Ok(inode)).then_some(pid)
    })
}

fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // After the name, which may hold anything: the state. Z and X are dead.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_file() {
        let locks = "1: FLOCK  ADVISORY  WRITE 11 fe:00:7 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 12 fe:00:8 0 EOF\n\
                     2: -> FLOCK  ADVISORY  READ 13 fe:00:8 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE x\n";
        assert_eq!(holders(locks, 7).collect::<Vec<_>>(), [11]);
        assert_eq!(holders(locks, 8).collect::<Vec<_>>(), [13]);
        assert_eq!(holders(locks, 9).count(), 0);
    }

    #[test]
    fn this_process_lives() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
