//! Bytes of commands, outcomes and states.

use super::model::{operation, random_state};
use super::*;
use crate::control::encoding::{CONTROL_VERSION, DecodeError};
use proptest::prelude::*;

fn any_flips() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec(any::<(usize, u8)>(), 1..4)
}

/// Every cut is refused, and so is a byte too many.
fn cuts_are_refused<T: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    let cuts = (0..bytes.len().min(300)).chain(bytes.len().saturating_sub(300)..bytes.len());
    for cut in cuts {
        let found = decode(&bytes[..cut]).expect_err("cut short");
        assert!(matches!(found, DecodeError::Short { .. }), "{cut}: {found:?}");
    }
    let longer = [bytes, &[0]].concat();
    assert_eq!(decode(&longer).expect_err("too long"), DecodeError::Long { found: 1 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_decoded_is_what_was_encoded(seed: u64) {
        let (mut log, _) = random_state(seed, 60);
        let bytes = log.state.encode();
        prop_assert_eq!(ControlState::decode(&bytes), Ok(log.state.clone()));
        cuts_are_refused(&bytes, ControlState::decode);
        let mut dice = Dice::new(seed ^ 1);
        for serial in 0..40 {
            let operation = operation(&mut dice, &log.state);
            let command = Command { proposer: seed, serial, operation };
            let bytes = command.encode().expect("bytes");
            prop_assert_eq!(&Command::decode(&bytes), &Ok(command.clone()));
            cuts_are_refused(&bytes, Command::decode);
            let outcome = log.run(command.operation);
            let bytes = outcome.encode();
            prop_assert_eq!(&Outcome::decode(&bytes), &Ok(outcome));
            cuts_are_refused(&bytes, Outcome::decode);
        }
    }

    /// Damaged bytes are refused or are another sound state; never a panic.
    #[test]
    fn damaged_states_are_refused_or_sound(seed: u64, flips in any_flips()) {
        let (log, _) = random_state(seed, 40);
        let mut bytes = log.state.encode();
        for (at, with) in flips {
            let at = at % bytes.len();
            bytes[at] ^= with;
        }
        if let Ok(state) = ControlState::decode(&bytes) {
            prop_assert_eq!(state.check(), Ok(()));
            prop_assert_eq!(state.encode(), bytes);
        }
    }
}

#[test]
fn lengths_do_not_allocate_what_is_not_there() {
    let operation = Operation::CreateVolume {
        name: "a".into(),
        size_bytes: 512,
        policy: "replicas=3".parse().expect("a policy"),
        slice_bytes: None,
        avoid: vec![],
    };
    let mut bytes = Command { proposer: 1, serial: 1, operation }.encode().expect("bytes");
    let at = bytes.len() - 4;
    let mut with = |count: u32| {
        bytes[at..].copy_from_slice(&count.to_le_bytes());
        Command::decode(&bytes).expect_err("not there")
    };
    assert_eq!(with(4096), DecodeError::Short { expected: 4096 * 8, found: 0 });
    assert_eq!(with(4097), DecodeError::Many { expected: 4096, found: 4097 });
    assert_eq!(with(u32::MAX), DecodeError::Many { expected: 4096, found: u32::MAX as usize });
}

#[test]
fn what_is_too_long_is_not_encoded() {
    let name = "x".repeat(limits::TEXT_MAX_BYTES + 1);
    let operation = create(&name, 512, "replicas=1");
    let error = Command { proposer: 1, serial: 1, operation }.encode().expect_err("too long");
    assert_eq!((error.expected, error.found), (256, 257));
}

#[test]
fn bytes_of_other_versions_and_meanings_are_refused() {
    let command = Command { proposer: 1, serial: 2, operation: create("a", 512, "replicas=1") };
    let bytes = command.encode().expect("bytes");
    let decode_with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Command::decode(&bytes).expect_err("refused")
    };
    let found = CONTROL_VERSION + 1;
    let version = DecodeError::Version { expected: CONTROL_VERSION, found };
    assert_eq!(decode_with(0, found as u8), version);
    let alternative = DecodeError::Alternative { of: "operation", found: 99 };
    assert_eq!(decode_with(18, 99), alternative);
    assert_eq!(decode_with(23, 0xff), DecodeError::Text);
    assert_eq!(decode_with(32, 0), DecodeError::Value { of: "policy" });
    assert_eq!(decode_with(34, 2), DecodeError::Alternative { of: "truth", found: 2 });
}

/// The bytes of version 2, as they were first written.
#[test]
fn golden_bytes_hold() {
    let attach = Operation::Attach { volume: ClusterVolumeId(0x0102), node: NodeId(3) };
    let command = Command { proposer: 0x11, serial: 0x22, operation: attach };
    let expected = [
        &[2, 0][..],
        &[0x11, 0, 0, 0, 0, 0, 0, 0],
        &[0x22, 0, 0, 0, 0, 0, 0, 0],
        &[12],
        &[2, 1, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(command.encode().expect("bytes"), expected.concat());
    let refused = Outcome::Refused(Refusal::Name("-".into()));
    assert_eq!(refused.encode(), [2, 0, 6, 19, 1, 0, 0, 0, b'-']);
    let mut log = Log::with_nodes(3);
    log.create("vm0", 8, "replicas=3");
    let bytes = log.state.encode();
    assert_eq!((bytes.len(), sum(&bytes)), GOLDEN_STATE);
}

const GOLDEN_STATE: (usize, u64) = (1190, 9_159_751_032_068_321_358);

/// FNV-1a: enough to tell whether bytes have changed.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
