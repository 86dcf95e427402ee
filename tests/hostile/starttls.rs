//! What PostgreSQL's clients and servers exchange before TLS, in every cut, and what others send instead.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, UNRECOGNIZED_NAME, alert, hello};
use crate::harness::recorder::ClosedPort;
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close, send, wait_until_sent};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
const CANCEL_REQUEST: [u8; 16] = [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 1, 2, 3, 4, 5, 6];
const STARTUP: &[u8] = b"\0\0\0\x14\0\x03\0\0user\0nobody\0";

fn postgres(lb: Lb) -> Trial {
    Trial::on_listener("starttls: postgres", lb)
}

/// Answers the SSLRequest with `answer`, and then sends `then` for whatever comes.
fn server(answer: &'static [u8], then: &'static [u8]) -> Backend {
    Backend::that(move |mut stream| {
        let mut request = [0; 8];
        if stream.read_exact(&mut request).is_err() || request != SSL_REQUEST {
            return;
        }
        let _ = stream.write_all(answer);
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) && !then.is_empty() {
            let _ = stream.write_all(then);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    })
}

#[track_caller]
fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

/// A client that has been told to begin TLS.
#[track_caller]
fn begun(lb: &Trial) -> TcpStream {
    let mut client = send(lb.address(), &SSL_REQUEST);
    expect(&mut client, b"S");
    client
}

fn ended(lb: &Trial) -> Value {
    lb.wait_for_line(|line| line["reason"].is_string())
}

#[test]
fn requests_cut_anywhere_lead_to_the_backend_of_the_name() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = postgres(Lb::new().route("db.test", &backend));
    let hello = hello("db.test");
    for cut in 0..=8 {
        let mut client = connect(lb.address());
        for (request, answer) in [(GSSENC_REQUEST, b"N"), (SSL_REQUEST, b"S")] {
            client.write_all(&request[..cut]).unwrap();
            wait_until_sent(&client);
            client.write_all(&request[cut..]).unwrap();
            expect(&mut client, answer);
        }
        for piece in hello.chunks(if cut == 0 { 1 } else { 100 * cut }) {
            client.write_all(piece).unwrap();
        }
        let mut server = arrivals.recv_timeout(DEADLINE).unwrap();
        expect(&mut server, &SSL_REQUEST);
        // Not a byte of the hello comes before the answer.
        server.set_nonblocking(true).unwrap();
        assert!(server.read(&mut [0; 1]).is_err());
        server.set_nonblocking(false).unwrap();
        server.write_all(b"S").unwrap();
        expect(&mut server, &hello);
        server.write_all(SERVER_HELLO).unwrap();
        expect(&mut client, SERVER_HELLO);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut server), (vec![], Close::Fin));
        drop(server);
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    }
    lb.wait_for_closed("ok", 9.0);
    let line = ended(&lb);
    assert_eq!((&line["sni"], &line["answer"]), (&"db.test".into(), &"server_hello".into()), "{line}");
    assert_eq!(line["bytes_to_backend"], hello.len(), "{line}");
    lb.end();
}

/// As libpq 17 does with sslnegotiation=direct; the backend may be older.
#[test]
fn tls_without_a_request_is_requested_from_the_backend() {
    let backend = server(b"S", SERVER_HELLO);
    let lb = postgres(Lb::new().route("db.test", &backend));
    let mut client = send(lb.address(), &hello("db.test"));
    expect(&mut client, SERVER_HELLO);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    lb.wait_for_closed("ok", 1.0);
    lb.end();
}

/// SQLSTATE and message of an ErrorResponse.
#[track_caller]
fn error_of(answer: &[u8]) -> (String, String) {
    assert_eq!(answer.first(), Some(&b'E'), "{}", answer.escape_ascii());
    let length = u32::from_be_bytes(answer[1..5].try_into().unwrap());
    assert_eq!(length as usize, answer.len() - 1);
    let field = |kind| {
        let fields = answer[5..].split(|byte| *byte == 0);
        let found = fields.filter_map(|field| field.strip_prefix(&[kind])).next().unwrap();
        String::from_utf8(found.to_vec()).unwrap()
    };
    assert_eq!(field(b'S'), "FATAL");
    (field(b'C'), field(b'M'))
}

