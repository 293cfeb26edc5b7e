//! Goal: writes gather into proposals as the limits say, and what waits is bounded.
//! Method: many writes at the same time to a group that takes its time, by example.

use super::fake::{FakeGroup, Fate, Seen};
use super::*;
use crate::limits::{
    BLOCKS_WAITING_MAX, PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX, PROPOSAL_WORTH_BLOCKS,
    PROPOSAL_WORTH_CHANGES, PROPOSALS_OPEN_MAX, PROPOSALS_UNDER_WAY, WRITES_WAITING_MAX,
};
use crate::types::Change;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;

const BLOCKS: u64 = 2048;
/// Longer than anything that is checked while proposals are under way.
const SLOW: Fate = Fate::Done(Duration::from_secs(1));

struct Setup {
    reactor: Reactor,
    node: Rc<Node>,
    handle: Rc<VolumeHandle>,
    group: Rc<FakeGroup>,
}

/// A volume of one slice that is ready for writes, and a slow group that was asked for nothing
/// since.
async fn setup(reactor: &Reactor) -> Setup {
    let node = Cluster::new(reactor).node(reactor);
    let handle = Rc::new(node.volume(whole(BLOCKS)).open());
    write(&node, &handle, 0..BLOCK, 1).await.expect("is written");
    let group = Rc::clone(&node.cluster.even);
    group.forget();
    group.otherwise.set(SLOW);
    Setup { reactor: reactor.clone(), node, handle, group }
}

impl Setup {
    /// Starts as many writes of so many blocks each, and waits until they have come to the writer.
    async fn start(&self, count: usize, blocks: u64) -> Vec<Task<Result<()>>> {
        let writes = (0..count as u64).map(|i| {
            let (node, handle) = (Rc::clone(&self.node), Rc::clone(&self.handle));
            let first = i * blocks % (BLOCKS - blocks + 1);
            let range = first * BLOCK..(first + blocks) * BLOCK;
            start(&self.node, async move { write(&node, &handle, range, i as u8).await })
        });
        let writes = writes.collect();
        self.reactor.sleep(Duration::from_millis(10)).await;
        writes
    }

    /// Changes of the proposals that came.
    fn changes(&self) -> Vec<usize> {
        self.group.seen().iter().map(|seen| seen.changes).collect()
    }

    fn blocks(&self) -> Vec<usize> {
        self.group.seen().iter().map(|seen| seen.blocks).collect()
    }

    fn writer(&self) -> String {
        format!("{:?}", self.node.writer(EVEN))
    }
}

async fn all_written(writes: Vec<Task<Result<()>>>) {
    for write in writes {
        write.await.expect("is written");
    }
}

#[test]
fn one_proposal_is_under_way_until_enough_writes_have_gathered() {
    simulated(1, async |reactor| {
        let setup = setup(&reactor).await;
        let mut writes = setup.start(PROPOSAL_WORTH_CHANGES, 1).await;
        assert_eq!(setup.changes(), [1], "the first one does not wait, the others gather");
        writes.extend(setup.start(1, 1).await);
        assert_eq!(setup.changes(), [1, PROPOSAL_WORTH_CHANGES]);
        writes.extend(setup.start(PROPOSAL_WORTH_CHANGES - 1, 1).await);
        assert_eq!(setup.changes(), [1, PROPOSAL_WORTH_CHANGES]);
        all_written(writes).await;
        // Fewer went when none was under way any more.
        let gathered = PROPOSAL_WORTH_CHANGES;
        assert_eq!(setup.changes(), [1, gathered, gathered - 1]);
        let seen = setup.group.seen();
        assert_eq!(seconds(&seen), [0, 0, 1]);
    });
}

#[test]
fn clients_that_write_again_at_once_share_every_proposal() {
    const CLIENTS: u64 = 8;
    const ROUNDS: u64 = 20;
    simulated(6, async |reactor| {
        let setup = setup(&reactor).await;
        setup.group.otherwise.set(Fate::Done(Duration::from_millis(1)));
        let clients = (0..CLIENTS).map(|client| {
            let (node, handle) = (Rc::clone(&setup.node), Rc::clone(&setup.handle));
            let range = client * BLOCK..(client + 1) * BLOCK;
            start(&setup.node, async move {
                for round in 0..ROUNDS {
                    write(&node, &handle, range.clone(), round as u8).await?;
                    node.reactor.sleep(Duration::from_micros(10 * client)).await;
                }
                Ok(())
            })
        });
        all_written(clients.collect()).await;
        let changes = setup.changes();
        // Without waiting for each other it is every second one that has all but one of them.
        let shared = changes.iter().filter(|count| **count == CLIENTS as usize).count();
        assert!(shared as u64 >= ROUNDS - 3, "{changes:?}");
    });
}

/// Seconds since the first one.
fn seconds(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|one| (one.at.0 - seen[0].at.0) / 1_000_000_000).collect()
}

#[test]
fn or_enough_blocks() {
    simulated(2, async |reactor| {
        let setup = setup(&reactor).await;
        let mut writes = setup.start(1, 1).await;
        writes.extend(setup.start(1, PROPOSAL_WORTH_BLOCKS as u64 - 1).await);
        assert_eq!(setup.blocks(), [1]);
        writes.extend(setup.start(1, 1).await);
        assert_eq!(setup.blocks(), [1, PROPOSAL_WORTH_BLOCKS]);
        writes.extend(setup.start(1, PROPOSAL_WORTH_BLOCKS as u64).await);
        assert_eq!(setup.blocks(), [1, PROPOSAL_WORTH_BLOCKS, PROPOSAL_WORTH_BLOCKS]);
        all_written(writes).await;
    });
}

