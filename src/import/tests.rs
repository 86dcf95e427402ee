use std::collections::HashMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::Config;

/// Files in memory.
#[derive(Default)]
struct Memory(HashMap<PathBuf, Vec<u8>>);

impl Memory {
    fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(name, text)| (name.into(), text.as_bytes().to_vec())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
        let bytes = self.0.get(path).cloned().ok_or("there is no such file")?;
        if bytes.len() as u64 > most_bytes { Err("too large".to_owned()) } else { Ok(bytes) }
    }

    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let directory = pattern.parent();
        let mut found: Vec<_> = self.0.keys().filter(|path| path.parent() == directory).cloned().collect();
        found.sort();
        Ok(found)
    }

    fn real(&self, path: &Path) -> Result<PathBuf, String> {
        Ok(Path::new("/here").join(path))
    }
}

fn run(program: Program, files: &[(&str, &str)]) -> Result<Imported, Failure> {
    import(program, &[files[0].0.into()], Outside::Refused, &Memory::of(files))
}

/// The result, which must be valid, without comments; and the report.
#[track_caller]
fn imported(program: Program, files: &[(&str, &str)]) -> (String, Vec<String>) {
    let Imported { text, findings } = run(program, files).unwrap_or_else(|failure| panic!("{failure}"));
    if let Err(problems) = Config::parse(&text, Path::new("result")) {
        panic!("{problems}\n{text}");
    }
    let bare: Vec<&str> =
        text.lines().map(|line| line.split("  # from").next().unwrap_or_default().trim_end()).collect();
    (bare.join("\n") + "\n", findings.iter().map(ToString::to_string).collect())
}

/// Whether the result has all these lines.
#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|other| other.trim() == *line), "`{line}` is not in\n{text}");
    }
}

#[track_caller]
fn reports(findings: &[String], parts: &[&str]) {
    for part in parts {
        assert!(findings.iter().any(|finding| finding.contains(part)), "`{part}` is not in {findings:#?}");
    }
}

const HAPROXY: &[(&str, &str)] = &[
    ("haproxy.cfg", include_str!("../../tests/data/import/haproxy.cfg")),
    ("names.lst", include_str!("../../tests/data/import/names.lst")),
    ("ends.map", include_str!("../../tests/data/import/ends.map")),
    ("names.map", include_str!("../../tests/data/import/names.map")),
];
const NGINX: &[(&str, &str)] = &[
    ("nginx.conf", include_str!("../../tests/data/import/nginx.conf")),
    ("names.map.conf", include_str!("../../tests/data/import/names.map.conf")),
];

/// The files with a port for each name between `@`.
fn with_ports(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut port = 9_000;
    let mut filled = |text: &str| {
        let parts = text.split('@').enumerate().map(|(at, part)| {
            port += 1;
            if at % 2 == 1 { port.to_string() } else { part.to_owned() }
        });
        parts.collect::<String>()
    };
    files.iter().map(|(name, text)| ((*name).to_owned(), filled(text))).collect()
}

#[test]
fn each_line_has_its_origin() {
    let files = with_ports(HAPROXY);
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let Imported { text, findings } = run(Program::Haproxy, &files).expect("it is good");
    assert_eq!(findings.count_left_out(), 0, "{:?}", findings.iter().collect::<Vec<_>>());
    let line = text.lines().find(|line| line.contains("- a.listed.example.com")).expect("the name");
    assert!(line.ends_with("# from names.lst:2"), "{line}");
}

fn haproxy(frontend: &str, rest: &str) -> (String, Vec<String>) {
    let text = format!(
        "frontend f\n bind 127.0.0.1:443\n tcp-request inspect-delay 5s\n{frontend}\nbackend a\n server s 127.0.0.1:1\n\
         backend b\n server s 127.0.0.1:2\n{rest}\n"
    );
    imported(Program::Haproxy, &[("h.cfg", &text)])
}

