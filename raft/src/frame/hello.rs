//! The first frame of each side: who it is, whom it wants, and what it speaks.
//!
//! Invariant: a wrong cluster, a wrong node behind an address, or the node itself is refused by
//! name before anything else is said.
//! Must never know: addresses, other connections.

use super::limits::{VERSION_NEWEST, VERSION_OLDEST};
use super::{ClusterId, Farewell, NodeId};
use std::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Later versions may add fields behind; these stay.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawHello {
    cluster: [u8; 16],
    node: U64,
    incarnation: U64,
    /// 0 if any.
    wanted: U64,
    attempt: U64,
    oldest: U16,
    newest: U16,
    reserved: U32,
}
const _: () = assert!(size_of::<RawHello>() == 56 && align_of::<RawHello>() == 1);
const _: () = assert!(size_of::<RawHello>() <= super::limits::HELLO_MAX_BYTES);

/// Protocol versions that a node speaks: all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Lowest.
    pub oldest: u16,
    /// Highest.
    pub newest: u16,
}

impl Versions {
    /// Those that this code speaks.
    pub const OURS: Versions = Versions { oldest: VERSION_OLDEST, newest: VERSION_NEWEST };

    /// The newest that both speak.
    #[must_use]
    pub fn common(self, other: Versions) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number there.
    pub node: NodeId,
    /// Grows with every start of the node: of two that claim the same number the newer is believed.
    pub incarnation: u64,
    /// What it speaks.
    pub versions: Versions,
}

/// What a side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is.
    pub identity: Identity,
    /// Whom it takes the other side for, if it has called it.
    pub wanted: Option<NodeId>,
    /// Grows with every hello of an incarnation: tells a new connection from one that was given up.
    pub attempt: u64,
}

/// Why a head is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// Too short.
    Length {
        /// Bytes of a hello.
        expected: usize,
        /// Bytes of the head.
        found: usize,
    },
    /// Node 0 is nobody.
    Nobody,
    /// No versions at all.
    Versions {
        /// As it says.
        found: Versions,
    },
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::Length { expected, found } => {
                write!(f, "a hello has {expected} bytes, found {found}")
            }
            HelloError::Nobody => f.write_str("node 0 is nobody"),
            HelloError::Versions { found } => write!(f, "{found} are no protocol versions"),
        }
    }
}

/// Why a node is not spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It belongs to another cluster.
    OtherCluster {
        /// Ours.
        expected: ClusterId,
        /// Its.
        found: ClusterId,
    },
    /// It is another node than the one that was wanted.
    OtherNode {
        /// The one wanted.
        expected: NodeId,
        /// The one that is there.
        found: NodeId,
    },
    /// A node has reached itself.
    Itself,
    /// No protocol version in common.
    NoVersion {
        /// Ours.
        expected: Versions,
        /// Its.
        found: Versions,
    },
    /// The cluster has no such node.
    Stranger {
        /// Who it says it is.
        found: NodeId,
    },
    /// It has been started again since.
    OlderLife {
        /// The newest start known.
        expected: u64,
        /// Its.
        found: u64,
    },
    /// There is another connection between the two, or about to be.
    Duplicate,
}

impl Refusal {
    /// What the other side is told.
    #[must_use]
    pub fn farewell(&self) -> Farewell {
        match self {
            Refusal::OtherCluster { .. } => Farewell::OtherCluster,
            Refusal::OtherNode { .. } => Farewell::OtherNode,
            Refusal::Itself => Farewell::Itself,
            Refusal::NoVersion { .. } => Farewell::NoVersion,
            Refusal::Stranger { .. } => Farewell::Stranger,
            Refusal::OlderLife { .. } => Farewell::OlderLife,
            Refusal::Duplicate => Farewell::Duplicate,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::OtherCluster { expected, found } => {
                write!(f, "wrong cluster: expected {expected}, found {found}")
            }
            Refusal::OtherNode { expected, found } => {
                write!(f, "wrong node: expected {expected}, found {found}")
            }
            Refusal::Itself => f.write_str("this is the node itself"),
            Refusal::NoVersion { expected, found } => {
                write!(f, "no common protocol version: expected {expected}, found {found}")
            }
            Refusal::Stranger { found } => write!(f, "the cluster has no node {found}"),
            Refusal::OlderLife { expected, found } => {
                write!(f, "an older start of the node: expected {expected} or later, found {found}")
            }
            Refusal::Duplicate => f.write_str("there is another connection"),
        }
    }
}

impl Hello {
    /// The head that says so.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Identity { cluster, node, incarnation, versions } = self.identity;
        let raw = RawHello {
            cluster: cluster.0,
            node: node.0.into(),
            incarnation: incarnation.into(),
            wanted: self.wanted.map_or(0, |node| node.0).into(),
            attempt: self.attempt.into(),
            oldest: versions.oldest.into(),
            newest: versions.newest.into(),
            reserved: 0.into(),
        };
        raw.as_bytes().to_vec()
    }

    /// Reads a head. What a later version has added behind is not looked at.
    ///
    /// # Errors
    /// If it cannot be a hello.
    pub fn decode(head: &[u8]) -> Result<Hello, HelloError> {
        let Ok((raw, _)) = RawHello::ref_from_prefix(head) else {
            let expected = size_of::<RawHello>();
            return Err(HelloError::Length { expected, found: head.len() });
        };
        let versions = Versions { oldest: raw.oldest.get(), newest: raw.newest.get() };
        if versions.oldest > versions.newest || versions.oldest == 0 {
            return Err(HelloError::Versions { found: versions });
        }
        if raw.node.get() == 0 {
            return Err(HelloError::Nobody);
        }
        let identity = Identity {
            cluster: ClusterId(raw.cluster),
            node: NodeId(raw.node.get()),
            incarnation: raw.incarnation.get(),
            versions,
        };
        let wanted = (raw.wanted.get() != 0).then_some(NodeId(raw.wanted.get()));
        Ok(Hello { identity, wanted, attempt: raw.attempt.get() })
    }

    /// Whether the sender is one to speak with; then the version to speak. `expected` is the node
    /// that was called, if this side called.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, own: &Identity, expected: Option<NodeId>) -> Result<u16, Refusal> {
        let their = &self.identity;
        if their.cluster != own.cluster {
            return Err(Refusal::OtherCluster { expected: own.cluster, found: their.cluster });
        }
        if their.node == own.node {
            return Err(Refusal::Itself);
        }
        for (expected, found) in [(expected, their.node), (self.wanted, own.node)] {
            if let Some(expected) = expected.filter(|node| *node != found) {
                return Err(Refusal::OtherNode { expected, found });
            }
        }
        let (expected, found) = (own.versions, their.versions);
        expected.common(found).ok_or(Refusal::NoVersion { expected, found })
    }
}
