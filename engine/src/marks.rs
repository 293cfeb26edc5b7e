//! Marks of places that are seldom reached, so that a test run can say which it never was at.
//!
//! `sometimes!("name")` costs nothing unless the feature `marks` is on; then it counts. A name that
//! is not in [`NAMES`] does not compile. Must never know: what the places do.

#[cfg(feature = "marks")]
use std::sync::atomic::{AtomicU64, Ordering};

/// All marks.
pub const NAMES: [&str; 37] = [
    "recovery: a read was done again block by block",
    "recovery: a superblock copy was damaged",
    "recovery: a root's mirror was used",
    "recovery: a chunk's mirror was used",
    "recovery: a segment header was damaged",
    "recovery: a segment's life was found further in",
    "recovery: a segment in use had lost its headers",
    "recovery: nothing to replay",
    "recovery: the tail was replayed",
    "recovery: a segment the checkpoint knows all of was left out",
    "recovery: the torn tail was cut",
    "recovery: a void batch was passed over",
    "recovery: a batch was found by its copy",
    "recovery: a lost empty batch was counted",
    "recovery: a damaged batch was installed",
    "recovery: the log was refused as damaged",
    "recovery: the store was refused as damaged",
    "read: once more",
    "read: refused as damaged",
    "read: a header was read",
    "read: a header's copy was read",
    "read: a header's copy was found",
    "read: a segment in use by a read was not reused",
    "write: waited for room in a batch",
    "write: refused, the store is full",
    "log: a closing batch",
    "log: a segment was sealed",
    "log: waited for a free segment",
    "store: fenced",
    "prepare: failed, the device is full",
    "prepare: data took the reserve",
    "cleaner: a victim was chosen",
    "cleaner: blocks were moved",
    "cleaner: a victim could not be read",
    "cleaner: a block died while it was moved",
    "checkpoint: completed",
    "checkpoint: cut short by a failure",
];

#[cfg(feature = "marks")]
static HITS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// How often each place of [`NAMES`] was reached since the last call.
#[cfg(feature = "marks")]
#[must_use]
pub fn take() -> [u64; NAMES.len()] {
    std::array::from_fn(|i| HITS[i].swap(0, Ordering::Relaxed))
}

#[cfg(feature = "marks")]
pub(crate) fn hit(mark: usize) {
    HITS[mark].fetch_add(1, Ordering::Relaxed);
}

/// Where a name stands in [`NAMES`], while compiling.
pub(crate) const fn index(name: &str) -> usize {
    let mut i = 0;
    while i < NAMES.len() {
        if is_same(NAMES[i].as_bytes(), name.as_bytes()) {
            return i;
        }
        i += 1;
    }
    panic!("a mark that is not in the list");
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Counts that this place was reached, in builds with the feature `marks`.
macro_rules! sometimes {
    ($name:literal) => {{
        const MARK: usize = $crate::marks::index($name);
        #[cfg(feature = "marks")]
        $crate::marks::hit(MARK);
        #[cfg(not(feature = "marks"))]
        let _ = MARK;
    }};
}
