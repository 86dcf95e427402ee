use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::settings::{self, CheckKind, Family, Level, Others, SendVersion, Size, Splice, Starttls, ValueKind};

/// The listeners and pools that the tests of routes use.
const AROUND: &str = "listeners:\n  - { name: one, bind: 127.0.0.1:0 }\n  - { name: two, bind: 127.0.0.1:0 }\n\
                      pools:\n  p: { backends: [127.0.0.1:1] }\n  q: { backends: [127.0.0.1:2] }\n\
                      unmatched: { pool: p }\nno_sni: { pool: q }\nroutes:\n";

fn parse(text: &str) -> Result<Loaded, Problems> {
    Config::parse(text, Path::new("config.yaml"))
}

/// Loads `routes`, one per line, and returns the problems: `E` or `W`, and the number of the route.
fn reported(routes: &[&str]) -> Vec<String> {
    let list: String = routes.iter().map(|route| format!("  - {{ {route}, pool: p }}\n")).collect();
    let problems = match parse(&format!("{AROUND}{list}")) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    let first = AROUND.lines().count() as u32 + 1;
    let sign = |problem: &Problem| if problem.severity == Severity::Error { 'E' } else { 'W' };
    problems.iter().map(|problem| format!("{}{}", sign(problem), problem.place.line - first)).collect()
}

/// Removes what depends on how a file is formatted rather than on its content.
fn meaning(loaded: Loaded) -> Config {
    let mut config = loaded.config;
    config.settings.hash.clear();
    for place in config.routes.iter_mut().flat_map(|route| &mut route.patterns).map(|(_, place)| place) {
        (place.line, place.column) = (0, 0);
    }
    config
}

#[test]
fn a_backend_that_is_one_of_the_listeners_is_refused_with_both_places() {
    let reported = |bind: &str, backend: &str| {
        let listeners = format!("listeners:\n  - {{ name: l, bind: [\"127.0.0.1:0\", \"{bind}\"] }}\n");
        let pools = format!("pools:\n  p:\n    backends:\n      - 10.0.0.1:1\n      - {{ address: \"{backend}\" }}\n");
        match parse(&format!("{listeners}{pools}unmatched: {{ pool: p }}\n")) {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(problems) => problems.to_string(),
        }
    };
    let same = reported("192.0.2.1:443", "192.0.2.1:443");
    assert!(
        same.starts_with("config.yaml:7:9: pools.p.backends[1]: `192.0.2.1:443` is the listener at config.yaml:2:")
    );
    assert!(!same.contains("which listens on"), "{same}");
    for (bind, backend) in [("0.0.0.0:443", "127.0.0.1:443"), ("[::]:443", "127.0.0.1:443"), ("[::]:443", "[::1]:443")]
    {
        let reported = reported(bind, backend);
        assert!(reported.contains(&format!("`{backend}` is the listener at")), "{bind} {backend}: {reported}");
        assert!(reported.contains(&format!("which listens on `{bind}`")), "{bind} {backend}: {reported}");
    }
    // Whether that is a local address is known only at run time.
    assert_eq!(reported("0.0.0.0:443", "192.0.2.1:443"), "");
    assert_eq!(reported("192.0.2.1:443", "192.0.2.1:8443"), "");
    assert_eq!(reported("0.0.0.0:443", "unix:/run/a.sock"), "");
}

/// The page with the whole file.
const DOCS: &str = include_str!("../../docs/configuration.md");

/// The pages that describe keys.
const PAGES: [&str; 17] = [
    DOCS,
    include_str!("../../docs/access.md"),
    include_str!("../../docs/balancing.md"),
    include_str!("../../docs/docker.md"),
    include_str!("../../docs/ech.md"),
    include_str!("../../docs/health.md"),
    include_str!("../../docs/kubernetes.md"),
    include_str!("../../docs/limits.md"),
    include_str!("../../docs/listeners.md"),
    include_str!("../../docs/names.md"),
    include_str!("../../docs/observability.md"),
    include_str!("../../docs/port-80.md"),
    include_str!("../../docs/proxy-protocol.md"),
    include_str!("../../docs/reload.md"),
    include_str!("../../docs/routing.md"),
    include_str!("../../docs/security.md"),
    include_str!("../../docs/tuning.md"),
];

#[test]
fn the_documented_defaults_are_the_defaults() {
    let blocks = DOCS.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let full = blocks.max_by_key(|block| block.len()).expect("the docs hold the whole file");
    let minimal = "listeners: [{ name: https, bind: 0.0.0.0:8443 }]\n\
                   routes: [{ sni: shop.example.com, pool: shop }]\n\
                   pools: { shop: { backends: [10.0.0.11:443] } }\n";
    let [full, minimal] = [full, minimal].map(|text| parse(text).unwrap_or_else(|problems| panic!("{problems}")));
    assert!(full.warnings.is_empty() && minimal.warnings.is_empty());
    assert_eq!(meaning(full), meaning(minimal));
}

