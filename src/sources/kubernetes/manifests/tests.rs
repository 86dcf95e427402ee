use super::*;

fn read(text: &str) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.read("f", text);
    manifests
}

/// The only problem of `text`.
#[track_caller]
fn problem(text: &str) -> String {
    match &read(text).problems[..] {
        [one] => one.clone(),
        other => panic!("{other:#?}"),
    }
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: s }\nspec: { ports: [{ port: 443 }] }\n";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: { name: r }\n\
    spec:\n  parentRefs: [{ name: g }]\n  hostnames: [a.test]\n  rules: [{ backendRefs: [{ name: s, port: 443 }] }]\n";

#[test]
fn documents_are_read_however_they_are_parted() {
    let other = SERVICE.replace("name: s", "name: t");
    let json =
        |name: &str| format!("{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{name}\"}}}}");
    for text in [
        format!("{SERVICE}---\n{other}"),
        format!("\u{feff}%YAML 1.2\n---\n# first\n{SERVICE}...\n---\n\n---\n{other}...\n"),
        format!("{SERVICE}--- # second\n{other}").replace('\n', "\r\n"),
        format!("--- {}\n--- {}\n", json("s"), json("t")),
        format!("{}{}", json("s"), json("t")),
        format!("{}\n\n{}\n", json("s"), json("t")),
        format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{},{}]}}", json("s"), json("t")),
        "apiVersion: v1\nkind: ServiceList\nitems: [{ metadata: { name: s } }, { metadata: { name: t } }]\n".to_owned(),
        "{ apiVersion: v1, kind: List, items: [{ apiVersion: v1, kind: Service, metadata: { name: s } }, \
         { apiVersion: v1, kind: Service, metadata: { name: t } }] }"
            .to_owned(),
    ] {
        let Manifests { objects, problems, left_out, .. } = read(&text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        let names: Vec<String> = objects.services.iter().map(|it| ObjectName::of(&it.metadata).to_string()).collect();
        assert_eq!(names, ["default/s", "default/t"], "{text}");
        assert!(left_out.is_empty());
    }
}

#[test]
fn a_mistake_is_reported_with_its_line_and_the_rest_is_read() {
    let text = format!("# a comment\n\n{SERVICE}---\na: [1\nb: }}{{\n---\n{ROUTE}");
    let manifests = read(&text);
    assert_eq!((manifests.objects.services.len(), manifests.objects.tls_routes.len()), (1, 1));
    assert_eq!(manifests.problems, ["f:9: column 2: illegal placement of ':' indicator"]);
    assert_eq!(problem(&format!("{SERVICE}---\na: 1\na: 2\n")), "f:7: column 1: duplicate mapping key: a");

    let value = ROUTE.replace("port: 443", "port: https");
    let said = problem(&format!("{SERVICE}---\n# here\n{value}"));
    assert!(said.starts_with("f:7: TLSRoute default/r: `spec.rules[0].backendRefs[0].port`: "), "{said}");
    let said = problem(&ROUTE.replace("hostnames", "hostname"));
    assert!(said.starts_with("f:1: TLSRoute default/r: `spec`: missing field `hostnames`"), "{said}");
    let said = problem(&ROUTE.replace("name: r", "nam: r"));
    assert_eq!(said, "f:1: TLSRoute: `metadata.name` is missing, or is not text");
    assert_eq!(problem("hello world\n"), "f:1: this is not an object; is it a Kubernetes manifest?");
    assert_eq!(problem("\n\n- 1\n"), "f:3: this is not an object; is it a Kubernetes manifest?");
    assert_eq!(problem("a: 1\n"), "f:1: `apiVersion` or `kind` is missing; is it a Kubernetes manifest?");
}