#[test]
fn clients_without_tls_are_refused_in_their_own_protocol() {
    let never = Backend::answering(b"never");
    let lb = postgres(Lb::new().route("*", &never).no_sni(&never).unmatched(&never).not_tls(&never));
    let early = [&SSL_REQUEST[..], &hello("db.test")].concat();
    let second = [0, 0, 0, 9, 0x04, 0xd2, 0x16, 0x2f, 1];
    for (bytes, code, says, reason, error) in [
        (STARTUP, "28000", "requires TLS", "not_tls", "without TLS"),
        // It has announced more, and waits for the answer to a part of it.
        (&STARTUP[..8], "28000", "requires TLS", "not_tls", "without TLS"),
        (b"\0\0\0\x08\0\x04\0\0", "0A000", "unsupported frontend protocol 4.0", "not_tls", "protocol 4.0"),
        (&early, "08P01", "unencrypted data", "bad_hello", "bytes follow the request"),
        (&second, "08P01", "invalid length", "bad_hello", "cannot have 9 bytes"),
        (b"\0\0\0\x00\0\0\0\0", "08P01", "invalid length", "bad_hello", "cannot have 0 bytes"),
        (b"\0\xff\xff\xff", "08P01", "invalid length", "bad_hello", "cannot have 16777215 bytes"),
    ] {
        let seen = lb.log().len();
        let (answer, close) = ask(lb.address(), bytes);
        let (sqlstate, message) = error_of(&answer);
        assert!((&*sqlstate, close) == (code, Close::Fin) && message.contains(says), "{sqlstate} {message} {close:?}");
        let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
        assert_eq!(line["reason"], reason, "{line}");
        assert!(line["error"].as_str().unwrap().contains(error), "{line}");
        let saw = if bytes.len() < 8 || bytes[..8] == [0; 8] || code == "0A000" { "other" } else { "postgres" };
        assert_eq!(line["saw"], saw, "{line}");
    }
    // The protocol has no answer to it, and no server is known.
    assert_eq!(ask(lb.address(), &CANCEL_REQUEST), (vec![], Close::Fin));
    lb.wait_for_closed("not_tls", 4.0);
    assert_eq!(never.contacts(), 0);
    lb.end();
}

#[test]
fn other_protocols_are_refused_even_if_there_is_a_pool_for_them() {
    let never = Backend::answering(b"never");
    let lb = postgres(Lb::new().route("*", &never).not_tls(&never));
    let (answer, close) = ask(lb.address(), b"GET / HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 400 ") && close == Close::Fin);
    assert_eq!(ask(lb.address(), b"SSH-2.0-x\r\n"), (vec![], Close::Fin));
    // It was promised TLS.
    for instead in [STARTUP, &SSL_REQUEST, b"SSH-2.0-x\r\n"] {
        let mut client = begun(&lb);
        client.write_all(instead).unwrap();
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    }
    let mut client = send(lb.address(), &GSSENC_REQUEST);
    expect(&mut client, b"N");
    client.write_all(&GSSENC_REQUEST).unwrap();
    assert_eq!(error_of(&read_to_close(&mut client).0).0, "08P01");
    lb.wait_for_closed("not_tls", 5.0);
    lb.wait_for_closed("bad_hello", 1.0);
    assert_eq!(never.contacts(), 0);
    lb.end();
}

#[test]
fn after_the_request_refusals_are_those_of_tls() {
    let lb = postgres(Lb::new().route("db.test", ClosedPort::new().address));
    let mut client = begun(&lb);
    client.write_all(&hello("other.test")).unwrap();
    assert_eq!(read_to_close(&mut client), (alert(UNRECOGNIZED_NAME), Close::Fin));
    let mut client = begun(&lb);
    client.write_all(&hello("db.test")).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Reset));
    lb.wait_for_closed("no_route", 1.0);
    lb.wait_for_closed("connect_refused", 1.0);
    lb.end();
}

#[test]
fn a_client_that_stops_on_the_way_is_counted_by_how_far_it_came() {
    let lb = postgres(Lb::new().with("timeouts: { hello: 1s }"));
    drop(connect(lb.address()));
    lb.wait_for_closed("probe", 1.0);
    for sent in [&SSL_REQUEST[..3], &SSL_REQUEST] {
        let mut client = send(lb.address(), sent);
        client.shutdown(Shutdown::Write).unwrap();
        read_to_close(&mut client);
    }
    lb.wait_for_closed("client_gone", 2.0);
    let (nothing, part, begun) = (connect(lb.address()), send(lb.address(), &SSL_REQUEST[..7]), begun(&lb));
    lb.wait_for_closed("hello_timeout", 2.0);
    lb.wait_for_closed("probe", 2.0);
    drop((nothing, part, begun));
    lb.end();
}

