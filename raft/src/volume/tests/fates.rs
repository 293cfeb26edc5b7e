//! Goal: whatever becomes of proposals on their way, a write is carried out once, nobody is told
//! what is not known, and who is told that nobody knows finds the blocks held until it is known.
//! Method: single attempts are lost, delayed, refused, by example.

use super::fake::{FakeGroup, Fate};
use super::*;
use crate::limits::{PROPOSAL_WORTH_CHANGES, WRITE_MAX};
use ashlar_engine::units::Nanos;
use std::collections::BTreeSet;

const BLOCKS: u64 = 64;

struct Setup {
    reactor: Reactor,
    node: Rc<Node>,
    handle: Rc<VolumeHandle>,
    group: Rc<FakeGroup>,
}

/// A volume of one slice that is ready for writes, and a group that was asked for nothing since.
async fn setup(reactor: &Reactor) -> Setup {
    let node = Cluster::new(reactor).node(reactor);
    let handle = Rc::new(node.volume(whole(BLOCKS)).open());
    write(&node, &handle, 0..BLOCK, 1).await.expect("is written");
    let group = Rc::clone(&node.cluster.even);
    group.forget();
    Setup { reactor: reactor.clone(), node, handle, group }
}

impl Setup {
    fn fates(&self, fates: &[Fate]) {
        self.group.fates.borrow_mut().extend(fates);
    }

    async fn write(&self, block: u64, fill: u8) -> Result<()> {
        write(&self.node, &self.handle, block * BLOCK..(block + 1) * BLOCK, fill).await
    }

    fn start(&self, block: u64, fill: u8) -> Task<(Result<()>, Nanos)> {
        let (node, handle) = (Rc::clone(&self.node), Rc::clone(&self.handle));
        start(&self.node, async move {
            let range = block * BLOCK..(block + 1) * BLOCK;
            (write(&node, &handle, range, fill).await, node.reactor.now())
        })
    }

    async fn first_byte(&self, block: u64) -> u8 {
        read(&self.handle, block * BLOCK..block * BLOCK + 1).await[0]
    }

    fn serials(&self) -> BTreeSet<u64> {
        self.group.seen().iter().map(|seen| seen.serial).collect()
    }

    async fn wait(&self, seconds: u64) {
        self.reactor.sleep(Duration::from_secs(seconds)).await;
    }
}

const DONE: Fate = Fate::Done(Duration::ZERO);
const NO_SPACE: Fate = Fate::Refused(ErrorKind::NoSpace);
const UNSURE: Fate = Fate::Unsure(Duration::ZERO);

#[test]
fn an_unknown_fate_is_tried_again_with_the_same_serial() {
    simulated(1, async |reactor| {
        let setup = setup(&reactor).await;
        setup.fates(&[Fate::Lost, UNSURE, Fate::Lost, UNSURE, DONE]);
        setup.write(3, 7).await.expect("is written in the end");
        let seen = setup.group.seen();
        assert_eq!((seen.len(), setup.serials().len()), (5, 1));
        assert!(seen.iter().all(|one| (one.changes, one.blocks) == (1, 1)));
        let pauses: Vec<u64> =
            seen.windows(2).map(|two| (two[1].at.0 - two[0].at.0) / 1_000_000).collect();
        assert_eq!(pauses, [20, 40, 80, 160], "each pause is twice the one before");
        assert_eq!(setup.group.done.get(), 1, "carried out once");
        assert_eq!(setup.first_byte(3).await, 7);
        setup.write(4, 8).await.expect("is written");
        assert_eq!(setup.serials().len(), 2, "another write has another serial");
    });
}

#[test]
fn an_attempt_that_comes_late_undoes_no_newer_write() {
    simulated(2, async |reactor| {
        let setup = setup(&reactor).await;
        setup.fates(&[Fate::Unsure(Duration::from_secs(10)), DONE]);
        setup.write(3, 7).await.expect("is written by the second attempt");
        setup.write(3, 8).await.expect("is written");
        setup.wait(11).await;
        assert_eq!((setup.first_byte(3).await, setup.group.done.get()), (8, 2));
    });
}