#[test]
fn the_first_example_of_the_docs_is_good() {
    let first = DOCS.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let loaded = parse(first).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn every_key_is_documented() {
    fn walk(schema: &serde_json::Value, keys: &mut Vec<String>) {
        match schema {
            serde_json::Value::Object(map) => {
                if let Some(serde_json::Value::Object(properties)) = map.get("properties") {
                    keys.extend(properties.keys().cloned());
                }
                map.values().for_each(|value| walk(value, keys));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| walk(value, keys)),
            _ => {}
        }
    }
    let mut keys = Vec::new();
    walk(super::schema::schema().as_value(), &mut keys);
    assert!(keys.len() > 80, "{keys:?}");
    for key in keys {
        let named = [format!("`{key}`"), format!(".{key}`")]
            .iter()
            .any(|written| PAGES.iter().any(|page| page.contains(written)));
        assert!(named, "no page of docs/ says anything of `{key}`");
    }
}

#[test]
fn what_the_file_says_is_what_the_config_holds() {
    let text = "listeners:\n  - { name: one, bind: [127.0.0.1:1, \"[::1]:2\"], max_connections: 7,\n      \
                proxy_protocol: { trusted: [10.0.0.0/8, 192.0.2.1] } }\n\
                routes:\n  - { name: r, sni: \"*.A.test.\", alpn: [h2], source: [10.0.0.0/8], listeners: [one],\n      \
                pool: p, idle_timeout: 2m }\n  - { sni: [b.test, c.test], refuse: reset }\n\
                not_tls: { pool: p }\n\
                pools:\n  p: { backends: [127.0.0.1:3, { address: \"[::1]:4\", weight: 9 }], send_proxy_protocol: v2,\n      \
                source_addresses: [127.0.0.2], connect: { timeout: 1s, attempts: 2, total: 3s } }\n\
                limits: { max_connections: 10, max_hello: 16KiB }\nrelay: { splice: off, pipe_size: 64KiB }\n\
                runtime: { workers: 3 }\nadmin: { bind: [] }\nlog: { level: debug, format: text, connections: failed }\n";
    let Config { settings, routes } = parse(text).unwrap_or_else(|problems| panic!("{problems}")).config;
    let Settings { listeners, not_tls, pools, limits, relay, runtime, admin, log, .. } = settings;

    assert_eq!(listeners[0].bind.len(), 2);
    assert_eq!(*listeners[0].max_connections, Some(7));
    let trusted = listeners[0].trusted_proxies().expect("given");
    assert_eq!(trusted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!(routes[0].patterns[0].0.to_string(), "*.a.test");
    assert_eq!((routes[0].patterns[0].1.line, routes[0].patterns[0].1.column), (5, 21));
    assert_eq!(routes[0].conditions.alpn, [Box::from(*b"h2")]);
    assert_eq!(routes[0].conditions.listeners, [0]);
    assert_eq!(routes[0].idle_timeout, Some(Span::from_secs(120)));
    assert_eq!((&*routes[1].name, &routes[1].to), ("b.test", &Destination::Refuse(Refuse::Reset)));
    assert_eq!(not_tls, Destination::Pool(0));
    assert_eq!(pools[0].backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [1, 9]);
    assert_eq!(pools[0].send_proxy_protocol.version, SendVersion::V2);
    assert_eq!(pools[0].connect.attempts, 2);
    assert_eq!((*limits.max_connections, *limits.max_hello), (Some(10), 16 << 10));
    assert_eq!(relay, Relay { splice: Splice::Off, pipe_size: Size(64 << 10) });
    assert_eq!((*runtime.workers, admin.bind.len(), log.level), (Some(3), 0, Level::Debug));
}

#[test]
fn congestion_control_is_the_general_one_unless_another_is_named() {
    let text = "tcp: { congestion: cubic }\nlisteners:\n  - { name: one, bind: 127.0.0.1:0 }\n  - { name: two, bind: 127.0.0.1:0, congestion: bbr }\n\
                routes: [{ sni: a.test, pool: p }, { sni: b.test, pool: q }]\n\
                pools: { p: { backends: [127.0.0.1:1], congestion: system }, q: { backends: [127.0.0.1:2] } }\n";
    let Config { settings: Settings { listeners, pools, .. }, .. } =
        parse(text).unwrap_or_else(|problems| panic!("{problems}")).config;
    let named = [&listeners[0].congestion, &listeners[1].congestion, &pools[0].congestion, &pools[1].congestion];
    assert_eq!(named.map(settings::named), [Some("cubic"), Some("bbr"), None, Some("cubic")]);
    let wrong = parse(&text.replace("cubic", "\"cu bic\"")).expect_err("refused").to_string();
    assert!(wrong.contains("tcp.congestion: `cu bic` is not a congestion control"), "{wrong}");
}

#[test]
fn a_split_that_makes_no_sense_is_reported_with_its_cure() {
    let problems = |route: &str, rest: &str| {
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0 }}]\nroutes: [{{ sni: a.test, {route} }}]\n{rest}\n\
             pools: {{ blue: {{ backends: [127.0.0.1:1] }}, green: {{ backends: [127.0.0.1:2] }} }}\n"
        );
        match parse(&text) {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(problems) => problems.to_string(),
        }
    };
    let good = "split: [{ pool: blue, weight: 0 }, { pool: green, weight: 1000000 }]";
    assert_eq!(problems(good, ""), "");
    let many = format!("split: [{}]", vec!["{ pool: blue, weight: 1 }"; 65].join(", "));
    for (route, place, reported) in [
        ("split: [{ pool: bleu, weight: 1 }]", "split[0].pool", "there is no pool `bleu`; did you mean `blue`?"),
        ("split: [{ pool: blue, weight: 1 }], pool: blue", "split", "`pool` and `split` cannot be used together"),
        ("split: [{ pool: blue, weight: 1 }], refuse: close", "refuse", "`split` and `refuse` cannot be used together"),
        (
            "split: [{ pool: blue, weight: 1 }], pool: blue, refuse: close",
            "refuse",
            "`pool`, `split` and `refuse` cannot",
        ),
        ("pool: blue, refuse: close", "refuse", "`pool` and `refuse` cannot be used together; remove one"),
        ("split: [{ pool: blue, weight: 1 }, { pool: blue, weight: 2 }]", "split[1].pool", "add the weights up"),
        ("split: [{ pool: blue, weight: 0 }, { pool: green, weight: 0 }]", "split", "all weights are 0"),
        ("split: [{ pool: blue, weight: 1000001 }]", "split[0].weight", "0 to 1000000"),
        ("split: [{ pool: blue, weight: -1 }]", "split[0].weight", "whole number"),
        ("split: [{ pool: blue, weight: 10% }]", "split[0].weight", "whole number"),
        ("split: [{ pool: blue }]", "split[0]", "`weight` is missing"),
        ("split: [{ weight: 1 }]", "split[0]", "`pool` is missing"),
        ("split: [{ pool: blue, wieght: 1 }]", "split[0]", "did you mean `weight`?"),
        ("split: [blue]", "split[0]", "expected a map with the keys `pool`, `weight`"),
        (
            "split: { blue: 90, green: 10 }",
            "split",
            "expected a list of shares, `[{ pool: NAME, weight: NUMBER }]`, found a map",
        ),
        ("split: blue", "split", "expected a list of shares, `[{ pool: NAME, weight: NUMBER }]`, found `blue`"),
        ("split: []", "split", "at least one share"),
        ("split:", "split", "found nothing"),
        (&many, "split", "at most 64 shares; this one has 65"),
        ("name: r", "routes[0]", "add `pool`, `split` or `refuse`"),
    ] {
        let problems = problems(route, "");
        assert!(problems.contains(reported) && problems.contains(place), "{route}: {problems}");
    }
    let fallback = problems("pool: blue", "unmatched: { split: [{ pool: grean, weight: 1 }] }");
    assert!(fallback.contains("unmatched.split[0].pool: there is no pool `grean`"), "{fallback}");
    let unused = problems("split: [{ pool: blue, weight: 1 }]", "");
    assert!(unused.contains("pools.green: no route leads to this pool") && !unused.contains("pools.blue"), "{unused}");
}

