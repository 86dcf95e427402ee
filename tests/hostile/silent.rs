//! Clients that say nothing, since in their protocol the server speaks first.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::recorder::ClosedPort;
use crate::harness::{Backends, DEADLINE, Lb, Reload};
use crate::trial::Trial;
use crate::wire::{Close, connect, read_to_close, send};

/// Greets, answers each line, and ends on QUIT, as SMTP servers do.
fn greeting(name: &'static str) -> Backend {
    Backend::that(move |mut stream| {
        write!(stream, "220 {name}\r\n").unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            let _ = write!(stream, "250 {line}\r\n");
            if line == "QUIT" {
                return;
            }
        }
    })
}

/// Silent clients go to `silent`, and others by `lb`.
fn silent(after: &str, lb: Lb, silent: impl Backends, pool_keys: &str) -> Trial {
    Trial::of(lb.route_with("silent.invalid", silent, pool_keys).on_listener(&format!("silent: {after}")))
}

/// Of the pool that [`silent`] adds to one other.
const SOON: &str = "{ after: 50ms, pool: pool-1 }";
const LATE: &str = "{ after: 9s, pool: pool-1 }";

fn line_of(client: &mut impl BufRead) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn ended(lb: &Trial) -> Value {
    lb.wait_for_line(|line| line["reason"].is_string())
}

#[test]
fn a_server_that_speaks_first_is_heard_and_answered() {
    let (mail, web) = (greeting("mail.test"), Backend::answering(SERVER_HELLO));
    let lb = silent(SOON, Lb::new().route("a.test", &web), &mail, "");
    let mut client = BufReader::new(connect(lb.address()));
    assert_eq!(line_of(&mut client), "220 mail.test");
    for said in ["EHLO a.test", "STARTTLS", "QUIT"] {
        client.get_mut().write_all(format!("{said}\r\n").as_bytes()).unwrap();
        assert_eq!(line_of(&mut client), format!("250 {said}"));
    }
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    let line = ended(&lb);
    assert_eq!((&line["match"], &line["route"], &line["pool"]), (&"silent".into(), &"silent".into(), &"pool-1".into()));
    assert_eq!((&line["reason"], &line["backend"]), (&"ok".into(), &mail.address.to_string().into()), "{line}");
    assert!(["sni", "answer", "saw", "error", "hello_bytes"].iter().all(|key| line[*key].is_null()), "{line}");
    assert!(line["first_byte_ms"].is_number(), "{line}");
    assert_eq!(lb.metric("client_hello_total", &[("result", "silent")]), 1.0);
    assert_eq!(lb.metric("routes_selected_total", &[("match", "silent")]), 1.0);
    assert_eq!(lb.metric("backend_connects_total", &[("result", "ok"), ("backend", &mail.address.to_string())]), 1.0);
    assert_eq!(lb.metric("backend_first_record_total", &[]), 0.0);
    assert_eq!(lb.metric("backend_state", &[("state", "up"), ("pool", "pool-1")]), 1.0);
    assert_eq!(web.contacts(), 0);
    lb.end();
}

#[test]
fn those_that_speak_in_time_are_routed_as_ever() {
    let (mail, web) = (greeting("mail.test"), Backend::answering(SERVER_HELLO));
    let lb = silent(LATE, Lb::new().route("a.test", &web), &mail, "");
    let mut client = send(lb.address(), &hello("a.test"));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (SERVER_HELLO.to_vec(), Close::Fin));
    // What has begun is no silence.
    let mut client = send(lb.address(), &hello("a.test")[..1]);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    let mut client = send(lb.address(), b"SSH-2.0-x\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    lb.wait_for_closed("client_gone", 1.0);
    lb.wait_for_closed("not_tls", 1.0);
    // A port scan, or a load balancer's check.
    drop(connect(lb.address()));
    lb.wait_for_closed("probe", 1.0);
    assert_eq!((mail.contacts(), web.contacts()), (0, 1));
    lb.end();
}

#[test]
fn silence_begins_behind_the_proxy_header_which_the_backend_gets_alone() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = Lb::new().route("a.test", ClosedPort::new().address);
    let lb = lb.on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }");
    let lb = silent(SOON, lb.with("timeouts: { hello: 4s }"), &backend, "send_proxy_protocol: v1");
    // Without a header there is no client yet.
    let headless = connect(lb.address());
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.250 1000 443\r\n";
    let mut client = send(lb.address(), header);
    let mut server = arrivals.recv_timeout(DEADLINE).unwrap();
    let mut got = vec![0; header.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, header);
    server.write_all(b"220 hello\r\n").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (b"220 hello\r\n".to_vec(), Close::Fin));
    assert_eq!(read_to_close(&mut server), (vec![], Close::Fin));
    let line = lb.wait_for_line(|line| line["match"] == "silent");
    assert_eq!((&line["client"], &line["reason"]), (&"192.0.2.7:1000".into(), &"ok".into()), "{line}");
    lb.wait_for_closed("probe", 1.0);
    drop(headless);
    lb.end();
}