#[test]
fn never_more_proposals_are_under_way_than_may_be() {
    simulated(3, async |reactor| {
        let setup = setup(&reactor).await;
        setup.group.otherwise.set(Fate::Done(Duration::from_millis(30)));
        all_written(setup.start(2500, 1).await).await;
        assert_eq!(setup.group.under_way_max.get(), PROPOSALS_UNDER_WAY);
        let changes = setup.changes();
        assert_eq!(changes.iter().sum::<usize>(), 2500);
        assert_eq!(changes.iter().max(), Some(&PROPOSAL_CHANGES_MAX), "and they are full");
        let full = changes.iter().filter(|count| **count == PROPOSAL_CHANGES_MAX).count();
        assert!(full >= 2500 / PROPOSAL_CHANGES_MAX - 3, "{changes:?}");
    });
}

#[test]
fn proposals_keep_the_bound_of_blocks() {
    simulated(4, async |reactor| {
        let setup = setup(&reactor).await;
        // The group refuses to be shown more.
        all_written(setup.start(50, 100).await).await;
        let blocks = setup.blocks();
        assert_eq!(blocks.iter().sum::<usize>(), 5000);
        assert_eq!(blocks.iter().max(), Some(&200), "two fit, three do not: {blocks:?}");
        setup.group.forget();
        let (node, handle) = (&setup.node, &setup.handle);
        let longest = ATOMIC_WRITE_MAX_BYTES as u64;
        write(node, handle, 1..longest + 1, 7).await.expect("the longest, unaligned");
        assert_eq!(setup.blocks(), [PROPOSAL_BLOCKS_MAX]);
    });
}

#[test]
fn writes_that_wait_are_bounded_and_all_come_in_the_end() {
    simulated(5, async |reactor| {
        let setup = setup(&reactor).await;
        let more = 300;
        let proposed = 1 + (PROPOSALS_UNDER_WAY - 1) * PROPOSAL_WORTH_CHANGES;
        let writes = setup.start(proposed + WRITES_WAITING_MAX + more, 1).await;
        let full = format!("Writer({PROPOSALS_UNDER_WAY} open, {WRITES_WAITING_MAX} waiting)");
        assert_eq!(setup.writer(), full);
        all_written(writes).await;
        assert_eq!(setup.writer(), "Writer(0 open, 0 waiting)");
        let all = proposed + WRITES_WAITING_MAX + more;
        assert_eq!(setup.changes().iter().sum::<usize>(), all);
    });
}

#[test]
fn blocks_that_wait_are_bounded() {
    simulated(6, async |reactor| {
        let setup = setup(&reactor).await;
        let waiting = BLOCKS_WAITING_MAX / 256;
        let mut writes = setup.start(PROPOSALS_UNDER_WAY + waiting + 5, 256).await;
        let full = format!("Writer({PROPOSALS_UNDER_WAY} open, {waiting} waiting)");
        assert_eq!(setup.writer(), full);
        // Those that are small do not overtake for ever who needs much room.
        writes.extend(setup.start(20, 1).await);
        all_written(writes).await;
        assert_eq!(setup.blocks().iter().sum::<usize>(), 256 * (9 + waiting) + 20);
    });
}

#[test]
fn writes_of_two_epochs_share_no_proposal() {
    simulated(7, async |reactor| {
        let setup = setup(&reactor).await;
        let writer = setup.node.writer(EVEN);
        let epochs = [1, 1, 1, 2, 2, 1, 3];
        let writes = epochs.map(|epoch| {
            let writer = Rc::clone(&writer);
            let volume = slice_id(FIRST_SLICE, 0);
            let zero = Change::Zero { volume, first: BlockIndex(1), count: 1, reserve: false };
            async move { writer.write(epoch, vec![zero], None).await }
        });
        let results = futures_util::future::join_all(writes).await;
        let seen = setup.group.seen();
        let proposed: Vec<(u64, usize)> = seen.iter().map(|s| (s.epoch, s.changes)).collect();
        assert_eq!(proposed, [(1, 1), (1, 2), (2, 2), (1, 1), (3, 1)], "in order");
        let fenced: Vec<bool> = results.iter().map(Result::is_err).collect();
        assert_eq!(fenced, [false, false, false, false, false, true, false]);
    });
}

#[test]
fn an_open_serial_is_never_so_old_that_its_retry_would_not_be_known() {
    simulated(8, async |reactor| {
        let setup = setup(&reactor).await;
        setup.group.otherwise.set(Fate::Done(Duration::from_millis(1)));
        let before = setup.group.seen().len();
        assert_eq!(before, 0);
        // Serials 1 and 2 made and wrote the volume.
        let stuck = 3;
        setup.group.stuck.set(Some(stuck));
        let (node, handle) = (Rc::clone(&setup.node), Rc::clone(&setup.handle));
        let range = (BLOCKS - 1) * BLOCK..BLOCKS * BLOCK;
        let first = start(&node.clone(), async move { write(&node, &handle, range, 77).await });
        setup.reactor.sleep(Duration::from_millis(10)).await;
        let mut writes = Vec::new();
        for _ in 0..2 * PROPOSALS_OPEN_MAX {
            // In turn more than enough for a proposal.
            writes.extend(setup.start(PROPOSAL_WORTH_CHANGES / 2, 1).await);
        }
        let newest = setup.group.seen().iter().map(|seen| seen.serial).max();
        assert_eq!(newest, Some(stuck + PROPOSALS_OPEN_MAX - 1));
        assert!(!first.is_finished());
        setup.group.stuck.set(None);
        first.await.expect("is written");
        all_written(writes).await;
        let last = read(&setup.handle, (BLOCKS - 1) * BLOCK..BLOCKS * BLOCK).await;
        assert_eq!(last, [77; BLOCK as usize], "it was not taken for a retry of what was done");
    });
}
