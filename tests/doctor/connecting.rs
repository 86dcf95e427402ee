//! Backends that give no handshake.

use std::net::SocketAddr;

use serde_json::json;

use crate::server::{Authority, Behavior, nothing_there, relay_unix, says, says_nothing};
use crate::visit::{Told, Visit};

fn reported(backend: SocketAddr) -> Told {
    Visit::one(&["a.test", "b.test"], backend).reported()
}

/// The one finding, for both names at once.
#[track_caller]
fn only(reported: &Told, kind: &str) -> String {
    assert_eq!((reported.code, reported.findings()), (7, vec![("error", kind)]), "{:#}", reported.json);
    reported.seen(kind).to_owned()
}

#[test]
fn nothing_listens() {
    let reported = reported(nothing_there());
    assert_eq!(only(&reported, "unreachable"), "cannot connect: connection refused");
    assert_eq!(reported.json["backends"][0]["failure"], "cannot connect: connection refused");
    assert_eq!(reported.json["backends"][0]["names_asked"], 1, "who cannot be reached is not asked again");
}

#[test]
fn a_name_is_looked_up_and_reported_with_its_address() {
    let authority = Authority::new();
    let backend = authority.issue(&["a.test"]).serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() });
    let named = format!("localhost:{}", backend.port());
    let visit =
        |name: &str| Visit::default().route("a.test", "web").pool_with("web", &[name], ", resolve: { family: v4 }");
    let reported = visit(&named).trusting(&authority.file()).reported();
    assert_eq!((reported.code, reported.findings()), (0, vec![]), "{:#}", reported.json);
    assert_eq!(reported.json["backends"][0]["backend"], format!("{named} ({backend})"));
    // Answered by the resolver itself, RFC 6761 section 6.4.
    let nowhere = visit("nobody.invalid:443").reported();
    let seen = only(&nowhere, "unresolved");
    assert_eq!(
        (seen.as_str(), &nowhere.json["backends"]),
        ("the name has no address: there is no such name", &json!([]))
    );
}

#[test]
fn a_unix_socket() {
    let authority = Authority::new();
    let backend = authority.issue(&["a.test"]).serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    let named = format!("unix:{}", path.display());
    let visit = Visit::default().route("a.test", "web").pool_with("web", &[&named], "").trusting(&authority.file());
    let seen = only(&visit.reported(), "unreachable");
    assert!(seen.starts_with("cannot connect: No such file"), "{seen}");
    relay_unix(&path, backend);
    let reported = visit.reported();
    assert_eq!((reported.code, reported.findings()), (0, vec![]), "{:#}", reported.json);
}

#[test]
fn a_plain_http_server() {
    let reported = reported(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert_eq!(only(&reported, "not_tls"), "does not speak TLS; its answer begins with \"HTTP/1.1 400 Bad Request\"");
    assert!(reported.one("not_tls")["mend"].as_str().unwrap().contains("plain HTTP"));
}

#[test]
fn a_server_that_hangs_up() {
    let reported = reported(says(b""));
    assert_eq!(only(&reported, "closed"), "closed without an answer");
    assert_eq!(reported.one("closed")["names"], json!(["a.test", "b.test"]));
}

#[test]
fn a_server_that_says_nothing() {
    let reported = Visit::one(&["a.test"], says_nothing()).argument("--timeout").argument("300ms").reported();
    assert_eq!(only(&reported, "silent"), "accepted the connection and did not answer within 300 ms");
}

#[test]
fn a_server_that_breaks_the_protocol() {
    let reported = reported(says(b"\x16\x03\x03\0\x04\x7f\0\0\0"));
    only(&reported, "handshake_failed");
}

#[test]
fn alerts() {
    let reported = reported(says(b"\x15\x03\x03\0\x02\x02\x28"));
    assert_eq!(only(&reported, "handshake_refused"), "refused by the alert handshake_failure (40)");
    let authority = Authority::new();
    let serve =
        |only| authority.issue(&["a.test", "b.test"]).serve(Behavior { only: Some(only), ..Behavior::default() });
    let visit = |backend| Visit::one(&["a.test", "b.test"], backend).trusting(&authority.file()).reported();
    let refused = visit(serve(&["a.test"]));
    assert_eq!((refused.code, refused.findings()), (7, vec![("error", "name_refused")]));
    assert_eq!(refused.one("name_refused")["names"], json!(["b.test"]));
    assert_eq!(refused.seen("name_refused"), "refused by the alert unrecognized_name (112)");
    assert_eq!(visit(serve(&["a.test", "b.test"])).findings(), []);
}

#[test]
fn a_backend_and_a_pool_that_disagree_about_the_proxy_header() {
    let authority = Authority::new();
    let backend = |wants_proxy_header| {
        let behavior = Behavior { wants_proxy_header, only: Some(&["a.test"]), ..Behavior::default() };
        authority.issue(&["a.test"]).serve(behavior)
    };
    let (with, without) = (", send_proxy_protocol: v2", "");
    let visit = |wants, sends| {
        Visit::default()
            .route("a.test", "web")
            .pool_with("web", &[backend(wants)], sends)
            .trusting(&authority.file())
            .reported()
    };
    assert_eq!(visit(true, with).findings(), []);
    assert_eq!(visit(false, without).findings(), []);
    let missing = visit(true, without);
    assert_eq!(only(&missing, "proxy_header"), "expects a PROXY header, and the pool sends none");
    let unwanted = visit(false, with);
    assert_eq!(only(&unwanted, "proxy_header"), "does not expect the PROXY header that the pool sends");
}
