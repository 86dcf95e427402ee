//! The rules, as manifests with the listeners, routes and statuses that they must give: tests/kubernetes/*.yaml.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::reflector;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::manifests::Manifests;
use super::members::Members;
use super::status::Condition;
use super::translate::translate;
use super::translation::To;
use super::*;
use crate::client_hello::Alpn;
use crate::config::Config;
use crate::route::NameForm;
use crate::server_name::Sni;
use crate::settings::{Kubernetes, KubernetesAddresses, Namespaces, Origin};
use crate::snapshot::{RouteQuery, Snapshot};
use crate::sources::{Found, merge, only_file};
use crate::telemetry::Metrics;

mod gateways;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes")
}

fn base() -> String {
    fs::read_to_string(directory().join("base.yaml")).unwrap()
}

fn read(text: &str) -> Objects {
    let mut manifests = Manifests::default();
    manifests.read("base.yaml", &base());
    manifests.read("case.yaml", text);
    assert_eq!(manifests.problems, Vec::<String>::new());
    manifests.objects
}

fn translated(objects: &Objects) -> Translation {
    translate(objects, &Kubernetes::default(), &Observed::default(), &[])
}

/// As the files write what is expected.
fn written(translation: &Translation) -> Vec<String> {
    let Translation { listeners, routes, pools, statuses, .. } = translation;
    let mut lines = Vec::new();
    for listener in listeners {
        let bind: Vec<_> = listener.bind.iter().map(ToString::to_string).collect();
        let hostnames: String = listener.hostnames.iter().map(|hostname| format!(" {hostname}")).collect();
        lines.push(format!("listener {} at {} for{hostnames}", listener.name, bind.join(" ")));
    }
    let pool = |number: &usize| pools[*number].pool.name.to_string();
    for route in routes {
        let to = match &route.to {
            To::Pool(number) => pool(number),
            To::Split(shares) => {
                let shares = shares.iter().map(|(number, weight)| format!("{}*{weight}", pool(number)));
                shares.collect::<Vec<_>>().join(" ")
            }
            To::Nowhere => "nowhere".to_owned(),
        };
        let at: String = route.listeners.iter().map(|number| format!(" {}", listeners[*number].name)).collect();
        let patterns: Vec<_> = route.patterns.iter().map(ToString::to_string).collect();
        lines.push(format!("route {} at{at}: {} -> {to}", route.name, patterns.join(" ")));
    }
    for (name, status) in &statuses.gateways {
        lines.push(format!("Gateway {name}: {}", conditions(&status.conditions)));
        for listener in &status.listeners {
            let (name, attached) = (&listener.name, listener.attached_routes);
            let kinds = listener.supported_kinds.join(" ");
            lines.push(format!("  {name}: {attached} attached, {kinds}: {}", conditions(&listener.conditions)));
        }
    }
    for (name, status) in &statuses.tls_routes {
        for parent in &status.parents {
            let section: String = parent.parent.section_name.iter().map(|section| format!(" {section}")).collect();
            let conditions = conditions(&parent.conditions);
            lines.push(format!("TLSRoute {name} at {}{section}: {conditions}", parent.parent.name));
        }
    }
    for (name, status) in &statuses.ingresses {
        let gateway: String = status.gateway.iter().map(ToString::to_string).collect();
        let problems = match status.problems.len() {
            0 => String::new(),
            count => format!(", {count} problem"),
        };
        lines.push(format!("Ingress {name} at {gateway}{problems}"));
    }
    lines
}

