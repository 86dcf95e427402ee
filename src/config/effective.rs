//! Writes a configuration as a routing file, with every default filled in.
//!
//! In:  a [`Config`].
//! Out: JSON, which is also YAML: parsed as a routing file, it gives the same configuration.

use std::sync::Arc;

use super::file::{Fallback, File, Route, Share};
use super::{Config, Destination, Settings};
use crate::settings::{OrOff, Protocol, SniEntry, Text};

/// The file as one line.
pub(super) fn text(config: &Config) -> String {
    let Config { settings, routes } = config;
    let pools = settings.pools.iter().map(|pool| (Arc::clone(&pool.name), pool.clone()));
    let file = File {
        listeners: settings.listeners.clone(),
        routes: routes.iter().filter(|route| is_written(route)).map(|from| route(from, settings)).collect(),
        no_sni: fallback(&settings.no_sni, settings),
        unmatched: fallback(&settings.unmatched, settings),
        not_tls: fallback(&settings.not_tls, settings),
        pools: pools.collect(),
        include: None,
        ech: settings.ech.clone(),
        timeouts: settings.timeouts,
        limits: settings.limits.clone(),
        relay: settings.relay,
        tcp: settings.tcp.clone(),
        runtime: settings.runtime,
        sandbox: settings.sandbox,
        admin: settings.admin.clone(),
        log: settings.log.clone(),
        reload: settings.reload,
        docker: settings.docker.clone(),
        kubernetes: settings.kubernetes.clone(),
    };
    serde_json::to_string(&file).expect("text, numbers, lists and maps with text keys can be written") + "\n"
}

/// Names with a pool of their own are in the file that another route names.
fn is_written(route: &super::Route) -> bool {
    route.listed.as_ref().is_none_or(|listed| listed.pool.is_none())
}

/// The patterns, and the files instead of those that are from files.
fn sni(from: &super::Route) -> Vec<Text<SniEntry>> {
    let (inline, files) = match &from.listed {
        None => (from.patterns.len(), &[][..]),
        Some(listed) => (listed.inline, &*listed.files),
    };
    let patterns = from.patterns[..inline].iter().map(|(pattern, _)| SniEntry::Pattern(pattern.clone()));
    patterns.chain(files.iter().cloned().map(SniEntry::File)).map(Text).collect()
}

fn route(from: &super::Route, settings: &Settings) -> Route {
    let Fallback { pool, split, refuse } = fallback(&from.to, settings);
    Route {
        name: Some(Arc::clone(&from.name)),
        sni: sni(from).into(),
        alpn: from.conditions.alpn.iter().cloned().map(Protocol).collect(),
        source: from.conditions.source.iter().copied().map(Text).collect(),
        listeners: from
            .conditions
            .listeners
            .iter()
            .map(|number| settings.listeners[*number].name.to_string())
            .collect(),
        ech: from.conditions.ech,
        pool,
        split,
        refuse,
        idle_timeout: from.idle_timeout,
        max_age: from.max_age,
        max_connections: from.max_connections,
        on_removed: from.on_removed,
        allow: from.access.as_ref().and_then(|access| access.allow.clone()),
        deny: from.access.as_ref().map(|access| access.deny.clone()).unwrap_or_default(),
        per_client: from.per_client.as_ref().map(|limits| OrOff(Some((**limits).clone()))),
    }
}

