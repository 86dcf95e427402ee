//! Which addresses connections to backends leave from, and addresses that listeners have before the machine does.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::{fs, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::{DEADLINE, Lb, Reload, poll};
use crate::namespace;
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

#[test]
fn each_source_address_is_used_up_before_another_backend_is_tried() {
    namespace::run_test("true", "addresses::with_twenty_ports");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn with_twenty_ports() {
    /// The first bytes of a ServerHello, of one backend and of the other.
    const ONE: [u8; 6] = *b"\x16\x03\x03\x00\x40\x02";
    const OTHER: [u8; 6] = *b"\x16\x03\x01\x00\x40\x02";
    let ports = |range: &str| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
    let (one, other) = (Backend::answering(&ONE), Backend::answering(&OTHER));
    let keys = "balance: first\nsource_addresses: [127.0.0.7, 127.0.0.8, 127.0.0.9]";
    let lb = Lb::new().route_with("a.test", [one.address, other.address], keys).config();
    let lb = Trial::with(&lb.replacen("127.0.0.1:0", "0.0.0.0:0", 1));

    // Apart from those of the listeners. Clients have few ports too, for each address that they connect to.
    ports("20000 20019");
    let open = |number: u8| {
        let to = Ipv4Addr::new(127, 0, 0, 2 + number % 4);
        let mut client = send(SocketAddr::from((to, lb.port())), &hello("a.test"));
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        (answer, client)
    };
    let clients: Vec<_> = (0..60).map(open).collect();
    assert!(clients.iter().all(|(answer, _)| *answer == ONE));
    assert_eq!(other.contacts(), 0);
    let (answer, client) = open(60);
    ports("32768 60999");
    assert_eq!(answer, OTHER);
    assert_eq!(lb.metric("backend_connects_total", &[("result", "exhausted")]), 1.0);
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0, "the backend is not to blame");

    drop(client);
    let line = lb.wait_for_connection("a.test");
    let says = "exhausted: no local port is left towards this backend from 127.0.0.";
    assert!(line["failed"].to_string().contains(says), "{line}");
    drop(clients);
    lb.end();
}

#[test]
fn a_source_address_that_is_not_here_is_passed_over_and_named() {
    let backend = Backend::answering(SERVER_HELLO);
    let lb = Lb::new().route_with("a.test", &backend, "source_addresses: [192.0.2.77, 127.0.0.7]");
    let lb = Trial::of(lb.route_with("b.test", &backend, "source_addresses: [192.0.2.77]"));
    for _ in 0..4 {
        let mut client = send(lb.address(), &hello("a.test"));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (SERVER_HELLO.to_vec(), Close::Fin));
    }
    assert_eq!(ask(lb.address(), &hello("b.test")), (vec![], Close::Reset));
    let line = lb.wait_for_connection("b.test");
    assert_eq!(line["reason"], "connect_failed");
    assert_eq!(line["error"], "this machine does not have the source address 192.0.2.77");
    assert_eq!(lb.metric("backend_connects_total", &[("result", "exhausted")]), 0.0);
    lb.end();
}

