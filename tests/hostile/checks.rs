//! Active checks, and backends that an operator takes out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::recorder::ClosedPort;
use crate::harness::{Lb, poll};
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

const TCP: &str = "health_check: { kind: tcp, interval: 60ms, rise: 2, fall: 2 }";

/// Waits until the backend at `address` is in `state`.
#[track_caller]
fn wait_for_state(lb: &Trial, address: SocketAddr, state: &str) {
    lb.wait_for_metric("backend_state", &[("backend", &address.to_string()), ("state", state)], 1.0);
}

/// One connection that is answered.
#[track_caller]
fn is_served(lb: &Trial) {
    let mut client = send(lb.address(), &hello("a.test"));
    client.read_exact(&mut [0; SERVER_HELLO.len()]).expect("an answer");
    client.shutdown(Shutdown::Write).unwrap();
    read_to_close(&mut client);
}

#[test]
fn a_backend_that_fails_its_checks_is_not_asked_until_it_passes_again() {
    let good = Backend::answering(SERVER_HELLO);
    let gone = ClosedPort::new();
    let lb = Trial::of(Lb::new().route_with("a.test", [gone.address, good.address], &format!("{TCP}\nejection: off")));
    wait_for_state(&lb, gone.address, "failing");
    wait_for_state(&lb, good.address, "up");
    (0..6).for_each(|_| is_served(&lb));
    assert_eq!(lb.metric("backend_connects_total", &[("result", "refused")]), 0.0);
    assert!(lb.metric("health_checks_total", &[("result", "connect")]) >= 1.0);
    assert_eq!(lb.metric("backend_up", &[("backend", &gone.address.to_string())]), 0.0);
    let line = lb.wait_for_line(|line| line["event"] == "backend_down");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("refused")), "{line}");

    let address = gone.address;
    let _back = gone.open();
    wait_for_state(&lb, address, "up");
    lb.end();
}

/// Answers each request with the status that is set, and hands over what was asked.
fn status_page(status: &Arc<AtomicU16>) -> (Backend, Receiver<String>) {
    let (to, asked) = channel();
    let status = Arc::clone(status);
    let page = Backend::that(move |stream| {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let status = status.load(Ordering::SeqCst);
        let _ = write!(&stream, "HTTP/1.1 {status} x\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\nok");
        let _ = to.send(head.join("\n"));
    });
    (page, asked)
}

