//! Goal: a member is not changed into what it must not be.
//! Method: a real node, alone in a simulated world.

use super::super::replica::Replica;
use super::super::{Node, NodeOptions, Timing, parse_address};
use super::*;
use crate::limits::PROPOSAL_BLOCKS_MAX;
use crate::network::append_admitted;
use crate::snapshot::message::Answer as Taken;
use crate::transport;
use crate::types::{Config, Entry, LogId, Vote, log_id};
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

const STORE_BYTES: u64 = 128 << 20;

/// A node that has made a cluster.
async fn alone(reactor: &Reactor) -> Node {
    let device = reactor.open_device("disk", &DeviceOptions::default()).expect("opens");
    let store = LocalStore::create(reactor, device, STORE_BYTES).await.expect("is made");
    let node = Node::start(reactor, store, options()).await.expect("starts");
    node.init("replicas=3".parse().expect("a policy")).await.expect("makes a cluster");
    node
}

/// Of node 1.
pub(super) fn options() -> NodeOptions {
    NodeOptions {
        id: NodeId(1),
        cluster: None,
        listen: parse_address("10.0.0.1:7400").expect("an address"),
        address: "10.0.0.1:7400".into(),
        nbd: Vec::new(),
        labels: "host=h1".parse().expect("labels"),
        peers: Vec::new(),
        witness: false,
        started: 0,
        timing: Timing::default(),
    }
}

/// Runs a program with a node, and its member of the control group.
fn with_member<F: Future<Output = ()>>(run: impl FnOnce(Node, Rc<Replica>) -> F) {
    let world = World::new(1, WorldOptions::default());
    world.create_disk("disk", STORE_BYTES);
    let reactor = world.reactor();
    reactor.block_on(async {
        let node = alone(&reactor).await;
        reactor.sleep(Duration::from_secs(5)).await;
        let replica = node.inner.replica(PgId::CONTROL).expect("runs");
        assert!(replica.leads());
        run(node, replica).await;
    });
    reactor.shutdown();
}

/// A learner that has not caught up does not vote: with it, a quorum might have less than all that
/// was acknowledged, and the group could stand still until it has.
#[test]
fn a_learner_that_is_behind_is_not_promoted() {
    with_member(|node, replica| async move {
        let store = StoreId(99);
        let member = || Member::new(2, "10.0.0.9:7400", "").expect("is short");
        let perform = |step| node.inner.runtime.enter(replica.perform(step, member()));
        perform(Step::AddLearner { store }).await.expect("is added");
        let voters = || replica.membership().0.voter_ids().collect::<Vec<u64>>();
        let before = voters();
        let promoted = perform(Step::Promote { store, instead_of: None }).await;
        let busy =
            |fault: &Fault| matches!(fault, Fault::Refused(e) if e.kind() == ErrorKind::Busy);
        assert!(promoted.as_ref().is_err_and(busy), "{promoted:?}");
        let instead_of = Some(replica.store);
        let promoted = perform(Step::Promote { store, instead_of }).await;
        assert!(promoted.as_ref().is_err_and(busy), "{promoted:?}");
        assert_eq!(voters(), before);
        let retired = perform(Step::Retire { store: replica.store }).await;
        assert!(retired.is_err(), "a group has a voter");
    });
}

/// openraft #1892: what is committed here is not given up for a snapshot that ends with another
/// entry of the same index, or before it.
#[test]
fn a_snapshot_conflicting_with_what_is_committed_is_refused() {
    with_member(|node, replica| async move {
        let applied = replica.log.applied().expect("has entries");
        let term = applied.committed_leader_id().term;
        let vote = Vote::new_committed(term + 9, 7);
        let judge = |last| node.inner.judge_snapshot(PgId::CONTROL, vote, last);
        for index in 0..=applied.index() {
            let judged = judge(log_id(term + 5, index));
            assert!(judged.is_err(), "entry {index}: {judged:?}");
        }
        assert!(matches!(judge(applied), Ok(Some(Taken::Has))));
        assert!(matches!(judge(log_id(term + 5, applied.index() + 1)), Ok(None)));
        let old = node.inner.judge_snapshot(PgId::CONTROL, Vote::new(0, 7), log_id(9, 999));
        assert!(matches!(old, Ok(Some(Taken::HigherVote(_)))));
    });
}