#[test]
fn a_refusal_of_the_first_attempt_is_told_at_once() {
    simulated(3, async |reactor| {
        let setup = setup(&reactor).await;
        setup.fates(&[NO_SPACE]);
        assert_eq!(kind(setup.write(3, 7).await), ErrorKind::NoSpace);
        // What was judged and not done leaves no doubt either.
        setup.fates(&[Fate::Busy, Fate::Busy, NO_SPACE]);
        assert_eq!(kind(setup.write(3, 8).await), ErrorKind::NoSpace);
        assert_eq!((setup.group.seen().len(), setup.serials().len()), (4, 2));
        assert_eq!((setup.first_byte(3).await, setup.group.done.get()), (0, 0));
        setup.fates(&[Fate::Busy, DONE]);
        setup.write(3, 9).await.expect("a busy group is asked again");
        assert_eq!(setup.first_byte(3).await, 9);
    });
}

#[test]
fn a_refusal_after_an_unsure_attempt_is_not_believed() {
    simulated(4, async |reactor| {
        let setup = setup(&reactor).await;
        // The first attempt is carried out after others were refused.
        let late = Fate::Unsure(Duration::from_millis(100));
        setup.fates(&[late, NO_SPACE, NO_SPACE, NO_SPACE]);
        setup.write(3, 7).await.expect("it was written after all");
        assert_eq!((setup.group.seen().len(), setup.serials().len()), (5, 1));
        assert_eq!((setup.first_byte(3).await, setup.group.done.get()), (7, 1));
    });
}

#[test]
fn what_a_full_group_refuses_for_ever_is_settled() {
    simulated(10, async |reactor| {
        let setup = setup(&reactor).await;
        setup.fates(&[Fate::Unsure(WRITE_MAX + Duration::from_secs(10))]);
        let unsure = setup.start(4, 8);
        setup.reactor.sleep(Duration::from_millis(10)).await;
        setup.group.full.set(true);
        // Refused until the end: then nobody knows, whatever the last refusal says.
        assert_eq!(kind(unsure.await.0), ErrorKind::Failed);
        setup.wait(2).await;
        assert_eq!((setup.serials().len(), setup.group.done.get()), (1, 1), "it is known now");
        assert_eq!(kind(setup.write(4, 9).await), ErrorKind::NoSpace, "and holds nobody up");
        // The first attempt comes when something else was carried out in its place.
        setup.wait(10).await;
        assert_eq!((setup.first_byte(4).await, setup.group.done.get()), (0, 1));
        setup.group.full.set(false);
        setup.write(4, 9).await.expect("is written");
        assert_eq!(setup.first_byte(4).await, 9);
    });
}

#[test]
fn who_waits_behind_what_nobody_knows_is_told_in_time() {
    simulated(11, async |reactor| {
        let setup = setup(&reactor).await;
        setup.group.otherwise.set(Fate::Lost);
        assert_eq!(kind(setup.write(3, 7).await), ErrorKind::Failed);
        let began = reactor.now();
        for waiting in [setup.start(3, 8), setup.start(4, 9)] {
            let (told, at) = waiting.await;
            assert_eq!(kind(told), ErrorKind::Failed);
            assert!(at.since(began) < WRITE_MAX + Duration::from_secs(2));
        }
        setup.group.otherwise.set(DONE);
        setup.wait(2).await;
        assert_eq!((setup.first_byte(3).await, setup.first_byte(4).await), (7, 0));
        assert_eq!(setup.serials().len(), 1, "what was not tried was not tried later either");
        setup.write(4, 10).await.expect("is written");
    });
}

#[test]
fn who_writes_is_told_in_time_and_it_is_tried_on() {
    simulated(5, async |reactor| {
        let setup = setup(&reactor).await;
        setup.group.otherwise.set(Fate::Lost);
        let began = reactor.now();
        let error = setup.write(3, 7).await.expect_err("nobody knows");
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains("nobody knows"), "{error}");
        let took = Duration::from_nanos(reactor.now().0 - began.0);
        assert!(took >= WRITE_MAX && took < WRITE_MAX + Duration::from_secs(2), "{took:?}");
        let told = setup.group.seen().len();
        setup.wait(60).await;
        let tried = setup.group.seen().len() - told;
        assert!((55..=60).contains(&tried), "{tried} attempts in a minute");
        assert_eq!(setup.group.done.get(), 0);
        setup.group.otherwise.set(DONE);
        setup.wait(2).await;
        assert_eq!((setup.first_byte(3).await, setup.serials().len()), (7, 1));
        let all = setup.group.seen().len();
        setup.wait(60).await;
        assert_eq!(setup.group.seen().len(), all, "what is known is not tried any more");
    });
}