#[test]
fn haproxy_conditions_become_routes() {
    let (text, findings) = haproxy(
        " acl office src 10.0.0.0/8\n use_backend a if office { req.ssl_sni -i x.test }\n \
         use_backend b if { req.ssl_sni -i -m end .test }\n tcp-request content reject if !{ req.ssl_hello_type 1 }",
        "",
    );
    assert_eq!(findings, [""; 0]);
    has(&text, &["- sni: x.test", "source: [10.0.0.0/8]", "- sni: \"**.test\"", "pool: b"]);
    let (text, findings) = haproxy(
        " tcp-request connection reject if !{ src 10.0.0.0/8 }\n tcp-request content reject unless { req.ssl_sni -m found }\n \
         use_backend a if { req.ssl_sni -m found }",
        "",
    );
    assert_eq!(findings, [""; 0]);
    has(&text, &["allow: [10.0.0.0/8]", "no_sni: { refuse: close }", "unmatched: { pool: a }"]);
}

#[test]
fn what_haproxy_can_and_snigate_cannot_is_reported_with_its_line() {
    let (_, findings) = haproxy(
        " use_backend a if { req.ssl_sni -i -m beg www. }\n use_backend a if { hdr(host) x.test }\n \
         use_backend a if !{ req.ssl_sni x.test }\n use_backend %[lua.f]\n use_backend a if nothing\n \
         tcp-request content lua.check\n stick-table type ip size 1m\n use_backend b if { req.ssl_sni -i b.test }\n \
         use_backend gone if { req.ssl_sni -i c.test }\n option wurst",
        "listen other\n bind :3306\n server s 127.0.0.1:3306\nlisten web\n mode http\n bind :80",
    );
    reports(
        &findings,
        &[
            "h.cfg:4: `use_backend a if { req.ssl_sni -i -m beg www. }` was left out",
            "h.cfg:5:",
            "needs decrypted data",
            "h.cfg:6:",
            "h.cfg:7:",
            "there is no ACL `nothing`",
            "snigate runs no Lua",
            "`balance: source_hash`",
            "there is no such backend",
            "h.cfg:13: `option wurst` was left out",
            "h.cfg:18: `other` was left out",
            "h.cfg:21: `web` was left out",
        ],
    );
}

#[test]
fn options_of_haproxys_servers_are_taken_over() {
    let rest = "resolvers r\n nameserver n 10.0.0.53:53\nbackend c\n option httpchk GET /up\n source 10.0.0.9\n \
                balance random\n default-server check inter 500 port 80 on-marked-down shutdown-sessions\n \
                server one c.test:443 send-proxy-v2 resolvers r backup\n server two 10.0.0.2:443 weight 0\n \
                server three 10.0.0.3:443 disabled\n server four /run/c.sock send-proxy-v2\n server five 10.0.0.5:443 ssl verify none";
    let (text, findings) = haproxy(
        " tcp-request content accept if { req.ssl_hello_type 1 }\n default_backend c\n timeout client 1h\n timeout client-fin 3s\n maxconn 7",
        rest,
    );
    has(
        &text,
        &[
            "balance: power_of_two",
            "- { address: c.test:443, backup: true }",
            "- unix:/run/c.sock",
            "source_addresses: [10.0.0.9]",
            "kind: http",
            "path: /up",
            "interval: 500ms",
            "port: 80",
            "on_down: close",
            "send_proxy_protocol: v2",
            "nameservers: [10.0.0.53:53]",
            "half_closed: 3s",
            "max_connections: 7",
        ],
    );
    let parts = [
        "weight is 0",
        "`disabled`",
        "`ssl` was left out",
        "`10.0.0.5:443` was left out: `send_proxy_protocol` differs from h.cfg",
    ];
    reports(&findings, &parts);
    assert!(!text.contains("- 10.0.0.5:443"), "it would get a PROXY header that it does not expect: {text}");
}

