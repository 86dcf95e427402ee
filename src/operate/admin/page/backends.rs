//! The section of pools and backends, those that fail first.
//!
//! In:  the pools of a status.
//! Out: the template of the section.

use std::collections::BTreeMap;

use askama::Template;

use super::data::{Data, Graphs};
use super::format;
use super::query::Paged;
use super::tone::Tone;
use crate::operate::status::{At, BackendStatus, PoolState, PoolStatus, SeriesKind, Status};

#[derive(Template)]
#[template(path = "pools.html")]
pub(super) struct Pools<'d> {
    summary: String,
    search: &'d str,
    is_empty: bool,
    pools: Vec<ShownPool<'d>>,
    paged: Paged,
    may_change: bool,
}

struct ShownPool<'d> {
    status: &'d PoolStatus,
    tone: Tone,
    word: &'static str,
    since: String,
    policy: String,
    spark: String,
    backends: Vec<ShownBackend<'d>>,
    left_off: usize,
}

struct ShownBackend<'d> {
    status: &'d BackendStatus,
    tone: Tone,
    word: &'d str,
    since: String,
    spark: String,
    certificate: Option<Certificate>,
}

struct Certificate {
    names: String,
    expires: String,
    tone: Tone,
}

pub(super) fn section<'d>(data: &'d Data, graphs: &Graphs<'_>) -> Pools<'d> {
    let (status, search) = (&data.status, data.query.pools.as_str());
    let mut found: Vec<&PoolStatus> = status.pools.iter().filter(|pool| matches(pool, search)).collect();
    // Stable: those in the same state stay in the order of the file.
    found.sort_by_key(|pool| of_pool(pool.state).0);
    let from = data.query.pools_from.min(found.len().saturating_sub(1));
    let pools: Vec<_> = found.iter().skip(from).take(POOLS).map(|pool| shown(pool, status, graphs)).collect();
    let (up, all) = usable(status);
    let plural = |number: usize| if number == 1 { "" } else { "s" };
    Pools {
        summary: format!(
            "{} pool{}, {up} of {all} backend{} can be used",
            format::count(status.pools.len()),
            plural(status.pools.len()),
            plural(all)
        ),
        search,
        is_empty: status.pools.is_empty(),
        paged: Paged::new(&data.query, "pools", "pools_from", (from, pools.len(), found.len()), POOLS),
        pools,
        may_change: data.may_change,
    }
}

/// How many backends may be used, and how many there are.
pub(super) fn usable(status: &Status) -> (usize, usize) {
    let left_off = status.backends_left_off;
    status.pools.iter().fold((left_off, left_off), |(up, all), pool| {
        let usable = pool.backends.iter().filter(|backend| matches!(of_backend(&backend.state), Tone::Ok | Tone::Off));
        // What is left off is in a better state than what is listed.
        (up + usable.count() + pool.backends_left_off, all + pool.backends.len() + pool.backends_left_off)
    })
}

/// How many backends are how, as one bar. Its title says the same in words.
pub(super) fn segments(status: &Status) -> String {
    let backends = || status.pools.iter().flat_map(|pool| &pool.backends);
    let left_off = status.backends_left_off + status.pools.iter().map(|pool| pool.backends_left_off).sum::<usize>();
    let tones = [Tone::Ok, Tone::Off, Tone::Note, Tone::Warn, Tone::Bad].map(|tone| {
        let counted = backends().filter(|backend| of_backend(&backend.state) == tone).count();
        (tone, if tone == Tone::Ok { counted + left_off } else { counted })
    });
    let all = tones.iter().map(|(_, count)| count).sum::<usize>().max(1);
    let mut words = BTreeMap::<&str, usize>::new();
    backends().for_each(|backend| *words.entry(&backend.state).or_default() += 1);
    let words: Vec<String> = words.iter().map(|(word, count)| format!("{} {word}", format::count(count))).collect();
    let title = if words.is_empty() { "no backends".to_owned() } else { words.join(", ") };
    let mut svg = format!("<svg class=\"segments\" role=\"img\"><title>{}</title>", title.replace(['<', '&'], ""));
    let mut from = 0;
    for (tone, count) in tones.iter().filter(|(_, count)| *count > 0) {
        let percent = |part: usize| part as f64 * 100.0 / all as f64;
        svg += &format!(
            "<rect class=\"{}\" x=\"{:.2}%\" width=\"{:.2}%\" height=\"8\"/>",
            tone.class(),
            percent(from),
            (percent(*count) - 0.6).max(0.4)
        );
        from += count;
    }
    svg + "</svg>"
}

fn matches(pool: &PoolStatus, search: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(&search.to_lowercase());
    search.is_empty()
        || has(&pool.name)
        || pool.backends.iter().any(|backend| has(&backend.name) || has(&backend.address))
}

