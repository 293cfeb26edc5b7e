//! How long servers poll before they sleep.

use serde::Deserialize;
use std::str::FromStr;
use std::time::Duration;

/// Microseconds of polling before sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub(crate) struct BusyPollMicros(u64);

impl BusyPollMicros {
    /// A replicated write waits five times in a row, and what follows one comes soon.
    pub(crate) const OF_A_NODE: BusyPollMicros = BusyPollMicros(500);
    /// A write waits twice: what is gained is not worth the processor.
    pub(crate) const ALONE: BusyPollMicros = BusyPollMicros(0);
    const MAX: u64 = 1000;

    pub(crate) fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl TryFrom<u64> for BusyPollMicros {
    type Error = String;

    fn try_from(micros: u64) -> Result<BusyPollMicros, String> {
        match micros <= BusyPollMicros::MAX {
            true => Ok(BusyPollMicros(micros)),
            false => Err(format!("{micros} us are too long to poll: at most 1000, and 0 is never")),
        }
    }
}

impl FromStr for BusyPollMicros {
    type Err = String;

    fn from_str(text: &str) -> Result<BusyPollMicros, String> {
        let micros: u64 = text
            .parse()
            .map_err(|_| format!("{text:?} is no time to poll: write microseconds, 0 to 1000"))?;
        micros.try_into()
    }
}

#[cfg(test)]
mod tests {
    //! Goal: only times within the bound. Method: some of both kinds.

    use super::*;

    #[test]
    fn times_are_bounded() {
        for (text, micros) in [("0", 0), ("500", 500), ("1000", 1000)] {
            let parsed: BusyPollMicros = text.parse().unwrap();
            assert_eq!(parsed.duration(), Duration::from_micros(micros));
        }
        for text in ["1001", "-1", "1ms", "", "99999999999999999999"] {
            assert!(text.parse::<BusyPollMicros>().is_err(), "{text}");
        }
    }
}