/// Loads a pool with these keys besides its backend, and these routes.
fn pool(keys: &str, routes: &str) -> Result<Loaded, Problems> {
    let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    parse(&format!(
        "listeners: [{{ name: l, bind: 127.0.0.1:0 }}]\nroutes: {routes}\npools:\n  p:\n    backends: [127.0.0.1:1]\n{keys}"
    ))
}

#[test]
fn values_of_a_proxy_header_that_make_no_sense_are_reported_with_their_cure() {
    let routes = "[{ sni: a.test, pool: p }]";
    let sent = |keys: &str| pool(&format!("send_proxy_protocol: {keys}"), routes);
    for good in ["off", "v1", "v2", "false", "{ version: v1 }", "{ version: v2, relay: [], add: {} }"] {
        let loaded = sent(good).unwrap_or_else(|problems| panic!("{good}: {problems}"));
        assert_eq!(loaded.warnings.to_string(), "", "{good}");
    }
    let loaded = sent("{ version: v2, relay: [0xea, 224, \"0x05\"], add: { 0xe4: a, 229: \"2\" } }");
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.to_string().contains("no listener has `proxy_protocol`"), "{}", loaded.warnings);
    let settings = &loaded.config.pools[0].send_proxy_protocol;
    assert_eq!(settings.relay, [0xea, 0xe0, 5].map(ValueKind));
    let added = settings.add.0.iter().map(|added| (added.kind, &*added.value)).collect::<Vec<_>>();
    assert_eq!(added, [(0xe4, "a"), (0xe5, "2")]);
    let written =
        r#""send_proxy_protocol":{"version":"v2","relay":["0xea","0xe0","0x05"],"add":{"0xe4":"a","0xe5":"2"}}"#;
    let effective = loaded.config.to_text();
    assert!(effective.contains(written), "{effective}");

    let long = format!("{{ version: v2, add: {{ 0xe4: {} }} }}", "x".repeat(129));
    let many = format!("{{ version: v2, add: {{ 0xe4: {0}, 0xe5: {0} }} }}", "x".repeat(98));
    for (keys, place, reported) in [
        (
            "v3",
            "send_proxy_protocol",
            "expected `off`, `v1`, `v2` or `{ version: v2, relay: [TYPE], add: { TYPE: TEXT } }`, found `v3`",
        ),
        ("{ relay: [0xea] }", "send_proxy_protocol", "`version` is missing"),
        ("{ version: v2, replay: [0xea] }", "replay", "did you mean `relay`?"),
        (
            "{ version: v1, relay: [0xea] }",
            "send_proxy_protocol.relay",
            "version 1 has no room for values; write `version: v2`",
        ),
        ("{ version: v1, add: { 0xe4: a } }", "send_proxy_protocol.add", "write `version: v2`"),
        ("{ version: off, add: { 0xe4: a } }", "send_proxy_protocol.add", "write `version: v2`"),
        ("{ version: v2, relay: [0xea, 234] }", "relay[1]", "the type `0xea` is given twice"),
        ("{ version: v2, relay: [0xe4], add: { 0xe4: a } }", "relay[0]", "a header has each once"),
        ("{ version: v2, relay: [0x02] }", "relay[0]", "`0x02` is not the type of a value, `0xe0` to `0xef` or `0x05`"),
        ("{ version: v2, relay: 0xea }", "relay", "write `[0xea]`"),
        ("{ version: v2, add: { 0xe4: a, 0xE4: b } }", "add", "the type `0xe4` is given twice"),
        ("{ version: v2, add: { 5: id } }", "add", "every header has a UNIQUE_ID"),
        ("{ version: v2, add: { 0xf0: a } }", "add.0xf0", "`0xf0` is not the type of a value"),
        ("{ version: v2, add: { 0xe4: 1 } }", "add.0xe4", "write \"1\" in quotes"),
        ("{ version: v2, add: { 0xe4: \"\" } }", "add.0xe4", "the text is empty"),
        ("{ version: v2, add: [0xe4] }", "add", "expected a map of types and texts"),
        (&long, "add.0xe4", "at most 128 bytes"),
        (&many, "send_proxy_protocol.add", "the values take 202 bytes, 3 more each than their text; at most 200"),
    ] {
        let problems = sent(keys).expect_err(keys).to_string();
        assert!(problems.contains(reported) && problems.contains(place), "{keys}: {problems}");
        assert_eq!(problems.lines().count(), 1, "one mistake is one problem: {problems}");
    }
}