#[test]
fn a_disabled_haproxy_frontend_is_not_imported() {
    let text = "frontend f\n mode tcp\n bind :443\n use_backend a if { req.ssl_sni -i x.test }\n\
                frontend g\n mode tcp\n disabled\n bind :8443\n use_backend a if { req.ssl_sni -i y.test }\n\
                backend a\n mode tcp\n option allbackups\n server s 10.0.0.2:1\n";
    let (text, findings) = imported(Program::Haproxy, &[("h.cfg", text)]);
    has(&text, &["- sni: x.test"]);
    assert!(!text.contains("8443") && !text.contains("y.test"), "{text}");
    reports(&findings, &["h.cfg:7: `g` was left out: HAProxy does not use this section"]);
    assert_eq!(findings.len(), 1, "{findings:?}");
}

#[test]
fn several_haproxy_frontends_have_routes_of_their_own() {
    let text = "defaults d\n timeout connect 1s\nfrontend f from d\n bind *:443,[::]:443\n use_backend a if { req.ssl_sni -i x.test }\n\
                default_backend b\nfrontend g\n bind 10.0.0.1:8443 accept-proxy\n use_backend b if { req.ssl_sni -i x.test }\n\
                frontend web\n mode http\n bind :80\n redirect scheme https\n\
                backend a\n server s 10.0.0.2:1\nbackend b\n server s 10.0.0.2:2\n";
    let (text, findings) = imported(Program::Haproxy, &[("h.cfg", text)]);
    let expected = [
        "bind: \"[::]:443\"",
        "listeners: [f]",
        "listeners: [g]",
        "- sni: \"*\"",
        "protocol: http",
        "trusted: [0.0.0.0/0, \"::/0\"]",
    ];
    has(&text, &expected);
    reports(&findings, &["limit `proxy_protocol.trusted`", "`no_sni` applies to all listeners"]);
}

#[test]
fn a_broken_haproxy_file_is_refused_with_its_line() {
    for (text, place) in [
        ("frontend f\n bind \"x", "h.cfg:2"),
        ("bind :443", "h.cfg:1"),
        ("frontend", "h.cfg:1"),
        ("frontend f from nothing", "h.cfg:1"),
        ("global\n.if defined(A)\n maxconn 1", "h.cfg:2"),
        ("global\n.endif", "h.cfg:2"),
        ("global\n\0", "h.cfg:2"),
        ("", "h.cfg"),
    ] {
        let failure = run(Program::Haproxy, &[("h.cfg", text)]).expect_err(text);
        assert_eq!(failure.place, place, "{text}: {failure}");
    }
    let missing = haproxy(" use_backend a if { req.ssl_sni -f nothing.lst }\n default_backend b", "");
    reports(&missing.1, &["nothing.lst: there is no such file"]);
}

fn nginx(stream: &str) -> (String, Vec<String>) {
    imported(Program::Nginx, &[("n.conf", &format!("stream {{\n{stream}\n}}"))])
}

#[test]
fn nginx_servers_become_listeners() {
    let (text, findings) = nginx(
        "ssl_preread on;\nserver { listen 443; listen [::]:443 ipv6only=on; proxy_pass 10.0.0.1:443; server_name .a.test;\n\
         proxy_protocol on; allow 10.0.0.0/8; deny all; }\nserver { listen 443 default_server; server_name b.test; proxy_pass 10.0.0.2:443; }",
    );
    reports(&findings, &["n.conf:5: `server` was left out: only its listener options"]);
    let expected = [
        "bind: \"[::]:443\"",
        "- sni: a.test",
        "- sni: \"**.a.test\"",
        "- sni: b.test",
        "allow: [10.0.0.0/8]",
        "send_proxy_protocol: v1",
        "unmatched: { pool: 10.0.0.2:443 }",
    ];
    has(&text, &expected);
}

