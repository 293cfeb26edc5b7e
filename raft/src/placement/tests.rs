//! Goal: placement is fair, stable, apart, and the same everywhere.
//! Method: shares over many groups against the exact probabilities; sets before and after a store
//! comes, goes or changes weight; random topologies with random labels against the rules
//! themselves; golden vectors.

use super::score::{hash, neg_log2, score};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A store with what a [`Candidate`] borrows.
#[derive(Clone, Debug)]
struct Given {
    id: u64,
    node: u64,
    weight: u32,
    witness: bool,
    labels: Labels,
}

fn given(id: u64, weight: u32, labels: &str) -> Given {
    let labels = labels.parse().expect("labels");
    Given { id, node: id, weight, witness: false, labels }
}

fn topology(stores: &[Given]) -> Topology {
    Topology::new(stores.iter().map(|store| Candidate {
        id: StoreId(store.id),
        node: NodeId(store.node),
        weight: store.weight,
        witness: store.witness,
        labels: &store.labels,
    }))
}

fn rule(replicas: u8, apart: Level) -> Rule {
    Rule { replicas, apart, witness: false }
}

fn place(stores: &[Given], group: u64, rule: &Rule) -> Placement {
    topology(stores).choose(group, rule, &BTreeSet::new())
}

/// Probability that each store is among the first `n` drawn by weight without replacement.
fn inclusion(weights: &[u32], n: usize) -> Vec<f64> {
    fn draw(weights: &[u32], left: usize, drawn: &mut Vec<usize>, p: f64, into: &mut [f64]) {
        if left == 0 {
            drawn.iter().for_each(|i| into[*i] += p);
            return;
        }
        let free: Vec<_> = (0..weights.len()).filter(|i| !drawn.contains(i)).collect();
        let sum: f64 = free.iter().map(|i| f64::from(weights[*i])).sum();
        for i in free {
            drawn.push(i);
            draw(weights, left - 1, drawn, p * f64::from(weights[i]) / sum, into);
            drawn.pop();
        }
    }
    let mut into = vec![0.0; weights.len()];
    draw(weights, n, &mut Vec::new(), 1.0, &mut into);
    into
}

/// Counts over many groups must be within five standard deviations of what is due.
#[track_caller]
fn shares_are_due(weights: &[u32], replicas: usize, groups: u64) {
    let stores: Vec<_> = (0..).zip(weights).map(|(i, w)| given(100 + i, *w, "")).collect();
    let topology = topology(&stores);
    let mut counts = vec![0.0; weights.len()];
    for group in 0..groups {
        let rule = rule(replicas as u8, Level::Host);
        for choice in topology.choose(group, &rule, &BTreeSet::new()).replicas {
            counts[(choice.store.0 - 100) as usize] += 1.0;
        }
    }
    let groups = groups as f64;
    for (i, p) in inclusion(weights, replicas).into_iter().enumerate() {
        let (due, sigma) = (groups * p, (groups * p * (1.0 - p)).sqrt());
        let off: f64 = counts[i] - due;
        assert!(off.abs() <= 5.0 * sigma, "store {i}: {} of {due} +- {sigma}", counts[i]);
    }
}

#[test]
fn equal_stores_hold_equal_shares() {
    shares_are_due(&[1000; 8], 3, 20_000);
    shares_are_due(&[1; 5], 5, 1000);
    shares_are_due(&[WEIGHT_MAX; 7], 2, 20_000);
}

#[test]
fn weights_are_respected() {
    shares_are_due(&[1, 2, 3, 4], 1, 50_000);
    shares_are_due(&[100, 200, 400, 800, 1600], 1, 50_000);
    shares_are_due(&[100, 100, 100, 200, 200, 300], 3, 50_000);
    shares_are_due(&[1, WEIGHT_MAX], 1, 200_000);
}

#[test]
fn few_groups_of_a_real_cluster_are_spread() {
    // 12 stores, 8 groups each: nobody is empty and nobody holds more than twice its share.
    let stores: Vec<_> = (0..12).map(|i| given(i, 4096, "")).collect();
    let mut counts = [0; 12];
    for group in 2..2 + 12 * 8 / 3 {
        for store in place(&stores, group, &rule(3, Level::Host)).stores() {
            counts[store.0 as usize] += 1;
        }
    }
    assert!(counts.iter().all(|count| (2..=16).contains(count)), "{counts:?}");
}