#[test]
fn others_beside_trusted_proxies_are_refused_unless_the_file_says_plain() {
    let others = |keys: &str| {
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0, proxy_protocol: {{ trusted: [10.0.0.0/8]{keys} }} }}]\n\
             routes: [{{ sni: a.test, pool: p }}]\npools: {{ p: {{ backends: [127.0.0.1:1] }} }}\n"
        );
        parse(&text).map(|loaded| loaded.config.listeners[0].other_peers()).map_err(|problems| problems.to_string())
    };
    assert_eq!(others(""), Ok(Others::Refuse));
    assert_eq!(others(", others: refuse"), Ok(Others::Refuse));
    assert_eq!(others(", others: plain"), Ok(Others::Plain));
    let wrong = others(", others: plan").expect_err("refused");
    assert!(wrong.contains("did you mean `plain`?"), "{wrong}");
}

#[test]
fn a_tls_check_asks_for_the_first_exact_name_of_its_pool() {
    let asked = |check: &str, routes: &str| {
        let loaded = pool(&format!("health_check: {check}"), routes).unwrap_or_else(|problems| panic!("{problems}"));
        let check = loaded.config.pools[0].health_check.as_ref().expect("set");
        assert_eq!(check.kind, CheckKind::Tls);
        (check.sni.as_ref().map(ToString::to_string), loaded.warnings.to_string())
    };
    let routes = "[{ sni: [\"*.a.test\", b.test], pool: p }, { sni: c.test, pool: p }]";
    assert_eq!(asked("{}", routes), (Some("b.test".to_owned()), String::new()));
    assert_eq!(asked("{ sni: x.test }", routes), (Some("x.test".to_owned()), String::new()));
    let (none, warning) = asked("{}", "[{ sni: \"*.a.test\", pool: p }]");
    assert!(none.is_none() && warning.contains("pools.p.health_check") && warning.contains("set `sni`"), "{warning}");
    // The route that leads there may be the one with the error.
    let misspelt = pool("health_check: {}", "[{ sni: a.test, pool: pp }]").expect_err("refused");
    assert_eq!((misspelt.errors(), misspelt.warnings()), (1, 0), "{misspelt}");
}

#[test]
fn a_check_begins_as_the_connections_do_that_come_to_its_pool() {
    let begins = |check: &str, routes: &str| {
        let text = format!(
            "listeners:\n  - {{ name: pg, bind: 127.0.0.1:0, starttls: postgres }}\n  - {{ name: tls, bind: 127.0.0.1:0 }}\n\
             routes: [{routes}]\nunmatched: {{ pool: q }}\n\
             pools:\n  p: {{ backends: [127.0.0.1:1], health_check: {check} }}\n  q: {{ backends: [127.0.0.1:2] }}\n"
        );
        let loaded = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
        (loaded.config.pools[0].starttls, loaded.warnings.to_string())
    };
    let (pg, tls) = ("{ sni: a.test, listeners: [pg], pool: p }", "{ sni: b.test, listeners: [tls], pool: p }");
    assert_eq!(begins("{}", pg), (Starttls::Postgres, String::new()));
    assert_eq!(begins("{}", tls), (Starttls::None, String::new()));
    let split = "{ sni: a.test, listeners: [pg], split: [{ pool: p, weight: 1 }, { pool: q, weight: 1 }] }";
    assert_eq!(begins("{}", split), (Starttls::Postgres, String::new()));
    for both in [&format!("{pg}, {tls}"), "{ sni: a.test, pool: p }"] {
        let (starttls, warning) = begins("{}", both);
        assert_eq!(starttls, Starttls::None);
        assert!(
            warning.starts_with("config.yaml:7:3: warning: pools.p.health_check: the listeners `pg`,"),
            "{warning}"
        );
        assert!(warning.contains("set `starttls` of the check, or `listeners` of the routes"), "{warning}");
        assert_eq!(begins("{ starttls: postgres }", both), (Starttls::Postgres, String::new()));
        assert_eq!(begins("{ starttls: none }", both), (Starttls::None, String::new()));
        // It sends nothing.
        assert_eq!(begins("{ kind: tcp }", both).1, "");
    }
    assert_eq!(begins("{ starttls: none }", pg).0, Starttls::None);
}