#[test]
fn one_nginx_upstream_with_other_options_is_another_pool() {
    let (text, _) = nginx(
        "upstream u { server 10.0.0.1:443 max_fails=0; server 10.0.0.2:443 max_fails=0 backup max_conns=5; }\n\
         server { listen 443; ssl_preread on; proxy_pass u; }\n\
         server { listen 8443 proxy_protocol; set_real_ip_from 10.0.0.0/8; ssl_preread on; proxy_pass u; proxy_protocol on; proxy_bind 10.0.0.9; }",
    );
    let expected = [
        "pool: u-2",
        "ejection: off",
        "- { address: 10.0.0.2:443, backup: true, max_connections: 5 }",
        "source_addresses: [10.0.0.9]",
        "trusted: [10.0.0.0/8]",
    ];
    has(&text, &expected);
}

#[test]
fn what_nginx_can_and_snigate_cannot_is_reported_with_its_line() {
    let (_, findings) = nginx(
        "map $ssl_preread_server_name $m { hostnames; a.test 10.0.0.1:443; www.b.* 10.0.0.1:443; ~^c[0-9]$ 10.0.0.1:443;\n\
         d.test gone; }\nmap $ssl_preread_alpn_protocols $p { h2 x; }\n\
         server { listen 443; ssl_preread on; proxy_pass $m; preread_by_lua_block { if x { y } } }\n\
         server { listen 444; ssl_preread on; proxy_pass $ssl_preread_server_name:443; }\n\
         server { listen 53 udp; proxy_pass 10.0.0.1:53; }\nserver { listen 445; ssl_preread on; proxy_pass $m; proxy_ssl on; }",
    );
    reports(
        &findings,
        &[
            "n.conf:2: `www.b.*` was left out",
            "n.conf:2: `~^c[0-9]$` was left out",
            "`gone` was left out: it is neither an upstream nor an address",
            "n.conf:4: `map $ssl_preread_alpn_protocols $p`",
            "snigate runs no Lua",
            "never connects to a name that the client chose",
            "n.conf:7: `server` was left out: it has no `ssl_preread on`",
            "n.conf:8: `proxy_ssl on` was left out",
        ],
    );
}

#[test]
fn an_include_of_nginx_is_followed_unless_it_goes_round() {
    let server = "server { listen 443; ssl_preread on; proxy_pass 10.0.0.1:443; }";
    let files = [("etc/n.conf", "stream { include stream.d/*; }"), ("etc/stream.d/a", server)];
    let (text, _) = imported(Program::Nginx, &files);
    has(&text, &["unmatched: { pool: 10.0.0.1:443 }"]);
    let failure = |files: &[(&str, &str)]| run(Program::Nginx, files).expect_err("broken").to_string();
    assert!(failure(&[("n.conf", "stream {\n include n.conf; }")]).contains("n.conf:2: n.conf includes itself"));
    assert_eq!(failure(&[("n.conf", "\ninclude gone;")]), "n.conf:2: gone: there is no such file");
    assert!(failure(&[("n.conf", "http { }")]).starts_with("n.conf: there is nothing to import"));
    let deep: Vec<(String, String)> = (0..40).map(|at| (format!("{at}"), format!("include {};", at + 1))).collect();
    let deep: Vec<(&str, &str)> = deep.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert!(failure(&deep).contains("too deeply"));
}

const SNIPROXY: &[(&str, &str)] = &[("sniproxy.conf", include_str!("../../tests/data/import/sniproxy.conf"))];

