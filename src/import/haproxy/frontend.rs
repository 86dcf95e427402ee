//! Reads a frontend of HAProxy in tcp mode.
//!
//! In:  the lines of a `frontend` or `listen`.
//! Out: [`Frontend`]: a listener with its rules, and the timeouts that apply to its clients.
//! Source: HAProxy's configuration manual, 4 (use_backend, tcp-request), 7 (ACLs).

use std::time::Duration;

use super::super::finding::Findings;
use super::super::model::{Key, Listener, Origin, Rule, Target, set};
use super::super::source::Library;
use super::super::values;
use super::acl::{Acls, Condition, Conditions};
use super::bind;
use super::clients::Clients;
use super::keywords::{Fate, PROXY, fate};
use super::maps::{Lookup, lookup};
use super::sections::{Kind, Line, Section, Sections};
use super::timeout;

/// What a section says about clients.
pub(super) struct Frontend {
    pub listener: Listener,
    pub client_timeout: Option<(Duration, Origin)>,
    pub settings: Vec<Key>,
}

/// Whether a rule is for whoever no other rule takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IsRest {
    Yes,
    No,
}

/// Whether a section looks at the ClientHello.
pub(super) fn reads_hello(section: &Section) -> bool {
    let about_it = |word: &String| ["req.ssl_", "req_ssl_"].iter().any(|fetch| word.contains(fetch));
    section.kind != Kind::Backend && section.lines.iter().any(|line| line.words.iter().any(about_it))
}

/// Reads a section.
pub(super) fn read(
    section: &Section,
    sections: &Sections,
    library: &mut Library<'_>,
    findings: &mut Findings,
) -> Frontend {
    let acls = Acls::of(&section.lines);
    let mut reader = Reader {
        sections,
        conditions: Conditions { acls: &acls, library, findings },
        out: Frontend {
            listener: Listener::new(&section.name, &section.origin),
            client_timeout: None,
            settings: Vec::new(),
        },
        uses: Vec::new(),
        default: None,
        accepts_tls: false,
    };
    section.lines.iter().for_each(|line| reader.line(line, section.kind));
    reader.finish(section)
}

struct Reader<'a, 'f> {
    sections: &'a Sections,
    conditions: Conditions<'a, 'f>,
    out: Frontend,
    /// `use_backend`, which holds after all `tcp-request` rules, wherever those stand.
    uses: Vec<Line>,
    default: Option<(Target, Origin)>,
    /// A rule has accepted clients that speak TLS; later `tcp-request content` rules are not for them.
    accepts_tls: bool,
}

impl Reader<'_, '_> {
    fn line(&mut self, line: &Line, kind: Kind) {
        let keys = &mut self.out.listener.keys;
        match (line.word(0), line.word(1)) {
            ("bind", _) => bind::add(line, &mut self.out.listener, self.conditions.findings),
            ("maxconn", value) => bind::maxconn(keys, value, line, self.conditions.findings),
            ("use_backend", _) => self.uses.push(line.clone()),
            ("default_backend", name) => self.default = self.backend(name, line).map(|to| (to, line.origin.clone())),
            ("tcp-request", "inspect-delay") => {
                if let Some(delay) = timeout::duration(line, 2, self.conditions.findings) {
                    let value = values::span(delay, values::HOUR);
                    set(&mut self.out.settings, Key::new("timeouts.hello", value, &line.origin));
                }
            }
            ("tcp-request", _) => self.tcp_request(line),
            ("timeout", "client") => {
                let client = timeout::duration(line, 2, self.conditions.findings);
                self.out.client_timeout = client.map(|client| (client, line.origin.clone()));
            }
            ("timeout", "client-fin") => {
                if let Some(fin) = timeout::duration(line, 2, self.conditions.findings) {
                    let value = values::span(fin, values::WEEK);
                    set(&mut self.out.settings, Key::new("timeouts.half_closed", value, &line.origin));
                }
            }
            // Those of a backend are read with it.
            _ if super::pool::takes(line) => {}
            _ if kind == Kind::Listen => {}
            _ => self.other(line),
        }
    }

    fn other(&mut self, line: &Line) {
        if let Fate::LeftOut(why) = fate(PROXY, line) {
            self.conditions.findings.left_out(&line.origin, &line.text(), why);
        }
    }

