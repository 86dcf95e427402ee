//! Captured ClientHellos through the real binary: each reaches the backend of its name, byte for byte.
//!
//! Two collections of the same shape: `tests/data` (captured by its `capture.sh`), and the larger `../shared/corpus`
//! beside the repository, which is other projects' data and stays outside. Without the latter its test says so and
//! passes; with `SNIGATE_REQUIRE_CORPUS=1` (as in CI) it fails. `SNIGATE_CORPUS` names another directory.

mod harness;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::{env, fs};

use serde_json::Value;

use harness::recorder::{Recorded, record, send};
use harness::{DEADLINE, Lb, Running};

#[test]
fn our_own_captures_reach_the_backend_of_their_name() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
}

#[test]
fn the_corpus_reaches_the_backend_of_its_name() {
    let directory = env::var_os("SNIGATE_CORPUS").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"));
    if !directory.join("manifest.json").is_file() {
        let required = env::var_os("SNIGATE_REQUIRE_CORPUS").is_some_and(|value| value == "1");
        assert!(!required, "no corpus at {}", directory.display());
        println!("skipped: no corpus at {}", directory.display());
        return;
    }
    check(&directory);
}

fn check(directory: &Path) {
    let hellos = read(directory);
    let (lb, arrivals) = start(&hellos);
    let mut relayed = 0;
    for hello in &hellos {
        let seen = lb.log().len();
        let answer = send(lb.address(), &hello.bytes).unwrap_or_else(|error| panic!("{}: {error}", hello.id));
        let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
        let reason = line["reason"].as_str().unwrap();
        match &hello.expected {
            // Refusing a whole hello that breaks a rule is as right as routing it where its name says.
            Expected::BackendOrRefusal(_) if REFUSALS.contains(&reason) => {}
            Expected::Backend(backend) | Expected::BackendOrRefusal(backend) => {
                relayed += 1;
                let arrived = arrivals.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{}: {line}", hello.id));
                assert_eq!(arrived.backend, *backend, "{}: {line}", hello.id);
                assert!(arrived.bytes == hello.bytes, "{}: the bytes differ: {line}", hello.id);
                assert_eq!(answer, backend.as_bytes(), "{}: {line}", hello.id);
                assert_eq!(reason, "ok", "{}: {line}", hello.id);
                assert!(tells(&line["alpn"], &hello.alpn), "{}: {line}", hello.id);
            }
            Expected::Refusal => assert!(REFUSALS.contains(&reason), "{}: {line}", hello.id),
        }
    }
    lb.wait_for_metric("backend_connects_total", &[], f64::from(relayed));
    assert!(arrivals.try_recv().is_err(), "a backend was contacted for a hello that was refused");
    lb.stop();
}

/// Whether the log has the protocols that were offered, or the start of the first eight: it is bounded. One that is no
/// text stands escaped in the log and as `hex:…` in the manifest.
fn tells(logged: &Value, offered: &Value) -> bool {
    let (Some(logged), Some(offered)) = (logged.as_array(), offered.as_array()) else { return false };
    let same = |(logged, offered): (&Value, &Value)| {
        let (Some(logged), Some(offered)) = (logged.as_str(), offered.as_str()) else { return false };
        offered.starts_with("hex:") || *logged == offered[..offered.len().min(32)]
    };
    logged.len() == offered.len().min(8) && logged.iter().zip(offered).all(same)
}

/// A first flight, and where it is to go.
struct Hello {
    id: String,
    bytes: Vec<u8>,
    /// The protocols that it offers, as a list of strings.
    alpn: Value,
    expected: Expected,
}

enum Expected {
    Backend(String),
    /// It holds something that RFC 8446 or 6066 forbids.
    BackendOrRefusal(String),
    Refusal,
}

fn read(directory: &Path) -> Vec<Hello> {
    let manifest = fs::read_to_string(directory.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let hellos = manifest["hellos"].as_array().expect("a list of hellos");
    assert_eq!(manifest["count"], hellos.len());
    hellos.iter().map(|entry| hello(directory, entry)).collect()
}

fn hello(directory: &Path, entry: &Value) -> Hello {
    let bytes = fs::read(directory.join(entry["file"].as_str().unwrap())).unwrap();
    assert_eq!(entry["len"], bytes.len(), "{entry}");
    let backend = || backend_of(entry["sni"].as_str());
    let expected = match (entry["valid"].as_bool().unwrap(), entry["oddities"].is_null()) {
        (true, true) => Expected::Backend(backend()),
        (true, false) => Expected::BackendOrRefusal(backend()),
        (false, _) => Expected::Refusal,
    };
    Hello { id: entry["id"].as_str().unwrap().to_owned(), bytes, alpn: entry["alpn"].clone(), expected }
}

/// A backend is called as the name that is routed to it: lower case, without the dot at the end. An address is no
/// name (RFC 6066 §3).
fn backend_of(sni: Option<&str>) -> String {
    match sni {
        Some(name) if name.parse::<IpAddr>().is_err() => name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
        _ => NO_SNI.to_owned(),
    }
}

/// One route and one recording backend for every name of `hellos`, and one for those without.
fn start(hellos: &[Hello]) -> (Running, Receiver<Recorded>) {
    let (to, arrivals) = channel();
    let names: BTreeSet<&str> = hellos
        .iter()
        .filter_map(|hello| match &hello.expected {
            Expected::Backend(name) | Expected::BackendOrRefusal(name) => Some(name.as_str()),
            Expected::Refusal => None,
        })
        .filter(|name| *name != NO_SNI)
        .collect();
    let lb = Lb::new().no_sni(record(NO_SNI, &to));
    let lb = names.into_iter().fold(lb, |lb, name| lb.route(name, record(name, &to)));
    (lb.start(), arrivals)
}

/// No name can be spelled like this.
const NO_SNI: &str = "(no name)";
/// What may be said of a hello that is none, or breaks a rule; all of it before any backend is looked for.
const REFUSALS: [&str; 4] = ["bad_hello", "client_gone", "invalid_sni", "not_tls"];
