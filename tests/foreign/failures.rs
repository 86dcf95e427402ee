//! A backend that is down costs its clients a quick reset when it was the only one, and nothing when it was not.

use std::time::{Duration, Instant};

use crate::client::{Client, Question, Tls};
use crate::harness::recorder::ClosedPort;
use crate::harness::{Lb, was_served};
use crate::names::body;
use crate::program::Program;
use crate::site::Site;

#[test]
fn a_backend_that_is_down_is_a_quick_reset() {
    let Some(curl) = Program::find("curl") else { return };
    let closed = ClosedPort::new();
    let lb = Lb::new().route("a.test", closed.address).start();
    let resolve = format!("a.test:{}:127.0.0.1", lb.port());
    let started = Instant::now();
    let url = format!("https://a.test:{}/", lb.port());
    let output = curl.run(["-q", "-sSk", "--noproxy", "*", "--resolve", &resolve, &url]);
    assert!(!output.success && output.stderr.contains("reset by peer"), "{output:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    let line = lb.wait_for_connection("a.test");
    assert_eq!(line["reason"], "connect_refused", "{line}");
    lb.stop();
}

#[test]
fn with_one_of_two_backends_down_every_client_is_served() {
    let (Some(curl), Some(node)) = (Client::curl(), Program::find("node")) else { return };
    let site = Site::start(&node);
    let closed = ClosedPort::new();
    let lb = Lb::new().route("one.test", [closed.address, site.address("one")]).start();
    let trust = site.certificate("one.test");
    for _ in 0..20 {
        let output = curl.ask(Question { to: lb.address(), name: "one.test", trust: &trust, tls: Tls::Any });
        assert!(output.success, "{output:?}");
        assert_eq!(body(&output.stdout)["server"], "one");
    }
    lb.wait_for_metric("connections_closed_total", &[], 20.0);
    assert!(lb.log().iter().filter(|line| line["reason"].is_string()).all(was_served));
    lb.stop();
}
