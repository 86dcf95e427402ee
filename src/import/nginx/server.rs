//! Reads `server` blocks of nginx's stream module.
//!
//! In:  the directives of a block, after those of `stream`, which it inherits.
//! Out: [`Server`].
//! Source: nginx's documentation of ngx_stream_core_module and ngx_stream_proxy_module.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::super::finding::Findings;
use super::super::model::{Key, Origin, set};
use super::super::values;
use super::map::{Entries, Wildcards};
use super::syntax::Directive;
use super::{duration, is_ignored, upstream};
use crate::server_name::Pattern;

/// A server that reads the ClientHello.
#[derive(Debug)]
pub(super) struct Server {
    pub origin: Origin,
    pub listen: Vec<Listen>,
    /// What `proxy_pass` says; `None`: connections are refused (`return`).
    pub pass: Option<(String, Origin)>,
    /// The names of `server_name`; empty: it is not given.
    pub names: Vec<(Pattern, Origin)>,
    /// Keys of the pools that it uses.
    pub pool_keys: Vec<Key>,
    pub listener_keys: Vec<Key>,
    /// `timeouts`.
    pub settings: Vec<Key>,
    pub idle: Option<(Duration, Origin)>,
}

/// An address of a server.
#[derive(Clone, Debug)]
pub(super) struct Listen {
    pub address: SocketAddr,
    pub is_default: bool,
    pub proxy_protocol: bool,
    pub origin: Origin,
}

/// Reads a server. `None`: it does not read the ClientHello, or has no address; that has been reported.
pub(super) fn read(server: &Directive, inherited: &[Directive], findings: &mut Findings) -> Option<Server> {
    let inside = server.block.iter().flatten();
    let preread = inherited.iter().chain(inside.clone()).rev().find(|line| line.name() == "ssl_preread");
    if preread.is_none_or(|line| line.word(1) != "on") {
        let why = "it has no `ssl_preread on`, so it does not route TLS by its server name";
        findings.left_out(&server.origin, "server", why);
        return None;
    }
    let mut reader = Reader {
        out: Server {
            origin: server.origin.clone(),
            listen: Vec::new(),
            pass: None,
            names: Vec::new(),
            pool_keys: Vec::new(),
            listener_keys: Vec::new(),
            settings: Vec::new(),
            idle: None,
        },
        trusted: Vec::new(),
        access: Vec::new(),
        findings,
    };
    let own: Vec<&Directive> = inside.collect();
    let hides = |outer: &Directive| LISTS.iter().any(|list| list.contains(&outer.name()) && has_any(&own, list));
    inherited.iter().filter(|outer| !hides(outer)).chain(own.iter().copied()).for_each(|line| reader.line(line));
    reader.finish()
}

fn has_any(lines: &[&Directive], names: &[&str]) -> bool {
    lines.iter().any(|line| names.contains(&line.name()))
}

struct Reader<'a> {
    out: Server,
    /// `set_real_ip_from`; `None`: its value is not supported.
    trusted: Vec<(Option<IpNet>, Origin)>,
    /// `allow` and `deny`, of which the first that matches wins.
    access: Vec<(bool, Option<IpNet>, Origin)>,
    findings: &'a mut Findings,
}

