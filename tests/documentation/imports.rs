//! The two configurations of a migration page are one: `snigate import` makes the second from the first.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::blocks::{Block, Page};

/// Names of both files, below them, and of neither.
const NAMES: [&str; 6] =
    ["shop.example.com", "a.apps.example.com", "a.b.apps.example.com", "apps.example.com", "nobody.test", "-"];

#[test]
fn the_file_of_the_other_proxy_routes_as_ours_beside_it() {
    for program in ["haproxy", "nginx", "sniproxy"] {
        let page = Page::read(&format!("docs/from-{program}.md"));
        let theirs = |block: &&Block| block.language == program || block.mark == program;
        let theirs = page.blocks.iter().find(theirs).expect("their file");
        let ours = page.blocks.iter().find(|block| block.language == "yaml" && block.mark.is_empty()).expect("ours");
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // Its ending shows the format.
        let file = at(if theirs.language == "yaml" { "theirs.yaml" } else { "theirs.conf" });
        fs::write(&file, &theirs.text).unwrap();
        fs::write(at("ours.yaml"), &ours.text).unwrap();
        let made = snigate(&["import", program, file.to_str().unwrap()]);
        assert_eq!(made.0, 0, "{}: {}{}", theirs.place, made.1, made.2);
        fs::write(at("imported.yaml"), made.1).unwrap();
        for name in NAMES {
            let [imported, written] = ["imported.yaml", "ours.yaml"].map(|file| destination(name, &at(file)));
            assert_eq!(imported, written, "{}: {name}", theirs.place);
        }
    }
}

/// The backends that a name leads to, with their weights, or how it is refused.
fn destination(name: &str, file: &Path) -> Value {
    let (_, answer, errors) = snigate(&["explain", name, file.to_str().unwrap(), "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}{errors}"));
    let mut backends: Vec<String> = answer["pool"]["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|backend| format!("{} {}", backend["address"], backend["weight"]))
        .collect();
    backends.sort();
    if backends.is_empty() { answer["refusal"]["client_sees"].clone() } else { backends.into() }
}

fn snigate(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_snigate")).args(arguments).output().unwrap();
    let [printed, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code().unwrap_or(-1), printed, errors)
}