#[test]
fn checks_and_ejection_that_make_no_sense_are_reported_the_right_way() {
    for (keys, reported) in [
        ("health_check: { kind: tcp, verify: true }", "only `kind: tls`"),
        ("health_check: { kind: http, port: 80, sni: a.test }", "only `kind: tls` uses this"),
        ("health_check: { path: /healthz }", "only `kind: http` uses this; remove it, or add `kind: http`"),
        ("health_check: { kind: text, expect: a, status: 200 }", "remove it, or write `kind: http`"),
        ("health_check: { kind: http, expect: ok }", "only `kind: text` uses this"),
        ("health_check: { kind: text, port: 80 }", "needs `expect`"),
        ("health_check: { kind: text, expect: \"\" }", "an empty text checks nothing"),
        ("health_check: { kind: http }", "checks do not speak TLS, but go to the port that TLS connections go to"),
        ("health_check: { kind: http, path: healthz }", "a path begins with `/`; write `/healthz`"),
        ("health_check: { kind: http, path: \"http://a.test:80/x\" }", "write `/x`"),
        ("health_check: { kind: http, path: \"/a b\" }", "percent-encoded"),
        ("health_check: { kind: http, path: \"/a#b\" }", "`#` is not sent"),
        ("health_check: { kind: http, host: \"a.test/x\" }", "is not a host"),
        ("health_check: { kind: http, status: 2xx }", "`2xx` is written `200-299`"),
        ("health_check: { kind: http, status: 399-200 }", "write `200-399`"),
        ("health_check: { kind: http, status: 99 }", "from 200 to 599"),
        ("health_check: { kind: http, status: [200, ok] }", "`ok` is not a status code"),
        ("health_check: { kind: http, status: [] }", "an empty list lets no answer pass"),
        ("health_check: { kind: https }", "expected one of `tcp`, `tls`, `http`, `text`, found `https`"),
        (
            "health_check: true",
            "expected a map such as `{ kind: tcp }` (`{}` checks TLS handshakes; without the key there",
        ),
        ("health_check: off", "found `off`"),
        ("health_check: { kidn: tcp }", "did you mean `kind`?"),
        ("health_check: { kind: tcp, starttls: postgres }", "only `kind: tls`"),
        ("health_check: { starttls: postgre }", "did you mean `postgres`?"),
        ("health_check: { ca_file: Cargo.toml, verify: true }", "no PEM certificate"),
        ("health_check: { ca_file: /nonexistent.pem, verify: true }", "/nonexistent.pem"),
        ("health_check: { rise: 0 }", "must be from 1 to 100"),
        ("health_check: { port: 70000 }", "1 to 65535"),
        ("health_check: { interval: 1s, timeout: 2s, sni: a.test }", "longer than the interval of 1s"),
        ("health_check: { sni: \"*.test\" }", "one name"),
        ("ejection: { failures: 0 }", "`ejection: off`"),
        ("ejection: { base: 1m, max: 30s }", "shorter than the first"),
        ("resolve: { min_ttl: 1m, max_ttl: 30s }", "must not be shorter than `min_ttl`"),
        ("balance: least_conn", "least_connections"),
        ("queue: { size: 9 }", "no backend of the pool has `max_connections`"),
        ("queue: { size: 1000001 }", "must be from 0 to 1000000"),
        ("queue: { size: -1 }", "pools.p.queue.size"),
        ("queue: { size: 9, timeout: 0s }", "must be from 1ms to 1h"),
        ("queue: { timeout: 3s }", "no effect without `size`"),
        ("queue: { length: 9 }", "pools.p.queue"),
        ("queue: 9", "pools.p.queue"),
        ("transparent: true\nqueue: { size: 9 }", "not possible with `transparent`"),
        ("on_down: close", "no effect without `health_check`"),
        ("on_down: shut", "`keep`"),
    ] {
        let problems = match pool(keys, "[{ sni: a.test, pool: p }]") {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(problems) => problems.to_string(),
        };
        assert!(problems.contains(reported) && problems.contains("pools.p."), "{keys}: {problems}");
    }
    let off = pool("ejection: off", "[{ sni: a.test, pool: p }]").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(off.config.pools[0].ejection.0, None);
}

#[test]
fn ages_limits_and_intervals_that_make_no_sense_are_reported_with_their_place() {
    let listen = "listeners: [{ name: l, bind: 127.0.0.1:0 }]\npools: { p: { backends: [127.0.0.1:1] } }\n";
    for (key, path, says) in [
        ("routes: [{ sni: a.test, pool: p, max_age: 100ms }]", "routes[0].max_age", "must be from 1s to 672h"),
        ("routes: [{ sni: a.test, pool: p, max_age: 700h }]", "routes[0].max_age", "must be from 1s to 672h"),
        ("routes: [{ sni: a.test, pool: p, max_age: soon }]", "routes[0].max_age", "or write `off`"),
        (
            "routes: [{ sni: a.test, refuse: reset, max_age: 1h }]",
            "routes[0].max_age",
            "no effect on a route that refuses",
        ),
        ("routes: [{ sni: a.test, pool: p, max_connections: 0 }]", "routes[0].max_connections", "from 1 up"),
        ("routes: [{ sni: a.test, refuse: close, max_connections: 9 }]", "routes[0].max_connections", "no effect on"),
        ("timeouts: { max_age: 0s }", "timeouts.max_age", "must be from 1s to 672h"),
        ("log: { interval: 10ms }", "log.interval", "must be from 1s to 168h"),
        ("log: { interval: never }", "log.interval", "or write `off`"),
        ("log: { format: xml }", "log.format", "expected one of"),
        ("log: { fields: gelf }", "log.fields", "expected one of"),
        ("log: { format: pretty, fields: ecs }", "log.fields", "write `format: json`"),
        ("log: { format: logfmt, fields: otel }", "log.fields", "or `fields: native`"),
        ("log: { connections: some }", "log.connections", "expected one of"),
        ("log: { probes: maybe }", "log.probes", "true"),
        ("log: { refusals: 100 }", "log.refusals", "write `50/s`"),
        ("log: { refusals: 0/s }", "log.refusals", "or write `off`"),
        ("log: { names: plain }", "log.names", "expected one of"),
        ("log: { clients: masked }", "log.clients", "expected one of"),
        ("log: { file: '' }", "log.file", "or `none`"),
        ("log: { file: .. }", "log.file", "or `none`"),
    ] {
        let problems = match parse(&format!("{listen}{key}\n")) {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(problems) => problems.to_string(),
        };
        assert!(problems.contains(&format!(": {path}: ")) && problems.contains(says), "{key}: {problems}");
    }
}