/// Nothing was sent to them, so the next one loses nothing.
#[test]
fn backends_are_tried_until_one_speaks() {
    let dead = ClosedPort::new();
    let closes = Backend::that(drop);
    let mute = Backend::that(|mut stream| drop(stream.read(&mut [0; 1])));
    let good = greeting("good.test");
    let all = [dead.address, closes.address, mute.address, good.address];
    let keys = "balance: first\nconnect: { attempts: 4, first_byte: 200ms }";
    let lb = silent(SOON, Lb::new().route("a.test", dead.address), all, keys);
    let mut client = BufReader::new(connect(lb.address()));
    assert_eq!(line_of(&mut client), "220 good.test");
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    drop(client);
    let line = ended(&lb);
    let failed: Vec<&str> = line["failed"].as_array().unwrap().iter().map(|why| why.as_str().unwrap()).collect();
    let [refused, closed, silent] = failed.as_slice() else { panic!("{line}") };
    assert_eq!(*refused, format!("{} refused: Connection refused (os error 111)", dead.address));
    let why = "the backend accepted the connection and closed it";
    assert_eq!(*closed, format!("{} closed: {why}", closes.address));
    let why = "the backend accepted the connection but sent nothing for ";
    assert!(silent.starts_with(&format!("{} silent: {why}", mute.address)), "{line}");
    assert_eq!(line["backend"], good.address.to_string(), "{line}");
    lb.end();
}

#[test]
fn without_a_backend_the_client_is_reset() {
    let dead = ClosedPort::new();
    let lb = silent(SOON, Lb::new().route("a.test", dead.address), dead.address, "");
    assert_eq!(read_to_close(&mut connect(lb.address())), (vec![], Close::Reset));
    let line = ended(&lb);
    assert_eq!((&line["reason"], &line["match"]), (&"connect_refused".into(), &"silent".into()), "{line}");
    lb.end();
}

/// The backend whose turn it is gets it, and no other one.
#[test]
fn what_a_client_says_after_all_is_relayed() {
    let (first, arrivals) = Backend::handing_over();
    let second = greeting("second.test");
    let keys = "balance: first\nconnect: { first_byte: off }";
    let lb = silent(SOON, Lb::new().route("a.test", &second), [first.address, second.address], keys);
    let mut client = connect(lb.address());
    let mut server: TcpStream = arrivals.recv_timeout(DEADLINE).unwrap();
    client.write_all(b"late").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut server), (b"late".to_vec(), Close::Fin));
    server.write_all(b"heard").unwrap();
    drop(server);
    assert_eq!(read_to_close(&mut client), (b"heard".to_vec(), Close::Fin));
    drop(client);
    assert_eq!((&ended(&lb)["reason"], second.contacts()), (&"ok".into(), 0));
    lb.end();
}

/// Bytes that look like a record of TLS are none here: this one would count against the backend.
#[test]
fn what_such_a_server_says_is_never_taken_for_tls() {
    let odd = Backend::that(|mut stream| {
        let _ = stream.write_all(crate::bytes::INTERNAL_ERROR);
        let _ = stream.read(&mut [0; 1]);
    });
    let lb = silent(SOON, Lb::new().route("a.test", &odd), &odd, "ejection: { failures: 1 }");
    for _ in 0..4 {
        let mut client = connect(lb.address());
        client.read_exact(&mut [0; 7]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    }
    lb.wait_for_closed("ok", 4.0);
    assert_eq!(lb.metric("backend_state", &[("state", "up"), ("pool", "pool-1")]), 1.0);
    lb.end();
}

#[test]
fn a_reload_changes_where_silent_clients_go() {
    let (one, two) = (greeting("one.test"), greeting("two.test"));
    let config = |pool: usize| {
        let lb = Lb::new().route("a.test", &one).route("b.test", &two);
        lb.on_listener(&format!("silent: {{ after: 50ms, pool: pool-{pool} }}")).config()
    };
    let lb = Trial::with(&config(0));
    assert_eq!(line_of(&mut BufReader::new(connect(lb.address()))), "220 one.test");
    assert_eq!(lb.edit(&config(1)), Reload::Applied);
    assert_eq!(line_of(&mut BufReader::new(connect(lb.address()))), "220 two.test");
    lb.settle();
    lb.stop();
}