#[test]
fn the_logarithm_is_right() {
    for hash in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, 3 << bit, u64::MAX >> bit]) {
        let exact = 64.0 - ((hash | 1) as f64).log2();
        let got = neg_log2(hash) as f64 / (1u64 << 44) as f64;
        assert!((got - exact).abs() < 1e-11, "{hash:#x}: {got} {exact}");
    }
    assert_eq!(neg_log2(0), 64 << 44);
    assert_eq!(neg_log2(1 << 63), (1 << 44) - (neg_log2(1 << 62) - (2 << 44)));
}

#[test]
fn golden_vectors_hold() {
    assert_eq!(hash(0, 0), GOLDEN_HASH[0]);
    assert_eq!(hash(1, 1), GOLDEN_HASH[1]);
    assert_eq!(hash(u64::MAX, 12_345), GOLDEN_HASH[2]);
    assert_eq!(score(7, 9, 1), GOLDEN_SCORE[0]);
    assert_eq!(score(7, 9, 3000), GOLDEN_SCORE[1]);
    let zones = ["zone=a", "zone=b", "zone=c", "zone=d"];
    let stores: Vec<_> =
        (1..=12).map(|i| given(i * 17, 100 * i as u32, zones[i as usize % 4])).collect();
    let found: Vec<Vec<u64>> = (1..=8)
        .map(|group| place(&stores, group, &rule(3, Level::Zone)))
        .map(|placement| placement.replicas.iter().map(|choice| choice.store.0).collect())
        .collect();
    assert_eq!(found, GOLDEN_PLACES);
}

// Hashes and places were also computed with decimal arithmetic of 40 digits, outside of this code.
const GOLDEN_HASH: [u64; 3] =
    [12_977_525_423_617_777_718, 11_522_276_146_272_789_731, 17_967_239_905_117_626_513];
const GOLDEN_SCORE: [u64; 2] = [6_960_985_418_186_752, 2_320_328_472_728];
const GOLDEN_PLACES: [[u64; 3]; 8] = [
    [153, 51, 136],
    [34, 187, 136],
    [136, 153, 51],
    [187, 204, 102],
    [153, 170, 68],
    [34, 204, 85],
    [187, 17, 204],
    [170, 51, 85],
];

#[test]
fn too_few_domains_are_told_and_replicas_stay_as_far_apart_as_can_be() {
    let stores = [
        given(1, 10, "zone=a,rack=1"),
        given(2, 10, "zone=a,rack=1"),
        given(3, 10, "zone=a,rack=2"),
        given(4, 10, "zone=b,rack=1"),
        given(5, 10, "zone=b,rack=2"),
    ];
    let domains = |found, fell_to| {
        let level = Level::Zone;
        vec![Shortfall::Domains { level, wanted: 4, found, fell_to }]
    };
    for group in 0..200 {
        let found = place(&stores, group, &rule(4, Level::Zone));
        let rack = Some(Level::Rack);
        assert_eq!(found.shortfalls, domains(2, rack), "{group}");
        let racks: BTreeSet<_> =
            found.stores().iter().map(|s| stores[s.0 as usize - 1].labels.clone()).collect();
        assert_eq!(racks.len(), 4, "two in each zone, each in a rack of its own");
        let found = place(&stores[..3], group, &rule(4, Level::Zone));
        assert_eq!(found.stores(), [StoreId(1), StoreId(2), StoreId(3)]);
        let fewer = Shortfall::Stores { wanted: 4, found: 3 };
        assert_eq!(found.shortfalls[0], fewer);
        assert_eq!(found.shortfalls[1..], domains(1, Some(Level::Host)));
    }
    let text = domains(2, None)[0].to_string();
    assert_eq!(
        text,
        "4 replicas need 4 different zones, and there are 2 zones with stores that can be used: \
         they are apart only by store; add a store in another zone"
    );
}

#[test]
fn two_stores_of_one_node_are_the_last_resort() {
    let mut stores: Vec<_> = (0..6).map(|i| given(i, 10, "")).collect();
    stores.iter_mut().for_each(|store| store.node = store.id / 2);
    for group in 0..100 {
        let found = place(&stores, group, &rule(3, Level::Host));
        assert_eq!(found.shortfalls, []);
        let nodes: BTreeSet<_> = found.stores().iter().map(|store| store.0 / 2).collect();
        assert_eq!(nodes.len(), 3);
        let found = place(&stores, group, &rule(5, Level::Host));
        assert_eq!(found.replicas.iter().filter(|choice| choice.apart.is_none()).count(), 2);
    }
}