#[test]
fn tables_of_sniproxy_become_routes() {
    let text = "resolver { nameserver 10.0.0.53; mode ipv4_only }\nlisten 443 { proto tls; table t\n source 10.0.0.9\n fallback 10.0.0.1 }\n\
                listen 80 { proto http }\ntable t\n{\n a\\\\.test 10.0.0.2 proxy_protocol\n ^b\\\\.test$ [::1]:8443\n ^c[0-9]$ 10.0.0.3\n\
                ^d$ *:443\n .*\\\\.e\\\\.test$ backend.test:443\n}\n";
    let (text, findings) = imported(Program::Sniproxy, &[("s.conf", text)]);
    let expected = [
        "bind: \"[::]:443\"",
        "- \"**.a.test\"",
        "send_proxy_protocol: v1",
        "source_addresses: [10.0.0.9]",
        "nameservers: [10.0.0.53]",
        "unmatched: { pool: 10.0.0.1:443 }",
        "- \"[::1]:8443\"",
        "pool: backend.test:443",
    ];
    has(&text, &expected);
    let parts = [
        "s.conf:5: `listen 80` was left out",
        "s.conf:8: `a\\.test` was left out in part: names that have more characters before it",
        "s.conf:10: `^c[0-9]$ 10.0.0.3` was left out",
        "s.conf:11: `*:443` was left out",
    ];
    reports(&findings, &parts);
    for (text, place) in [
        ("listen 443 {", "s.conf:1"),
        ("}", "s.conf:1"),
        ("\nuser \"a", "s.conf:2"),
        ("{", "s.conf:1"),
        ("user a", "s.conf"),
    ] {
        let failure = run(Program::Sniproxy, &[("s.conf", text)]).expect_err(text);
        assert_eq!(failure.place, place, "{text}: {failure}");
    }
}

const TRAEFIK: &[(&str, &str)] = &[("traefik.yaml", include_str!("../../tests/data/import/traefik.yaml"))];

const TRAEFIK_TOML: &str = r#"
[entryPoints.web]
  address = ":80"
[entryPoints.websecure]
  address = ":443"
  [entryPoints.websecure.proxyProtocol]
    trustedIPs = ["10.0.0.0/8"]
[tcp.routers.a]
  rule = "HostSNI(`a.test`) || HostSNI(`b.test`) && ClientIP(`192.0.2.0/24`)"
  entryPoints = ["websecure"]
  service = "both@file"
  [tcp.routers.a.tls]
    passthrough = true
[tcp.routers.closed]
  rule = "HostSNI(`c.test`)"
  service = "one"
  [tcp.routers.closed.tls]
[[tcp.services.both.weighted.services]]
  name = "one"
  weight = 3
[[tcp.services.both.weighted.services]]
  name = "two"
  weight = 1
[tcp.services.one.loadBalancer]
  [tcp.services.one.loadBalancer.proxyProtocol]
    version = 1
  [[tcp.services.one.loadBalancer.servers]]
    address = "10.0.0.1:443"
[tcp.services.two.loadBalancer]
  [[tcp.services.two.loadBalancer.servers]]
    address = "two.test:443"
[http.routers.x]
  rule = "Host(`x`)"
"#;

#[test]
fn a_toml_file_of_traefik_becomes_routes() {
    let (text, findings) = imported(Program::Traefik, &[("t.toml", TRAEFIK_TOML)]);
    let expected = [
        "- name: websecure",
        "bind: \"[::]:443\"",
        "trusted: [10.0.0.0/8]",
        "others: plain",
        "- sni: a.test",
        "source: [192.0.2.0/24]",
        "split: [{ pool: one, weight: 3 }, { pool: two, weight: 1 }]",
        "send_proxy_protocol: v1",
        "- two.test:443",
    ];
    has(&text, &expected);
    let parts = [
        "t.toml:15: `router closed` was left out: without `tls.passthrough: true` Traefik decrypts",
        "`http.routers` was left out",
    ];
    reports(&findings, &parts);
    assert_eq!(findings.len(), 2, "{findings:#?}");
    let failure = run(Program::Traefik, &[("t.toml", "a = 1\nb = [")]).expect_err("broken");
    assert_eq!(failure.place, "t.toml:2", "{failure}");
}

