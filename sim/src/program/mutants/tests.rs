//! Goal: the mutants stay usable while the product changes.
//! Method: every patch is applied to the text of the files it names.

use super::patch::Mutant;
use super::tree;

/// Fewer would not say much.
const MUTANTS_MIN: usize = 90;

#[test]
fn every_patch_applies_and_says_what_it_is() {
    let mutants = tree::mutants().expect("whole patches");
    assert!(mutants.len() >= MUTANTS_MIN);
    assert!(mutants.iter().any(|mutant| mutant.loses_data));
    let product = ["engine/src/", "nbd-server/src/", "raft/src/"];
    let mut wrong = Vec::new();
    for (i, mutant) in mutants.iter().enumerate() {
        if mutant.number() != format!("{:02}", i + 1) {
            wrong.push(format!("{}: number {} is missing", mutant.name, i + 1));
        }
        for change in &mutant.changes {
            let applied = tree::text_of(&change.path).and_then(|text| change.apply(&text));
            wrong.extend(applied.err().map(|why| format!("{}: {why}", mutant.name)));
            if !product.iter().any(|folder| change.path.starts_with(folder)) {
                wrong.push(format!("{}: {} is not the product", mutant.name, change.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const PATCH: &str = "\
# bug: It adds
#   one.
# data: no
# promise: sums
--- a/engine/src/sum.rs
+++ b/engine/src/sum.rs
@@ -1,3 +1,3 @@
 fn sum(a: u32, b: u32) -> u32 {
-    a + b
+    a + b + 1
 }
";

#[test]
fn a_patch_is_read_and_applied() {
    let mutant = Mutant::parse("07-adds-one.patch", PATCH).expect("a patch");
    assert_eq!((mutant.number(), mutant.bug.as_str()), ("07", "It adds one."));
    assert!(!mutant.loses_data && mutant.survives.is_none());
    let sum = "fn sum(a: u32, b: u32) -> u32 {\n    a + b\n}\n";
    let applied = mutant.changes[0].apply(&format!("// Above.\n{sum}"));
    assert_eq!(applied, Ok(format!("// Above.\n{}", sum.replace("a + b", "a + b + 1"))));
    assert!(mutant.changes[0].apply("fn sum() {}\n").is_err());
    assert!(mutant.changes[0].apply(&sum.repeat(2)).is_err(), "it could be either");
}

#[test]
fn incomplete_patches_are_refused() {
    let refused = |text: String| Mutant::parse("07-x.patch", &text).is_err();
    assert!(!refused(PATCH.to_owned()));
    assert!(refused(PATCH.replace("# data: no\n", "")));
    assert!(refused(PATCH.replace("# data: no", "# data: perhaps")));
    assert!(refused(PATCH.replace("# promise: sums\n", "")));
    assert!(refused(PATCH.replace("# promise: sums\n", "# promise: sums\n# else: x\n")));
    assert!(refused(PATCH.replace("@@ -1,3", "@@ -1,4")));
    assert!(refused(PATCH.replace("+    a + b + 1", "+    a + b")), "it changes nothing");
    assert!(refused(PATCH[..PATCH.find("@@").expect("a hunk")].to_owned()));
    assert!(Mutant::parse("07-x.txt", PATCH).is_err());
}
