//! Which operations do not do what they should.
//!
//! Must never know: bytes, time, the kernel.

use std::ops::Range;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read.
    Read,
    /// A write, durable or not.
    Write,
    /// A sync of all that was written.
    Sync,
}

/// What happens instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// EIO. Of a write any sectors are there; of what a sync covers any sectors are there, and
    /// no later sync brings back the others.
    InputOutputError,
    /// A read gives the right bytes but one bit; a write changes one bit of what it writes.
    FlipBit,
    /// The operation is done this many bytes further on (wrapping), and answered as if it were not.
    Misdirect(u64),
}

/// A fault: these operations, here, so often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Operations it concerns.
    pub operation: Operation,
    /// Bytes it concerns; nothing for everywhere, and for syncs.
    pub range: Option<Range<u64>>,
    /// How often; nothing for ever.
    pub times: Option<u64>,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// EIO for every operation of a kind, for ever.
    pub fn failing(operation: Operation) -> Fault {
        Fault { operation, range: None, times: None, effect: Effect::InputOutputError }
    }

    /// The same, but only so often.
    pub fn times(self, times: u64) -> Fault {
        Fault { times: Some(times), ..self }
    }

    /// The same, but only in `range`.
    pub fn within(self, range: Range<u64>) -> Fault {
        Fault { range: Some(range), ..self }
    }

    /// The same, with another effect.
    pub fn with(self, effect: Effect) -> Fault {
        Fault { effect, ..self }
    }

    fn concerns(&self, operation: Operation, bytes: &Range<u64>) -> bool {
        let shares = |range: &Range<u64>| range.start < bytes.end && bytes.start < range.end;
        self.operation == operation && self.range.as_ref().is_none_or(shares)
    }
}

/// The faults of a disk, oldest first.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What happens to this operation; uses the fault up.
    pub(super) fn take(&mut self, operation: Operation, bytes: &Range<u64>) -> Option<Effect> {
        let index = self.0.iter().position(|fault| fault.concerns(operation, bytes))?;
        let fault = &mut self.0[index];
        let effect = fault.effect;
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.0.remove(index);
            }
        }
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_hit_their_range_and_are_used_up() {
        let mut faults = Faults::default();
        faults.add(Fault::failing(Operation::Read).within(4096..8192).times(2));
        let eio = Some(Effect::InputOutputError);
        assert_eq!(faults.take(Operation::Read, &(0..4096)), None);
        assert_eq!(faults.take(Operation::Write, &(4096..8192)), None);
        assert_eq!(faults.take(Operation::Read, &(0..4097)), eio);
        assert_eq!(faults.take(Operation::Read, &(8191..9000)), eio);
        assert_eq!(faults.take(Operation::Read, &(4096..8192)), None);
        faults.add(Fault::failing(Operation::Sync));
        for _ in 0..3 {
            assert_eq!(faults.take(Operation::Sync, &(0..0)), eio);
        }
        faults.clear();
        assert_eq!(faults.take(Operation::Sync, &(0..0)), None);
    }
}
