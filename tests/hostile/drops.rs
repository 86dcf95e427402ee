//! `refuse: drop`, behind a router: which segments reach the client, seen by a packet socket beside it.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};

use crate::bytes::{UNRECOGNIZED_NAME, alert, hello};
use crate::harness::Running;
use crate::namespace;
use crate::wire::send;

#[test]
fn nothing_tells_a_client_that_its_connection_is_gone() {
    namespace::run_test(HOSTS, "drops::across_a_router");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn across_a_router() {
    for capabilities in [&["+net_admin"][..], &["-net_admin"]] {
        let mut command = Command::new("nsenter");
        command.args(["--net=/proc/self/fd/8", "setpriv", "--bounding-set", &capabilities.join(",")]);
        command.arg(env!("CARGO_BIN_EXE_snigate"));
        let lb = Running::start_by(command, CONFIG);
        let seen = Segments::watch(lb.address());
        // What the packet socket sees of those who are refused otherwise.
        let (_, said) = seen.of(&lb, "reset.test");
        assert!(said.iter().any(|segment| segment.flags & RST != 0) && said.iter().all(|segment| segment.bytes == 0));
        let (_, said) = seen.of(&lb, "close.test");
        assert!(said.iter().any(|segment| segment.flags & FIN != 0), "{said:?}");
        let (_, said) = seen.of(&lb, "elsewhere.test");
        assert_eq!(said.iter().map(|segment| segment.bytes).sum::<usize>(), alert(UNRECOGNIZED_NAME).len());

        for name in ["drop.test", "192.0.2.1"] {
            let (mut client, said) = seen.of(&lb, name);
            // The handshake, and that the hello has come.
            assert!(said.iter().all(|segment| segment.flags & (FIN | RST) == 0 && segment.bytes == 0), "{said:?}");
            assert!(said.len() <= 2, "{said:?}");
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
        }
        lb.wait_for_metric("connections_active", &[], 0.0);
        lb.check_accounts();
        assert_eq!(lb.metric("connections_closed_total", &[("route", "drop.test"), ("reason", "refused")]), 1.0);
        let warned = lb.log().iter().filter(|line| line["event"] == "drop_not_silent").count();
        assert_eq!(warned, usize::from(capabilities[0] == "-net_admin"), "{:?}", lb.log());
    }
}

/// The segments that arrive from one address.
struct Segments {
    socket: Socket,
    from: SocketAddr,
}

#[derive(Debug)]
struct Segment {
    to_port: u16,
    flags: u8,
    bytes: usize,
}

impl Segments {
    fn watch(from: SocketAddr) -> Self {
        // ETH_P_IP of packet(7); the packets begin with the IP header.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(0x0800_u16.to_be()))));
        let socket = socket.expect("root of this namespace may watch");
        socket.set_nonblocking(true).unwrap();
        Self { socket, from }
    }

    /// What a client that asks for `name` has been sent by the time its connection is counted as closed.
    fn of(&self, lb: &Running, name: &str) -> (TcpStream, Vec<Segment>) {
        let seen = lb.log().len();
        let client = send(self.from, &hello(name));
        let port = client.local_addr().unwrap().port();
        lb.wait_for_line_after(seen, |line| line["reason"].is_string());
        // This goes the same way, so what was sent before has arrived before it.
        lb.scrape();
        let mut said = Vec::new();
        let mut packet = [0; 2048];
        while let Ok(bytes) = (&self.socket).read(&mut packet) {
            said.extend(self.segment(&packet[..bytes]).filter(|segment| segment.to_port == port));
        }
        (client, said)
    }

    /// RFC 791 §3.1, RFC 9293 §3.1.
    fn segment(&self, packet: &[u8]) -> Option<Segment> {
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let tcp = packet.get(usize::from(packet[0] & 15) * 4..total).filter(|_| packet[9] == 6)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        (port(0) == self.from.port()).then(|| Segment {
            to_port: port(2),
            flags: tcp[13],
            bytes: tcp.len() - usize::from(tcp[12] >> 4) * 4,
        })
    }
}

const FIN: u8 = 1;
const RST: u8 = 4;
const CONFIG: &str = r#"
listeners: [{ name: https, bind: "10.9.1.2:0" }]
admin: { bind: "10.9.1.2:0" }
runtime: { workers: 1 }
routes:
  - { sni: drop.test, refuse: drop }
  - { sni: reset.test, refuse: reset }
  - { sni: close.test, refuse: close }
no_sni: { refuse: drop }
"#;
/// Two more namespaces, kept by descriptors: the router's by 9, that of the host behind it by 8.
const HOSTS: &str = r#"for fd in 9 8; do
        { unshare --net sleep 60 </dev/null >/dev/null 2>&1 & } && host=$! &&
        until [ "$(readlink /proc/$host/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done &&
        eval "exec $fd</proc/$host/ns/net" && kill $host || exit 1
    done &&
    router() { nsenter --net=/proc/self/fd/9 "$@"; } && behind() { nsenter --net=/proc/self/fd/8 "$@"; } &&
    ip link add toward type veth peer name back netns /proc/self/fd/9 &&
    router ip link add toward type veth peer name back netns /proc/self/fd/8 &&
    ip address add 10.9.0.1/24 dev toward && ip link set toward up && ip route add 10.9.1.0/24 via 10.9.0.2 &&
    router ip address add 10.9.0.2/24 dev back && router ip link set back up &&
    router ip address add 10.9.1.1/24 dev toward && router ip link set toward up &&
    router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward' &&
    behind ip address add 10.9.1.2/24 dev back && behind ip link set back up && behind ip link set lo up &&
    behind ip route add default via 10.9.1.1"#;
