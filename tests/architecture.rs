//! Holds the code to the order of its modules: imports point down the list in src/lib.rs, never back up.

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
fn every_module_opens_with_what_it_is_for() {
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let is_test = file.file_name().is_some_and(|name| name == "tests.rs");
        let text = fs::read_to_string(&file).expect("readable");
        assert!(is_test || text.starts_with("//! "), "{}", file.display());
    }
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
