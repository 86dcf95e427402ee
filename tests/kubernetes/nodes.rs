//! Two processes that serve and may write, each in a network of its own, as two pods are.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::cluster::{Clients, Cluster, Seen, backend, seen, wait_until};
use crate::harness::{Lb, Running};
use crate::objects::{self, Endpoint};

in_a_namespace! {
    "nodes":
    two_data_planes_agree_on_what_is_programmed_and_on_who_writes, two_data_planes;
}

/// A snigate in another network, whose one way out is the network of this test.
fn elsewhere(cluster: &Cluster) -> Running {
    let script = format!(
        "ip link set lo up && ip link add eth0 type veth peer name pod netns $1 && \
         ip addr add {THERE}/30 dev eth0 && ip link set eth0 up && \
         nsenter --net=/proc/$1/ns/net sh -c 'ip addr add {HERE}/30 dev pod && ip link set pod up' && \
         ip route add default via {HERE} && shift && exec \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh", &std::process::id().to_string()]);
    command.arg(env!("CARGO_BIN_EXE_snigate")).stdin(Stdio::null());
    command.env("KUBECONFIG", cluster.api.kubeconfig_from(HERE, cluster.directory.path()));
    Running::start_by(command, &lb(THERE).config())
}

fn lb(admin: Ipv4Addr) -> Lb {
    Lb::new().with(&format!("kubernetes: {{}}\nadmin: {{ bind: \"{admin}:0\" }}"))
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn two_data_planes() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let here = cluster.start_with(lb(Ipv4Addr::new(10, 244, 0, 5)));
    here.wait_for_metric("kubernetes_leader", &[], 1.0);
    let there = elsewhere(&cluster);
    for (name, lb) in [("here", &here), ("there", &there)] {
        let mut slice = objects::slice_of(name, "data-planes", &[Endpoint::ready(lb.admin())]);
        slice["ports"][0]["name"] = "admin".into();
        slice["metadata"]["labels"]["snigate.dev/data-planes"] = "true".into();
        cluster.api.put(slice);
    }
    let at_here = cluster.address("edge", 443);
    let at_there = SocketAddr::new(THERE.into(), at_here.port());
    wait_until(at_here, "shop.example.com", Seen::Served);
    wait_until(at_there, "shop.example.com", Seen::Served);
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    assert_eq!(there.metric("kubernetes_status_writes_total", &[]), 0.0, "only one of them writes");

    // One of them stands still: what the other one serves is not said to be programmed.
    there.signal(Signal::STOP);
    let mut gateway = objects::gateway("edge");
    gateway["spec"]["listeners"] = json!([objects::listener("tls", 443), objects::listener("more", 8443)]);
    cluster.api.put(gateway);
    wait_until(cluster.address("edge", 8443), "shop.example.com", Seen::Served);
    cluster.wait_for_gateway("edge", "Programmed=False/Pending");
    there.signal(Signal::CONT);
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    let more = SocketAddr::new(THERE.into(), cluster.address("edge", 8443).port());
    assert_eq!(seen(more, "shop.example.com"), Seen::Served, "it is said only once it is so");

    // The one that writes is killed. The other one serves on, and writes within the time of the Lease.
    let clients = Clients::start(at_there, "shop.example.com", 100);
    here.signal(Signal::KILL);
    let killed = Instant::now();
    cluster.api.delete("endpointslices", objects::NAMESPACE, "here");
    cluster.route("blog", "blog.example.com", "shop");
    wait_until(at_there, "blog.example.com", Seen::Served);
    cluster.wait_for_route("blog", "Accepted=True/Accepted");
    // The time of the Lease, and twice the time between two looks at it.
    assert!(killed.elapsed() < Duration::from_secs(10 + 2 * 2), "{:?}", killed.elapsed());
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    clients.were_all_served(50);
    there.stop();
}

/// The ends of the link between the two networks.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 2);
