//! SIGINT and SIGTERM as a flag, so that guards end every process and remove every file.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Result;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Catches the signals from now on; a second one of them ends the process at once.
pub fn install() -> Result<()> {
    let flag = FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .map_err(|e| format!("cannot catch signal {signal}: {e}"))?;
    }
    Ok(())
}

/// Whether one of the signals came.
pub fn requested() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once one of the signals came.
pub fn check() -> Result<()> {
    if requested() { Err("interrupted".into()) } else { Ok(()) }
}
