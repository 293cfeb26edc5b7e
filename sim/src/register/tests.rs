//! Goal: the checkers agree with the definition. Method: all orders of small random histories,
//! tried one by one, against both; and hand-made cases.

use super::*;

/// Tries every order of every choice of optional writes.
fn brute_force(initial: u64, writes: &[Write], reads: &[Read]) -> bool {
    let chosen = |mask: u32| {
        let mut optional = 0;
        let writes = writes.iter().filter(|write| {
            optional += u32::from(write.optional);
            !write.optional || mask & 1 << (optional - 1) != 0
        });
        writes.copied().collect::<Vec<_>>()
    };
    let optional = writes.iter().filter(|write| write.optional).count();
    (0..1 << optional).any(|mask| order(initial, &mut chosen(mask), &mut reads.to_vec()))
}

/// Whether some order of all of these works. Next may come what began before anything left ended.
fn order(value: u64, writes: &mut Vec<Write>, reads: &mut Vec<Read>) -> bool {
    let ends = writes.iter().map(|w| w.end).chain(reads.iter().map(|r| r.end));
    let Some(limit) = ends.min() else { return true };
    for i in 0..reads.len() {
        if reads[i].begin <= limit && reads[i].value == value {
            let read = reads.remove(i);
            let found = order(value, writes, reads);
            reads.insert(i, read);
            if found {
                return true;
            }
        }
    }
    for i in 0..writes.len() {
        if writes[i].begin <= limit {
            let write = writes.remove(i);
            let found = order(write.value, writes, reads);
            writes.insert(i, write);
            if found {
                return true;
            }
        }
    }
    false
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::sector::mix(self.0) % bound
    }
}

/// Up to seven operations with begins and ends in random order; values as `value` says.
fn history(random: &mut Random, zeroes: bool) -> (Vec<Write>, Vec<Read>) {
    let count = 1 + random.below(7) as usize;
    let mut moments: Vec<u64> = (1..=2 * count as u64).collect();
    for i in (1..moments.len()).rev() {
        moments.swap(i, random.below(i as u64 + 1) as usize);
    }
    // Neighbours are close in time, so that order matters.
    if random.below(2) == 0 {
        moments.chunks_mut(6).for_each(<[u64]>::sort_unstable);
    }
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for pair in moments.chunks(2) {
        let (begin, end) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        if random.below(2) == 0 {
            let value = if zeroes && random.below(2) == 0 { 0 } else { writes.len() as u64 + 1 };
            writes.push(Write { value, begin, end, optional: random.below(3) == 0 });
        } else {
            reads.push(Read { value: 0, begin, end });
        }
    }
    for read in &mut reads {
        read.value = random.below(writes.len() as u64 + 1);
    }
    (writes, reads)
}

fn compare(zeroes: bool, rounds: u64) -> [u64; 2] {
    let (mut random, mut count) = (Random(7), [0; 2]);
    for round in 0..rounds {
        let (writes, reads) = history(&mut random, zeroes);
        let expected = brute_force(0, &writes, &reads);
        let seen: Vec<Write> = writes
            .iter()
            .filter(|w| !w.optional || reads.iter().any(|r| r.value == w.value))
            .copied()
            .collect();
        for found in [check(0, &writes, &reads), search::check(0, &seen, &reads)] {
            let valid = found == Verdict::Valid;
            assert_eq!(valid, expected, "round {round}: {found:?} {writes:?} {reads:?}");
        }
        count[usize::from(expected)] += 1;
    }
    count
}

#[test]
fn zones_agree_with_all_orders() {
    let [invalid, valid] = compare(false, 100_000);
    assert!(invalid > 10_000 && valid > 10_000, "{invalid} invalid, {valid} valid");
}

#[test]
fn search_agrees_with_all_orders() {
    let [invalid, valid] = compare(true, 100_000);
    assert!(invalid > 10_000 && valid > 10_000, "{invalid} invalid, {valid} valid");
}

fn write(value: u64, begin: u64, end: u64) -> Write {
    Write { value, begin, end, optional: false }
}

#[test]
fn what_was_overwritten_stays_overwritten() {
    let writes = [write(1, 1, 2), write(2, 3, 4)];
    let read = |value| [Read { value, begin: 5, end: 6 }];
    assert_eq!(check(0, &writes, &read(2)), Verdict::Valid);
    assert!(matches!(check(0, &writes, &read(1)), Verdict::Invalid(_)));
    assert!(matches!(check(0, &writes, &read(0)), Verdict::Invalid(_)));
    assert!(matches!(check(0, &writes, &read(9)), Verdict::Invalid(_)));
}

#[test]
fn a_lost_answer_leaves_both_ways_open_until_somebody_looked() {
    let lost = [Write { optional: true, ..write(1, 1, 10) }];
    let read = |value, begin| Read { value, begin, end: begin + 1 };
    assert_eq!(check(0, &lost, &[read(0, 20)]), Verdict::Valid);
    assert_eq!(check(0, &lost, &[read(1, 20)]), Verdict::Valid);
    assert_eq!(check(0, &lost, &[read(0, 2), read(1, 20)]), Verdict::Valid);
    assert!(matches!(check(0, &lost, &[read(1, 2), read(0, 20)]), Verdict::Invalid(_)));
    // It cannot happen after its time is over.
    assert!(matches!(check(0, &lost, &[read(0, 20), read(1, 30)]), Verdict::Invalid(_)));
}