#[test]
fn two_sites_and_a_witness() {
    let mut stores: Vec<_> = (1..=4).map(|i| given(i, 10, "zone=a")).collect();
    stores.extend((5..=8).map(|i| given(i, 10, "zone=b")));
    let witnessed = Rule { replicas: 4, apart: Level::Zone, witness: true };
    assert!(place(&stores, 1, &witnessed).shortfalls.contains(&Shortfall::NoWitness));
    let mut witness = given(9, 10, "zone=b");
    witness.witness = true;
    stores.push(witness);
    let shares = Shortfall::WitnessShares { level: Level::Zone };
    assert!(place(&stores, 1, &witnessed).shortfalls.contains(&shares));
    stores[8].labels = "zone=c".parse().expect("labels");
    for group in 0..100 {
        let found = place(&stores, group, &witnessed);
        let in_a = found.replicas.iter().filter(|choice| choice.store.0 <= 4).count();
        assert_eq!((in_a, found.replicas.len()), (2, 4), "a site lost leaves two and the witness");
        assert_eq!(found.witness.map(|choice| choice.store), Some(StoreId(9)));
        assert_eq!(found.shortfalls.len(), 1, "four replicas in two zones");
        assert!(place(&stores, group, &rule(9, Level::Host)).stores().len() == 8, "never data");
    }
}

#[test]
fn labels_are_parsed_and_refused_with_a_sentence() {
    let labels: Labels = "host=h-1,zone=a".parse().expect("labels");
    assert_eq!(labels.to_string(), "zone=a,host=h-1");
    assert_eq!("".parse(), Ok(Labels::default()));
    assert_eq!("zone".parse::<Labels>(), Err(LabelError::Form("zone".into())));
    assert_eq!("zne=1".parse::<Labels>(), Err(LabelError::Level("zne".into())));
    assert_eq!("zone=a,zone=b".parse::<Labels>(), Err(LabelError::Twice(Level::Zone)));
    assert_eq!("rack=a b".parse::<Labels>(), Err(LabelError::Value(Level::Rack)));
    assert_eq!("rack=".parse::<Labels>(), Err(LabelError::Value(Level::Rack)));
    let long = format!("rack={}", "x".repeat(LABEL_MAX_BYTES + 1));
    assert_eq!(long.parse::<Labels>(), Err(LabelError::Value(Level::Rack)));
}

fn any_labels() -> impl Strategy<Value = Labels> {
    let value = prop_oneof![Just(None), (0u8..3).prop_map(Some)];
    proptest::collection::vec(value, 5).prop_map(|values| {
        let pairs = Level::ALL.into_iter().zip(values);
        pairs.fold(Labels::default(), |labels, (level, value)| match value {
            Some(value) => labels.with(level, &value.to_string()).expect("a label"),
            None => labels,
        })
    })
}

