//! The rules: each takes text and gives a sentence per violation.

use super::CRATES;
use super::source::{code, is_test, item_end, line_of, without_tests, words};

/// Lines of a product file.
pub(super) const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from `fn` to its closing brace.
pub(super) const FUNCTION_LINES_MAX: usize = 70;
/// Columns of a line of Rust.
const COLUMNS_MAX: usize = 100;

/// A room of the engine, what it may import from its own crate, and, where only some items of a
/// room may be named, which.
pub(super) struct Room {
    pub(super) name: &'static str,
    pub(super) imports: &'static [&'static str],
    pub(super) only: Option<(&'static str, &'static [&'static str])>,
}

/// Which rooms of `crate_path` a file names, as `room::item` or `room`.
pub(super) fn rooms_named(path: &str, text: &str) -> Vec<(usize, String)> {
    let code = without_tests(&code(text));
    // Module depth of the file: how many `super` lead to the crate's root.
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside);
    let file = inside.strip_suffix(".rs").unwrap_or(inside);
    let depth = file.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).count();
    let tokens: Vec<_> = words(&code).collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let first = at;
        let chained = |at: usize| {
            let (offset, word) = tokens[at];
            code[offset + word.len()..].trim_start().starts_with("::")
        };
        let mut supers = 0;
        while at < tokens.len() && tokens[at].1 == "super" && chained(at) {
            (supers, at) = (supers + 1, at + 1);
        }
        let from_root = supers > 0 && supers == depth;
        let from_crate = supers == 0 && tokens[at].1 == "crate" && chained(at);
        at += usize::from(from_crate);
        if (from_root || from_crate) && at < tokens.len() {
            let offset = tokens[first].0;
            let end = code[offset..].find([';', ')', '>']).map_or(code.len(), |len| offset + len);
            found.extend(paths(&code[tokens[at].0..end.max(tokens[at].0)]).map(|p| (offset, p)));
        }
        at += usize::from(!from_crate && supers == 0);
    }
    found.into_iter().map(|(offset, path)| (line_of(&code, offset), path)).collect()
}

/// `a::b` of `a::b::c`, and both of `a::{b, c::d}`.
fn paths(text: &str) -> impl Iterator<Item = String> {
    let (room, rest) = text.split_once("::").unwrap_or((text, ""));
    let room: String = room.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let group = rest.trim_start().strip_prefix('{').map(|group| {
        group.split('}').next().unwrap_or("").split(',').map(|item| item.trim().to_owned())
    });
    let single: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let items: Vec<String> = match group {
        Some(group) => group.filter(|item| !item.is_empty()).collect(),
        None => vec![single],
    };
    items.into_iter().map(move |item| format!("{room}::{item}"))
}

/// Imports of a room against its table.
pub(super) fn imports(room: &Room, path: &str, text: &str) -> Vec<String> {
    let allowed = |named: &str| {
        let (other, item) = named.split_once("::").unwrap_or((named, ""));
        let limited = room.only.is_none_or(|(of, items)| of != other || items.contains(&item));
        other == room.name || (room.imports.contains(&other) && limited)
    };
    rooms_named(path, text)
        .into_iter()
        .filter(|(_, named)| !allowed(named))
        .map(|(line, named)| format!("{path}:{line}: room {:?} must not know {named}", room.name))
        .collect()
}

/// Words that may stand only in certain rooms.
pub(super) fn words_forbidden(path: &str, text: &str, forbidden: &[&str]) -> Vec<String> {
    let code = without_tests(&code(text));
    words(&code)
        .filter(|(_, word)| forbidden.contains(word))
        .map(|(at, word)| format!("{path}:{}: {word} belongs elsewhere", line_of(&code, at)))
        .collect()
}

/// Paths such as `std::fs` that may stand only in certain rooms.
pub(super) fn paths_forbidden(path: &str, text: &str, forbidden: &[&str]) -> Vec<String> {
    let code = without_tests(&code(text));
    let found = |name: &&str| Some((code.find(*name)?, name.to_string()));
    forbidden
        .iter()
        .filter_map(found)
        .map(|(at, name)| format!("{path}:{}: {name} belongs elsewhere", line_of(&code, at)))
        .collect()
}

