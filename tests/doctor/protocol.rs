//! Versions, protocols, and hellos that are large or cut.

use crate::server::{Authority, Manners, TLS12, TLS13};
use crate::visit::{Told, Visit};

fn told(manners: Manners) -> Told {
    let authority = Authority::new();
    let manners = Manners { only: manners.only.or(Some(&["a.test"])), ..manners };
    Visit::one(&["a.test"], authority.issue(&["a.test"]).serve(manners)).trusting(&authority.file()).told()
}

/// That finding alone.
#[track_caller]
fn only(told: &Told, severity: &str, kind: &str) -> String {
    let code = if severity == "info" { 0 } else { 7 };
    assert_eq!((told.code, told.findings()), (code, vec![(severity, kind)]), "{:#}", told.json);
    told.seen(kind).to_owned()
}

#[test]
fn nothing_is_wrong_with_both_versions_and_any_hello() {
    assert_eq!(told(Manners::default()).findings(), []);
}

#[test]
fn one_version_only() {
    let old = told(Manners { versions: &TLS12, ..Manners::default() });
    assert_eq!(only(&old, "warning", "old_tls"), "speaks no TLS 1.3");
    assert_eq!(old.json["backends"][0]["tls"], serde_json::json!(["1.2"]));
    let new = told(Manners { versions: &TLS13, ..Manners::default() });
    assert_eq!(only(&new, "info", "no_tls12"), "speaks only TLS 1.3");
    assert_eq!(new.json["backends"][0]["tls"], serde_json::json!(["1.3"]));
}

#[test]
fn a_backend_without_the_protocols_of_browsers_is_asked_without() {
    let told = told(Manners { alpn: &["imap"], ..Manners::default() });
    only(&told, "info", "alpn_refused");
    assert_eq!(told.json["backends"][0]["names_answered"], 1);
}

#[test]
fn a_large_hello_that_is_not_taken() {
    let told = told(Manners { most_hello_bytes: 1400, ..Manners::default() });
    let seen = only(&told, "error", "large_hello");
    assert!(seen.ends_with(": closed without an answer"), "{seen}");
}

#[test]
fn a_hello_in_records_that_is_not_taken() {
    only(&told(Manners { takes_records: false, ..Manners::default() }), "warning", "split_hello");
}

#[test]
fn a_hello_in_segments_that_is_not_taken() {
    only(&told(Manners { takes_segments: false, ..Manners::default() }), "error", "segmented_hello");
}

#[test]
fn a_wish_for_a_certificate_of_the_client() {
    let root = Authority::new().root();
    let told = told(Manners { asks_for_certificate: Some(root), ..Manners::default() });
    let seen = only(&told, "info", "client_certificate");
    assert!(seen.contains("refuses without one (certificate_required (116))"), "{seen}");
}

#[test]
fn a_name_that_is_nobodys_is_answered_like_a_right_one() {
    let authority = Authority::new();
    let serve = |only| authority.issue(&["a.test"]).serve(Manners { only, ..Manners::default() });
    let visit = |only| Visit::one(&["a.test"], serve(only)).trusting(&authority.file()).told();
    let any = visit(None);
    assert_eq!(
        only(&any, "info", "default_certificate"),
        "answers snigate-doctor.invalid, which is nobody's, and a hello without a name, with the certificate of a.test"
    );
    assert_eq!(visit(Some(&["a.test"])).findings(), []);
}
