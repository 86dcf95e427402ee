//! Checks the files that the pages show with the programs that read them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::blocks::{Block, pages};

/// Files that are not routing files. Those of HAProxy and nginx have a language of their own, and are checked.
const OTHERS: [&str; 6] = ["compose", "envoy", "kubernetes", "opentelemetry", "traefik", "prometheus"];

#[test]
fn every_routing_file_is_valid() {
    let mut checked = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language == "yaml") {
            if !block.mark.is_empty() {
                assert!(OTHERS.contains(&&*block.mark), "{}: an unknown mark", block.place);
                continue;
            }
            check(block);
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

/// Checks a block, together with what it leaves out: listeners, pools that it names, lists of networks and names.
fn check(block: &Block) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("lists")).unwrap();
    for list in ["partners.txt", "banned.txt", "customers.txt"] {
        fs::write(at("lists").join(list), "# none yet\n").unwrap();
    }
    fs::write(at("token"), "0123456789abcdef").unwrap();
    if block.text.contains("ech:") {
        fs::create_dir(at("keys")).unwrap();
        let arguments = ["ech", "keygen", "--public-name", "public.example.com", "--out", "keys/1.pem"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        assert!(command.args(arguments).current_dir(directory.path()).output().unwrap().status.success());
    }
    let has = |key: &str| block.text.lines().any(|line| line.starts_with(key));
    let mut text = block.text.clone();
    if !has("listeners:") {
        text += "\nlisteners: [{ name: https, bind: \"[::]:443\" }]\n";
    }
    let is_whole = ["listeners:", "routes:", "pools:"].iter().all(|key| has(key));
    if !is_whole && !has("include:") {
        text += "\ninclude: [rest.yaml]\n";
        fs::write(at("rest.yaml"), "pools: {}\n").unwrap();
        let undefined = undefined_pools(&checked(directory.path(), &text));
        let pools: String =
            undefined.iter().map(|pool| format!("  {pool}: {{ backends: [192.0.2.1:443] }}\n")).collect();
        if !pools.is_empty() {
            fs::write(at("rest.yaml"), format!("pools:\n{pools}")).unwrap();
        }
    }
    let problems = checked(directory.path(), &text);
    assert_eq!(problems["errors"], 0, "{}: {problems:#}\n{text}", block.place);
}

fn checked(directory: &Path, text: &str) -> Value {
    fs::write(directory.join("config.yaml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let output = command.args(["check", "--json", "config.yaml"]).current_dir(directory).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn undefined_pools(problems: &Value) -> Vec<String> {
    let messages = problems["problems"].as_array().expect("a list");
    let names = messages.iter().filter_map(|problem| {
        let message = problem["message"].as_str()?;
        Some(message.strip_prefix("there is no pool `")?.split('`').next()?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn haproxy_takes_the_files_that_are_shown_for_it() {
    for (place, file) in written("haproxy", "") {
        accepts(&place, Command::new("haproxy").arg("-c").arg("-f").arg(file.path()));
    }
}

#[test]
fn nginx_takes_the_files_that_are_shown_for_it() {
    // Debian has `stream` as a module; the rest keeps the check from files that are not its own.
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = if module.exists() { format!("load_module {};\n", module.display()) } else { String::new() };
    let directory = tempfile::tempdir().unwrap();
    let head = format!("{load}pid {0}/pid;\nerror_log {0}/error.log;\n", directory.path().display());
    for (place, file) in written("nginx", &head) {
        accepts(&place, Command::new("nginx").arg("-t").arg("-c").arg(file.path()));
    }
}

/// The blocks of a language, each in a file. None if the program of that name is not installed.
fn written(language: &str, head: &str) -> Vec<(String, tempfile::NamedTempFile)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory.join(language).is_file()) {
        assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "{language} is not installed");
        println!("skipped: no {language}");
        return Vec::new();
    }
    let pages = pages();
    let blocks = pages.iter().flat_map(|page| &page.blocks).filter(|block| block.language == language);
    let written = blocks.map(|block| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{head}{}", block.text)).unwrap();
        (block.place.clone(), file)
    });
    let written: Vec<_> = written.collect();
    assert!(!written.is_empty(), "no page shows a file for {language}");
    written
}

fn accepts(place: &str, command: &mut Command) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{place}: {status}\n{stdout}{stderr}");
}

/// fail2ban matches Perl's expressions, with the address in the place of `<ADDR>`.
#[test]
fn the_expression_for_fail2ban_matches_a_line_of_the_log() {
    let pages = pages();
    let text_with = |part: &str| {
        let blocks = pages.iter().flat_map(|page| &page.blocks);
        let block = blocks.into_iter().find(|block| block.text.contains(part)).expect(part);
        block.text.lines().find(|line| line.contains(part)).expect(part).to_owned()
    };
    let expression = text_with("failregex = ").replace("failregex = ", "").replace("<ADDR>", "([0-9a-f:.]+)");
    let line = text_with(r#""event":"connection","reason":"ok","listener""#);
    let matches = |line: &str| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("log"), line).unwrap();
        let mut grep = Command::new("grep");
        grep.args(["-cP", "-e", &expression]).arg(directory.path().join("log"));
        grep.output().expect("grep runs").status.success()
    };
    for reason in ["no_route", "bad_hello", "invalid_sni"] {
        let refused = line.replace(r#""reason":"ok""#, &format!(r#""reason":"{reason}""#));
        assert!(matches(&refused), "{expression}: {refused}");
        assert!(matches(&refused.replace("198.51.100.7:", "[2001:db8::7]:")), "{expression}");
    }
    assert!(!matches(&line), "{expression}");
}
