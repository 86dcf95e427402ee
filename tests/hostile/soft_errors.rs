//! ICMP errors that reach the kernel while it connects: behind a router of its own that rejects every SYN.

use std::net::SocketAddr;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::Lb;
use crate::namespace;
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

#[test]
fn a_backend_that_a_router_rejects_is_passed_over_at_once() {
    namespace::run_test(ROUTER, "soft_errors::behind_a_router_that_rejects");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn behind_a_router_that_rejects() {
    let rejected: SocketAddr = "10.77.0.1:443".parse().unwrap();
    for fast_open in [false, true] {
        let backend = Backend::answering(SERVER_HELLO);
        // Shorter than the kernel's first retransmission after 1 s, whose rejection would fail the socket outright.
        let keys = format!("balance: first\nejection: off\nconnect: {{ timeout: 800ms, fast_open: {fast_open} }}");
        let lb = Lb::new().route_with("a.test", [rejected, backend.address], &keys);
        let lb = Trial::of(lb.route_with("rejected.test", rejected, &keys));
        // Once each: the kernel allows a router five such answers, then one a second.
        let mut client = send(lb.address(), &hello("a.test"));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (SERVER_HELLO.to_vec(), Close::Fin));
        let connects = |result| lb.metric("backend_connects_total", &[("pool", "pool-0"), ("result", result)]);
        assert_eq!((connects("unreachable"), connects("timeout"), connects("ok")), (1.0, 0.0, 1.0));
        assert_eq!(ask(lb.address(), &hello("rejected.test")), (vec![], Close::Reset));
        let line = lb.wait_for_connection("rejected.test");
        assert_eq!(line["reason"].as_str(), Some("connect_unreachable"), "{line}");
        lb.end();
    }
}

/// A second namespace, kept by descriptor 9, that answers what is sent to 10.77.0.0/24 with ICMP host unreachable. Its
/// answer comes on the call stack of `connect`, as that of a local firewall does.
const ROUTER: &str = r#"{ unshare --net sleep 60 </dev/null >/dev/null 2>&1 & } && router=$! &&
    until [ "$(readlink /proc/$router/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done &&
    ip link add toward type veth peer name back && ip link set back netns $router &&
    exec 9</proc/$router/ns/net && kill $router &&
    ip address add 10.9.0.1/24 dev toward && ip link set toward up &&
    nsenter --net=/proc/self/fd/9 sh -c '
        ip address add 10.9.0.2/24 dev back && ip link set back up &&
        echo 0 >/proc/sys/net/ipv4/icmp_ratelimit && echo 1 >/proc/sys/net/ipv4/ip_forward && ip route add unreachable 10.77.0.0/24' &&
    ip route add 10.77.0.0/24 via 10.9.0.2 && echo 1543 >/proc/sys/net/ipv4/tcp_fastopen"#;
