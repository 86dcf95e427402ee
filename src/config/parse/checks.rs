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
    of_its_kind(check, section);
    if check.kind == CheckKind::Tls
        && let Some(file) = &*check.ca_file
    {
        if let Err(error) = authorities(&file.0) {
            section.error_at("ca_file", error);
        }
        if !check.verify {
            section.error_at("ca_file", "`ca_file` has no effect without `verify: true`; add it");
        }
    }
    for (key, text) in [("send", &check.send), ("expect", &check.expect)] {
        match text.as_ref().map_or(1, String::len) {
            0 => section.error_at(key, "an empty text checks nothing; write some text, or remove the key"),
            1..=MOST_TEXT_BYTES => {}
            _ => section.error_at(key, format_args!("at most {MOST_TEXT_BYTES} bytes")),
        }
    }
    if section.key("status").is_some_and(|list| list.is_empty_list()) {
        section.error_at("status", "an empty list lets no answer pass; write `200-399`, or remove the key");
    }
    if check.kind == CheckKind::Text && !section.holds("expect") {
        section.error("`kind: text` needs `expect`: a text that the backend says when it works");
    }
}

/// Reports keys of other kinds of checks.
fn of_its_kind(check: &HealthCheck, section: &Cursor<'_>) {
    let set = [
        ("sni", CheckKind::Tls, check.sni.is_some()),
        ("alpn", CheckKind::Tls, !check.alpn.is_empty()),
        ("starttls", CheckKind::Tls, check.starttls.is_some()),
        ("verify", CheckKind::Tls, check.verify),
        ("ca_file", CheckKind::Tls, check.ca_file.is_some()),
        ("ech", CheckKind::Tls, check.ech),
        ("path", CheckKind::Http, check.path.is_some()),
        ("host", CheckKind::Http, check.host.is_some()),
        ("status", CheckKind::Http, check.status.is_some()),
        ("send", CheckKind::Text, check.send.is_some()),
        ("expect", CheckKind::Text, check.expect.is_some()),
    ];
    for (key, kind, _) in set.into_iter().filter(|(_, kind, is_set)| *is_set && *kind != check.kind) {
        let (kind, cure) = (kind.as_str(), if section.holds("kind") { "write" } else { "add" });
        section.error_at(key, format_args!("only `kind: {kind}` uses this; remove it, or {cure} `kind: {kind}`"));
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

const MOST_TEXT_BYTES: usize = 4096;
const SHORTEST: Duration = Duration::from_millis(50);
