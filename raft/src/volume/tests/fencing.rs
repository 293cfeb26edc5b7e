//! Goal: who took a volume over writes, and who lost it never does again under the handle that
//! lost it.
//! Method: two nodes open one volume of several slices and write in turn, by example.

use super::fake::{Asked, Fate};
use super::*;

struct Setup {
    cluster: Rc<Cluster>,
    one: Rc<Node>,
    other: Rc<Node>,
    volume: Rc<ClusterVolume>,
    /// The same volume at the other node.
    theirs: Rc<ClusterVolume>,
}

fn setup(reactor: &Reactor) -> Setup {
    let cluster = Cluster::new(reactor);
    let (one, other) = (cluster.node(reactor), cluster.node(reactor));
    let (volume, theirs) = (one.volume(sliced(SIZE, SLICE)), other.volume(sliced(SIZE, SLICE)));
    Setup { cluster, one, other, volume, theirs }
}

const BEGIN: Range<u64> = 0..BLOCK;

#[test]
fn who_was_fenced_is_refused_for_ever_and_a_new_handle_takes_over() {
    simulated(1, async |reactor| {
        let Setup { one, other, volume, theirs, .. } = setup(&reactor);
        let (old, their) = (volume.open(), theirs.open());
        write(&one, &old, BEGIN, 1).await.expect("is written");
        write(&other, &their, BEGIN, 2).await.expect("takes over");
        for _ in 0..3 {
            assert_eq!(kind(write(&one, &old, BEGIN, 3).await), ErrorKind::Busy);
            assert_eq!(kind(old.write_zeroes(0, BLOCK, true).await), ErrorKind::Busy);
            assert_eq!(kind(old.trim(0, BLOCK).await), ErrorKind::Busy);
        }
        assert_eq!(read(&old, BEGIN).await, [2; BLOCK as usize], "reads go on");
        write(&other, &their, BEGIN, 4).await.expect("nobody took it back");
        assert_eq!(*one.attached.borrow(), [1], "a handle asks for the right once");
        let new = volume.open();
        write(&one, &new, BEGIN, 5).await.expect("takes it back");
        assert_eq!(kind(write(&other, &their, BEGIN, 6).await), ErrorKind::Busy);
        // The process has the right again; the handle that lost it has not.
        assert_eq!(kind(write(&one, &old, BEGIN, 7).await), ErrorKind::Busy);
        write(&one, &new, BEGIN, 8).await.expect("is written");
        assert_eq!(read(&their, BEGIN).await, [8; BLOCK as usize]);
    });
}

#[test]
fn every_slice_refuses_who_was_fenced() {
    simulated(2, async |reactor| {
        let Setup { cluster, one, other, volume, theirs } = setup(&reactor);
        let (old, their) = (volume.open(), theirs.open());
        write(&one, &old, 0..SIZE, 1).await.expect("is written");
        cluster.odd.forget();
        // Only one slice is written; the writer before must not go on in the others.
        write(&other, &their, BEGIN, 2).await.expect("takes over");
        let second = SLICE..SLICE + 9;
        assert_eq!(kind(write(&one, &old, second.clone(), 3).await), ErrorKind::Busy);
        cluster.even.forget();
        assert_eq!(kind(write(&one, &old, BEGIN, 3).await), ErrorKind::Busy);
        assert!(cluster.even.asked.borrow().is_empty(), "it knows by itself");
        write(&other, &their, second, 4).await.expect("is written");
        let asked = cluster.odd.asked.borrow();
        let fences = asked.iter().filter(|asked| **asked == Asked::Fence(2)).count();
        assert_eq!(fences, 2, "each of its two slices is fenced once: {asked:?}");
    });
}

#[test]
fn a_group_without_a_leader_does_not_keep_others_from_being_taken_over() {
    simulated(8, async |reactor| {
        let Setup { cluster, one, other, volume, theirs } = setup(&reactor);
        let (old, their) = (volume.open(), theirs.open());
        write(&one, &old, 0..SIZE, 1).await.expect("is written");
        cluster.odd.fences_wait.set(true);
        write(&other, &their, BEGIN, 2).await.expect("takes over");
        assert_eq!(kind(write(&one, &old, BEGIN, 3).await), ErrorKind::Busy);
        cluster.odd.forget();
        let second = SLICE..SLICE + 9;
        let (node, range) = (Rc::clone(&other), second.clone());
        let late = start(&other, async move { write(&node, &their, range, 4).await });
        reactor.sleep(Duration::from_secs(60)).await;
        assert!(cluster.odd.asked.borrow().is_empty(), "nothing is written before it is fenced");
        cluster.odd.fences_wait.set(false);
        late.await.expect("is written");
        assert_eq!(read(&old, second).await, [4; 9]);
    });
}