#[test]
fn blocks_of_an_unknown_fate_are_held_until_it_is_known() {
    simulated(6, async |reactor| {
        let setup = setup(&reactor).await;
        // Two go out as one; then the group answers nothing, but takes one attempt late.
        setup.fates(&[Fate::Unsure(WRITE_MAX + Duration::from_secs(20))]);
        setup.group.otherwise.set(Fate::Lost);
        assert_eq!(kind(setup.write(3, 7).await), ErrorKind::Failed);
        let over_it = setup.start(3, 8);
        setup.wait(10).await;
        assert_eq!(setup.serials().len(), 1, "who wants the block waits");
        let beside = setup.start(4, 9);
        let again = setup.start(3, 10);
        setup.wait(5).await;
        assert!(!over_it.is_finished() && !beside.is_finished() && !again.is_finished());
        let healed = reactor.now();
        setup.group.otherwise.set(DONE);
        for write in [over_it, beside, again] {
            let (written, at) = write.await;
            written.expect("is written");
            assert!(at > healed);
        }
        assert_eq!((setup.first_byte(3).await, setup.first_byte(4).await), (10, 9));
        // The attempt that was long under way comes now, when everybody has gone on.
        setup.wait(30).await;
        assert_eq!((setup.first_byte(3).await, setup.first_byte(4).await), (10, 9));
    });
}

#[test]
fn who_is_told_that_nobody_knows_may_read_either() {
    simulated(7, async |reactor| {
        let setup = setup(&reactor).await;
        setup.fates(&[Fate::Unsure(Duration::from_secs(40))]);
        setup.group.otherwise.set(Fate::Lost);
        let told = setup.write(0, 7).await;
        assert_eq!((kind(told), setup.first_byte(0).await), (ErrorKind::Failed, 1));
        setup.wait(15).await;
        assert_eq!(setup.first_byte(0).await, 7, "reads do not wait");
    });
}

#[test]
fn a_write_is_carried_out_also_when_nobody_waits_for_it() {
    simulated(8, async |reactor| {
        let setup = setup(&reactor).await;
        setup.fates(&[Fate::Lost, Fate::Lost]);
        let gone = setup.start(3, 7);
        setup.reactor.sleep(Duration::from_millis(10)).await;
        assert_eq!(setup.group.seen().len(), 1);
        gone.cancel().await;
        // Its blocks are held for it all the same: byte by byte over it comes after it.
        let byte = 3 * BLOCK..3 * BLOCK + 1;
        write(&setup.node, &setup.handle, byte, 8).await.expect("is written");
        let expected = [&[8][..], &[7; BLOCK as usize - 1]].concat();
        assert_eq!(read(&setup.handle, 3 * BLOCK..4 * BLOCK).await, expected);
    });
}

#[test]
fn others_go_on_while_blocks_of_an_unknown_fate_are_held() {
    simulated(9, async |reactor| {
        let setup = setup(&reactor).await;
        // Serials 1 and 2 made and wrote the volume; the third is always lost.
        setup.group.stuck.set(Some(3));
        assert_eq!(kind(setup.write(3, 7).await), ErrorKind::Failed);
        let over_it = setup.start(3, 8);
        let others: Vec<_> =
            (0..PROPOSAL_WORTH_CHANGES as u64).map(|i| setup.start(4 + i, 9)).collect();
        for other in others {
            other.await.0.expect("enough have gathered to go beside it");
        }
        setup.wait(5).await;
        assert!(!over_it.is_finished(), "it would be undone by what is still tried");
        setup.group.stuck.set(None);
        over_it.await.0.expect("is written");
        setup.wait(5).await;
        assert_eq!(setup.first_byte(3).await, 8);
    });
}
