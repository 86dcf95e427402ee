//! Each client reaches each backend by its name, and it is the backend's own certificate that it verifies.

use serde_json::Value;

use crate::client::{Client, Question, Tls};
use crate::harness::was_served;
use crate::program::Program;
use crate::site::{NAMES, Site};

#[test]
fn curl_reaches_each_backend_by_its_name() {
    reaches_each_backend(Client::curl(), &[Tls::V12, Tls::V13]);
}

#[test]
fn openssl_reaches_each_backend_by_its_name() {
    reaches_each_backend(Client::openssl(), &[Tls::V12, Tls::V13]);
}

#[test]
fn node_reaches_each_backend_by_its_name() {
    reaches_each_backend(Client::node(), &[Tls::V12, Tls::V13]);
}

#[test]
fn python_reaches_each_backend_by_its_name() {
    reaches_each_backend(Client::python(), &[Tls::Any]);
}

fn reaches_each_backend(client: Option<Client>, versions: &[Tls]) {
    let (Some(client), Some(node)) = (client, Program::find("node")) else { return };
    let site = Site::start(&node);
    let lb = site.lb().start();
    for &tls in versions {
        for (name, server) in NAMES {
            let trust = site.certificate(name);
            let output = client.ask(Question { to: lb.address(), name, trust: &trust, tls });
            assert!(output.success, "{name}: {output:?}");
            let body = body(&output.stdout);
            assert_eq!((&body["server"], &body["servername"]), (&server.into(), &name.into()));
            match tls {
                Tls::Any => {}
                Tls::V12 => assert_eq!(body["protocol"], "TLSv1.2"),
                Tls::V13 => assert_eq!(body["protocol"], "TLSv1.3"),
            }
        }
    }

    // That it trusts one certificate only is what makes the above a proof: with another's it must fail.
    let trust = site.certificate("one.test");
    let output = client.ask(Question { to: lb.address(), name: "two.test", trust: &trust, tls: Tls::Any });
    assert!(!output.success && !output.stdout.contains("servername"), "{output:?}");

    for (name, _) in NAMES {
        let line = lb.wait_for_connection(name);
        assert!(was_served(&line) && line["route"] == name, "{line}");
        assert!(
            line["bytes_to_backend"].as_u64() > Some(200) && line["bytes_to_client"].as_u64() > Some(200),
            "{line}"
        );
    }
    lb.stop();
}

/// The JSON that a server of the site answers with, wherever the client prints it.
pub fn body(printed: &str) -> Value {
    let from = printed.find("{\"server\"").unwrap_or_else(|| panic!("no body in {printed:?}"));
    let text = &printed[from..];
    serde_json::from_str(&text[..=text.find('}').expect("a whole body")]).unwrap()
}
