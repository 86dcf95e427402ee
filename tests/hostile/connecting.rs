//! Backends that refuse, or do not answer.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::nameserver::Nameserver;
use crate::harness::recorder::ClosedPort;
use crate::harness::{Lb, poll};
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

#[test]
fn a_backend_that_refuses_is_passed_over() {
    let backend = Backend::answering(SERVER_HELLO);
    let (one, two) = (ClosedPort::new(), ClosedPort::new());
    let backends = [one.address, two.address, backend.address];
    let lb = Trial::of(Lb::new().route_with("a.test", backends, "ejection: off"));
    for _ in 0..6 {
        served(&lb);
    }
    lb.wait_for_metric("backend_connects_total", &[("result", "ok")], 6.0);
    // Of six turns, two begin with each backend: 0, 1 and 2 refusals on the way.
    lb.wait_for_metric("backend_connects_total", &[("result", "refused")], 6.0);
    lb.end();
}

#[test]
fn when_all_refuse_the_client_is_reset_at_once() {
    let (one, two) = (ClosedPort::new(), ClosedPort::new());
    let lb = Trial::of(Lb::new().route("a.test", [one.address, two.address]));
    let started = Instant::now();
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let line = lb.wait_for_connection("a.test");
    assert_eq!((line["reason"].as_str(), line["attempts"].as_u64()), (Some("connect_refused"), Some(2)), "{line}");
    lb.end();
}

#[test]
fn a_backend_that_does_not_answer_is_given_up_and_passed_over() {
    let silent = SilentPort::new();
    let backend = Backend::answering(SERVER_HELLO);
    let keys = "connect: { timeout: 300ms, attempts: 2, total: 5s }";
    let lb = Lb::new().route_with("a.test", [silent.address, backend.address], keys);
    let lb = Trial::of(lb.route_with("silent.test", silent.address, keys));
    for _ in 0..4 {
        served(&lb);
    }
    let of_both = |lb: &Trial| lb.metric("backend_connects_total", &[("result", "timeout"), ("pool", "pool-0")]);
    assert_eq!(of_both(&lb), 2.0);
    let started = Instant::now();
    assert_eq!(ask(lb.address(), &hello("silent.test")), (vec![], Close::Reset));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(290) && waited < Duration::from_secs(3), "{waited:?}");
    lb.wait_for_closed("connect_timeout", 1.0);
    lb.end();
}

#[test]
fn all_attempts_together_have_one_deadline() {
    let silent: Vec<_> = (0..3).map(|_| SilentPort::new()).collect();
    let keys = "connect: { timeout: 400ms, attempts: 3, total: 600ms }";
    let lb = Lb::new().route_with("a.test", [silent[0].address, silent[1].address, silent[2].address], keys);
    let lb = Trial::of(lb);
    let started = Instant::now();
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    assert!(started.elapsed() >= Duration::from_millis(590), "{:?}", started.elapsed());
    let line = lb.wait_for_connection("a.test");
    assert_eq!((line["reason"].as_str(), line["attempts"].as_u64()), (Some("connect_timeout"), Some(2)), "{line}");
    lb.end();
}

#[test]
fn a_backend_that_resets_at_once_resets_the_client() {
    let backend = Backend::that(crate::wire::reset);
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    for _ in 0..20 {
        assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    }
    // If the RST comes before the hello is written, it is the attempt that failed.
    lb.wait_for_metric("connections_closed_total", &[], 20.0);
    assert_eq!(lb.closed("backend_reset") + lb.closed("connect_failed"), 20.0);
    lb.end();
}

/// RFC 8305 §5: an address that does not answer is overtaken by one of the other family, long before it is given up.
#[test]
fn a_name_with_both_families_is_reached_by_the_one_that_answers() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: there is no ::1 here");
        return;
    }
    let (silent, backend) = (0..100).find_map(|_| silent_over_ipv6()).expect("a port that is free in both families");
    let dns = Nameserver::start();
    dns.addresses("shop.test", 60, &["127.0.0.1", "::1"]);
    let resolve = format!("resolve: {{ nameservers: [\"{}\"], allow: [127.0.0.0/8, \"::1\"] }}", dns.address);
    let keys = format!("{resolve}\nejection: off\nconnect: {{ timeout: 15s, total: 15s }}");
    let config = Lb::new().route_with("a.test", backend.address, &keys).config();
    let port = silent.address.port();
    let lb = Trial::with(&config.replace(&format!("\"127.0.0.1:{port}\""), &format!("\"shop.test:{port}\"")));
    (0..4).for_each(|_| served(&lb));
    let overtaken = || lb.log().iter().filter(|line| line["sni"] == "a.test" && line["attempts"] == 2).count();
    let half = poll(|| if overtaken() == 2 { Ok(()) } else { Err(overtaken()) });
    half.expect("half of the turns begin with the silent address");
    assert_eq!(lb.metric("backend_connects_total", &[("result", "timeout")]), 0.0);
    assert_eq!(lb.metric("backend_connects_total", &[("result", "ok")]), 4.0);
    lb.end();
}

/// RFC 8305 §4: what was learned is used, so that a family without a route does not slow down every connection.
#[test]
fn an_address_that_is_overtaken_again_and_again_is_tried_last() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: there is no ::1 here");
        return;
    }
    let (silent, backend) = (0..100).find_map(|_| silent_over_ipv6()).expect("a port that is free in both families");
    let dns = Nameserver::start();
    dns.addresses("shop.test", 60, &["127.0.0.1", "::1"]);
    let resolve = format!("resolve: {{ nameservers: [\"{}\"], allow: [127.0.0.0/8, \"::1\"] }}", dns.address);
    let config = Lb::new().route_with("a.test", backend.address, &resolve).config();
    let port = silent.address.port();
    let text = config.replace(&format!("\"127.0.0.1:{port}\""), &format!("\"shop.test:{port}\""));
    let lb = Trial::with(&text);
    (0..12).for_each(|_| served(&lb));
    let line = lb.wait_for_line(|line| line["event"] == "backend_overtaken");
    assert_eq!(line["address"], silent.address.to_string());
    // A reload does not forget it.
    lb.edit(&format!("{text}timeouts: {{ idle: 2h }}\n"));
    (0..12).for_each(|_| served(&lb));
    lb.settle();
    let lines = lb.log();
    let of =
        |attempts: u64| lines.iter().filter(|line| line["sni"] == "a.test" && line["attempts"] == attempts).count();
    assert_eq!((of(1), of(2)), (21, 3));
    lb.end();
}

/// Somebody who does not answer at `::1`, and a backend at the same port of 127.0.0.1.
fn silent_over_ipv6() -> Option<(SilentPort, Backend)> {
    let silent = SilentPort::at(Ipv6Addr::LOCALHOST.into());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, silent.address.port())).ok()?;
    let backend = Backend::on(listener, |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            let _ = stream.write_all(SERVER_HELLO);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    Some((silent, backend))
}

fn served(lb: &Trial) {
    let mut client = send(lb.address(), &hello("a.test"));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (SERVER_HELLO.to_vec(), Close::Fin));
}

/// A port whose queue is full, so that further SYNs get no answer.
pub struct SilentPort {
    pub address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl SilentPort {
    pub fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    fn at(ip: IpAddr) -> Self {
        let address = SocketAddr::from((ip, 0));
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
            assert!(queued.len() < 100, "the queue never fills");
        }
        Self { address, _listener: listener, _queued: queued }
    }
}
