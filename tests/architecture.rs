//! Holds the code to the order of its rooms: imports point down the list, never back up.

use std::fs;
use std::path::{Path, PathBuf};

/// From the outermost room to the innermost. A room may use those below it.
const ORDER: &[&str] = &[
    "cli",
    "server",
    "discovery",
    "reload",
    "process",
    "doors",
    "worker",
    "listener",
    "connection",
    "health",
    "explain",
    "roster",
    "snapshot",
    "admin",
    "config",
    "resolve",
    "connect",
    "pool",
    "peek",
    "refuse",
    "relay",
    "route",
    "client_hello",
    "server_name",
    "proxy_header",
    "self_loop",
    "limits",
    "drain",
    "upgrade",
    "systemd",
    "handshake",
    "socket",
    "sys",
    "telemetry",
];

/// Rooms that must not know each other, though the order would let them.
const STRANGERS: &[(&str, &str)] = &[
    ("config", "pool"),
    ("config", "relay"),
    ("config", "telemetry"),
    ("relay", "pool"),
    ("relay", "telemetry"),
    ("route", "telemetry"),
    ("client_hello", "telemetry"),
    ("handshake", "telemetry"),
    ("admin", "snapshot"),
    ("admin", "config"),
];

#[test]
fn imports_never_run_back_up() {
    let mut wrong = Vec::new();
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let Some(room) = room(&file) else { continue };
        let place = rank(&room).unwrap_or_else(|| panic!("{room} is not in the order of rooms: add it"));
        for used in used_rooms(&file) {
            let Some(other) = rank(&used) else { continue };
            if other < place || STRANGERS.contains(&(room.as_str(), used.as_str())) {
                wrong.push(format!("{}: {room} uses {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_opens_with_what_it_is_for() {
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let is_test = file.file_name().is_some_and(|name| name == "tests.rs");
        let text = fs::read_to_string(&file).expect("readable");
        assert!(is_test || text.starts_with("//! "), "{}", file.display());
    }
}

#[test]
fn unsafe_stands_in_one_room() {
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let text = fs::read_to_string(&file).expect("readable");
        let allowed = file.ends_with("src/sys.rs");
        assert!(allowed || !text.contains("allow(unsafe_code)"), "{}", file.display());
    }
}

/// The first part of a file's path below `src`; none for lib.rs and main.rs.
fn room(file: &Path) -> Option<String> {
    let below = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("below src");
    let first = below.components().next()?.as_os_str().to_str()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (room != "lib" && room != "main").then(|| room.to_owned())
}

fn rank(room: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == room)
}

/// The rooms named after `crate::`, in code that is no test.
fn used_rooms(file: &Path) -> Vec<String> {
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
