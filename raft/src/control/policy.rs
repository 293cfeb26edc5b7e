//! How a volume is kept: `replicas=3`, `replicas=2,witness,apart=zone`.
//!
//! Must never know: which stores there are.

use super::limits::REPLICAS_MAX;
use crate::placement::{Level, Rule};
use std::fmt;
use std::str::FromStr;

/// What a volume asks of the groups that hold it. Equal policies share groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    replicas: u8,
    apart: Level,
    witness: bool,
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// A part that is none of those known.
    Part(String),
    /// Said nothing of replicas.
    NoReplicas,
    /// Not 1 to [`REPLICAS_MAX`] replicas.
    Replicas(String),
    /// No such level.
    Apart(String),
    /// A witness beside an odd number of replicas: a tie cannot happen, but a larger quorum would.
    OddWitness(u8),
    /// Erasure coding.
    ErasureNotYet(String),
}

impl Policy {
    /// A policy, if it makes sense.
    pub fn new(replicas: u8, apart: Level, witness: bool) -> Result<Policy, PolicyError> {
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            return Err(PolicyError::Replicas(replicas.to_string()));
        }
        if witness && !replicas.is_multiple_of(2) {
            return Err(PolicyError::OddWitness(replicas));
        }
        Ok(Policy { replicas, apart, witness })
    }

    /// The same as placement wants it.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule { replicas: self.replicas, apart: self.apart, witness: self.witness }
    }

    /// Copies of the data.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// Level at which they are apart.
    #[must_use]
    pub fn apart(&self) -> Level {
        self.apart
    }

    /// Whether there is a witness besides.
    #[must_use]
    pub fn witness(&self) -> bool {
        self.witness
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Policy, PolicyError> {
        let (mut replicas, mut apart, mut witness) = (None, Level::Host, false);
        for part in text.split(',') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("replicas", number) => {
                    let wrong = |_| PolicyError::Replicas(number.to_owned());
                    replicas = Some(number.parse().map_err(wrong)?);
                }
                ("apart", name) => {
                    let wrong = || PolicyError::Apart(name.to_owned());
                    apart = Level::from_name(name).ok_or_else(wrong)?;
                }
                ("witness", "") => witness = true,
                ("ec", shape) => return Err(PolicyError::ErasureNotYet(shape.to_owned())),
                _ => return Err(PolicyError::Part(part.to_owned())),
            }
        }
        Policy::new(replicas.ok_or(PolicyError::NoReplicas)?, apart, witness)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replicas={}", self.replicas)?;
        if self.witness {
            f.write_str(",witness")?;
        }
        if self.apart != Level::Host {
            write!(f, ",apart={}", self.apart)?;
        }
        Ok(())
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::Part(part) => write!(
                f,
                "a policy does not know {part:?}; say for example replicas=3, \
                 or replicas=2,witness,apart=zone"
            ),
            PolicyError::NoReplicas => {
                f.write_str("a policy says how many replicas; add for example replicas=3")
            }
            PolicyError::Replicas(number) => {
                write!(f, "replicas must be 1 to {REPLICAS_MAX}, not {number:?}; say replicas=3")
            }
            PolicyError::Apart(name) => write!(
                f,
                "there is no level {name:?}; use apart=operator, region, zone, rack or host"
            ),
            PolicyError::OddWitness(replicas) => write!(
                f,
                "a witness breaks the tie between an even number of replicas, not {replicas}; say \
                 replicas=2,witness or leave the witness out"
            ),
            PolicyError::ErasureNotYet(shape) => write!(
                f,
                "erasure-coded volumes (ec={shape}) are not there yet; create the volume with \
                 replicas=3"
            ),
        }
    }
}

impl std::error::Error for PolicyError {}
