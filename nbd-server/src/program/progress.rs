//! A progress bar on stderr, if that is a terminal.
//!
//! Must never know: what is in progress.

use indicatif::{ProgressBar, ProgressStyle};

const BYTES: &str = "{msg:16} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}";
const STEPS: &str = "{msg:24} [{bar:32}] {pos}/{len}";

fn bar(length: u64, template: &str) -> ProgressBar {
    // Draws to stderr, and not at all if that is no terminal.
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// A bar that counts bytes.
pub(crate) fn bytes(length_bytes: u64) -> ProgressBar {
    bar(length_bytes, BYTES)
}

/// A bar that counts steps.
pub(crate) fn steps(count: u64) -> ProgressBar {
    bar(count, STEPS)
}
