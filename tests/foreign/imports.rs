//! What `snigate import` makes of a configuration routes every name as the program does whose configuration it is.

use std::fs;
use std::process::Command;

use crate::harness::{Running, poll};
use crate::peer::{First, Site, reached};
use crate::program::Program;

#[test]
fn haproxy_and_its_import_reach_the_same_backends() {
    let Some(haproxy) = Program::find("haproxy") else { return };
    let mut site = Site::of(&["haproxy.cfg", "names.lst", "ends.map", "names.map"]);
    let imported = import(&site, "haproxy", "haproxy.cfg", 0);
    let config = fs::read_to_string(site.path("haproxy.cfg")).unwrap();
    let bound = format!("bind {}", site.address());
    fs::write(site.path("run.cfg"), config.replace(&bound, "bind fd@0")).unwrap();
    let _peer = site.start(haproxy.command().args(["-db", "-f", "run.cfg"]));
    agree(&site, &imported, HAPROXY_NAMES, 200);
}

#[test]
fn nginx_and_its_import_reach_the_same_backends() {
    let Some(nginx) = Program::find("nginx") else { return };
    if !std::path::Path::new(STREAM_MODULE).exists() {
        let required = std::env::var("SNIGATE_REQUIRE_FOREIGN").is_ok_and(|value| value == "1");
        assert!(!required, "{STREAM_MODULE} is not installed");
        println!("skipped: no {STREAM_MODULE}");
        return;
    }
    let mut site = Site::of(&["nginx.conf", "names.map.conf"]);
    let imported = import(&site, "nginx", "nginx.conf", 0);
    let config = fs::read_to_string(site.path("nginx.conf")).unwrap();
    let without_http = config.replace("http { include /nowhere/*.conf; }", "");
    let directory = site.directory.path().display().to_string();
    let before = format!("load_module {STREAM_MODULE};\ndaemon off;\npid {directory}/pid;\nerror_log stderr;\n");
    fs::write(site.path("run.conf"), before + &without_http).unwrap();
    let run = format!("{directory}/run.conf");
    // The socket that it inherits, by nginx's own way of an upgrade.
    let _peer = site.start(nginx.command().env("NGINX", "0;").args(["-e", "stderr", "-p", &directory, "-c", &run]));
    agree(&site, &imported, NGINX_NAMES, 200);
}

#[test]
fn sniproxy_and_its_import_reach_the_same_backends() {
    let Some(sniproxy) = Program::find("sniproxy") else { return };
    let mut site = Site::of(&["sniproxy.conf"]);
    let imported = import(&site, "sniproxy", "sniproxy.conf", 0);
    let _peer = site.start_and_bind(sniproxy.command().args(["-f", "-c", "sniproxy.conf"]));
    // sniproxy compares case: a name in upper case is unknown to it.
    let as_sent = |client: &First| !matches!(client, First::Hello(name) if name.chars().any(char::is_uppercase));
    agree_on(&site, &imported, &clients(SNIPROXY_NAMES).into_iter().filter(as_sent).collect::<Vec<_>>(), 150);
}

#[test]
fn traefik_and_its_import_reach_the_same_backends() {
    let Some(traefik) = Program::find("traefik") else { return };
    let mut site = Site::of(&["traefik.yaml"]);
    let imported = import(&site, "traefik", "traefik.yaml", 0);
    // Each part of the file is for itself there.
    let config = fs::read_to_string(site.path("traefik.yaml")).unwrap();
    let (fixed, dynamic) = config.split_once("\ntcp:").unwrap();
    fs::write(site.path("static.yaml"), fixed.replace("traefik.yaml", "dynamic.yaml")).unwrap();
    fs::write(site.path("dynamic.yaml"), format!("tcp:{dynamic}")).unwrap();
    let _peer = site.start_and_bind(traefik.command().arg("--configFile=static.yaml"));
    let first = First::Hello("shop.example.com".to_owned());
    let loaded = poll(|| reached(site.address(), &first).ok_or("the routers are not loaded yet"));
    assert!(loaded.is_ok(), "{loaded:?}");
    // Without a router for them, Traefik waits for more from clients that do not speak TLS.
    let clients = clients(TRAEFIK_NAMES).into_iter().filter(|client| *client != First::NotTls);
    agree_on(&site, &imported, &clients.collect::<Vec<_>>(), 200);
}

#[test]
fn haproxy_takes_what_is_exported_for_it_and_its_import_routes_as_before() {
    let Some(haproxy) = Program::find("haproxy") else { return };
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        let output = command.args(arguments).current_dir(directory.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.code().unwrap(), said)
    };
    fs::write(directory.path().join("before.yaml"), EXPORTED).unwrap();
    let exported = run(&["export", "haproxy", "before.yaml", "--output", "haproxy.cfg"]);
    assert_eq!(exported, (0, String::new()));
    let file = directory.path().join("haproxy.cfg");
    let checked = haproxy.run(["-c", "-f", file.to_str().unwrap()]);
    assert!(checked.success, "{checked:?}\n{}", fs::read_to_string(&file).unwrap());
    let imported = run(&["import", "haproxy", "haproxy.cfg", "--output", "after.yaml"]);
    assert_eq!(imported.0, 0, "{}", imported.1);
    let difference = run(&["diff", "before.yaml", "after.yaml"]);
    assert_eq!(difference.0, 0, "{}", difference.1);

    // What refuses is accepted, too.
    fs::write(directory.path().join("before.yaml"), EXPORTED.replace("pool: c", "refuse: close")).unwrap();
    assert_eq!(run(&["export", "haproxy", "before.yaml", "--output", "haproxy.cfg", "--force"]), (0, String::new()));
    let checked = haproxy.run(["-c", "-f", file.to_str().unwrap()]);
    assert!(checked.success, "{checked:?}");
}

