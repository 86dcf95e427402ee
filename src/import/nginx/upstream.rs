//! Reads `upstream` blocks of nginx's stream module.
//!
//! In:  the directives of a block.
//! Out: the backends and the policy of a pool.
//! Source: nginx's documentation of ngx_stream_upstream_module.

use super::super::finding::Findings;
use super::super::model::{Backend, Key, Origin, set};
use super::super::values;
use super::syntax::Directive;
use super::{duration, is_ignored};
use crate::settings::MAX_WEIGHT;

/// What a block says.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub name: String,
    pub origin: Origin,
    pub backends: Vec<Backend>,
    pub keys: Vec<Key>,
}

impl Upstream {
    pub(super) fn read(directive: &Directive, findings: &mut Findings) -> Self {
        let name = directive.word(1).to_owned();
        let mut upstream = Self { name, origin: directive.origin.clone(), backends: Vec::new(), keys: Vec::new() };
        let mut failures = Vec::new();
        for line in directive.block.iter().flatten() {
            match line.name() {
                "server" => upstream.server(line, &mut failures, findings),
                "least_conn" | "hash" | "random" | "ip_hash" => upstream.policy(line, findings),
                "zone" | "state" | "least_time" | "keepalive" => {}
                "resolver" => nameservers(line, &mut upstream.keys, findings),
                name if is_ignored(name) => {}
                _ => findings.left_out(&line.origin, &line.text(), "snigate has nothing like it"),
            }
        }
        upstream.ejection(&failures, findings);
        upstream
    }

    /// A pool of one address.
    pub(super) fn of_address(address: &str, origin: &Origin) -> Result<Self, String> {
        let backend = Backend { address: backend_address(address)?, keys: Vec::new(), origin: Some(origin.clone()) };
        Ok(Self { name: address.to_owned(), origin: origin.clone(), backends: vec![backend], keys: Vec::new() })
    }

    fn server(&mut self, line: &Directive, failures: &mut Vec<Failures>, findings: &mut Findings) {
        let address = match backend_address(line.word(1)) {
            Ok(address) => address,
            Err(why) => return findings.left_out(&line.origin, &line.text(), why),
        };
        let mut keys = Vec::new();
        let mut failure = Failures { most: 1, time: None, origin: line.origin.clone() };
        for option in line.words.iter().skip(2) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = value.parse::<u32>().unwrap_or_default();
            match name {
                "weight" if number > 1 => keys.push(Key::new("weight", number.min(MAX_WEIGHT), &line.origin)),
                "max_conns" if number > 0 => keys.push(Key::new("max_connections", number, &line.origin)),
                "weight" | "max_conns" | "resolve" => {}
                "max_fails" => failure.most = number,
                "fail_timeout" => failure.time = duration(value),
                "slow_start" => {
                    let time = duration(value).unwrap_or_default();
                    set(&mut self.keys, Key::new("slow_start", values::span(time, values::HOUR), &line.origin));
                }
                "backup" => keys.push(Key::new("backup", true, &line.origin)),
                "down" => {
                    return findings.left_out(&line.origin, &address, "it is `down`; add it when you need it");
                }
                _ => findings.left_out(&line.origin, option, "snigate has nothing like this option of `server`"),
            }
        }
        failures.push(failure);
        self.backends.push(Backend { address, keys, origin: Some(line.origin.clone()) });
    }

    fn policy(&mut self, line: &Directive, findings: &mut Findings) {
        let words = line.text();
        match POLICIES.iter().find(|(known, _)| *known == words) {
            Some((_, policy)) => set(&mut self.keys, Key::new("balance", policy, &line.origin)),
            None => {
                let why =
                    "there is no such policy; `source_hash` and `sni_hash` keep a client or a name at its backend";
                findings.left_out(&line.origin, &words, why);
            }
        }
    }

    /// nginx counts failures for each server, snigate has one setting for the pool.
    fn ejection(&mut self, failures: &[Failures], findings: &mut Findings) {
        let Some(first) = failures.first() else { return };
        for other in failures.iter().filter(|other| (other.most, other.time) != (first.most, first.time)) {
            let why = format!("it differs from {}, and a pool can have only one value", first.origin);
            findings.left_out(&other.origin, "max_fails and fail_timeout", why);
        }
        if first.most == 0 {
            set(&mut self.keys, Key::new("ejection", "off", &first.origin));
        } else if first.most > 1 || first.time.is_some() {
            set(&mut self.keys, Key::new("ejection.failures", first.most.min(1_000), &first.origin));
            let base = first.time.unwrap_or(values::SECOND * 10).clamp(values::SECOND / 10, values::DAY);
            set(&mut self.keys, Key::new("ejection.base", values::span(base, values::DAY), &first.origin));
            // The first ejection cannot be longer than the longest.
            let most = base.max(values::SECOND * 300);
            set(&mut self.keys, Key::new("ejection.max", values::span(most, values::DAY), &first.origin));
        }
    }
}

struct Failures {
    most: u32,
    time: Option<std::time::Duration>,
    origin: Origin,
}

/// `resolver 10.0.0.53 [::1]:53 valid=10s;`
pub(super) fn nameservers(line: &Directive, keys: &mut Vec<Key>, findings: &mut Findings) {
    let mut addresses = Vec::new();
    for word in line.arguments() {
        let bare = word.trim_start_matches('[').trim_end_matches(']');
        match (word.parse::<std::net::SocketAddr>(), bare.parse::<std::net::IpAddr>()) {
            (Ok(address), _) => addresses.push(super::super::writer::scalar(&address.to_string())),
            (_, Ok(ip)) => addresses.push(super::super::writer::scalar(&ip.to_string())),
            _ if word.contains('=') => {}
            _ => findings.left_out(&line.origin, word, "a nameserver must be an IP address"),
        }
    }
    if !addresses.is_empty() {
        set(keys, Key::new("resolve.nameservers", format_args!("[{}]", addresses.join(", ")), &line.origin));
    }
}

/// `IP:PORT`, `NAME:PORT`, `unix:/PATH`
fn backend_address(text: &str) -> Result<String, String> {
    if text.contains('$') {
        return Err(
            "snigate never connects to a name that the client chose; list the names and their backends".to_owned()
        );
    }
    // Two colons are an old form of a unix socket's end.
    values::backend(text.strip_suffix(':').filter(|text| text.starts_with("unix:")).unwrap_or(text))
}

const POLICIES: &[(&str, &str)] = &[
    ("least_conn", "least_connections"),
    ("hash $remote_addr", "source_hash"),
    ("hash $remote_addr consistent", "source_hash"),
    ("hash $binary_remote_addr", "source_hash"),
    ("hash $binary_remote_addr consistent", "source_hash"),
    ("hash $ssl_preread_server_name", "sni_hash"),
    ("hash $ssl_preread_server_name consistent", "sni_hash"),
    ("random", "random"),
    ("random two", "power_of_two"),
    ("random two least_conn", "power_of_two"),
];
