//! `snigate kubernetes`: what a person sees who checks manifests before applying them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Ended, command, run};

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: { name: snigate }\n\
    spec: { controllerName: snigate.dev/gateway-controller }\n";
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\nspec:\n  \
    gatewayClassName: snigate\n  listeners:\n    - { name: tls, port: 443, protocol: TLS, tls: { mode: Passthrough } }\n";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: { name: shop }\nspec:\n  \
    parentRefs: [{ name: edge }]\n  hostnames: [shop.example.com]\n  rules: [{ backendRefs: [{ name: shop, port: 443 }] }]\n";
/// Without EndpointSlices, which only a cluster makes.
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: shop }\nspec: { ports: [{ port: 443 }] }\n";

/// A directory with these files.
fn files(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// Runs `snigate kubernetes` with these arguments, in `directory`.
fn kubernetes(directory: &TempDir, arguments: &[&str]) -> Ended {
    let arguments = ["kubernetes"].iter().chain(arguments).map(OsStr::new);
    run(command(arguments).current_dir(directory))
}

fn all() -> String {
    [CLASS, GATEWAY, ROUTE, SERVICE].join("---\n")
}

#[test]
fn what_is_accepted_is_short_and_exits_with_0() {
    let directory = files(&[("all.yaml", &all())]);
    let said = kubernetes(&directory, &["check", "all.yaml"]).well();
    assert_eq!(
        said,
        "GatewayClass snigate\n  Accepted=True\n\
         Gateway default/edge\n  Accepted=True\n  listener tls: 1 route attached\n    \
         Accepted=True ResolvedRefs=True Conflicted=False\n\
         TLSRoute default/shop\n  at Gateway default/edge\n    Accepted=True ResolvedRefs=True\n\
         All of it is accepted.\n"
    );
    let said = kubernetes(&directory, &["explain", "shop.example.com", "all.yaml"]).well();
    assert!(said.starts_with("shop.example.com goes to pool default/shop:443\n"), "{said}");
    let refused = kubernetes(&directory, &["explain", "other.example.com", "all.yaml"]);
    assert!(refused.code == 4 && refused.stdout.contains("reason no_route"), "{refused:?}");
}

#[test]
fn what_is_not_accepted_is_marked_and_exits_with_1() {
    let gateway = GATEWAY.replace("Passthrough", "Terminate");
    let route = ROUTE
        .replace("[{ name: edge }]", "[{ name: edge }, { name: egde }]")
        .replace("name: shop, port", "name: shop, namespace: shops, port");
    let http = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: web }\nspec: {}\n";
    let service = SERVICE.replace("name: shop", "name: shop, namespace: shops");
    let text = [CLASS, &gateway, &route, &service, http].join("---\n");
    let said = kubernetes(&files(&[("all.yaml", &text)]), &["check", "all.yaml"]);
    assert!(said.code == 1 && said.stderr.is_empty(), "{said:?}");
    for line in [
        "  ! Accepted=False ListenersNotValid: ",
        "    ! Accepted=False UnsupportedValue: snigate does not terminate TLS; write `tls.mode: Passthrough`",
        "    ! Accepted=False NotAllowedByListeners: ",
        "    ! ResolvedRefs=False RefNotPermitted: ",
        "  at Gateway default/egde\n    ! this Gateway is not in these files",
        "not read: 1 HTTPRoute (gateway.networking.k8s.io/v1)",
        "5 problems to mend.",
    ] {
        assert!(said.stdout.contains(&format!("\n{line}")), "{line}\n{}", said.stdout);
    }
    // With the grant that the message asks for, one less.
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: { name: g, namespace: shops }\n\
        spec:\n  from: [{ group: gateway.networking.k8s.io, kind: TLSRoute, namespace: default }]\n  to: [{ group: \"\", kind: Service }]\n";
    let directory = files(&[("all.yaml", &text), ("grant.yaml", grant)]);
    let said = kubernetes(&directory, &["check", "all.yaml", "grant.yaml"]);
    assert!(said.code == 1 && said.stdout.ends_with("\n4 problems to mend.\n"), "{said:?}");
}

#[test]
fn mistakes_are_reported_with_file_and_line() {
    let directory = files(&[
        ("a.yaml", &[CLASS, &GATEWAY.replace("port: 443", "port: 443, hostName: a.test"), SERVICE].join("---\n")),
        ("b.yml", &format!("# the route\n{}", ROUTE.replace("hostnames", "hostname"))),
        ("c.json", "{ \"kind\": \"Service\" }"),
        ("notes.txt", "not read in a directory"),
    ]);
    let said = kubernetes(&directory, &["check", "."]);
    assert_eq!(said.code, 1);
    let lines: Vec<&str> = said.stderr.lines().collect();
    let expected = [
        "snigate: ./a.yaml:6: Gateway default/edge: `spec.listeners[0].hostName`: there is no field `hostName`; ",
        "snigate: ./b.yml:2: TLSRoute default/shop: `spec`: missing field `hostnames`",
        "snigate: ./c.json:1: `apiVersion` or `kind` is missing",
    ];
    assert!(lines.len() == 3 && lines.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{lines:#?}");
    // `explain` fails, too: it may not have read what decides.
    assert_eq!(kubernetes(&directory, &["explain", "shop.example.com", "."]).code, 1);
}

#[test]
fn standard_input_is_read_and_what_cannot_be_read_exits_with_2() {
    let directory = files(&[("b.bin", "a\n")]);
    fs::write(directory.path().join("b.bin"), b"a: 1\nb: \xff\n").unwrap();
    fs::create_dir(directory.path().join("empty")).unwrap();
    for (name, why) in [("b.bin", "line 2 is not text"), ("empty", "has no files"), ("none.yaml", "No such file")] {
        let said = kubernetes(&directory, &["check", name]).fails(2);
        assert!(said.contains(&format!("cannot read {name}: ")) && said.contains(why), "{said}");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let mut child =
        child.args(["kubernetes", "check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(all().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("TLSRoute default/shop"));
    // Nothing to check is a mistake.
    let said = kubernetes(&directory, &["check", "-"]);
    assert!(said.code == 1 && said.stdout.contains("there is no Gateway"), "{said:?}");
}

#[test]
fn a_gateway_of_others_is_no_mistake() {
    let class = CLASS.replace("snigate.dev/gateway-controller", "example.com/other");
    let text = [&class, GATEWAY, ROUTE, SERVICE].join("---\n");
    let directory =
        files(&[("all.yaml", &text), ("settings.yaml", "kubernetes: { controller_name: example.com/other }\n")]);
    let said = kubernetes(&directory, &["check", "all.yaml"]).well();
    assert!(
        said.contains("not served by snigate: its class snigate is for the controller example.com/other"),
        "{said}"
    );
    let said = kubernetes(&directory, &["check", "--settings", "settings.yaml", "all.yaml"]).well();
    assert!(said.contains("listener tls: 1 route attached"), "{said}");
    // Without the class, nobody knows.
    let directory = files(&[("all.yaml", &[GATEWAY, SERVICE].join("---\n"))]);
    let said = kubernetes(&directory, &["check", "all.yaml"]);
    assert!(said.code == 1 && said.stdout.contains("! its GatewayClass snigate is not in these files"), "{said:?}");
}

/// The blocks of docs/kubernetes.md whose first line is this one.
fn blocks(first: &str) -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let fence = format!("\n```{first}\n");
    let blocks: Vec<String> =
        page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert!(!blocks.is_empty(), "no block begins with {first}");
    blocks
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_page_shows_what_is_printed_for_the_shipped_manifests() {
    let base = "deploy/kubernetes/gateway";
    let files =
        ["base/gatewayclass.yaml", "example.yaml"].map(|name| root().join(base).join(name).display().to_string());
    let directory = tempfile::tempdir().unwrap();
    let printed = kubernetes(&directory, &["check", &files[0], &files[1]]).well();
    let shown: Vec<String> = blocks("text").into_iter().filter(|block| block.starts_with("GatewayClass")).collect();
    assert_eq!(shown, [printed]);
    let said = kubernetes(&directory, &["explain", "shop.example.com", &files[0], &files[1]]).well();
    assert!(said.starts_with("shop.example.com goes to pool default/shop:443\n"), "{said}");
}

#[test]
fn the_manifests_that_the_page_shows_are_accepted() {
    let gateway = root().join("deploy/kubernetes/gateway/example.yaml").display().to_string();
    let shown = blocks("yaml,kubernetes");
    let service = SERVICE.replace("shop", "blog");
    let text: Vec<&str> = [CLASS, &service].into_iter().chain(shown.iter().map(String::as_str)).collect();
    let directory = files(&[("shown.yaml", &text.join("---\n"))]);
    let said = kubernetes(&directory, &["check", "shown.yaml", &gateway]).well();
    for object in ["TLSRoute default/blog", "Ingress default/shop"] {
        assert!(said.contains(object), "{said}");
    }
}
