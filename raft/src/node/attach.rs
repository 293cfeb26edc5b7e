//! Volumes that are open on this node.

/// See the module.
#[derive(Default)]
pub(super) struct Volumes;
