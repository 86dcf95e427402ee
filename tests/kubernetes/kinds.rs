//! Each kind of objects is created, changed and deleted in turn, while clients of a route that stays connect: what the last
//! status says is where connections go, and none of them is lost.

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::cluster::{Clients, Cluster, Seen, backend, seen, wait_until};
use crate::objects::{self, NAMESPACE};

in_a_namespace! {
    "kinds":
    each_kind_is_created_changed_and_deleted_while_clients_connect, each_kind;
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn each_kind() {
    let cluster = Cluster::new();
    let (one, two) = (backend("10.244.0.2", 8443), backend("10.244.0.3", 8443));
    cluster.service("stays", &[&one]);
    cluster.route("stays", "stays.example.com", "stays");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "stays.example.com", Seen::Served);
    let clients = Clients::start(address, "stays.example.com", 200);

    tls_routes(&cluster, &two);
    services(&cluster, &two);
    endpoint_slices(&cluster, &two);
    namespaces_and_grants(&cluster, &two);
    gateways(&cluster, &two);
    gateway_classes(&cluster);

    clients.were_all_served(200);
    lb.stop();
}

fn tls_routes(cluster: &Cluster, pod: &Backend) {
    let address = cluster.address("edge", 443);
    cluster.service("shop", &[pod]);
    cluster.route("shop", "a.example.com", "shop");
    wait_until(address, "a.example.com", Seen::Served);
    cluster.wait_for_route("shop", "Accepted=True/Accepted");
    cluster.route("shop", "b.example.com", "shop");
    wait_until(address, "b.example.com", Seen::Served);
    assert_eq!(seen(address, "a.example.com"), Seen::Closed);
    // An older route has the name: this one says so, and gets it once the other one goes.
    cluster.route("younger", "b.example.com", "gone");
    cluster.wait_for_route("younger", "snigate.dev/Shadowed=True/HostnameTaken");
    assert_eq!(seen(address, "b.example.com"), Seen::Served);
    cluster.api.delete("tlsroutes", NAMESPACE, "shop");
    wait_until(address, "b.example.com", Seen::Reset);
    cluster.api.delete("tlsroutes", NAMESPACE, "younger");
    wait_until(address, "b.example.com", Seen::Closed);
}

fn services(cluster: &Cluster, pod: &Backend) {
    let address = cluster.address("edge", 443);
    cluster.route("shop", "shop.example.com", "late");
    cluster.wait_for_route("shop", "ResolvedRefs=False/BackendNotFound");
    assert_eq!(seen(address, "shop.example.com"), Seen::Reset);
    cluster.service("late", &[pod]);
    wait_until(address, "shop.example.com", Seen::Served);
    cluster.wait_for_route("shop", "ResolvedRefs=True/ResolvedRefs");
    // Its port has another number now, and then another name, which no slice has.
    let with_port = |name: &str, port: u16| {
        let mut service = objects::service("late");
        service["spec"]["ports"] = json!([{ "name": name, "port": port, "protocol": "TCP" }]);
        service
    };
    cluster.api.put(with_port("https", 8443));
    cluster.wait_for_route("shop", "ResolvedRefs=False/BackendNotFound");
    wait_until(address, "shop.example.com", Seen::Reset);
    cluster.api.put(with_port("web", 443));
    cluster.wait_for_route("shop", "ResolvedRefs=True/ResolvedRefs");
    assert_eq!(seen(address, "shop.example.com"), Seen::Reset, "no slice has that port");
    cluster.api.put(with_port("https", 443));
    wait_until(address, "shop.example.com", Seen::Served);
    // A wrong annotation has no effect, and shows.
    let mut noted = with_port("https", 443);
    noted["metadata"]["annotations"] = json!({ "snigate.dev/balance": "fastest" });
    cluster.api.put(noted);
    cluster.wait_for_route("shop", "snigate.dev/AnnotationsValid=False/InvalidValue");
    assert_eq!(seen(address, "shop.example.com"), Seen::Served);
    cluster.api.delete("services", NAMESPACE, "late");
    cluster.wait_for_route("shop", "ResolvedRefs=False/BackendNotFound");
    wait_until(address, "shop.example.com", Seen::Reset);
    cluster.api.delete("tlsroutes", NAMESPACE, "shop");
}

