//! A TLS session that a backend gave can be resumed through the proxy, which knows nothing of it: as long as the next
//! connection comes to a backend that knows the session.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use crate::client::{Question, Tls, get, s_client};
use crate::harness::{Lb, Running};
use crate::names::body;
use crate::program::Program;
use crate::site::Site;

#[test]
fn a_tls_1_2_session_is_reused_on_every_reconnect() {
    let (Some(node), Some(openssl)) = (Program::find("node"), Program::find("openssl")) else { return };
    let site = Site::start(&node);
    let lb = site.lb().start();
    let sessions = reconnect(&openssl, &lb, "one.test", &site.certificate("one.test"), [127, 0, 0, 1].into());
    assert_eq!(sessions, Sessions { new: 1, reused: 5 });
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

#[test]
fn by_source_hash_a_client_finds_its_session_again_among_backends_that_share_no_ticket_key() {
    let (Some(node), Some(openssl)) = (Program::find("node"), Program::find("openssl")) else { return };
    let site = Site::twins(&node, "one.test");
    let both = [site.address("east"), site.address("west")];
    let lb = Lb::new().route_with("one.test", both, "balance: source_hash").start();
    // Clients enough that both backends have some.
    let mut used = HashSet::new();
    for client in 1..=64 {
        let seen = lb.log().len();
        let sessions = reconnect(&openssl, &lb, "one.test", &site.certificate("one.test"), [127, 0, 1, client].into());
        assert_eq!(sessions, Sessions { new: 1, reused: 5 }, "127.0.1.{client}");
        used.insert(lb.wait_for_line_after(seen, |line| line["reason"].is_string())["backend"].to_string());
        if client >= 4 && used.len() == 2 {
            break;
        }
    }
    assert_eq!(used.len(), 2, "{used:?}");
    lb.stop();
}

#[test]
fn in_turn_a_client_loses_its_session_to_the_other_backend() {
    let (Some(node), Some(openssl)) = (Program::find("node"), Program::find("openssl")) else { return };
    let site = Site::twins(&node, "one.test");
    let both = [site.address("east"), site.address("west")];
    let lb = Lb::new().route_with("one.test", both, "balance: round_robin").start();
    let sessions = reconnect(&openssl, &lb, "one.test", &site.certificate("one.test"), [127, 0, 0, 1].into());
    assert!(sessions.new > 1 && sessions.new + sessions.reused == 6, "{sessions:?}");
    lb.stop();
}

/// What `openssl s_client -reconnect` makes of six connections of TLS 1.2, each with the session of the one before.
#[derive(Debug, PartialEq, Eq)]
struct Sessions {
    new: usize,
    reused: usize,
}

#[track_caller]
fn reconnect(openssl: &Program, lb: &Running, name: &str, trust: &Path, from: IpAddr) -> Sessions {
    let (to, from) = (lb.address().to_string(), format!("{from}:0"));
    // Not with -ign_eof: s_client counts its five reconnects down only while stdin is at its end.
    let arguments = ["s_client", "-connect", &to, "-bind", &from, "-servername", name, "-verify_hostname", name];
    let trust = ["-CAfile", trust.to_str().unwrap(), "-verify_return_error", "-tls1_2", "-reconnect"];
    let output = openssl.run(arguments.iter().chain(&trust));
    assert!(output.success, "{output:?}");
    let count = |word: &str| output.stdout.lines().filter(|line| line.starts_with(word)).count();
    Sessions { new: count("New, TLSv1.2"), reused: count("Reused, TLSv1.2") }
}