fn fallback(to: &Destination, settings: &Settings) -> Fallback {
    let name = |pool: usize| settings.pools[pool].name.to_string();
    let share = |share: &super::Share| Share { pool: name(share.pool), weight: share.weight };
    match to {
        Destination::Pool(pool) => Fallback { pool: Some(name(*pool)), ..Fallback::default() },
        Destination::Split(shares) => {
            Fallback { split: Some(shares.iter().map(share).collect()), ..Fallback::default() }
        }
        Destination::Refuse(refuse) => Fallback { refuse: Some(*refuse), ..Fallback::default() },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(text: &str) -> Config {
        let parsed = Config::parse(text, Path::new("config.yaml"));
        let mut config = parsed.unwrap_or_else(|problems| panic!("{problems}\n{text}")).config;
        // The hash depends on the text of the file, so it is not compared.
        config.settings.hash.clear();
        for route in &mut config.routes {
            for (_, place) in &mut route.patterns {
                (place.line, place.column) = (1, 1);
            }
        }
        config
    }

    /// `None`: this build cannot use any.
    fn key_file() -> Option<tempfile::NamedTempFile> {
        let key = crate::ech::generate(1, 0, "a.test").ok()?;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), key.pem.as_bytes()).unwrap();
        Some(file)
    }

    #[test]
    fn what_is_written_reads_as_the_same_configuration() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "secret").unwrap();
        let keys = key_file();
        let full = format!(
            r#"{ech}
listeners:
  - {{ name: a, bind: ["127.0.0.1:1", "[::1]:2"], max_connections: 7, congestion: cubic, allow: [10.0.0.0/8, "::1"], deny: [10.1.0.0/16], proxy_protocol: {{ trusted: [10.0.0.0/8] }} }}
  - {{ name: b, bind: 127.0.0.1:3, per_client: off, starttls: postgres, silent: {{ after: 7ms, pool: q }} }}
  - {{ name: c, bind: 127.0.0.1:5, protocol: http, otherwise: {{ pool: q }}, acme_challenge: off }}
  - {{ name: d, bind: 127.0.0.1:6, protocol: http, otherwise: refuse }}
  - {{ name: e, bind: 127.0.0.1:7, ech: off }}
routes:
  - {{ sni: [a.test, "*.a.test", "**.b.test"], pool: p, idle_timeout: 90s, max_age: 2h, max_connections: 4, on_removed: drain, allow: [0.0.0.0/0], deny: [192.0.2.7], per_client: {{ rate: off }} }}
  - {{ name: second, sni: c.test, alpn: [h2], source: [10.0.0.0/8, "2001:db8::/32"], listeners: [b], refuse: reset }}
  - {{ sni: e.test, pool: q, ech: only }}
  - {{ sni: "*", pool: q, max_age: off, on_removed: close }}
  - {{ sni: d.test, split: [{{ pool: p, weight: 90 }}, {{ pool: q, weight: 0 }}] }}
no_sni: {{ split: [{{ pool: p, weight: 1 }}, {{ pool: q, weight: 1000000 }}] }}
unmatched: {{ refuse: close }}
pools:
  p:
    balance: source_hash
    backends: ["127.0.0.1:9", {{ address: "b.example:443", weight: 3, backup: true, max_connections: 5 }}, "unix:/run/x.sock"]
    resolve: {{ family: v4, allow: [127.0.0.0/8], min_ttl: 7s, max_ttl: 9m, stale: 2h, nameservers: ["127.0.0.1:53"] }}
    connect: {{ timeout: 1s, attempts: 2, total: 5s }}
    health_check: {{ sni: a.test, alpn: [h2], starttls: postgres, interval: 3s, rise: 1, fall: 4, port: 99 }}
    ejection: {{ failures: 9, base: 1s, max: 1m }}
    on_down: close
    queue: {{ size: 9, timeout: 8s }}
    when_all_down: refuse
    slow_start: 30s
    http_port: 8080
    send_proxy_protocol: v2
    source_addresses: [127.0.0.1]
    congestion: cubic
  q: {{ backends: ["127.0.0.1:8"], health_check: {{ kind: tcp }}, ejection: off, balance: first }}
  r: {{ backends: ["127.0.0.1:8"], health_check: {{ kind: http, path: /x?y, host: "a.test:8", status: [200, 300-399], port: 80 }} }}
  s: {{ backends: ["127.0.0.1:8"], health_check: {{ kind: text, send: "PING\r\n", expect: "+PONG", port: 80 }} }}
timeouts: {{ hello: 3s, idle: 100ms, half_closed: 1h, max_age: 3h, drain: 0s, pre_stop: 2s, upgrade: 9s }}
limits:
  max_connections: 17
  max_hello: 5KiB
  hello_memory: 3MiB
  per_client: {{ connections: 9, rate: 7/m, burst: 3, prefix: {{ v4: 24 }}, exempt: [10.0.0.0/8], enforce: false, tracked: 64 }}
relay: {{ splice: off, pipe_size: 2MiB }}
tcp: {{ nodelay: false, keepalive: {{ idle: 2s, interval: 3s, probes: 5 }}, user_timeout: 9s, backlog: 3 }}
runtime: {{ workers: 3 }}
sandbox: off
admin: {{ bind: ["127.0.0.1:4", "unix:/run/admin.sock"], allow_control: token, token_file: {token} }}
log: {{ level: debug, format: json, fields: ecs, connections: failed, probes: false, refusals: 7/m, interval: 7m, names: hashed, clients: off, file: /var/log/snigate/a.log }}
reload: {{ watch: false, poll: 9s }}
docker: {{ socket: /run/podman/podman.sock, allow: ["**.a.test", b.test], network: edge }}
{kubernetes}
"#,
            token = token.path().display(),
            kubernetes = match cfg!(feature = "kubernetes") {
                true =>
                    "kubernetes: { controller_name: a.test/b, role: data_plane, addresses: bind, service: { type: ClusterIP, \
                         external_traffic_policy: Cluster }, ports: 1-2, unmatched: { pool: p }, namespaces: [a, b] }",
                false => "",
            },
            ech = keys.as_ref().map_or_else(String::new, |keys| format!(
                "ech: {{ keys: [{}], try_all: true, check_public_name: true }}",
                keys.path().display()
            )),
        );
        let least = "listeners: [{ name: l, bind: 127.0.0.1:1 }]\n";
        let off = full.replace("user_timeout: 9s", "user_timeout: off");
        for config in [&full, least, &off].map(parsed) {
            let written = text(&config);
            assert!(!written.contains("secret"));
            assert_eq!(parsed(&written), config, "{written}");
        }
    }
}
