//! Tells where a configuration comes from, so that changes of it can be looked for.
//!
//! In:  what was read, and what was looked for.
//! Out: the files that there are now, those included that came since.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files;

/// What a configuration was read from, or could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The routing file first, then those that it includes, then the token, as far as they could be read.
    pub files: Vec<PathBuf>,
    /// The patterns of `include`, beside the first of `files`.
    pub(super) patterns: Vec<String>,
    pub(super) token: Option<PathBuf>,
}

impl Sources {
    pub(super) fn new(main: &Path) -> Self {
        Self { files: vec![main.to_path_buf()], patterns: Vec::new(), token: None }
    }

    /// Every file that would be read now. One that is missing is among them, if it is named.
    pub fn present(&self) -> BTreeSet<PathBuf> {
        let main = self.main();
        let included = self.patterns.iter().filter_map(|pattern| files::find(pattern, main).ok()).flatten();
        included.chain(self.files.iter().cloned()).chain(self.token.clone()).collect()
    }

    /// Where further files may come.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.patterns.iter().map(|pattern| files::directory(pattern, self.main()))
    }

    fn main(&self) -> &Path {
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }
}
