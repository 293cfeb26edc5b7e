//! A mutant as a file: what is wrong with it, and the change that makes it so.
//!
//! The change is a unified diff. Its hunks are found by their old lines, which must occur exactly
//! once: line numbers are for people and other programs, and may be off.
//! Must never know: files, processes.

/// A bug that is put in on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// Its number and name: that of its file.
    pub(super) name: String,
    /// What is wrong.
    pub(super) bug: String,
    /// Whether data is lost or wrong bytes are served or stored.
    pub(super) loses_data: bool,
    /// The promise that it breaks.
    pub(super) promise: String,
    /// Why it cannot be killed, if it cannot.
    pub(super) survives: Option<String>,
    /// The changed files.
    pub(super) changes: Vec<Change>,
}

/// What is changed in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Relative to the workspace.
    pub(super) path: String,
    hunks: Vec<Hunk>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hunk {
    old: String,
    new: String,
    /// Lines that its head promises.
    lines: (usize, usize),
}

impl Mutant {
    /// The mutant in the file of this name.
    pub(super) fn parse(file_name: &str, text: &str) -> Result<Mutant, String> {
        let name = file_name.strip_suffix(".patch").ok_or("not a patch")?.to_owned();
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let fields = fields(head)?;
        let field = |wanted: &str| {
            let found = fields.iter().find(|(key, _)| key == wanted);
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let needed = |key: &str| field(key).ok_or(format!("no {key:?} in its head"));
        let known = ["bug", "data", "promise", "survives"];
        if let Some((key, _)) = fields.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            return Err(format!("its head has a {key:?}"));
        }
        let loses_data = match needed("data")?.as_str() {
            "yes" => true,
            "no" => false,
            other => return Err(format!("data is yes or no, not {other:?}")),
        };
        let diff = text.lines().skip_while(|line| line.starts_with('#'));
        Ok(Mutant {
            name,
            bug: needed("bug")?,
            loses_data,
            promise: needed("promise")?,
            survives: field("survives"),
            changes: changes(diff)?,
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> &str {
        self.name.split('-').next().unwrap_or_default()
    }
}

/// `# key: value` lines; lines that are indented further continue the value before.
fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<(String, String)>, String> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if let Some(more) = line.strip_prefix("#   ") {
            let last = fields.last_mut().ok_or("its head begins in the middle")?;
            last.1 = format!("{} {}", last.1, more.trim());
        } else {
            let pair = line.strip_prefix("# ").and_then(|line| line.split_once(':'));
            let (key, value) = pair.ok_or(format!("not `# key: value`: {line:?}"))?;
            fields.push((key.to_owned(), value.trim().to_owned()));
        }
    }
    Ok(fields)
}

/// `start,count` or `start`: the count.
fn count_of(range: &str) -> Option<usize> {
    range.split_once(',').map_or(Some(1), |(_, count)| count.parse().ok())
}

fn changes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Change>, String> {
    let mut changes: Vec<Change> = Vec::new();
    for line in lines {
        if line.starts_with("--- ") {
            continue;
        }
        if let Some(path) = line.strip_prefix("+++ b/") {
            changes.push(Change { path: path.to_owned(), hunks: Vec::new() });
            continue;
        }
        let change = changes.last_mut().ok_or(format!("outside of a file: {line:?}"))?;
        if let Some(head) = line.strip_prefix("@@ -") {
            let (old, rest) = head.split_once(" +").ok_or(format!("no hunk: {line:?}"))?;
            let new = rest.split(' ').next().unwrap_or_default();
            let lines = count_of(old).zip(count_of(new)).ok_or(format!("no hunk: {line:?}"))?;
            change.hunks.push(Hunk { lines, ..Hunk::default() });
            continue;
        }
        let hunk = change.hunks.last_mut().ok_or(format!("outside of a hunk: {line:?}"))?;
        hunk.add(line)?;
    }
    let whole = |hunk: &Hunk| hunk.is_whole() && hunk.old != hunk.new;
    match changes.iter().find(|c| c.hunks.is_empty() || !c.hunks.iter().all(whole)) {
        Some(change) => Err(format!("the change of {} is not whole", change.path)),
        None if changes.is_empty() => Err("it changes nothing".to_owned()),
        None => Ok(changes),
    }
}

impl Hunk {
    fn add(&mut self, line: &str) -> Result<(), String> {
        let (mark, text) = line.split_at_checked(1).unwrap_or((" ", ""));
        let into: &mut [&mut String] = match mark {
            " " => &mut [&mut self.old, &mut self.new],
            "-" => &mut [&mut self.old],
            "+" => &mut [&mut self.new],
            _ => return Err(format!("not a line of a diff: {line:?}")),
        };
        for side in into {
            side.push_str(text);
            side.push('\n');
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        (self.old.lines().count(), self.new.lines().count()) == self.lines
    }
}

impl Change {
    /// The file's text with the change.
    pub(super) fn apply(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for hunk in &self.hunks {
            let places: Vec<usize> = text
                .match_indices(&hunk.old)
                .map(|(at, _)| at)
                .filter(|at| starts_line(&text, *at))
                .collect();
            match places[..] {
                [at] => text.replace_range(at..at + hunk.old.len(), &hunk.new),
                [] => return Err(format!("{}: lines are not there:\n{}", self.path, hunk.old)),
                _ => return Err(format!("{}: lines are there twice:\n{}", self.path, hunk.old)),
            }
        }
        Ok(text)
    }
}

fn starts_line(text: &str, at: usize) -> bool {
    at == 0 || text.as_bytes()[at - 1] == b'\n'
}
