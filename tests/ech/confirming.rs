//! Whether backends accept inner hellos is seen in their answers, and found out by checks.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::{Receiver, channel};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use serde_json::Value;
use snigate::internals::{Hello, parse};

use crate::backend::Backend;
use crate::bytes::{HELLO_RETRY, alert, hello};
use crate::harness::{DEADLINE, Lb};
use crate::routing::Fleet;
use crate::sealing::{Client, INNER, PUBLIC, accepted, encoded, extension, keys, message, record, u16_prefixed, usual};
use crate::wire::send;

const HANDSHAKE_FAILURE: u8 = 40;

/// How a backend answers inner hellos.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    /// It accepts them.
    Confirmed,
    /// As a server that does not know the extension.
    Ignored,
    /// The same with a HelloRetryRequest.
    Retry,
}

/// A backend that answers inner hellos in pieces of so many bytes, and all others with an alert, which passes a check. Hands
/// over what it has answered, without the hellos of checks.
fn backend(answers: Answers, step: usize) -> (Backend, Receiver<Vec<u8>>) {
    let (to, arrivals) = channel();
    let backend = Backend::that(move |mut stream| {
        let Some((wire, message)) = read_hello(&mut stream) else { return };
        let is_inner = message.windows(5).any(|part| part == [0xfe, 0x0d, 0, 1, 1]);
        let answer = match answers {
            _ if !is_inner => alert(HANDSHAKE_FAILURE),
            Answers::Confirmed => record(&server_hello(&message, true)),
            Answers::Ignored => record(&server_hello(&message, false)),
            Answers::Retry => record(&retry_request()),
        };
        let _ = stream.set_nodelay(true);
        if answer.chunks(step).all(|part| stream.write_all(part).is_ok()) {
            let is_check = !message.windows(4).any(|part| part == [0, 0x2b, 0, 5]);
            if !is_check || !is_inner {
                let _ = to.send(wire);
            }
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    (backend, arrivals)
}

fn read_hello(stream: &mut impl Read) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut wire, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut part).ok().filter(|&count| count > 0)?;
        wire.extend_from_slice(&part[..count]);
        if let Ok(Hello::Whole(hello)) = parse(&wire, 1 << 20) {
            let message = hello.message(&wire).into_owned();
            return Some((wire, message));
        }
    }
}

/// Written after RFC 9849 §7.2, with nothing but HMAC.
fn server_hello(hello: &[u8], confirms: bool) -> Vec<u8> {
    let with = |confirmation: &[u8]| {
        let share = [&[0, 0x1d][..], &u16_prefixed(&[9; 32])].concat();
        let extensions = [extension(43, &[3, 4]), extension(51, &share)].concat();
        let random = [&[8; 24][..], confirmation].concat();
        let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0], &u16_prefixed(&extensions)].concat();
        let mut answer = message(&body);
        answer[0] = 2;
        answer
    };
    if !confirms {
        return with(&[8; 8]);
    }
    let hmac = |key: &[u8], data: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let secret = hmac(&[0; 32], &hello[6..38]);
    let transcript = digest(&SHA256, &[hello, &with(&[0; 8])].concat());
    let label = b"tls13 ech accept confirmation";
    let info = [&[0, 8, label.len() as u8][..], label, &[32], transcript.as_ref(), &[1]].concat();
    with(&hmac(secret.as_ref(), &info).as_ref()[..8])
}

/// Asks for another group, and knows nothing of inner hellos.
fn retry_request() -> Vec<u8> {
    let extensions = [extension(43, &[3, 4]), extension(51, &[0, 0x17])].concat();
    let random = &HELLO_RETRY[11..];
    let mut answer = message(&[&[3, 3][..], random, &[0, 0x13, 1, 0], &u16_prefixed(&extensions)].concat());
    answer[0] = 2;
    answer
}

/// Sends a hello and reads the first bytes of the answer, then closes.
fn ask(fleet: &Fleet, wire: &[u8]) -> Vec<u8> {
    let mut client = send(fleet.lb.address(), wire);
    let mut answer = [0; 7];
    client.read_exact(&mut answer).expect("an answer");
    client.shutdown(Shutdown::Write).expect("open");
    let mut answer = answer.to_vec();
    let _ = client.read_to_end(&mut answer);
    answer
}

fn is(event: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["event"] == event
}

#[test]
fn an_answer_without_confirmation_is_counted_however_it_arrives() {
    let mut expected = 0.0;
    for (answers, step) in [
        (Answers::Confirmed, 1),
        (Answers::Confirmed, 1000),
        (Answers::Ignored, 1),
        (Answers::Ignored, 1000),
        (Answers::Retry, 1),
        (Answers::Retry, 1000),
    ] {
        // With two backends the first answer is awaited before the relay begins, with one it is not.
        for count in [1, 2] {
            let all: Vec<_> = (0..count).map(|_| backend(answers, step)).collect();
            let backends: Vec<SocketAddr> = all.iter().map(|(backend, _)| backend.address).collect();
            let fleet = Fleet::start(&Lb::new().route(INNER, backends), "");
            let answer = ask(&fleet, &Client::of(&fleet.key).seal(&encoded(&usual())));
            assert!(answer.starts_with(&[22, 3]) && answer.len() > 40, "{answer:?}");
            expected = if answers == Answers::Confirmed { 0.0 } else { 1.0 };
            let line = fleet.lb.wait_for_connection(INNER);
            let said = if answers == Answers::Confirmed { "accepted" } else { "unconfirmed" };
            assert_eq!(line["ech"], said, "{step} {count}");
            assert_eq!((fleet.counted("accepted"), fleet.counted("unconfirmed")), (1.0, expected));
            assert_eq!(fleet.lb.metric("ech_open_seconds_count", &[]), 1.0);
            fleet.lb.stop();
        }
    }
    assert_eq!(expected, 1.0);
}

