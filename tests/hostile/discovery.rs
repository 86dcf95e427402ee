//! Backends that are names, looked up at a real nameserver: they come, go, move, and cannot be looked up.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::nameserver::{Fails, Nameserver, error_response, without_edns};
use crate::harness::recorder::ClosedPort;
use crate::harness::{Lb, Reload, poll};
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

/// Backends at 127.0.0.1, 127.0.0.2 and so on, all at one port, as the replicas of a service are. Each answers with its
/// number, and then sends everything back.
struct Replicas {
    port: u16,
    backends: Vec<Backend>,
}

impl Replicas {
    fn new(count: u8) -> Self {
        // The port may be taken at one of the addresses.
        for _ in 0..100 {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let others = (2..=count).map(|number| TcpListener::bind((Ipv4Addr::new(127, 0, 0, number), port)));
            let Ok(others) = others.collect::<Result<Vec<_>, _>>() else { continue };
            let backends = [first].into_iter().chain(others).zip(1..).map(|(listener, number)| {
                Backend::on(listener, move |mut stream| {
                    if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                        let _ = stream.write_all(&[SERVER_HELLO, &[number]].concat());
                        let mut back = stream.try_clone().unwrap();
                        let _ = std::io::copy(&mut stream, &mut back);
                    }
                })
            });
            return Self { port, backends: backends.collect() };
        }
        panic!("no port that is free at every address");
    }

    fn name(&self) -> String {
        format!("shop.test:{}", self.port)
    }
}

/// A file whose one pool is behind `backend`, a name that `dns` is asked for.
fn config(dns: &Nameserver, backend: &str, resolve: &str) -> String {
    let keys =
        format!("resolve: {{ nameservers: [\"{}\"], allow: [127.0.0.0/8], min_ttl: 100ms, {resolve} }}", dns.address);
    let place: SocketAddr = "127.0.0.1:9".parse().unwrap();
    Lb::new().route_with("a.test", place, &keys).config().replace(&place.to_string(), backend)
}

const BRIEF: &str = "max_ttl: 200ms";

#[test]
fn an_answer_with_a_reserved_address_is_not_used_until_it_is_allowed() {
    let (dns, replicas) = (Nameserver::start(), Replicas::new(1));
    dns.addresses("shop.test", 0, &["127.0.0.1", "169.254.169.254", "fd00:ec2::254", "::1"]);
    let text = config(&dns, &replicas.name(), BRIEF);
    let lb = Trial::with(&text.replace(", allow: [127.0.0.0/8]", ""));
    let refused = lb.wait_for_line(|line| line["event"] == "dns_address_refused");
    assert!(refused["level"] == "WARN" && refused["why"].as_str().unwrap().contains("`resolve.allow`"), "{refused}");
    wait_for(&lb, &[]);
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    assert_eq!(lb.edit(&text), Reload::Applied);
    wait_for(&lb, &["127.0.0.1"]);
    assert_eq!(who(&lb), 1);
    lb.end();
}

#[test]
fn a_nameserver_without_edns_is_no_forger() {
    let backend = Backend::answering(SERVER_HELLO);
    // As old servers do: an error that does not even repeat the question.
    let (dns, _) = without_edns(|query| Some(error_response(query, 1, 0)));
    let keys = format!("resolve: {{ nameservers: [\"{dns}\"], family: v4, allow: [127.0.0.0/8] }}");
    let named = format!("shop.test:{}", backend.address.port());
    let config = Lb::new().route_with("a.test", &backend, &keys).config().replace(&backend.address.to_string(), &named);
    let lb = Trial::with(&config);
    let mut client = send(lb.address(), &hello("a.test"));
    client.read_exact(&mut [0; SERVER_HELLO.len()]).expect("an answer");
    close(client);
    assert!(lb.log().iter().all(|line| line["level"] != "WARN"), "{:?}", lb.log());
    lb.end();
}

/// A connection that was answered, and by whom.
#[track_caller]
fn open(lb: &Trial) -> (u8, TcpStream) {
    let mut client = send(lb.address(), &hello("a.test"));
    let mut answer = [0; SERVER_HELLO.len() + 1];
    client.read_exact(&mut answer).expect("an answer");
    (answer[SERVER_HELLO.len()], client)
}

