//! Goal: no crash, at any point, of any short history, loses or invents anything.
//! Method: every crash state of every schedule of every history of up to three operations,
//! enumerated, from stores in nine conditions (`start`).
//!
//! What is enumerated, and nothing is sampled:
//! - Histories: all sequences of the eight operations of [`model::Op`]; beside them run what the
//!   store does by itself: closing batches, checkpoints, segment changes, cleaning, preparing.
//! - Schedules (`explore`): every request is submitted with the one before it, or after any event
//!   that follows; operations in flight end in every order; time passes whenever the store waits
//!   for it. Schedules that lead to equal devices, stores and answers are one.
//! - Crash states (`device`): at every point of a schedule, every subset of the sectors in doubt.
//!   Why subsets of sectors, not only of blocks or checksummed units, can be had: a sector
//!   that holds the same bytes before and after gives no two states, and what the operations write
//!   differs from what was there in few sectors (`model`). So multi-block headers, closing batches,
//!   chunks, roots and superblocks need no classes of their own.
//! - Double crashes: from every image that a history of one operation may leave, the recovered
//!   store writes on (and takes one more operation) and crashes at every point again.
//!
//! The oracle: the log promises order, so a recovered store holds the effects of the first `n`
//! operations for an `n` that covers every acknowledged one, each whole; every mapped block is read
//! and proved, the counts of the store are audited, and a second recovery finds the same.
//!
//! `ASHLAR_EXHAUSTIVE=full` runs all of it: three operations where the store does nothing by
//! itself, where it does, two, and three of four kinds if it does not clean or prepare. Otherwise
//! histories are shorter by one operation, and few crash twice.

mod device;
mod explore;
mod model;
mod start;
mod world;

use explore::{Explorer, Totals};
use model::{ALL_OPS, Op};
use start::Start;

/// One of each kind that installs differently.
const FEW_OPS: [Op; 4] = [Op::Write, Op::WriteTwo, Op::Trim, Op::Delete];

fn is_full() -> bool {
    std::env::var_os("ASHLAR_EXHAUSTIVE").is_some_and(|value| value == "full")
}

/// Enumerates all histories of at most so many operations and prints what that came to.
fn enumerate(start: &Start, ops: &[Op], ops_max: usize) -> Totals {
    let mut explorer = Explorer::new(start, ops, ops_max);
    explorer.run();
    let totals = explorer.totals;
    println!("{}, {ops_max} of {} operations: {totals}", start.name, ops.len());
    assert!(totals.runs > 0 && totals.states > totals.points && totals.images > 0);
    totals
}

/// As [`enumerate`] for one operation, then the recovered stores crash again.
fn enumerate_twice(start: &Start, ops: &[Op]) {
    let mut explorer = Explorer::new(start, ops, 1);
    let twice = explorer.run_twice(&[Op::Write]);
    println!("{}, crashed twice, {} operations: {twice}", start.name, ops.len());
    assert!(twice.runs > 0 && twice.states > twice.points && twice.images > 0);
}

fn quiet(start: &Start) -> Totals {
    enumerate(start, &ALL_OPS, if is_full() { 3 } else { 2 })
}

/// The store works by itself meanwhile.
fn busy(start: &Start) -> Totals {
    enumerate(start, &ALL_OPS, if is_full() { 2 } else { 1 })
}

/// The same, where schedules are cheap.
fn busy_for_longer(start: &Start) -> Totals {
    if is_full() {
        enumerate(start, &FEW_OPS, 3);
    }
    busy(start)
}

#[test]
fn empty_store() {
    let start = start::empty();
    let reached = enumerate(&start, &[Op::Create, Op::Checkpoint], 3).reached;
    assert!(reached.checkpoints() > 0);
    enumerate_twice(&start, &[Op::Create, Op::Checkpoint]);
}

#[test]
fn fresh_store() {
    assert!(busy_for_longer(&start::fresh()).reached.checkpoints() > 0);
}

#[test]
fn store_with_data() {
    let reached = quiet(&start::data()).reached;
    assert!(reached.checkpoints() > 0 && reached.segments_begun() >= 2);
}

#[test]
fn open_segment() {
    let reached = quiet(&start::in_a_segment()).reached;
    assert!(reached.checkpoints() > 0 && reached.closing_batches() > 0);
}

#[test]
fn checkpoint_due() {
    assert!(busy_for_longer(&start::checkpoint_due()).reached.checkpoints() > 0);
}

#[test]
fn nearly_full_segment() {
    let reached = quiet(&start::nearly_full_segment()).reached;
    // The cold append point has its segment already: filling was enough log for a checkpoint.
    assert!(reached.segments_begun() > 0, "the hot append point changed its segment");
}

#[test]
fn recycled_segments() {
    quiet(&start::recycled_segments());
}

#[test]
fn cleaner_due() {
    let reached = busy(&start::cleaner_due()).reached;
    assert!(reached.relocated_blocks() > 0 && reached.cleaned_segments() > 0);
}

#[test]
fn foreign_segments() {
    assert!(busy(&start::foreign_segments()).reached.segments_prepared() > 0);
}

#[test]
fn crashes_of_recovered_stores() {
    let ops = if is_full() { &ALL_OPS[..] } else { &[Op::Write] };
    for start in [start::data(), start::in_a_segment(), start::recycled_segments()] {
        enumerate_twice(&start, ops);
    }
    if is_full() {
        let busy = [start::fresh(), start::checkpoint_due(), start::nearly_full_segment()];
        busy.iter().for_each(|start| enumerate_twice(start, ops));
    }
}