/// `Type`, `Type=Reason` if that is another word, `!` before those that are false. `Programmed` has a test of its own.
fn conditions(conditions: &[Condition]) -> String {
    let shown = conditions.iter().filter(|one| one.kind != "Programmed" && (one.kind != "Conflicted" || one.is_true));
    let shown = shown.map(|Condition { kind, is_true, reason, message, .. }| {
        assert!(!message.is_empty(), "{kind} has no message");
        match (is_true, kind == reason) {
            (true, true) => (*kind).to_owned(),
            (true, false) => format!("{kind}={reason}"),
            (false, _) => format!("!{kind}={reason}"),
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn cases() -> Vec<(String, String)> {
    let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let cases = files.filter(|path| path.extension().is_some_and(|is| is == "yaml") && !path.ends_with("base.yaml"));
    let mut cases: Vec<_> =
        cases.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect();
    cases.sort();
    assert!(cases.len() > 10);
    cases
}

#[test]
fn each_rule_gives_the_listeners_routes_and_statuses_that_its_file_says() {
    for (file, text) in cases() {
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#= ")).collect();
        let found = written(&translated(&read(&text)));
        let found: Vec<&str> = found.iter().map(|line| line.trim_end()).collect();
        assert!(found == expected, "{file}:\n{}\ninstead of\n{}", found.join("\n"), expected.join("\n"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_order_of_arrival_has_no_effect(seed in any::<u64>(), case in any::<prop::sample::Index>()) {
        let cases = cases();
        let objects = read(&case.get(&cases).1);
        let mut shuffled = objects.clone();
        let mut random = fastrand::Rng::with_seed(seed);
        random.shuffle(&mut shuffled.gateway_classes);
        random.shuffle(&mut shuffled.gateways);
        random.shuffle(&mut shuffled.tls_routes);
        random.shuffle(&mut shuffled.reference_grants);
        random.shuffle(&mut shuffled.services);
        random.shuffle(&mut shuffled.endpoint_slices);
        random.shuffle(&mut shuffled.namespaces);
        random.shuffle(&mut shuffled.ingresses);
        prop_assert_eq!(translated(&objects), translated(&shuffled));
    }
}

/// The file of a case, joined to `file`.
fn merged(file: &str, case: &str) -> (Config, Found) {
    let config = Config::parse(file, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
    let cluster = Cluster { objects: read(case), ..Cluster::default() };
    let found = Found { kubernetes: Some(Arc::new(cluster)), ..Found::default() };
    (merge(config, &found, &|_| false).config, found)
}

fn case(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

/// The route and the pool of a name at a listener, or how it is refused.
fn chosen(snapshot: &Snapshot, listener: &str, name: &str) -> String {
    let listener = snapshot.find_listener(listener).expect("it was joined");
    let sni = Sni::from_wire(name.as_bytes()).unwrap();
    let alpn = Alpn::of(&[] as &[String]);
    let query = RouteQuery { sni: Some(&sni), alpn: &alpn, source: None, listener, form: NameForm::Clear };
    let chosen = snapshot.choose(query);
    match chosen.route.next() {
        Ok(to) => format!("{} {}", chosen.route.name, to.pool.name),
        Err(how) => format!("{} {}", chosen.matched.as_str(), how.as_str()),
    }
}

const FILE: &str = "listeners: [{ name: https, bind: \"127.0.0.1:0\" }]\n\
     routes: [{ sni: \"*\", pool: p }]\npools: { p: { backends: [127.0.0.1:9] } }\n";

#[test]
fn routes_of_the_file_and_of_gateways_never_take_connections_of_each_other() {
    let (config, _) = merged(&format!("{FILE}kubernetes: {{}}\n"), &case("isolation.yaml"));
    let snapshot = Snapshot::build(config, None, &Metrics::new());
    let at_gateway = |name| chosen(&snapshot, "default/gw:443", name);
    assert_eq!(at_gateway("a.example.com"), "default/wide default/a:443");
    assert_eq!(at_gateway("other.test"), "default/any default/a:443");
    // It belongs to a listener without routes, although routes of others match it.
    assert_eq!(at_gateway("x.n.example.com"), "unmatched close");
    assert_eq!(at_gateway("unknown.test"), "unmatched close");
    for name in ["a.example.com", "other.test", "unknown.test"] {
        assert_eq!(chosen(&snapshot, "https", name), "* p");
    }
}

#[test]
fn unmatched_is_as_the_file_says() {
    for (unmatched, expected) in
        [("reset", "unmatched reset"), ("alert", "unmatched alert"), ("{ pool: p }", "unmatched p")]
    {
        let file = format!("{FILE}kubernetes: {{ unmatched: {unmatched} }}\n");
        let (config, _) = merged(&file, &case("hostnames.yaml"));
        let snapshot = Snapshot::build(config, None, &Metrics::new());
        assert_eq!(chosen(&snapshot, "default/gw:443", "unknown.test"), expected);
    }
}

#[test]
fn what_is_in_force_is_what_a_merge_gives_again() {
    for name in ["weights.yaml", "isolation.yaml", "namespaces.yaml", "ingress.yaml"] {
        let (config, found) = merged(&format!("{FILE}kubernetes: {{}}\n"), &case(name));
        let snapshot = Snapshot::build(config, None, &Metrics::new());
        let in_force = snapshot.effective();
        let file = only_file(in_force.clone());
        assert!(file.listeners.len() == 1 && file.pools.len() == 1 && file.routes.len() == 1);
        // Otherwise each event would build a snapshot.
        assert_eq!(merge(file, &found, &|_| false).config, in_force, "{name}");
    }
}

#[test]
fn endpoints_reach_the_pools_and_change_in_place() {
    let (config, found) = merged(&format!("{FILE}kubernetes: {{}}\n"), &case("weights.yaml"));
    let cluster = found.kubernetes.unwrap();
    let snapshot = Snapshot::build(config, None, &Metrics::new());
    let pool = |name: &str| Arc::clone(snapshot.pools.iter().find(|pool| &*pool.name == name).unwrap());
    let addresses =
        |name: &str| pool(name).list().iter().map(|member| member.backend.address.to_string()).collect::<Vec<_>>();
    let members = Members::new(watch::channel(Arc::default()).1);
    members.learn(&translated(&cluster.objects).pools);
    let (store, mut writer) = reflector::store();
    members.begin(store);
    for slice in &cluster.objects.endpoint_slices {
        writer.apply_watcher_event(&Event::Apply((**slice).clone()));
    }
    members.fill(&snapshot);
    assert!(addresses("default/a:443").is_empty(), "not all slices are known");
    members.listed(&snapshot);
    assert_eq!(addresses("default/a:443"), ["10.0.0.1:8443"]);
    // No endpoint, or no Service: the share is refused.
    assert!(addresses("default/b:443").is_empty());
    assert!(addresses("default/gone:443 (BackendNotFound)").is_empty());
    let version = pool("default/a:443").version();
    members.fill(&snapshot);
    assert_eq!(pool("default/a:443").version(), version);
    assert!(snapshot.pools.iter().all(|pool| pool.settings.origin != Origin::Docker));
    // The slices are read again, by another watch: until it has all of them, the old ones stay.
    let (store, mut writer) = reflector::store();
    members.begin(store);
    members.fill(&snapshot);
    assert_eq!(pool("default/a:443").version(), version);
    let mut moved = (*cluster.objects.endpoint_slices[0]).clone();
    moved.endpoints[0].addresses = vec!["10.0.0.7".to_owned()];
    writer.apply_watcher_event(&Event::Apply(moved.clone()));
    members.listed(&snapshot);
    assert_eq!(addresses("default/a:443"), ["10.0.0.7:8443"]);
    // A slice is given to another Service, or deleted.
    let given_to = |service: &str| {
        let mut slice = moved.clone();
        let labels = slice.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/service-name".to_owned(), service.to_owned());
        slice
    };
    writer.apply_watcher_event(&Event::Apply(given_to("b")));
    members.changed(&given_to("b"), &snapshot);
    assert!(addresses("default/a:443").is_empty());
    assert_eq!(addresses("default/b:443"), ["10.0.0.7:8443"]);
    writer.apply_watcher_event(&Event::Apply(moved.clone()));
    members.changed(&moved, &snapshot);
    assert_eq!((addresses("default/a:443").len(), addresses("default/b:443").len()), (1, 0));
    writer.apply_watcher_event(&Event::Delete(moved.clone()));
    members.changed(&moved, &snapshot);
    assert!(addresses("default/a:443").is_empty());
}

#[test]
fn ready_endpoints_come_first_and_then_those_that_serve_while_they_terminate() {
    let slice = |endpoints: &str, ports: &str| {
        read(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{ name: x, namespace: default, labels: {{ kubernetes.io/service-name: x }} }}\n\
             addressType: IPv4\nports: [{ports}]\nendpoints: [{endpoints}]\n"
        ))
    };
    let port = endpoints::ServicePort { service: ObjectName::new("default", "x"), port: "tls".to_owned() };
    let found = |endpoints: &str, ports: &str| {
        let objects = slice(endpoints, ports);
        let slices = objects.endpoint_slices.iter().map(|slice| &**slice);
        let of_service = slices.filter(|slice| endpoints::service_of(slice).as_ref() == Some(&port.service));
        let found = endpoints::addresses(&port, of_service);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let tls = "{ name: tls, port: 8443 }";
    let terminating = "{ addresses: [10.0.0.2], conditions: { ready: false, serving: true, terminating: true } }";
    let down = "{ addresses: [10.0.0.3], conditions: { ready: false } }";
    let ready = "{ addresses: [10.0.0.1], conditions: { ready: true } }";
    let unknown = "{ addresses: [\"2001:db8::1\"] }";
    assert_eq!(found(&format!("{ready}, {terminating}, {down}"), tls), ["10.0.0.1:8443"]);
    assert_eq!(found(&format!("{terminating}, {down}"), tls), ["10.0.0.2:8443"]);
    assert!(found(down, tls).is_empty());
    assert_eq!(found(unknown, tls), ["[2001:db8::1]:8443"]);
    assert_eq!(found(ready, "{ name: http, port: 80 }, { name: tls, port: 9, protocol: UDP }"), Vec::<String>::new());
    assert!(found("{ addresses: [host.example.com] }", tls).is_empty());
}

#[test]
fn statuses_are_only_written_when_they_differ_and_leave_others_alone() {
    let text = case("age.yaml");
    let mut objects = read(&text);
    let time = |second: i64| Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
    let controller = &*Kubernetes::default().controller_name.0;
    let name = ObjectName::new("default", "older");
    let status = translated(&objects).statuses.tls_routes[&name].clone();
    let mut first = status.replace(None, controller, &time(1)).unwrap();
    assert_eq!(first.parents[0].conditions[0].observed_generation, Some(2));
    let mut foreign = first.parents[0].clone();
    foreign.controller_name = "example.com/other".to_owned();
    first.parents.push(foreign.clone());
    assert_eq!(status.replace(Some(&first), controller, &time(2)), None);
    // A condition that changes gets the time of the change; the others keep theirs.
    let mut changed = status.clone();
    changed.parents[0].conditions[1].is_true = false;
    let second = changed.replace(Some(&first), controller, &time(3)).unwrap();
    let ours = second.parents.iter().find(|parent| parent.controller_name == controller).unwrap();
    assert_eq!(ours.conditions[0].last_transition_time, time(1));
    assert_eq!(ours.conditions[1].last_transition_time, time(3));
    assert!(second.parents.contains(&foreign));
    // Once its namespace is no longer read, a route has no entry of ours.
    let unread = {
        let mut objects = objects.clone();
        let mut routes = objects.tls_routes.iter_mut();
        let route = routes.find(|route| route.metadata.name.as_deref() == Some("older")).unwrap();
        Arc::make_mut(route).status = Some(first.clone());
        let settings = Kubernetes { namespaces: Namespaces::Only(vec!["other".into()]), ..Kubernetes::default() };
        translate(&objects, &settings, &Observed::default(), &[]).statuses.tls_routes[&name].clone()
    };
    assert_eq!(unread.replace(Some(&first), controller, &time(4)).unwrap().parents, [foreign.clone()]);
    // So does a route that no longer names a Gateway of ours.
    let route = objects.tls_routes.iter_mut().find(|route| route.metadata.name.as_deref() == Some("older")).unwrap();
    let route = Arc::make_mut(route);
    route.spec.parent_refs = None;
    route.status = Some(first.clone());
    let gone = translated(&objects).statuses.tls_routes[&name].clone();
    assert_eq!(gone.replace(Some(&first), controller, &time(4)).unwrap().parents, [foreign]);
}

#[test]
fn odd_objects_cost_a_status_and_nothing_else() {
    // 1,024 hostnames, 16 references of weight 0, 64 listeners, and a route whose parent is a route.
    let hostnames: Vec<String> = (0..1024).map(|number| format!("n{number}.test")).collect();
    let references = vec!["{ name: a, port: 443, weight: 0 }"; 16].join(", ");
    let listeners: Vec<String> = (0..64)
        .map(|number| {
            format!("{{ name: l{number}, port: 443, protocol: TLS, hostname: \"*.l{number}.test\", tls: {{ mode: Passthrough }} }}")
        })
        .collect();
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: gw, namespace: default }}\n\
         spec: {{ gatewayClassName: snigate, listeners: [{}, {{ name: any, port: 443, protocol: TLS, tls: {{ mode: Passthrough }} }}] }}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{ name: many, namespace: default }}\n\
         spec: {{ parentRefs: [{{ name: gw }}], hostnames: [{}], rules: [{{ backendRefs: [{references}] }}] }}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{ name: circle, namespace: default }}\n\
         spec: {{ parentRefs: [{{ group: gateway.networking.k8s.io, kind: TLSRoute, name: circle }}], hostnames: [192.0.2.1], \
         rules: [] }}\n",
        listeners.join(", "),
        hostnames.join(", "),
    );
    let translation = translated(&read(&text));
    assert_eq!(translation.listeners[0].hostnames.len(), 64);
    assert_eq!((translation.routes.len(), translation.routes[0].patterns.len()), (1, 1024));
    assert_eq!(translation.routes[0].to, To::Nowhere);
    assert!(!translation.statuses.tls_routes.contains_key(&ObjectName::new("default", "circle")));
}

#[test]
fn the_service_of_a_gateway_has_a_name_that_services_can_have() {
    let long = "g".repeat(253);
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {long}, namespace: default, uid: u }}\n\
         spec: {{ gatewayClassName: snigate, infrastructure: {{ labels: {{ a: b }} }}, listeners: [{{ name: tls, port: 443, \
         protocol: TLS, tls: {{ mode: Passthrough }} }}] }}\n"
    );
    let translation = translated(&read(&text));
    let exposure = translation.exposures.values().next().unwrap();
    assert_eq!((exposure.service.name.len(), exposure.uid.as_str()), (63, "u"));
    assert!(exposure.labels.values().all(|value| value.len() <= 63) && exposure.labels["a"] == "b");
    assert_eq!(exposure.ports.iter().collect::<Vec<_>>(), [(&443, &20_000)]);
}

