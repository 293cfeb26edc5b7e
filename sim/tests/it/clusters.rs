//! Goal: clusters hold in a fixed set of seeds, and each kind of trouble by itself.
//! Method: whole seeds in this process, with real openraft on simulated machines.

use ashlar_sim::cluster;
use ashlar_sim::plan::{Class, Limits};
use ashlar_sim::seed::Outcome;

/// Seeds of every run of the tests.
const SEEDS: u64 = 6;

fn limits(only: Option<&[Class]>) -> Limits {
    let all = Class::CLUSTER.into_iter().map(|(class, _)| class);
    let without = all.filter(|class| only.is_some_and(|only| !only.contains(class)));
    Limits { cluster: true, without: without.collect(), ..Limits::default() }
}

#[track_caller]
fn holds(seed: u64, limits: &Limits) -> Outcome {
    let outcome = cluster::run(seed, limits, false);
    let violation = outcome.violation.as_ref().map(ToString::to_string);
    assert_eq!(violation, None, "cargo run --release -p ashlar-sim -- replay {seed} --cluster");
    outcome
}

#[test]
fn a_fixed_set_of_clusters_holds() {
    let (mut acknowledged, mut crashes) = (0, 0);
    for seed in 1..=SEEDS {
        let outcome = holds(seed, &limits(None));
        acknowledged += outcome.tally.acknowledged;
        crashes += outcome.tally.crashes;
    }
    assert!(acknowledged > 100 * SEEDS, "{acknowledged} requests acknowledged");
    assert!(crashes > SEEDS, "{crashes} crashes");
}

#[test]
fn a_cluster_does_the_same_twice() {
    let [one, two] = [(), ()].map(|()| cluster::run(3, &limits(None), false));
    assert_eq!(one.trace, two.trace);
    assert_eq!(one.tally.acknowledged, two.tally.acknowledged);
}

/// Runs seeds that have these classes of trouble, and no others, until so many were seen.
#[track_caller]
fn with_only(classes: &[Class], count: usize) {
    let limits = limits(Some(classes));
    let has_all = |seed: &u64| {
        let plan = cluster::ClusterPlan::draw(*seed, &limits);
        classes.iter().all(|class| plan.has(*class))
    };
    for seed in (1..).filter(has_all).take(count) {
        holds(seed, &limits);
    }
}

/// A leader that starts again in its old term must not answer before it has applied what it had
/// acknowledged, nor give another entry the id of one that it has forgotten.
#[test]
fn a_leader_that_starts_again_does_not_lead_on() {
    with_only(&[Class::NodeKill, Class::NodePower], 2);
}

/// All at once: votes, logs and applied state are found as they were durable.
#[test]
fn a_blackout_loses_nothing() {
    with_only(&[Class::Blackout], 2);
}

/// Two halves that see each other through one host: a leader is found, and stays.
#[test]
fn a_bridge_between_two_halves_and_one_way_cuts_are_survived() {
    with_only(&[Class::Bridge, Class::OneWay], 2);
}

/// A wiped voter comes back under another identity, and is made anew.
#[test]
fn a_wiped_node_is_made_anew_under_another_identity() {
    with_only(&[Class::Wipe], 2);
}

/// Who takes over a volume reads what was acknowledged before; who was fenced is not acknowledged.
#[test]
fn takeovers_fence_and_lose_nothing() {
    with_only(&[Class::Takeover, Class::Partial], 2);
}

/// Members change while nodes die.
#[test]
fn members_change_in_the_middle_of_trouble() {
    with_only(&[Class::Members, Class::NodeKill], 2);
}

/// Clocks that are apart and go wrong decide nothing.
#[test]
fn clocks_and_pauses_do_not_matter() {
    with_only(&[Class::Clocks, Class::Pause], 2);
}

/// Of everything, some member has a sound copy: all is mended, and nothing wrong is served.
#[test]
fn rot_is_mended_and_never_served() {
    with_only(&[Class::RotAll], 2);
    with_only(&[Class::RotOne, Class::NodeKill], 2);
}

/// A failing or full disk costs its own member only.
#[test]
fn failing_and_full_disks_cost_nobody_else() {
    with_only(&[Class::DiskFails], 2);
    with_only(&[Class::DiskFull], 2);
}

/// What changes on its way between nodes is found by its checksum.
#[test]
fn garbled_frames_are_never_taken() {
    with_only(&[Class::Garble], 2);
}

#[test]
fn nodes_that_are_ended_in_order_hand_over() {
    with_only(&[Class::NodeStop], 2);
}

/// One replica of three has no blocks: where it leads it hands over, and what only it and one other
/// had is there when the other one is back.
#[test]
fn a_witness_keeps_two_replicas_going() {
    with_only(&[Class::Witness, Class::NodeKill, Class::NodePower], 2);
    with_only(&[Class::Witness, Class::Heavy, Class::NodeKill], 1);
}

/// Volumes that stores hardly hold, overwritten without pauses while one disk is slow.
#[test]
fn tight_stores_go_on() {
    with_only(&[Class::Tight], 1);
}