#[test]
fn a_backend_is_up_while_the_status_is_one_that_is_expected() {
    let status = Arc::new(AtomicU16::new(503));
    let ((page, asked), backend) = (status_page(&status), Backend::answering(SERVER_HELLO));
    let port = page.address.port();
    let check = format!("kind: http, path: /healthz, port: {port}, interval: 60ms, rise: 2, fall: 2");
    let keys = format!("health_check: {{ {check} }}\nsend_proxy_protocol: v1");
    let lb = Trial::of(Lb::new().route_with("a.test", &backend, &keys));
    wait_for_state(&lb, backend.address, "failing");
    let line = lb.wait_for_line(|line| line["event"] == "backend_down");
    assert_eq!(line["error"], "expected status 200-399, got 503", "{line}");
    assert!(lb.metric("health_checks_total", &[("result", "answer")]) >= 1.0);
    let (_, shown) = lb.admin_get("/api/v1/status");
    assert!(shown.contains(r#""error":"expected status 200-399, got 503""#), "{shown}");
    // A redirect passes, and is not followed.
    status.store(302, Ordering::SeqCst);
    wait_for_state(&lb, backend.address, "up");
    let head = asked.recv().unwrap();
    assert!(head.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{head}");
    assert!(asked.try_iter().chain([head]).all(|head| head.contains("\nGET /healthz HTTP/1.1\nhost: 127.0.0.1:")));
    lb.end();
}

#[test]
fn a_backend_is_up_while_it_says_what_is_expected() {
    let status = |answer| {
        Backend::that(move |mut stream| {
            let mut request = [0; 6];
            if stream.read_exact(&mut request).is_ok() && request == *b"PING\r\n" {
                let _ = stream.write_all(answer);
                let _ = stream.read(&mut request);
            }
        })
    };
    for (answer, state) in [(&b"+PONG\r\n"[..], "up"), (b"-NOAUTH\r\n", "failing")] {
        let (page, backend) = (status(answer), Backend::answering(SERVER_HELLO));
        let text = r#"kind: text, send: "PING\r\n", expect: "+PONG""#;
        let port = page.address.port();
        let keys = format!("health_check: {{ {text}, port: {port}, interval: 200ms, timeout: 200ms, fall: 1 }}");
        let lb = Trial::of(Lb::new().route_with("a.test", &backend, &keys));
        wait_for_state(&lb, backend.address, state);
        if state == "failing" {
            let line = lb.wait_for_line(|line| line["event"] == "backend_down");
            assert_eq!(line["error"], r#"expected "+PONG", got "-NOAUTH\r\n""#, "{line}");
        }
        lb.end();
    }
}

#[test]
fn when_all_are_down_they_are_tried_or_the_client_is_refused() {
    // Its checks go to a port where nobody is; its connections would be served.
    let (backend, nobody) = (Backend::answering(SERVER_HELLO), ClosedPort::new());
    let port = nobody.address.port();
    for (when_all_down, served) in [("try", true), ("refuse", false)] {
        let check = format!("health_check: {{ kind: tcp, interval: 60ms, port: {port} }}");
        let keys = format!("{check}\nwhen_all_down: {when_all_down}");
        let lb = Trial::of(Lb::new().route_with("a.test", &backend, &keys));
        wait_for_state(&lb, backend.address, "failing");
        if served {
            is_served(&lb);
        } else {
            assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
            lb.wait_for_closed("no_backend", 1.0);
        }
        lb.end();
    }
}

#[test]
fn a_reload_that_ends_the_checks_ends_their_verdict() {
    let (good, gone) = (Backend::answering(SERVER_HELLO), ClosedPort::new());
    let of = |keys: &str| Lb::new().route_with("a.test", [gone.address, good.address], keys);
    let lb = Trial::of(of(TCP));
    wait_for_state(&lb, gone.address, "failing");
    // Another interval is another task, and the same verdict.
    lb.edit(&of(&TCP.replace("60ms", "1h")).config());
    assert_eq!(lb.metric("backend_state", &[("backend", &gone.address.to_string()), ("state", "failing")]), 1.0);
    lb.edit(&of("").config());
    wait_for_state(&lb, gone.address, "unchecked");
    lb.end();
}

#[test]
fn an_operator_sets_the_weight_of_a_backend() {
    let (one, two) = (Backend::answering(SERVER_HELLO), Backend::answering(SERVER_HELLO));
    let routes = Lb::new().route("a.test", [one.address, two.address]).controlled();
    let lb = Trial::of(routes.clone());
    let path = format!("/api/v1/pools/pool-0/backends/{}/weight", one.address);
    let weight = || lb.metric("backend_weight", &[("backend", &one.address.to_string())]);
    let (status, reported) = lb.admin_send("PUT", &path, "3");
    assert!(status == 200 && reported.contains(r#""weight":3,"weight_set":3"#), "{status} {reported}");
    (0..8).for_each(|_| is_served(&lb));
    assert_eq!((one.contacts(), two.contacts(), weight()), (6, 2, 3.0));
    let line = lb.wait_for_line(|line| line["event"] == "backend_weight_set");
    assert_eq!((line["weight"].as_u64(), line["pool"].as_str()), (Some(3), Some("pool-0")), "{line}");

    assert_eq!(lb.admin_send("PUT", &path, "0").0, 200);
    // A reload keeps what the operator wants.
    lb.edit(&routes.with("timeouts: { idle: 2h }").config());
    (0..4).for_each(|_| is_served(&lb));
    assert_eq!((one.contacts(), two.contacts(), weight()), (6, 6, 0.0));
    assert_eq!(lb.admin_send("DELETE", &path, "").0, 200);
    (0..4).for_each(|_| is_served(&lb));
    assert_eq!((one.contacts(), two.contacts(), weight()), (8, 8, 1.0));
    let (status, reported) = lb.admin_send("PUT", &path, "1001");
    assert!(status == 400 && reported.contains("0 to 1000"), "{status} {reported}");
    lb.end();
}

#[test]
fn an_operator_takes_a_backend_out_and_puts_it_back() {
    let (one, two) = (Backend::answering(SERVER_HELLO), Backend::answering(SERVER_HELLO));
    let routes = Lb::new().route_with("a.test", [one.address, two.address], "balance: first").controlled();
    let lb = Trial::of(routes.clone());
    let mut held = send(lb.address(), &hello("a.test"));
    held.read_exact(&mut [0; SERVER_HELLO.len()]).expect("an answer");
    let path = format!("/api/v1/pools/pool-0/backends/{}/state", one.address);
    let (status, reported) = lb.admin_send("PUT", &path, "drain");
    assert!(status == 200 && reported.contains("\"state\":\"drain\""), "{status} {reported}");
    (0..3).for_each(|_| is_served(&lb));
    // A reload keeps what the operator wants.
    lb.edit(&routes.with("timeouts: { idle: 2h }").config());
    (0..3).for_each(|_| is_served(&lb));
    assert_eq!((one.contacts(), two.contacts()), (1, 6));
    assert_eq!(lb.metric("backend_connections_active", &[("backend", &one.address.to_string())]), 1.0);
    let (_, status) = lb.admin_get("/api/v1/status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let shown = &status["pools"][0]["backends"][0];
    assert_eq!((shown["state"].as_str(), shown["active"].as_u64()), (Some("drain"), Some(1)), "{status}");
    held.shutdown(Shutdown::Write).unwrap();
    read_to_close(&mut held);

    for address in [one.address, two.address] {
        let path = format!("/api/v1/pools/pool-0/backends/{address}/state");
        assert_eq!(lb.admin_send("PUT", &path, "down").0, 200);
    }
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    lb.wait_for_closed("no_backend", 1.0);
    assert_eq!(lb.admin_send("PUT", &path, "ready").0, 200);
    is_served(&lb);
    assert_eq!(one.contacts(), 2);
    assert_eq!(lb.admin_send("PUT", &path.replace("pool-0", "pool-9"), "ready").0, 404);
    assert_eq!(lb.admin_send("PUT", &path, "sideways").0, 400);
    lb.end();
}

#[test]
fn a_tls_check_sees_the_certificate_and_judges_it_if_asked_to() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let (good, other) = (authority.backend("a.test"), authority.backend("other.test"));
    let check = |more: &str| format!("health_check: {{ interval: 60ms, fall: 1{more} }}");
    let verify = check(&format!(", verify: true, ca_file: \"{}\"", ca.display()));
    let lb = Lb::new().route_with("a.test", [good.address, other.address], &verify);
    let lb = Trial::of(lb.route_with("b.test", &Backend::answering(b"SSH-2.0-x\r\n"), &check("")));
    wait_for_state(&lb, other.address, "failing");
    wait_for_state(&lb, good.address, "up");
    lb.wait_for_metric("backend_up", &[("pool", "pool-1")], 0.0);
    let checks = |pool: &str, result: &str| lb.metric("health_checks_total", &[("pool", pool), ("result", result)]);
    let seen = poll(|| match (checks("pool-0", "ok"), checks("pool-0", "certificate"), checks("pool-1", "tls")) {
        (ok, certificate, tls) if ok >= 1.0 && certificate >= 1.0 && tls >= 1.0 => Ok(()),
        counts => Err(counts),
    });
    seen.expect("each result is counted");
    let expiry = lb.metric("backend_certificate_expiry_timestamp_seconds", &[("backend", &good.address.to_string())]);
    assert_eq!(expiry, authority.not_after as f64);
    let (_, status) = lb.admin_get("/api/v1/status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let [first, second] = [0, 1].map(|number| &status["pools"][0]["backends"][number]);
    assert_eq!((&first["check"]["result"], &first["certificate"]["names"][0]), (&"ok".into(), &"a.test".into()));
    assert!(second["check"]["error"].as_str().is_some_and(|error| error.contains("a.test")), "{status}");
    lb.end();
}

#[test]
fn a_check_speaks_for_itself_where_a_proxy_header_is_expected() {
    let (backend, arrivals) = Backend::recording();
    let keys = "send_proxy_protocol: v2\nhealth_check: { interval: 60ms, timeout: 60ms }";
    let lb = Trial::of(Lb::new().route_with("checked.test", &backend, keys));
    let first = arrivals.recv_timeout(crate::harness::DEADLINE).expect("a check comes");
    // Version 2, LOCAL, nothing behind it (section 2.2); then a hello that asks for the pool's own name.
    assert_eq!(&first[..16], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert_eq!(first[16], 0x16);
    assert!(first.windows(12).any(|window| window == b"checked.test"));
    lb.end();
}

/// A fatal alert and nothing else.
fn alert(code: u8) -> Vec<u8> {
    vec![0x15, 3, 3, 0, 2, 2, code]
}

/// A ServerHello that selects `version` and `cipher` (RFC 5246 §7.4.1.3).
fn server_hello(version: [u8; 2], cipher: [u8; 2]) -> Vec<u8> {
    let body = [&version[..], &[7; 32], &[0], &cipher, &[0]].concat();
    [&[0x16, version[0], version[1], 0, body.len() as u8 + 4, 2, 0, 0, body.len() as u8][..], &body].concat()
}

/// The checks go on: how many files they hold at the beginning and at the end of a test is chance.
const EAGER: &str = "health_check: { interval: 1s, timeout: 1s, rise: 1, fall: 2 }";

#[test]
fn a_backend_that_rejects_what_only_the_check_offers_is_up() {
    let answers = [10, 20, 22, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 70, 71, 86, 90, 109, 110, 116, 120, 255]
        .map(alert)
        .into_iter()
        // TLS 1.1 and 1.0; RSA key exchange, and SSL 3.0 with RC4.
        .chain(
            [([3, 2], [0, 0x2f]), ([3, 1], [0, 0x2f]), ([3, 3], [0, 0x9c]), ([3, 0], [0, 5])]
                .map(|(v, c)| server_hello(v, c)),
        );
    let backends: Vec<_> = answers.map(|answer| (Backend::answering(answer.clone().leak()), answer)).collect();
    let addresses: Vec<SocketAddr> = backends.iter().map(|(backend, _)| backend.address).collect();
    let lb = Trial::of(Lb::new().route_with("a.test", addresses, EAGER));
    for (backend, answer) in &backends {
        let labels = [("backend", backend.address.to_string())];
        let checks = |result| lb.metric("health_checks_total", &[("backend", &labels[0].1), ("result", result)]);
        poll(|| if checks("incompatible") >= 2.0 { Ok(()) } else { Err(checks("tls")) })
            .unwrap_or_else(|failed| panic!("{answer:02x?}: {failed} failed checks"));
        assert_eq!(checks("tls") + checks("ok") + checks("connect"), 0.0, "{answer:02x?}");
        wait_for_state(&lb, backend.address, "up");
    }
    let status = lb.status();
    let check = &status["pools"][0]["backends"][3]["check"];
    assert_eq!(
        (&check["result"], &check["error"]),
        (&"incompatible".into(), &"refused by the alert handshake_failure (40)".into())
    );
    lb.stop();
}

#[test]
fn a_backend_that_is_silent_or_not_tls_or_lacks_the_name_it_is_sent_is_down() {
    let answers: [&[u8]; 7] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x03\x00\x40",
        b"\x16\x03\x03\x00\x04\x7f\0\0\0",
        b"\x15\x03\x03\x00\x02\x02\x70",
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"\x15\x03\x03\x00\x02\x01\x00",
    ];
    let backends = answers.map(Backend::answering);
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let lb = Trial::of(Lb::new().route_with("a.test", addresses, EAGER));
    backends.iter().for_each(|backend| wait_for_state(&lb, backend.address, "failing"));
    assert_eq!(lb.metric("health_checks_total", &[("result", "incompatible")]), 0.0);
    lb.stop();
}

#[test]
fn an_alert_about_a_name_counts_only_where_connections_for_the_name_go() {
    let backend = |code: u8| Backend::answering(alert(code).leak());
    let sends = |name: &str| EAGER.replace("{", &format!("{{ sni: {name},"));
    // Pool 0 sends no name, pool 1 a name that is routed to pool 2, pools 2 and 3 one of their own.
    let [none, foreign, own, matched] = [112, 80, 80, 112].map(backend);
    let lb = Lb::new().route_with("**.nameless.test", &none, EAGER);
    let lb = lb.route_with("**.foreign.test", &foreign, &sends("own.test")).route_with("own.test", &own, EAGER);
    let lb = Trial::of(lb.route_with("**.matched.test", &matched, &sends("a.matched.test")));
    for up in [&none, &foreign] {
        let labels = [("backend", &*up.address.to_string()), ("result", "incompatible")];
        poll(|| if lb.metric("health_checks_total", &labels) >= 2.0 { Ok(()) } else { Err("too few") }).unwrap();
        wait_for_state(&lb, up.address, "up");
    }
    [&own, &matched].iter().for_each(|down| wait_for_state(&lb, down.address, "failing"));
    // The same check, but its name is routed elsewhere now.
    let lb2 = Lb::new().route_with("**.nameless.test", &none, EAGER);
    let lb2 =
        lb2.route_with("own.test", &foreign, &sends("own.test")).route_with("**.own.test", &own, &sends("own.test"));
    lb.edit(&lb2.config());
    wait_for_state(&lb, foreign.address, "failing");
    wait_for_state(&lb, own.address, "up");
    lb.stop();
}

#[test]
fn a_backend_that_requires_a_client_certificate_is_up_and_its_own_certificate_is_judged() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let verify = EAGER.replace("{", &format!("{{ verify: true, ca_file: \"{}\",", ca.display()));
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let [good, other] = ["a.test", "other.test"].map(|name| authority.demanding_backend(name, versions));
        let lb = Lb::new().route_with("a.test", [good.address], EAGER);
        let lb =
            Trial::of(lb.route_with("*.a.test", [good.address, other.address], &verify.replace("{", "{ sni: a.test,")));
        wait_for_state(&lb, other.address, "failing");
        for pool in ["pool-0", "pool-1"] {
            let labels = [("pool", pool), ("backend", &*good.address.to_string()), ("result", "incompatible")];
            poll(|| if lb.metric("health_checks_total", &labels) >= 2.0 { Ok(()) } else { Err(lb.status()) }).unwrap();
        }
        lb.wait_for_metric("backend_state", &[("backend", &good.address.to_string()), ("state", "up")], 2.0);
        lb.stop();
    }
}

#[test]
fn a_check_with_version_1_of_the_proxy_protocol_names_its_own_addresses() {
    let (backend, arrivals) = Backend::recording();
    let keys = "send_proxy_protocol: v1\nhealth_check: { interval: 60ms, timeout: 60ms }";
    let lb = Trial::of(Lb::new().route_with("checked.test", &backend, keys));
    let first = arrivals.recv_timeout(crate::harness::DEADLINE).expect("a check comes");
    let line = first.split(|byte| *byte == b'\n').next().unwrap();
    let line = std::str::from_utf8(line).unwrap();
    let ending = format!(" {}\r", backend.address.port());
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && line.ends_with(&ending), "{line:?}");
    assert_eq!(first[line.len() + 1], 0x16);
    lb.stop();
}

/// Signs certificates for backends that speak TLS.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// Of every certificate, in seconds since 1970.
    not_after: i64,
}

/// A backend that makes handshakes and says nothing.
struct TlsBackend {
    address: SocketAddr,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem, not_after: 4_102_444_800 }
    }

    fn pem(&self) -> &str {
        &self.pem
    }

    /// Requires a client certificate.
    fn demanding_backend(&self, name: &str, versions: &[&'static SupportedProtocolVersion]) -> TlsBackend {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let (chain, key) = self.certificate(name);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        TlsBackend { address: serve(Arc::new(config)) }
    }

    fn certificate(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![CertificateDer::from(certificate)], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn backend(&self, name: &str) -> TlsBackend {
        let (chain, key) = self.certificate(name);
        let config = ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsBackend { address: serve(Arc::new(config)) }
    }
}

fn serve(config: Arc<ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            thread::spawn(move || shake(stream, config));
        }
    });
    address
}

