//! Whoever cannot be routed is told why in words that its TLS library knows.

use crate::client::{Client, Question, Tls};
use crate::harness::Lb;
use crate::harness::recorder::ClosedPort;
use crate::program::{Output, Program};
use crate::site::Site;

#[test]
fn curl_is_reported_that_the_name_is_unknown() {
    is_reported_unrecognized_name(Client::curl());
}

#[test]
fn openssl_is_reported_that_the_name_is_unknown() {
    is_reported_unrecognized_name(Client::openssl());
}

#[test]
fn node_is_reported_that_the_name_is_unknown() {
    is_reported_unrecognized_name(Client::node());
}

#[test]
fn python_is_reported_that_the_name_is_unknown() {
    is_reported_unrecognized_name(Client::python());
}

#[test]
fn java_reaches_its_backend_and_is_reported_when_the_name_is_unknown() {
    let (Some(node), Some(client)) = (Program::find("node"), Client::java()) else { return };
    let site = Site::start(&node);
    let lb = site.lb().start();
    let trust = site.certificate("two.test");
    let question = Question { to: lb.address(), name: "two.test", trust: &trust, tls: Tls::Any };
    let output = client.ask(question);
    assert_eq!(crate::names::body(&output.stdout)["server"], "two", "{output:?}");

    let output = client.ask(Question { name: "nobody.test", ..question });
    assert!(!output.success && says_unrecognized_name(&output), "{output:?}");
    lb.stop();
}

#[test]
fn a_client_without_a_name_is_reported_what_its_version_knows() {
    let Some(curl) = Program::find("curl") else { return };
    let closed = ClosedPort::new();
    let lb = Lb::new().route("a.test", closed.address).start();
    // curl sends no server_name for an address.
    let url = format!("https://{}/", lb.address());
    let ask = |version: &[&str]| -> Output { curl.run(["-q", "-sSk", "--noproxy", "*", &url].iter().chain(version)) };

    let output = ask(&[]);
    assert!(output.stderr.contains("missing extension"), "{output:?}");
    let output = ask(&["--tls-max", "1.2"]);
    assert!(output.stderr.contains("handshake failure"), "{output:?}");
    lb.wait_for_metric("connections_closed_total", &[("reason", "no_sni")], 2.0);
    lb.stop();
}

#[test]
fn http_on_the_tls_port_is_answered_in_http() {
    let Some(curl) = Program::find("curl") else { return };
    let closed = ClosedPort::new();
    let lb = Lb::new().route("a.test", closed.address).start();
    let output = curl.run(["-q", "-sSi", "--noproxy", "*", &format!("http://{}/", lb.address())]);
    assert!(output.success && output.stdout.starts_with("HTTP/1.1 400 "), "{output:?}");
    assert!(output.stdout.contains("TLS"), "{output:?}");
    lb.wait_for_metric("connections_closed_total", &[("reason", "not_tls")], 1.0);
    lb.stop();
}

/// Asks for a name that no route takes.
fn is_reported_unrecognized_name(client: Option<Client>) {
    let Some(client) = client else { return };
    let closed = ClosedPort::new();
    let lb = Lb::new().route("a.test", closed.address).start();
    let trust = lb.directory().join("nothing.pem");
    std::fs::write(&trust, rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap().cert.pem()).unwrap();

    let versions = match client {
        Client::Python(_) | Client::Java(..) => [Tls::Any].as_slice(),
        _ => &[Tls::V12, Tls::V13],
    };
    for &tls in versions {
        let output = client.ask(Question { to: lb.address(), name: "nobody.test", trust: &trust, tls });
        assert!(!output.success && says_unrecognized_name(&output), "{tls:?}: {output:?}");
    }

    let line = lb.wait_for_connection("nobody.test");
    assert_eq!(line["reason"], "no_route", "{line}");
    lb.wait_for_metric("connections_closed_total", &[("reason", "no_route")], versions.len() as f64);
    lb.stop();
}

/// Each client has the alert's name in its own spelling: `tlsv1 unrecognized name`, `TLSV1_UNRECOGNIZED_NAME`,
/// `Received fatal alert: unrecognized_name`.
pub fn says_unrecognized_name(output: &Output) -> bool {
    output.stderr.to_lowercase().replace('_', " ").contains("unrecognized name")
}
