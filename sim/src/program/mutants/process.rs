//! A process that is watched: its lines, its time, its end.
//!
//! Invariant: when the watch is over the process is gone, and all that it started in its group.

use indicatif::ProgressBar;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A line said what was looked for.
    Found(String),
    /// By itself, with this code; `None`: by a signal.
    Code(Option<i32>),
    /// It took too long.
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

    /// Reads its lines until `find` makes something of one, or it ends, or it is too late. Also
    /// tells how long that took.
    pub(super) fn watch(
        self,
        mut find: impl FnMut(&str) -> Option<String>,
        limit: Duration,
    ) -> (Ended, Duration) {
        let Process { mut child, lines } = self;
        let clock = ProgressBar::hidden();
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
                let left = limit.saturating_sub(clock.elapsed());
                match receiver.recv_timeout(left) {
                    Ok(line) => {
                        if let Some(what) = find(&line) {
                            break Ended::Found(what);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => break Ended::TooLate,
                    Err(mpsc::RecvTimeoutError::Disconnected) => break Ended::Code(None),
                }
            };
            if !matches!(ended, Ended::Code(_)) {
                kill_group(&child);
            }
            let status = child.wait();
            match ended {
                Ended::Code(_) => Ended::Code(status.ok().and_then(|status| status.code())),
                ended => ended,
            }
        });
        (ended, clock.elapsed())
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
        // What it started holds its output open, and ends with it.
        assert_eq!(watch("sleep 600 & sleep 600", Duration::from_millis(10)), Ended::TooLate);
    }
}
