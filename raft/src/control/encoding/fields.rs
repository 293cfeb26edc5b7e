//! Commands, outcomes and their parts, field by field.

use super::super::command::{Command, Operation, StoreSpec};
use super::super::limits::{MEMBERS_MAX, POLICIES_MAX, SLICES_PER_VOLUME_MAX, STORES_MAX};
use super::super::model::{
    ClusterId, ClusterVolumeId, DeviceUuid, Member, NodeSpec, NodeState, PgId, PolicyId, Role,
    Settings, Step,
};
use super::super::outcome::{Bound, Outcome, Refusal};
use super::super::policy::Policy;
use super::bytes::{DecodeError, Field, Reader, Writer};
use crate::placement::{Labels, Level, NodeId, StoreId};

newtype!(ClusterId([u8; 16]), 0);
newtype!(DeviceUuid([u8; 16]), 0);
newtype!(NodeId(u64), 0);
newtype!(StoreId(u64), STORES_MAX); // Stores to avoid.
newtype!(ClusterVolumeId(u64), 0);
newtype!(PgId(u32), SLICES_PER_VOLUME_MAX);
newtype!(PolicyId(u16), 0);

record!(Command, 0, { proposer: u64, serial: u64, operation: Operation });
record!(StoreSpec, 0, {
    device: DeviceUuid,
    size_bytes: u64,
    weight: Option<u32>,
    witness: bool,
    groups_max: u32,
});
record!(NodeSpec, 0, {
    address: String,
    nbd: Vec<String>,
    labels: Labels,
    incarnation: u64,
});
record!(Member, MEMBERS_MAX, { store: StoreId, role: Role });
record!(Settings, 0, { grace_seconds: u32, moves_max: u16 });

alternatives!(Operation, "operation", 0, {
    1 => Init { cluster, node, store, policy },
    2 => AdmitNode { cluster, node },
    3 => UpdateNode { node, spec },
    4 => Drain { node, on },
    5 => RemoveNode { node },
    6 => AddStore { node, store },
    7 => RemoveStore { store },
    8 => SetWeight { store, weight },
    9 => CreateVolume { name, size_bytes, policy, slice_bytes, avoid },
    10 => DeleteVolume { volume },
    11 => VolumeDropped { volume },
    12 => Attach { volume, node },
    13 => Detach { volume, node, epoch },
    14 => SetControlPolicy { policy },
    15 => SetSettings { settings },
    16 => GroupStarted { group, epoch },
    17 => Aim { group, epoch, target },
    18 => Begin { group, epoch, step },
    19 => Finish { group, epoch, done },
});

alternatives!(Step, "step", 0, {
    1 => AddLearner { store },
    2 => Promote { store, instead_of },
    3 => Retire { store },
    4 => Remove { store },
});

alternatives!(Role, "role", 0, { 1 => Voter, 2 => Learner, 3 => Witness });
alternatives!(NodeState, "node state", 0, { 1 => Joining, 2 => Up, 3 => Draining, 4 => Removed });
alternatives!(Level, "level", 0, {
    1 => Operator,
    2 => Region,
    3 => Zone,
    4 => Rack,
    5 => Host,
});

alternatives!(Outcome, "outcome", super::super::limits::COMMANDS_PER_PROPOSER_MAX, {
    1 => Done,
    2 => Node(id),
    3 => Store(id),
    4 => Volume(id),
    5 => Attached { volume, epoch },
    6 => Refused(refusal),
});

alternatives!(Bound, "bound", 0, {
    1 => Nodes,
    2 => Stores,
    3 => Volumes,
    4 => Slices,
    5 => Groups,
    6 => State,
});

alternatives!(Refusal, "refusal", 0, {
    1 => TooOld,
    2 => NoCluster,
    3 => ClusterExists,
    4 => OtherCluster,
    5 => UnknownNode(node),
    6 => NodeGone(node),
    7 => NodeJoining(node),
    8 => OldIncarnation { node, newest },
    9 => AddressTaken(node),
    10 => Address,
    11 => NodeHolds { node, groups },
    12 => UnknownStore(store),
    13 => DeviceKnown(store),
    14 => DeviceElsewhere(node),
    15 => StoreHolds { store, groups },
    16 => StoreSize(bytes),
    17 => Weight(weight),
    18 => Full(bound),
    19 => Name(name),
    20 => NameTaken(volume),
    21 => VolumeSize(bytes),
    22 => SliceSize(bytes),
    23 => TooManySlices(slices),
    24 => TooFewStores { wanted, found },
    25 => UnknownVolume(volume),
    26 => Attached { volume, node },
    27 => NotDeleting(volume),
    28 => NotAttached(node),
    29 => OldEpoch { epoch },
    30 => Setting,
    31 => UnknownGroup(group),
    32 => OldGroupEpoch { group, epoch },
    33 => StepPending(group),
    34 => NoStep(group),
    35 => NotStarted(group),
    36 => Target(group),
    37 => Unsafe(group),
});

/// Replicas, level, witness; only policies that make sense.
impl Field for Policy {
    const MIN_BYTES: usize = 3;
    const LIST_MAX: usize = POLICIES_MAX;

    fn put(&self, writer: &mut Writer) {
        self.replicas().put(writer);
        self.apart().put(writer);
        self.witness().put(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Policy, DecodeError> {
        let (replicas, apart) = (u8::read(reader)?, Level::read(reader)?);
        let witness = bool::read(reader)?;
        Policy::new(replicas, apart, witness).map_err(|_| DecodeError::Value { of: "policy" })
    }
}

/// One optional text for each level, the widest first.
impl Field for Labels {
    const MIN_BYTES: usize = Level::ALL.len();

    fn put(&self, writer: &mut Writer) {
        for level in Level::ALL {
            self.at(level).map(str::to_owned).put(writer);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Labels, DecodeError> {
        let mut labels = Labels::default();
        for level in Level::ALL {
            if let Some(value) = Option::<String>::read(reader)? {
                let with = labels.with(level, &value);
                labels = with.map_err(|_| DecodeError::Value { of: "label" })?;
            }
        }
        Ok(labels)
    }
}
