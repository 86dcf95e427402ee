//! Versions, protocols, and hellos that are large or cut.

use crate::server::{Authority, Behavior, TLS12, TLS13};
use crate::visit::{Told, Visit};

fn reported(behavior: Behavior) -> Told {
    let authority = Authority::new();
    let behavior = Behavior { only: behavior.only.or(Some(&["a.test"])), ..behavior };
    Visit::one(&["a.test"], authority.issue(&["a.test"]).serve(behavior)).trusting(&authority.file()).reported()
}

/// That finding alone.
#[track_caller]
fn only(reported: &Told, severity: &str, kind: &str) -> String {
    let code = if severity == "info" { 0 } else { 7 };
    assert_eq!((reported.code, reported.findings()), (code, vec![(severity, kind)]), "{:#}", reported.json);
    reported.seen(kind).to_owned()
}

#[test]
fn nothing_is_wrong_with_both_versions_and_any_hello() {
    assert_eq!(reported(Behavior::default()).findings(), []);
}

#[test]
fn one_version_only() {
    let old = reported(Behavior { versions: &TLS12, ..Behavior::default() });
    assert_eq!(only(&old, "warning", "old_tls"), "does not support TLS 1.3");
    assert_eq!(old.json["backends"][0]["tls"], serde_json::json!(["1.2"]));
    let new = reported(Behavior { versions: &TLS13, ..Behavior::default() });
    assert_eq!(only(&new, "info", "no_tls12"), "supports only TLS 1.3");
    assert_eq!(new.json["backends"][0]["tls"], serde_json::json!(["1.3"]));
}

#[test]
fn a_backend_without_the_protocols_of_browsers_is_asked_without() {
    let reported = reported(Behavior { alpn: &["imap"], ..Behavior::default() });
    only(&reported, "info", "alpn_refused");
    assert_eq!(reported.json["backends"][0]["names_answered"], 1);
}

#[test]
fn a_large_hello_that_is_not_taken() {
    let reported = reported(Behavior { most_hello_bytes: 1400, ..Behavior::default() });
    let seen = only(&reported, "error", "large_hello");
    assert!(seen.ends_with(": closed without an answer"), "{seen}");
}

#[test]
fn a_hello_in_records_that_is_not_taken() {
    only(&reported(Behavior { takes_records: false, ..Behavior::default() }), "warning", "split_hello");
}

#[test]
fn a_hello_in_segments_that_is_not_taken() {
    only(&reported(Behavior { takes_segments: false, ..Behavior::default() }), "error", "segmented_hello");
}

#[test]
fn a_wish_for_a_certificate_of_the_client() {
    let root = Authority::new().root();
    let reported = reported(Behavior { asks_for_certificate: Some(root), ..Behavior::default() });
    let seen = only(&reported, "info", "client_certificate");
    assert!(seen.contains("refuses without one (certificate_required (116))"), "{seen}");
}

#[test]
fn a_name_that_is_nobodys_is_answered_like_a_right_one() {
    let authority = Authority::new();
    let serve = |only| authority.issue(&["a.test"]).serve(Behavior { only, ..Behavior::default() });
    let visit = |only| Visit::one(&["a.test"], serve(only)).trusting(&authority.file()).reported();
    let any = visit(None);
    assert_eq!(
        only(&any, "info", "default_certificate"),
        "answers the unknown name snigate-doctor.invalid, and a ClientHello without a name, with the certificate of a.test"
    );
    assert_eq!(visit(Some(&["a.test"])).findings(), []);
}