fn any_stores(max: usize) -> impl Strategy<Value = Vec<Given>> {
    let weight = prop_oneof![1 => Just(0u32), 8 => 1u32..2000, 1 => Just(u32::MAX)];
    let store = (0u64..40, 0u64..12, weight, proptest::bool::weighted(0.15), any_labels());
    let store = store.prop_map(|(id, node, weight, witness, labels)| Given {
        id,
        node,
        weight,
        witness,
        labels,
    });
    proptest::collection::vec(store, 0..max).prop_map(|mut stores| {
        let mut seen = BTreeSet::new();
        stores.retain(|store| seen.insert(store.id));
        stores
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (0u8..7, 0usize..5, any::<bool>()).prop_map(|(replicas, level, witness)| Rule {
        replicas,
        apart: Level::ALL[level],
        witness,
    })
}

/// The domain's path, as the module's documentation says it.
fn path(store: &Given, level: Level) -> Vec<String> {
    let above = Level::ALL.into_iter().take_while(|at| *at <= level);
    above
        .map(|at| match store.labels.at(at) {
            Some(label) => format!("label {label}"),
            None if at == Level::Host => format!("node {}", store.node),
            None => String::new(),
        })
        .collect()
}

fn domains<'a>(stores: impl IntoIterator<Item = &'a Given>, level: Level) -> usize {
    stores.into_iter().map(|store| path(store, level)).collect::<BTreeSet<_>>().len()
}

proptest! {
    #[test]
    fn constraints_always_hold(
        stores in any_stores(30), rule in any_rule(), group: u64,
        excluded in proptest::collection::btree_set((0u64..40).prop_map(StoreId), 0..10),
    ) {
        let found = topology(&stores).choose(group, &rule, &excluded);
        let by_id = |id: StoreId| stores.iter().find(|store| store.id == id.0).expect("known");
        let picked: Vec<_> = found.replicas.iter().map(|choice| by_id(choice.store)).collect();
        let usable = |store: &&Given| store.weight > 0 && !excluded.contains(&StoreId(store.id));
        let data: Vec<_> = stores.iter().filter(|s| !s.witness).filter(usable).collect();
        let ids: BTreeSet<_> = picked.iter().map(|store| store.id).collect();
        prop_assert_eq!(ids.len(), picked.len(), "never two on one store");
        prop_assert_eq!(picked.len(), data.len().min(usize::from(rule.replicas)));
        prop_assert!(picked.iter().all(|store| usable(store) && !store.witness));
        // As many domains as can be; one each if there are enough.
        let there = domains(data.iter().copied(), rule.apart);
        prop_assert_eq!(domains(picked.iter().copied(), rule.apart), there.min(picked.len()));
        let told = found.shortfalls.iter().any(|s| matches!(s, Shortfall::Domains { .. }));
        prop_assert_eq!(told, there < picked.len());
        // And no domain is crowded while another one has a store left.
        let in_domain = |all: &[&Given], of: &Given| {
            all.iter().filter(|s| path(s, rule.apart) == path(of, rule.apart)).count()
        };
        for (a, b) in picked.iter().flat_map(|a| data.iter().map(move |b| (a, b))) {
            if in_domain(&data, b) > in_domain(&picked, b) {
                prop_assert!(in_domain(&picked, a) <= in_domain(&picked, b) + 1);
            }
        }
        let witnesses = stores.iter().filter(|s| s.witness).filter(usable).count();
        prop_assert_eq!(found.witness.is_some(), rule.witness && witnesses > 0);
        if let Some(choice) = found.witness {
            prop_assert!(by_id(choice.store).witness);
        }
    }

    #[test]
    fn order_does_not_matter(stores in any_stores(20), rule in any_rule(), group: u64, by: usize) {
        let mut turned = stores.clone();
        turned.rotate_left(by % stores.len().max(1));
        turned.reverse();
        prop_assert_eq!(place(&stores, group, &rule), place(&turned, group, &rule));
    }

    /// With enough domains, a store that comes takes the place of at most one other per group, and
    /// nothing else moves. Read backwards: one that goes is replaced, and nothing else moves.
    #[test]
    fn one_store_moves_one_replica(
        stores in any_stores(30), level in 0usize..5, replicas in 1u8..5, pick: usize, group: u64,
        weight in 0u32..3000,
    ) {
        let rule = rule(replicas, Level::ALL[level]);
        prop_assume!(!stores.is_empty());
        let moved = pick % stores.len();
        let mut without = stores.clone();
        let id = StoreId(without.remove(moved).id);
        let data = without.iter().filter(|store| store.weight > 0 && !store.witness);
        prop_assume!(domains(data, rule.apart) >= usize::from(replicas));
        let all = place(&stores, group, &rule).stores();
        let less = place(&without, group, &rule).stores();
        if all.contains(&id) {
            let stayed = all.iter().filter(|store| less.contains(store)).count();
            prop_assert_eq!(stayed, usize::from(replicas) - 1);
        } else {
            prop_assert_eq!(&all, &less);
        }
        // Excluding is the same as not being there.
        let excluded = topology(&stores).choose(group, &rule, &BTreeSet::from([id]));
        prop_assert_eq!(excluded.stores(), less.clone());
        // A heavier store only gains, a lighter one only loses.
        let mut heavier = stores.clone();
        heavier[moved].weight = heavier[moved].weight.max(weight);
        let heavier = place(&heavier, group, &rule).stores();
        prop_assert!(heavier == all || heavier.contains(&id) && !all.contains(&id));
    }
}

/// Of 20,000 replicas a new store takes what is due to it, within five standard deviations.
#[test]
fn growth_moves_the_ideal_share() {
    let mut stores: Vec<_> = (0..10).map(|i| given(i, 100, "")).collect();
    let sets = |stores: &[Given]| -> Vec<_> {
        let topology = topology(stores);
        let place = |group| topology.choose(group, &rule(1, Level::Host), &BTreeSet::new());
        (0..20_000).map(|group| place(group).stores()).collect()
    };
    let before = sets(&stores);
    stores.push(given(10, 200, ""));
    let after = sets(&stores);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64;
    let p: f64 = 200.0 / 1200.0;
    let sigma = (20_000.0 * p * (1.0 - p)).sqrt();
    assert!((moved - 20_000.0 * p).abs() <= 5.0 * sigma, "{moved}");
}
