//! Reads the `server` lines of HAProxy.
//!
//! In:  `server NAME ADDRESS:PORT weight 3 check inter 2s`, and `default-server` lines before it.
//! Out: the backends of a pool, and the keys that HAProxy has for each server and snigate for the pool.
//! Source: HAProxy's configuration manual, 5.2 (server options).

use super::super::finding::Findings;
use super::super::model::{Backend, Key, Origin, Pool, set};
use super::super::values;
use super::super::writer::scalar;
use super::keywords::{Fate, SERVER};
use super::sections::Line;
use super::timeout;
use crate::settings::MAX_WEIGHT;

/// The checks of a backend section.
#[derive(Default)]
pub(super) struct Checks {
    pub kind: Option<&'static str>,
    pub path: Option<String>,
    pub timeout: Option<String>,
}

/// Options of one server; a `default-server` line gives them to those below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    weight: Option<u32>,
    backup: bool,
    disabled: bool,
    max_connections: Option<u32>,
    checked: bool,
    checked_with_tls: bool,
    /// Keys of the pool, which all servers should share.
    shared: Vec<(&'static str, String)>,
    resolvers: Option<String>,
}

/// All servers of a section.
#[derive(Default)]
pub(super) struct Servers {
    defaults: Options,
    all: Vec<Server>,
}

/// Its address, options and line.
type Server = (String, Options, Origin);

/// Reads `default-server`.
pub(super) fn defaults(line: &Line, servers: &mut Servers, findings: &mut Findings) {
    let mut defaults = std::mem::take(&mut servers.defaults);
    defaults.read(line, 1, findings);
    servers.defaults = defaults;
}

/// Reads `server`.
pub(super) fn add(line: &Line, servers: &mut Servers, findings: &mut Findings) {
    let mut options = servers.defaults.clone();
    options.read(line, 3, findings);
    match address(line.word(2)) {
        Ok(address) => servers.all.push((address, options, line.origin.clone())),
        Err(why) => findings.left_out(&line.origin, &line.text(), why),
    }
}

type Take = fn(&mut Options, &str) -> Result<(), String>;

/// Options that are taken over, and whether they have an argument.
const TAKEN: &[(&str, usize, Take)] = &[
    ("weight", 1, |options, value| {
        options.weight = Some(number(value)?);
        Ok(())
    }),
    ("maxconn", 1, |options, value| {
        options.max_connections = Some(number(value)?).filter(|most| *most > 0);
        Ok(())
    }),
    ("backup", 0, |options, _| {
        options.backup = true;
        Ok(())
    }),
    ("disabled", 0, |options, _| {
        options.disabled = true;
        Ok(())
    }),
    ("check", 0, |options, _| {
        options.checked = true;
        Ok(())
    }),
    ("check-ssl", 0, |options, _| {
        options.checked_with_tls = true;
        Ok(())
    }),
    ("inter", 1, |options, value| {
        let interval = timeout::read(value).ok_or_else(|| format!("`{value}` is not a valid HAProxy duration"))?;
        options.share("health_check.interval", values::check_span(interval))
    }),
    ("fall", 1, |options, value| options.share("health_check.fall", number(value)?.clamp(1, 100).to_string())),
    ("rise", 1, |options, value| options.share("health_check.rise", number(value)?.clamp(1, 100).to_string())),
    ("port", 1, |options, value| options.share("health_check.port", number(value)?.clamp(1, 65_535).to_string())),
    ("slowstart", 1, |options, value| {
        let span = timeout::read(value).ok_or_else(|| format!("`{value}` is not a valid HAProxy duration"))?;
        options.share("slow_start", values::span(span, values::HOUR))
    }),
    ("send-proxy", 0, |options, _| options.share("send_proxy_protocol", "v1".to_owned())),
    ("send-proxy-v2", 0, |options, _| options.share("send_proxy_protocol", "v2".to_owned())),
    ("send-proxy-v2-ssl", 0, |options, _| options.share("send_proxy_protocol", "v2".to_owned())),
    ("send-proxy-v2-ssl-cn", 0, |options, _| options.share("send_proxy_protocol", "v2".to_owned())),
    ("tfo", 0, |options, _| options.share("connect.fast_open", "true".to_owned())),
    ("on-marked-down", 1, |options, value| match value {
        "shutdown-sessions" => options.share("on_down", "close".to_owned()),
        other => Err(format!("`{other}` is not supported")),
    }),
    ("resolve-prefer", 1, |options, value| match value {
        "ipv4" => options.share("resolve.family", "v4".to_owned()),
        "ipv6" => options.share("resolve.family", "v6".to_owned()),
        other => Err(format!("`{other}` is not supported")),
    }),
    ("resolvers", 1, |options, value| {
        options.resolvers = Some(value.to_owned());
        Ok(())
    }),
    ("source", 1, |options, value| match value.parse::<std::net::IpAddr>() {
        Ok(ip) => options.share("source_addresses", format!("[{}]", scalar(&ip.to_string()))),
        Err(_) => Err("only an IP address is supported".to_owned()),
    }),
];

