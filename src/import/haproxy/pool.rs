//! Reads a backend of HAProxy in tcp mode.
//!
//! In:  the lines of a `backend` or `listen`.
//! Out: [`Backend`]: a pool, and the timeouts that apply to its connections.
//! Source: HAProxy's configuration manual, 4 (balance, option, source).

use std::time::Duration;

use super::super::finding::Findings;
use super::super::model::{Key, Origin, Pool, set};
use super::super::values;
use super::super::writer::scalar;
use super::keywords::{Fate, PROXY, fate};
use super::sections::{Kind, Line, Section, Sections};
use super::server::{self, Checks, Servers};
use super::timeout;

/// What a section says about backends.
pub(super) struct Backend {
    pub pool: Pool,
    pub server_timeout: Option<(Duration, Origin)>,
    /// Replaces those of client and server.
    pub tunnel_timeout: Option<(Duration, Origin)>,
}

/// Whether a line is about backends.
pub(super) fn takes(line: &Line) -> bool {
    let two = format!("{} {}", line.word(0), line.word(1));
    TAKEN.iter().any(|(key, _)| *key == line.word(0) || *key == two)
}

/// Reads a section.
pub(super) fn read(section: &Section, sections: &Sections, findings: &mut Findings) -> Backend {
    let name = section.name.as_str().into();
    let pool = Pool { name, origin: Some(section.origin.clone()), keys: Vec::new(), backends: Vec::new() };
    let mut reader = Reader {
        out: Backend { pool, server_timeout: None, tunnel_timeout: None },
        servers: Servers::default(),
        checks: Checks::default(),
        queue: None,
        findings,
    };
    for line in &section.lines {
        reader.line(line, section.kind);
    }
    reader.finish(section, sections)
}

struct Reader<'a> {
    out: Backend,
    servers: Servers,
    checks: Checks,
    /// `timeout queue`
    queue: Option<(Duration, Origin)>,
    findings: &'a mut Findings,
}