type Take = fn(&mut Reader<'_>, &Directive);

const TAKEN: &[(&str, Take)] = &[
    ("listen", |reader, line| reader.listen(line)),
    ("proxy_pass", |reader, line| reader.out.pass = Some((line.word(1).to_owned(), line.origin.clone()))),
    ("server_name", |reader, line| reader.server_name(line)),
    ("proxy_protocol", |reader, line| {
        if line.word(1) == "on" {
            reader.pool("send_proxy_protocol", "v1", line);
        }
    }),
    ("proxy_timeout", |reader, line| {
        reader.out.idle = reader.duration(line).map(|idle| (idle, line.origin.clone()));
    }),
    ("proxy_connect_timeout", |reader, line| {
        if let Some(time) = reader.duration(line) {
            reader.pool("connect.timeout", &values::span(time, values::HOUR), line);
        }
    }),
    ("proxy_next_upstream_timeout", |reader, line| {
        if let Some(time) = reader.duration(line).filter(|time| !time.is_zero()) {
            reader.pool("connect.total", &values::span(time, values::HOUR), line);
        }
    }),
    ("proxy_next_upstream_tries", |reader, line| {
        if let Ok(tries @ 1..) = line.word(1).parse::<u32>() {
            reader.pool("connect.attempts", &tries.min(16).to_string(), line);
        }
    }),
    ("proxy_next_upstream", |reader, line| {
        if line.word(1) == "off" {
            reader.pool("connect.attempts", "1", line);
        }
    }),
    ("proxy_bind", |reader, line| reader.bind(line)),
    ("preread_timeout", |reader, line| {
        if let Some(time) = reader.duration(line) {
            set(&mut reader.out.settings, Key::new("timeouts.hello", values::span(time, values::HOUR), &line.origin));
        }
    }),
    ("resolver", |reader, line| upstream::nameservers(line, &mut reader.out.pool_keys, reader.findings)),
    ("set_real_ip_from", |reader, line| {
        let network = values::network(line.word(1));
        if network.is_none() {
            reader.findings.left_out(&line.origin, &line.text(), "only networks are supported");
        }
        reader.trusted.push((network, line.origin.clone()));
    }),
    ("allow", |reader, line| reader.access(line)),
    ("deny", |reader, line| reader.access(line)),
    ("return", |reader, line| {
        reader.findings.left_out(&line.origin, &line.text(), "snigate cannot send a text; it closes the connection")
    }),
];

impl Reader<'_> {
    fn line(&mut self, line: &Directive) {
        if let Some((_, take)) = TAKEN.iter().find(|(name, _)| *name == line.name()) {
            return take(self, line);
        }
        match LEFT_OUT.iter().find(|(name, _)| *name == line.name()) {
            Some((_, why)) => self.findings.left_out(&line.origin, &line.text(), why),
            None if line.name().contains("_by_lua") => {
                self.findings.left_out(&line.origin, line.name(), "snigate runs no Lua")
            }
            None if line.name().starts_with("js_") => {
                self.findings.left_out(&line.origin, &line.text(), "snigate runs no JavaScript")
            }
            None if is_ignored(line.name()) => {}
            None => self.findings.left_out(&line.origin, &line.text(), "snigate has nothing like it"),
        }
    }

    fn pool(&mut self, path: &'static str, value: &str, line: &Directive) {
        set(&mut self.out.pool_keys, Key::new(path, value, &line.origin));
    }

    fn duration(&mut self, line: &Directive) -> Option<Duration> {
        let read = duration(line.word(1));
        if read.is_none() {
            self.findings.left_out(&line.origin, &line.text(), "this is not a valid nginx duration");
        }
        read
    }

    fn listen(&mut self, line: &Directive) {
        let options = line.words.get(2..).unwrap_or_default();
        let has = |word: &str| options.iter().any(|option| option == word);
        if has("udp") || has("ssl") {
            let why = if has("udp") { "snigate does not serve UDP" } else { "it decrypts TLS, and snigate does not" };
            return self.findings.left_out(&line.origin, &line.text(), why);
        }
        let known =
            |option: &str| LISTEN.iter().any(|known| option == *known || option.split('=').next() == Some(known));
        for option in options.iter().filter(|option| !known(option)) {
            self.findings.left_out(&line.origin, option, "snigate has nothing like this option of `listen`");
        }
        match listen_address(line.word(1)) {
            Ok(address) => self.out.listen.push(Listen {
                address,
                is_default: has("default_server"),
                proxy_protocol: has("proxy_protocol"),
                origin: line.origin.clone(),
            }),
            Err(why) => self.findings.left_out(&line.origin, &line.text(), why),
        }
    }

    fn server_name(&mut self, line: &Directive) {
        let mut entries = Entries::default();
        // "" stands for clients without a name, which the default server gets in any case.
        for name in line.arguments().iter().filter(|name| !name.is_empty() && *name != "_") {
            entries.add(name, Wildcards::Allowed, String::new(), &line.origin, self.findings);
        }
        self.out.names.extend(entries.in_order().into_iter().map(|(pattern, _, origin)| (pattern, origin)));
    }

    fn bind(&mut self, line: &Directive) {
        match (line.word(1), line.word(2), line.word(1).parse::<IpAddr>()) {
            ("off", ..) => self.out.pool_keys.retain(|key| key.path != "source_addresses"),
            ("$remote_addr" | "$remote_addr:$remote_port", "transparent", _) => self.pool("transparent", "true", line),
            (_, "", Ok(ip)) => {
                let list = format!("[{}]", super::super::writer::scalar(&ip.to_string()));
                self.pool("source_addresses", &list, line);
            }
            _ => self.findings.left_out(
                &line.origin,
                &line.text(),
                "only an IP address or `$remote_addr transparent` is supported",
            ),
        }
    }

    fn access(&mut self, line: &Directive) {
        let network = values::network(line.word(1));
        match (line.word(1), network) {
            ("all", _) => self.access.push((line.name() == "allow", None, line.origin.clone())),
            (_, Some(network)) => self.access.push((line.name() == "allow", Some(network), line.origin.clone())),
            _ => self.findings.left_out(&line.origin, &line.text(), "only networks are supported"),
        }
    }

    fn finish(mut self) -> Option<Server> {
        self.write_access();
        if self.out.listen.iter().any(|listen| listen.proxy_protocol) {
            self.write_trusted();
        }
        if self.out.listen.is_empty() {
            self.findings.left_out(&self.out.origin, "server", "it has no address that can be used");
            return None;
        }
        Some(self.out)
    }

    /// Everybody may send a header in nginx; `set_real_ip_from` says whose is believed.
    fn write_trusted(&mut self) {
        let networks: Vec<IpNet> = self.trusted.iter().filter_map(|(network, _)| *network).collect();
        let keys = &mut self.out.listener_keys;
        match self.trusted.first() {
            Some((_, origin)) if networks.is_empty() => {
                let why = "none of its `set_real_ip_from` is a network; write `proxy_protocol.trusted` of the listener";
                self.findings.left_out(origin, "proxy_protocol", why);
            }
            Some((_, origin)) => set(keys, Key::new("proxy_protocol.trusted", values::networks(&networks), origin)),
            None => {
                let origin = &self.out.origin;
                set(keys, Key::new("proxy_protocol.trusted", "[0.0.0.0/0, \"::/0\"]", origin));
                let message = "nginx accepts PROXY headers from everyone here; limit `proxy_protocol.trusted` to the networks \
                               of your proxies";
                self.findings.note(origin, message);
            }
        }
    }

    /// `deny` wins over `allow` in snigate. A list in which it does not is written so that nobody gets in whom nginx refuses.
    fn write_access(&mut self) {
        let Some((_, _, origin)) = self.access.first().cloned() else { return };
        // Nothing behind the first `all` is ever reached.
        let end = self.access.iter().position(|(_, network, _)| network.is_none());
        let refuses_others = end.is_some_and(|at| !self.access[at].0);
        let mut reached: Vec<(bool, IpNet)> = self.access[..end.unwrap_or(self.access.len())]
            .iter()
            .filter_map(|(allow, network, _)| Some((*allow, (*network)?)))
            .collect();
        while reached.last().is_some_and(|(allow, _)| *allow != refuses_others) {
            reached.pop();
        }
        if !reached.is_sorted_by_key(|(allow, _)| *allow) {
            let why = "in snigate, `deny` always wins, so some clients that nginx allows are refused; split the \
                       networks so that none overlap";
            self.findings.left_out_in_part(&origin, "allow and deny", why);
        }
        let of = |wanted: bool| reached.iter().filter(move |(allow, _)| *allow == wanted).map(|(_, network)| *network);
        let (mut allowed, mut denied): (Vec<IpNet>, Vec<IpNet>) = (of(true).collect(), of(false).collect());
        if !refuses_others {
            allowed.clear();
        } else if allowed.is_empty() {
            self.findings.note(&origin, "`deny all` is the first rule that applies, so every client is refused here");
            denied = vec![
                IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
                IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
            ];
        }
        for (key, networks) in [("allow", allowed), ("deny", denied)].iter().filter(|(_, list)| !list.is_empty()) {
            set(&mut self.out.listener_keys, Key::new(key, values::networks(networks), &origin));
        }
    }
}

