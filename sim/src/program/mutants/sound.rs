//! The unchanged workspace: that it passes, and how long each stage takes.
//!
//! A stage is run on it before it judges the first mutant. What was found is kept beside the
//! copies, until the workspace or the number of seeds changes: who runs mutants in parts, or goes
//! on after a break, runs it once.

use super::patch::Mutant;
use super::stage::{Stage, Verdict};
use super::tree::{self, Scratch};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// See the module.
pub(super) struct Sound {
    seeds: u64,
    notes: PathBuf,
    known: Mutex<Known>,
}

impl Sound {
    /// What is known of the workspace.
    pub(super) fn load(seeds: u64) -> Result<Sound, String> {
        let key = format!("{:016x} with {seeds} seeds", tree::fingerprint()?);
        let notes = Scratch::new(0).notes();
        let text = fs::read_to_string(&notes).unwrap_or_default();
        Ok(Sound { seeds, notes, known: Mutex::new(Known::of(&key, &text)) })
    }

    /// How long a stage takes; an error if it does not pass. Where that is not known it is run in
    /// the mutant's copy, which holds the mutant again in the end.
    pub(super) fn time(
        &self,
        stage: &Stage,
        scratch: &Scratch,
        mutant: &Mutant,
    ) -> Result<Duration, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(took) = known.time(stage.name) {
            return Ok(took);
        }
        scratch.hold(None)?;
        let (verdict, took) = stage.run(scratch, self.seeds, Stage::limit(None));
        if verdict != Verdict::Passed {
            return Err(format!("the unchanged workspace does not pass: {verdict:?}"));
        }
        known.note(stage.name, took);
        fs::write(&self.notes, known.0.to_string()).map_err(|error| error.to_string())?;
        scratch.hold(Some(mutant)).map(|()| took)
    }
}

/// Times of stages of a workspace.
struct Known(Value);

impl Known {
    /// What a text tells of the workspace of this key: nothing, if it is of another one.
    fn of(key: &str, text: &str) -> Known {
        match serde_json::from_str::<Value>(text) {
            Ok(value) if value["key"] == key => Known(value),
            _ => Known(json!({ "key": key })),
        }
    }

    fn time(&self, stage: &str) -> Option<Duration> {
        self.0["millis"][stage].as_u64().map(Duration::from_millis)
    }

    fn note(&mut self, stage: &str, took: Duration) {
        self.0["millis"][stage] = json!(took.as_millis() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_for_the_same_workspace_only() {
        let mut known = Known::of("a", "");
        assert_eq!(known.time("seeds"), None);
        known.note("seeds", Duration::from_millis(1500));
        let text = known.0.to_string();
        assert_eq!(Known::of("a", &text).time("seeds"), Some(Duration::from_millis(1500)));
        assert_eq!(Known::of("a", &text).time("nbd tests"), None);
        assert_eq!(Known::of("b", &text).time("seeds"), None);
    }
}