#[test]
fn labels_of_a_compose_file_become_routes() {
    let text = r#"
x-common: &common
  - traefik.enable=true
services:
  traefik:
    image: traefik
    command: ["--entrypoints.websecure.address=:8443", "--providers.docker"]
  shop:
    labels:
      - "traefik.tcp.routers.shop.rule=HostSNI(`shop.test`)"
      - "traefik.tcp.routers.shop.entrypoints=websecure"
      - "traefik.tcp.routers.shop.tls.passthrough=true"
      - "traefik.tcp.services.shop.loadbalancer.server.port=443"
  mail:
    labels:
      traefik.tcp.routers.mail.rule: "HostSNIRegexp(`^.+\\.mail\\.test$$`)"
      traefik.tcp.routers.mail.tls.passthrough: "true"
      traefik.tcp.services.mails.loadbalancer.server.port: 993
  other:
    labels: *common
"#;
    let (text, findings) = imported(Program::Traefik, &[("compose.yaml", text)]);
    let notes = findings
        .iter()
        .filter(|finding| finding.contains("note: the names of containers are found only inside their network"));
    assert_eq!((notes.count(), findings.len()), (2, 2), "{findings:#?}");
    has(
        &text,
        &[
            "bind: \"[::]:8443\"",
            "- sni: shop.test",
            "- \"shop:443\"",
            "- sni: \"**.mail.test\"",
            "- \"mail:993\"",
            "pool: mails",
        ],
    );
}

