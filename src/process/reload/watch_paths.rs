//! Finds where changes of a file are visible: in its own directory, and in that of every symlink on the way to it.
//!
//! In:  paths; directories in which new files may appear.
//! Out: [`WatchPaths`]: what to watch, and which names in it are relevant.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, FileType};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::config::in_time;

/// What to watch, and which names are relevant. Paths are absolute, and free of symlinks except for the last component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WatchPaths {
    /// Files, and symlinks that lead to them.
    names: BTreeSet<PathBuf>,
    /// Directories in which every name that is not hidden is relevant.
    open: BTreeSet<PathBuf>,
    /// The files themselves with their inodes: changes of a bind-mounted file are visible nowhere else.
    files: BTreeSet<(PathBuf, u64)>,
}

impl WatchPaths {
    /// Follows the links of every path, which blocks. What does not answer is left out: polling finds its changes.
    pub(super) fn of<'p>(files: impl Iterator<Item = &'p Path>, directories: impl Iterator<Item = &'p Path>) -> Self {
        let mut paths = Self::default();
        for Followed { links, end, kind } in files.filter_map(follow) {
            paths.names.extend(links);
            if let Some((_, inode)) = kind {
                paths.files.insert((end.clone(), inode));
            }
            paths.names.insert(end);
        }
        for Followed { links, end, kind } in directories.filter_map(follow) {
            paths.names.extend(links);
            let is_directory = kind.is_some_and(|(kind, _)| kind.is_dir());
            if is_directory {
                paths.open.insert(end)
            } else {
                paths.names.insert(end)
            };
        }
        paths
    }

    /// Whether a change of `path` may change the configuration.
    pub(super) fn counts(&self, path: &Path) -> bool {
        let in_open = || {
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            !is_hidden && path.parent().is_some_and(|parent| self.open.contains(parent))
        };
        self.names.contains(path) || in_open()
    }

    /// Directories and files to watch.
    pub(super) fn to_watch(&self) -> BTreeSet<&Path> {
        let parents = self.names.iter().filter_map(|name| name.parent());
        // The number of inotify watches is limited.
        let files = self.files.iter().map(|(file, _)| &**file).take(MOST_FILES);
        parents.chain(self.open.iter().map(|open| &**open)).chain(files).collect()
    }
}

/// Where a path leads.
struct Followed {
    links: Vec<PathBuf>,
    /// Whether or not it exists.
    end: PathBuf,
    /// Its type and inode, if it exists.
    kind: Option<(FileType, u64)>,
}

fn follow(path: &Path) -> Option<Followed> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    in_time(path, move || Ok(Followed::of(&absolute))).ok()
}

impl Followed {
    /// Resolves `path`, which is absolute, as the kernel does.
    fn of(path: &Path) -> Self {
        let mut rest: Vec<OsString> = parts(path);
        let (mut at, mut links) = (PathBuf::from("/"), Vec::new());
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(part);
            match fs::read_link(&next) {
                Ok(target) if links.len() < MOST_LINKS => {
                    rest.extend(parts(&target));
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    links.push(next);
                }
                _ => at = next,
            }
        }
        let kind = fs::metadata(&at).ok().map(|metadata| (metadata.file_type(), metadata.ino()));
        Self { links, end: at, kind }
    }
}

/// The components of `path`, last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

const MOST_FILES: usize = 100;
/// The kernel's own limit.
const MOST_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_watched_in_its_own_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir_all(root.join("real/..1")).unwrap();
        fs::write(root.join("real/..1/c.yaml"), "").unwrap();
        symlink("..1", root.join("real/..data")).unwrap();
        symlink("..data/c.yaml", root.join("real/c.yaml")).unwrap();
        symlink(root.join("real"), root.join("linked")).unwrap();
        let file = root.join("linked/c.yaml");
        let paths = WatchPaths::of([&*file].into_iter(), std::iter::empty());
        for counts in ["linked", "real/c.yaml", "real/..data", "real/..1/c.yaml"] {
            assert!(paths.counts(&root.join(counts)), "{counts}: {paths:?}");
        }
        assert!(!paths.counts(&root.join("real/.c.yaml.swp")) && !paths.counts(&root.join("real/other.log")));
        let watched: Vec<_> = ["", "real", "real/..1", "real/..1/c.yaml"].iter().map(|path| root.join(path)).collect();
        for path in watched {
            let path: PathBuf = path.components().collect();
            assert!(paths.to_watch().contains(&*path), "{}", path.display());
        }
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for_where_it_would_be() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        let (file, routes) = (root.join("c.yaml"), root.join("routes.d"));
        let paths = WatchPaths::of([&*file].into_iter(), [&*routes].into_iter());
        assert!(paths.counts(&file) && paths.counts(&routes) && !paths.counts(&routes.join("a.yaml")));
        fs::create_dir(&routes).unwrap();
        let paths = WatchPaths::of([&*file].into_iter(), [&*routes].into_iter());
        assert!(paths.counts(&routes.join("a.yaml")) && !paths.counts(&routes.join(".a.yaml.swp")));
        // A symlink that points to itself.
        symlink("loop", root.join("loop")).unwrap();
        assert!(WatchPaths::of([&*root.join("loop")].into_iter(), std::iter::empty()).counts(&root.join("loop")));
    }
}
