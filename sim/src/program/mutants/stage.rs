//! The laboratory in stages, cheapest first: what is built, what is run, what counts as a find.
//!
//! Must never know: mutants.

use super::process::{Ended, Process};
use super::tree::Scratch;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A build that takes longer hangs.
const BUILD_MAX: Duration = Duration::from_secs(1800);
/// The unchanged workspace may take this long for a stage.
const SOUND_MAX: Duration = Duration::from_secs(1800);
/// A mutant hangs that takes this many times longer than the unchanged workspace ...
const SLOWER_MAX: u32 = 5;
/// ... but no stage is given less than this.
const STAGE_MIN: Duration = Duration::from_secs(120);

/// A part of the laboratory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// For people.
    pub(super) name: &'static str,
    /// Folders of the workspace that it looks at: what lies elsewhere cannot change its result.
    folders: &'static [&'static str],
    /// Arguments of cargo.
    build: &'static [&'static str],
    /// Arguments of what was built; `SEEDS` stands for a number.
    run: &'static [&'static str],
}

/// All stages.
pub(super) const STAGES: [Stage; 9] = [
    Stage {
        name: "seeds",
        folders: &["engine/", "nbd-server/", "sim/"],
        build: &["build", "-p", "ashlar-sim", "--bin", "ashlar-sim"],
        run: &["run", "--jobs", "1", "--failures", "1", "--seeds", "SEEDS"],
    },
    Stage {
        name: "store tests",
        folders: &["engine/src/"],
        build: &["test", "--no-run", "-p", "ashlar-engine", "--lib"],
        run: &[
            "store::",
            "format::",
            "local::",
            "--skip",
            "exhaustive",
            "--skip",
            "crash::acknowledged_requests_survive",
            "--skip",
            "crash::crash_before_every_operation",
            "--skip",
            "damage::one_damaged_block_anywhere",
            "--skip",
            "unreadable::after_a_crash",
            "--skip",
            "unreadable::the_last_batch_without_a_voucher",
        ],
    },
    Stage {
        name: "nbd tests",
        folders: &["engine/src/", "nbd-server/"],
        build: &["test", "--no-run", "-p", "ashlar-nbd-server", "--lib", "--test", "it"],
        run: &["--skip", "interop", "--skip", "program::"],
    },
    Stage {
        name: "volume tests",
        folders: &["engine/src/", "nbd-server/src/", "sim/"],
        build: &["test", "--no-run", "-p", "ashlar-sim", "--test", "it"],
        run: &["exports::", "damage::"],
    },
    Stage {
        name: "long store tests",
        folders: &["engine/src/"],
        build: &["test", "--no-run", "-p", "ashlar-engine", "--lib"],
        run: &[
            "crash::acknowledged_requests_survive",
            "crash::crash_before_every_operation",
            "damage::one_damaged_block_anywhere",
            "unreadable::after_a_crash",
            "unreadable::the_last_batch_without_a_voucher",
        ],
    },
    Stage {
        name: "crash states",
        folders: &["engine/src/"],
        build: &["test", "--no-run", "-p", "ashlar-engine", "--lib"],
        run: &["exhaustive"],
    },
    Stage {
        name: "engine tests",
        folders: &["engine/"],
        build: &["test", "--no-run", "-p", "ashlar-engine", "--test", "it"],
        run: &["embedded", "sim::", "sparse"],
    },
    Stage {
        name: "clusters",
        folders: &["raft/src/", "engine/src/", "nbd-server/src/", "sim/"],
        build: &["build", "-p", "ashlar-sim", "--bin", "ashlar-sim"],
        run: &["run", "--cluster", "--jobs", "1", "--failures", "1", "--seeds", "SEEDS"],
    },
    Stage {
        name: "cluster tests",
        folders: &["raft/", "engine/src/"],
        build: &["test", "--no-run", "-p", "ashlar-raft", "--lib", "--test", "it"],
        run: &["--skip", "ring::"],
    },
];

/// What a stage came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was found.
    Passed,
    /// By whom it was found.
    Killed(String),
    /// A stage took too long; which.
    Hung(&'static str),
    /// It was not built; the compiler's words.
    NotBuilt(String),
}

impl Stage {
    /// Whether a change of this file can change its result.
    pub(super) fn looks_at(&self, path: &str) -> bool {
        self.folders.iter().any(|folder| path.starts_with(folder))
    }