#[test]
fn what_traefik_can_and_snigate_cannot_is_reported_with_its_line() {
    let text = "tcp:\n  routers:\n    a:\n      rule: \"HostSNIRegexp(`^a[0-9]$`) || HostSNI(`a.test`)\"\n      service: s\n      \
                middlewares: [m]\n      tls: { passthrough: true }\n    b:\n      rule: HostSNI(`b.test`)\n      service: gone\n      \
                tls: { passthrough: true }\n  services:\n    s:\n      loadBalancer:\n        servers: [{ address: '10.0.0.1:443' }, { address: x }]\n";
    let (text, findings) = imported(Program::Traefik, &[("t.yaml", text)]);
    has(&text, &["- sni: a.test", "bind: \"[::]:443\""]);
    let parts = [
        "t.yaml:4:",
        "t.yaml:6: `router a: middlewares`",
        "there is no such service",
        "t.yaml:15: `x` was left out",
        "[::]:443 was assumed",
    ];
    reports(&findings, &parts);
    for (text, place) in
        [("a: [", "t.yaml:"), ("a: *b", "t.yaml:1"), ("a: 1", "t.yaml"), (&"[".repeat(100), "t.yaml:1")]
    {
        let failure = run(Program::Traefik, &[("t.yaml", text)]).expect_err(text);
        assert!(failure.place.starts_with(place), "{text}: {failure}");
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(1..9)
            .map(|n| {
                format!(
                    "{n}: &{n} [{}]\n",
                    vec![format!("*{}", if n == 1 { "a".to_owned() } else { (n - 1).to_string() }); 10].join(",")
                )
            })
            .collect::<String>();
    let failure = run(Program::Traefik, &[("t.yaml", &bomb)]).expect_err("a bomb");
    assert!(failure.message.contains("too many values"), "{failure}");
}

#[test]
fn an_nginx_server_with_a_list_of_its_own_inherits_none() {
    let server = "ssl_preread on; proxy_pass 10.0.0.1:443;";
    let (text, _) = nginx(&format!(
        "allow 192.0.2.0/24; set_real_ip_from 0.0.0.0/0;\n\
         server {{ listen 443 proxy_protocol; {server} allow 10.0.0.0/8; deny all; set_real_ip_from 10.0.0.1; }}\n\
         server {{ listen 444; {server} allow 127.0.0.1; deny all; allow 198.51.100.1; }}\n\
         server {{ listen 445; {server} deny all; allow 10.0.0.0/8; }}\n\
         server {{ listen 446; {server} deny 10.1.0.0/16; allow 10.0.0.0/8; deny all; }}"
    ));
    let lists = ["allow: [10.0.0.0/8]", "allow: [127.0.0.1/32]", "deny: [0.0.0.0/0, \"::/0\"]", "deny: [10.1.0.0/16]"];
    has(&text, &lists);
    has(&text, &["trusted: [10.0.0.1/32]"]);
    assert!(!text.contains("192.0.2.0") && !text.contains("198.51.100.1"), "{text}");
    // The other way round, what cannot be written is narrower, and reported.
    let list = "allow 10.1.0.1; deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;";
    let (text, findings) = nginx(&format!("server {{ listen 443; {server} {list} }}"));
    has(&text, &["allow: [10.1.0.1/32, 10.0.0.0/8]", "deny: [10.1.0.0/16]"]);
    reports(&findings, &["`allow and deny` was left out in part"]);
    let (text, _) = nginx(&format!("deny 10.0.0.0/8; server {{ listen 443; {server} }}"));
    has(&text, &["deny: [10.0.0.0/8]"]);
    let (text, _) = nginx(&format!("server {{ listen 443 proxy_protocol; {server} set_real_ip_from unix:; }}"));
    assert!(!text.contains("trusted"), "{text}");
}

#[test]
fn files_outside_of_the_named_directories_are_not_read() {
    let rule = |file: &str| {
        format!(
            "frontend f\n bind :443\n use_backend a if {{ req.ssl_sni -i -f {file} }}\n default_backend a\nbackend a\n server s 10.0.0.1:1\n"
        )
    };
    for (file, is_read) in [
        ("/etc/haproxy/maps/x", true),
        ("/usr/share/x", true),
        ("/etc/shadow", false),
        ("/etc/haproxy-secret/x", false),
    ] {
        let text = rule(file);
        let files = [("/etc/haproxy/haproxy.cfg", text.as_str()), (file, "root:secret!")];
        let said = |outside| {
            let imported = import(Program::Haproxy, &[files[0].0.into()], outside, &Memory::of(&files));
            imported.expect("it is good").findings.iter().map(ToString::to_string).collect::<String>()
        };
        let refused = said(Outside::Refused);
        assert_eq!(refused.contains("secret!"), is_read, "{refused}");
        assert_eq!(refused.contains("add --allow-outside"), !is_read, "{refused}");
        assert!(said(Outside::Allowed).contains("secret!"));
    }
    let files = [("/etc/nginx/nginx.conf", "stream { include /etc/shadow; }"), ("/etc/shadow", "root:secret")];
    let failure = run(Program::Nginx, &files).expect_err("outside").to_string();
    assert!(failure.contains("add --allow-outside") && !failure.contains("root:"), "{failure}");
}

#[test]
fn checks_of_haproxy_have_its_defaults() {
    let servers = "backend c\n server one 10.0.0.1:443 check\n server two 10.0.0.2:443 check inter 2s fall 3 rise 2";
    let (text, findings) = haproxy(" use_backend c if { req.ssl_sni -i c.test }", servers);
    assert_eq!(findings, [""; 0]);
    has(&text, &["interval: 2s", "rise: 2", "fall: 3"]);
}

#[test]
fn a_backend_without_a_rule_is_reported() {
    let rules = " use_backend a if { req.ssl_sni -i -m beg www. }\n use_backend b if { req.ssl_sni -i -m beg x }\n \
                 use_backend b if { req.ssl_sni -i b.test }\n default_backend b";
    let (_, findings) = haproxy(rules, "");
    let part = "no rule leads to the backend `a` any more; names without another rule go to the default backend `b`";
    reports(&findings, &[part]);
    assert_eq!(findings.iter().filter(|finding| finding.contains("any more")).count(), 1, "{findings:#?}");
}

#[test]
fn what_would_need_much_memory_is_refused() {
    let text = format!("defaults\n{}{}", " retries 1\n".repeat(2_000), "backend a\n".repeat(600));
    let failure = run(Program::Haproxy, &[("h.cfg", &text)]).expect_err("too much");
    assert!(failure.place == "h.cfg:2502" && failure.message.contains("lines of `defaults`"), "{failure}");
    let label = format!("services:\n a:\n  labels:\n   - traefik{}=1\n", ".a".repeat(60_000 / 2));
    let failure = run(Program::Traefik, &[("c.yaml", &label)]).expect_err("too deep");
    assert_eq!(failure.to_string(), "c.yaml:4: the name of this label has more than 32 parts");
    let bomb = format!("a: &a {}\nb: [{}]\n", "x".repeat(60_000), vec!["*a"; 2_000].join(","));
    let failure = run(Program::Traefik, &[("t.yaml", &bomb)]).expect_err("a bomb");
    assert!(failure.message.contains("too many values"), "{failure}");
    let shares = "        - { name: s, weight: 1000000 }\n".repeat(4_300);
    let text = format!(
        "tcp:\n  routers:\n    a: {{ rule: HostSNI(`a.test`), service: w, tls: {{ passthrough: true }} }}\n    \
         b: {{ rule: HostSNI(`b.test`), service: s, tls: {{ passthrough: true }} }}\n  services:\n    \
         s: {{ loadBalancer: {{ servers: [{{ address: '10.0.0.1:443' }}] }} }}\n    w:\n      weighted:\n       services:\n{shares}"
    );
    let (_, findings) = imported(Program::Traefik, &[("t.yaml", &text)]);
    reports(&findings, &["a split needs 1 to 64 shares"]);
    assert!(findings.len() < 5, "{findings:#?}");
}

/// Wherever a file ends, and whatever replaces a part of it, the answer is a valid routing file or a failure with a place.
#[track_caller]
fn withstands(program: Program, files: &[(&str, &str)], cut: usize, junk: &str) {
    let mut files = with_ports(files);
    let text = &files[0].1;
    let mut at = cut % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let cut_off = text[..at].to_owned();
    let replaced = format!("{}{junk}{}", &text[..at], text.get(at + junk.len()..).unwrap_or_default());
    for changed in [cut_off, replaced] {
        files[0].1 = changed;
        let given: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        match run(program, &given) {
            Ok(Imported { text, .. }) => {
                let parsed = Config::parse(&text, Path::new("result"));
                // A part of a port can be that of a listener: the only thing that is not the import's own fault.
                let loops =
                    |problems: &crate::config::Problems| problems.iter().all(|p| p.message.contains("listener"));
                assert!(parsed.as_ref().err().is_none_or(loops), "{parsed:?}\n{text}");
            }
            Err(failure) => assert!(!failure.place.is_empty() && !failure.message.is_empty()),
        }
    }
}

proptest! {
    #[test]
    fn a_haproxy_file_may_end_anywhere(cut in 0_usize..4_000, junk in "[ -~\\n]{0,12}") {
        withstands(Program::Haproxy, HAPROXY, cut, &junk);
    }

    #[test]
    fn a_sniproxy_file_may_end_anywhere(cut in 0_usize..4_000, junk in "[ -~\\n]{0,12}") {
        withstands(Program::Sniproxy, SNIPROXY, cut, &junk);
    }

    #[test]
    fn a_traefik_file_may_end_anywhere(cut in 0_usize..4_000, junk in "[ -~\\n]{0,12}") {
        withstands(Program::Traefik, TRAEFIK, cut, &junk);
        withstands(Program::Traefik, &[("t.toml", TRAEFIK_TOML)], cut, &junk);
    }

    #[test]
    fn an_nginx_file_may_end_anywhere(cut in 0_usize..4_000, junk in "[ -~\\n]{0,12}") {
        withstands(Program::Nginx, NGINX, cut, &junk);
    }
}
