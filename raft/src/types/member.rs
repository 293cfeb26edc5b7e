//! Members: where a node is reached and where it stands.
//!
//! Invariant: a member's texts keep their bounds, so every membership that openraft can make of
//! members fits its encoding.
//! Must never know: what the labels mean.

use crate::limits::{ADDRESS_MAX_BYTES, LABELS_MAX_BYTES};
use std::fmt;

/// A member as a group's membership names it: a store, by the node it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    node: u64,
    address: String,
    labels: String,
}

impl Member {
    /// A store of the node with this number, which is reached at `address` and has these
    /// failure-domain `labels`.
    ///
    /// # Errors
    /// If one of them is too long.
    pub fn new(
        node: u64,
        address: impl Into<String>,
        labels: impl Into<String>,
    ) -> Result<Member, MemberError> {
        let (address, labels) = (address.into(), labels.into());
        if address.len() > ADDRESS_MAX_BYTES {
            return Err(MemberError::Address { found: address.len() });
        }
        if labels.len() > LABELS_MAX_BYTES {
            return Err(MemberError::Labels { found: labels.len() });
        }
        Ok(Member { node, address, labels })
    }

    /// The number of the node it is in.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Where its peers reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it stands, as text.
    #[must_use]
    pub fn labels(&self) -> &str {
        &self.labels
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {} ({})", self.node, self.address, self.labels)
    }
}

/// Why something cannot be a [`Member`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberError {
    /// The address is too long.
    Address {
        /// Its bytes.
        found: usize,
    },
    /// The labels are too long.
    Labels {
        /// Their bytes.
        found: usize,
    },
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberError::Address { found } => {
                write!(f, "an address has at most {ADDRESS_MAX_BYTES} bytes, this one {found}")
            }
            MemberError::Labels { found } => {
                write!(f, "labels have at most {LABELS_MAX_BYTES} bytes, these {found}")
            }
        }
    }
}

impl std::error::Error for MemberError {}