const EXPORTED: &str = r#"
listeners:
  - { name: one, bind: "127.0.0.1:8443" }
  - { name: two, bind: "127.0.0.2:8443", max_connections: 70, allow: [127.0.0.0/8, 10.0.0.0/8], deny: [10.1.0.0/16] }
routes:
  - { sni: a.test, pool: a }
  - { sni: a.test, source: [10.0.0.0/8], pool: b }
  - { sni: "*.a.test", pool: b }
  - { sni: "**.a.test", pool: c }
  - { sni: ["**.b.a.test", "**.test"], pool: a }
unmatched: { pool: b }
no_sni: { pool: a }
not_tls: { pool: c }
limits: { max_connections: 900 }
pools:
  a:
    balance: source_hash
    backends: [127.0.0.1:1, { address: "127.0.0.1:2", weight: 3, backup: true, max_connections: 9 }]
    health_check: { kind: tls, interval: 1s }
    queue: { size: 65536, timeout: 2s }
  b: { backends: ["name.invalid:443"], send_proxy_protocol: v2, balance: sni_hash }
  c: { backends: ["unix:/run/c.sock"], health_check: { kind: http, path: /up, port: 80 }, slow_start: 5s, on_down: close }
"#;

/// Imports a file of the site, which must end with the code, and starts snigate with the result.
#[track_caller]
fn import(site: &Site, program: &str, file: &str, code: i32) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let output = command.args(["import", program, file]).current_dir(site.directory.path()).output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}\n{text}");
    let bound = site.address().to_string();
    assert!(text.contains(&bound), "{text}");
    Running::start(&format!("{}admin: {{ bind: \"127.0.0.1:0\" }}\n", text.replace(&bound, "127.0.0.1:0")))
}

/// Every client reaches the same backend through both.
#[track_caller]
fn agree(site: &Site, imported: &Running, bases: &[&str], at_least: usize) {
    agree_on(site, imported, &clients(bases), at_least);
}

#[track_caller]
fn agree_on(site: &Site, imported: &Running, clients: &[First], at_least: usize) {
    assert!(clients.len() >= at_least, "{} clients", clients.len());
    let mut reached_any = std::collections::BTreeSet::new();
    let mut differences = Vec::new();
    for client in clients {
        let (theirs, ours) = (reached(site.address(), client), reached(imported.address(), client));
        if theirs != ours {
            differences.push(format!("{client:?}: {theirs:?}, imported {ours:?}"));
        }
        reached_any.extend(theirs);
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), clients.len(), differences.join("\n"));
    assert!(reached_any.len() > 3, "{reached_any:?}");
}

/// Names of a configuration and names near them: below, above, beside, in other cases; unknown ones; none at all.
fn clients(bases: &[&str]) -> Vec<First> {
    let mut names: Vec<String> = Vec::new();
    for base in bases {
        let above = base.split_once('.').map_or("", |(_, above)| above);
        names.extend([
            (*base).to_owned(),
            base.to_uppercase(),
            format!("a.{base}"),
            format!("a.b.{base}"),
            format!("A.B.{base}"),
            format!("a.b.c.{base}"),
            format!("x{base}"),
            format!("www.{base}"),
            format!("_x.{base}"),
            format!("{base}.other.test"),
            format!("{base}x"),
            above.to_owned(),
            format!("beside.{above}"),
            base.replacen('.', "-", 1),
        ]);
    }
    names.extend(["unknown.test", "com", "localhost", "example.com"].map(str::to_owned));
    names.sort();
    names.dedup();
    let hellos = names.into_iter().filter(|name| !name.is_empty()).map(First::Hello);
    hellos.chain([First::WithoutName, First::NotTls]).collect()
}

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const HAPROXY_NAMES: &[&str] = &[
    "shop.example.com",
    "www.shop.example.com",
    "api.example.com",
    "deep.api.example.com",
    "imap.example.com",
    "smtp.example.com",
    "a.listed.example.com",
    "b.listed.example.com",
    "left.example.com",
    "right.example.com",
    "mapped.example.com",
    "inner.mapped.example.com",
    "one.example.com",
    "two.example.com",
    "three.example.com",
    "nothing.example.org",
    "shop.example.net",
];

const NGINX_NAMES: &[&str] = &[
    "shop.example.com",
    "www.shop.example.com",
    "api.example.com",
    "deep.api.example.com",
    "x.deep.api.example.com",
    "imap.example.com",
    "a.listed.example.com",
    "b.listed.example.com",
    "left.example.com",
    "right.example.com",
    "wild.example.com",
    "inner.wild.example.com",
    "x.inner.wild.example.com",
    "nothing.example.org",
    "shop.example.net",
    "one.example.com",
    "two.example.com",
];

const SNIPROXY_NAMES: &[&str] = &[
    "shop.example.com",
    "www.shop.example.com",
    "api.example.com",
    "deep.api.example.com",
    "x.deep.api.example.com",
    "x.api.example.com",
    "left.example.com",
    "right.example.com",
    "wild.example.com",
    "apex.example.com",
    "one.example.com",
    "x.one.example.com",
    "nothing.example.org",
    "shop.example.net",
    "two.example.com",
    "apex.example.net",
];

const TRAEFIK_NAMES: &[&str] = &[
    "shop.example.com",
    "www.shop.example.com",
    "api.example.com",
    "x.api.example.com",
    "deep.api.example.com",
    "x.deep.api.example.com",
    "wild.example.com",
    "x.wild.example.com",
    "left.example.com",
    "right.example.com",
    "nothing.example.org",
    "shop.example.net",
    "one.example.com",
    "two.example.com",
    "api.example.net",
    "three.example.org",
];