/// `443`, `10.0.0.1:443`, `[::]:443`
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if text.starts_with("unix:") {
        return Err("clients can connect only by TCP".to_owned());
    }
    let text = text.strip_prefix("*:").unwrap_or(text);
    let address = match (text.parse::<u16>(), text.parse::<SocketAddr>()) {
        (Ok(port), _) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        (_, Ok(address)) => address,
        _ => return Err("this is not an IP address with a port; write one".to_owned()),
    };
    if address.port() == 0 { Err("port 0 is not supported".to_owned()) } else { Ok(address) }
}

/// `[::]` takes IPv4 as well.
pub(super) fn both_families(address: SocketAddr) -> Option<SocketAddr> {
    address.ip().is_unspecified().then(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port()))
}

/// Directives that gather values. A server with one of a list inherits none of that list.
const LISTS: &[&[&str]] = &[&["allow", "deny"], &["set_real_ip_from"]];

const LISTEN: &[&str] = &[
    "proxy_protocol",
    "default_server",
    "reuseport",
    "bind",
    "backlog",
    "so_keepalive",
    "ipv6only",
    "rcvbuf",
    "sndbuf",
    "fastopen",
    "deferred",
    "accept_filter",
    "multipath",
    "setfib",
];

const LEFT_OUT: &[(&str, &str)] = &[
    ("proxy_ssl", "snigate does not encrypt: it passes the client's own TLS to the backend"),
    ("ssl_certificate", "snigate does not decrypt; move the certificate to the backends"),
    ("limit_conn", "use `limits.per_client.connections`, or `max_connections` of a listener or a route"),
    ("proxy_upload_rate", "snigate does not limit the rate of a connection"),
    ("proxy_download_rate", "snigate does not limit the rate of a connection"),
    ("proxy_requests", "this is for UDP"),
    ("proxy_responses", "this is for UDP"),
    ("pass", "snigate has no internal servers to pass connections to"),
    ("health_check", "use `health_check` of the pool"),
];