#[test]
fn names_are_looked_up_as_the_pool_says() {
    let resolve = |keys: &str| {
        let around = AROUND.replace("q: { backends", &format!("q: {{ resolve: {{ {keys} }}, backends"));
        parse(&around.replace("routes:\n", "routes: []\n")).map(|loaded| loaded.config.pools[1].resolve.clone())
    };
    let given =
        resolve("min_ttl: 1s, family: v6, nameservers: [10.0.0.53, '10.0.0.54:5353', '2001:db8::53', '[::1]:54']");
    let given = given.expect("good");
    assert_eq!((given.min_ttl, given.max_ttl, given.family), (Span::from_secs(1), Span::from_secs(300), Family::V6));
    let asked: Vec<String> = given.nameservers.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["10.0.0.53:53", "10.0.0.54:5353", "[2001:db8::53]:53", "[::1]:54"]);
    assert!(resolve("").expect("good").nameservers.is_empty());
    for (wrong, says) in [
        ("nameservers: [dns.test]", "must be an address"),
        ("nameservers: ['10.0.0.1:0']", "cannot have this address or port"),
        ("nameservers: [10.0.0]", "is not a valid address"),
        ("nameservers: 10.0.0.1", "expected a list"),
        ("min_ttl: 10s, max_ttl: 5s", "must not be shorter than `min_ttl`"),
        ("min_ttl: 1ms", "must be from 100ms"),
    ] {
        let problems = resolve(wrong).expect_err(wrong);
        assert!(problems.iter().any(|problem| problem.message.contains(says)), "{wrong}:\n{problems}");
    }
}

#[test]
fn two_routes_that_could_both_hold_are_a_conflict() {
    let none: [&str; 0] = [];
    assert_eq!(reported(&["sni: a.test", "sni: A.test."]), ["E1"]);
    assert_eq!(reported(&["sni: [a.test, b.test, a.test]"]), ["E0"]);
    assert_eq!(reported(&["sni: a.test", "sni: '*.test'", "sni: '**.test'", "sni: '*'"]), none);
    // Overlapping lists, for every kind of condition that is present.
    assert_eq!(reported(&["sni: a.test, alpn: [h2, x]", "sni: a.test, alpn: [y, h2]"]), ["E1"]);
    assert_eq!(reported(&["sni: a.test, source: [10.0.0.0/8]", "sni: a.test, source: [10.1.0.0/16]"]), ["E1"]);
    assert_eq!(reported(&["sni: a.test, source: [10.1.0.0/16]", "sni: a.test, source: [10.0.0.0/8]"]), ["E1"]);
    assert_eq!(reported(&["sni: a.test, source: [10.0.0.0/8]", "sni: a.test, source: [11.0.0.0/8]"]), none);
    assert_eq!(reported(&["sni: a.test, source: [10.0.0.0/8, 10.0.0.0/9]"]), none);
    assert_eq!(reported(&["sni: a.test, source: ['::/0']", "sni: a.test, source: [10.0.0.0/8]"]), none);
    assert_eq!(reported(&["sni: a.test, listeners: [one]", "sni: a.test, listeners: [two, one]"]), ["E1"]);
    assert_eq!(reported(&["sni: a.test, listeners: [one]", "sni: a.test, listeners: [two]"]), none);
    // Entries that are disjoint in one kind of condition are disjoint.
    let apart =
        ["sni: a.test, listeners: [one], source: [10.0.0.0/8]", "sni: a.test, listeners: [two], source: [10.0.0.0/8]"];
    assert_eq!(reported(&apart), none);
    // Different kinds: the entry with more kinds comes first.
    assert_eq!(
        reported(&["sni: a.test", "sni: a.test, alpn: [h2]", "sni: a.test, alpn: [h2], listeners: [one]"]),
        none
    );
}

#[test]
fn a_client_may_offer_protocols_of_two_routes() {
    assert_eq!(reported(&["sni: a.test, alpn: [h2]", "sni: a.test, alpn: [http/1.1]"]), ["E1"]);
    let apart = ["sni: a.test, alpn: [h2], listeners: [one]", "sni: a.test, alpn: [http/1.1], listeners: [two]"];
    assert_eq!(reported(&apart).len(), 0);
}

