//! Mutants: the product with one bug each, put in on purpose, to see that the laboratory finds it.
//!
//! Each is built in a copy of the workspace and runs through the stages until one finds something.
//! A stage that takes far more processor time than for the unchanged workspace finds that too.
//! Must never know: what a stage looks for.

mod cpu;
mod patch;
mod process;
mod sound;
mod stage;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use super::{BROKEN, PASS};
use indicatif::{ProgressBar, ProgressStyle};
use patch::Mutant;
use sound::Sound;
use stage::{STAGES, Stage, Verdict};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use table::{Row, table};
use tree::Scratch;

/// Runs the mutants with these numbers or names, or all; the exit code.
pub(super) fn run(only: &[String], seeds: u64, jobs: usize) -> Result<u8, String> {
    let mut mutants = tree::mutants()?;
    let wanted = |mutant: &Mutant| only.iter().any(|o| *o == mutant.number() || *o == mutant.name);
    if !only.is_empty() {
        mutants.retain(wanted);
    }
    if mutants.is_empty() {
        return Err("there is no such mutant".to_owned());
    }
    let bar = ProgressBar::new(mutants.len() as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} mutants  {msg}  {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let sound = Sound::load(seeds)?;
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (bar, mutants, sound, next, rows) = (&bar, &mutants, &sound, &next, &rows);
            scope.spawn(move || {
                let scratch = Scratch::new(job);
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bar.set_message(mutant.name.clone());
                    let row = run_one(mutant, &scratch, seeds, sound);
                    match &row {
                        Ok(row) => bar.suspend(|| println!("{}", row.line())),
                        Err(_) => next.store(mutants.len(), Ordering::Relaxed),
                    }
                    rows.lock().expect("invariant: nobody panics with the rows").push(row);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let rows = rows.into_inner().expect("invariant: nobody panics with the rows");
    let mut rows = rows.into_iter().collect::<Result<Vec<Row>, String>>()?;
    rows.sort_by(|a, b| a.mutant.name.cmp(&b.mutant.name));
    let (text, good) = table(&rows);
    print!("\n{text}");
    Ok(if good { PASS } else { BROKEN })
}

/// An error if the unchanged workspace does not pass.
fn run_one(mutant: &Mutant, scratch: &Scratch, seeds: u64, sound: &Sound) -> Result<Row, String> {
    let clock = ProgressBar::hidden();
    let mut verdict = match scratch.hold(Some(mutant)) {
        Ok(()) => Verdict::Passed,
        Err(why) => Verdict::NotBuilt(why),
    };
    let sees = |stage: &&Stage| mutant.changes.iter().any(|change| stage.looks_at(&change.path));
    for stage in STAGES.iter().filter(sees) {
        if verdict == Verdict::Passed {
            let limit = Stage::limit(Some(sound.time(stage, scratch, mutant)?));
            verdict = stage.run(scratch, seeds, limit).0;
        }
    }
    Ok(Row { mutant: mutant.clone(), verdict, took: clock.elapsed() })
}
