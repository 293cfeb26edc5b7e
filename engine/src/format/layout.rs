//! Goal: `docs/format.md` cannot drift from the structs.
//! Method: every structure describes its fields once (`layout` next to it); offsets and sizes come
//! from the compiler, the rendered tables are compared with the document.
//!
//! `ASHLAR_WRITE_FORMAT_TABLES=1 cargo test -p ashlar-engine --lib layout` writes them.

use std::path::{Path, PathBuf};

/// One field, as the compiler lays it out.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) offset: usize,
    pub(super) size: usize,
    pub(super) kind: &'static str,
    pub(super) meaning: &'static str,
}

/// One structure.
pub(super) struct Layout {
    pub(super) title: &'static str,
    pub(super) size: usize,
    pub(super) fields: Vec<Field>,
}

/// Size and type of a field, from a function that borrows it.
pub(super) fn field_type<S, F>(_: fn(&S) -> &F) -> (usize, &'static str) {
    (size_of::<F>(), std::any::type_name::<F>())
}

/// Describes a structure: every field with its meaning, in order.
macro_rules! layout {
    ($title:literal, $structure:ty, { $($field:ident: $meaning:literal,)* }) => {
        crate::format::layout::Layout {
            title: $title,
            size: size_of::<$structure>(),
            fields: vec![$({
                let (size, kind) =
                    crate::format::layout::field_type(|s: &$structure| &s.$field);
                crate::format::layout::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($structure, $field),
                    size,
                    kind,
                    meaning: $meaning,
                }
            },)*],
        }
    };
}

fn kind(name: &str) -> String {
    for (rust, short) in [("::U16<", "u16"), ("::U32<", "u32"), ("::U64<", "u64")] {
        if name.contains(rust) {
            return short.to_owned();
        }
    }
    name.to_owned()
}

impl Layout {
    fn render(&self) -> String {
        let mut text = String::from("| offset | bytes | type | field | meaning |\n");
        text.push_str("|---:|---:|---|---|---|\n");
        for field in &self.fields {
            let Field { name, offset, size, meaning, .. } = field;
            let kind = kind(field.kind);
            text.push_str(&format!("| {offset} | {size} | {kind} | `{name}` | {meaning} |\n"));
        }
        text.push_str(&format!("| {} | | | | end |\n", self.size));
        text
    }

    /// A sentence if fields are missing, doubled or out of order.
    fn gap(&self) -> Option<String> {
        let mut at = 0;
        for field in &self.fields {
            if field.offset != at {
                return Some(format!("{}: byte {at} is not described", self.title));
            }
            at += field.size;
        }
        (at != self.size).then(|| format!("{}: byte {at} is not described", self.title))
    }
}

fn layouts() -> Vec<Layout> {
    let mut all = super::superblock::layout::layouts();
    all.extend(super::segment::layout::layouts());
    all.extend(super::batch::layout::layouts());
    all.extend(super::record::layout::layouts());
    all.extend(super::checkpoint::layout::layouts());
    all.extend(super::group_table::layout::layouts());
    all
}

/// The document with every table between its markers replaced; `Err` names a missing marker.
fn with_tables(document: &str, layouts: &[Layout]) -> Result<String, String> {
    let mut text = document.to_owned();
    for layout in layouts {
        let (open, close) = (format!("<!-- table: {} -->\n", layout.title), "<!-- end -->");
        let start = text.find(&open).ok_or(format!("no table {:?}", layout.title))? + open.len();
        let length = text[start..].find(close).ok_or(format!("{:?} has no end", layout.title))?;
        text.replace_range(start..start + length, &layout.render());
    }
    Ok(text)
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md")
}

#[test]
fn every_byte_is_described() {
    for layout in layouts() {
        assert_eq!(layout.gap(), None);
    }
}

#[test]
fn the_document_shows_the_structs() {
    let found = std::fs::read_to_string(document()).expect("docs/format.md");
    let wanted = with_tables(&found, &layouts()).expect("every structure has its table");
    let tables = found.matches("<!-- table: ").count();
    assert_eq!(tables, layouts().len(), "a table without a structure");
    if std::env::var_os("ASHLAR_WRITE_FORMAT_TABLES").is_some() {
        std::fs::write(document(), &wanted).expect("can write");
        return;
    }
    assert!(found == wanted, "docs/format.md has drifted; see engine/src/format/layout.rs");
}

#[test]
fn drift_is_noticed() {
    let layouts = layouts();
    let marker = |l: &Layout| format!("<!-- table: {} -->\n<!-- end -->\n", l.title);
    let empty: String = layouts.iter().map(marker).collect();
    let full = with_tables(&empty, &layouts).expect("markers are there");
    assert_eq!(with_tables(&full, &layouts).as_ref(), Ok(&full));
    let drifted = full.replacen("| 16 | 16 |", "| 16 | 8 |", 1);
    assert_ne!(drifted, full);
    assert_ne!(with_tables(&drifted, &layouts).as_ref(), Ok(&drifted));
    assert!(with_tables("", &layouts).is_err());
}

#[test]
fn gaps_are_noticed() {
    let field = |offset| Field { name: "a", offset, size: 4, kind: "u32", meaning: "" };
    let layout = |size, fields| Layout { title: "t", size, fields };
    assert_eq!(layout(8, vec![field(0), field(4)]).gap(), None);
    assert!(layout(8, vec![field(0)]).gap().is_some());
    assert!(layout(8, vec![field(4)]).gap().is_some());
    assert!(layout(12, vec![field(0), field(8)]).gap().is_some());
}
