//! Several processes for one cluster: one of them writes, and all of them serve.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::cluster::{Cluster, backend};
use crate::harness::{Lb, poll};
use crate::objects::{self, NAMESPACE, condition};

in_a_namespace! {
    "leaders":
    when_the_leader_is_killed_another_one_writes, leader_killed;
    a_leader_that_ends_gives_the_lease_back, leader_ends;
    a_gateway_is_programmed_once_every_data_plane_serves_it, slow_data_plane;
    roles_allow_what_is_asked_for_and_no_more, roles;
}

/// Two processes would want the same target ports, so only one of them serves.
fn controller() -> Lb {
    Lb::new().with("kubernetes: { role: controller }")
}

fn holder(api: &ApiServer) -> Option<String> {
    let lease = api.get("leases", NAMESPACE, "snigate.dev-gateway-controller")?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn leader_killed() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    let first = cluster.start();
    first.wait_for_metric("kubernetes_leader", &[], 1.0);
    let second = cluster.start_with(controller());
    assert_eq!(second.metric("kubernetes_leader", &[]), 0.0);
    cluster.route("shop", "shop.example.com", "shop");
    cluster.wait_for_route("shop", "Accepted=True/Accepted");
    assert_eq!(second.metric("kubernetes_status_writes_total", &[]), 0.0, "only one of them writes");

    let before = holder(&cluster.api).expect("somebody holds it");
    first.signal(Signal::KILL);
    let killed = Instant::now();
    cluster.route("blog", "blog.example.com", "shop");
    cluster.wait_for_route("blog", "Accepted=True/Accepted");
    // The time of the Lease, and twice the time between two looks at it.
    assert!(killed.elapsed() < Duration::from_secs(10 + 2 * 2), "{:?}", killed.elapsed());
    assert_ne!(holder(&cluster.api).as_ref(), Some(&before));
    second.wait_for_metric("kubernetes_leader", &[], 1.0);
    second.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn leader_ends() {
    let cluster = Cluster::new();
    let first = cluster.start();
    first.wait_for_metric("kubernetes_leader", &[], 1.0);
    first.stop();
    assert_eq!(holder(&cluster.api), None, "it is free at once");
}

/// What a data plane says of the Gateway; its status is served by the test.
fn data_plane(generation: impl Fn() -> i64 + Send + Sync + 'static) -> crate::backend::Backend {
    use std::io::{Read, Write};
    crate::backend::Backend::on(TcpListener::bind(("10.244.0.3", 9901)).unwrap(), move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let body = json!({ "kubernetes": { "gateways": { "default/edge": generation() } } }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes());
    })
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn slow_data_plane() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    let cluster = Cluster::new();
    let generation = Arc::new(AtomicI64::new(0));
    let says = Arc::clone(&generation);
    let other = data_plane(move || says.load(Ordering::SeqCst));
    let mut slice = objects::slice("data-planes", &[objects::Endpoint::ready(other.address)]);
    slice["ports"][0]["name"] = "admin".into();
    slice["metadata"]["labels"]["snigate.dev/data-planes"] = "true".into();
    cluster.api.put(slice);
    let lb = cluster.start();
    cluster.wait_for_gateway("edge", "Programmed=False/Pending");
    assert!(other.contacts() > 0);
    generation.store(1, Ordering::SeqCst);
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");

    // A new generation: this process serves it at once, the other one later.
    let mut gateway = objects::gateway("edge");
    gateway["spec"]["listeners"] = json!([objects::listener("tls", 443), objects::listener("more", 8443)]);
    cluster.api.put(gateway);
    let observed = |gateway: &Value| {
        let conditions = &gateway["status"]["conditions"];
        let (status, ..) = condition(conditions, "Programmed")?;
        let of = conditions.as_array()?.iter().find(|it| it["type"] == "Programmed")?["observedGeneration"].as_i64()?;
        Some((status, of))
    };
    let pending = cluster.api.wait_for("gateways", NAMESPACE, "edge", |it| observed(it).filter(|(_, of)| *of == 2));
    assert_eq!(pending, ("False".to_owned(), 2));
    generation.store(2, Ordering::SeqCst);
    let last = poll(|| match observed(&cluster.api.get("gateways", NAMESPACE, "edge").unwrap()) {
        Some((status, 2)) if status == "True" => Ok(()),
        other => Err(other),
    });
    last.unwrap_or_else(|other| panic!("{other:?}"));
    lb.stop();
}

/// One of the documents of a file of manifests.
fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| document.lines().any(|line| !line.starts_with('#')));
    documents.map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

/// What rbac.yaml allows: verb, group and resource.
fn rights() -> BTreeSet<(String, String, String)> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/gateway/base/rbac.yaml");
    let mut rights = BTreeSet::new();
    for role in documents(&std::fs::read_to_string(file).unwrap()) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| -> Vec<String> {
                rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
            };
            for (group, resource) in
                words("apiGroups").iter().flat_map(|g| words("resources").into_iter().map(move |r| (g.clone(), r)))
            {
                rights.extend(words("verbs").into_iter().map(|verb| (verb, group.clone(), resource.clone())));
            }
        }
    }
    rights
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn roles() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    cluster.wait_for_route("shop", "Accepted=True/Accepted");
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    // Another port: the Service is changed, not made anew.
    let mut gateway = objects::gateway("edge");
    gateway["spec"]["listeners"] = json!([objects::listener("tls", 443), objects::listener("more", 8443)]);
    cluster.api.put(gateway);
    cluster.address("edge", 8443);
    // Services of Gateways that go to another controller are deleted; Ingresses get addresses, or an Event.
    cluster.api.put(objects::gateway("second"));
    cluster.address("second", 443);
    let mut other = objects::gateway("second");
    other["spec"]["gatewayClassName"] = "another".into();
    cluster.api.put(other);
    cluster.api.wait_until_gone("services", NAMESPACE, "second-snigate");
    cluster.api.put(objects::ingress("shop", "i.example.com", "shop"));
    cluster.api.put(objects::ingress("gone", "g.example.com", "gone"));
    let addresses = |it: &Value| it["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned);
    cluster.api.wait_for("ingresses", NAMESPACE, "shop", addresses);
    poll(|| if cluster.api.events().is_empty() { Err(()) } else { Ok(()) }).expect("an Event");
    let renewed = |it: &&crate::api_path::Call| it.target.resource == "leases" && it.verb == "update";
    poll(|| if cluster.api.requests().iter().any(|call| renewed(&call)) { Ok(()) } else { Err(()) }).expect("renewed");
    lb.stop();

    let mut unused = rights();
    let allowed = unused.clone();
    for call in cluster.api.requests() {
        let resource = match &*call.subresource {
            "" => call.target.resource.clone(),
            subresource => format!("{}/{subresource}", call.target.resource),
        };
        let right = (call.verb.to_owned(), call.target.group.clone(), resource);
        assert!(allowed.contains(&right), "rbac.yaml does not allow {right:?}");
        unused.remove(&right);
    }
    assert!(unused.is_empty(), "allowed, and never asked for: {unused:?}");
    // What else is deployed is what the types of the crates read, and the routing file is valid.
    let class = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/gateway/base/gatewayclass.yaml");
    for class in documents(&std::fs::read_to_string(class).unwrap()) {
        assert_eq!(class["spec"]["controllerName"], objects::CONTROLLER);
        cluster.api.put(class);
    }
}
