//! Mutants: the product with one bug each, put in on purpose, to see that the laboratory finds it.
//!
//! Each is built in a copy of the workspace and runs through the stages until one finds something.
//! A stage that takes far longer than it did for the unchanged workspace finds that too.
//! Must never know: what a stage looks for.

mod patch;
mod process;
mod stage;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use super::{BROKEN, PASS};
use indicatif::{ProgressBar, ProgressStyle};
use patch::Mutant;
use stage::{STAGES, Stage, Verdict};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
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
    bar.set_message("the unchanged workspace");
    let sound = sound(seeds)?;
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (bar, mutants, sound, next, rows) = (&bar, &mutants, &sound, &next, &rows);
            scope.spawn(move || {
                let scratch = Scratch::new(job);
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bar.set_message(mutant.name.clone());
                    let row = run_one(mutant, &scratch, seeds, sound);
                    bar.suspend(|| println!("{}", row.line()));
                    rows.lock().expect("invariant: nobody panics with the rows").push(row);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut rows = rows.into_inner().expect("invariant: nobody panics with the rows");
    rows.sort_by(|a, b| a.mutant.name.cmp(&b.mutant.name));
    let (text, good) = table(&rows);
    print!("\n{text}");
    Ok(if good { PASS } else { BROKEN })
}

/// Runs the unchanged workspace, which must pass; how long each stage takes.
fn sound(seeds: u64) -> Result<Vec<Duration>, String> {
    let scratch = Scratch::new(0);
    scratch.hold(None)?;
    let time = |stage: &Stage| {
        let (verdict, took) = stage.run(&scratch, seeds, Stage::limit(None));
        match verdict {
            Verdict::Passed => {
                println!("unchanged: {} pass in {} s", stage.name, took.as_secs());
                Ok(took)
            }
            other => Err(format!("the unchanged workspace does not pass: {other:?}")),
        }
    };
    STAGES.iter().map(time).collect()
}

fn run_one(mutant: &Mutant, scratch: &Scratch, seeds: u64, sound: &[Duration]) -> Row {
    let clock = ProgressBar::hidden();
    let mut verdict = match scratch.hold(Some(mutant)) {
        Ok(()) => Verdict::Passed,
        Err(why) => Verdict::NotBuilt(why),
    };
    let sees = |stage: &Stage| mutant.changes.iter().any(|change| stage.looks_at(&change.path));
    for (stage, sound) in STAGES.iter().zip(sound).filter(|(stage, _)| sees(stage)) {
        if verdict == Verdict::Passed {
            verdict = stage.run(scratch, seeds, Stage::limit(Some(*sound))).0;
        }
    }
    Row { mutant: mutant.clone(), verdict, took: clock.elapsed() }
}
