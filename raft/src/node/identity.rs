//! Who a node is, kept in its store: a store that holds replicas says whose they are.
//!
//! It is kept as the vote of a group that has nothing else. version u8, cluster [u8; 16], node,
//! store, incarnation u64, whether it is a witness's u8.
//! Invariant: the incarnation grows with every start, and is durable before the node speaks.
//! Must never know: sockets, groups.

use crate::control::ClusterId;
use crate::limits::IDENTITY_GROUP;
use crate::placement::{NodeId, StoreId};
use crate::types::encoding::{Bytes, EncodingError};
use ashlar_engine::local::LocalStore;
use ashlar_engine::units::GroupId;
use ashlar_engine::{Error, ErrorKind, Result};

const VERSION: u8 = 2;
const VERSION_WITHOUT_WITNESSES: u8 = 1;

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    /// 0 until the store was added to the cluster.
    pub(super) store: StoreId,
    pub(super) incarnation: u64,
    /// Whether the store holds only witnesses: it has none of the blocks.
    pub(super) witness: bool,
}

impl Stored {
    /// What the store says, if it says anything.
    ///
    /// # Errors
    /// `Corrupt` if that is not understood.
    pub(super) fn load(store: &LocalStore) -> Result<Option<Stored>> {
        let bytes = store.group(GroupId(IDENTITY_GROUP)).state().vote;
        if bytes.is_empty() {
            return Ok(None);
        }
        let decoded = Stored::decode(&bytes).map_err(|error| {
            let why = format!("the store does not say whose it is: {error}");
            Error::new(ErrorKind::Corrupt, why)
        });
        decoded.map(Some)
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// As the store says.
    pub(super) async fn save(&self, store: &LocalStore) -> Result<()> {
        let mut into = vec![VERSION];
        into.extend(self.cluster.0);
        for number in [self.node.0, self.store.0, self.incarnation] {
            into.extend(number.to_le_bytes());
        }
        into.push(u8::from(self.witness));
        store.group(GroupId(IDENTITY_GROUP)).save_vote(&into).await
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Stored, EncodingError> {
        let is_old = bytes.first() == Some(&VERSION_WITHOUT_WITNESSES);
        let version = if is_old { VERSION_WITHOUT_WITNESSES } else { VERSION };
        let mut bytes = Bytes::of_version(version, bytes)?;
        let mut cluster = ClusterId([0; 16]);
        cluster.0.copy_from_slice(bytes.take(16)?);
        let (node, store) = (NodeId(bytes.u64()?), StoreId(bytes.u64()?));
        let incarnation = bytes.u64()?;
        let witness = match if is_old { 0 } else { bytes.u8()? } {
            0 => false,
            1 => true,
            found => return Err(EncodingError::Kind { of: "store", found }),
        };
        bytes.end()?;
        Ok(Stored { cluster, node, store, incarnation, witness })
    }
}
