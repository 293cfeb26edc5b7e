//! Every input that was kept is run through its target: fixed bugs stay fixed.

use std::path::Path;

#[test]
fn every_kept_input_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in ashlar_fuzz::TARGETS {
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus.join(name)).expect("a corpus") {
            let path = entry.expect("entry").path();
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("input"));
            replayed += 1;
        }
        assert!(replayed > 0, "{name} has no corpus");
    }
}
