//! Holds documents that are kept in the repository to what makes them, for tests.
//!
//! In:  the name of a file, and what it should hold.
//! Out: a panic that says how to write it; with `SNIGATE_BLESS=1`, the file.

use std::path::Path;

/// Compares the file `name`, seen from the root of the repository, with `made`.
pub(crate) fn compare(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("SNIGATE_BLESS").is_some() {
        std::fs::write(&path, made).unwrap_or_else(|error| panic!("{name} cannot be written: {error}"));
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let different = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(made == kept, "{name} is not current; `SNIGATE_BLESS=1 cargo test --lib kept` writes it\n{different:#?}");
}
