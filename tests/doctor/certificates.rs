//! Names, dates and chains.

use rcgen::{BasicConstraints, CertificateParams, IsCa, date_time_ymd};
use serde_json::json;

use crate::server::{Authority, Behavior, Identity, self_signed, self_signed_in_pem};
use crate::visit::{Told, Visit};

/// What is told of a backend with this certificate by a doctor that trusts the authority.
fn reported(authority: &Authority, names: &[&str], identity: Identity) -> Told {
    Visit::one(names, identity.serve(Behavior { only: Some(&["a.test", "b.test"]), ..Behavior::default() }))
        .trusting(&authority.file())
        .reported()
}

#[test]
fn a_backend_that_is_right_has_nothing_to_mend() {
    let authority = Authority::new();
    let reported = reported(&authority, &["a.test", "b.test"], authority.issue(&["a.test", "b.test"]));
    assert_eq!((reported.code, reported.findings()), (0, vec![]), "{:#}", reported.json);
    let backend = &reported.json["backends"][0];
    assert_eq!(backend["tls"], json!(["1.2", "1.3"]));
    assert_eq!((&backend["alpn"], &backend["key_exchange"]), (&json!("h2"), &json!("X25519MLKEM768")));
    assert_eq!((&backend["names_asked"], &backend["names_answered"]), (&json!(2), &json!(2)));
    assert_eq!(backend["certificates"][0]["names"], json!(["a.test", "b.test"]));
    assert_eq!(backend["certificates"][0]["shown_for"], json!(["a.test", "b.test"]));
}

#[test]
fn a_name_that_the_certificate_does_not_cover() {
    let authority = Authority::new();
    let wrong = reported(&authority, &["a.test", "b.test"], authority.issue(&["a.test", "c.test"]));
    assert_eq!((wrong.code, wrong.findings()), (7, vec![("error", "name_not_covered")]));
    assert_eq!(wrong.one("name_not_covered")["names"], json!(["b.test"]));
    assert_eq!(wrong.seen("name_not_covered"), "the certificate does not cover the name; it covers a.test, c.test");
    let mended = reported(&authority, &["a.test", "b.test"], authority.issue(&["a.test", "b.test"]));
    assert!(!mended.has("name_not_covered"));
}

#[test]
fn a_wildcard_route_whose_certificate_covers_only_some_of_its_names() {
    let authority = Authority::new();
    let ask = |identity: Identity| {
        Visit::one(&["*.a.test"], identity.serve(Behavior::default())).trusting(&authority.file()).reported()
    };
    let wrong = ask(authority.issue(&["x.a.test"]));
    assert_eq!((wrong.code, wrong.one("name_not_covered")["severity"].as_str()), (7, Some("warning")));
    assert_eq!(wrong.one("name_not_covered")["names"], json!(["snigate-doctor.a.test (made up for *.a.test)"]));
    let mended = ask(authority.issue(&["*.a.test"]));
    assert!(!mended.has("name_not_covered") && mended.code == 0, "{:#}", mended.json);
}

#[test]
fn dates() {
    let authority = Authority::new();
    let dated = |from: i32, to: i32| {
        authority.issue_with(&["a.test"], |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let expired = reported(&authority, &["a.test"], dated(2001, 2002));
    assert_eq!((expired.code, expired.findings()), (7, vec![("error", "expired")]));
    assert_eq!(expired.seen("expired"), "the certificate expired on 2002-01-01");
    let early = reported(&authority, &["a.test"], dated(4000, 4001));
    assert_eq!((early.code, early.findings()), (7, vec![("error", "not_yet_valid")]));
    assert_eq!(early.seen("not_yet_valid"), "the certificate is not valid before 4000-01-01");
    assert_eq!(reported(&authority, &["a.test"], dated(2001, 4001)).findings(), []);
}

#[test]
fn a_certificate_that_expires_soon_by_the_days_that_count_as_soon() {
    let authority = Authority::new();
    let in_ten_days = std::time::SystemTime::now() + std::time::Duration::from_secs(10 * 86_400 + 3600);
    let identity = authority.issue_with(&["a.test"], |params| params.not_after = in_ten_days.into());
    let visit = Visit::one(&["a.test"], identity.serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() }));
    let soon = visit.clone().reported();
    assert_eq!((soon.code, soon.one("expires_soon")["severity"].as_str()), (7, Some("warning")));
    assert!(soon.seen("expires_soon").ends_with(", in 10 days"), "{}", soon.seen("expires_soon"));
    assert!(!visit.argument("--days").argument("10").reported().has("expires_soon"));
}

