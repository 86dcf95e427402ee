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
