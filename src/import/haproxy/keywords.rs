//! What the import does with each of HAProxy's keywords that it does not take over.
//!
//! In:  the words of a line.
//! Out: [`Fate`].
//! Source: HAProxy's configuration manual, 3 (global), 4 (proxies).

use super::sections::Line;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It does not change where a connection goes or how it is served.
    NotNeeded,
    /// Why it was left out, and what to do instead.
    LeftOut(&'static str),
}

/// Looks the first two words up, then the first.
pub(super) fn fate(table: &[(&str, Fate)], line: &Line) -> Fate {
    let two = format!("{} {}", line.word(0), line.word(1));
    let found = |words: &str| table.iter().find(|(key, _)| *key == words).map(|(_, fate)| *fate);
    found(&two).or_else(|| found(line.word(0))).unwrap_or(LeftOut("snigate has nothing like it"))
}

use Fate::{LeftOut, NotNeeded};

/// Of sections in tcp mode.
pub(super) const PROXY: &[(&str, Fate)] = &[
    ("acl", NotNeeded),
    ("mode", NotNeeded),
    ("description", NotNeeded),
    ("id", NotNeeded),
    ("log", NotNeeded),
    ("log-format", NotNeeded),
    ("log-format-sd", NotNeeded),
    ("log-tag", NotNeeded),
    ("error-log-format", NotNeeded),
    ("unique-id-format", NotNeeded),
    ("no", NotNeeded),
    ("enabled", NotNeeded),
    (
        "disabled",
        LeftOut(
            "HAProxy does not use this section, but it was imported; remove the routes and pools that come from it",
        ),
    ),
    ("maxconn", NotNeeded),
    ("backlog", NotNeeded),
    ("fullconn", LeftOut("limits do not change with the load; use `max_connections` of a backend")),
    ("grace", NotNeeded),
    ("bind-process", NotNeeded),
    ("errorfile", NotNeeded),
    ("errorfiles", NotNeeded),
    ("errorloc", NotNeeded),
    ("errorloc302", NotNeeded),
    ("errorloc303", NotNeeded),
    ("option tcplog", NotNeeded),
    ("option httplog", NotNeeded),
    ("option dontlognull", NotNeeded),
    ("option dontlog-normal", NotNeeded),
    ("option log-separate-errors", NotNeeded),
    ("option log-health-checks", NotNeeded),
    ("option logasap", NotNeeded),
    ("option redispatch", NotNeeded),
    ("option splice-auto", NotNeeded),
    ("option splice-request", NotNeeded),
    ("option splice-response", NotNeeded),
    ("option tcpka", NotNeeded),
    ("option clitcpka", NotNeeded),
    ("option srvtcpka", NotNeeded),
    ("option tcp-smart-accept", NotNeeded),
    ("option tcp-smart-connect", NotNeeded),
    ("option socket-stats", NotNeeded),
    ("option contstats", NotNeeded),
    ("option abortonclose", NotNeeded),
    ("option http-server-close", NotNeeded),
    ("option http-keep-alive", NotNeeded),
    ("option httpclose", NotNeeded),
    ("option forwardfor", NotNeeded),
    ("option allbackups", NotNeeded),
    ("option persist", NotNeeded),
    ("option transparent", LeftOut("snigate never connects to an address that the client chose; list the backends")),
    ("option external-check", LeftOut("checks run no programs; use `health_check.kind: tls`, `http` or `text`")),
    ("option mysql-check", LeftOut("there is no check for MySQL; `kind: text` can expect the greeting")),
    ("option pgsql-check", LeftOut("use `health_check: { kind: tls, starttls: postgres }`")),
    ("option smtpchk", LeftOut("use `health_check: { kind: text, expect: \"220 \" }`")),
    ("option redis-check", LeftOut("use `health_check: { kind: text, send: \"PING\\r\\n\", expect: \"+PONG\" }`")),
    ("option ldap-check", LeftOut("there is no check for LDAP; use `kind: tls`")),
    ("timeout http-request", NotNeeded),
    ("timeout http-keep-alive", NotNeeded),
    ("timeout tarpit", NotNeeded),
    ("timeout server-fin", NotNeeded),
    ("hash-type", NotNeeded),
    ("http-request", NotNeeded),
    ("http-response", NotNeeded),
    ("http-after-response", NotNeeded),
    ("http-reuse", NotNeeded),
    ("cookie", NotNeeded),
    ("compression", NotNeeded),
    ("stats", NotNeeded),
    ("monitor-uri", NotNeeded),
    ("monitor-net", NotNeeded),
    ("tcp-response", LeftOut("snigate does not inspect what backends send")),
    (
        "tcp-check",
        LeftOut("snigate checks with `health_check.kind`: `tcp`, `tls`, `http` or `text` with `send` and `expect`"),
    ),
    ("http-check", LeftOut("use `health_check`: `path`, `host` and `status`")),
    ("external-check", LeftOut("checks run no programs")),
    (
        "stick-table",
        LeftOut(
            "snigate has no tables; `balance: source_hash` keeps a client at its backend, `limits.per_client` limits clients",
        ),
    ),
    ("stick", LeftOut("snigate has no tables; `balance: source_hash` keeps a client at its backend")),
    ("use-server", LeftOut("a rule cannot choose a backend; make it a pool of its own, with a route")),
    ("rate-limit", LeftOut("use `limits.per_client.rate`")),
    ("filter", LeftOut("snigate has no filters")),
    ("declare", LeftOut("snigate has no captures")),
    ("email-alert", LeftOut("snigate sends no mail; use its metrics")),
    ("load-server-state-from-file", NotNeeded),
    ("server-state-file-name", NotNeeded),
    ("server-template", LeftOut("write the DNS name as a backend; snigate uses all of its addresses")),
    ("dispatch", LeftOut("write a pool with one backend")),
    ("force-persist", NotNeeded),
    ("ignore-persist", NotNeeded),
    ("retry-on", NotNeeded),
];

