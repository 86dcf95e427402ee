//! A backend that is one of our own listeners, by whichever address, never comes into force.

use std::net::{IpAddr, SocketAddr};

use snigate::internals::local_addresses;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Reload};
use crate::namespace;
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

#[test]
fn a_reload_to_our_own_listener_is_refused_and_what_was_in_force_serves_on() {
    let backend = Backend::answering(b"served");
    let everywhere = |config: String| config.replace("127.0.0.1:0\" }\nroutes", "[::]:0\" }\nroutes");
    let lb = Trial::with(&everywhere(Lb::new().route("a.test", &backend).config()));
    let port = lb.port();
    let local = local_addresses().unwrap().into_iter().filter(|ip| !is_link_local(*ip));
    // `0.0.0.0` and `::` are refused as backends before it comes to this.
    let ours = local.chain(["127.1.2.3".parse().unwrap()]);
    for ours in ours.map(|ip| SocketAddr::new(ip, port)) {
        let seen = lb.log().len();
        let config = Lb::new().route("a.test", [backend.address, ours]).config();
        assert_eq!(lb.edit(&everywhere(config)), Reload::Rejected, "{ours}");
        let line = lb.wait_for_line_after(seen, |line| line["why"].is_string());
        let why = line["why"].as_str().unwrap();
        assert!(
            why.starts_with(&format!("pool pool-0: its backend `{ours}` is where snigate itself listens")),
            "{why}"
        );

        let mut client = send(SocketAddr::new([127, 0, 0, 1].into(), port), &hello("a.test"));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (b"served".to_vec(), Close::Fin));
    }
    lb.end();
}

#[test]
fn a_name_that_leads_to_our_own_listener_gives_no_backend() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    // The reload is right: only the look-up tells where the name leads.
    let named = Lb::new().route_with("a.test", backend.address, "resolve: { family: v4 }").config();
    let named = named.replace(&format!("\"{}\"", backend.address), &format!("\"localhost:{}\"", lb.port()));
    let seen = lb.log().len();
    assert_eq!(lb.edit(&named), Reload::Applied);
    let line = lb.wait_for_line_after(seen, |line| line["event"] == "dns_address_refused");
    assert_eq!(
        (&line["address"], &line["why"]),
        (&lb.address().to_string().into(), &"one of our own listeners".into())
    );
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    lb.wait_for_closed("no_backend", 1.0);
    assert_eq!(lb.metric("connections_accepted_total", &[]), 1.0, "it came in once, and never again");
    lb.end();
}

/// Such an address is one only together with its interface.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// In IPVS mode, the address of a Kubernetes service is on a local device, and the kernel sends its connections elsewhere.
#[test]
fn a_local_address_that_leads_elsewhere_is_a_backend() {
    if !namespace::can("iptables -t nat -L -n") {
        println!("skipped: iptables cannot translate addresses in a network namespace here");
        return;
    }
    namespace::run_test(
        "ip addr add 10.96.0.9/32 dev lo && ip addr add 10.96.0.10/32 dev lo && iptables -t nat -A OUTPUT -p tcp -d 10.96.0.9 --dport 8443 -j DNAT --to-destination 127.0.0.1:9443 && \
         sysctl -qw net.ipv4.conf.all.route_localnet=1",
        "self_loops::where_a_local_address_leads_elsewhere",
    );
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn where_a_local_address_leads_elsewhere() {
    let serve = |mut stream: std::net::TcpStream| {
        let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
        let _ = std::io::Write::write_all(&mut stream, b"served");
    };
    let _backend = Backend::on(std::net::TcpListener::bind("127.0.0.1:9443").unwrap(), serve);
    let service: SocketAddr = "10.96.0.9:8443".parse().unwrap();
    let config = |to: SocketAddr, more: &str| {
        let config = Lb::new().route("a.test", to).config();
        config.replacen("\"127.0.0.1:0\"", &format!("[\"[::]:8443\"{more}]"), 1)
    };
    let lb = Trial::with(&config(service, ""));
    let served = || ask(lb.address(), &hello("a.test")).0;
    assert_eq!(served(), b"served");
    assert_eq!(lb.edit(&config(service, ", \"127.0.0.1:0\"")), Reload::Applied);
    assert_eq!(served(), b"served");
    // Beside it, an address that does come back.
    assert_eq!(lb.edit(&config("10.96.0.10:8443".parse().unwrap(), "")), Reload::Rejected);
    assert_eq!(served(), b"served");
    lb.stop();
}

/// Configurations whose only pool for `loop.test` is the next instance, for `ok.test` a backend.
fn round(count: usize, keys: &str, listener: &str, backend: &Backend) -> Vec<Trial> {
    let config = |next: SocketAddr| {
        let lb = Lb::new().route_with("loop.test", next, keys).route("ok.test", backend);
        lb.on_listener(listener).with("limits: { max_connections: 400 }").config()
    };
    // Each must listen before it is the backend of another one.
    let lbs: Vec<Trial> = (0..count).map(|_| Trial::with(&config(backend.address))).collect();
    for (number, lb) in lbs.iter().enumerate() {
        assert_eq!(lb.edit(&config(lbs[(number + 1) % count].address())), Reload::Applied);
    }
    lbs
}

fn is_served(lb: &Trial) {
    let mut client = send(lb.address(), &hello("ok.test"));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (b"served".to_vec(), Close::Fin));
}

