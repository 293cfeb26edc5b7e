//! Depth first through all schedules of all histories of a start, and through all crash states at
//! every point of each.
//!
//! A schedule is repeated from its start to reach a point; a point with a fingerprint that was met
//! before is not gone on from. Crash states are known by the sum of their marks: equal images are
//! recovered once, and judged for every point where they may be left.

use super::device::{CrashStates, Image};
use super::model::{self, Contents, Op};
use super::start::Start;
use super::world::{Choice, Reached, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

/// More sectors than this in doubt at one point would be too many to enumerate.
const UNCERTAIN_SECTORS_MAX: usize = 16;

/// What was enumerated.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Schedules, or their parts that had not been met before.
    pub(super) runs: u64,
    /// Different points at which the power goes.
    pub(super) points: u64,
    /// Crash states of all points.
    pub(super) states: u64,
    /// Different images among them: so many recoveries.
    pub(super) images: u64,
    /// The most sectors in doubt at one point.
    sectors: usize,
    /// The most of any schedule.
    pub(super) reached: Reached,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { runs, points, states, images, sectors, .. } = self;
        write!(f, "{states} crash states at {points} points of {runs} schedules, ")?;
        write!(f, "{images} different images, at most {sectors} sectors in doubt")
    }
}

/// Says what was going on if a check panics.
struct Context<'a>(&'a str, Vec<Op>, &'a [Choice], Vec<usize>);

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Context(start, history, choices, crash) = self;
            eprintln!("start {start:?}, history {history:?}, crash {crash:?}, by {choices:?}");
        }
    }
}

/// See the module.
pub(super) struct Explorer<'a> {
    start: &'a Start,
    ops: Vec<Op>,
    ops_max: usize,
    visited: BTreeSet<u128>,
    found: BTreeMap<u128, Rc<Contents>>,
    /// Images that a history of one operation may leave.
    keep: Option<BTreeMap<u128, Image>>,
    pub(super) totals: Totals,
}

impl<'a> Explorer<'a> {
    pub(super) fn new(start: &'a Start, ops: &[Op], ops_max: usize) -> Explorer<'a> {
        Explorer {
            start,
            ops: ops.to_vec(),
            ops_max,
            visited: BTreeSet::new(),
            found: BTreeMap::new(),
            keep: None,
            totals: Totals::default(),
        }
    }

    /// All histories of the start.
    pub(super) fn run(&mut self) {
        let start = self.start;
        self.explore(&|| start.begin());
    }

    /// All histories of one operation, then for every image that one of them leaves: the recovered
    /// store writes on, with one more operation, and crashes again.
    pub(super) fn run_twice(&mut self, then: &[Op]) -> Totals {
        self.keep = Some(BTreeMap::new());
        self.run();
        let images = self.keep.take().expect("it was set");
        let first = std::mem::take(&mut self.totals);
        let start = self.start;
        (self.ops, self.ops_max) = (then.to_vec(), 1);
        for (sum, image) in images {
            let contents = self.found[&sum].clone();
            let again = model::recover(&image, &start.pool).expect("recovered before");
            let mut again = World::reopened(start, again, &image);
            assert_eq!(model::contents(&mut again), *contents, "recovery twice is not once");
            self.visited.clear();
            self.explore(&|| start.reopen(&image, &contents));
        }
        std::mem::replace(&mut self.totals, first)
    }

    fn explore(&mut self, begin: &dyn Fn() -> World) {
        // Which choice, of how many, at each point of the run.
        let mut path: Vec<(usize, usize)> = Vec::new();
        loop {
            let mut world = begin();
            let mut taken = Vec::new();
            let mut depth = 0;
            loop {
                let choices = world.choices(&self.ops, self.ops_max);
                if depth == path.len() {
                    if !self.visited.insert(world.fingerprint()) {
                        break;
                    }
                    self.check(&mut world, &taken);
                    if choices.is_empty() {
                        self.check_end(&mut world, &taken);
                        break;
                    }
                    path.push((0, choices.len()));
                }
                let choice = &choices[path[depth].0];
                world.take(choice);
                taken.push(choice.clone());
                depth += 1;
            }
            self.totals.runs += 1;
            while path.last().is_some_and(|(at, of)| at + 1 == *of) {
                path.pop();
            }
            match path.last_mut() {
                Some((at, _)) => *at += 1,
                None => return,
            }
        }
    }

    /// The power goes here: judges every image it may leave.
    fn check(&mut self, world: &mut World, taken: &[Choice]) {
        let mut states = CrashStates::new(&world.device);
        self.totals.points += 1;
        self.totals.sectors = self.totals.sectors.max(states.sectors());
        assert!(states.sectors() <= UNCERTAIN_SECTORS_MAX, "{} sectors", states.sectors());
        while let Some(choice) = states.next() {
            self.totals.states += 1;
            let sum = states.sum(&choice);
            let context = Context(self.start.name, world.history(), taken, choice);
            if !self.found.contains_key(&sum) {
                let image = states.image(&context.3);
                assert_eq!(image.sum, sum);
                let contents = self.recovered(&image);
                self.totals.images += 1;
                self.found.insert(sum, Rc::new(contents));
            }
            let found = &self.found[&sum];
            let legal = &world.after[world.certain..];
            assert!(
                legal.iter().any(|after| *after == **found),
                "{} of {} operations are certain\nfound {found:?}\nlegal {legal:?}",
                world.certain,
                world.submitted()
            );
            if let Some(keep) = self.keep.as_mut().filter(|_| world.submitted() <= 1) {
                keep.entry(sum).or_insert_with(|| states.image(&context.3));
            }
        }
    }

    fn recovered(&self, image: &Image) -> Contents {
        let store = model::recover(image, &self.start.pool).expect("every crash state recovers");
        model::contents(&mut World::reopened(self.start, store, image))
    }

    /// Nothing is left to do: the live store says what it must.
    fn check_end(&mut self, world: &mut World, taken: &[Choice]) {
        let _context = Context(self.start.name, world.history(), taken, Vec::new());
        let last = world.after.last().expect("there is a first").clone();
        assert_eq!(world.certain, world.promised(), "an operation was never answered");
        assert_eq!(model::contents(world), last);
        self.totals.reached.most(world.reached());
    }
}