fn shown<'d>(pool: &'d PoolStatus, of: &'d Status, graphs: &Graphs<'_>) -> ShownPool<'d> {
    let (tone, word) = of_pool(pool.state);
    let mut backends: Vec<&BackendStatus> = pool.backends.iter().collect();
    backends.sort_by_key(|backend| of_backend(&backend.state));
    let left_off = pool.backends_left_off + backends.len().saturating_sub(BACKENDS);
    backends.truncate(BACKENDS);
    let shown = |backend: &'d BackendStatus| ShownBackend {
        tone: of_backend(&backend.state),
        word: &backend.state,
        since: since(backend.since.as_ref(), &of.at),
        spark: graphs.svg(SeriesKind::Backend, &pool.name, &backend.name),
        certificate: certificate(backend, &of.at),
        status: backend,
    };
    ShownPool {
        status: pool,
        tone,
        word,
        since: since(pool.since.as_ref(), &of.at),
        policy: pool.policy.replace('_', " "),
        spark: graphs.svg(SeriesKind::Pool, "", &pool.name),
        backends: backends.into_iter().map(shown).collect(),
        left_off,
    }
}

fn since(at: Option<&At>, now: &At) -> String {
    at.map(|at| format!("since {}", format::clock(at, now))).unwrap_or_default()
}

const fn of_pool(state: PoolState) -> (Tone, &'static str) {
    match state {
        PoolState::Down => (Tone::Bad, "down"),
        PoolState::Empty => (Tone::Bad, "empty"),
        PoolState::PartlyDown => (Tone::Warn, "partly down"),
        PoolState::Drained => (Tone::Note, "drained"),
        PoolState::Up => (Tone::Ok, "up"),
        PoolState::Unchecked => (Tone::Off, "unchecked"),
    }
}

fn of_backend(state: &str) -> Tone {
    match state {
        "up" => Tone::Ok,
        "unchecked" => Tone::Off,
        "ejected" => Tone::Warn,
        "drain" | "down" => Tone::Note,
        _ => Tone::Bad,
    }
}

fn certificate(backend: &BackendStatus, now: &At) -> Option<Certificate> {
    let certificate = backend.certificate.as_ref()?;
    let shown = certificate.names.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let names = match certificate.names.len().saturating_sub(NAMES) {
        0 if shown.is_empty() => "no names".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    };
    let date = certificate.expires.0.get(..10).unwrap_or(&certificate.expires.0);
    let plural = |days: i64| if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
    let (tone, expires) = match days_until(&certificate.expires, now) {
        Some(left @ ..0) => (Tone::Bad, format!("expired on {date}, {} ago", plural(-left - 1))),
        Some(left @ ..=3) => (Tone::Bad, format!("expires on {date}, in {}", plural(left))),
        Some(left @ ..=14) => (Tone::Warn, format!("expires on {date}, in {}", plural(left))),
        Some(left) => (Tone::Ok, format!("until {date}, {}", plural(left))),
        None => (Tone::Ok, format!("until {date}")),
    };
    // Only what needs attention has a colour.
    Some(Certificate { names, expires, tone: if tone == Tone::Ok { Tone::Off } else { tone } })
}

/// Whole days from `now` until `then`; below zero once it is over.
fn days_until(then: &At, now: &At) -> Option<i64> {
    let is_earlier_in_its_day = then.0.get(11..)? < now.0.get(11..)?;
    Some(day(then)? - day(now)? - i64::from(is_earlier_in_its_day))
}

/// The day of `at`, counted from a fixed one.
fn day(at: &At) -> Option<i64> {
    let mut parts = at.0.get(..10)?.splitn(3, '-');
    let year = parts.next()?.parse().ok()?;
    let month = time::Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
    let date = time::Date::from_calendar_date(year, month, parts.next()?.parse().ok()?).ok()?;
    Some(i64::from(date.to_julian_day()))
}

/// Pools at once.
const POOLS: usize = 12;
/// Backends of one pool.
const BACKENDS: usize = 50;
/// Names of one certificate.
const NAMES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_ones() {
        let now = At("2026-11-30T12:00:00.000Z".into());
        let days = |text: &str| days_until(&At(text.into()), &now);
        assert_eq!(days("2026-12-09T11:59:59.000Z"), Some(8));
        assert_eq!(days("2026-12-09T12:00:00.000Z"), Some(9));
        assert_eq!(days("2026-11-30T11:00:00.000Z"), Some(-1));
        assert_eq!(days("2027-11-30T12:00:00.000Z"), Some(365));
        assert_eq!(days("soon"), None);
    }
}