    /// How long it may take where the unchanged workspace took this long.
    pub(super) fn limit(sound: Option<Duration>) -> Duration {
        sound.map_or(SOUND_MAX, |sound| (sound * SLOWER_MAX).max(STAGE_MIN))
    }

    /// Builds and runs it. Also tells how long the run took, without the build.
    pub(super) fn run(
        &self,
        scratch: &Scratch,
        seeds: u64,
        limit: Duration,
    ) -> (Verdict, Duration) {
        let programs = match self.programs(scratch) {
            Ok(programs) => programs,
            Err(why) => return (Verdict::NotBuilt(why), Duration::ZERO),
        };
        let mut took = Duration::ZERO;
        for (program, folder) in programs {
            let mut command = Command::new(&program);
            let seeds = seeds.to_string();
            command.args(self.run.iter().map(|word| if *word == "SEEDS" { &seeds } else { *word }));
            // Random tests draw the same cases for every mutant, and do not make them smaller.
            command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
            command.current_dir(folder).stderr(Stdio::null());
            let ended = Process::start(command).map(|process| process.watch(find, limit));
            let verdict = match ended {
                Ok((ended, time)) => {
                    took += time;
                    self.judge(ended)
                }
                Err(error) => Verdict::NotBuilt(format!("{}: {error}", program.display())),
            };
            if verdict != Verdict::Passed {
                return (verdict, took);
            }
        }
        (Verdict::Passed, took)
    }

    fn judge(&self, ended: Ended) -> Verdict {
        match ended {
            Ended::Found(what) => Verdict::Killed(format!("{}: {what}", self.name)),
            // A run of seeds ends with 2 if it did not reach everything: that is no find.
            Ended::Code(Some(0)) | Ended::Code(Some(2)) => Verdict::Passed,
            Ended::Code(code) => Verdict::Killed(format!("{}: ended with {code:?}", self.name)),
            Ended::TooLate => Verdict::Hung(self.name),
        }
    }

    /// Builds it: the programs, and where each is run.
    fn programs(&self, scratch: &Scratch) -> Result<Vec<(PathBuf, PathBuf)>, String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(self.build).arg("--message-format=json").current_dir(&scratch.tree);
        cargo.env("CARGO_TARGET_DIR", &scratch.build).env("CARGO_PROFILE_DEV_DEBUG", "false");
        cargo.stderr(Stdio::null());
        let mut messages = Vec::new();
        let keep = |line: &str| {
            messages.extend(serde_json::from_str::<Value>(line).ok());
            None
        };
        let started = Process::start(cargo).map_err(|error| format!("cargo: {error}"))?;
        match started.watch(keep, BUILD_MAX).0 {
            Ended::Code(Some(0)) => {}
            Ended::TooLate => return Err("the build does not end".to_owned()),
            _ => return Err(first_error(&messages)),
        }
        Ok(messages.iter().filter_map(program_of).collect())
    }
}

/// What the compiler says first, if it says anything.
fn first_error(messages: &[Value]) -> String {
    let mut errors = messages.iter().filter(|message| message["message"]["level"] == "error");
    let text = errors.next().and_then(|message| message["message"]["rendered"].as_str());
    text.unwrap_or("cargo failed").trim_end().to_owned()
}

/// A program that was built, and the folder of its crate.
fn program_of(message: &Value) -> Option<(PathBuf, PathBuf)> {
    let program = message["executable"].as_str()?;
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some((program.into(), folder))
}

/// A line that says that something was found.
fn find(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("seed ") {
        let (seed, what) = rest.split_once(" BROKEN: ")?;
        let what: String = what.chars().take(60).collect();
        return Some(format!("{seed}, {what}"));
    }
    let test = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(test.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_are_found() {
        assert_eq!(find("seed 7 BROKEN: books: wrong").as_deref(), Some("7, books: wrong"));
        assert_eq!(find("test store::tests::x ... FAILED").as_deref(), Some("store::tests::x"));
        assert_eq!(find("test store::tests::x ... ok"), None);
        assert_eq!(find("seed 7 is made smaller..."), None);
    }

    #[test]
    fn a_stage_is_left_out_only_if_it_sees_no_difference() {
        let sees = |path: &str| STAGES.map(|stage| stage.looks_at(path));
        assert_eq!(sees("engine/src/store/log.rs"), [true; 9]);
        let server = [true, false, true, true, false, false, false, true, false];
        assert_eq!(sees("nbd-server/src/serve.rs"), server);
    }
}