    /// The target of a rule, or why there is none.
    fn backend(&mut self, name: &str, line: &Line) -> Option<Target> {
        let why = match self.sections.backend(name) {
            Some(section) if section.is_tcp() => return Some(Target::Pool(name.into())),
            Some(_) => "that backend is in http mode; snigate relays TLS only",
            None => "there is no such backend",
        };
        self.conditions.findings.left_out(&line.origin, &line.text(), why);
        None
    }

    fn tcp_request(&mut self, line: &Line) {
        let result = match (line.word(1), line.word(2)) {
            ("content", "accept") => self.accept(line),
            ("content" | "connection", "reject" | "silent-drop") => self.reject(line),
            ("connection", "expect-proxy") => self.expect_proxy(line),
            ("content", "capture") | ("content" | "connection", "set-log-level") => Ok(()),
            ("connection" | "content" | "session", action)
                if action.starts_with("track-sc") || action.starts_with("sc-") =>
            {
                Err("snigate has no tables; use `limits.per_client`".to_owned())
            }
            (_, action) if action.starts_with("lua") => Err("snigate runs no Lua".to_owned()),
            (_, "do-resolve" | "set-dst" | "set-dst-port") => {
                Err("snigate never connects to an address that depends on the client; list the backends".to_owned())
            }
            _ => Err("snigate has nothing like it".to_owned()),
        };
        if let Err(why) = result {
            self.conditions.findings.left_out(&line.origin, &line.text(), why);
        }
    }

    /// `accept` only matters for the `reject` rules that follow.
    fn accept(&mut self, line: &Line) -> Result<(), String> {
        match self.conditions.read(line, 3)? {
            Condition::Clients(sets) if sets.iter().any(|set| set.has_every_name() && set.unnamed) => {
                self.accepts_tls = true;
                Ok(())
            }
            // It waits for a server name; clients without one are accepted after the delay.
            Condition::Clients(sets) if sets.iter().any(Clients::has_every_name) => Ok(()),
            _ => Err("only a rule that accepts every ClientHello can be written".to_owned()),
        }
    }

    fn reject(&mut self, line: &Line) -> Result<(), String> {
        let sets = match self.conditions.read(line, 3)? {
            Condition::NotIn(networks) => return self.access("allow", &networks, line),
            Condition::Clients(sets) => sets,
        };
        for mut set in sets {
            if set.has_every_name() && set.unnamed && set.not_tls && self.accepts_tls {
                set = Clients { not_tls: true, ..Clients::nobody() };
            }
            if set.unnamed && set.not_tls && !set.source.is_empty() {
                self.access("deny", &set.source, line)?;
                continue;
            }
            self.add(&set, &Target::Close, &line.origin, IsRest::No);
        }
        Ok(())
    }

    fn access(&mut self, key: &'static str, networks: &[ipnet::IpNet], line: &Line) -> Result<(), String> {
        if self.out.listener.keys.iter().any(|old| old.path == key) {
            return Err(format!("the listener already has a list; add the networks to its `{key}`"));
        }
        set(&mut self.out.listener.keys, Key::new(key, values::networks(networks), &line.origin));
        Ok(())
    }

    /// `tcp-request connection expect-proxy layer4 if { src 10.0.0.0/8 }`
    fn expect_proxy(&mut self, line: &Line) -> Result<(), String> {
        let source = match self.conditions.read(line, 4)? {
            Condition::Clients(sets) if sets.len() == 1 => sets.into_iter().next().map(|set| set.source),
            _ => None,
        };
        let source = source.filter(|source| !source.is_empty());
        let source = source.ok_or("write the networks of your proxies in `proxy_protocol.trusted`")?;
        let keys = &mut self.out.listener.keys;
        set(keys, Key::new("proxy_protocol.trusted", values::networks(&source), &line.origin));
        set(keys, Key::new("proxy_protocol.others", "plain", &line.origin));
        Ok(())
    }

    fn finish(mut self, section: &Section) -> Frontend {
        let own = section.lines.iter().find(|line| line.word(0) == "server");
        if let (None, Kind::Listen, Some(server)) = (&self.default, section.kind, own) {
            self.default = Some((Target::Pool(section.name.as_str().into()), server.origin.clone()));
        }
        let mut failed = Vec::new();
        for line in std::mem::take(&mut self.uses) {
            if let Err(why) = self.use_backend(&line) {
                self.conditions.findings.left_out(&line.origin, &line.text(), why);
                failed.push(line);
            }
        }
        self.report_unused(&failed);
        if let Some((target, origin)) = self.default.take() {
            self.add(&Clients::all(), &target, &origin, IsRest::Yes);
        }
        self.out
    }