#[test]
fn a_route_is_reported_to_be_unreachable_only_if_it_is() {
    let none: [&str; 0] = [];
    assert_eq!(reported(&["sni: a.test", "sni: a.test, listeners: [one, two]"]), ["W0"]);
    assert_eq!(reported(&["sni: a.test", "sni: a.test, listeners: [one]"]), none);
    assert_eq!(reported(&["sni: a.test", "sni: a.test, source: [0.0.0.0/0, '::/0']"]), ["W0"]);
    assert_eq!(reported(&["sni: a.test", "sni: a.test, source: [0.0.0.0/0]"]), none);
    assert_eq!(reported(&["sni: a.test, alpn: [h2]", "sni: a.test, alpn: [h2, x], listeners: [two, one]"]), ["W0"]);
    assert_eq!(reported(&["sni: a.test, alpn: [h2, y]", "sni: a.test, alpn: [h2, x], listeners: [two, one]"]), none);
}

#[test]
fn a_pool_and_a_listener_that_nothing_uses_are_reported() {
    let text = "listeners:\n  - { name: one, bind: 127.0.0.1:0 }\n  - { name: two, bind: 127.0.0.1:0 }\n\
                pools: { p: { backends: [127.0.0.1:1] }, q: { backends: [127.0.0.1:2] } }\n\
                routes: [{ sni: a.test, listeners: [one], pool: p }]\n";
    let warnings = parse(text).expect("usable").warnings;
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(paths, ["listeners[1]", "pools.q"]);
}

#[test]
fn routes_without_a_name_are_called_after_their_first_pattern() {
    let names = |routes: &str| {
        let loaded = parse(&format!("{AROUND}{routes}")).unwrap_or_else(|problems| panic!("{problems}"));
        loaded.config.routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>()
    };
    let same = "  - { sni: a.test, pool: p }\n  - { sni: a.test, alpn: [h2], pool: p }\n  - { sni: b.test, name: a.test#2, pool: p }\n";
    assert_eq!(names(same), ["a.test", "a.test#3", "a.test#2"]);
    let twice =
        parse(&format!("{AROUND}  - {{ sni: a.test, name: x, pool: p }}\n  - {{ sni: b.test, name: x, pool: p }}\n"));
    assert!(twice.expect_err("refused").to_string().contains("a route named `x` is already defined"));
}

#[test]
fn a_problem_prints_as_one_line() {
    let problems = parse("listeners: []\nlog: { level: \"a\\nb\" }\n").expect_err("refused").to_string();
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines[0], "config.yaml:1:12: listeners: the list is empty; at least one listener is needed");
    assert_eq!(lines.len(), 2, "{problems}");
}

/// Whether two conditions of the same kinds can match one client, by comparing each pair of values; a client may offer
/// any protocols.
fn intersect(a: &Conditions, b: &Conditions) -> bool {
    let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    let source = a.source.is_empty() || a.source.iter().any(|a| b.source.iter().any(|b| overlap(a, b)));
    let listeners = a.listeners.is_empty() || a.listeners.iter().any(|listener| b.listeners.contains(listener));
    source && listeners
}

fn some_conditions() -> impl Strategy<Value = String> {
    let alpn = proptest::sample::subsequence(vec!["h2", "x", "y"], 0..=2);
    let source =
        proptest::sample::subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "11.0.0.0/8", "'::/0'"], 0..=2);
    let listeners = proptest::sample::subsequence(vec!["one", "two"], 0..=2);
    (alpn, source, listeners).prop_map(|(alpn, source, listeners)| {
        let list = |key: &str, values: &[&str]| match values {
            [] => String::new(),
            some => format!(", {key}: [{}]", some.join(", ")),
        };
        format!("{}{}{}", list("alpn", &alpn), list("source", &source), list("listeners", &listeners))
    })
}

proptest! {
    #[test]
    fn conflicts_are_those_that_comparing_each_with_each_finds(
        conditions in proptest::collection::vec(some_conditions(), 1..8)
    ) {
        // Each under its own name first, to get the conditions parsed.
        let apart: Vec<String> = (0..).zip(&conditions).map(|(n, more)| format!("sni: a{n}.test{more}")).collect();
        let list: String = apart.iter().map(|route| format!("  - {{ {route}, pool: p }}\n")).collect();
        let parsed = parse(&format!("{AROUND}{list}")).expect("nothing conflicts").config.routes;
        let kinds = |c: &Conditions| (c.alpn.is_empty(), c.source.is_empty(), c.listeners.is_empty());
        let conflicts = |later: usize| parsed[..later].iter().any(|earlier| {
            let (a, b) = (&earlier.conditions, &parsed[later].conditions);
            kinds(a) == kinds(b) && intersect(a, b)
        });
        let expected: Vec<String> = (0..parsed.len()).filter(|&later| conflicts(later)).map(|n| format!("E{n}")).collect();

        let together: Vec<String> = conditions.iter().map(|more| format!("sni: a.test{more}")).collect();
        let mut found = reported(&together.iter().map(String::as_str).collect::<Vec<_>>());
        found.retain(|one| one.starts_with('E'));
        found.dedup();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}|[\\[\\]{}:,&*!|>'\"%@#\\- \na-c0-9~?\t]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_mangled_file_makes_the_reader_panic(
        cuts in proptest::collection::vec((0usize..4000, 0usize..40, "[\\[\\]{}:,&*!|>'\"#\\- \na-z0-9~?]{0,6}"), 1..6)
    ) {
        let files = [include_str!("../../config.yaml"), include_str!("../../tests/data/config/many-problems.yaml"), DOCS];
        let blocks = DOCS.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for file in files.into_iter().chain(blocks) {
            let mut text: Vec<char> = file.chars().collect();
            for (at, length, replacement) in &cuts {
                let start = at % text.len().max(1);
                let end = (start + length).min(text.len());
                text.splice(start.min(end)..end, replacement.chars());
            }
            let text: String = text.into_iter().collect();
            if let Err(problems) = parse(&text) {
                prop_assert!(problems.errors() > 0, "refused without a reason: {}", text);
            }
        }
    }
}

