//! Goal: what is encoded is what is decoded; nothing else decodes; no bytes make a decoder panic.
//! Method: round trips of arbitrary values, every cut, arbitrary bytes, and values at their bounds.

use ashlar_engine::buffer::{Buffer, BufferPool, PoolOptions};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use ashlar_raft::limits::{
    ADDRESS_MAX_BYTES, COMMAND_MAX_BYTES, HEAD_MAX_BYTES, LABELS_MAX_BYTES, MEMBERS_MAX,
    MEMBERSHIP_MAX_BYTES, PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX,
};
use ashlar_raft::types::encoding::{
    ChangesError, EncodingError, Head, decode_changes, decode_head, decode_outcome,
    decode_stored_membership, decode_vote, encode_changes, encode_head, encode_outcome,
    encode_stored_membership, encode_vote,
};
use ashlar_raft::types::{
    Change, Changes, Member, Membership, Outcome, Payload, Proposal, ProposalError,
    StoredMembership, Vote, Write, log_id,
};
use openraft::EntryPayload;
use openraft::vote::RaftVote;
use openraft::vote::leader_id_std::LeaderId;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn pool() -> BufferPool {
    BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() })
}

fn blocks(count: usize, fill: u8) -> Buffer {
    let mut buffer = pool().allocate(count * BLOCK_SIZE_BYTES);
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = fill.wrapping_add((i / 512) as u8);
    }
    buffer
}

/// All blocks of these changes, one behind the other, as they come from the wire.
fn payload_of(changes: &[Change]) -> Option<Buffer> {
    let data: Vec<&[u8]> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Write { data, .. } => Some(&**data),
            _ => None,
        })
        .collect();
    let bytes = data.concat();
    (!bytes.is_empty()).then(|| {
        let mut buffer = pool().allocate(bytes.len());
        buffer.copy_from_slice(&bytes);
        buffer
    })
}

fn change() -> impl Strategy<Value = Change> {
    let volume = any::<u32>().prop_map(VolumeId);
    let first = any::<u64>().prop_map(BlockIndex);
    (volume, first, any::<u32>(), any::<bool>(), 1_usize..4, any::<u8>(), 0..4).prop_map(
        |(volume, first, count, reserve, len, fill, kind)| match kind {
            0 => Change::Write { volume, first, data: blocks(len, fill) },
            1 => Change::Zero { volume, first, count, reserve },
            2 => Change::CreateVolume { volume, size_bytes: first.0 },
            _ => Change::DeleteVolume { volume },
        },
    )
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = ("[a-z0-9:./]{0,128}", "[a-z0-9=,]{0,384}")
        .prop_map(|(address, labels)| Member::new(7, address, labels).expect("keeps its bounds"));
    let members = btree_map(any::<u64>(), member, 1..=MEMBERS_MAX);
    (members, vec(vec(any::<bool>(), MEMBERS_MAX), 1..=2)).prop_map(|(members, chosen)| {
        let ids: Vec<u64> = members.keys().copied().collect();
        let set = |chosen: &Vec<bool>| {
            let mut set: BTreeSet<u64> =
                ids.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(id, _)| *id).collect();
            set.insert(ids[0]); // A set without voters is none.
            set
        };
        Membership::new(chosen.iter().map(set).collect(), members).expect("is possible")
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(()).prop_map(|()| EntryPayload::Blank),
        (any::<[u64; 3]>(), vec(change(), 0..6)).prop_map(
            |([proposer, serial, epoch], changes)| {
                EntryPayload::Normal(Proposal::Write(Write {
                    proposer,
                    serial,
                    epoch,
                    changes: changes.into(),
                }))
            }
        ),
        (any::<u32>(), any::<u64>()).prop_map(|(volume, epoch)| {
            EntryPayload::Normal(Proposal::Fence { volume: VolumeId(volume), epoch })
        }),
        vec(any::<u8>(), 0..300)
            .prop_map(|command| EntryPayload::Normal(Proposal::Control(command))),
        membership().prop_map(EntryPayload::Membership),
    ]
}