    /// Says where the clients of a backend go now, if none of its rules could be taken over.
    fn report_unused(&mut self, failed: &[Line]) {
        let rules = &self.out.listener.rules;
        let is_used = |name: &str| rules.iter().any(|rule| rule.to.pools().any(|pool| **pool == *name));
        let rest = match &self.default {
            Some((Target::Pool(pool), _)) => format!("go to the default backend `{pool}`"),
            _ => "are refused".to_owned(),
        };
        for line in failed.iter().filter(|line| !line.word(1).starts_with("%[") && !is_used(line.word(1))) {
            let name = crate::telemetry::escape::readable(line.word(1), 120);
            let message =
                format_args!("no rule leads to the backend `{name}` any more; names without another rule {rest}");
            self.conditions.findings.note(&line.origin, message);
        }
    }

    fn use_backend(&mut self, line: &Line) -> Result<(), String> {
        let Condition::Clients(sets) = self.conditions.read(line, 2)? else {
            return Err("a negated condition cannot be written as a route; write a route for the exception".to_owned());
        };
        match lookup(line.word(1), self.conditions.library, self.conditions.findings) {
            Some(lookup) => {
                let lookup = lookup?;
                sets.iter().for_each(|set| self.use_map(&lookup, set, line));
            }
            None => {
                let Some(target) = self.backend(line.word(1), line) else { return Ok(()) };
                sets.iter().for_each(|set| self.add(set, &target, &line.origin, IsRest::No));
            }
        }
        Ok(())
    }

    /// A value that is not the name of a backend leads to the default one, and no further rule is tried.
    fn use_map(&mut self, lookup: &Lookup, clients: &Clients, line: &Line) {
        for (pattern, backend, origin) in &lookup.entries {
            let entry = Clients { names: vec![(pattern.clone(), Some(origin.clone()))], ..Clients::nobody() };
            let Some(both) = clients.clone().and(&entry) else { continue };
            let target = self.of_map(backend, origin);
            self.add(&both, &target, origin, IsRest::No);
        }
        let named = Clients { unnamed: false, not_tls: false, ..clients.clone() };
        if let Some(backend) = &lookup.otherwise {
            let target = self.of_map(backend, &line.origin);
            self.add(&named, &target, &line.origin, IsRest::Yes);
        }
        // Without a name there is nothing to look up, and the default of the map does not apply.
        self.add(clients, &self.default_target(), &line.origin, IsRest::Yes);
    }

    fn of_map(&mut self, backend: &str, origin: &Origin) -> Target {
        match self.sections.backend(backend).filter(|section| section.is_tcp()) {
            Some(_) => Target::Pool(backend.into()),
            None => {
                let message =
                    format_args!("there is no tcp backend `{backend}`, so its names go to the default backend");
                self.conditions.findings.note(origin, message);
                self.default_target()
            }
        }
    }

    fn default_target(&self) -> Target {
        self.default.as_ref().map_or(Target::Close, |(target, _)| target.clone())
    }

    /// Adds a rule for a set of clients, behind those that are there.
    fn add(&mut self, clients: &Clients, to: &Target, origin: &Origin, is_rest: IsRest) {
        let is_rest = is_rest == IsRest::Yes;
        let listener = &mut self.out.listener;
        for (pattern, from) in &clients.names {
            let origin = from.clone().unwrap_or_else(|| origin.clone());
            let source = clients.source.clone();
            listener.rules.push(Rule { pattern: pattern.clone(), source, to: to.clone(), origin, is_rest });
        }
        let fallbacks = [(clients.unnamed, &mut listener.no_sni), (clients.not_tls, &mut listener.not_tls)];
        for (_, fallback) in fallbacks.into_iter().filter(|(is, fallback)| *is && fallback.is_none()) {
            if clients.source.is_empty() {
                *fallback = Some((to.clone(), origin.clone()));
            } else {
                let why = "what happens to clients without a server name cannot depend on their address";
                self.conditions.findings.left_out(origin, "clients without a server name", why);
                return;
            }
        }
    }
}
