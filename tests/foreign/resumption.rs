//! A TLS session that a backend gave can be resumed through the proxy, which knows nothing of it.

use crate::client::{Question, Tls, get, s_client};
use crate::names::body;
use crate::program::Program;
use crate::site::Site;

#[test]
fn a_tls_1_2_session_is_reused_on_every_reconnect() {
    let (Some(node), Some(openssl)) = (Program::find("node"), Program::find("openssl")) else { return };
    let site = Site::start(&node);
    let lb = site.lb().start();
    let trust = site.certificate("one.test");
    let trust = trust.to_str().unwrap();
    let (to, name) = (lb.address().to_string(), "one.test");
    // Not with -ign_eof: s_client counts its five reconnects down only while stdin is at its end.
    let arguments = ["s_client", "-connect", &to, "-servername", name, "-verify_hostname", name, "-CAfile", trust];
    let output = openssl.run(arguments.iter().chain(&["-verify_return_error", "-tls1_2", "-reconnect"]));
    let count = |word: &str| output.stdout.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!((count("New, TLSv1.2"), count("Reused, TLSv1.2")), (1, 5), "{output:?}");
    lb.wait_for_metric("connections_accepted_total", &[], 6.0);
    lb.stop();
}

#[test]
fn a_tls_1_3_session_is_reused_by_the_next_client() {
    let (Some(node), Some(openssl)) = (Program::find("node"), Program::find("openssl")) else { return };
    let site = Site::start(&node);
    let lb = site.lb().start();
    let trust = site.certificate("drei.test");
    let session = site.directory().join("session");
    let session = session.to_str().unwrap();
    let question = Question { to: lb.address(), name: "drei.test", trust: &trust, tls: Tls::V13 };

    let first = s_client(&openssl, question, &["-tls1_3", "-sess_out", session], &get("drei.test"));
    assert!(first.stdout.contains("New, TLSv1.3"), "{first:?}");
    assert_eq!(body(&first.stdout)["reused"], false);

    let second = s_client(&openssl, question, &["-tls1_3", "-sess_in", session], &get("drei.test"));
    assert!(second.stdout.contains("Reused, TLSv1.3"), "{second:?}");
    assert_eq!(body(&second.stdout)["reused"], true);
    lb.stop();
}
