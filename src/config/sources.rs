//! The files a configuration was read from, so that changes can be detected.
//!
//! In:  the files that were read, and the patterns that were searched.
//! Out: the files that exist now, including new matches.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{ech_keys, files};

/// What a configuration was read from, successfully or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The routing file first, then the included files, then the token, as far as they could be read.
    pub files: Vec<PathBuf>,
    /// The `include` patterns, relative to the first of `files`.
    pub(super) patterns: Vec<String>,
    pub(super) token: Option<PathBuf>,
    /// The files and directories with the keys of Encrypted ClientHello.
    pub(super) ech: Vec<PathBuf>,
    /// The files of networks that lists name, whether or not they could be read.
    pub(super) lists: Vec<PathBuf>,
}

impl Sources {
    pub(super) fn new(main: &Path) -> Self {
        Self { files: vec![main.to_path_buf()], ..Self::default() }
    }

    /// Every file that would be read now. A missing file is included if it is named explicitly.
    pub fn present(&self) -> BTreeSet<PathBuf> {
        let main = self.main();
        let included = self.patterns.iter().filter_map(|pattern| files::find(pattern, main).ok()).flatten();
        let keys = self.ech.iter().flat_map(|path| ech_keys::present(path));
        included.chain(self.files.iter().chain(&self.lists).cloned()).chain(self.token.clone()).chain(keys).collect()
    }

    /// The directories in which new files may match.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let keys = self.ech.iter().filter(|path| path.is_dir()).cloned();
        self.patterns.iter().map(|pattern| files::directory(pattern, self.main())).chain(keys)
    }

    fn main(&self) -> &Path {
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }
}
