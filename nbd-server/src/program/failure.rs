//! Why a command did not do what it was asked: one plain sentence and an exit code.
//!
//! Must never know: which command it was.

use std::fmt;

/// Exit code for "failed".
const FAILED: u8 = 1;
/// Exit code for "bad usage".
const USAGE: u8 = 2;

/// Result with this program's [`Failure`].
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) code: u8,
    /// For stderr; empty if everything is said already.
    pub(crate) sentence: String,
}

impl Failure {
    /// It could not be done.
    pub(crate) fn new(sentence: impl Into<String>) -> Failure {
        Failure { code: FAILED, sentence: sentence.into() }
    }

    /// The command line or configuration makes no sense.
    pub(crate) fn usage(sentence: impl Into<String>) -> Failure {
        Failure { code: USAGE, sentence: sentence.into() }
    }

    /// The report on stdout says what is wrong.
    pub(crate) fn reported() -> Failure {
        Failure::new("")
    }

    /// Adds what can be done about it.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.sentence = format!("{}; {hint}", self.sentence);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<ashlar_engine::Error> for Failure {
    fn from(error: ashlar_engine::Error) -> Failure {
        Failure::new(error.to_string())
    }
}
