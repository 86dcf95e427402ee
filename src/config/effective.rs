//! Writes a configuration as a routing file, with every default filled in.
//!
//! In:  a [`Config`].
//! Out: JSON, which is also YAML: parsed as a routing file, it gives the same configuration.
//!
//! Every struct is destructured in full, so that a new key that is not written here does not compile.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::units::{show_duration, show_size as size};
use super::{
    Admin, AllowControl, Backend, Balance, CheckKind, Conditions, Config, Connect, Destination, Ejection, Family,
    HealthCheck, Keepalive, Level, Limits, Listener, Log, LogConnections, LogFormat, OnRemoved, Pool, ProxyVersion,
    Refuse, Relay, Reload, Resolve, Route, Runtime, Settings, Tcp, Timeouts, Verify, WhenAllDown,
};

/// A route; there may be a million of them.
#[derive(Serialize)]
struct Routed<'c> {
    name: &'c str,
    sni: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alpn: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refuse: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<String>,
    on_removed: &'static str,
}

/// The file as one line.
pub(super) fn text(config: &Config) -> String {
    let Config { settings, routes } = config;
    let Settings {
        listeners,
        no_sni,
        unmatched,
        not_tls,
        pools,
        timeouts,
        limits,
        relay,
        tcp,
        runtime,
        admin,
        log,
        reload,
        files: _,
        sources: _,
        hash: _,
    } = settings;
    let fallback = |to: &Destination| match to {
        Destination::Pool(pool) => json!({ "pool": &*pools[*pool].name }),
        Destination::Refuse(how) => json!({ "refuse": refuse(*how) }),
    };
    let rest = json!({
        "listeners": listeners.iter().map(listener).collect::<Vec<_>>(),
        "no_sni": fallback(no_sni),
        "unmatched": fallback(unmatched),
        "not_tls": fallback(not_tls),
        "pools": pools.iter().map(|of| (of.name.to_string(), pool(of))).collect::<Map<_, _>>(),
        "timeouts": of_timeouts(timeouts),
        "limits": of_limits(limits),
        "relay": of_relay(relay),
        "tcp": of_tcp(tcp),
        "runtime": { "workers": of_workers(runtime) },
        "admin": of_admin(admin),
        "log": of_log(log),
        "reload": of_reload(reload),
    });
    let routes: Vec<_> = routes.iter().map(|of| route(of, config)).collect();
    let routes = serde_json::to_string(&routes).unwrap_or_default();
    let rest = rest.to_string();
    format!("{{\"routes\":{routes},{}\n", rest.strip_prefix('{').unwrap_or(&rest))
}

fn listener(Listener { name, bind, trusted_proxies, max_connections, congestion }: &Listener) -> Value {
    let mut listener = json!({
        "name": &**name,
        "bind": words(bind),
        "max_connections": or(*max_connections, "none"),
        "congestion": congestion.as_deref().unwrap_or("system"),
    });
    if let Some(trusted) = trusted_proxies {
        listener["proxy_protocol"] = json!({ "trusted": words(trusted) });
    }
    listener
}

fn route<'c>(from: &'c Route, config: &'c Config) -> Routed<'c> {
    let Route { name, patterns, conditions, to, idle_timeout, on_removed } = from;
    let Conditions { alpn, source, listeners } = conditions;
    let (pool, refused) = match to {
        Destination::Pool(pool) => (Some(&*config.pools[*pool].name), None),
        Destination::Refuse(how) => (None, Some(refuse(*how))),
    };
    Routed {
        name,
        sni: patterns.iter().map(|(pattern, _)| pattern.to_string()).collect(),
        alpn: protocols(alpn),
        source: words(source),
        listeners: listeners.iter().map(|number| &*config.listeners[*number].name).collect(),
        pool,
        refuse: refused,
        idle_timeout: idle_timeout.map(show_duration),
        on_removed: match on_removed {
            OnRemoved::Keep => "keep",
            OnRemoved::Drain => "drain",
            OnRemoved::Close => "close",
        },
    }
}

