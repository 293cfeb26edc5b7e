//! Source text for the rules: files of the workspace, and Rust code without its comments, strings
//! and tests. Lines keep their numbers.

use std::path::{Path, PathBuf};

/// A file of the workspace.
pub(super) struct File {
    /// Relative to the workspace, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

/// Folders that hold nothing written by hand.
const SKIPPED: [&str; 4] = ["target", "corpus", "golden", "proptest-regressions"];

pub(super) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file with one of these extensions.
pub(super) fn files(extensions: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    walk(&workspace(), "", extensions, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(directory: &Path, prefix: &str, extensions: &[&str], found: &mut Vec<File>) {
    for entry in std::fs::read_dir(directory).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("a kind");
        let hidden = name.starts_with('.') && name != ".ci";
        if kind.is_dir() && !hidden && !SKIPPED.contains(&name.as_str()) {
            walk(&entry.path(), &format!("{path}/"), extensions, found);
        }
        let extension = name.rsplit_once('.').map_or(name.as_str(), |(_, extension)| extension);
        if kind.is_file() && !hidden && extensions.contains(&extension) {
            let text = std::fs::read_to_string(entry.path()).expect("text in UTF-8");
            found.push(File { path, text });
        }
    }
}

/// Whether a file holds only tests.
pub(super) fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("/layout.rs")
}

/// Rust code with comments, strings and character literals blanked.
pub(super) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + skipped(&bytes[at..], at.checked_sub(1).map(|i| bytes[i]));
        if end == at {
            out.push(bytes[at] as char);
            at += 1;
        } else {
            let blank = |byte: &u8| if *byte == b'\n' { '\n' } else { ' ' };
            out.extend(bytes[at..end].iter().map(blank));
            at = end;
        }
    }
    out
}

/// Bytes of the comment, string or character literal that starts here; 0 if none does.
fn skipped(rest: &[u8], before: Option<u8>) -> usize {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => string(rest),
        [b'r', b'"' | b'#', ..] if !in_word => raw_string(rest),
        [b'b', b'r', b'"' | b'#', ..] if !in_word => 1 + raw_string(&rest[1..]),
        [b'\'', b'\\', ..] => 3 + rest[3..].iter().take_while(|byte| **byte != b'\'').count() + 1,
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0; // A raw identifier.
    }
    let mut at = 2 + hashes;
    while at < rest.len() {
        let closes = rest[at] == b'"'
            && rest.len() > at + hashes
            && rest[at + 1..at + 1 + hashes].iter().all(|byte| *byte == b'#');
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

/// Offset behind the item that starts here: its closing brace, or its semicolon.
pub(super) fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            b';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    code.len()
}

/// Blanks every item behind `#[cfg(test)]`.
pub(super) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    while let Some(start) = out.find(MARK) {
        let end = item_end(&out, start + MARK.len());
        let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
        let blanked: String = out[start..end].chars().map(blank).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// Every word of code with its offset.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let len = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        at = start + len;
        Some((start, &code[start..at]))
    })
}

/// Line number of an offset.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

#[test]
fn comments_strings_and_tests_are_blanked() {
    let text = "a // b\n/* c /* d */ e */ f \"g \\\" h\" i r#\"j \" k\"# l '\\'' m 'n' o b\"p\" 'q";
    let found: Vec<_> = words(&code(text)).map(|(_, word)| word.to_owned()).collect();
    assert_eq!(found, ["a", "f", "i", "l", "m", "o", "b", "q"]);
    assert_eq!(code(text).len(), text.len());
    let text =
        "use a;\n#[cfg(test)]\nmod tests { fn x() { y } }\nfn z() {}\n#[cfg(test)]\nmod t;\n";
    let found: Vec<_> = words(&without_tests(text)).map(|(_, word)| word.to_owned()).collect();
    assert_eq!(found, ["use", "a", "fn", "z"]);
}
