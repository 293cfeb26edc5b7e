//! Kill the server under load, restart it, hold it to every acknowledgement, go on.
//!
//! A round: connections load every volume; at a random moment SIGKILL; sometimes another SIGKILL
//! into the recovery; restart; read every sector of every volume and judge it. What was read is
//! the base of the next round, so a store lives through all rounds of a run.

use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::random::Random;
use crate::rounds::{self, Options, Outcome};
use crate::server::{Server, Setup};

/// A recovery is killed again at most this late.
const RECOVERY_KILL_MAX_MICROS: u64 = 60_000;

/// Runs all rounds in `directory`; stops after a round that broke a promise.
pub fn run(directory: &Path, options: &Options) -> Result<Outcome> {
    let mut random = Random::new(options.seed);
    let volumes = options.fresh_volumes();
    let setup = options.setup(directory, &volumes);
    let mut outcome = Outcome::default();
    let mut server = Server::start(&setup)?;
    while outcome.rounds < options.rounds && outcome.is_clean() {
        let number = outcome.rounds + 1;
        let kill = |server: Server, _: &_| server.kill();
        rounds::load(server, &volumes, options, &mut random, &mut outcome, kill)?;
        if random.below(4) == 0 {
            kill_recovery(&setup, &mut random)?;
            outcome.crashes += 1;
        }
        server =
            Server::start(&setup).map_err(|e| format!("after the kill of round {number}: {e}"))?;
        outcome.restart_max = outcome.restart_max.max(server.ready_after);
        rounds::judge(&setup, &volumes, &mut outcome)?;
        if options.verbose {
            let (acknowledged, violations) = (outcome.acknowledged, outcome.violations);
            let restart = server.ready_after;
            println!(
                "round {number}: acks {acknowledged}, losses {violations}, restart {restart:?}"
            );
        }
    }
    server.terminate()?;
    Ok(outcome)
}

/// Starts the server and kills it somewhere in its recovery.
fn kill_recovery(setup: &Setup, random: &mut Random) -> Result<()> {
    let server = Server::spawn(setup)?;
    std::thread::sleep(Duration::from_micros(random.below(RECOVERY_KILL_MAX_MICROS)));
    server.kill()
}