#[test]
fn handles_of_a_process_share_the_right_and_the_last_gives_it_back() {
    simulated(3, async |reactor| {
        let Setup { cluster, one, volume, .. } = setup(&reactor);
        let (a, b) = (volume.open(), volume.open());
        write(&one, &a, BEGIN, 1).await.expect("is written");
        write(&one, &b, BEGIN, 2).await.expect("is written");
        write(&one, &a, BEGIN, 3).await.expect("is written");
        assert_eq!((one.attached.borrow().clone(), volume.handles()), (vec![1], 2));
        drop(a);
        assert!(one.detached.borrow().is_empty());
        cluster.even.forget();
        write(&one, &b, BEGIN, 4).await.expect("is written");
        assert!(matches!(&cluster.even.asked.borrow()[..], [Asked::Write(_)]));
        drop(b);
        assert_eq!((one.detached.borrow().clone(), volume.handles()), (vec![1], 0));
        let c = volume.open();
        write(&one, &c, BEGIN, 5).await.expect("is written");
        assert_eq!(*one.attached.borrow(), [1, 2], "with a newer epoch");
        assert!(cluster.even.asked.borrow().contains(&Asked::Fence(2)), "fenced anew");
    });
}

#[test]
fn a_handle_that_first_writes_after_a_takeover_takes_over() {
    for hears in [false, true] {
        simulated(4, async |reactor| {
            let Setup { cluster, one, other, volume, theirs } = setup(&reactor);
            one.hears.set(hears);
            let (old, new, their) = (volume.open(), volume.open(), theirs.open());
            write(&one, &old, BEGIN, 1).await.expect("is written");
            write(&other, &their, BEGIN, 2).await.expect("takes over");
            cluster.even.forget();
            // Nobody at this node was refused anything yet.
            write(&one, &new, BEGIN, 3).await.expect("takes over");
            let fences = cluster.even.asked.borrow().clone();
            let fences = fences.iter().filter(|asked| matches!(asked, Asked::Fence(_))).count();
            assert_eq!(fences, 2, "both slices");
            let tried = cluster.even.seen().iter().filter(|seen| seen.epoch == 1).count();
            assert_eq!(tried, usize::from(!hears), "what it heard of it does not try");
            assert_eq!(*one.attached.borrow(), [1, 3]);
            assert_eq!(kind(write(&one, &old, BEGIN, 4).await), ErrorKind::Busy);
            assert_eq!(kind(write(&other, &their, BEGIN, 4).await), ErrorKind::Busy);
            assert_eq!(read(&old, BEGIN).await, [3; BLOCK as usize]);
        });
    }
}

#[test]
fn what_a_fenced_writer_has_under_way_is_not_carried_out() {
    simulated(5, async |reactor| {
        let Setup { cluster, one, other, volume, theirs } = setup(&reactor);
        let (old, their) = (Rc::new(volume.open()), theirs.open());
        write(&one, &old, BEGIN, 1).await.expect("is written");
        // Under way while the other node takes over, reads what is around, and writes that back.
        cluster.even.fates.borrow_mut().push_back(Fate::Unsure(Duration::from_millis(15)));
        let (node, handle) = (Rc::clone(&one), Rc::clone(&old));
        let late = start(&one, async move { write(&node, &handle, BEGIN, 2).await });
        reactor.sleep(Duration::from_millis(2)).await;
        write(&other, &their, 5..6, 3).await.expect("takes over");
        assert_eq!(kind(late.await), ErrorKind::Busy);
        reactor.sleep(Duration::from_secs(1)).await;
        let expected = [&[1; 5][..], &[3], &[1; BLOCK as usize - 6]].concat();
        assert_eq!(read(&their, BEGIN).await, expected);
    });
}

#[test]
fn a_retry_of_what_was_done_before_a_takeover_is_done() {
    simulated(6, async |reactor| {
        let Setup { cluster, one, other, volume, theirs } = setup(&reactor);
        let (old, their) = (Rc::new(volume.open()), theirs.open());
        write(&one, &old, BEGIN, 1).await.expect("is written");
        // Carried out, but its answers are lost until after the takeover.
        cluster.even.fates.borrow_mut().push_back(Fate::Unsure(Duration::ZERO));
        let (node, handle) = (Rc::clone(&one), Rc::clone(&old));
        let first = start(&one, async move { write(&node, &handle, BEGIN, 2).await });
        reactor.sleep(Duration::from_millis(2)).await;
        write(&other, &their, BEGIN, 3).await.expect("takes over");
        first.await.expect("it was carried out");
        assert_eq!(read(&their, BEGIN).await, [3; BLOCK as usize], "and not once more");
        assert_eq!(kind(write(&one, &old, BEGIN, 4).await), ErrorKind::Busy);
    });
}

#[test]
fn a_first_write_takes_the_right_also_where_another_slice_was_lost() {
    simulated(7, async |reactor| {
        let Setup { one, other, volume, theirs, .. } = setup(&reactor);
        one.hears.set(true);
        let (old, their) = (volume.open(), theirs.open());
        write(&one, &old, BEGIN, 1).await.expect("is written");
        let second = SLICE..SLICE + BLOCK;
        write(&other, &their, second.clone(), 2).await.expect("takes over");
        let new = volume.open();
        write(&one, &new, BEGIN, 3).await.expect("takes it back");
        write(&one, &new, second.clone(), 4).await.expect("has the right to the other slice too");
        let refused = write(&other, &their, second, 5).await;
        assert_eq!(kind(refused), ErrorKind::Busy);
    });
}