fn endpoint_slices(cluster: &Cluster, pod: &Backend) {
    let address = cluster.address("edge", 443);
    cluster.api.put(objects::service("sliced"));
    cluster.route("sliced", "sliced.example.com", "sliced");
    wait_until(address, "sliced.example.com", Seen::Reset);
    let ready = objects::Endpoint::ready(pod.address);
    cluster.api.put(objects::slice_of("sliced-a", "sliced", &[ready]));
    wait_until(address, "sliced.example.com", Seen::Served);
    // A second slice of the same Service, the first one empty, then gone.
    cluster.api.put(objects::slice_of("sliced-b", "sliced", &[ready]));
    cluster.api.put(objects::slice_of("sliced-a", "sliced", &[]));
    cluster.api.delete("endpointslices", NAMESPACE, "sliced-a");
    assert_eq!(seen(address, "sliced.example.com"), Seen::Served);
    // The other one is given to another Service.
    cluster.api.put(objects::slice_of("sliced-b", "other", &[ready]));
    wait_until(address, "sliced.example.com", Seen::Reset);
    cluster.api.put(objects::slice_of("sliced-b", "sliced", &[ready]));
    wait_until(address, "sliced.example.com", Seen::Served);
    cluster.api.delete("endpointslices", NAMESPACE, "sliced-b");
    wait_until(address, "sliced.example.com", Seen::Reset);
    cluster.api.delete("tlsroutes", NAMESPACE, "sliced");
}

fn namespaces_and_grants(cluster: &Cluster, pod: &Backend) {
    let address = cluster.address("edge", 443);
    // A Service of another namespace, once it is granted.
    cluster.api.put(objects::namespace("far", "red"));
    cluster.service_in("far", "far", &[pod]);
    let mut route = objects::route("granted", "edge", "far.example.com", &[("far", 1)]);
    route["spec"]["rules"][0]["backendRefs"][0]["namespace"] = "far".into();
    cluster.api.put(route);
    cluster.wait_for_route("granted", "ResolvedRefs=False/RefNotPermitted");
    assert_eq!(seen(address, "far.example.com"), Seen::Reset);
    cluster.api.put(objects::grant("far"));
    wait_until(address, "far.example.com", Seen::Served);
    cluster.wait_for_route("granted", "ResolvedRefs=True/ResolvedRefs");
    let mut narrower = objects::grant("far");
    narrower["spec"]["to"][0]["name"] = "another".into();
    cluster.api.put(narrower);
    cluster.wait_for_route("granted", "ResolvedRefs=False/RefNotPermitted");
    wait_until(address, "far.example.com", Seen::Reset);
    cluster.api.delete("referencegrants", "far", "allowed");
    cluster.api.delete("tlsroutes", NAMESPACE, "granted");

    // Routes of namespaces with a label.
    let mut gateway = objects::gateway("edge");
    let mut blue = objects::listener("blue", 443);
    blue["hostname"] = "*.blue.example.com".into();
    blue["allowedRoutes"] =
        json!({ "namespaces": { "from": "Selector", "selector": { "matchLabels": { "team": "blue" } } } });
    gateway["spec"]["listeners"] = json!([objects::listener("tls", 443), blue]);
    cluster.api.put(gateway);
    let mut route = objects::within("far", objects::route("team", "edge", "x.blue.example.com", &[("far", 1)]));
    route["spec"]["parentRefs"] = json!([{ "name": "edge", "namespace": NAMESPACE, "sectionName": "blue" }]);
    cluster.api.put(route);
    cluster.wait_for_route_in("far", "team", "Accepted=False/NotAllowedByListeners");
    assert_eq!(seen(address, "x.blue.example.com"), Seen::Closed);
    cluster.api.put(objects::namespace("far", "blue"));
    cluster.wait_for_route_in("far", "team", "Accepted=True/Accepted");
    wait_until(address, "x.blue.example.com", Seen::Served);
    cluster.api.put(objects::namespace("far", "red"));
    cluster.wait_for_route_in("far", "team", "Accepted=False/NotAllowedByListeners");
    wait_until(address, "x.blue.example.com", Seen::Closed);
    cluster.api.put(objects::gateway("edge"));
    cluster.api.delete("namespaces", "", "far");
}