#[test]
fn a_backend_that_does_not_confirm_gets_no_inner_hellos() {
    let ((good, to_good), (bad, to_bad)) = (backend(Answers::Confirmed, 1000), backend(Answers::Ignored, 1000));
    let check = "health_check: { ech: true, interval: 200ms, timeout: 5s, fall: 100 }";
    let fleet = Fleet::start(&Lb::new().route_with(INNER, [good.address, bad.address], check), "");
    let line = fleet.lb.wait_for_line(is("backend_ech_unconfirmed"));
    assert_eq!((&line["level"], &line["backend"]), (&"WARN".into(), &bad.address.to_string().into()));
    let sealed = Client::of(&fleet.key).seal(&encoded(&usual()));
    let expected = accepted(&sealed, &keys(&[&fleet.key])).prefix;
    let _ = (to_good.try_iter().count(), to_bad.try_iter().count());
    for _ in 0..8 {
        ask(&fleet, &sealed);
    }
    // Checks without a mark may be among them.
    let arrived = (0..).map_while(|_| to_good.recv_timeout(DEADLINE).ok()).filter(|got| *got == expected).take(8);
    assert_eq!(arrived.count(), 8);
    assert!(to_bad.try_iter().all(|got| got != expected));
    assert_eq!((fleet.counted("unconfirmed"), fleet.counted("fell_back")), (0.0, 0.0));
    // It is up for everybody else.
    let bad = bad.address.to_string();
    fleet.lb.wait_for_line(|line| line["event"] == "backend_up" && line["backend"] == bad);
    fleet.lb.stop();
}

#[test]
fn the_outer_hello_is_served_if_no_backend_of_the_inner_name_confirms() {
    let ((bad, to_bad), (public, to_public)) = (backend(Answers::Ignored, 1000), Backend::recording());
    let check = "health_check: { ech: true, interval: 200ms, timeout: 5s, fall: 100 }";
    let lb = Lb::new().route_with(INNER, &bad, check).route(PUBLIC, &public);
    let fleet = Fleet::start(&lb, "");
    fleet.lb.wait_for_line(is("backend_ech_unconfirmed"));
    let sealed = Client::of(&fleet.key).seal(&encoded(&usual()));
    let mut client = send(fleet.lb.address(), &[&sealed[..], b"\x14\x03\x03\0\x01\x01"].concat());
    client.shutdown(Shutdown::Write).expect("open");
    let got = to_public.recv_timeout(DEADLINE).expect("a connection");
    assert_eq!(got, [&sealed[..], b"\x14\x03\x03\0\x01\x01"].concat());
    let _ = client.read_to_end(&mut Vec::new());
    let line = fleet.lb.wait_for_connection(PUBLIC);
    assert_eq!((&line["ech"], &line["route"], &line["outer_sni"]), (&"fell_back".into(), &PUBLIC.into(), &Value::Null));
    assert_eq!((fleet.counted("accepted"), fleet.counted("fell_back")), (1.0, 1.0));
    // The name in the clear is served where it leads, by the backend that is up.
    let answer = ask(&fleet, &hello(INNER));
    assert_eq!(answer, alert(HANDSHAKE_FAILURE));
    // Without the check nothing is known.
    let text = std::fs::read_to_string(fleet.lb.config_file()).expect("read");
    fleet.lb.edit(&text.replace("ech: true, ", ""));
    let expected = accepted(&sealed, &keys(&[&fleet.key])).prefix;
    crate::harness::poll(|| {
        ask_any(&fleet, &sealed);
        if to_bad.try_iter().any(|got| got == expected) { Ok(()) } else { Err("it still falls back") }
    })
    .expect("the inner hello arrives");
    fleet.lb.stop();
}

fn ask_any(fleet: &Fleet, wire: &[u8]) {
    let mut client = send(fleet.lb.address(), wire);
    client.shutdown(Shutdown::Write).expect("open");
    let _ = client.read_to_end(&mut Vec::new());
}

/// Until a backend has answered, another one can be sent the same inner hello.
#[test]
fn an_inner_hello_is_sent_to_the_next_backend_if_one_fails() {
    let (good, to_good) = backend(Answers::Confirmed, 1000);
    let closing = Backend::that(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    let fleet = Fleet::start(&Lb::new().route_with(INNER, [closing.address, good.address], "balance: first"), "");
    let sealed = Client::of(&fleet.key).seal(&encoded(&usual()));
    assert!(ask(&fleet, &sealed).starts_with(&[22, 3, 1]));
    let expected = accepted(&sealed, &keys(&[&fleet.key])).prefix;
    assert_eq!(to_good.recv_timeout(DEADLINE).expect("a connection"), expected);
    let line = fleet.lb.wait_for_connection(INNER);
    assert_eq!((&line["attempts"], &line["ech"], &line["reason"]), (&2.into(), &"accepted".into(), &"ok".into()));
    assert_eq!(closing.contacts(), 1);
    fleet.lb.stop();
}
