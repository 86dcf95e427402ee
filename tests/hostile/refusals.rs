//! Every refusal reaches a client that was still sending: its bytes, then FIN, never a RST in their place.

use std::io::Write;

use crate::backend::Backend;
use crate::bytes::{
    DECODE_ERROR, ILLEGAL_PARAMETER, MISSING_EXTENSION, MOST_IN_RECORD, RECORD_OVERFLOW, UNRECOGNIZED_NAME, alert,
    hello, message, padded, records, server_name, versions,
};
use crate::harness::Lb;
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close};

/// What a client has in flight when it is refused: early data, say.
static IN_FLIGHT: [u8; 40_000] = [0x17; 40_000];

#[test]
fn an_alert_arrives_though_more_was_in_flight() {
    let backend = Backend::answering(b"never");
    let lb = Trial::of(Lb::new().route("routed.test", &backend));
    let nameless = records(&message(&versions()), MOST_IN_RECORD);
    let invalid = records(&message(&[server_name(b"a b"), versions()].concat()), MOST_IN_RECORD);
    let mut broken = hello("routed.test");
    broken[43] = 33;
    let table = [
        ("no_route", hello("other.test"), alert(UNRECOGNIZED_NAME)),
        ("no_sni", nameless, alert(MISSING_EXTENSION)),
        ("invalid_sni", invalid, alert(ILLEGAL_PARAMETER)),
        ("bad_hello", broken, alert(DECODE_ERROR)),
        ("hello_too_large", padded("routed.test", (64 << 10) + 1)[..16_000].to_vec(), alert(RECORD_OVERFLOW)),
    ];
    for (reason, first, answer) in table {
        assert_eq!(refused(&lb, &first), (answer, Close::Fin), "{reason}");
        lb.wait_for_closed(reason, 1.0);
    }
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn rustls_knows_the_alert_by_its_name() {
    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, crypto};

    let lb = Trial::of(Lb::new());
    for more in [&[][..], &IN_FLIGHT] {
        let provider = std::sync::Arc::new(crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from("nobody.test").expect("a name");
        let mut client = ClientConnection::new(config.into(), name).expect("a client");
        let mut stream = connect(lb.address());
        while client.wants_write() {
            client.write_tls(&mut stream).expect("sent");
        }
        stream.write_all(more).expect("sent");
        client.read_tls(&mut stream).expect("an answer, not a reset");
        let reported = client.process_new_packets().expect_err("refused");
        assert_eq!(reported, rustls::Error::AlertReceived(AlertDescription::UnrecognisedName));
    }
    lb.wait_for_closed("no_route", 2.0);
    lb.end();
}

#[test]
fn a_close_is_a_fin_though_more_was_in_flight() {
    let lb = Lb::new().with("no_sni: { refuse: close }\nunmatched: { refuse: close }");
    let lb = Trial::of(lb);
    let table = [
        ("no_route", hello("other.test")),
        ("no_sni", records(&message(&versions()), MOST_IN_RECORD)),
        ("not_tls", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    for (reason, first) in table {
        assert_eq!(refused(&lb, &first), (vec![], Close::Fin), "{reason}");
        lb.wait_for_closed(reason, 1.0);
    }
    let (answer, close) = refused(&lb, b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 400 ") && close == Close::Fin, "{answer:?} {close:?}");
    lb.end();
}

#[test]
fn a_reset_is_a_reset() {
    let lb = Trial::of(Lb::new().with("unmatched: { refuse: reset }\nnot_tls: { refuse: reset }"));
    assert_eq!(refused(&lb, &hello("other.test")), (vec![], Close::Reset));
    assert_eq!(refused(&lb, b"GET / HTTP/1.1\r\n\r\n"), (vec![], Close::Reset));
    lb.wait_for_metric("connections_closed_total", &[], 2.0);
    lb.end();
}

#[test]
fn an_untrusted_or_wrong_proxy_header_is_a_fin_though_more_was_in_flight() {
    let backend = Backend::answering(b"never");
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n";
    for (trusted, first, reason) in [
        ("127.0.0.0/8", &b"GET / HTTP/1.1\r\n\r\n"[..], "proxy_header"),
        ("192.0.2.0/24", &header[..], "proxy_untrusted"),
    ] {
        let keys = format!("proxy_protocol: {{ trusted: [{trusted}] }}");
        let lb = Trial::on_listener(&keys, Lb::new().route("*", &backend).not_tls(&backend));
        assert_eq!(refused(&lb, first), (vec![], Close::Fin), "{reason}");
        lb.wait_for_closed(reason, 1.0);
        lb.end();
    }
    assert_eq!(backend.contacts(), 0);
}

/// Once more with a client that sends in many pieces and never stops to read.
#[test]
fn an_alert_arrives_at_a_client_that_goes_on_sending() {
    let lb = Trial::of(Lb::new());
    for _ in 0..50 {
        let mut client = connect(lb.address());
        client.write_all(&hello("other.test")).unwrap();
        for piece in IN_FLIGHT.chunks(1400) {
            client.write_all(piece).expect("no RST while it sends");
        }
        assert_eq!(read_to_close(&mut client), (alert(UNRECOGNIZED_NAME), Close::Fin));
    }
    lb.end();
}

fn refused(lb: &Trial, first: &[u8]) -> (Vec<u8>, Close) {
    ask(lb.address(), &[first, &IN_FLIGHT].concat())
}
