//! A process that is watched: its lines, its time, its end.
//!
//! Time is processor time, of all that runs in its group: how busy the machine is does not matter.
//! Invariant: when the watch is over the process is gone, and all that it started in its group.

use super::cpu;
use indicatif::ProgressBar;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How often a process that says nothing is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// One that does nothing at all for so long waits for ever.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// How a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A line said what was looked for.
    Found(String),
    /// By itself, with this code; `None`: by a signal.
    Code(Option<i32>),
    /// It took too long, or waits for ever.
    TooLate,
}

/// See the module.
pub(super) struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it in a group of its own.
    pub(super) fn start(mut command: Command) -> std::io::Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        let output = output.ok_or_else(|| std::io::Error::other("a pipe is missing"))?;
        Ok(Process { child, lines: BufReader::new(output) })
    }

    /// Reads its lines until `find` makes something of one, or it ends, or it took longer than
    /// `limit`. Also tells how long that took.
    pub(super) fn watch(
        self,
        mut find: impl FnMut(&str) -> Option<String>,
        limit: Duration,
    ) -> (Ended, Duration) {
        let Process { mut child, lines } = self;
        let mut meter = Meter::new(child.id());
        let (sender, receiver) = mpsc::channel();
        let ended = std::thread::scope(|scope| {
            scope.spawn(move || {
                for line in lines.lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
            let ended = loop {
                match receiver.recv_timeout(LOOK.min(limit)) {
                    Ok(line) => {
                        if let Some(what) = find(&line) {
                            break Ended::Found(what);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => break Ended::Code(None),
                }
                if meter.is_over(limit) {
                    break Ended::TooLate;
                }
            };
            meter.look();
            if !matches!(ended, Ended::Code(_)) {
                kill_group(&child);
            }
            let status = child.wait();
            match ended {
                Ended::Code(_) => Ended::Code(status.ok().and_then(|status| status.code())),
                ended => ended,
            }
        });
        (ended, meter.used)
    }
}

/// How much a group has used, when it last used any, and when that was looked at.
struct Meter {
    group: u32,
    clock: ProgressBar,
    used: Duration,
    busy_at: Duration,
    looked_at: Duration,
}

impl Meter {
    fn new(group: u32) -> Meter {
        let (used, zero) = (Duration::ZERO, Duration::ZERO);
        Meter { group, clock: ProgressBar::hidden(), used, busy_at: zero, looked_at: zero }
    }

    fn look(&mut self) {
        self.looked_at = self.clock.elapsed();
        let used = cpu::used(self.group);
        if used > self.used {
            (self.used, self.busy_at) = (used, self.looked_at);
        }
    }

    fn is_over(&mut self, limit: Duration) -> bool {
        if self.clock.elapsed().saturating_sub(self.looked_at) < LOOK.min(limit) {
            return false;
        }
        self.look();
        self.used > limit || self.looked_at.saturating_sub(self.busy_at) > IDLE_MAX
    }
}

fn kill_group(child: &Child) {
    let group = format!("-{}", child.id());
    // Where it fails the group is gone already.
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(script: &str, limit: Duration) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let find = |line: &str| line.strip_prefix("found ").map(str::to_owned);
        Process::start(command).expect("a shell").watch(find, limit).0
    }

    #[test]
    fn ends_are_told_apart() {
        let long = Duration::from_secs(600);
        assert_eq!(watch("echo a; exit 3", long), Ended::Code(Some(3)));
        assert_eq!(watch("echo a; echo found it; sleep 600", long), Ended::Found("it".into()));
        assert_eq!(watch("kill -9 $$", long), Ended::Code(None));
    }

    /// What it started holds its output open, counts, and ends with it.
    #[test]
    fn work_counts_and_waiting_does_not() {
        let work = "(while :; do :; done) & sleep 600";
        assert_eq!(watch(work, Duration::from_millis(100)), Ended::TooLate);
        assert_eq!(watch("sleep 1", Duration::from_millis(100)), Ended::Code(Some(0)));
    }

    #[test]
    fn waiting_for_ever_is_too_late() {
        let mut meter = Meter::new(u32::MAX);
        assert!(!meter.is_over(Duration::ZERO));
        meter.clock = ProgressBar::hidden().with_elapsed(IDLE_MAX * 2);
        assert!(meter.is_over(Duration::ZERO));
    }
}
