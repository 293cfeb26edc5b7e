//! Failure-domain labels: where a node stands, from the operator down to the host.
//!
//! A domain is the whole path down to its level, so rack 1 of zone a is not rack 1 of zone b. A
//! label that is not given is a value of its own: nodes without a zone share one unnamed
//! zone, since nobody said that they are apart.
//! Must never know: stores, groups.

use std::fmt;
use std::str::FromStr;

/// Bytes of a label: it is shown in tables, and a state with all nodes must stay small.
pub const LABEL_MAX_BYTES: usize = 64;

/// Levels of failure domains, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Who runs the machines.
    Operator,
    /// Part of the world.
    Region,
    /// Building or site.
    Zone,
    /// Shared power and switch.
    Rack,
    /// One machine.
    Host,
}

impl Level {
    /// All levels, the widest first.
    pub const ALL: [Level; 5] =
        [Level::Operator, Level::Region, Level::Zone, Level::Rack, Level::Host];

    /// The word used in labels and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Operator => "operator",
            Level::Region => "region",
            Level::Zone => "zone",
            Level::Rack => "rack",
            Level::Host => "host",
        }
    }

    /// The level of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A node's labels, each optional. Written as `zone=a,rack=3`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels([Option<String>; Level::ALL.len()]);

/// Why labels are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelError {
    /// Not of the form `level=value`.
    Form(String),
    /// No such level.
    Level(String),
    /// A level given twice.
    Twice(Level),
    /// A value that is empty, too long, or holds other characters than names do.
    Value(Level),
}

impl Labels {
    /// The label at a level.
    #[must_use]
    pub fn at(&self, level: Level) -> Option<&str> {
        self.0[level as usize].as_deref()
    }

    /// With the label at a level set.
    pub fn with(mut self, level: Level, value: &str) -> Result<Labels, LabelError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if value.is_empty() || value.len() > LABEL_MAX_BYTES || !value.chars().all(fine) {
            return Err(LabelError::Value(level));
        }
        self.0[level as usize] = Some(value.to_owned());
        Ok(self)
    }
}

impl FromStr for Labels {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Labels, LabelError> {
        let mut labels = Labels::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let form = || LabelError::Form(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(form)?;
            let level = Level::from_name(name).ok_or_else(|| LabelError::Level(name.to_owned()))?;
            if labels.at(level).is_some() {
                return Err(LabelError::Twice(level));
            }
            labels = labels.with(level, value)?;
        }
        Ok(labels)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for level in Level::ALL {
            if let Some(value) = self.at(level) {
                write!(f, "{separator}{level}={value}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelError::Form(part) => {
                write!(f, "a label is written level=value, not {part:?}; say for example zone=a")
            }
            LabelError::Level(name) => {
                write!(f, "there is no level {name:?}; use operator, region, zone, rack or host")
            }
            LabelError::Twice(level) => write!(f, "{level} is given twice; give it once"),
            LabelError::Value(level) => write!(
                f,
                "the value of {level} must be 1 to {LABEL_MAX_BYTES} letters, digits, '.', '_' \
                 or '-'; choose another"
            ),
        }
    }
}

impl std::error::Error for LabelError {}
