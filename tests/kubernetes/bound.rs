//! `addresses: bind`: the addresses and ports of Gateways are bound as they are.

use serde_json::{Value, json};

use crate::cluster::{Clients, Cluster, Seen, backend, seen, wait_until};
use crate::harness::{Lb, Running};
use crate::objects::{self, NAMESPACE};

in_a_namespace! {
    "bound":
    a_gateway_is_bound_where_it_says, addresses_of_gateways;
    a_gateway_without_addresses_is_bound_everywhere, everywhere;
}

fn start(cluster: &Cluster) -> Running {
    cluster.start_with(Lb::new().with("kubernetes: { addresses: bind }"))
}

fn gateway(name: &str, address: &str) -> Value {
    let mut gateway = objects::gateway(name);
    gateway["spec"]["addresses"] = json!([{ "type": "IPAddress", "value": address }]);
    gateway
}

fn addresses(gateway: &Value) -> Vec<&str> {
    let list = gateway["status"]["addresses"].as_array();
    list.into_iter().flatten().filter_map(|address| address["value"].as_str()).collect()
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn addresses_of_gateways() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    cluster.api.put(gateway("edge", "10.244.0.4"));
    let lb = start(&cluster);
    let edge = "10.244.0.4:443".parse().unwrap();
    wait_until(edge, "shop.example.com", Seen::Served);
    assert_eq!(seen("10.244.0.5:443".parse().unwrap(), "shop.example.com"), Seen::NotListening);
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    assert_eq!(addresses(&cluster.api.get("gateways", NAMESPACE, "edge").unwrap()), ["10.244.0.4"]);
    assert_eq!(cluster.api.get("services", NAMESPACE, "edge-snigate"), None, "no Service is needed");

    // From here on, whatever happens to other Gateways, nobody notices here.
    let clients = Clients::start(edge, "shop.example.com", 100);
    // This machine does not have the address: everything else is put in force all the same.
    cluster.api.put(gateway("away", "192.0.2.1"));
    cluster.api.put(objects::route("blog", "edge", "blog.example.com", &[("shop", 1)]));
    cluster.wait_for_gateway("away", "Programmed=False/AddressNotUsable");
    wait_until(edge, "blog.example.com", Seen::Served);
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    // The same address and port as an older Gateway.
    cluster.api.put(gateway("late", "10.244.0.4"));
    cluster.wait_for_gateway("late", "Accepted=False/ListenersNotValid");
    // Addresses that this machine has are bound at once.
    for name in ["away", "late"] {
        let address = if name == "away" { "10.244.0.5" } else { "10.244.0.3" };
        cluster.api.put(gateway(name, address));
        cluster.api.put(objects::route(name, name, "other.example.com", &[("shop", 1)]));
        wait_until(format!("{address}:443").parse().unwrap(), "other.example.com", Seen::Served);
        cluster.wait_for_gateway(name, "Programmed=True/Programmed");
    }
    // Each serves its own routes.
    assert_eq!(seen(edge, "other.example.com"), Seen::Closed);
    cluster.api.delete("gateways", NAMESPACE, "away");
    wait_until("10.244.0.5:443".parse().unwrap(), "other.example.com", Seen::NotListening);
    clients.were_all_served(50);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn everywhere() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = start(&cluster);
    for address in ["10.244.0.3:443", "127.0.0.1:443"] {
        wait_until(address.parse().unwrap(), "shop.example.com", Seen::Served);
    }
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    let gateway = cluster.api.get("gateways", NAMESPACE, "edge").unwrap();
    let found = addresses(&gateway);
    assert!(found.contains(&"10.244.0.3") && !found.contains(&"127.0.0.1"), "{found:?}");
    lb.stop();
}
