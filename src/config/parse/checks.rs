//! Parses the health settings of a pool: active checks and ejection.
//!
//! In:  the raw maps of a pool; the routes, for the default server name of a TLS check.
//! Out: [`HealthCheck`], [`Ejection`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::listeners::count_or;
use super::pools::Pools;
use super::routes::protocol;
use super::{Located, each_of, read, section};
use crate::config::at::At;
use crate::config::problem::{Problem, Problems, Severity};
use crate::config::raw::{self, Field};
use crate::config::{CheckKind, Destination, Ejection, HealthCheck, Route, Verify, units};
use crate::server_name::{Pattern, ServerName};

pub(super) fn health_check(
    field: Field<raw::HealthCheck>,
    at: &At<'_>,
    problems: &mut Problems,
) -> Option<HealthCheck> {
    field.as_ref()?;
    let (raw, at) = section(field, at, "health_check");
    let asked = Asked { sni: raw.sni, alpn: raw.alpn, verify: raw.verify, ca_file: raw.ca_file };
    let moment = units::duration_in(Duration::from_millis(50)..=Duration::from_secs(3600));
    let interval_spot = raw.interval.as_ref().map_or(at.spot, |interval| interval.spot);
    let interval = read(raw.interval, &at, "interval", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_INTERVAL);
    let timeout = read(raw.timeout, &at, "timeout", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_TIMEOUT);
    let in_a_row = |count| match u32::try_from(count) {
        Ok(count @ 1..=100) => Ok(count),
        _ => Err("must be from 1 to 100"),
    };
    if timeout > interval {
        let (timeout, interval) = (units::show_duration(timeout), units::show_duration(interval));
        let message = format_args!("a check may take {timeout}, longer than the interval of {interval}");
        problems.warning(&at.key("interval", interval_spot), message);
    }
    let rise = read(raw.rise, &at, "rise", problems, in_a_row).unwrap_or(DEFAULT_RISE);
    let fall = read(raw.fall, &at, "fall", problems, in_a_row).unwrap_or(DEFAULT_FALL);
    let port = read(raw.port, &at, "port", problems, |raw::PortOrNone(text)| match count_or(&text, "none") {
        Ok(None) => Ok(None),
        Ok(Some(port)) => u16::try_from(port).map(Some).map_err(|_| "ports are 1 to 65535".to_owned()),
        Err(error) => Err(error),
    });
    let kind = match raw.kind.and_then(|kind| kind.value) {
        Some(raw::HealthCheckKind::Tcp) => tcp(&asked, &at, problems),
        Some(raw::HealthCheckKind::Tls) | None => tls(asked, &at, problems),
    };
    Some(HealthCheck { kind, interval, timeout, rise, fall, port: port.flatten() })
}

/// Settings that only a TLS check uses.
struct Asked {
    sni: Field<String>,
    alpn: Field<Vec<Located<String>>>,
    verify: Field<bool>,
    ca_file: Field<String>,
}

fn tcp(asked: &Asked, at: &At<'_>, problems: &mut Problems) -> CheckKind {
    let keys = [
        ("sni", asked.sni.as_ref().map(|located| located.spot)),
        ("alpn", asked.alpn.as_ref().map(|located| located.spot)),
        ("verify", asked.verify.as_ref().map(|located| located.spot)),
        ("ca_file", asked.ca_file.as_ref().map(|located| located.spot)),
    ];
    for (key, spot) in keys.into_iter().filter_map(|(key, spot)| Some((key, spot?))) {
        problems.error(&at.key(key, spot), "only `kind: tls` uses this; remove it, or remove `kind: tcp`");
    }
    CheckKind::Tcp
}

fn tls(raw: Asked, at: &At<'_>, problems: &mut Problems) -> CheckKind {
    let server_name = read(raw.sni, at, "sni", problems, |text| match text.parse() {
        Ok(Pattern::Exact(name)) => Ok(name),
        Ok(_) => Err("a check sends one name, not a pattern; write a name that the pattern matches".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    let alpn = raw.alpn.and_then(|located| {
        let at = at.key("alpn", located.spot);
        Some(each_of(located.value?, &at, problems, |text, at, problems| {
            protocol(&text).map_err(|error| problems.error(at, error)).ok()
        }))
    });
    let verify = raw.verify.and_then(|located| located.value).unwrap_or(false);
    let ca_spot = raw.ca_file.as_ref().map(|located| located.spot);
    let ca_file = read(raw.ca_file, at, "ca_file", problems, |text| match text.as_str() {
        "none" => Ok(None),
        path => authorities(path).map(Some),
    });
    if let (Some(spot), Some(Some(_)), false) = (ca_spot, &ca_file, verify) {
        problems.error(&at.key("ca_file", spot), "`ca_file` has no effect without `verify: true`; add it");
    }
    let verify = if verify { Verify::Chain { ca_file: ca_file.flatten() } } else { Verify::Nothing };
    CheckKind::Tls { server_name, alpn: alpn.unwrap_or_default(), verify }
}

/// Checks that the file contains certificates. It is read again when the checks start.
fn authorities(path: &str) -> Result<PathBuf, String> {
    let unreadable = |error| format!("cannot read certificates from {}: {error}", path.escape_debug());
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
        certificate.map_err(|error| unreadable(error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(unreadable("it contains no PEM certificate".to_owned())) } else { Ok(path.into()) }
}

/// Sets the server name of each TLS check that has none to the first exact name routed to its pool. A check without any
/// name is likely to be refused, so it gets a warning.
pub(super) fn default_names(pools: &mut Pools, routes: &[Route], problems: &mut Problems) {
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
        let check = pool.health_check.as_mut().map(|check| &mut check.kind);
        let Some(CheckKind::Tls { server_name: server_name @ None, .. }) = check else { continue };
        *server_name = first.get(&number).map(|name| (*name).clone());
        if server_name.is_none() {
            problems.push(Problem {
                severity: Severity::Warning,
                place: place.clone(),
                path: format!("pools.{}.health_check", pool.name),
                message: "no route with an exact name leads here, so checks send no server name, which many servers refuse; set `sni`"
                    .to_owned(),
            });
        }
    }
}

pub(super) fn ejection(field: Field<raw::Ejection>, at: &At<'_>, problems: &mut Problems) -> Option<Ejection> {
    let Some(Located { spot, value: Some(raw) }) = field else { return Some(DEFAULT_EJECTION) };
    let at = at.key("ejection", spot);
    let raw::Ejection::Keys(raw) = raw else { return None };
    let failures = read(raw.failures, &at, "failures", problems, |count| match u32::try_from(count) {
        Ok(count @ 1..=1000) => Ok(count),
        Ok(0) => Err("must be at least 1; write `ejection: off` to turn ejection off"),
        _ => Err("must be at most 1000"),
    });
    let moment = units::duration_in(Duration::from_millis(100)..=Duration::from_secs(24 * 3600));
    let base = read(raw.base, &at, "base", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_EJECTION.base);
    let max_spot = raw.max.as_ref().map_or(at.spot, |max| max.spot);
    let max = read(raw.max, &at, "max", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_EJECTION.max.max(base));
    if max < base {
        let (base, max) = (units::show_duration(base), units::show_duration(max));
        problems.error(
            &at.key("max", max_spot),
            format_args!("the longest ejection, {max}, is shorter than the first one, {base}"),
        );
    }
    Some(Ejection { failures: failures.unwrap_or(DEFAULT_EJECTION.failures), base, max })
}

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const DEFAULT_EJECTION: Ejection =
    Ejection { failures: 3, base: Duration::from_secs(10), max: Duration::from_secs(300) };
