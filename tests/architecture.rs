//! Holds the code to the order of its modules: imports point down the list in src/lib.rs, never back up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that must not know each other, though the order would let them.
const STRANGERS: &[(&str, &str)] = &[
    ("config", "pool"),
    ("config", "relay"),
    ("config", "telemetry"),
    ("relay", "pool"),
    ("relay", "telemetry"),
    ("route", "telemetry"),
    ("client_hello", "telemetry"),
];

#[test]
fn imports_never_run_back_up() {
    let order = order();
    let rank = |module: &str| order.iter().position(|name| name == module);
    let mut wrong = Vec::new();
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let Some(module) = module(&file) else { continue };
        let place = rank(&module).unwrap_or_else(|| panic!("src/lib.rs does not list {module}"));
        for used in used_modules(&file) {
            let Some(other) = rank(&used) else { continue };
            if other < place || STRANGERS.contains(&(module.as_str(), used.as_str())) {
                wrong.push(format!("{}: {module} uses {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_path_asks_the_snapshot_for_terms_and_reads_no_file() {
    let path = ["listener", "connection", "refuse", "peek", "route", "client_hello", "connect", "pool", "relay"];
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let on_it = module(&file).is_some_and(|module| path.contains(&&*module));
        let text = fs::read_to_string(&file).expect("readable");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!on_it || !code.contains(".config."), "{}", file.display());
    }
}

#[test]
fn no_modules_of_a_folder_go_round_in_a_circle() {
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut uses: BTreeMap<(PathBuf, String), BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(src).into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let below = file.strip_prefix(src).expect("below src").with_extension("");
        let path: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let path = path.strip_suffix(&["mod".to_owned()][..]).unwrap_or(&path);
        for used in used_paths(&file, path) {
            // The folder is where the two paths part.
            let depth = path.iter().zip(&used).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (path.get(depth), used.get(depth)) else { continue };
            let folder: PathBuf = path[..depth].iter().collect();
            if src.join(&folder).join(to).with_extension("rs").exists() || src.join(&folder).join(to).is_dir() {
                uses.entry((folder, from.clone())).or_default().insert(to.clone());
            }
        }
    }
    assert!(uses.len() > 50, "too few imports were found");
    for (folder, module) in uses.keys() {
        let mut reached = BTreeSet::new();
        let mut next = vec![module.clone()];
        while let Some(from) = next.pop() {
            let onward = uses.get(&(folder.clone(), from)).into_iter().flatten();
            next.extend(onward.filter(|to| reached.insert((*to).clone())).cloned());
        }
        assert!(!reached.contains(module), "{}: {module} uses modules that use it: {reached:?}", folder.display());
    }
}

/// The paths below `crate` that a module names in code that is no test.
fn used_paths(file: &Path, module: &[String]) -> Vec<Vec<String>> {
    let text = fs::read_to_string(file).expect("readable");
    let code: String = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join(" ");
    let roots = [("crate::", Vec::new()), ("super::", module[..module.len().saturating_sub(1)].to_vec())];
    roots.iter().flat_map(|(word, root)| code.split(word).skip(1).flat_map(|rest| flattened(root, rest))).collect()
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`, each below `root`.
fn flattened(root: &[String], tree: &str) -> Vec<Vec<String>> {
    let name: String = tree.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let after = &tree[name.len()..];
    if !name.is_empty() {
        let below = [root, &[name]].concat();
        return after.strip_prefix("::").map_or(vec![below.clone()], |rest| flattened(&below, rest));
    }
    let Some(inside) = tree.strip_prefix('{') else { return vec![root.to_vec()] };
    let (mut depth, mut start, mut paths) = (0_usize, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                paths.extend(flattened(root, inside[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    paths
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let is_test = file.file_name().is_some_and(|name| name == "tests.rs");
        let text = fs::read_to_string(&file).expect("readable");
        assert!(is_test || text.starts_with("//! "), "{}", file.display());
    }
}

#[test]
fn every_module_of_telemetry_has_a_row_in_the_tables() {
    let src = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let tables = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).expect("readable");
    let files = rust_files(&src.join("telemetry")).into_iter().filter(|file| !file.ends_with("tests.rs"));
    let missing: Vec<String> = files
        .map(|file| {
            let below = file.strip_prefix(src).expect("below src").with_extension("");
            below.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("::")
        })
        .map(|path| path.trim_end_matches("::mod").to_owned())
        .filter(|path| !tables.contains(&format!("\n| `{path}` | ")))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md has no row for {missing:?}");
}

#[test]
fn unsafe_stands_in_one_module() {
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let text = fs::read_to_string(&file).expect("readable");
        let allowed = file.ends_with("src/sys.rs");
        assert!(allowed || !text.contains("allow(unsafe_code)"), "{}", file.display());
    }
}

/// The first part of a file's path below `src`; none for lib.rs and main.rs.
fn module(file: &Path) -> Option<String> {
    let below = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("below src");
    let first = below.components().next()?.as_os_str().to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (module != "lib" && module != "main").then(|| module.to_owned())
}

/// The modules as src/lib.rs lists them, from the outermost to the innermost.
fn order() -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).expect("readable");
    let module = |line: &str| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned());
    let order: Vec<_> = text.lines().filter_map(module).collect();
    assert!(order.len() > 10, "too few modules were found in src/lib.rs: {order:?}");
    order
}

/// The modules named after `crate::`, in code that is no test.
fn used_modules(file: &Path) -> Vec<String> {
    if file.file_name().is_some_and(|name| name == "tests.rs") {
        return Vec::new();
    }
    let text = fs::read_to_string(file).expect("readable");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let name = |after: &str| after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used: Vec<String> = code.split("crate::").skip(1).map(name).collect();
    // `use crate::{relay, socket};`
    for list in code.split("use crate::{").skip(1) {
        let list = list.split(';').next().unwrap_or_default();
        used.extend(list.split(',').map(|item| name(item.trim())));
    }
    used
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|kind| kind == "rs") {
            files.push(entry);
        }
    }
    files
}
