//! Backends that differ from each other, and pools whose certificates overlap.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use serde_json::json;

use crate::server::{Authority, Behavior, TLS12, TLS13};
use crate::visit::{Told, Visit};

fn pair(authority: &Authority, one: Behavior, other: Behavior) -> Told {
    let identities = [authority.issue(&["a.test"]), authority.issue(&["a.test"])];
    let only: Option<&'static [&'static str]> = Some(&["a.test"]);
    let [first, second] = identities;
    let backends = [first.serve(Behavior { only, ..one }), second.serve(Behavior { only, ..other })];
    Visit::default().route("a.test", "web").pool("web", &backends).trusting(&authority.file()).reported()
}

#[test]
fn backends_that_pick_different_protocols() {
    let authority = Authority::new();
    let differ = pair(&authority, Behavior::default(), Behavior { alpn: &["http/1.1"], ..Behavior::default() });
    assert_eq!(differ.code, 7);
    let seen = differ.seen("alpn_differs");
    assert!(seen.starts_with("h2 from 127.0.0.1:") && seen.contains("; http/1.1 from 127.0.0.1:"), "{seen}");
    let alike = pair(&authority, Behavior::default(), Behavior::default());
    assert!(!alike.has("alpn_differs") && alike.code == 0);
}

#[test]
fn backends_that_speak_different_versions() {
    let authority = Authority::new();
    let differ = pair(
        &authority,
        Behavior { versions: &TLS12, ..Behavior::default() },
        Behavior { versions: &TLS13, ..Behavior::default() },
    );
    let seen = differ.seen("tls_versions_differ");
    assert!(seen.starts_with("TLS 1.2 only from ") && seen.contains("; TLS 1.3 only from "), "{seen}");
    assert!(!pair(&authority, Behavior::default(), Behavior::default()).has("tls_versions_differ"));
}

#[test]
fn backends_that_show_different_certificates_are_reported_and_no_fault() {
    let authority = Authority::new();
    let reported = pair(&authority, Behavior::default(), Behavior::default());
    assert_eq!((reported.code, reported.findings()), (0, vec![("info", "certificates_differ")]));
    assert_eq!(reported.one("certificates_differ")["names"], json!(["a.test"]));
}

#[test]
fn a_fault_of_several_backends_is_reported_once() {
    let authority = Authority::new();
    let old = || Behavior { versions: &TLS12, ..Behavior::default() };
    let reported = pair(&authority, old(), old());
    assert_eq!(reported.one("old_tls")["backends"].as_array().unwrap().len(), 2);
}

/// Two pools, `shop` and `mail`; the certificate of `shop` is for the names given.
fn shop_and_mail(authority: &Authority, names: &[&str], alpn: &'static [&'static str]) -> (Visit, [SocketAddr; 2]) {
    let shop =
        authority.issue(names).serve(Behavior { only: Some(&["shop.example.test"]), alpn, ..Behavior::default() });
    let mail = authority
        .issue(&["mail.example.test"])
        .serve(Behavior { only: Some(&["mail.example.test"]), ..Behavior::default() });
    let visit = Visit::default().route("shop.example.test", "shop").route("mail.example.test", "mail");
    (visit.pool("shop", &[shop]).pool("mail", &[mail]).trusting(&authority.file()), [shop, mail])
}

#[test]
fn a_certificate_that_covers_names_of_another_pool() {
    let authority = Authority::new();
    let reported = shop_and_mail(&authority, &["shop.example.test", "mail.example.test"], &["h2"]).0.reported();
    assert_eq!((reported.code, reported.findings()), (7, vec![("warning", "coalescing")]));
    let finding = reported.one("coalescing");
    assert_eq!(finding["pool"], "shop");
    assert_eq!(reported.seen("coalescing"), "the certificate also covers mail.example.test, which leads to pool mail");
    let mend = finding["mend"].as_str().unwrap();
    assert!(mend.contains("uses it for the other names too") && mend.contains("421"), "{mend}");

    let wildcard = shop_and_mail(&authority, &["*.example.test"], &["h2"]).0.reported();
    assert_eq!(wildcard.seen("coalescing"), "the certificate also covers mail.example.test, which leads to pool mail");
}