fn pool(from: &Pool) -> Value {
    let Pool {
        name: _,
        balance,
        backends,
        resolve: Resolve { family, min_ttl, max_ttl, stale, allow, nameservers },
        connect: Connect { timeout, attempts, total, first_byte, fast_open },
        health_check,
        ejection,
        when_all_down,
        slow_start,
        send_proxy_protocol,
        source_addresses,
        congestion,
    } = from;
    let mut pool = json!({
        "balance": match balance {
            Balance::RoundRobin => "round_robin",
            Balance::LeastConnections => "least_connections",
            Balance::PowerOfTwo => "power_of_two",
            Balance::Random => "random",
            Balance::SourceHash => "source_hash",
            Balance::SniHash => "sni_hash",
            Balance::First => "first",
        },
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
        "resolve": {
            "family": match family {
                Family::Any => "any",
                Family::V4 => "v4",
                Family::V6 => "v6",
            },
            "min_ttl": time(min_ttl),
            "max_ttl": time(max_ttl),
            "stale": time(stale),
            "allow": words(allow),
            "nameservers": words(nameservers),
        },
        "connect": {
            "timeout": time(timeout),
            "attempts": attempts,
            "total": time(total),
            "first_byte": time(first_byte),
            "fast_open": fast_open,
        },
        "ejection": match ejection {
            Some(Ejection { failures, base, max }) => {
                json!({ "failures": failures, "base": time(base), "max": time(max) })
            }
            None => json!("off"),
        },
        "when_all_down": match when_all_down {
            WhenAllDown::Try => "try",
            WhenAllDown::Refuse => "refuse",
        },
        "slow_start": time(slow_start),
        "send_proxy_protocol": match send_proxy_protocol {
            None => "off",
            Some(ProxyVersion::V1) => "v1",
            Some(ProxyVersion::V2) => "v2",
        },
        "source_addresses": words(source_addresses),
        "congestion": congestion.as_deref().unwrap_or("system"),
    });
    if let Some(check) = health_check {
        pool["health_check"] = of_check(check);
    }
    pool
}

fn backend(Backend { address, weight, backup, max_connections }: &Backend) -> Value {
    json!({
        "address": address.to_string(),
        "weight": weight,
        "backup": backup,
        "max_connections": or(*max_connections, "none"),
    })
}

fn of_timeouts(Timeouts { hello, idle, half_closed, drain, pre_stop, upgrade }: &Timeouts) -> Value {
    json!({
        "hello": time(hello),
        "idle": time(idle),
        "half_closed": time(half_closed),
        "drain": time(drain),
        "pre_stop": time(pre_stop),
        "upgrade": time(upgrade),
    })
}

fn of_limits(Limits { max_connections, max_hello_bytes }: &Limits) -> Value {
    json!({ "max_connections": or(*max_connections, "auto"), "max_hello": size(*max_hello_bytes) })
}

fn of_relay(Relay { splice, pipe_bytes }: &Relay) -> Value {
    json!({ "splice": if *splice { "auto" } else { "off" }, "pipe_size": size(*pipe_bytes) })
}

fn of_tcp(Tcp { nodelay, keepalive: Keepalive { idle, interval, probes }, user_timeout, backlog }: &Tcp) -> Value {
    json!({
        "nodelay": nodelay,
        "keepalive": { "idle": time(idle), "interval": time(interval), "probes": probes },
        "user_timeout": user_timeout.as_ref().map_or_else(|| "off".into(), time),
        "backlog": backlog,
    })
}

fn of_workers(Runtime { workers }: &Runtime) -> Value {
    or(*workers, "auto")
}

fn of_admin(Admin { bind, allow_control, token }: &Admin) -> Value {
    let allow_control = match allow_control {
        AllowControl::Auto => "auto",
        AllowControl::Token => "token",
        AllowControl::Never => "never",
    };
    let token_file = token.as_ref().map_or_else(|| "none".to_owned(), |token| token.file().display().to_string());
    json!({ "bind": words(bind), "allow_control": allow_control, "token_file": token_file })
}

fn of_log(Log { level, format, connections }: &Log) -> Value {
    json!({
        "level": match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        },
        "format": match format {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        },
        "connections": match connections {
            LogConnections::All => "all",
            LogConnections::Failed => "failed",
            LogConnections::Off => "off",
        },
    })
}