#[test]
fn a_loop_through_other_instances_is_ended_and_the_others_are_served() {
    for (count, keys) in [(2, ""), (3, ""), (2, "connect: { fast_open: true }")] {
        let backend = Backend::answering(b"served");
        let lbs = round(count, keys, "", &backend);
        let mut client = send(lbs[0].address(), &hello("loop.test"));
        // While it goes round, and later.
        lbs.iter().for_each(is_served);
        assert_eq!(read_to_close(&mut client), (vec![], Close::Reset));
        lbs.iter().for_each(is_served);
        lbs.iter().for_each(Trial::settle);
        for lb in &lbs {
            let accepted = lb.metric("connections_accepted_total", &[]);
            assert!(accepted < 150.0, "{accepted} connections of {count} instances {keys}");
        }
        let ended: f64 = lbs.iter().map(|lb| lb.closed("self_loop")).sum();
        assert!(ended >= 1.0);
        let warned: Vec<_> = lbs.iter().flat_map(|lb| lb.log()).filter(|line| line["event"] == "self_loop").collect();
        assert!(!warned.is_empty() && warned.len() <= count, "{warned:?}");
        assert_eq!((&warned[0]["pool"], &warned[0]["sni"]), (&"pool-0".into(), &"loop.test".into()));
        lbs.into_iter().for_each(Trial::end);
    }
}

#[test]
fn a_loop_with_proxy_headers_is_ended_too() {
    let backend = Backend::answering(b"served");
    let keys = "send_proxy_protocol: v2";
    let lbs = round(2, keys, "proxy_protocol: { trusted: [127.0.0.0/8] }", &backend);
    let bytes = [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"[..], &hello("loop.test")].concat();
    assert_eq!(ask(lbs[0].address(), &bytes), (vec![], Close::Reset));
    assert!(lbs.iter().all(|lb| lb.metric("connections_accepted_total", &[]) < 150.0));
    lbs.into_iter().for_each(Trial::end);
}

#[test]
fn the_loops_of_several_clients_are_all_ended() {
    let backend = Backend::answering(b"served");
    let lbs = round(2, "", "", &backend);
    let clients: Vec<_> = (0..6).map(|number| send(lbs[0].address(), &hello_of("loop.test", number))).collect();
    for mut client in clients {
        assert_eq!(read_to_close(&mut client), (vec![], Close::Reset));
    }
    lbs.iter().for_each(is_served);
    lbs.into_iter().for_each(Trial::end);
}

/// As real clients do, each sends a random of its own (RFC 8446 §4.1.2).
fn hello_of(name: &str, client: u8) -> Vec<u8> {
    let mut bytes = hello(name);
    // Behind the headers of record and message, and the version.
    bytes[11] = client;
    bytes
}

/// Whoever replays one hello, as load tests do, is served, however slow the backend.
#[test]
fn one_hello_sent_many_times_at_once_is_served_each_time() {
    const CLIENTS: usize = 64;
    let (backend, arrivals) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let bytes = hello("a.test");
    for _ in 0..3 {
        let clients: Vec<_> = (0..CLIENTS).map(|_| send(lb.address(), &bytes)).collect();
        // All have reached the backend before it answers any.
        let reached: Vec<_> = (0..CLIENTS).map(|_| arrivals.recv_timeout(crate::harness::DEADLINE).unwrap()).collect();
        for mut stream in reached {
            let mut hello = vec![0; bytes.len()];
            std::io::Read::read_exact(&mut stream, &mut hello).unwrap();
            std::io::Write::write_all(&mut stream, b"served").unwrap();
        }
        for mut client in clients {
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_to_close(&mut client), (b"served".to_vec(), Close::Fin));
        }
    }
    lb.wait_for_closed("ok", 3.0 * CLIENTS as f64);
    lb.end();
}
