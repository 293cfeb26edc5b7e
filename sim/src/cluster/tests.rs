//! Goal: the judge of takeovers sees what it is for, and nothing else.

use super::writers::Writers;

#[test]
fn who_was_fenced_must_not_be_acknowledged() {
    let mut writers = Writers::default();
    let (one, two, same) = (writers.open((0, 1)), writers.open((1, 1)), writers.open((0, 1)));
    assert!(writers.may_be_fenced(one) && writers.may_be_fenced(two));
    assert!(!writers.may_be_fenced(same));
    writers.acknowledged(one, 1, 2).expect("the first");
    writers.acknowledged(same, 3, 4).expect("of the same process");
    writers.acknowledged(one, 5, 9).expect("nobody took it over");
    writers.acknowledged(two, 6, 8).expect("takes over");
    writers.acknowledged(one, 7, 10).expect("was asked before the takeover was acknowledged");
    assert!(writers.acknowledged(one, 9, 12).is_err(), "asked after it");
    assert!(writers.acknowledged(same, 9, 12).is_err(), "shares that right");
    writers.acknowledged(two, 20, 21).expect("holds the right");
    let again = writers.open((0, 1));
    writers.acknowledged(again, 22, 23).expect("takes it back");
    assert!(writers.acknowledged(two, 24, 25).is_err());
    writers.acknowledged(again, 26, 27).expect("holds it");
}