#[track_caller]
fn close(mut client: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    read_to_close(&mut client);
}

/// Who answered a connection that is then closed.
#[track_caller]
fn who(lb: &Trial) -> u8 {
    let (number, client) = open(lb);
    close(client);
    number
}

#[track_caller]
fn is_alive(client: &mut TcpStream) {
    client.write_all(b"still there?").unwrap();
    client.read_exact(&mut [0; 12]).expect("the backend sends it back");
}

/// Waits until the name has just these addresses.
#[track_caller]
fn wait_for(lb: &Trial, addresses: &[&str]) -> Value {
    let last = poll(|| match lb.status()["names"][0].clone() {
        name if name["addresses"].as_array().is_some_and(|now| ips(now) == addresses) => Ok(name),
        name => Err(name),
    });
    last.unwrap_or_else(|last| panic!("{last} has not {addresses:?}"))
}

fn ips(addresses: &[Value]) -> Vec<&str> {
    addresses.iter().filter_map(|address| Some(address.as_str()?.rsplit_once(':')?.0)).collect()
}

#[test]
fn replicas_that_come_and_go_are_followed_and_nothing_is_lost() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(4);
    dns.addresses("shop.test", 1, &["127.0.0.1"]);
    let lb = Trial::with(&config(&dns, &replicas.name(), BRIEF));
    let (number, mut first) = open(&lb);
    assert_eq!(number, 1);

    dns.addresses("shop.test", 1, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    wait_for(&lb, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let mut answered: Vec<u8> = (0..3).map(|_| who(&lb)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3], "each gets its share at once");
    assert_eq!(lb.metric("backend_up", &[]), 3.0);

    // The one is gone and another is there: its live connection goes on, and no new one comes to it.
    dns.addresses("shop.test", 1, &["127.0.0.2", "127.0.0.4"]);
    wait_for(&lb, &["127.0.0.2", "127.0.0.4"]);
    let before = replicas.backends[0].contacts();
    let mut answered: Vec<u8> = (0..4).map(|_| who(&lb)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [2, 2, 4, 4]);
    assert_eq!(replicas.backends[0].contacts(), before);
    is_alive(&mut first);
    close(first);
    lb.wait_for_closed("ok", 8.0);
    let attempts = || lb.log().iter().filter_map(|line| line.get("attempts").cloned()).collect::<Vec<Value>>();
    // A line may come a moment after its count.
    let all = poll(|| if attempts().len() == 8 { Ok(attempts()) } else { Err(attempts()) });
    assert_eq!(all, Ok(vec![json!(1); 8]), "none went to one that is gone");
    lb.end();
}

#[test]
fn every_connection_is_served_while_replicas_change() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(3);
    let sets: [&[&str]; 3] = [&["127.0.0.1", "127.0.0.2"], &["127.0.0.2", "127.0.0.3"], &["127.0.0.3", "127.0.0.1"]];
    dns.addresses("shop.test", 0, sets[0]);
    let lb = Trial::with(&config(&dns, &replicas.name(), BRIEF));
    for turn in 1..7 {
        dns.addresses("shop.test", 0, sets[turn % 3]);
        let asked = dns.asked("shop.test");
        while dns.asked("shop.test") < asked + 4 {
            who(&lb);
        }
    }
    assert_eq!(lb.closed("no_backend"), 0.0);
    lb.end();
}

#[test]
fn what_is_gone_serves_until_it_is_stale_and_comes_back_by_itself() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(2);
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    let lb = Trial::with(&config(&dns, &replicas.name(), &format!("{BRIEF}, stale: 2s")));
    assert_eq!(who(&lb), 1);
    let removed = Instant::now();
    dns.remove("shop.test");
    let failed = poll(|| match lb.status()["names"][0].clone() {
        name if name["error"] == "there is no such name" => Ok(name),
        name => Err(name),
    });
    assert_eq!(failed.unwrap()["addresses"], json!([format!("127.0.0.1:{}", replicas.port)]));
    if removed.elapsed() < Duration::from_millis(1500) {
        assert_eq!(who(&lb), 1, "the last good answer serves on");
    }
    wait_for(&lb, &[]);
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    lb.wait_for_closed("no_backend", 1.0);
    dns.addresses("shop.test", 0, &["127.0.0.2"]);
    wait_for(&lb, &["127.0.0.2"]);
    assert_eq!(who(&lb), 2);
    assert!(lb.metric("dns_lookups_total", &[("pool", "pool-0"), ("result", "nxdomain")]) > 0.0);
    assert!(lb.metric("dns_lookups_total", &[("pool", "pool-0"), ("result", "ok")]) > 0.0);
    lb.end();
}

