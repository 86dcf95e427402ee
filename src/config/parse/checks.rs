//! Checks the settings of health checks and ejection.
//!
//! In:  the settings of a pool, and where they are written.
//! Out: problems; and the name that a check sends, taken from the routes when none is set.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Cursor;
use super::pools::Pools;
use super::settings::{DAY, HOUR, number_within, within};
use crate::config::problem::{Problem, Severity};
use crate::config::reader::Reading;
use crate::config::{Destination, Route};
use crate::server_name::{Pattern, ServerName};
use crate::settings::{CheckKind, Ejection, HealthCheck, Text};

pub(super) fn health_check(check: &HealthCheck, section: &Cursor<'_>) {
    let (interval, timeout) = (check.interval, check.timeout);
    within(section, "interval", interval, SHORTEST..=HOUR);
    within(section, "timeout", timeout, SHORTEST..=HOUR);
    number_within(section, "rise", check.rise, 1..=100);
    number_within(section, "fall", check.fall, 1..=100);
    if timeout > interval {
        let message = format_args!("a check may take {timeout}, longer than the interval of {interval}");
        section.warning_at("interval", message);
    }
    if check.kind == CheckKind::Tcp {
        let set = [
            ("sni", check.sni.is_some()),
            ("alpn", !check.alpn.is_empty()),
            ("verify", check.verify),
            ("ca_file", check.ca_file.is_some()),
        ];
        for (key, _) in set.into_iter().filter(|(_, set)| *set) {
            section.error_at(key, "only `kind: tls` uses this; remove it, or remove `kind: tcp`");
        }
    } else if let Some(file) = &*check.ca_file {
        if let Err(error) = authorities(&file.0) {
            section.error_at("ca_file", error);
        }
        if !check.verify {
            section.error_at("ca_file", "`ca_file` has no effect without `verify: true`; add it");
        }
    }
}

/// Checks that the file contains certificates. It is read again when the checks start.
fn authorities(path: &Path) -> Result<(), String> {
    let unreadable = |error| format!("cannot read certificates from {}: {error}", path.display());
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
        certificate.map_err(|error| unreadable(error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(unreadable("it contains no PEM certificate".to_owned())) } else { Ok(()) }
}

/// Sets the server name of each TLS check that has none to the first exact name routed to its pool. A check without any
/// name is likely to be refused, so it gets a warning.
pub(super) fn default_names(pools: &mut Pools, routes: &[Route], reading: &Reading) {
    let mut first: HashMap<usize, &ServerName> = HashMap::new();
    for route in routes {
        let Destination::Pool(pool) = route.to else { continue };
        for (pattern, _) in &route.patterns {
            if let Pattern::Exact(name) = pattern {
                first.entry(pool).or_insert(name);
            }
        }
    }
    for (number, (pool, place)) in pools.parsed.iter_mut().zip(&pools.places).enumerate() {
        let tls = pool.health_check.as_mut().filter(|check| check.kind == CheckKind::Tls);
        let Some(HealthCheck { sni: sni @ None, .. }) = tls else { continue };
        *sni = first.get(&number).map(|name| Text((*name).clone()));
        if sni.is_none() {
            reading.problems.borrow_mut().push(Problem {
                severity: Severity::Warning,
                place: place.clone(),
                path: format!("pools.{}.health_check", pool.name),
                message: "no route with an exact name leads here, so checks send no server name, which many servers refuse; set `sni`"
                    .to_owned(),
            });
        }
    }
}

pub(super) fn ejection(ejection: &mut Ejection, section: &Cursor<'_>) {
    if !section.has("max") {
        ejection.max = ejection.max.max(ejection.base);
    }
    match ejection.failures {
        0 => section.error_at("failures", "must be at least 1; write `ejection: off` to turn ejection off"),
        1..=1000 => {}
        _ => section.error_at("failures", "must be at most 1000"),
    }
    let (base, max) = (ejection.base, ejection.max);
    within(section, "base", base, Duration::from_millis(100)..=DAY);
    within(section, "max", max, Duration::from_millis(100)..=DAY);
    if max < base {
        section.error_at("max", format_args!("the longest ejection, {max}, is shorter than the first one, {base}"));
    }
}

const SHORTEST: Duration = Duration::from_millis(50);