/// 10,000 routes with 10,000 Services; the limit is that of the processor time of a cold start, with room for a slow one.
#[test]
fn ten_thousand_routes_are_translated_quickly() {
    let base = read(&case("hostnames.yaml"));
    let mut objects = Objects { tls_routes: Vec::new(), ..base.clone() };
    let (route, service) = (&base.tls_routes[0], &base.services[0]);
    for number in 0..10_000 {
        let name = format!("s{number}");
        let mut route = (**route).clone();
        route.metadata.name = Some(name.clone());
        route.spec.hostnames = vec![format!("{name}.example.com")];
        route.spec.rules[0].backend_refs[0].name = name.clone();
        let mut service = (**service).clone();
        service.metadata.name = Some(name);
        objects.tls_routes.push(Arc::new(route));
        objects.services.push(Arc::new(service));
    }
    let began = clock_gettime(ClockId::ThreadCPUTime);
    let translation = translated(&objects);
    let ended = clock_gettime(ClockId::ThreadCPUTime);
    let took = (ended.tv_sec - began.tv_sec) as f64 + (ended.tv_nsec - began.tv_nsec) as f64 / 1e9;
    assert_eq!((translation.routes.len(), translation.pools.len()), (10_000, 10_000));
    // Without optimization.
    assert!(took < 3.0, "{took} s");
    println!("{took:.3} s");
}