/// Whether a file holds `unsafe` code, or allows it.
pub(super) fn has_unsafe(text: &str) -> bool {
    words(&code(text)).any(|(_, word)| word == "unsafe" || word == "unsafe_code")
}

/// Crates of this workspace that a manifest depends on or code names.
pub(super) fn crates_named(path: &str, text: &str) -> Vec<String> {
    if path.ends_with(".rs") {
        let code = code(text);
        let names = words(&code).filter_map(|(_, word)| word.strip_prefix("ashlar_"));
        let names = names.map(|name| name.replace('_', "-"));
        return names.filter(|name| CRATES.iter().any(|(known, _)| known == name)).collect();
    }
    let names = text.lines().filter_map(|line| line.strip_prefix("ashlar-"));
    names.filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned())).collect()
}

/// Product lines of a file: without its tests.
pub(super) fn product_lines(path: &str, text: &str) -> usize {
    if is_test(path) {
        return 0;
    }
    // Behind the blanked tests only blank lines are left.
    without_tests(&code(text)).trim_end().matches('\n').count() + 1
}

/// Functions that are too long, with their first line and length.
pub(super) fn long_functions(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let starts = words(&code).filter(|(_, word)| *word == "fn");
    let lengths = starts.filter_map(|(at, _)| {
        // A function pointer type is followed by a parenthesis, a function by its name.
        let name = words(&code[at + 2..]).next()?;
        if code[at + 2..at + 2 + name.0].contains('(') {
            return None;
        }
        let lines = 1 + code[at..item_end(&code, at)].matches('\n').count();
        Some((line_of(&code, at), name.1, lines))
    });
    lengths
        .filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX)
        .map(|(line, name, lines)| format!("{path}:{line}: fn {name} has {lines} lines"))
        .collect()
}

/// Characters that no source holds, and lines that are too long.
pub(super) fn characters(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let code = code(text);
    // Lines of a string are as long as they must be.
    let mut code_lines = code.lines();
    for (i, line) in text.lines().enumerate() {
        let blanked = code_lines.next().map_or(0, |line| line.trim_end().len());
        let long = line.len() > COLUMNS_MAX
            && (blanked > COLUMNS_MAX || line.trim_start().starts_with("//"));
        let bad = line.chars().find(|c| !c.is_ascii() || c.is_ascii_control());
        let why = match bad {
            Some('\t') => Some("a tab".to_owned()),
            Some(c) => Some(format!("the character {c:?}")),
            None if line.ends_with(' ') => Some("a space at the end".to_owned()),
            None if path.ends_with(".rs") && long => Some(format!("{} columns", line.len())),
            None => None,
        };
        wrong.extend(why.map(|why| format!("{path}:{}: {why}", i + 1)));
    }
    if text.contains('\r') || !(text.is_empty() || text.ends_with('\n')) {
        wrong.push(format!("{path}: lines end with one newline each"));
    }
    if text.ends_with("\n\n") {
        wrong.push(format!("{path}: ends with an empty line"));
    }
    wrong
}

/// Marks of unfinished work and traces of the machine it was written on. Split in two, so that
/// this file does not hold them.
const TRACES: [(&str, &str); 12] = [
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X"),
    ("HA", "CK"),
    ("dbg", "!"),
    ("todo", "!"),
    ("unimplemented", "!"),
    ("#[ign", "ore"),
    ("/ho", "me/"),
    ("/ro", "ot/"),
    ("/wo", "rk/"),
    ("/Us", "ers/"),
];

/// Unfinished work, skipped tests, machine paths.
pub(super) fn traces(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (head, tail) in TRACES {
        let mark = format!("{head}{tail}");
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        for (at, _) in text.match_indices(&mark) {
            let before = text[..at].chars().next_back();
            let after = text[at + mark.len()..].chars().next();
            let whole = !mark.chars().all(char::is_alphabetic) || !is_word(after);
            if whole && !is_word(before) {
                wrong.push(format!("{path}:{}: {mark}", line_of(text, at)));
            }
        }
    }
    wrong
}

/// A product file begins with its documentation.
pub(super) fn documented(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//!")).then(|| format!("{path}: does not begin with its documentation"))
}
