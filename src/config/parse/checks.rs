//! Checks the settings of health checks and ejection.
//!
//! In:  the settings of a pool, and where they are written.
//! Out: problems.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Cursor;
use super::settings::{DAY, HOUR, number_within, within};
use crate::settings::{CheckKind, Ejection, HealthCheck};

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
