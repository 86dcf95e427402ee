//! Ingresses of our class: those with TLS passthrough are served as a TLSRoute would be; the others are told why not.

use serde_json::Value;

use crate::cluster::{Cluster, Seen, backend, seen, wait_until};
use crate::harness::poll;
use crate::objects::{self, NAMESPACE};

in_a_namespace! {
    "ingresses":
    an_ingress_is_served_at_the_default_gateway_and_gets_its_addresses, served;
    an_ingress_that_is_not_served_gets_one_event_that_says_why, not_served;
}

fn addresses(ingress: &Value) -> Vec<String> {
    let list = ingress["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|one| Some(one["ip"].as_str()?.to_owned())).collect()
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn served() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.api.put(objects::ingress("shop", "shop.example.com", "shop"));
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    let of_gateway = cluster.api.wait_for("gateways", NAMESPACE, "edge", |gateway| {
        Some(gateway["status"]["addresses"][0]["value"].as_str()?.to_owned())
    });
    let has_them = |ingress: &Value| (addresses(ingress) == [of_gateway.clone()]).then_some(());
    cluster.api.wait_for("ingresses", NAMESPACE, "shop", has_them);
    assert_eq!(cluster.api.events(), Vec::<Value>::new(), "nothing to report");

    // Another host; then no Gateway any more.
    cluster.api.put(objects::ingress("shop", "*.shop.example.com", "shop"));
    wait_until(address, "a.shop.example.com", Seen::Served);
    assert_eq!(seen(address, "a.b.shop.example.com"), Seen::Closed, "a star is one label in an Ingress");
    assert_eq!(seen(address, "shop.example.com"), Seen::Closed);
    cluster.api.delete("gateways", NAMESPACE, "edge");
    cluster.api.wait_for("ingresses", NAMESPACE, "shop", |ingress| addresses(ingress).is_empty().then_some(()));
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn not_served() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    let mut ingress = objects::ingress("shop", "shop.example.com", "shop");
    ingress["metadata"]["annotations"].take();
    cluster.api.put(ingress);
    let lb = cluster.start();
    let of_shop = || {
        let events = cluster.api.events().into_iter();
        events.filter(|event| event["regarding"]["name"] == "shop").collect::<Vec<Value>>()
    };
    let event = poll(|| of_shop().pop().ok_or(())).expect("an Event");
    assert_eq!((&event["type"], &event["reason"]), (&"Warning".into(), &"NotServed".into()));
    assert!(event["note"].as_str().unwrap().contains("snigate.dev/ssl-passthrough"), "{event:#}");
    assert_eq!(event["reportingController"], objects::CONTROLLER);
    // Neither another look nor another process says it again.
    cluster.route("blog", "blog.example.com", "shop");
    cluster.wait_for_route("blog", "Accepted=True/Accepted");
    lb.stop();
    let lb = cluster.start();
    cluster.route("news", "news.example.com", "shop");
    cluster.wait_for_route("news", "Accepted=True/Accepted");
    assert_eq!(of_shop().len(), 1);
    // It is mended: served, and nothing more to say.
    cluster.api.put(objects::ingress("shop", "shop.example.com", "shop"));
    wait_until(cluster.address("edge", 443), "shop.example.com", Seen::Served);
    // Another problem is another Event.
    cluster.api.put(objects::ingress("shop", "shop.example.com", "gone"));
    poll(|| if of_shop().len() == 2 { Ok(()) } else { Err(()) }).expect("a second Event");
    lb.stop();
}