#[test]
fn a_document_may_be_large_but_not_by_its_aliases() {
    let zeros = format!("apiVersion: x/v1\nkind: Zeros\nzeros: [{}0]\n", "0, ".repeat(260_000));
    assert_eq!(read(&zeros).problems, Vec::<String>::new());
    let tenfold = |(name, of): (char, char)| format!("{name}: &{name} [{}*{of}]\n", format!("*{of}, ").repeat(9));
    let bomb: String = ('b'..='i').zip('a'..='h').map(tenfold).collect();
    let said = problem(&format!("a: &a [x, x]\n{bomb}"));
    assert!(said.contains("its aliases would make too much of it"), "{said}");
}

#[test]
fn fields_that_there_are_not_are_reported() {
    let said = problem(&ROUTE.replace("port: 443", "port: 443, wieght: 5"));
    assert_eq!(
        said,
        "f:1: TLSRoute default/r: `spec.rules[0].backendRefs[0].wieght`: there is no field `wieght`; \
         `kubectl explain tlsroute.spec.rules.backendRefs` lists those that there are"
    );
    // Those of the metadata, of the object itself, and none of these.
    assert!(
        problem(&ROUTE.replace("{ name: r", "{ name: r, lables: { a: b }"))
            .contains("kubectl explain tlsroute.metadata`")
    );
    assert!(problem(&format!("{ROUTE}sepc: {{ a: 1 }}\n")).contains("`kubectl explain tlsroute`"));
    for more in ["creationTimestamp: null", "labels: { any.example/word: x }", "annotations: {}", "managedFields: []"] {
        assert_eq!(read(&ROUTE.replace("name: r", &format!("name: r, {more}"))).problems, Vec::<String>::new());
    }
    assert_eq!(read(&format!("{ROUTE}status: {{ parents: [], other: 1 }}\n")).problems, Vec::<String>::new());
    // Newer versions of Kubernetes have more.
    assert_eq!(read(&SERVICE.replace("spec: {", "spec: { newer: 1,")).problems, Vec::<String>::new());
}

#[test]
fn a_kind_that_there_is_not_is_reported_and_others_are_counted() {
    for (version, kind, cure) in [
        (
            "gateway.networking.k8s.io/v1",
            "TLSroute",
            "write `apiVersion: gateway.networking.k8s.io/v1` and `kind: TLSRoute`",
        ),
        ("v1", "Gateway", "write `apiVersion: gateway.networking.k8s.io/v1` and `kind: Gateway`"),
        ("gateway.networking.k8s.io/v1", "Service", "write `apiVersion: v1` and `kind: Service`"),
        ("gateway.networking.k8s.io/v1", "TLSRuote", "did you mean `TLSRoute`?"),
        ("gateway.networking.k8s.io/v1", "HTTPRoutes", "did you mean `HTTPRoute`?"),
        (
            "gateway.networking.k8s.io/v1",
            "Certificate",
            "`kubectl api-resources --api-group gateway.networking.k8s.io`",
        ),
    ] {
        let said = problem(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: x }}\n"));
        assert!(said.contains(cure), "{said}");
    }
    let others = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: x }\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: x }\n";
    let manifests = read(others);
    assert_eq!(manifests.problems, Vec::<String>::new());
    let left_out: Vec<_> =
        manifests.left_out.iter().map(|((kind, version), count)| format!("{count} {kind} {version}")).collect();
    assert_eq!(left_out, ["1 Gateway networking.istio.io/v1", "1 HTTPRoute gateway.networking.k8s.io/v1"]);
}

#[test]
fn the_later_of_two_objects_of_one_name_stays_and_is_reported() {
    let later = ROUTE.replace("a.test", "b.test");
    let manifests = read(&format!("{ROUTE}---\n{later}---\n{}", ROUTE.replace("name: r", "name: r, namespace: other")));
    assert_eq!(
        manifests.problems,
        ["f:9: TLSRoute default/r: it is also at f:1; remove one: the later one replaces it"]
    );
    let hostnames: Vec<_> = manifests.objects.tls_routes.iter().map(|route| route.spec.hostnames[0].as_str()).collect();
    assert_eq!(hostnames, ["b.test", "a.test"]);
}