/// No beginning of `bytes` (of long ones: of those tried) decodes, nor do they with more behind
/// them or as another version.
fn is_exact<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, EncodingError>) {
    let step = 1 + bytes.len() / 200;
    for len in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
        assert!(matches!(decode(&bytes[..len]), Err(EncodingError::Short { .. })), "cut at {len}");
    }
    let longer = [bytes, &[0]].concat();
    assert!(matches!(decode(&longer), Err(EncodingError::Long { found: 1 })));
    let mut newer = bytes.to_vec();
    newer[0] += 1;
    let version = EncodingError::Version { expected: bytes[0], found: bytes[0] + 1 };
    assert!(matches!(decode(&newer), Err(error) if error == version));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn heads_and_changes_come_back(payload in payload()) {
        let head = encode_head(&payload).expect("keeps its bounds");
        prop_assert!(head.len() <= HEAD_MAX_BYTES);
        is_exact(&head, decode_head);
        let decoded = decode_head(&head).expect("was encoded");
        let again = encode_head(&payload).expect("keeps its bounds");
        prop_assert_eq!(&again, &head, "one value, one encoding");

        let changes = match &payload {
            EntryPayload::Normal(Proposal::Write(write)) => &*write.changes,
            _ => &[],
        };
        let table = encode_changes(changes).expect("keeps its bounds");
        let carried = decode_changes(&table, payload_of(changes)).expect("was encoded");
        prop_assert_eq!(decoded.changes(), changes.len());
        prop_assert_eq!(decoded.with_changes(carried).expect("belong together"), payload);
    }

    #[test]
    fn a_table_is_exact(changes in vec(change(), 0..6)) {
        let table = encode_changes(&changes).expect("keeps its bounds");
        for len in 0..table.len() {
            let short = decode_changes(&table[..len], payload_of(&changes));
            prop_assert!(short.is_err(), "cut at {}", len);
        }
        let blocks = payload_of(&changes);
        let bytes = blocks.as_ref().map_or(0, |blocks| blocks.len());
        if let Some(blocks) = blocks {
            let (short, _) = blocks.split_at(bytes - BLOCK_SIZE_BYTES);
            let missing = decode_changes(&table, Some(short));
            assert!(matches!(missing, Err(ChangesError::Blocks { .. })));
            assert!(matches!(decode_changes(&table, None), Err(ChangesError::Blocks { .. })));
        }
        let too_many = pool().allocate(bytes + BLOCK_SIZE_BYTES);
        let expected = ChangesError::Blocks { expected: 0, found: BLOCK_SIZE_BYTES };
        prop_assert_eq!(decode_changes(&table, Some(too_many)), Err(expected));
    }

    #[test]
    fn memberships_come_back(membership in membership(), id in any::<Option<(u64, u64)>>()) {
        let id = id.map(|(term, index)| log_id(term, index));
        let stored = StoredMembership::new(id, membership);
        let bytes = encode_stored_membership(&stored).expect("keeps its bounds");
        prop_assert!(bytes.len() <= MEMBERSHIP_MAX_BYTES + 18);
        is_exact(&bytes, decode_stored_membership);
        prop_assert_eq!(decode_stored_membership(&bytes), Ok(stored));
    }

    #[test]
    fn votes_come_back((term, voted_for, committed) in any::<(u64, u64, bool)>()) {
        let vote = Vote::from_leader_id(LeaderId { term, voted_for }, committed);
        let bytes = encode_vote(&vote);
        prop_assert!(bytes.len() <= 64, "what the engine keeps of a vote");
        is_exact(&bytes, decode_vote);
        prop_assert_eq!(decode_vote(&bytes), Ok(vote));
    }

    #[test]
    fn outcomes_come_back(kind in 0..5, epoch in any::<u64>(), answer in vec(any::<u8>(), 0..99)) {
        let outcome = match kind {
            0 => Outcome::Nothing,
            1 => Outcome::Done,
            2 => Outcome::Fenced { epoch },
            3 => Outcome::Busy,
            _ => Outcome::Control(answer),
        };
        let bytes = encode_outcome(&outcome).expect("keeps its bounds");
        is_exact(&bytes, decode_outcome);
        prop_assert_eq!(decode_outcome(&bytes), Ok(outcome));
    }

    /// Whatever decodes encodes to the same bytes: nothing is left unread, nothing has two forms.
    #[test]
    fn arbitrary_bytes_are_refused_or_mean_one_thing(
        kind in 0_u8..6, rest in vec(any::<u8>(), 0..80), small in vec(0_u8..3, 0..60),
    ) {
        for rest in [rest, small] {
            let bytes = [&[1, kind], rest.as_slice()].concat();
            if let Ok(head) = decode_head(&bytes) {
                let count = head.changes();
                let changes = (0..count).map(|_| Change::DeleteVolume { volume: VolumeId(1) });
                let changes: Vec<_> = changes.collect();
                let payload = head.with_changes(changes.into()).expect("as many as it says");
                prop_assert_eq!(encode_head(&payload), Ok(bytes.clone()));
            }
            if let Ok(stored) = decode_stored_membership(&bytes) {
                prop_assert_eq!(encode_stored_membership(&stored), Ok(bytes.clone()));
            }
            if let Ok(outcome) = decode_outcome(&bytes) {
                prop_assert_eq!(encode_outcome(&outcome), Ok(bytes.clone()));
            }
            if let Ok(vote) = decode_vote(&bytes) {
                prop_assert_eq!(encode_vote(&vote), bytes.clone());
            }
            if let Ok(changes) = decode_changes(&bytes, None) {
                prop_assert_eq!(encode_changes(&changes), Ok(bytes));
            }
        }
    }

    #[test]
    fn sets_of_voters_are_ascending(ids in btree_set(any::<u64>(), 2..6)) {
        let members = ids.iter().map(|id| (*id, Member::default())).collect::<BTreeMap<_, _>>();
        let membership = Membership::new(vec![ids.clone()], members).expect("is possible");
        let mut head = encode_head(&EntryPayload::Membership(membership)).expect("fits");
        let ids_at = 4; // Version, kind, sets, voters.
        let (first, second) = (ids_at..ids_at + 8, ids_at + 8..ids_at + 16);
        let swapped = [&head[second], &head[first]].concat();
        head[ids_at..ids_at + 16].copy_from_slice(&swapped);
        prop_assert_eq!(decode_head(&head), Err(EncodingError::Order));
    }
}