/// Of `global`.
pub(super) const GLOBAL: &[(&str, Fate)] = &[
    ("lua-load", LeftOut("snigate runs no Lua")),
    ("lua-load-per-thread", LeftOut("snigate runs no Lua")),
    ("lua-prepend-path", LeftOut("snigate runs no Lua")),
    ("maxconnrate", LeftOut("use `limits.per_client.rate`")),
    ("maxsessrate", LeftOut("use `limits.per_client.rate`")),
];

/// Options of a `server`, besides those that are taken over.
pub(super) const SERVER: &[(&str, usize, Fate)] = &[
    ("id", 1, NotNeeded),
    ("cookie", 1, NotNeeded),
    ("redir", 1, NotNeeded),
    ("error-limit", 1, NotNeeded),
    ("init-addr", 1, NotNeeded),
    ("resolve-opts", 1, NotNeeded),
    ("resolve-net", 1, NotNeeded),
    ("no-check", 0, NotNeeded),
    ("no-ssl", 0, NotNeeded),
    ("no-send-proxy", 0, NotNeeded),
    ("no-backup", 0, NotNeeded),
    ("enabled", 0, NotNeeded),
    ("fastinter", 1, NotNeeded),
    ("downinter", 1, NotNeeded),
    ("log-bufsize", 1, NotNeeded),
    ("maxqueue", 1, NotNeeded),
    ("pool-purge-delay", 1, NotNeeded),
    ("pool-max-conn", 1, NotNeeded),
    ("pool-low-conn", 1, NotNeeded),
    ("weight-slow", 1, NotNeeded),
    ("check-sni", 1, NotNeeded),
    ("check-alpn", 1, NotNeeded),
    ("verify", 1, NotNeeded),
    ("verifyhost", 1, NotNeeded),
    ("ca-file", 1, NotNeeded),
    ("crt", 1, NotNeeded),
    ("sni", 1, NotNeeded),
    ("alpn", 1, NotNeeded),
    ("proto", 1, NotNeeded),
    ("proxy-v2-options", 1, LeftOut("snigate sends the server name and the connection's id in every v2 header")),
    ("set-proxy-v2-tlv-fmt", 1, LeftOut("use `send_proxy_protocol.add`")),
    ("ssl", 0, LeftOut("snigate does not encrypt: it passes the client's own TLS to the backend")),
    ("minconn", 1, LeftOut("limits do not change with the load; `max_connections` is fixed")),
    ("observe", 1, LeftOut("failed connections always count: see `ejection`")),
    ("on-error", 1, LeftOut("use `ejection`")),
    ("on-marked-up", 1, LeftOut("connections to backups are not ended")),
    ("agent-check", 0, LeftOut("snigate has no agent checks; set weights through the admin API")),
    ("agent-port", 1, NotNeeded),
    ("agent-inter", 1, NotNeeded),
    ("agent-addr", 1, NotNeeded),
    ("agent-send", 1, NotNeeded),
    ("track", 1, LeftOut("each pool checks its own backends; set `health_check`")),
    ("addr", 1, LeftOut("checks go to the backend's own address; `health_check.port` changes the port")),
    ("check-send-proxy", 0, NotNeeded),
    ("check-via-socks4", 0, LeftOut("snigate has no SOCKS")),
    ("socks4", 1, LeftOut("snigate has no SOCKS")),
    ("namespace", 1, LeftOut("snigate connects from its own network namespace")),
    ("tcp-ut", 1, LeftOut("use `tcp.user_timeout`")),
    ("usesrc", 1, NotNeeded),
];

/// Options of a `bind`, besides those that are taken over.
pub(super) const BIND: &[(&str, usize, Fate)] = &[
    ("name", 1, NotNeeded),
    ("id", 1, NotNeeded),
    ("process", 1, NotNeeded),
    ("thread", 1, NotNeeded),
    ("shards", 1, NotNeeded),
    ("nice", 1, NotNeeded),
    ("backlog", 1, NotNeeded),
    ("level", 1, NotNeeded),
    ("mss", 1, NotNeeded),
    ("v4v6", 0, NotNeeded),
    ("v6only", 0, NotNeeded),
    ("defer-accept", 0, NotNeeded),
    ("tfo", 0, NotNeeded),
    ("tcp-ut", 1, LeftOut("use `tcp.user_timeout`")),
    ("interface", 1, LeftOut("write the interface's address in `bind`")),
    ("namespace", 1, LeftOut("start snigate in that network namespace")),
    ("accept-netscaler-cip", 1, LeftOut("only the PROXY protocol is understood")),
];