#[test]
fn it_starts_with_names_that_nobody_knows() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(1);
    let started = Instant::now();
    let lb = Trial::with(&config(&dns, &replicas.name(), BRIEF));
    assert!(started.elapsed() < Duration::from_secs(5), "an answer that says no is an answer");
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    lb.wait_for_closed("no_backend", 1.0);
    assert_eq!(lb.status()["names"][0]["answered"], Value::Null);
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    wait_for(&lb, &["127.0.0.1"]);
    assert_eq!(who(&lb), 1);
    lb.end();
}

#[test]
fn a_silent_nameserver_keeps_nobody_waiting_for_long() {
    let dns = Nameserver::start();
    let (there, replicas) = (Backend::answering(SERVER_HELLO), Replicas::new(1));
    dns.fail("shop.test", None, Fails::Silent);
    let config = config(&dns, &replicas.name(), BRIEF);
    let listed = format!("backends: [\"{}\"]", replicas.name());
    let config = config.replace(&listed, &format!("backends: [\"{}\", \"{}\"]", replicas.name(), there.address));
    let started = Instant::now();
    let lb = Trial::with(&config);
    assert!(started.elapsed() < Duration::from_secs(15));
    close(send(lb.address(), &hello("a.test")));
    assert_eq!(there.contacts(), 1);
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    wait_for(&lb, &["127.0.0.1"]);
    lb.end();
}

#[test]
fn a_backend_that_moved_is_looked_up_when_it_cannot_be_reached() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(2);
    // Nobody listens there, and the answer holds for an hour.
    dns.addresses("shop.test", 3600, &["127.0.0.77"]);
    let lb = Trial::with(&config(&dns, &format!("shop.test.:{}", replicas.port), "max_ttl: 1h"));
    dns.addresses("shop.test", 3600, &["127.0.0.2"]);
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    lb.wait_for_closed("connect_refused", 1.0);
    wait_for(&lb, &["127.0.0.2"]);
    assert_eq!(who(&lb), 2);
    lb.end();
}

#[test]
fn services_say_port_share_and_who_stands_by() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(3);
    let (port, name) = (replicas.port, "_https._tcp.shop.test");
    let gone = ClosedPort::new();
    dns.addresses("one.test", 0, &["127.0.0.1"]).addresses("two.test", 0, &["127.0.0.2"]);
    dns.addresses("three.test", 0, &["127.0.0.3"]).addresses("gone.test", 0, &["127.0.0.1"]);
    dns.services(name, 0, &[(1, 30, port, "one.test"), (1, 10, port, "two.test"), (2, 1, port, "three.test")]);
    let lb = Trial::with(&config(&dns, &format!("srv:{name}"), BRIEF));
    let mut answered: Vec<u8> = (0..8).map(|_| who(&lb)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 1, 1, 1, 1, 1, 2, 2]);
    dns.services(name, 0, &[(1, 0, gone.address.port(), "gone.test"), (2, 1, port, "three.test")]);
    wait_for(&lb, &["127.0.0.1", "127.0.0.3"]);
    assert_eq!(who(&lb), 3);
    lb.end();
}

