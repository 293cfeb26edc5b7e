//! Goal: a leaf is a map of 512 blocks. Method: random operations against a plain array.

use super::*;
use crate::format::IMAGE_DENSE_BYTES;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Model {
    location: u32,
    header: u32,
    sum: u32,
}

#[derive(Clone, Debug)]
enum Op {
    Map { first: u32, count: u32 },
    Reserve { first: u32, count: u32 },
    Unmap { first: u32, count: u32 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || {
        prop_oneof![
            4 => (0u32..512, 1u32..3),
            2 => (0u32..512, 1u32..40),
            1 => (0u32..512, 1u32..513),
        ]
        .prop_map(|(first, count)| (first, count.min(512 - first)))
    };
    let op = prop_oneof![
        12 => range().prop_map(|(first, count)| Op::Map { first, count }),
        1 => range().prop_map(|(first, count)| Op::Reserve { first, count }),
        2 => range().prop_map(|(first, count)| Op::Unmap { first, count }),
    ];
    prop::collection::vec(op, 1..600)
}

fn check(leaf: &Leaf, model: &[Option<Model>]) {
    let mut block = 0;
    while block < LEAF_BLOCKS {
        let stretch = leaf.lookup(block);
        assert!(stretch.count > 0);
        for i in 0..stretch.count {
            let expected = model[(block + i) as usize];
            let Some((location, found)) = stretch.place else {
                assert_eq!(expected, None);
                continue;
            };
            let expected = expected.expect("mapped");
            if location == RESERVED {
                assert_eq!(expected.location, RESERVED.0);
                continue;
            }
            assert_eq!(location.0 + i, expected.location);
            match found {
                Check::Sum(sum) => assert_eq!((sum, stretch.count), (expected.sum, 1)),
                Check::Header(header) => assert_eq!(header.0, expected.header, "block {block}"),
            }
        }
        block += stretch.count;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_an_array(ops in ops()) {
        let mut leaf = Leaf::default();
        let mut model: Vec<Option<Model>> = vec![None; 512];
        let mut next = 1000u32;
        for op in ops {
            let mut freed = Vec::new();
            let mut note = |location: Location, count: u32| {
                freed.extend((0..count).map(|i| {
                    if location == RESERVED { location.0 } else { location.0 + i }
                }));
            };
            let (first, count) = match op {
                Op::Map { first, count } | Op::Reserve { first, count }
                | Op::Unmap { first, count } => (first, count),
            };
            let range = first as usize..(first + count) as usize;
            let mut expected: Vec<u32> =
                model[range.clone()].iter().flatten().map(|m| m.location).collect();
            let header = next;
            let sums: Vec<u32> = (0..count).map(|i| next * 7 + i).collect();
            match op {
                Op::Map { .. } => {
                    let run = Run {
                        location: Location(next + 1), header: Location(header), checksums: &sums,
                    };
                    leaf.map(first, run, &mut note);
                    for (i, block) in range.enumerate() {
                        let location = next + 1 + i as u32;
                        model[block] = Some(Model { location, header, sum: sums[i] });
                    }
                    next += 1 + count;
                }
                Op::Reserve { .. } => {
                    let run = Run {
                        location: RESERVED, header: RESERVED, checksums: &vec![0; count as usize],
                    };
                    leaf.map(first, run, &mut note);
                    for block in range {
                        model[block] = Some(Model { location: 1, header: 0, sum: 0 });
                    }
                }
                Op::Unmap { .. } => {
                    leaf.unmap(first, count, &mut note);
                    model[range].fill(None);
                }
            }
            freed.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(freed, expected);
        }
        check(&leaf, &model);
        let mapped: u32 = leaf.mapped().map(|(_, count, _)| count).sum();
        prop_assert_eq!(mapped as usize, model.iter().flatten().count());
        let most = 12 * mapped as usize;
        let body = leaf.form().body_bytes();
        prop_assert!(body <= most.max(IMAGE_DENSE_BYTES), "{} for {} blocks", body, mapped);
        let mut image = vec![0; body];
        leaf.encode(&mut image);
        prop_assert_eq!(Leaf::decode(leaf.form(), &image), Some(leaf));
    }

    #[test]
    fn sequential_overwrites_shrink_a_leaf(order in prop::collection::vec(0u32..512, 600)) {
        let mut leaf = Leaf::default();
        for (i, block) in order.into_iter().enumerate() {
            let location = Location(10_000 + 2 * i as u32);
            leaf.map(block, Run { location, header: location, checksums: &[7] }, &mut |_, _| {});
        }
        for half in 0..2 {
            let header = Location(1000 + 300 * half);
            let run = Run { location: header.offset(1), header, checksums: &[3; 256] };
            leaf.map(256 * half, run, &mut |_, _| {});
        }
        prop_assert!(leaf.memory_bytes() < 512, "{} bytes", leaf.memory_bytes());
    }

    #[test]
    fn decoding_anything_is_safe(body in prop::collection::vec(any::<u8>(), 0..2400)) {
        let entries = body.len() / 12;
        let _ = Leaf::decode(LeafForm::Sparse(entries as u16), &body[..entries * 12]);
    }
}