#[test]
fn a_backend_that_does_not_begin_tls_is_skipped_and_the_next_one_is_asked_anew() {
    let refusing = [
        server(b"N", b""),
        server(b"E\0\0\0\x22SFATAL\0C53300\0Mtoo many clients\0\0", b""),
        server(b"Ecould not fork\n\0", b""),
        server(b"S\x15\x03\x03", b""),
        Backend::that(|mut stream| drop(stream.read_exact(&mut [0; 8]))),
        Backend::that(|mut stream| {
            drop(stream.write_all(b"SSH-2.0-x\r\n").and_then(|()| stream.read_to_end(&mut vec![])))
        }),
    ];
    let mute = Backend::that(|mut stream| drop(stream.read_to_end(&mut vec![])));
    // It takes the hello, and another one gets the same.
    let (leaves, good) = (server(b"S", b""), server(b"S", SERVER_HELLO));
    let all = refusing.iter().chain([&mute, &leaves, &good]).map(|backend| backend.address);
    let all: Vec<_> = all.collect();
    let keys = "balance: first\nconnect: { attempts: 9, timeout: 2s }";
    let lb = postgres(Lb::new().route_with("db.test", all.clone(), keys));
    let mut client = begun(&lb);
    client.write_all(&hello("db.test")).unwrap();
    expect(&mut client, SERVER_HELLO);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    let line = ended(&lb);
    assert_eq!((&line["backend"], &line["attempts"]), (&good.address.to_string().into(), &9.into()), "{line}");
    let failed = line["failed"].as_array().unwrap();
    for ((why, address), says) in failed.iter().zip(&all).zip([
        " starttls: the backend does not offer TLS (PostgreSQL: ssl = off)",
        " starttls: the backend answered the SSLRequest with an error (too many clients)",
        " starttls: the backend answered the SSLRequest with an error (could not fork)",
        " starttls: 3 bytes follow the backend's answer to the SSLRequest before TLS began",
        " starttls: the backend closed instead of answering the SSLRequest",
        " starttls: the backend's answer to the SSLRequest is not PostgreSQL (SSH-2.0-x\\r\\n)",
        " timeout: the backend did not answer the SSLRequest within ",
        " closed: the backend accepted the hello and closed without an answer",
    ]) {
        assert!(why.as_str().unwrap().starts_with(&format!("{address}{says}")), "{why} is not {says}");
    }
    assert_eq!(failed.len(), 8, "{line}");
    assert_eq!(lb.metric("backend_connects_total", &[("result", "starttls")]), 6.0);
    lb.end();
}

#[test]
fn without_a_backend_that_begins_tls_the_client_is_reset() {
    let off = server(b"N", b"");
    let lb = postgres(Lb::new().route("db.test", &off));
    let mut client = begun(&lb);
    client.write_all(&hello("db.test")).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Reset));
    let line = ended(&lb);
    assert_eq!(line["reason"], "connect_failed", "{line}");
    assert_eq!(line["error"], "the backend does not offer TLS (PostgreSQL: ssl = off)", "{line}");
    lb.end();
}

#[test]
fn proxy_headers_come_before_the_request_on_both_sides() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = Lb::new().route_with("db.test", &backend, "send_proxy_protocol: v1");
    let lb = postgres(lb.on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }"));
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.250 1000 5432\r\n";
    // Together, as a proxy sends it that waits for its client to speak.
    let mut client = send(lb.address(), &[&header[..], &SSL_REQUEST].concat());
    expect(&mut client, b"S");
    client.write_all(&hello("db.test")).unwrap();
    let mut server = arrivals.recv_timeout(DEADLINE).unwrap();
    expect(&mut server, &[&header[..], &SSL_REQUEST].concat());
    server.write_all(b"S").unwrap();
    expect(&mut server, &hello("db.test"));
    drop((server, client));
    lb.wait_for_metric("connections_active", &[], 0.0);
    let line = ended(&lb);
    assert_eq!((&line["client"], &line["sni"]), (&"192.0.2.7:1000".into(), &"db.test".into()), "{line}");
    lb.end();
}

#[test]
fn silent_clients_of_such_a_listener_are_relayed_without_it() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = Lb::new().route("db.test", &backend).on_listener("silent: { after: 50ms, pool: pool-0 }");
    let lb = postgres(lb);
    let mut client = connect(lb.address());
    let mut server = arrivals.recv_timeout(DEADLINE).unwrap();
    server.write_all(b"220 hello\r\n").unwrap();
    expect(&mut client, b"220 hello\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut server), (vec![], Close::Fin));
    drop(server);
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    lb.end();
}

#[test]
fn checks_make_the_exchange_that_clients_make() {
    let off = server(b"N", b"");
    let check = "health_check: { interval: 100ms, timeout: 2s, fall: 1 }";
    let lb = postgres(Lb::new().route_with("db.test", &off, check));
    let line = lb.wait_for_line(|line| line["event"] == "backend_down");
    assert_eq!(line["error"], "the backend does not offer TLS (PostgreSQL: ssl = off)", "{line}");
    assert!(lb.metric("health_checks_total", &[("result", "tls")]) >= 1.0);
    lb.stop();
}

/// On a port of TLS, it is at least recognized.
#[test]
fn a_postgres_client_on_another_listener_is_shown_as_such() {
    let lb = Trial::of(Lb::new());
    assert_eq!(ask(lb.address(), &SSL_REQUEST), (vec![], Close::Fin));
    let line = ended(&lb);
    assert_eq!((&line["saw"], &line["reason"]), (&"postgres".into(), &"not_tls".into()), "{line}");
    lb.end();
}

#[test]
fn a_crowd_of_unfinished_requests_costs_nothing_that_lasts() {
    let backend = server(b"S", SERVER_HELLO);
    let lb = postgres(Lb::new().route("db.test", &backend));
    let clients: Vec<TcpStream> = (0..200).map(|n| send(lb.address(), &SSL_REQUEST[..n % 8])).collect();
    let mut client = begun(&lb);
    client.write_all(&hello("db.test")).unwrap();
    expect(&mut client, SERVER_HELLO);
    drop((client, clients));
    lb.end();
}
