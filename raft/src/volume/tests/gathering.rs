//! Writes gathered into proposals, and the bounds of what waits.

use super::groups::One;
use super::*;
use crate::limits::{
    BLOCKS_WAITING_MAX, PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX, PROPOSALS_UNDER_WAY,
    WRITES_WAITING_MAX,
};
use crate::types::Change;
use crate::volume::Writer;
use ashlar_engine::reactor::LocalBox;
use ashlar_engine::units::{BlockIndex, VolumeId};
use futures_util::future::join_all;
use std::time::Duration;

const V: VolumeId = VolumeId(VolumeId::GROUPS.0 + 7);

/// A writer to a slice that is there.
async fn writer(cluster: &Rc<Cluster>) -> Rc<Writer> {
    let one = Rc::new(One { cluster: Rc::clone(cluster), id: PgId(2) });
    let writer = Writer::new(cluster.reactor.clone(), one, 1);
    let create = Change::CreateVolume { volume: V, size_bytes: 1 << 31 };
    writer.write(1, vec![create], None).await.expect("is made");
    writer
}

type Written = LocalBox<ashlar_engine::Result<()>>;

fn write(cluster: &Cluster, writer: &Rc<Writer>, epoch: u64, at: u64, blocks: usize) -> Written {
    let data = filled(&cluster.reactor, blocks * 4096, at as u8);
    let change = Change::Write { volume: V, first: BlockIndex(at), data };
    let writer = Rc::clone(writer);
    Box::pin(async move { writer.write(epoch, vec![change], None).await })
}

/// Polled in this order.
async fn all(written: Vec<Written>) {
    for written in join_all(written).await {
        written.expect("is written");
    }
}

#[test]
fn small_writes_share_proposals_within_bounds() {
    with_cluster(1, |cluster| async move {
        let writer = writer(&cluster).await;
        all((0..600).map(|at| write(&cluster, &writer, 1, at, 1)).collect()).await;
        let attempts = cluster.take_attempts();
        assert!(attempts.iter().all(|attempt| attempt.changes <= PROPOSAL_CHANGES_MAX));
        assert_eq!(attempts.iter().map(|attempt| attempt.changes).sum::<usize>(), 600);
        let full = attempts.iter().filter(|attempt| attempt.changes == PROPOSAL_CHANGES_MAX);
        assert!(full.count() >= 600 / PROPOSAL_CHANGES_MAX - 1, "{attempts:?}");
        assert!(attempts.len() <= 600 / PROPOSAL_CHANGES_MAX + 3, "{} proposals", attempts.len());
        assert_eq!(cluster.under_way_most(), PROPOSALS_UNDER_WAY);
    });
}

#[test]
fn large_writes_keep_the_bound_of_blocks() {
    with_cluster(1, |cluster| async move {
        let writer = writer(&cluster).await;
        let sizes = [256, 1, 256, 100, 100, 57, 1, 200, 56, 2];
        all((0..).zip(sizes).map(|(i, size)| write(&cluster, &writer, 1, i * 300, size)).collect())
            .await;
        let attempts = cluster.take_attempts();
        assert!(
            attempts.iter().all(|attempt| attempt.blocks <= PROPOSAL_BLOCKS_MAX),
            "{attempts:?}"
        );
        assert_eq!(
            attempts.iter().map(|attempt| attempt.blocks).sum::<usize>(),
            sizes.iter().sum()
        );
        assert!(
            attempts.iter().any(|attempt| attempt.blocks == PROPOSAL_BLOCKS_MAX),
            "{attempts:?}"
        );
        assert!(attempts.len() < sizes.len(), "some share");
    });
}

#[test]
fn writes_of_different_epochs_share_nothing() {
    with_cluster(1, |cluster| async move {
        let writer = writer(&cluster).await;
        let epochs = [1, 1, 1, 1, 2, 2, 3, 3, 3];
        let written = (0..).zip(epochs).map(|(at, epoch)| write(&cluster, &writer, epoch, at, 1));
        // Some are fenced by newer ones.
        join_all(written).await;
        let attempts = cluster.take_attempts();
        for epoch in 1..=3 {
            let changes = attempts.iter().filter(|attempt| attempt.epoch == epoch);
            let expected = epochs.iter().filter(|own| **own == epoch).count();
            assert_eq!(changes.map(|attempt| attempt.changes).sum::<usize>(), expected);
        }
    });
}

/// More than may wait waits outside, and comes in when there is room.
#[test]
fn what_waits_is_bounded() {
    for (count, blocks, most) in
        [(1500, 1, WRITES_WAITING_MAX), (40, 256, BLOCKS_WAITING_MAX / 256)]
    {
        with_cluster(1, |cluster| async move {
            let writer = writer(&cluster).await;
            cluster.decide(|_| Fate::Lost);
            let written: Vec<Written> =
                (0..count).map(|i| write(&cluster, &writer, 1, i * 256, blocks)).collect();
            let written = cluster.reactor.spawn(all(written));
            cluster.reactor.sleep(Duration::from_secs(5)).await;
            let expected = format!("Writer({PROPOSALS_UNDER_WAY} open, {most} waiting)");
            assert_eq!(format!("{writer:?}"), expected);
            cluster.decide(|_| Fate::Told);
            written.await;
            assert_eq!(format!("{writer:?}"), "Writer(0 open, 0 waiting)");
        });
    }
}
