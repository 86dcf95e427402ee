//! From objects to connections: what is created, changed and deleted while clients connect.

use serde_json::json;

use crate::cluster::{Clients, Cluster, Seen, backend, seen, wait_until};
use crate::harness::poll;
use crate::objects::{self, Endpoint, NAMESPACE};

in_a_namespace! {
    "serving":
    a_name_is_served_from_its_objects_to_their_deletion, from_creation_to_deletion;
    shares_follow_the_weights, weights;
    endpoints_come_and_go_without_a_failed_connection, rolling;
    routes_of_the_file_and_of_the_cluster_do_not_meet, file_and_cluster;
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn from_creation_to_deletion() {
    let cluster = Cluster::new();
    let (one, two) = (backend("10.244.0.2", 8443), backend("10.244.0.3", 8443));
    cluster.service("shop", &[&one]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);

    wait_until(address, "shop.example.com", Seen::Served);
    assert_eq!(seen(address, "blog.example.com"), Seen::Closed, "a name that no route has");
    cluster.wait_for_route("shop", "Accepted=True/Accepted");
    cluster.wait_for_route("shop", "ResolvedRefs=True/ResolvedRefs");
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");

    // A second route, and a second Service.
    cluster.service("blog", &[&two]);
    cluster.route("blog", "*.blog.example.com", "blog");
    wait_until(address, "a.b.blog.example.com", Seen::Served);
    assert_eq!(seen(address, "blog.example.com"), Seen::Closed, "a wildcard does not take the apex");
    assert!(two.contacts() > 0);

    // Endpoints change in place. What came before is counted once it shows in a status.
    cluster.wait_for_route("blog", "Accepted=True/Accepted");
    let changes = lb.metric("kubernetes_apply_seconds_count", &[]);
    let contacts = two.contacts();
    cluster.api.put(objects::slice("shop", &[Endpoint::ready(two.address)]));
    poll(|| {
        wait_until(address, "shop.example.com", Seen::Served);
        if two.contacts() > contacts { Ok(()) } else { Err(()) }
    })
    .expect("the new endpoint gets connections");
    assert_eq!(lb.metric("kubernetes_apply_seconds_count", &[]), changes, "no snapshot was built");

    // Another name for the route.
    cluster.route("shop", "store.example.com", "shop");
    wait_until(address, "store.example.com", Seen::Served);
    assert_eq!(seen(address, "shop.example.com"), Seen::Closed);

    // Without endpoints, clients are refused; without the Service, too, and the status says why.
    cluster.api.put(objects::slice("shop", &[]));
    wait_until(address, "store.example.com", Seen::Reset);
    cluster.api.delete("services", NAMESPACE, "shop");
    cluster.wait_for_route("shop", "ResolvedRefs=False/BackendNotFound");
    assert_eq!(seen(address, "store.example.com"), Seen::Reset);

    // A route is deleted, then the Gateway.
    cluster.api.delete("tlsroutes", NAMESPACE, "blog");
    wait_until(address, "a.b.blog.example.com", Seen::Closed);
    cluster.api.delete("gateways", NAMESPACE, "edge");
    wait_until(address, "store.example.com", Seen::NotListening);
    assert_eq!(cluster.api.get("services", NAMESPACE, "edge-snigate"), None, "its Service goes with it");
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn weights() {
    let cluster = Cluster::new();
    let (one, two) = (backend("10.244.0.2", 8443), backend("10.244.0.3", 8443));
    cluster.service("blue", &[&one]);
    cluster.service("green", &[&two]);
    cluster.api.put(objects::route("shop", "edge", "shop.example.com", &[("blue", 70), ("green", 30), ("gone", 100)]));
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    cluster.wait_for_route("shop", "ResolvedRefs=False/BackendNotFound");
    let refused = (0..200).filter(|_| seen(address, "shop.example.com") == Seen::Reset).count();
    assert_eq!(refused, 100, "the share of a Service that is not there is refused, not given to others");
    assert_eq!((one.contacts(), two.contacts()), (70, 30));
    // 70 of 100, as many clients see it at the same time: within three standard deviations.
    cluster.api.put(objects::route("shop", "edge", "shop.example.com", &[("blue", 70), ("green", 30)]));
    cluster.wait_for_route("shop", "ResolvedRefs=True/ResolvedRefs");
    let before = (one.contacts(), two.contacts());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..CLIENTS / 4).for_each(|_| assert_eq!(seen(address, "shop.example.com"), Seen::Served)));
        }
    });
    let (of_one, of_two) = (one.contacts() - before.0, two.contacts() - before.1);
    let deviation = (CLIENTS as f64 * 0.7 * 0.3).sqrt();
    assert_eq!(of_one + of_two, CLIENTS);
    assert!((of_one as f64 - CLIENTS as f64 * 0.7).abs() <= 3.0 * deviation, "{of_one} and {of_two} of {CLIENTS}");
    // Weight 0 gets nothing.
    cluster.api.put(objects::route("shop", "edge", "shop.example.com", &[("blue", 0), ("green", 1)]));
    cluster.wait_for_route("shop", "ResolvedRefs=True/ResolvedRefs");
    let before = one.contacts();
    assert!((0..20).all(|_| seen(address, "shop.example.com") == Seen::Served));
    assert_eq!(one.contacts(), before);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn rolling() {
    let cluster = Cluster::new();
    let pods: Vec<_> = (2..6).map(|n| backend(&format!("10.244.0.{n}"), 8443)).collect();
    cluster.service("shop", &[&pods[0], &pods[1]]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    // Its Service is known, and everything is in force.
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");

    let clients = Clients::start(address, "shop.example.com", 200);
    // Each pod in turn: a new one is ready, then the old one leaves, and goes.
    let before = lb.metric("kubernetes_apply_seconds_count", &[]);
    for step in (0..).take_while(|step| *step < 20 || clients.made() < 1000) {
        let at = |n: usize| pods[(step + n) % 4].address;
        cluster.api.put(objects::slice("shop", &[at(0), at(1), at(2)].map(Endpoint::ready)));
        let contacts = pods[(step + 2) % 4].contacts();
        poll(|| if pods[(step + 2) % 4].contacts() > contacts { Ok(()) } else { Err(()) })
            .expect("the new pod is used");
        cluster
            .api
            .put(objects::slice("shop", &[Endpoint::leaving(at(0)), Endpoint::ready(at(1)), Endpoint::ready(at(2))]));
        cluster.api.put(objects::slice("shop", &[at(1), at(2)].map(Endpoint::ready)));
    }
    // Down to one, and up to four.
    cluster.api.put(objects::slice("shop", &[Endpoint::ready(pods[0].address)]));
    cluster.api.put(objects::slice("shop", &[0, 1, 2, 3].map(|n| Endpoint::ready(pods[n].address))));
    for pod in &pods {
        let contacts = pod.contacts();
        poll(|| if pod.contacts() > contacts { Ok(()) } else { Err(()) }).expect("each pod is used");
    }
    clients.were_all_served(1000);
    assert_eq!(lb.metric("kubernetes_apply_seconds_count", &[]), before, "no snapshot was built");
    // Only those that leave are left: they still serve.
    cluster.api.put(objects::slice("shop", &[Endpoint::leaving(pods[0].address)]));
    let contacts = pods[0].contacts();
    poll(|| {
        wait_until(address, "shop.example.com", Seen::Served);
        if pods[0].contacts() > contacts { Ok(()) } else { Err(()) }
    })
    .expect("the pod that leaves is used");
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn file_and_cluster() {
    let cluster = Cluster::new();
    let (of_the_file, pod) = (backend("10.244.0.2", 8443), backend("10.244.0.3", 8443));
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = crate::harness::Lb::new().route("**.example.com", &of_the_file).with("kubernetes: { unmatched: reset }");
    let lb = cluster.start_with(lb);
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    let contacts = pod.contacts();
    assert_eq!(seen(lb.address(), "shop.example.com"), Seen::Served);
    assert_eq!((of_the_file.contacts(), pod.contacts()), (1, contacts), "the route of the file took it");
    assert_eq!(seen(address, "blog.example.com"), Seen::Reset, "no route of the file takes connections of a Gateway");
    assert_eq!(of_the_file.contacts(), 1);
    // A reload of the file keeps what is from the cluster.
    let edited = crate::harness::Lb::new().route("other.test", &of_the_file).with("kubernetes: { unmatched: close }");
    assert_eq!(lb.edit(&edited.config()), crate::harness::Reload::Applied);
    wait_until(address, "blog.example.com", Seen::Closed);
    assert_eq!(seen(address, "shop.example.com"), Seen::Served);
    // Off.
    assert_eq!(
        lb.edit(&crate::harness::Lb::new().route("other.test", &of_the_file).config()),
        crate::harness::Reload::Applied
    );
    wait_until(address, "shop.example.com", Seen::NotListening);
    assert!(json!(lb.admin_get("/api/v1/status").1).as_str().unwrap().contains("\"kubernetes\":null"));
    lb.stop();
}

const CLIENTS: usize = 2000;
