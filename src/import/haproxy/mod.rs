//! Reads the configuration of HAProxy.
//!
//! In:  its files, in the order of `-f`.
//! Out: a [`Model`] of the frontends that route TLS by its server name, and of the backends that these use.
//! Source: HAProxy's configuration manual; lines mean what they do in HAProxy 2.6 and later.

mod acl;
mod bind;
mod clients;
mod frontend;
mod keywords;
mod maps;
mod pool;
mod sections;
mod server;
mod timeout;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::frontend::{Frontend, reads_hello};
use self::keywords::{Fate, GLOBAL};
use self::pool::Backend;
use self::sections::{Kind, Line, Section, Sections};
use super::finding::{Failure, Findings};
use super::model::{Key, Listener, Model, Origin, Target, set};
use super::source::Library;
use super::values;

/// Reads the files.
///
/// # Errors
/// A file cannot be read, or a line of it.
pub(super) fn read(paths: &[PathBuf], library: &mut Library<'_>, findings: &mut Findings) -> Result<Model, Failure> {
    let sections = Sections::read(paths, library, findings)?;
    let mut model = Model::default();
    let mut frontends = Vec::new();
    for section in &sections.proxies {
        if is_disabled(section, findings) {
            continue;
        }
        match redirect(section, findings) {
            Some(listener) => model.listeners.push(listener),
            None if takes(section, findings) => {
                frontends.push(frontend::read(section, &sections, library, findings));
            }
            None => {}
        }
    }
    let backends = backends(&frontends, &sections, findings);
    global(&sections.global, &mut model, findings);
    frontends.iter().flat_map(|frontend| &frontend.settings).for_each(|key| set(&mut model.settings, key.clone()));
    idle(&frontends, &backends, &mut model, findings);
    model.pools = backends.into_iter().map(|backend| backend.pool).collect();
    let has_tls = frontends.iter().any(|frontend| !frontend.listener.bind.is_empty());
    if !has_tls {
        model.listeners.clear();
    }
    let bound = frontends.into_iter().map(|frontend| frontend.listener).filter(|listener| !listener.bind.is_empty());
    model.listeners.splice(0..0, bound);
    drop_empty_pools(&mut model);
    Ok(model)
}

/// Whether HAProxy does not listen for a section; reports it.
fn is_disabled(section: &Section, findings: &mut Findings) -> bool {
    let of = section.lines.iter().find(|line| line.word(0) == "disabled" && section.kind != Kind::Backend);
    let Some(line) = of else { return false };
    let why = "HAProxy does not use this section, so it was not imported; delete `disabled` to import it";
    findings.left_out(&line.origin, &section.name, why);
    true
}

/// Whether a section can become a listener; reports others that accept clients.
fn takes(section: &Section, findings: &mut Findings) -> bool {
    if section.kind == Kind::Backend {
        return false;
    }
    let name = &section.name;
    if !section.is_tcp() {
        let why = "it is in http mode, which needs decrypted data; snigate passes TLS through";
        findings.left_out(&section.origin, name, why);
        return false;
    }
    if !reads_hello(section) {
        let why =
            "it has no rule on `req.ssl_sni`; if its clients speak TLS, add a listener and a route `sni: \"*\"` for it";
        findings.left_out(&section.origin, name, why);
        return false;
    }
    true
}

/// A frontend on port 80 that only redirects to https becomes a listener for HTTP.
fn redirect(section: &Section, findings: &mut Findings) -> Option<Listener> {
    if section.kind == Kind::Backend || section.is_tcp() {
        return None;
    }
    let redirects = |line: &Line| match (line.word(0), line.word(1)) {
        ("redirect", "scheme") => line.word(2) == "https",
        ("http-request", "redirect") => line.word(2) == "scheme" && line.word(3) == "https",
        _ => false,
    };
    let leads = |line: &Line| matches!(line.word(0), "use_backend" | "default_backend" | "server");
    let rule = section.lines.iter().find(|line| redirects(line))?;
    if section.lines.iter().any(|line| leads(line)) {
        return None;
    }
    let mut listener = Listener::new(&section.name, &section.origin);
    for line in section.lines.iter().filter(|line| line.word(0) == "bind") {
        bind::add(line, &mut listener, findings);
    }
    listener.keys.push(Key::new("protocol", "http", &rule.origin));
    (!listener.bind.is_empty()).then_some(listener)
}

/// The backends that rules lead to, each once.
fn backends(frontends: &[Frontend], sections: &Sections, findings: &mut Findings) -> Vec<Backend> {
    let of = |listener: &Listener| {
        let rules = listener.rules.iter().map(|rule| rule.to.clone());
        let others = [&listener.no_sni, &listener.not_tls].into_iter().flatten().map(|(target, _)| target.clone());
        rules.chain(others).collect::<Vec<_>>()
    };
    let targets: Vec<Target> = frontends.iter().flat_map(|frontend| of(&frontend.listener)).collect();
    let names: BTreeSet<&Arc<str>> = targets.iter().flat_map(Target::pools).collect();
    let used = sections
        .proxies
        .iter()
        .filter(|section| section.kind != Kind::Frontend && names.iter().any(|name| ***name == section.name));
    used.map(|section| pool::read(section, sections, findings)).collect()
}

fn global(lines: &[Line], model: &mut Model, findings: &mut Findings) {
    for line in lines {
        match (line.word(0), line.word(1).parse::<u32>()) {
            ("maxconn", Ok(most @ 1..)) => {
                model.settings.push(Key::new("limits.max_connections", most, &line.origin));
            }
            // Most lines of this section are about the process.
            _ => {
                let known = GLOBAL.iter().find(|(name, _)| *name == line.word(0));
                if let Some((_, Fate::LeftOut(why))) = known {
                    findings.left_out(&line.origin, &line.text(), why);
                }
            }
        }
    }
}

/// HAProxy has an idle timeout for each side, snigate one for a connection: the shorter of both, or that of a tunnel.
fn idle(frontends: &[Frontend], backends: &[Backend], model: &mut Model, findings: &mut Findings) {
    let client = frontends.iter().filter_map(|frontend| frontend.client_timeout.clone()).min();
    let mut all: Vec<(Duration, Origin)> = Vec::new();
    for backend in backends {
        let both = [client.clone(), backend.server_timeout.clone()];
        all.extend(backend.tunnel_timeout.clone().or_else(|| both.into_iter().flatten().min()));
    }
    let Some((longest, origin)) = all.iter().max().cloned() else { return };
    for (shorter, at) in all.iter().filter(|(idle, _)| *idle != longest) {
        let why = format!("the longest ({origin}) is used for all; a route can have its own `idle_timeout`");
        findings.left_out(at, &format!("an idle timeout of {shorter:?}"), why);
    }
    set(&mut model.settings, Key::new("timeouts.idle", values::span(longest, values::WEEK), &origin));
}

/// A pool needs a backend. Rules that lead to one without are refused, as HAProxy does.
fn drop_empty_pools(model: &mut Model) {
    let empty: Vec<Arc<str>> =
        model.pools.iter().filter(|pool| pool.backends.is_empty()).map(|pool| Arc::clone(&pool.name)).collect();
    let close = |to: &mut Target| {
        if to.pools().any(|pool| empty.contains(pool)) {
            *to = Target::Close;
        }
    };
    for listener in &mut model.listeners {
        listener.rules.iter_mut().for_each(|rule| close(&mut rule.to));
        [&mut listener.no_sni, &mut listener.not_tls].into_iter().flatten().for_each(|(to, _)| close(to));
    }
    model.pools.retain(|pool| !pool.backends.is_empty());
}