fn shake(stream: TcpStream, config: Arc<ServerConfig>) {
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let _ = tls.flush();
    let _ = tls.read(&mut [0; 1]);
}

/// Without checks, only connections show that a backend is dead.
#[test]
fn a_backend_without_checks_is_unchecked_then_failing_then_up() {
    let (port, spare) = (ClosedPort::new(), Backend::answering(SERVER_HELLO));
    let address = port.address;
    let lb = Lb::new().route("alone.test", address).route_with("two.test", [address, spare.address], "balance: first");
    let lb = Trial::of(lb.route_with("off.test", address, "ejection: off"));
    let of = |pool: usize| {
        let state = lb.status()["pools"][pool]["backends"][0]["state"].as_str().unwrap().to_owned();
        let labels = [("pool", &*format!("pool-{pool}")), ("backend", &*address.to_string())];
        (state, lb.metric("backend_up", &labels))
    };
    for pool in 0..3 {
        assert_eq!(of(pool), ("unchecked".to_owned(), 1.0), "{pool}");
    }
    for name in ["alone.test", "two.test", "off.test"] {
        for _ in 0..7 {
            let mut client = send(lb.address(), &hello(name));
            let _ = client.shutdown(Shutdown::Write);
            read_to_close(&mut client);
        }
    }
    for (pool, state) in [(0, "failing"), (1, "ejected"), (2, "failing")] {
        assert_eq!(of(pool), (state.to_owned(), 0.0), "{pool}");
        assert_eq!(lb.metric("backend_state", &[("pool", &format!("pool-{pool}")), ("state", state)]), 1.0);
        let page = lb.admin_get("/").1;
        let after = |text: &str| page.split_once(text).unwrap_or_else(|| panic!("no {text} in {page}")).1.to_owned();
        let pool = after(&format!("<tbody data-key=\"pool-{pool}\">"));
        let row = pool.split_once(&format!("<tr data-key=\"{address}\">")).unwrap_or_else(|| panic!("{pool}")).1;
        let row = row.split_once("</tr>").unwrap().0;
        assert!(row.contains(&format!("</svg>{state}</span>")), "{row}");
    }
    let _alive = Backend::on(port.open().into(), |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(SERVER_HELLO);
    });
    for (name, pool) in [("alone.test", 0), ("off.test", 2)] {
        let mut client = send(lb.address(), &hello(name));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client).0, SERVER_HELLO);
        assert_eq!(of(pool), ("up".to_owned(), 1.0), "{pool}");
    }
    lb.end();
}

/// Checks that pass say that it is over, though no client asks.
#[test]
fn checks_that_pass_end_the_doubt_that_connections_left() {
    let odd = Backend::answering(b"SSH-2.0-x\r\n");
    let keys = "health_check: { kind: tcp, interval: 1s, rise: 2 }\nejection: { failures: 1 }";
    let lb = Trial::of(Lb::new().route_with("a.test", [odd.address], keys));
    wait_for_state(&lb, odd.address, "up");
    let mut client = send(lb.address(), &hello("a.test"));
    client.read_exact(&mut [0; 11]).unwrap();
    // Two checks take longer than this look.
    assert_eq!(lb.metric("backend_up", &[]), 0.0);
    wait_for_state(&lb, odd.address, "up");
    drop(client);
    lb.end();
}
