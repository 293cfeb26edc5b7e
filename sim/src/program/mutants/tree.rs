//! The workspace, and copies of it in which mutants are built.
//!
//! A copy is brought up to date file by file, and only where bytes differ: so cargo builds anew
//! what a mutant changes and nothing else.
//! Invariant: the workspace itself is only read.

use super::patch::Mutant;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Where the mutants are, in the workspace.
const MUTANTS: &str = "sim/mutants";
/// Never copied.
const SKIPPED: [&str; 3] = ["target", "artifacts", "proptest-regressions"];

/// The workspace's root: the folder above this crate's.
pub(super) fn workspace() -> PathBuf {
    let at_run = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    at_run.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR"))).join("..")
}

fn explain(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

fn names(folder: &Path) -> Result<Vec<(String, bool)>, String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(explain(folder))? {
        let entry = entry.map_err(explain(folder))?;
        let is_folder = entry.file_type().map_err(explain(folder))?.is_dir();
        names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
    }
    names.sort();
    Ok(names)
}

/// All mutants, by number.
pub(super) fn mutants() -> Result<Vec<Mutant>, String> {
    let folder = workspace().join(MUTANTS);
    let files = names(&folder)?.into_iter().map(|(name, _)| name);
    let patches = files.filter(|name| name.ends_with(".patch"));
    let parse = |name: String| {
        let path = folder.join(&name);
        let text = fs::read_to_string(&path).map_err(explain(&path))?;
        Mutant::parse(&name, &text).map_err(|why| format!("{name}: {why}"))
    };
    patches.map(parse).collect()
}

/// The text of a file of the workspace.
pub(super) fn text_of(path: &str) -> Result<String, String> {
    let path = workspace().join(path);
    fs::read_to_string(&path).map_err(explain(&path))
}

/// A copy of the workspace, and where it is built.
pub(super) struct Scratch {
    /// The copy's root.
    pub(super) tree: PathBuf,
    /// Its target folder.
    pub(super) build: PathBuf,
}

impl Scratch {
    /// The scratch folders of one job.
    pub(super) fn new(job: usize) -> Scratch {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| workspace().join("target"));
        let folder = target.join("mutants").join(job.to_string());
        Scratch { tree: folder.join("tree"), build: folder.join("build") }
    }

    /// Makes the copy hold the workspace, with the mutant in it if there is one.
    pub(super) fn hold(&self, mutant: Option<&Mutant>) -> Result<(), String> {
        let mut changed = BTreeSet::new();
        for change in mutant.iter().flat_map(|mutant| &mutant.changes) {
            let text = change.apply(&text_of(&change.path)?)?;
            write(&self.tree.join(&change.path), text.as_bytes())?;
            changed.insert(self.tree.join(&change.path));
        }
        copy(&workspace(), &self.tree, &changed)
    }

    /// Where notes about the copy are kept.
    pub(super) fn notes(&self) -> PathBuf {
        self.tree.with_file_name("notes.json")
    }
}

/// A number that tells what the workspace holds; the mutants themselves do not count.
pub(super) fn fingerprint() -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    digest(&workspace(), &workspace().join(MUTANTS), &mut hasher)?;
    Ok(hasher.finish())
}

fn digest(folder: &Path, except: &Path, hasher: &mut DefaultHasher) -> Result<(), String> {
    for (name, is_folder) in names(folder)?.into_iter().filter(|(name, _)| is_part(name)) {
        let path = folder.join(&name);
        if path == except {
            continue;
        }
        (&name, is_folder).hash(hasher);
        match is_folder {
            true => digest(&path, except, hasher)?,
            false => fs::read(&path).map_err(explain(&path))?.hash(hasher),
        }
    }
    Ok(())
}

/// Whether an entry of a folder is part of the workspace.
fn is_part(name: &str) -> bool {
    !SKIPPED.contains(&name) && !name.starts_with('.')
}

/// Writes a file unless it holds these bytes already.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(explain(folder))?;
    }
    fs::write(path, bytes).map_err(explain(path))
}

/// Makes `to` a copy of `from`, but for the files in `except`.
fn copy(from: &Path, to: &Path, except: &BTreeSet<PathBuf>) -> Result<(), String> {
    fs::create_dir_all(to).map_err(explain(to))?;
    let mut wanted = BTreeSet::new();
    for (name, is_folder) in names(from)? {
        if !is_part(&name) {
            continue;
        }
        let (source, target) = (from.join(&name), to.join(&name));
        if is_folder {
            copy(&source, &target, except)?;
        } else if !except.contains(&target) {
            write(&target, &fs::read(&source).map_err(explain(&source))?)?;
        }
        wanted.insert(name);
    }
    for (name, is_folder) in names(to)? {
        let path = to.join(&name);
        if !wanted.contains(&name) {
            let remove = if is_folder { fs::remove_dir_all } else { fs::remove_file };
            remove(&path).map_err(explain(&path))?;
        }
    }
    Ok(())
}