impl Options {
    fn read(&mut self, line: &Line, from: usize, findings: &mut Findings) {
        let mut words = line.words.iter().skip(from);
        while let Some(word) = words.next() {
            let taken = TAKEN.iter().find(|(name, ..)| name == word);
            let known = SERVER.iter().find(|(name, ..)| name == word);
            let arguments = taken.map(|taken| taken.1).or(known.map(|known| known.1)).unwrap_or_default();
            let values: Vec<&str> = words.by_ref().take(arguments).map(String::as_str).collect();
            let value = values.first().copied().unwrap_or_default();
            let result = match (taken, known) {
                (Some((_, _, take)), _) => take(self, value),
                (_, Some((_, _, Fate::NotNeeded))) => Ok(()),
                (_, Some((_, _, Fate::LeftOut(why)))) => Err((*why).to_owned()),
                _ => Err("snigate has nothing like this option of `server`".to_owned()),
            };
            if let Err(why) = result {
                findings.left_out(&line.origin, &[&[word.as_str()], &values[..]].concat().join(" "), why);
            }
        }
    }

    fn shared(&self, path: &str) -> Option<&str> {
        self.shared.iter().find(|(key, _)| *key == path).map(|(_, value)| value.as_str())
    }

    /// Writes what `check` means in HAProxy without more words.
    fn fill_in_check(&mut self) {
        for (path, value) in CHECK {
            if self.shared(path).is_none() {
                self.shared.push((path, (*value).to_owned()));
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "an entry of the table")]
    fn share(&mut self, path: &'static str, value: String) -> Result<(), String> {
        self.shared.retain(|(old, _)| *old != path);
        self.shared.push((path, value));
        Ok(())
    }
}

impl Servers {
    /// Writes the pool. `nameservers` gives those of a `resolvers` section.
    pub(super) fn finish(
        self,
        pool: &mut Pool,
        checks: &Checks,
        nameservers: impl Fn(&str) -> Option<String>,
        findings: &mut Findings,
    ) {
        let mut kept = Vec::new();
        for (address, options, origin) in self.all {
            if let Some(backend) = backend(&address, &options, &origin, findings) {
                kept.push((backend, (address, options, origin)));
            }
        }
        leave_out_other_headers(&mut kept, findings);
        let (backends, mut servers): (Vec<Backend>, Vec<Server>) = kept.into_iter().unzip();
        pool.backends.extend(backends);
        if servers.iter().any(|(_, options, _)| options.checked) {
            servers.iter_mut().for_each(|(_, options, _)| options.fill_in_check());
        }
        share(&servers, pool, findings);
        let checked = servers.iter().find(|(_, options, _)| options.checked);
        if let Some((_, options, origin)) = checked {
            let kind = if options.checked_with_tls { "tls" } else { checks.kind.unwrap_or("tcp") };
            set(&mut pool.keys, Key::new("health_check.kind", kind, origin));
            let more = [("health_check.path", &checks.path), ("health_check.timeout", &checks.timeout)];
            for (path, value) in more.into_iter().filter(|(path, _)| kind == "http" || !path.ends_with("path")) {
                value.iter().for_each(|value| set(&mut pool.keys, Key::new(path, value, origin)));
            }
            for (_, _, origin) in servers.iter().filter(|(_, options, _)| !options.checked) {
                findings.note(origin, "HAProxy does not check this server; snigate checks all backends of the pool");
            }
        } else {
            pool.keys.retain(|key| !key.path.starts_with("health_check."));
        }
        if let Some((_, Options { resolvers: Some(name), .. }, origin)) =
            servers.iter().find(|(_, o, _)| o.resolvers.is_some())
        {
            match nameservers(name) {
                Some(list) => set(&mut pool.keys, Key::new("resolve.nameservers", list, origin)),
                None => findings.note(origin, format_args!("the nameservers are those of the system, not `{name}`")),
            }
        }
    }
}

/// One server. Those that would get no connections are left out.
fn backend(address: &str, options: &Options, origin: &Origin, findings: &mut Findings) -> Option<Backend> {
    if options.disabled {
        let why = "it is `disabled`; add it when you need it, or add it now and take it out with `snigate down`";
        findings.left_out(origin, address, why);
        return None;
    }
    if options.weight == Some(0) {
        findings.left_out(origin, address, "its weight is 0, so it gets no new connections");
        return None;
    }
    let mut keys = Vec::new();
    let weight = options.weight.filter(|weight| *weight != 1).map(|weight| weight.min(MAX_WEIGHT));
    keys.extend(weight.map(|weight| Key::new("weight", weight, origin)));
    keys.extend(options.backup.then(|| Key::new("backup", true, origin)));
    keys.extend(options.max_connections.map(|most| Key::new("max_connections", most, origin)));
    Some(Backend { address: address.to_owned(), keys, origin: Some(origin.clone()) })
}

/// A server that needs another PROXY header than the first one, or none, would not understand its clients.
fn leave_out_other_headers(kept: &mut Vec<(Backend, Server)>, findings: &mut Findings) {
    let Some((_, (_, first, at))) = kept.first().cloned() else { return };
    kept.retain(|(_, (address, options, origin))| {
        let same = options.shared(HEADER) == first.shared(HEADER);
        if !same {
            let why = format!(
                "`{HEADER}` differs from {at}, and a pool can have only one value; put this server into another pool"
            );
            findings.left_out(origin, address, why);
        }
        same
    });
}

/// Takes the options that belong to the pool from the first server; others should have the same.
fn share(servers: &[Server], pool: &mut Pool, findings: &mut Findings) {
    let Some((_, first, first_origin)) = servers.first() else { return };
    for (path, value) in &first.shared {
        set(&mut pool.keys, Key::new(path, value, first_origin));
    }
    let sorted = |options: &Options| {
        let mut shared = options.shared.clone();
        shared.sort();
        shared
    };
    for (address, options, origin) in servers.iter().skip(1).filter(|(_, options, _)| sorted(options) != sorted(first))
    {
        let differing = options.shared.iter().find(|entry| !first.shared.contains(entry));
        let differing = differing.or_else(|| first.shared.iter().find(|entry| !options.shared.contains(entry)));
        let Some((key, _)) = differing else { continue };
        let why = format!(
            "`{key}` differs from {first_origin}, and a pool can have only one value; put this server into another pool"
        );
        findings.left_out(origin, address, format_args!("options only: {why}"));
    }
}

const HEADER: &str = "send_proxy_protocol";
const CHECK: &[(&str, &str)] =
    &[("health_check.interval", "2s"), ("health_check.rise", "2"), ("health_check.fall", "3")];

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{}` is not a number", text.escape_debug()))
}

/// `IP:PORT`, `NAME:PORT`, a path.
fn address(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("unix@").unwrap_or(text);
    if path.starts_with('/') {
        return values::backend(&format!("unix:{path}"));
    }
    if ["abns@", "fd@", "sockpair@", "quic", "rhttp@"].iter().any(|prefix| text.starts_with(prefix)) {
        return Err("snigate connects by TCP, or to a unix socket with a path".to_owned());
    }
    let text = text.split_once('@').map_or(text, |(_, rest)| rest);
    // `::1:443` and `[::1]:443` are the same here.
    match text.rsplit_once(':') {
        Some((ip, port)) if ip.contains(':') && !ip.starts_with('[') => values::backend(&format!("[{ip}]:{port}")),
        Some((_, port)) if port.starts_with(['+', '-']) => {
            Err("the port depends on the port that the client connected to; write a port".to_owned())
        }
        None => Err("without a port, HAProxy uses the port that the client connected to; write a port".to_owned()),
        _ => values::backend(text),
    }
}
