//! Where a Gateway is bound and reached, and whose Service it believes.

use super::*;
use crate::sources::kubernetes::status::Condition;

/// With more metadata, and a spec beside its class; as old as a day of January.
fn gateway((namespace, name): (&str, &str), day: u8, metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{ name: {name}, namespace: {namespace}, creationTimestamp: \"2026-01-0{day}T00:00:00Z\", {metadata} }}\n\
         spec: {{ gatewayClassName: snigate, {spec} }}\n"
    )
}

fn listeners(port: u16, mode: &str) -> String {
    format!(
        "listeners: [{{ name: tls, port: {port}, protocol: TLS, tls: {{ mode: {mode} }}, \
         allowedRoutes: {{ namespaces: {{ from: All }} }} }}]"
    )
}

/// The Service of a Gateway, that leads from port 443 to a target port.
fn service(gateway: &str, owner: &str, target: u16, component: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {gateway}-snigate, namespace: default, \
         ownerReferences: [{{ apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: {gateway}, uid: {owner} }}] }}\n\
         spec: {{ type: LoadBalancer, ports: [{{ port: 443, targetPort: {target} }}], selector: {{ \
         app.kubernetes.io/name: snigate, app.kubernetes.io/component: {component} }} }}\n\
         status: {{ loadBalancer: {{ ingress: [{{ ip: 192.0.2.9 }}] }} }}\n"
    )
}

fn condition<'a>(of: &'a [Condition], kind: &str) -> &'a Condition {
    of.iter().find(|one| one.kind == kind).unwrap()
}

fn of_gateway<'a>(translation: &'a Translation, (namespace, name): (&str, &str), kind: &str) -> &'a Condition {
    condition(&translation.statuses.gateways[&ObjectName::new(namespace, name)].conditions, kind)
}

#[test]
fn a_gateway_is_programmed_once_it_has_an_address_and_is_in_force_everywhere() {
    let case = case("hostnames.yaml").replacen("name: gw,", "name: gw, uid: uid-of-gw,", 1);
    let with = |owner: &str, component: &str| format!("{case}\n{}", service("gw", owner, 20_777, component));
    let programmed = |text: &str, in_force: Option<i64>| {
        let mut observed = Observed::default();
        observed.in_force.extend(in_force.map(|generation| (ObjectName::new("default", "gw"), generation)));
        let translation = translate(&read(text), &Kubernetes::default(), &observed, &[]);
        let programmed = of_gateway(&translation, ("default", "gw"), "Programmed");
        let port = translation.listeners[0].bind[0].port();
        (programmed.is_true, programmed.reason, port, programmed.generation)
    };
    let with_service = with("uid-of-gw", "data-plane");
    assert_eq!(programmed(&case, Some(3)), (false, "AddressNotAssigned", 20_000, 3));
    assert_eq!(programmed(&with_service, None), (false, "Pending", 20_777, 3));
    assert_eq!(programmed(&with_service, Some(2)), (false, "Pending", 20_777, 3));
    assert_eq!(programmed(&with_service, Some(3)), (true, "Programmed", 20_777, 3));
    // A Service that somebody else has made under that name, and one that leads to other pods, give nothing.
    for foreign in [with("another", "data-plane"), with("uid-of-gw", "something-else")] {
        assert_eq!(programmed(&foreign, Some(3)), (false, "AddressNotAssigned", 20_000, 3));
    }
}

#[test]
fn a_gateway_out_of_reach_is_refused_and_gets_no_ingresses() {
    let says_so = "annotations: { snigate.dev/default-gateway: \"true\" }";
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
                   metadata: { name: shop, namespace: default, annotations: { snigate.dev/ssl-passthrough: \"true\" } }\n\
                   spec: { ingressClassName: snigate, rules: [{ host: shop.example.com, http: { paths: [{ path: /, \
                   pathType: Prefix, backend: { service: { name: shop, port: { number: 443 } } } }] } }] }\n";
    let text = gateway(("evil", "gw"), 1, says_so, &listeners(8443, "Passthrough"))
        + &gateway(("default", "gw"), 2, "", &listeners(443, "Passthrough"))
        + ingress;
    let objects = read(&text);
    for addresses in [KubernetesAddresses::Service, KubernetesAddresses::Bind] {
        let settings = Kubernetes { addresses, ..Kubernetes::default() };
        let observed = Observed { namespace: Some("default".into()), ..Observed::default() };
        let translation = translate(&objects, &settings, &observed, &[]);
        let numbers = translation.routes.iter().flat_map(|route| &route.listeners);
        let shop: Vec<&str> = numbers.map(|number| &*translation.listeners[*number].name).collect();
        assert_eq!(shop, ["default/gw:443"], "{addresses:?}");
        if addresses == KubernetesAddresses::Service {
            let accepted = |namespace| of_gateway(&translation, (namespace, "gw"), "Accepted").reason;
            assert_eq!((accepted("evil"), accepted("default")), ("Invalid", "Accepted"));
        }
    }
}

#[test]
fn a_port_that_a_service_leads_to_is_given_to_nobody_else() {
    let port_of_new = |mode: &str| {
        let text = gateway(("default", "old"), 1, "uid: old", &listeners(443, mode))
            + &gateway(("default", "new"), 2, "uid: new", &listeners(443, "Passthrough"))
            + &service("old", "old", 20_000, "data-plane");
        let translation = translated(&read(&text));
        translation.listeners.iter().find(|it| &*it.name == "default/new:443").unwrap().bind[0].port()
    };
    assert_eq!(port_of_new("Passthrough"), 20_001);
    assert_eq!(port_of_new("Terminate"), 20_001, "its listener is not served, and its Service is still there");
}

#[test]
fn with_bind_the_older_gateway_keeps_an_address() {
    let at = |name: &str, day: u8, address: &str| {
        let spec = format!("addresses: [{{ {address} }}], {}", listeners(443, "Passthrough"));
        gateway(("default", name), day, "", &spec)
    };
    let text = [
        at("newer", 2, "value: 192.0.2.1"),
        at("older", 1, "value: 192.0.2.1"),
        at("other", 3, "type: IPAddress, value: \"2001:db8::1\""),
        at("file", 1, "value: 192.0.2.9"),
        // The same address as of a listener of the file, written in another way.
        at("mapped", 1, "value: \"::ffff:192.0.2.9\""),
    ];
    let settings = Kubernetes { addresses: KubernetesAddresses::Bind, ..Kubernetes::default() };
    let bound = ["192.0.2.9:443".parse().unwrap()];
    let translation = translate(&read(&text.concat()), &settings, &Observed::default(), &bound);
    let found: Vec<_> = translation.listeners.iter().map(|one| format!("{} {}", one.name, one.bind[0])).collect();
    assert_eq!(found, ["default/older:443 192.0.2.1:443", "default/other:443 [2001:db8::1]:443"]);
    let refused = |name: &str| {
        let status = &translation.statuses.gateways[&ObjectName::new("default", name)].listeners[0];
        let accepted = condition(&status.conditions, "Accepted");
        (accepted.reason, accepted.message.clone())
    };
    assert_eq!(refused("newer").0, "PortUnavailable");
    assert!(refused("newer").1.contains("Gateway default/older"), "{:?}", refused("newer"));
    for name in ["file", "mapped"] {
        assert!(refused(name).1.contains("routing file"), "{:?}", refused(name));
    }
}