#[test]
fn a_head_is_short_and_holds_no_blocks() {
    let write = |len| {
        let data = blocks(len, 1);
        let change = Change::Write { volume: VolumeId(1), first: BlockIndex(2), data };
        let write = Write { proposer: 1, serial: 2, epoch: 3, changes: vec![change].into() };
        encode_head(&EntryPayload::Normal(Proposal::Write(write))).expect("fits")
    };
    assert_eq!(write(1).len(), 28);
    assert_eq!(write(PROPOSAL_BLOCKS_MAX), write(1));
}

#[test]
fn the_largest_membership_has_its_bound() {
    let member = Member::new(u64::MAX, "a".repeat(ADDRESS_MAX_BYTES), "l".repeat(LABELS_MAX_BYTES));
    let member = member.expect("keeps its bounds");
    let full = |members: u64| {
        let ids: BTreeSet<u64> = (0..members).collect();
        let members = ids.iter().map(|id| (*id, member.clone())).collect::<BTreeMap<_, _>>();
        Membership::new(vec![ids.clone(), ids], members).expect("is possible")
    };
    let largest = EntryPayload::Membership(full(MEMBERS_MAX as u64));
    let head = encode_head(&largest).expect("fits");
    assert_eq!(head.len(), 2 + MEMBERSHIP_MAX_BYTES);
    assert!(matches!(decode_head(&head), Ok(Head::Membership(_))));

    let found = MEMBERS_MAX + 1;
    let error = EncodingError::Bound { of: "voters", expected: MEMBERS_MAX, found };
    assert_eq!(encode_head(&EntryPayload::Membership(full(found as u64))), Err(error));
    Member::new(u64::MAX, "a".repeat(ADDRESS_MAX_BYTES + 1), "").expect_err("is too long");
    Member::new(1, "", "l".repeat(LABELS_MAX_BYTES + 1)).expect_err("is too long");
}

#[test]
fn proposals_keep_their_bounds() {
    let data = |len: usize| pool().allocate(len);
    let write = |lens: &[usize]| {
        let change = |len: &usize| Change::Write {
            volume: VolumeId::GROUPS,
            first: BlockIndex(0),
            data: data(*len),
        };
        let changes: Vec<_> = lens.iter().map(change).collect();
        let changes = changes.into();
        Proposal::Write(Write { proposer: 1, serial: 1, epoch: 1, changes }).check()
    };
    let (block, most) = (BLOCK_SIZE_BYTES, PROPOSAL_BLOCKS_MAX);
    assert_eq!(write(&[most * block]), Ok(()));
    assert_eq!(write(&[most * block, block]), Err(ProposalError::Blocks { found: most + 1 }));
    assert_eq!(write(&[block; PROPOSAL_CHANGES_MAX]), Ok(()));
    let found = PROPOSAL_CHANGES_MAX + 1;
    assert_eq!(write(&vec![block; found]), Err(ProposalError::Changes { found }));
    let why = "a change writes whole blocks";
    assert_eq!(write(&[block / 2]), Err(ProposalError::Impossible { why }));
    assert_eq!(write(&[0]), Err(ProposalError::Impossible { why }));

    let command = |len| Proposal::Control(vec![7; len]);
    assert_eq!(command(COMMAND_MAX_BYTES).check(), Ok(()));
    let found = COMMAND_MAX_BYTES + 1;
    assert_eq!(command(found).check(), Err(ProposalError::Command { found }));
    let head = encode_head(&EntryPayload::Normal(command(COMMAND_MAX_BYTES))).expect("fits");
    assert!(head.len() <= HEAD_MAX_BYTES);
    encode_head(&EntryPayload::Normal(command(found))).expect_err("is too long");
}

#[test]
fn lengths_are_bounded_before_anything_is_allocated() {
    let head = [&[1, 3][..], &u32::MAX.to_le_bytes()].concat();
    let found = u32::MAX as usize;
    let expected = COMMAND_MAX_BYTES;
    let error = EncodingError::Bound { of: "bytes of a command", expected, found };
    assert_eq!(decode_head(&head), Err(error));

    let table = [&[1, 1, 1][..], &[0; 12], &u32::MAX.to_le_bytes()].concat();
    let error = EncodingError::Bound { of: "blocks", expected: PROPOSAL_BLOCKS_MAX, found };
    assert_eq!(decode_changes(&table, None), Err(ChangesError::Table(error)));
}

#[test]
fn changes_belong_to_their_head() {
    let change = || Changes::from(vec![Change::DeleteVolume { volume: VolumeId(3) }]);
    let head = Head::Write { proposer: 1, serial: 1, epoch: 1, changes: 2 };
    let error = EncodingError::Changes { expected: 2, found: 1 };
    assert_eq!(head.with_changes(change()), Err(error));
    let error = EncodingError::Changes { expected: 0, found: 1 };
    assert_eq!(Head::Blank.with_changes(change()), Err(error));
}