fn of_reload(Reload { watch, poll }: &Reload) -> Value {
    json!({ "watch": watch, "poll": time(poll) })
}

fn refuse(how: Refuse) -> &'static str {
    match how {
        Refuse::Alert => "alert",
        Refuse::Close => "close",
        Refuse::Reset => "reset",
    }
}

fn protocols(alpn: &[Box<[u8]>]) -> Vec<String> {
    alpn.iter().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect()
}

fn words<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn or(number: Option<usize>, word: &str) -> Value {
    number.map_or_else(|| json!(word), |number| json!(number))
}

fn time(duration: &Duration) -> String {
    show_duration(*duration)
}

fn of_check(HealthCheck { kind, interval, timeout, rise, fall, port }: &HealthCheck) -> Value {
    let mut check = json!({
        "interval": time(interval),
        "timeout": time(timeout),
        "rise": rise,
        "fall": fall,
        "port": port.map_or_else(|| json!("none"), |port| json!(port)),
    });
    match kind {
        CheckKind::Tcp => check["kind"] = json!("tcp"),
        CheckKind::Tls { server_name, alpn, verify } => {
            check["kind"] = json!("tls");
            check["alpn"] = json!(protocols(alpn));
            check["verify"] = json!(*verify != Verify::Nothing);
            if let Some(name) = server_name {
                check["sni"] = json!(name.as_str());
            }
            if let Verify::Chain { ca_file: Some(file) } = verify {
                check["ca_file"] = json!(file.display().to_string());
            }
        }
    }
    check
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

    #[test]
    fn what_is_written_reads_as_the_same_configuration() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "secret").unwrap();
        let full = format!(
            r#"
listeners:
  - {{ name: a, bind: ["127.0.0.1:1", "[::1]:2"], max_connections: 7, congestion: cubic, proxy_protocol: {{ trusted: [10.0.0.0/8] }} }}
  - {{ name: b, bind: 127.0.0.1:3 }}
routes:
  - {{ sni: [a.test, "*.a.test", "**.b.test"], pool: p, idle_timeout: 90s, on_removed: drain }}
  - {{ name: second, sni: c.test, alpn: [h2], source: [10.0.0.0/8, "2001:db8::/32"], listeners: [b], refuse: reset }}
  - {{ sni: "*", pool: q, on_removed: close }}
no_sni: {{ pool: p }}
unmatched: {{ refuse: close }}
pools:
  p:
    balance: source_hash
    backends: ["127.0.0.1:9", {{ address: "b.example:443", weight: 3, backup: true, max_connections: 5 }}, "unix:/run/x.sock"]
    resolve: {{ family: v4, allow: [127.0.0.0/8], min_ttl: 7s, max_ttl: 9m, stale: 2h, nameservers: ["127.0.0.1:53"] }}
    connect: {{ timeout: 1s, attempts: 2, total: 5s }}
    health_check: {{ sni: a.test, alpn: [h2], interval: 3s, rise: 1, fall: 4, port: 99 }}
    ejection: {{ failures: 9, base: 1s, max: 1m }}
    when_all_down: refuse
    slow_start: 30s
    send_proxy_protocol: v2
    source_addresses: [127.0.0.1]
    congestion: cubic
  q: {{ backends: ["127.0.0.1:8"], health_check: {{ kind: tcp }}, ejection: off, balance: first }}
timeouts: {{ hello: 3s, idle: 100ms, half_closed: 1h, drain: 0s, pre_stop: 2s, upgrade: 9s }}
limits: {{ max_connections: 17, max_hello: 5KiB }}
relay: {{ splice: off, pipe_size: 2MiB }}
tcp: {{ nodelay: false, keepalive: {{ idle: 2s, interval: 3s, probes: 5 }}, user_timeout: 9s, backlog: 3 }}
runtime: {{ workers: 3 }}
admin: {{ bind: ["127.0.0.1:4", "unix:/run/admin.sock"], allow_control: token, token_file: {token} }}
log: {{ level: debug, format: text, connections: failed }}
reload: {{ watch: false, poll: 9s }}
"#,
            token = token.path().display()
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
