//! Checks what listeners do with clients that do not begin with a ClientHello.
//!
//! In:  the listeners of the main file, the names of all pools.
//! Out: problems.

use super::settings::{HOUR, MILLISECOND, within};
use super::{Cursor, Names};
use crate::config::Config;
use crate::config::problem::{Place, Problem, Severity};
use crate::settings::{CheckKind, Listener, Span, Starttls};

/// Checks where silent clients go, and that this happens before they count as probes.
pub(super) fn silent(listeners: &[Listener], top: &Cursor<'_>, pools: &Names, hello: Span) {
    let Some(list) = top.key("listeners") else { return };
    for cursor in list.items() {
        let name = cursor.key("name").and_then(|name| name.text());
        let listener = listeners.iter().find(|listener| name.is_some_and(|name| *listener.name == *name));
        let (Some(section), Some(silent)) = (cursor.key("silent"), listener.and_then(|read| read.silent.as_ref()))
        else {
            continue;
        };
        within(&section, "after", silent.after, MILLISECOND..=HOUR);
        if silent.after >= hello {
            let message =
                format_args!("must be shorter than `timeouts.hello`, after which a silent client is closed: {hello}");
            section.error_at("after", message);
        }
        if let Err(dangling) = pools.find(&silent.pool, "pool") {
            section.error_at("pool", dangling);
        }
    }
}

/// A listener with STARTTLS and one without, by their indices, if there are any.
#[derive(Clone, Copy, Default)]
struct Either {
    with: Option<usize>,
    without: Option<usize>,
}

impl Either {
    fn add(&mut self, index: usize, listeners: &[Listener]) {
        // A listener with an error is missing.
        match listeners.get(index).map(|listener| listener.starttls) {
            Some(Starttls::None) => _ = self.without.get_or_insert(index),
            Some(Starttls::Postgres) => _ = self.with.get_or_insert(index),
            None => {}
        }
    }
}

/// Finds what checks of each pool send before TLS begins: what the connections do that come there.
pub(super) fn starttls(config: &mut Config, places: &[Place], top: &Cursor<'_>) {
    let listeners = &config.settings.listeners;
    let mut all = Either::default();
    (0..listeners.len()).for_each(|index| all.add(index, listeners));
    let mut lead_to = vec![Either::default(); config.settings.pools.len()];
    let fallbacks = [&config.settings.no_sni, &config.settings.unmatched].map(|to| (to, &[][..]));
    let routes = config.routes.iter().map(|route| (&route.to, &*route.conditions.listeners));
    for (to, through) in routes.chain(fallbacks) {
        for pool in to.pools() {
            let Some(either) = lead_to.get_mut(pool) else { continue };
            if through.is_empty() {
                *either = all;
            }
            through.iter().for_each(|index| either.add(*index, listeners));
        }
    }
    for ((pool, either), place) in config.settings.pools.iter_mut().zip(lead_to).zip(places) {
        let check = pool.health_check.as_ref().filter(|check| check.kind == CheckKind::Tls);
        pool.starttls = match (check.and_then(|check| check.starttls), either) {
            (Some(given), _) => given,
            (None, Either { with: Some(with), without: None }) => listeners[with].starttls,
            (None, Either { with: Some(with), without: Some(without) }) if check.is_some() => {
                let (with, without) = (&listeners[with].name, &listeners[without].name);
                top.reading.problems.borrow_mut().push(Problem {
                    severity: Severity::Warning,
                    place: place.clone(),
                    path: format!("pools.{}.health_check", pool.name),
                    message: format!(
                        "the listeners `{with}`, with `starttls`, and `{without}`, without it, both lead here, and checks do \
                         without; set `starttls` of the check, or `listeners` of the routes"
                    ),
                });
                Starttls::None
            }
            (None, _) => Starttls::None,
        };
    }
}
