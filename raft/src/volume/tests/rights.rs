//! Who may write.

use super::*;
use ashlar_engine::ErrorKind;
use futures_util::future::join;

async fn is_busy(handle: &VolumeHandle, offset: u64) -> bool {
    let written = handle.fill(offset, 4096, 99).await;
    written.is_err_and(|error| error.kind() == ErrorKind::Busy)
}

/// Who opens the volume last and writes has it; who lost it is refused for ever, also when another
/// handle of the same process has it again.
#[test]
fn a_newer_writer_fences_the_older_for_ever() {
    with_cluster(1, |cluster| async move {
        let (one, other) = (process(&cluster, 1), process(&cluster, 2));
        let first = one.open();
        first.fill(0, 4096, 1).await.expect("attaches");
        first.fill(SLICE, 4096, 1).await.expect("writes");
        let second = other.open();
        second.fill(0, 4096, 2).await.expect("takes over");
        assert!(is_busy(&first, 0).await && is_busy(&first, 0).await);
        assert!(is_busy(&first, SLICE).await, "a slice that nobody took over yet");
        assert!(
            first.trim(0, 4096).await.is_err() && first.write_zeroes(1, 9, false).await.is_err()
        );
        let third = one.open();
        third.fill(0, 4096, 3).await.expect("takes it back");
        assert!(is_busy(&first, 0).await, "it lost the volume");
        assert!(is_busy(&second, 0).await && is_busy(&second, 2 * SLICE).await);
        assert_eq!(third.bytes(0, 4096).await, vec![3; 4096]);
        assert_eq!(third.bytes(SLICE, 4096).await, vec![1; 4096]);
        assert_eq!(second.bytes(0, 4096).await, vec![3; 4096], "it may still read");
    });
}

/// A process that does not know that it lost the volume takes it over for a handle that is opened
/// then, and no handle of before goes on with that.
#[test]
fn who_opens_anew_takes_over_and_nobody_else_profits() {
    with_cluster(1, |cluster| async move {
        let (one, other) = (process(&cluster, 1), process(&cluster, 2));
        let old = one.open();
        old.fill(0, 4096, 1).await.expect("attaches");
        let second = other.open();
        second.fill(0, 512, 2).await.expect("takes over");
        let new = one.open();
        new.fill(512, 512, 3).await.expect("takes it back");
        assert!(is_busy(&old, 0).await);
        let expected = [vec![2; 512], vec![3; 512], vec![1; 3072]].concat();
        assert_eq!(new.bytes(0, 4096).await, expected, "a part of a block was undone");
    });
}

/// Two that take over at once: whoever is refused has changed nothing, and one of them has it.
#[test]
fn takeovers_at_once_undo_nothing() {
    for seed in 0..40 {
        with_cluster(seed, |cluster| async move {
            let (one, other) = (process(&cluster, 1), process(&cluster, 2));
            for round in 0..6_u8 {
                let (left, right) = (one.open(), other.open());
                let (a, b) = (2 * round + 1, 2 * round + 2);
                let (wrote_a, wrote_b) = join(left.fill(0, 512, a), right.fill(512, 512, b)).await;
                let read = left.bytes(0, 1024).await;
                assert!(wrote_a.is_ok() || wrote_b.is_ok(), "nobody has it");
                assert!(wrote_a.is_err() || read[..512] == vec![a; 512], "round {round}");
                assert!(wrote_b.is_err() || read[512..] == vec![b; 512], "round {round}");
                assert!(wrote_a.is_ok() || read[..512] != vec![a; 512], "refused and done");
                assert!(wrote_b.is_ok() || read[512..] != vec![b; 512], "refused and done");
            }
        });
    }
}

/// The right to write goes back with the last handle, and only then.
#[test]
fn the_last_handle_gives_the_right_back() {
    with_cluster(1, |cluster| async move {
        let volume = process(&cluster, 1);
        let handles = [volume.open(), volume.open()];
        assert_eq!(volume.handles(), 2);
        handles[0].fill(0, 4096, 1).await.expect("attaches");
        handles[1].fill(0, 4096, 2).await.expect("shares the right");
        let [one, other] = handles;
        drop(one);
        assert!(cluster.detached.borrow().is_empty());
        other.fill(0, 4096, 3).await.expect("still has it");
        drop(other);
        assert_eq!(*cluster.detached.borrow(), [1]);
        volume.open().fill(0, 4096, 4).await.expect("attaches anew");
        assert_eq!(*cluster.detached.borrow(), [1, 2]);
        drop(volume.open());
        assert_eq!(cluster.detached.borrow().len(), 2, "who never wrote has no right");
    });
}