#[test]
fn no_reuse_without_http_2_or_with_certificates_of_their_own_or_the_same_backends() {
    let authority = Authority::new();
    let http1 = shop_and_mail(&authority, &["*.example.test"], &["http/1.1"]).0.reported();
    assert!(!http1.has("coalescing"));
    let own = shop_and_mail(&authority, &["shop.example.test"], &["h2"]).0.reported();
    assert_eq!((own.code, own.findings()), (0, vec![]));
    let (_, [shop, _]) = shop_and_mail(&authority, &["*.example.test"], &["h2"]);
    let same = Visit::default().route("shop.example.test", "shop").route("mail.example.test", "mail");
    assert!(!same.pool("shop", &[shop]).pool("mail", &[shop]).reported().has("coalescing"));
}

#[test]
fn a_wildcard_route_is_reached_by_a_wildcard_certificate_too() {
    let authority = Authority::new();
    let apps = authority.issue(&["*.example.test"]).serve(Behavior::default());
    let other = authority.issue(&["shop.example.test", "*.example.test"]).serve(Behavior::default());
    let visit = Visit::default().route("*.example.test", "apps").route("shop.example.test", "shop");
    let reported = visit.pool("apps", &[apps]).pool("shop", &[other]).trusting(&authority.file()).reported();
    let seen: Vec<_> =
        reported.json["findings"].as_array().unwrap().iter().filter(|one| one["kind"] == "coalescing").collect();
    assert_eq!(seen.len(), 2, "{:#}", reported.json);
    assert_eq!(seen[0]["seen"], "the certificate also covers shop.example.test, which leads to pool shop");
    assert_eq!(seen[1]["seen"], "the certificate also covers *.example.test, which leads to pool apps");
}

#[test]
fn what_a_certificate_says_cannot_write_on_the_terminal() {
    let authority = Authority::new();
    let names = ["\u{1b}[2Jx.example.test", "shop.example.test"];
    let shop = authority.issue(&names).serve(Behavior { only: Some(&["shop.example.test"]), ..Behavior::default() });
    let apps = authority.issue(&["*.example.test"]).serve(Behavior { alpn: &["http/1.1"], ..Behavior::default() });
    let visit = Visit::default().route("*.example.test", "apps").route("shop.example.test", "shop");
    let visit = visit.pool("apps", &[apps]).pool("shop", &[shop]).trusting(&authority.file());
    let (code, text, _) = visit.run(&[]);
    assert!(code == 7 && text.contains("\\u{1b}[2jx.example.test") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_backend_that_fails_the_check_of_its_pool() {
    let authority = Authority::new();
    let backend = || authority.issue(&["a.test"]).serve(Behavior::default());
    let page = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            }
        });
        port
    };
    let reported = |check: &str| {
        let more = format!(", health_check: {{ {check} }}");
        let visit = Visit::default().route("a.test", "web").pool_with("web", &[backend()], &more);
        visit.trusting(&authority.file()).reported()
    };
    let sick = page(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let failing = reported(&format!("kind: http, port: {sick}"));
    assert_eq!(failing.code, 7);
    let why = format!("its health check fails: 127.0.0.1:{sick}: expected status 200-399, got 503");
    assert_eq!(failing.seen("check_fails"), why);
    let failing = reported(&format!("kind: text, port: {sick}, send: \"PING\\r\\n\", expect: +PONG"));
    assert!(failing.seen("check_fails").contains("expected \"+PONG\", got \"HTTP/1.1 503"));
    let passing = reported(&format!("kind: http, port: {}", page(b"HTTP/1.1 200 OK\r\n\r\n")));
    assert!(!passing.has("check_fails") && passing.code == 0);
}