#[test]
fn a_file_that_is_included_by_mistake_is_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let (main, other) = (directory.path().join("main.yaml"), directory.path().join("other"));
    fs::write(&main, "listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\ninclude: [other]\n").unwrap();
    for text in [
        "root:$6$SECRET:19000:0:99999:7:::\nbin:*:SECRET:0:99999:7:::\n",
        "root:$6$SECRET:::\nroot:$6$SECRET:::\n",
        "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n",
        "SECRET\n",
        "user=admin\npassword=SECRET\n",
        "routes: text with a SECRET\npools: [and, a SECRET]\n",
    ] {
        fs::write(&other, text).unwrap();
        let problems = Config::load(&main).expect_err(text).to_string();
        assert!(!problems.contains("SECRET"), "{text}{problems}");
    }
}

#[test]
fn routes_for_encrypted_names_and_for_names_in_the_clear_do_not_meet() {
    let file = |routes: &str| {
        format!(
            "listeners: [{{ name: l, bind: \"127.0.0.1:1\" }}]\nroutes:\n{routes}pools: {{ p: {{ backends: [10.0.0.1:443] }} }}\n"
        )
    };
    let both = "  - { sni: a.test, ech: only, pool: p }\n  - { name: b, sni: a.test, ech: never, refuse: reset }\n";
    let loaded = parse(&file(both)).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.to_string().contains("`a.test` with `ech: only` is never reached"), "{}", loaded.warnings);
    let ech: Vec<_> = loaded.config.routes.iter().map(|route| route.conditions.ech).collect();
    assert_eq!(ech, [crate::settings::EchCondition::Only, crate::settings::EchCondition::Never]);

    let twice =
        "  - { name: a, sni: a.test, ech: only, pool: p }\n  - { name: b, sni: a.test, ech: only, refuse: reset }\n";
    let problems = parse(&file(twice)).expect_err("a conflict").to_string();
    assert!(problems.contains("route `a` already matches `a.test`"), "{problems}");
    let wrong = parse(&file("  - { sni: a.test, ech: maybe, pool: p }\n")).expect_err("no such word").to_string();
    assert!(wrong.contains("routes[0].ech"), "{wrong}");
}

#[cfg(feature = "ech")]
#[test]
fn the_keys_of_encrypted_hellos_are_read_and_their_problems_reported_with_their_place() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let load = |ech: &str| {
        let text = format!(
            "listeners: [{{ name: l, bind: \"127.0.0.1:1\" }}]\nech: {ech}\nroutes: [{{ sni: a.test, pool: p }}]\n\
             pools: {{ p: {{ backends: [10.0.0.1:443] }} }}\n"
        );
        let main = directory.path().join("config.yaml");
        std::fs::write(&main, text).unwrap();
        Config::load(&main)
    };
    let problems = |ech: &str| load(ech).map(|loaded| loaded.warnings).unwrap_or_else(|problems| problems).to_string();
    write("1.pem", &crate::ech::generate(1, 0, "public.test").unwrap().pem, 0o600);
    write("2.pem", &crate::ech::generate(2, 0, "a.test").unwrap().pem, 0o600);

    let loaded = load("{ keys: [1.pem, 2.pem], try_all: true }").unwrap_or_else(|problems| panic!("{problems}"));
    let ids: Vec<u8> = loaded.config.ech_keys.iter().flat_map(|keys| keys.iter()).map(|key| key.config.id).collect();
    assert_eq!(ids, [1, 2]);
    let warnings = loaded.warnings.to_string();
    assert!(warnings.contains("no route takes the public name `public.test` of `1.pem`"), "{warnings}");
    assert!(!warnings.contains("`a.test`"), "{warnings}");
    let (hash, files) = (loaded.config.hash.clone(), loaded.config.sources.present());
    assert!(files.contains(&directory.path().join("2.pem")), "{files:?}");
    write("1.pem", &crate::ech::generate(3, 0, "public.test").unwrap().pem, 0o600);
    assert_ne!(load("{ keys: [1.pem, 2.pem], try_all: true }").unwrap().config.hash, hash);

    write("half.pem", "-----BEGIN PRIVATE KEY-----\nMC4C", 0o600);
    assert!(problems("{ keys: . }").contains("half.pem` is skipped"), "{}", problems("{ keys: . }"));
    write("2.pem", &crate::ech::generate(2, 0, "a.test").unwrap().pem, 0o644);
    for (ech, expected) in [
        ("{ keys: 2.pem }", "ech.keys: every user may read or change"),
        ("{ keys: half.pem }", "ech.keys: there is no usable key"),
        ("{ keys: none.pem }", "none.pem` cannot be read"),
        ("{ keys: [] }", "at least one key file is needed"),
        ("{}", "`keys` is missing"),
        ("{ keys: 1.pem, tryall: true }", "did you mean `try_all`?"),
    ] {
        let problems = problems(ech);
        assert!(problems.contains(expected), "{ech}: {problems}");
    }
}
