//! Clients print what docs/troubleshooting.md shows for each refusal, and for each fault of a backend.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};

use crate::client::{Client, Question, Tls};
use crate::harness::backend::Backend;
use crate::harness::recorder::ClosedPort;
use crate::harness::{Lb, Running};
use crate::program::Program;

const PAGE: &str = include_str!("../../docs/troubleshooting.md");

/// The sections of the page whose clients are asked here, with a name that gets there.
const SECTIONS: [(&str, &str); 7] = [
    ("The name is not known", "nobody.test"),
    ("The client may not use this route", "denied.test"),
    ("The connection is reset", "reset.test"),
    ("The connection is reset", "down.test"),
    ("The connection is closed", "closed.test"),
    ("The backend does not speak TLS", "plain.test"),
    ("The backend reports an internal error", "internal.test"),
];

#[test]
fn curl_prints_what_the_page_shows() {
    prints_what_is_shown("curl", "curl", "--version", Client::curl());
}

#[test]
fn openssl_prints_what_the_page_shows() {
    prints_what_is_shown("OpenSSL", "openssl", "version", Client::openssl());
}

#[test]
fn node_prints_what_the_page_shows() {
    prints_what_is_shown("Node.js", "node", "--version", Client::node());
}

#[test]
fn python_prints_what_the_page_shows() {
    prints_what_is_shown("Python", "python3", "--version", Client::python());
}

#[test]
fn java_prints_what_the_page_shows() {
    prints_what_is_shown("Java", "java", "-version", Client::java());
}

fn prints_what_is_shown(with: &str, program: &str, version: &str, client: Option<Client>) {
    let (Some(client), Some(program)) = (client, Program::find(program)) else { return };
    let printed = program.run([version]);
    let shown = column("By symptom", with).remove(0);
    if !format!("{}{}", printed.stdout, printed.stderr).contains(&shown) {
        let required = std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_some();
        assert!(!required, "docs/troubleshooting.md shows messages of {with} {shown}, here is {printed:?}");
        println!("skipped: docs/troubleshooting.md shows messages of {with} {shown}, here is {printed:?}");
        return;
    }
    let (lb, backends) = start();
    let trust = lb.directory().join("nothing.pem");
    std::fs::write(&trust, rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap().cert.pem()).unwrap();
    for (section, name) in SECTIONS {
        let output = client.ask(Question { to: lb.address(), name, trust: &trust, tls: Tls::Any });
        let printed = format!("{}{}", output.stdout, output.stderr);
        for part in column(section, with) {
            assert!(printed.contains(&part), "{section}, {with}, {name}: `{part}` is not in\n{printed}");
        }
    }
    lb.stop();
    drop(backends);
}

/// One name for each fault.
fn start() -> (Running, impl Sized) {
    let closed = ClosedPort::new();
    let plain = Backend::answering(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    let internal = Backend::that(|mut client| {
        // Fatal, internal_error.
        let _ = client.write_all(&[21, 3, 3, 0, 2, 2, 80]);
        let _ = client.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    });
    let addresses: BTreeMap<&str, SocketAddr> =
        [("down.test", closed.address), ("plain.test", plain.address), ("internal.test", internal.address)].into();
    let lb = addresses.iter().fold(Lb::new(), |lb, (name, address)| lb.route(name, *address));
    let lb = lb.route("denied.test", closed.address);
    let config = lb.config().replace("\"denied.test\", ", "\"denied.test\", deny: [127.0.0.0/8], ");
    let refused = "routes:\n  - { sni: closed.test, refuse: close }\n  - { sni: reset.test, refuse: reset }\n";
    (Running::start(&config.replacen("routes:\n", refused, 1)), (closed, plain, internal))
}

/// What the page shows in a section for a client: the words of the second column, without marks.
fn column(section: &str, with: &str) -> Vec<String> {
    let row = format!("\n| {with} | ");
    let cell = PAGE.split(&format!("# {section}\n")).nth(1).and_then(|rest| rest.split(&row).nth(1));
    let cell = cell.and_then(|rest| rest.split(" |\n").next()).unwrap_or_else(|| panic!("{section}: no row of {with}"));
    if !cell.contains('`') {
        return vec![cell.to_owned()];
    }
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