#[test]
fn a_backend_sees_the_clients_own_address_with_the_rules_in_the_docs() {
    if !namespace::can("iptables -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1") {
        assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "no socket match of iptables here");
        println!("skipped: iptables has no socket match in a network namespace here");
        return;
    }
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/proxy-protocol.md")).unwrap();
    let lines: Vec<&str> = RULES.lines().map(str::trim).collect();
    assert!(docs.contains(&lines.join("\n")), "docs/proxy-protocol.md shows other rules than those tested");
    namespace::run_test(&format!("{NEIGHBOURS} && {}", lines.join(" && ")), "addresses::between_two_networks");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn between_two_networks() {
    let (v4, seen_v4) = telling_backend("10.2.0.2:443");
    let (v6, _) = telling_backend("[fd00:2::2]:443");
    let check = "health_check: { sni: v4.test, interval: 100ms, timeout: 100ms, fall: 100 }\n";
    let lb = Lb::new().route_with("v4.test", &v4, &format!("{check}transparent: true"));
    let lb = lb.route_with("v6.test", &v6, "transparent: true").route_with(
        "both.test",
        [v4.address, v6.address],
        "transparent: true",
    );
    let config = lb.config().replacen("127.0.0.1:0", "[::]:0", 1);
    let lb = Trial::with(&config);
    let port = lb.port();
    let asks = |to: &'static str, bytes: Vec<u8>| {
        in_namespace(CLIENT, move || ask(SocketAddr::new(to.parse().unwrap(), port), &bytes)).join().unwrap()
    };
    let told = |address: &str| ([SERVER_HELLO, address.as_bytes()].concat(), Close::Fin);
    assert_eq!(asks("10.1.0.1", hello("v4.test")), told("10.1.0.2"));
    assert_eq!(asks("fd00:1::1", hello("v6.test")), told("fd00:1::2"));
    for _ in 0..4 {
        // The backend of the client's family.
        assert_eq!(asks("10.1.0.1", hello("both.test")), told("10.1.0.2"));
        assert_eq!(asks("fd00:1::1", hello("both.test")), told("fd00:1::2"));
    }
    assert_eq!(asks("10.1.0.1", hello("v6.test")), (vec![], Close::Reset));
    let line = lb.wait_for_line(|line| line["sni"] == "v6.test" && line["reason"] == "connect_failed");
    let error = "transparent: no backend can be connected to from 10.1.0.2; add one with an IPv4 address";
    assert_eq!(line["error"], error);
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0, "the backend is not to blame");
    // None was tried in vain.
    assert_eq!(lb.metric("backend_connects_total", &[("result", "failed")]), 0.0);
    // Health checks are not a client's.
    let own: IpAddr = "10.2.0.1".parse().unwrap();
    while seen_v4.recv_timeout(DEADLINE).unwrap() != own {}

    // The client that a PROXY header announces.
    let proxied = config.replacen("[::]:0\"", "[::]:0\", proxy_protocol: { trusted: [10.1.0.0/24] }", 1);
    assert_eq!(lb.edit(&proxied), Reload::Applied);
    let header = |client: &str| format!("PROXY TCP4 {client} 10.1.0.1 5 6\r\n").into_bytes();
    assert_eq!(asks("10.1.0.1", [header("198.51.100.7"), hello("v4.test")].concat()), told("198.51.100.7"));
    assert_eq!(asks("10.1.0.1", [header("0.0.0.0"), hello("v4.test")].concat()), (vec![], Close::Reset));
    lb.stop();
}

#[test]
fn without_the_capability_a_transparent_pool_is_an_error_that_names_the_cure() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let config = Lb::new().route_with("a.test", SocketAddr::from(([192, 0, 2, 1], 443)), "transparent: true").config();
    fs::write(&file, config).unwrap();
    // A user namespace has no power over the network of the one outside.
    let unshare = ["--user", "--map-root-user", env!("CARGO_BIN_EXE_snigate"), "run", "--config"];
    let run = Command::new("unshare").args(unshare).arg(&file).output().unwrap();
    let reported = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    if reported.contains("unshare failed") {
        assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "no user namespaces here");
        return;
    }
    assert!(!run.status.success());
    assert!(reported.contains("pool pool-0: `transparent` needs CAP_NET_ADMIN"), "{reported}");
}