#[test]
fn an_issuer_in_the_chain_that_has_expired() {
    let authority = Authority::new();
    let ask = |year| {
        let identity = authority.issue_indirectly(&["a.test"], |params| params.not_after = date_time_ymd(year, 1, 1));
        reported(&authority, &["a.test"], identity)
    };
    let expired = ask(2002);
    assert_eq!(expired.seen("expired"), "the issuer's certificate CN=the intermediate expired on 2002-01-01");
    assert_eq!(expired.code, 7);
    assert_eq!(ask(4000).findings(), []);
}

#[test]
fn a_chain_that_is_not_trusted_matters_only_to_those_who_verify() {
    let (authority, stranger, namesake) = (Authority::new(), Authority::named("another root"), Authority::new());
    let visit = |identity: Identity| {
        Visit::one(&["a.test"], identity.serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() }))
    };
    let own = visit(self_signed(&["a.test"], |_| {}));
    let unverified = own.reported();
    assert_eq!((unverified.code, unverified.findings()), (0, vec![("info", "self_signed")]));
    let verified = own.trusting(&authority.file()).reported();
    assert_eq!((verified.code, verified.findings()), (7, vec![("error", "self_signed")]));

    let mut incomplete = authority.issue_indirectly(&["a.test"], |_| {});
    incomplete.chain.truncate(1);
    let incomplete = visit(incomplete).trusting(&authority.file()).reported();
    assert_eq!(incomplete.findings(), [("error", "chain_incomplete")]);
    assert_eq!(
        incomplete.seen("chain_incomplete"),
        "only the certificate itself is sent; its issuer, CN=the intermediate, is not a trusted root here"
    );

    let whole = visit(authority.issue_indirectly(&["a.test"], |_| {}));
    let elsewhere = whole.clone().trusting(&stranger.file()).reported();
    assert_eq!(elsewhere.findings(), [("error", "untrusted")]);
    assert_eq!(elsewhere.seen("untrusted"), "the chain leads to CN=the root, which is not a trusted root here");
    let seen = whole.clone().trusting(&namesake.file()).reported().seen("untrusted").to_owned();
    assert_eq!(seen, "the chain leads to CN=the root, but not to the one that is trusted here");
    assert_eq!(whole.trusting(&authority.file()).reported().findings(), []);
}

#[test]
fn a_self_signed_certificate_is_trusted_by_those_who_were_given_it() {
    let may_sign = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let reported = |(identity, pem): (Identity, String), names: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, pem).unwrap();
        let backend = identity.serve(Behavior { only: Some(&["a.test", "b.test"]), ..Behavior::default() });
        Visit::one(names, backend).trusting(&file).reported()
    };
    let own = reported(self_signed_in_pem(&["a.test"], |_| {}), &["a.test"]);
    assert_eq!((own.code, own.findings()), (0, vec![]));
    // As `openssl req -x509` makes it: curl and OpenSSL trust it, others do not.
    let authority = reported(self_signed_in_pem(&["a.test"], may_sign), &["a.test"]);
    assert_eq!((authority.code, authority.findings()), (0, vec![("info", "self_signed")]));
    let other = reported(self_signed_in_pem(&["a.test"], |_| {}), &["b.test"]);
    assert_eq!((other.code, other.findings()), (7, vec![("error", "name_not_covered")]));
    let old = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    };
    let expired = reported(self_signed_in_pem(&["a.test"], old), &["a.test"]);
    assert_eq!((expired.code, expired.findings()), (7, vec![("error", "expired")]));
}

#[test]
fn a_certificate_that_is_none() {
    let authority = Authority::new();
    let mut damaged = authority.issue(&["a.test"]);
    damaged.chain = vec![b"no certificate".to_vec().into()];
    let unreadable = reported(&authority, &["a.test"], damaged);
    assert_eq!((unreadable.code, unreadable.findings()), (7, vec![("error", "certificate_unreadable")]));
    assert!(!reported(&authority, &["a.test"], authority.issue(&["a.test"])).has("certificate_unreadable"));
}

#[test]
fn an_authority_that_poses_as_a_server() {
    let authority = Authority::new();
    let may_sign = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = reported(&authority, &["a.test"], self_signed(&["a.test"], may_sign));
    assert_eq!((own.code, own.findings()), (7, vec![("error", "self_signed")]));
    assert_eq!(own.seen("self_signed"), "the certificate is self-signed, and is a CA certificate");
    let issued = reported(&authority, &["a.test"], authority.issue_with(&["a.test"], may_sign));
    assert_eq!((issued.code, issued.findings()), (7, vec![("error", "untrusted")]));
    assert_eq!(issued.seen("untrusted"), "the certificate is that of a CA, not of a server");
    assert_eq!(reported(&authority, &["a.test"], authority.issue(&["a.test"])).findings(), []);
}
