//! Goal: log store and state machine keep openraft's promises.
//! Method: openraft's own suite, case by case, each on stores of its own in a simulated world.
//!
//! The suite takes log and state machine for two things and begins logs anywhere. Here the state
//! machine applies what the log has, and a log begins with index 0 or 1. So the state machine has a
//! log of its own, into which entries are put before they are applied, and entries that the suite
//! leaves out before those are blank.

use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::DeviceOptions;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::units::GroupId;
use ashlar_raft::log_store::LogStore;
use ashlar_raft::runtime::ReactorRuntime;
use ashlar_raft::state_machine::{Manifest, SnapshotBuilder, StateMachine};
use ashlar_raft::types::{
    CommittedLeaderId, Config, Entry, LogId, Member, NodeId, StoredMembership, Vote, log_id,
};
use futures_util::stream::{Stream, StreamExt, iter};
use openraft::entry::RaftEntry;
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftStateMachine, Snapshot,
    SnapshotMeta,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{AsyncRuntime, StorageError};
use std::io;

/// A log that may begin anywhere: what is missing before it is blank.
struct Log {
    store: LogStore,
    /// The first entry is there.
    begun: bool,
}

/// A state machine whose entries are put into its log before they are applied.
struct Machine {
    machine: StateMachine,
    log: Log,
}

impl Log {
    fn new(store: LogStore) -> Log {
        Log { store, begun: false }
    }

    /// Blank entries between what is there and `first`.
    async fn before(&mut self, first: LogId) -> Vec<Entry> {
        let last = self.store.get_log_state().await.expect("is known").last_log_id;
        let begin = match last {
            Some(last) if self.begun => last.index() + 1,
            _ if first.index() == 0 => 0,
            _ => 1,
        };
        self.begun = true;
        let term = first.committed_leader_id().term;
        (begin..first.index()).map(|index| Entry::new_blank(log_id(term, index))).collect()
    }
}

impl RaftLogStorage<Config> for Log {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.store.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.store.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry>,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let before = if self.begun { Vec::new() } else { self.before(entries[0].log_id()).await };
        self.store.append(before.into_iter().chain(entries), flushed).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.store.purge(upto).await
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = Manifest;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.machine.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let id = entry.log_id();
            let mut put = self.log.before(id).await;
            let first = put.first().map_or(id.index(), |first| first.log_id().index());
            put.push(entry);
            self.log.store.append(put, IOFlushed::noop()).await?;
            let mut put = self.log.store.try_get_log_entries(first..=id.index()).await?;
            let last = put.pop().expect("was appended");
            let blank = put.into_iter().map(|entry| Ok((entry, None)));
            self.machine.apply(iter(blank.chain([Ok((last, responder))]))).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<CommittedLeaderId, NodeId, Member>,
        data: Manifest,
    ) -> Result<(), io::Error> {
        self.machine.install_snapshot(meta, data).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<CommittedLeaderId, NodeId, Member, Manifest>>, io::Error> {
        self.machine.get_current_snapshot().await
    }
}

/// Makes a store on the current reactor, with a group for the log and one for the state machine.
struct Builder;

impl StoreBuilder<Config, Log, Machine> for Builder {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<Config>> {
        let reactor = ReactorRuntime::new(1).reactor().clone();
        let device = reactor.open_device(DISK, &DeviceOptions::default()).expect("opens");
        let store = LocalStore::create(&reactor, device, STORE_MIN_BYTES).await.expect("is made");
        let log = |group| LogStore::open(store.group(GroupId(group))).expect("is not damaged");
        let applied = log(2);
        let machine = StateMachine::open(applied.clone(), None).expect("is understood");
        Ok(((), Log::new(log(1)), Machine { machine, log: Log::new(applied) }))
    }
}

const DISK: &str = "disk";

type Cases = Suite<Config, Log, Machine, Builder, ()>;

/// Runs a case of the suite.
fn run<F>(seed: u64, name: &str, case: impl FnOnce(Log, Machine) -> F)
where
    F: Future<Output = Result<(), io::Error>>,
{
    let world = World::new(seed, WorldOptions::default());
    world.create_disk(DISK, STORE_MIN_BYTES);
    let runtime = ReactorRuntime::on(&world.reactor(), "node");
    let ran = runtime.enter(async {
        let ((), log, machine) = Builder.build().await.expect("is made");
        case(log, machine).await
    });
    runtime.reactor().block_on(ran).unwrap_or_else(|error| panic!("{name}: {error}"));
    runtime.reactor().shutdown();
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            (0..3).for_each(|seed| run(seed, stringify!($case), Cases::$case));
        }
    )*};
}

// All cases but `transfer_snapshot`: it installs one into a state machine that runs, which is
// refused (`installing_is_refused`); members are brought up while they do not run.
cases!(
    last_membership_in_log_initial,
    last_membership_in_log,
    last_membership_in_log_multi_step,
    get_membership_initial,
    get_membership_from_log_and_empty_sm,
    get_membership_from_empty_log_and_sm,
    get_membership_from_log_le_sm_last_applied,
    get_membership_from_log_gt_sm_last_applied_1,
    get_membership_from_log_gt_sm_last_applied_2,
    get_initial_state_without_init,
    get_initial_state_membership_from_empty_log_and_sm,
    get_initial_state_membership_from_sm_inlog_is_smaller,
    get_initial_state_membership_from_log_insm_is_smaller,
    get_initial_state_with_state,
    get_initial_state_last_log_gt_sm,
    get_initial_state_last_log_lt_sm,
    get_initial_state_inverted_log_order,
    get_initial_state_conflict_at_same_index,
    get_initial_state_log_ids,
    get_initial_state_re_apply_committed,
    save_vote,
    get_log_entries,
    limited_get_log_entries,
    leader_bounded_stream,
    entries_stream,
    try_get_log_entry,
    log_reader_reads_new_entries,
    initial_logs,
    get_log_state,
    get_log_id,
    last_id_in_log,
    last_applied_state,
    purge_logs_upto_0,
    purge_logs_upto_5,
    purge_logs_upto_20,
    delete_logs_after_11,
    delete_logs_after_5,
    delete_logs_after_0,
    delete_logs_after_none,
    append_to_log,
    snapshot_meta,
    snapshot_meta_optional,
    apply_single,
    apply_multiple,
);

/// In place of `transfer_snapshot`.
#[test]
fn installing_is_refused() {
    run(0, "installing", |_, mut machine| async move {
        let entry = Entry::new_blank(log_id(1, 1));
        machine.apply(iter([Ok((entry, None))])).await?;
        let snapshot = machine.get_current_snapshot().await?.expect("of now");
        assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 1)));
        let refused = machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await;
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::Unsupported));
        assert_eq!(machine.applied_state().await?.0, Some(log_id(1, 1)));
        Ok(())
    });
}
