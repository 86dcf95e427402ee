//! Finds the backend that a short form stands for.
//!
//! In:  what an operator wrote: `POOL/BACKEND` or `BACKEND`, with or without its port; the status of the process.
//! Out: the pool and the backend's name, as the admin API takes them; or a message that lists the possible ones.

use std::fmt::Write;

use super::printable::printable;
use super::reported::{Backend, Pool, Status};

/// A backend, or all addresses of an entry with a DNS name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub pool: String,
    pub backend: String,
}

/// Finds the only backend that `given` stands for. What fits it exactly wins over what it is a part of.
///
/// # Errors
/// There is none, or there are several.
pub(super) fn find(status: &Status, given: &str) -> Result<Named, String> {
    for fits in [Fit::Whole, Fit::Host, Fit::Beginning] {
        let mut found: Vec<Named> = Vec::new();
        for pool in &status.pools {
            let in_pool = given.strip_prefix(&*pool.name).and_then(|rest| rest.strip_prefix('/'));
            for backend in &pool.backends {
                for wanted in [Some(given), in_pool].into_iter().flatten() {
                    let named = backend_as(backend, wanted, fits);
                    found.extend(named.map(|backend| Named { pool: pool.name.clone(), backend }));
                }
            }
        }
        found.dedup();
        match &*found {
            [] => {}
            [_] => return Ok(found.remove(0)),
            several => return Err(ambiguous(given, several)),
        }
    }
    Err(unknown(status, given))
}

/// Whether the API means `backend` by `name`.
pub(super) fn is_called(backend: &Backend, name: &str) -> bool {
    [&*backend.name, &*backend.address, entry(&backend.name)].contains(&name)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// The name or address.
    Whole,
    /// It without the port.
    Host,
    /// Its beginning, up to a `.`, `:` or `#`.
    Beginning,
}

/// What the API calls the backend that `wanted` stands for.
fn backend_as(backend: &Backend, wanted: &str, fits: Fit) -> Option<String> {
    let (name, address) = (&*backend.name, &*backend.address);
    let is_it = |text: &str| match fits {
        Fit::Whole => text == wanted,
        Fit::Host => host(text) == wanted || host(text).trim_matches(['[', ']']) == wanted,
        Fit::Beginning => {
            let rest = text.strip_prefix(wanted).filter(|_| !wanted.is_empty());
            rest.is_some_and(|rest| rest.starts_with(['.', ':', '#']))
        }
    };
    // The entry first: its addresses belong together.
    [entry(name), name, address]
        .into_iter()
        .find(|text| is_it(text))
        .map(|text| if text == address && address != name { name.to_owned() } else { text.to_owned() })
}

/// `shop.internal:443` of `shop.internal:443#2`, which is one of its addresses.
fn entry(name: &str) -> &str {
    match name.rsplit_once('#') {
        Some((entry, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => entry,
        _ => name,
    }
}

fn host(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => address,
    }
}

fn ambiguous(given: &str, found: &[Named]) -> String {
    let mut message = format!("`{}` fits {} backends; write one of", printable(given), found.len());
    list(&mut message, found.iter().map(|Named { pool, backend }| format!("{pool}/{backend}")));
    message
}

fn unknown(status: &Status, given: &str) -> String {
    let named = |pool: &Pool| -> Vec<String> {
        let mut names: Vec<String> =
            pool.backends.iter().map(|backend| format!("{}/{}", pool.name, entry(&backend.name))).collect();
        names.dedup();
        names
    };
    let given_shown = printable(given);
    if let Some(pool) = status.pools.iter().find(|pool| pool.name == given) {
        let mut message = format!("`{given_shown}` is a pool; its backends are");
        list(&mut message, named(pool).into_iter());
        return message;
    }
    let mut all: Vec<String> = status.pools.iter().flat_map(named).collect();
    let likeness = |name: &String| {
        let backend = name.split_once('/').map_or(&**name, |(_, backend)| backend);
        strsim::jaro_winkler(name, given).max(strsim::jaro_winkler(backend, given))
    };
    all.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    let mut message = format!("no backend is named `{given_shown}`; known are");
    list(&mut message, all.into_iter());
    message
}

fn list(message: &mut String, names: impl ExactSizeIterator<Item = String>) {
    let left_off = names.len().saturating_sub(MOST_LISTED);
    for name in names.take(MOST_LISTED) {
        let _ = write!(message, "\n  {}", printable(&name));
    }
    if left_off > 0 {
        let _ = write!(message, "\n  and {left_off} more");
    }
}

const MOST_LISTED: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let pool = |name: &str, backends: &[(&str, &str)]| Pool {
            name: name.to_owned(),
            backends: (backends.iter())
                .map(|(name, address)| Backend {
                    name: (*name).to_owned(),
                    address: (*address).to_owned(),
                    ..Backend::default()
                })
                .collect(),
            ..Pool::default()
        };
        let same = |address| (address, address);
        Status {
            pools: vec![
                pool("shop", &[same("10.0.0.11:443"), same("10.0.0.1:443"), same("[2001:db8::1]:443")]),
                pool("web", &[("web.internal:443#1", "10.0.1.1:443"), ("web.internal:443#2", "10.0.1.2:443")]),
                pool("both", &[same("10.0.0.11:443"), same("unix:/run/a.sock")]),
            ],
            ..Status::default()
        }
    }

    fn found(given: &str) -> Result<String, String> {
        find(&status(), given).map(|Named { pool, backend }| format!("{pool}/{backend}"))
    }

    #[test]
    fn a_form_that_fits_one_backend_is_enough() {
        for (given, expected) in [
            ("shop/10.0.0.11:443", "shop/10.0.0.11:443"),
            ("shop/10.0.0.11", "shop/10.0.0.11:443"),
            // Not 10.0.0.11, which begins with it.
            ("10.0.0.1", "shop/10.0.0.1:443"),
            ("2001:db8::1", "shop/[2001:db8::1]:443"),
            ("web", "web/web.internal:443"),
            ("web.internal:443", "web/web.internal:443"),
            ("web.internal:443#2", "web/web.internal:443#2"),
            ("10.0.1.2", "web/web.internal:443#2"),
            ("both/unix:/run/a.sock", "both/unix:/run/a.sock"),
            ("unix:/run/a.sock", "both/unix:/run/a.sock"),
        ] {
            assert_eq!(found(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn a_form_that_fits_several_or_none_lists_them() {
        let expected = "`10.0.0.11` fits 2 backends; write one of\n  shop/10.0.0.11:443\n  both/10.0.0.11:443";
        assert_eq!(found("10.0.0.11").unwrap_err(), expected);
        assert!(found("10.0.0").unwrap_err().starts_with("`10.0.0` fits 3 backends"), "{:?}", found("10.0.0"));
        assert!(found("shop").unwrap_err().starts_with("`shop` is a pool; its backends are\n  shop/10.0.0.11:443\n"));
        assert!(
            found("web.intrnal")
                .unwrap_err()
                .starts_with("no backend is named `web.intrnal`; known are\n  web/web.int")
        );
        assert!(found("").is_err() && found("1").is_err());
    }
}