/// What another one, which leads in a newer term, sends after `before`: so many entries, each as
/// large as they get.
fn sent(pool: &BufferPool, before: LogId, count: u64) -> AppendEntriesRequest<Config> {
    let term = before.committed_leader_id().term.max(NEWER_TERM);
    let entries = (before.index() + 1..=before.index() + count).map(|index| {
        let payload = EntryPayload::Normal(write(pool, &[PROPOSAL_BLOCKS_MAX - 1]));
        Entry::new(log_id(term, index), payload)
    });
    let (vote, entries) = (Vote::new_committed(term, 7), entries.collect());
    AppendEntriesRequest { vote, prev_log_id: Some(before), entries, leader_commit: None }
}

const NEWER_TERM: u64 = 99;

/// A member that has taken as much as it may without applying it tells a new leader all the same
/// what it has. Otherwise that is never committed, and the member never gets room.
#[test]
fn a_member_without_room_says_what_it_has() {
    with_member(|node, replica| async move {
        let pool = node.inner.reactor.pool();
        replica.raft.runtime_config().elect(false);
        let start = replica.log.applied().expect("has entries");
        let append = async |before: LogId, count: u64| {
            let request = sent(pool, before, count);
            let appended = append_admitted(&replica.raft, &replica.log, replica.store.0, request);
            node.inner.runtime.enter(appended).await
        };
        let at = |count: u64| log_id(NEWER_TERM, start.index() + count);
        let mut had = 0;
        let refused = loop {
            let before = if had == 0 { start } else { at(had) };
            match append(before, 1).await {
                Ok(answer) => assert!(answer.is_success(), "{answer}"),
                Err(error) => break error,
            }
            had += 1;
            assert!(had <= STORE_BYTES >> 20, "there is always room");
        };
        assert_eq!(refused.kind(), transport::ErrorKind::Busy, "{refused}");
        assert!(had > 4, "it has only {had}");
        let again = append(start, had).await;
        assert!(matches!(again, Ok(AppendEntriesResponse::Success)), "{again:?}");
        let more = append(at(had - 2), 3).await;
        let part = Some(at(had));
        assert!(
            matches!(&more, Ok(AppendEntriesResponse::PartialSuccess(upto)) if *upto == part),
            "{more:?}"
        );
    });
}

/// A copy of a block from a member that is behind would be older than what was damaged: it waits
/// until it is not, and else says so.
#[test]
fn a_member_that_is_behind_gives_no_copy() {
    with_member(|node, replica| async move {
        let write = |fill: u8| {
            let mut data = node.inner.reactor.pool().allocate(BLOCK_SIZE_BYTES);
            data.fill(fill);
            let create = Change::CreateVolume { volume: V, size_bytes: 1 << 20 };
            let write = Change::Write { volume: V, first: BlockIndex(0), data };
            let changes = if fill == 1 { vec![create, write] } else { vec![write] };
            let (proposer, serial) = (77, u64::from(fill));
            Proposal::Write(Write { proposer, serial, epoch: 0, changes: changes.into() })
        };
        let propose = async |fill| {
            let proposed = node.inner.runtime.enter(replica.propose(write(fill))).await;
            assert!(proposed.is_ok(), "{proposed:?}");
        };
        propose(1).await;
        let has = || replica.log.applied().expect("has entries").index();
        let range = Range { volume: V, first: BlockIndex(0), count: 1 };
        let (as_of, parts) = replica.copy(range, has()).await.expect("is not behind");
        assert_eq!((as_of, parts[0][0]), (has(), 1));
        assert!(matches!(replica.copy(range, has() + 1).await, Err(Fault::Unknown(_))));
        let wanted = has() + 1;
        let later = async {
            node.inner.reactor.sleep(Duration::from_secs(1)).await;
            propose(2).await;
        };
        let (copied, ()) = futures_util::future::join(replica.copy(range, wanted), later).await;
        let (as_of, parts) = copied.expect("it has caught up");
        assert_eq!((as_of >= wanted, parts[0][0]), (true, 2));
    });
}

/// Who ends a member may be dropped while it waits, as with the connection that asked for it.
/// Others that use the member get an error then, not a panic.
#[test]
fn a_member_ends_though_nobody_waits() {
    with_member(|node, replica| async move {
        let mut stopping = Box::pin(node.inner.stop_replica(&replica));
        let polled = poll_fn(|context| Poll::Ready(stopping.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "it takes a while");
        drop(stopping);
        node.inner.reactor.sleep(Duration::from_secs(1)).await;
        assert!(node.inner.runtime.enter(replica.barrier()).await.is_err());
        node.inner.stop_replica(&replica).await;
    });
}
