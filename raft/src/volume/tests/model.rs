//! Random requests, many at once, fates drawn: against an array of bytes.

use super::*;
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Op {
    Write { handle: usize, bytes: Range<u64> },
    Zero { handle: usize, bytes: Range<u64>, reserve: bool },
    Trim { handle: usize, bytes: Range<u64> },
    Read { handle: usize, bytes: Range<u64> },
}

fn bytes() -> impl Strategy<Value = Range<u64>> {
    let near = |edge: u64| (edge.saturating_sub(30)..(edge + 30).min(SIZE)).boxed();
    let edges = prop_oneof![
        0..SIZE,
        (0..SIZE / 4096).prop_map(|block| block * 4096),
        near(SLICE),
        near(2 * SLICE),
        near(SIZE - 1024),
    ];
    let lengths = prop_oneof![1..600_u64, 1..SIZE, (1..6_u64).prop_map(|blocks| blocks * 4096)];
    (edges, lengths).prop_map(|(start, length)| start..(start + length).min(SIZE))
}

fn op() -> impl Strategy<Value = Op> {
    let handle = 0..3_usize;
    prop_oneof![
        5 => (handle.clone(), bytes()).prop_map(|(handle, bytes)| Op::Write { handle, bytes }),
        1 => (handle.clone(), bytes(), any::<bool>())
            .prop_map(|(handle, bytes, reserve)| Op::Zero { handle, bytes, reserve }),
        1 => (handle.clone(), bytes()).prop_map(|(handle, bytes)| Op::Trim { handle, bytes }),
        2 => (handle, bytes()).prop_map(|(handle, bytes)| Op::Read { handle, bytes }),
    ]
}

impl Op {
    /// Bytes that it changes, and to what.
    fn changes(&self, fill: u8) -> Option<(Range<u64>, u8)> {
        match self {
            Op::Write { bytes, .. } => Some((bytes.clone(), fill)),
            Op::Zero { bytes, .. } => Some((bytes.clone(), 0)),
            Op::Trim { bytes, .. } => {
                let end = if bytes.end == SIZE { SIZE } else { bytes.end - bytes.end % 4096 };
                Some((bytes.start.next_multiple_of(4096).min(end)..end, 0))
            }
            Op::Read { .. } => None,
        }
    }

    async fn run(&self, handles: &[VolumeHandle], fill: u8) -> Option<Vec<u8>> {
        match self.clone() {
            Op::Write { handle, bytes } => {
                let length = (bytes.end - bytes.start) as usize;
                handles[handle].fill(bytes.start, length, fill).await.expect("writes");
            }
            Op::Zero { handle, bytes, reserve } => {
                let length = bytes.end - bytes.start;
                let zeroed = handles[handle].write_zeroes(bytes.start, length, reserve).await;
                zeroed.expect("zeroes");
            }
            Op::Trim { handle, bytes } => {
                let trimmed = handles[handle].trim(bytes.start, bytes.end - bytes.start).await;
                trimmed.expect("trims");
            }
            Op::Read { handle, bytes } => {
                let length = (bytes.end - bytes.start) as u32;
                return Some(handles[handle].bytes(bytes.start, length).await);
            }
        }
        None
    }
}

/// What a byte may be: what it was, or what one of those who are at it makes of it.
fn allowed(was: u8, at: u64, round: &[Op], fills: &[u8], must: bool) -> Vec<u8> {
    let changes = round.iter().zip(fills).filter_map(|(op, fill)| op.changes(*fill));
    let mut values: Vec<u8> =
        changes.filter(|(bytes, _)| bytes.contains(&at)).map(|(_, value)| value).collect();
    if !must || values.is_empty() {
        values.push(was);
    }
    values
}

async fn live(cluster: Rc<Cluster>, seed: u64, rounds: Vec<Vec<Op>>) {
    let mut random = cluster.reactor.random(&format!("fates {seed}"));
    cluster.decide(move |_| match random.below(10) {
        0 => Fate::Lost,
        1 => Fate::Silent,
        2 => Fate::Late(Duration::from_millis(random.below(3000))),
        3 => Fate::Crowded,
        _ => Fate::Told,
    });
    let volume = process(&cluster, 1);
    let handles = [volume.open(), volume.open(), volume.open()];
    let mut model = vec![0; SIZE as usize];
    let mut fill = 0_u8;
    for round in rounds {
        let fills: Vec<u8> = round
            .iter()
            .map(|_| {
                fill = fill % 250 + 1;
                fill
            })
            .collect();
        let ran = round.iter().zip(&fills).map(|(op, fill)| op.run(&handles, *fill));
        let ran = join_all(ran).await;
        for (op, read) in round.iter().zip(ran) {
            let (Op::Read { bytes, .. }, Some(read)) = (op, read) else { continue };
            assert_eq!(read.len() as u64, bytes.end - bytes.start);
            for (at, byte) in bytes.clone().zip(read) {
                let values = allowed(model[at as usize], at, &round, &fills, false);
                assert!(values.contains(&byte), "byte {at} reads {byte}, not {values:?}");
            }
        }
        let found = handles[0].whole().await;
        for (at, byte) in (0..).zip(&found) {
            let values = allowed(model[at as usize], at, &round, &fills, true);
            assert!(values.contains(byte), "byte {at} is {byte}, not {values:?}: {round:?}");
        }
        model = found;
    }
    // What came late is told from new writes.
    cluster.reactor.sleep(Duration::from_secs(4)).await;
    assert!(handles[0].whole().await == model, "an old write over a newer one");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 64,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_volume_is_an_array_of_bytes(
        seed in any::<u64>(),
        rounds in vec(vec(op(), 1..7), 1..12),
    ) {
        with_cluster(seed, |cluster| live(cluster, seed, rounds));
    }
}