#[test]
fn a_listener_may_have_its_address_before_the_machine_does() {
    namespace::run_test("true", "addresses::before_the_address_is_here");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn before_the_address_is_here() {
    let backend = Backend::answering(SERVER_HELLO);
    let before = Lb::new().route("a.test", &backend).config();
    let lb = Trial::with(&before);
    for (address, prefix) in [("10.66.0.1:8443", "10.66.0.1/32"), ("[fd66::1]:8443", "fd66::1/128")] {
        let here = format!("  - {{ name: later, bind: \"{address}\" }}\nroutes");
        let config = before.replacen("routes", &here, 1);
        let seen = lb.log().len();
        assert_eq!(lb.edit(&config), Reload::Rejected);
        let line = lb.wait_for_line_after(seen, |line| line["why"].is_string());
        assert!(line["why"].as_str().unwrap().contains("`freebind: true`"), "{line}");
        let free = config.replacen("later,", "later, freebind: true,", 1);
        assert_eq!(lb.edit(&free), Reload::Applied);
        let to: SocketAddr = address.parse().unwrap();
        assert!(TcpStream::connect(to).is_err(), "it is not here yet");
        let added = Command::new("ip").args(["address", "add", prefix, "dev", "lo"]).status();
        assert!(added.is_ok_and(|added| added.success()));
        // The kernel adds the route of an IPv6 address a little later.
        let mut client = poll(|| TcpStream::connect(to)).unwrap();
        client.write_all(&hello("a.test")).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (SERVER_HELLO.to_vec(), Close::Fin));
        assert_eq!(lb.edit(&before), Reload::Applied);
    }
    lb.stop();
}

/// Answers with the address that it sees; tells the test those of all connections.
fn telling_backend(address: &'static str) -> (Backend, Receiver<IpAddr>) {
    let listener = in_namespace(BACKEND, move || TcpListener::bind(address).unwrap()).join().unwrap();
    let (to, seen) = channel();
    let backend = Backend::on(listener, move |mut stream| {
        let peer = stream.peer_addr().unwrap().ip();
        let _ = to.send(peer);
        match stream.read(&mut [0; 4096]) {
            Ok(0) => {}
            Ok(_) => stream.write_all(&[SERVER_HELLO, peer.to_string().as_bytes()].concat()).unwrap(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    });
    (backend, seen)
}

/// Sockets stay in the namespace of the thread that opened them.
fn in_namespace<T: Send + 'static>(
    namespace: &'static str,
    act: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(move || {
        let namespace = File::open(namespace).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
}

const CLIENT: &str = "/proc/self/fd/8";
const BACKEND: &str = "/proc/self/fd/9";

/// Two more namespaces, kept by descriptors: clients in 10.1.0.0/24, backends in 10.2.0.0/24, whose default route leads
/// through this one.
const NEIGHBOURS: &str = r#"
    neighbour() { unshare --net sleep 60 </dev/null >/dev/null 2>&1 & pid=$!
        until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done; } &&
    neighbour && exec 8</proc/$pid/ns/net && ip link add client type veth peer name there && ip link set there netns $pid && kill $pid &&
    neighbour && exec 9</proc/$pid/ns/net && ip link add backend type veth peer name there && ip link set there netns $pid && kill $pid &&
    ip link set client up && ip address add 10.1.0.1/24 dev client && ip address add fd00:1::1/64 dev client nodad &&
    ip link set backend up && ip address add 10.2.0.1/24 dev backend && ip address add fd00:2::1/64 dev backend nodad &&
    nsenter --net=/proc/self/fd/8 sh -c '
        ip link set lo up && ip link set there up && ip address add 10.1.0.2/24 dev there && ip address add fd00:1::2/64 dev there nodad' &&
    nsenter --net=/proc/self/fd/9 sh -c '
        ip link set lo up && ip link set there up && ip address add 10.2.0.2/24 dev there && ip address add fd00:2::2/64 dev there nodad &&
        ip route add default via 10.2.0.1 && ip -6 route add default via fd00:2::1'"#;

/// As docs/proxy-protocol.md shows them.
const RULES: &str = "iptables -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1
    ip rule add fwmark 1 lookup 100
    ip route add local 0.0.0.0/0 dev lo table 100
    ip6tables -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1
    ip -6 rule add fwmark 1 lookup 100
    ip -6 route add local ::/0 dev lo table 100";