fn gateways(cluster: &Cluster, pod: &Backend) {
    cluster.service("second", &[pod]);
    cluster.api.put(objects::gateway("second"));
    cluster.api.put(objects::route("second", "second", "second.example.com", &[("second", 1)]));
    let address = cluster.address("second", 443);
    wait_until(address, "second.example.com", Seen::Served);
    cluster.wait_for_gateway("second", "Programmed=True/Programmed");
    // Another port, then that one alone: the first one is closed.
    let with_listeners = |listeners: Value| {
        let mut gateway = objects::gateway("second");
        gateway["spec"]["listeners"] = listeners;
        gateway
    };
    cluster.api.put(with_listeners(json!([objects::listener("tls", 443), objects::listener("more", 8443)])));
    let more = cluster.address("second", 8443);
    wait_until(more, "second.example.com", Seen::Served);
    assert_eq!((seen(address, "second.example.com"), address != more), (Seen::Served, true));
    cluster.api.put(with_listeners(json!([objects::listener("more", 8443)])));
    wait_until(address, "second.example.com", Seen::NotListening);
    assert_eq!(seen(more, "second.example.com"), Seen::Served, "its target port stays");
    // Two listeners in conflict: neither is served, and the status says so.
    cluster.api.put(with_listeners(json!([objects::listener("one", 8443), objects::listener("two", 8443)])));
    cluster.wait_for_gateway("second", "Accepted=False/ListenersNotValid");
    wait_until(more, "second.example.com", Seen::NotListening);
    cluster.api.put(objects::gateway("second"));
    cluster.wait_for_gateway("second", "Programmed=True/Programmed");
    // It is given to another controller: its Service goes.
    let mut other = objects::gateway("second");
    other["spec"]["gatewayClassName"] = "another".into();
    cluster.api.put(other);
    cluster.api.wait_until_gone("services", NAMESPACE, "second-snigate");
    // It comes back, and is deleted.
    cluster.api.put(objects::gateway("second"));
    let address = cluster.address("second", 443);
    wait_until(address, "second.example.com", Seen::Served);
    cluster.api.delete("gateways", NAMESPACE, "second");
    wait_until(address, "second.example.com", Seen::NotListening);
    cluster.wait_for_no_parents("second");
    cluster.api.delete("tlsroutes", NAMESPACE, "second");
}

fn gateway_classes(cluster: &Cluster) {
    let mut class = objects::class();
    class["metadata"]["name"] = "other".into();
    cluster.api.put(class.clone());
    let accepted = |wanted: &'static str| {
        move |class: &Value| {
            let (status, reason, _) = objects::condition(&class["status"]["conditions"], "Accepted")?;
            (format!("{status}/{reason}") == wanted).then_some(())
        }
    };
    cluster.api.wait_for("gatewayclasses", "", "other", accepted("True/Accepted"));
    let mut gateway = objects::gateway("third");
    gateway["spec"]["gatewayClassName"] = "other".into();
    cluster.api.put(gateway);
    cluster.wait_for_gateway("third", "Programmed=True/Programmed");
    // With parameters it is not accepted, and its Gateways are not served.
    class["spec"]["parametersRef"] = json!({ "group": "example.com", "kind": "Conf", "name": "c" });
    cluster.api.put(class);
    cluster.api.wait_for("gatewayclasses", "", "other", accepted("False/InvalidParameters"));
    cluster.wait_for_gateway("third", "Accepted=False/InvalidParameters");
    cluster.api.delete("gateways", NAMESPACE, "third");
    cluster.api.delete("gatewayclasses", "", "other");
}