type Take = fn(&mut Reader<'_>, &Line);

/// The lines that are taken over.
const TAKEN: &[(&str, Take)] = &[
    ("server", |reader, line| server::add(line, &mut reader.servers, reader.findings)),
    ("default-server", |reader, line| server::defaults(line, &mut reader.servers, reader.findings)),
    ("balance", |reader, line| reader.balance(line)),
    ("source", |reader, line| reader.source(line)),
    ("retries", |reader, line| reader.retries(line)),
    ("option tcp-check", |reader, _| reader.checks.kind = Some("tcp")),
    ("option ssl-hello-chk", |reader, _| reader.checks.kind = Some("tls")),
    ("option httpchk", |reader, line| reader.http_check(line)),
    ("timeout connect", |reader, line| reader.connect_timeout(line)),
    ("timeout server", |reader, line| reader.out.server_timeout = reader.timeout(line)),
    ("timeout tunnel", |reader, line| reader.out.tunnel_timeout = reader.timeout(line)),
    ("timeout queue", |reader, line| reader.queue = reader.timeout(line)),
    ("timeout check", |reader, line| {
        reader.checks.timeout = timeout::duration(line, 2, reader.findings).map(values::check_span);
    }),
];

impl Reader<'_> {
    fn line(&mut self, line: &Line, kind: Kind) {
        let two = format!("{} {}", line.word(0), line.word(1));
        match TAKEN.iter().find(|(key, _)| *key == two || *key == line.word(0)) {
            Some((_, take)) => take(self, line),
            None if FRONTEND_ONLY.contains(&line.word(0)) || FRONTEND_ONLY.contains(&two.as_str()) => {
                if kind == Kind::Backend && line.word(0) == "tcp-request" {
                    self.findings.left_out(&line.origin, &line.text(), "rules belong to a route or a listener");
                }
            }
            None => {
                if let Fate::LeftOut(why) = fate(PROXY, line) {
                    self.findings.left_out(&line.origin, &line.text(), why);
                }
            }
        }
    }

    fn set(&mut self, path: &'static str, value: &str, line: &Line) {
        set(&mut self.out.pool.keys, Key::new(path, value, &line.origin));
    }

    fn timeout(&mut self, line: &Line) -> Option<(Duration, Origin)> {
        timeout::duration(line, 2, self.findings).map(|duration| (duration, line.origin.clone()))
    }

    fn balance(&mut self, line: &Line) {
        let arguments = line.words.get(1..).unwrap_or_default().join(" ");
        match BALANCE.iter().find(|(words, _)| *words == arguments) {
            Some((_, policy)) => self.set("balance", policy, line),
            None => {
                let why =
                    "there is no such policy; `source_hash` and `sni_hash` keep a client or a name at its backend";
                self.findings.left_out(&line.origin, &line.text(), why);
            }
        }
    }

    fn source(&mut self, line: &Line) {
        match (line.word(1), line.word(2), line.word(3)) {
            (_, "usesrc", "client" | "clientip") => self.set("transparent", "true", line),
            (address, "", _) => {
                match address.rsplit_once(':').map_or(address, |(ip, _)| ip).parse::<std::net::IpAddr>() {
                    Ok(ip) if ip.is_unspecified() => {}
                    Ok(ip) => self.set("source_addresses", &format!("[{}]", scalar(&ip.to_string())), line),
                    Err(_) => self.findings.left_out(&line.origin, &line.text(), "this is not an IP address"),
                }
            }
            _ => {
                self.findings.left_out(&line.origin, &line.text(), "only an address or `usesrc clientip` is supported")
            }
        }
    }

    /// So many tries after the first.
    fn retries(&mut self, line: &Line) {
        match line.word(1).parse::<u32>() {
            Ok(more) => self.set("connect.attempts", &more.saturating_add(1).min(16).to_string(), line),
            Err(_) => self.findings.left_out(&line.origin, &line.text(), "this is not a number"),
        }
    }

    fn connect_timeout(&mut self, line: &Line) {
        if let Some(duration) = timeout::duration(line, 2, self.findings) {
            self.set("connect.timeout", &values::span(duration, values::HOUR), line);
        }
    }

    /// `option httpchk [METHOD] URI [VERSION]`
    fn http_check(&mut self, line: &Line) {
        self.checks.kind = Some("http");
        let path = line.words.iter().skip(2).take(2).find(|word| word.starts_with('/'));
        self.checks.path = path.map(|path| scalar(path));
        self.findings.note(
            &line.origin,
            "`health_check.kind: http` sends GET without TLS, to `health_check.port` if that is set",
        );
    }

    fn finish(mut self, section: &Section, sections: &Sections) -> Backend {
        let nameservers = |name: &str| nameservers(name, sections);
        self.servers.finish(&mut self.out.pool, &self.checks, nameservers, self.findings);
        let limited = self.out.pool.backends.iter().any(|b| b.keys.iter().any(|key| key.path == "max_connections"));
        if limited {
            // HAProxy's queue has no end, and its clients wait as long as for a connection.
            let (timeout, origin) = self.queue.unwrap_or((Duration::from_secs(5), section.origin.clone()));
            let keys = &mut self.out.pool.keys;
            set(keys, Key::new("queue.size", QUEUE, &origin));
            set(keys, Key::new("queue.timeout", values::span(timeout, values::HOUR), &origin));
        }
        if self.out.pool.backends.is_empty() {
            self.findings.left_out(&section.origin, &section.name, "it has no server that can be used");
        }
        self.out
    }
}

/// The nameservers of a `resolvers` section, as a list.
fn nameservers(name: &str, sections: &Sections) -> Option<String> {
    let lines = sections.resolvers.get(name)?.iter().filter(|line| line.word(0) == "nameserver");
    let addresses: Vec<String> = lines
        .map(|line| line.word(2))
        .map(|address| address.split_once('@').map_or(address, |(_, rest)| rest))
        .filter_map(|address| address.parse::<std::net::SocketAddr>().ok())
        .map(|address| scalar(&address.to_string()))
        .collect();
    (!addresses.is_empty()).then(|| format!("[{}]", addresses.join(", ")))
}

const BALANCE: &[(&str, &str)] = &[
    ("roundrobin", "round_robin"),
    ("static-rr", "round_robin"),
    ("leastconn", "least_connections"),
    ("first", "first"),
    ("source", "source_hash"),
    ("hash src", "source_hash"),
    ("hash req.ssl_sni", "sni_hash"),
    ("hash req.ssl_sni,lower", "sni_hash"),
    // It draws two and takes the less busy one.
    ("random", "power_of_two"),
    ("random(2)", "power_of_two"),
    ("random(1)", "random"),
];

/// Of a frontend, and in a `listen` or `defaults` also seen here.
const FRONTEND_ONLY: &[&str] = &[
    "acl",
    "bind",
    "default_backend",
    "maxconn",
    "mode",
    "tcp-request",
    "timeout client",
    "timeout client-fin",
    "use_backend",
];
/// Clients that may wait for a backend that is full.
const QUEUE: u32 = 65_536;