#[test]
fn a_reload_asks_nobody_anything_and_loses_no_address() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(2);
    dns.addresses("shop.test", 3600, &["127.0.0.1", "127.0.0.2"]);
    let text = config(&dns, &replicas.name(), "max_ttl: 1h");
    let lb = Trial::with(&text);
    let (_, mut live) = open(&lb);
    dns.fail("shop.test", None, Fails::Silent);
    let asked = dns.asked("shop.test");
    assert_eq!(lb.edit(&format!("{text}timeouts: {{ idle: 30m }}\n")), Reload::Applied);
    let mut answered = [who(&lb), who(&lb)];
    answered.sort_unstable();
    assert_eq!(answered, [1, 2]);
    assert_eq!(dns.asked("shop.test"), asked);
    // Under other settings it is asked for again, and what it had serves meanwhile.
    assert_eq!(lb.edit(&text.replace("max_ttl: 1h", "max_ttl: 2h")), Reload::Applied);
    let asked_again = poll(|| if dns.asked("shop.test") > asked { Ok(()) } else { Err(()) });
    asked_again.expect("a name under other settings is looked up");
    let mut answered = [who(&lb), who(&lb)];
    answered.sort_unstable();
    assert_eq!(answered, [1, 2]);
    is_alive(&mut live);
    close(live);
    // Without the name, nobody follows it any more.
    let other = Lb::new().route("a.test", replicas.backends[0].address).config();
    assert_eq!(lb.edit(&other), Reload::Applied);
    poll(|| if lb.status()["names"] == json!([]) { Ok(()) } else { Err(()) }).expect("no name is left");
    lb.stop();
}

#[test]
fn an_answer_that_leads_back_to_us_is_refused() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(1);
    let name = "_https._tcp.shop.test";
    dns.addresses("us.test", 0, &["127.0.0.1"]).addresses("one.test", 0, &["127.0.0.1"]);
    dns.services(name, 0, &[(1, 1, replicas.port, "one.test")]);
    let lb = Trial::with(&config(&dns, &format!("srv:{name}"), BRIEF));
    dns.services(name, 0, &[(1, 1, lb.port(), "us.test"), (1, 1, replicas.port, "one.test")]);
    let line = lb.wait_for_line(|line| line["event"] == "dns_address_refused");
    assert_eq!(line["address"], lb.address().to_string());
    (0..4).for_each(|_| assert_eq!(who(&lb), 1));
    dns.services(name, 0, &[(1, 1, lb.port(), "us.test")]);
    wait_for(&lb, &[]);
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    assert_eq!(lb.metric("connections_accepted_total", &[]), 5.0, "none came round again");
    lb.end();
}

#[test]
fn a_listener_that_a_reload_opens_is_ours_too() {
    let dns = Nameserver::start();
    let (free, name) = (ClosedPort::new(), "_https._tcp.shop.test");
    dns.addresses("us.test", 3600, &["127.0.0.1"]).services(name, 3600, &[(1, 1, free.address.port(), "us.test")]);
    let text = config(&dns, &format!("srv:{name}"), "max_ttl: 1h");
    let lb = Trial::with(&text);
    wait_for(&lb, &["127.0.0.1"]);
    let address = free.address;
    drop(free);
    let both =
        text.replace("bind: \"127.0.0.1:0\" }\nroutes", &format!("bind: [\"127.0.0.1:0\", \"{address}\"] }}\nroutes"));
    assert_ne!(both, text);
    assert_eq!(lb.edit(&both), Reload::Applied);
    wait_for(&lb, &[]);
    lb.stop();
}

#[test]
fn what_clients_ask_for_is_never_looked_up() {
    let dns = Nameserver::start();
    let replicas = Replicas::new(1);
    dns.addresses("shop.test", 0, &["127.0.0.1"]).addresses("evil.test", 0, &["127.0.0.1"]);
    let text = config(&dns, &replicas.name(), BRIEF);
    let lb = Trial::with(&format!("{text}unmatched: {{ pool: pool-0 }}\n"));
    for name in ["evil.test", "localhost", "shop.test"] {
        let mut client = send(lb.address(), &hello(name));
        client.read_exact(&mut [0; SERVER_HELLO.len() + 1]).expect("an answer");
        close(client);
    }
    // Whatever was asked on their account has been asked by now.
    let asked = dns.asked("shop.test");
    poll(|| if dns.asked("shop.test") > asked + 2 { Ok(()) } else { Err(()) }).expect("it goes on");
    assert_eq!(dns.asked("evil.test") + dns.asked("localhost"), 0);
    lb.end();
}
