//! Parses the settings other than routing: timeouts, limits, sockets, threads, admin, log, reload.
//!
//! In:  one raw section each, absent or not.
//! Out: the section with its defaults filled in.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::listeners::{claim, count_or};
use super::{Located, each, read, refuse_unbuilt, section};
use crate::config::at::At;
use crate::config::problem::{Place, Problems};
use crate::config::raw::{self, Field};
use crate::config::{
    Address, Admin, AllowControl, Keepalive, Level, Limits, Log, LogConnections, LogFormat, Relay, Reload, Runtime,
    Tcp, Timeouts, Token, address, units,
};

pub(super) fn timeouts(field: Field<raw::Timeouts>, top: &At<'_>, problems: &mut Problems) -> Timeouts {
    let (raw, at) = section(field, top, "timeouts");
    let mut duration = |field: Field<raw::Duration>, key, range, default| {
        read(field, &at, key, problems, |text| units::duration_in(range)(&text.0)).unwrap_or(default)
    };
    Timeouts {
        hello: duration(raw.hello, "hello", MILLISECOND..=HOUR, Duration::from_secs(10)),
        idle: duration(raw.idle, "idle", MILLISECOND..=WEEK, HOUR),
        half_closed: duration(raw.half_closed, "half_closed", MILLISECOND..=WEEK, Duration::from_secs(60)),
        drain: duration(raw.drain, "drain", Duration::ZERO..=DAY, Duration::from_secs(25)),
        pre_stop: duration(raw.pre_stop, "pre_stop", Duration::ZERO..=HOUR, Duration::ZERO),
        upgrade: duration(raw.upgrade, "upgrade", MILLISECOND..=HOUR, Duration::from_secs(30)),
    }
}

pub(super) fn limits(field: Field<raw::Limits>, top: &At<'_>, problems: &mut Problems) -> Limits {
    let (raw, at) = section(field, top, "limits");
    refuse_unbuilt(raw.per_client.as_ref(), &at, "per_client", problems);
    let count = |text: raw::CountOrAuto| count_or(&text.0, "auto");
    let max_connections = read(raw.max_connections, &at, "max_connections", problems, count);
    let hello = |text: raw::Size| units::size_in(1 << 10..=16 << 20)(&text.0);
    let max_hello_bytes = read(raw.max_hello, &at, "max_hello", problems, hello);
    Limits { max_connections: max_connections.flatten(), max_hello_bytes: max_hello_bytes.unwrap_or(64 << 10) }
}

pub(super) fn relay(field: Field<raw::Relay>, top: &At<'_>, problems: &mut Problems) -> Relay {
    let (raw, at) = section(field, top, "relay");
    let pipe = |text: raw::Size| units::size_in(4 << 10..=16 << 20)(&text.0);
    let pipe_bytes = read(raw.pipe_size, &at, "pipe_size", problems, pipe);
    let splice = raw.splice.and_then(|splice| splice.value).unwrap_or(raw::Splice::Auto);
    Relay { splice: splice == raw::Splice::Auto, pipe_bytes: pipe_bytes.unwrap_or(1 << 20) }
}

pub(super) fn tcp(field: Field<raw::Tcp>, top: &At<'_>, problems: &mut Problems) -> Tcp {
    let (raw, at) = section(field, top, "tcp");
    let user_timeout = read(raw.user_timeout, &at, "user_timeout", problems, |text: raw::DurationOrOff| {
        if text.0 == "off" { Ok(None) } else { units::duration_in(MILLISECOND..=DAY)(&text.0).map(Some) }
    });
    let backlog = read(raw.backlog, &at, "backlog", problems, |n| number_in(n, 1..=65_535));
    Tcp {
        nodelay: raw.nodelay.and_then(|nodelay| nodelay.value).unwrap_or(true),
        keepalive: keepalive(raw.keepalive, &at, problems),
        user_timeout: user_timeout.unwrap_or(Some(Duration::from_secs(120))),
        backlog: backlog.unwrap_or(4_096),
    }
}

/// Extracts `tcp.congestion`, since listeners and pools use it as their default.
pub(super) fn default_congestion(
    tcp: Option<&mut Located<raw::Tcp>>,
    top: &At<'_>,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    let tcp = tcp?;
    let at = top.key("tcp", tcp.spot);
    congestion(tcp.value.as_mut()?.congestion.take(), &at, None, problems)
}

/// Parses an algorithm name; whether the kernel supports it is checked when it is used.
pub(super) fn congestion(
    field: Field<raw::Congestion>,
    at: &At<'_>,
    default: Option<&Arc<str>>,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    let read = read(field, at, "congestion", problems, |raw::Congestion(text)| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > MAX_CONGESTION_BYTES || !text.bytes().all(word) {
            return Err(format!("`{text}` is not a congestion control; write `system`, or a name such as `cubic`"));
        }
        Ok((text != "system").then(|| text.into()))
    });
    read.unwrap_or_else(|| default.cloned())
}

fn keepalive(field: Field<raw::Keepalive>, outer: &At<'_>, problems: &mut Problems) -> Keepalive {
    let (raw, at) = section(field, outer, "keepalive");
    let seconds = units::seconds_in(Duration::from_secs(1)..=MAX_KEEPALIVE);
    let idle = read(raw.idle, &at, "idle", problems, |text| seconds(&text.0));
    let interval = read(raw.interval, &at, "interval", problems, |text| seconds(&text.0));
    let probes = read(raw.probes, &at, "probes", problems, |n| number_in(n, 1..=127));
    Keepalive {
        idle: idle.unwrap_or(Duration::from_secs(60)),
        interval: interval.unwrap_or(Duration::from_secs(15)),
        probes: probes.unwrap_or(4),
    }
}

pub(super) fn runtime(field: Field<raw::Runtime>, top: &At<'_>, problems: &mut Problems) -> Runtime {
    let (raw, at) = section(field, top, "runtime");
    let workers = read(raw.workers, &at, "workers", problems, |text| match count_or(&text.0, "auto") {
        Ok(Some(workers)) if workers > MAX_WORKERS => Err(format!("at most {MAX_WORKERS} workers are possible")),
        other => other,
    });
    Runtime { workers: workers.flatten() }
}

pub(super) fn admin(
    field: Field<raw::Admin>,
    top: &At<'_>,
    bound: &[(SocketAddr, Place)],
    problems: &mut Problems,
) -> Admin {
    let (raw, at) = section(field, top, "admin");
    let (allow_control, token) = control(raw.allow_control, raw.token_file, &at, problems);
    let mut bound = bound.to_vec();
    if raw.bind.is_none() {
        let default = SocketAddr::from(([127, 0, 0, 1], 9901));
        claim(default, &at, &mut bound, problems);
        return Admin { bind: vec![Address::Tcp(default)], allow_control, token };
    }
    let mut paths = Vec::new();
    let bind = each(raw.bind, &at, "bind", problems, |raw::AdminAddress(text), at, problems| {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = address::socket_path(path).map_err(|error| problems.error(at, error)).ok()?;
            if paths.contains(&path) {
                problems.error(at, "the path is already in the list");
            }
            paths.push(path.clone());
            return Some(Address::Unix(path));
        }
        if matches!(text.as_str(), "off" | "none" | "no" | "false") {
            problems.error(at, "the admin server is turned off by an empty list; write `bind: []`");
            return None;
        }
        let address = address::socket(&text).map_err(|error| problems.error(at, error)).ok()?;
        claim(address, at, &mut bound, problems);
        Some(Address::Tcp(address))
    });
    Admin { bind, allow_control, token }
}

/// The path of the token file, relative to `main`, whether or not the file exists.
pub(super) fn token_file(admin: Option<&Located<raw::Admin>>, main: &Path) -> Option<PathBuf> {
    let named = admin?.value.as_ref()?.token_file.as_ref()?.value.as_deref().filter(|file| *file != "none")?;
    Some(beside(main, named))
}

fn beside(main: &Path, file: &str) -> PathBuf {
    main.parent().unwrap_or(Path::new("")).join(file)
}

/// Who may change state, and the token for it.
fn control(
    allow: Field<raw::AllowControl>,
    token_file: Field<String>,
    at: &At<'_>,
    problems: &mut Problems,
) -> (AllowControl, Option<Token>) {
    let file_spot = token_file.as_ref().map(|file| file.spot);
    let is_named = token_file.as_ref().is_some_and(|file| file.value.as_deref() != Some("none"));
    let token = read(token_file, at, "token_file", problems, |file| match &*file {
        "none" => Ok(None),
        file => Token::read(&beside(&at.place().file, file)).map(Some),
    });
    let Some(Located { spot, value: Some(allow) }) = allow else { return (AllowControl::Auto, token.flatten()) };
    match allow {
        raw::AllowControl::Token if !is_named => {
            problems.error(&at.key("allow_control", spot), "this needs a token; set `token_file`");
        }
        raw::AllowControl::Never if is_named => {
            let at = at.key("token_file", file_spot.unwrap_or(spot));
            problems.warning(&at, "the token has no effect, because `allow_control` is `never`");
        }
        _ => {}
    }
    let allow = match allow {
        raw::AllowControl::Auto => AllowControl::Auto,
        raw::AllowControl::Token => AllowControl::Token,
        raw::AllowControl::Never => AllowControl::Never,
    };
    (allow, token.flatten())
}

pub(super) fn log(field: Field<raw::Log>, top: &At<'_>) -> Log {
    let (raw, _) = section(field, top, "log");
    Log {
        level: match raw.level.and_then(|level| level.value) {
            Some(raw::Level::Error) => Level::Error,
            Some(raw::Level::Warn) => Level::Warn,
            None | Some(raw::Level::Info) => Level::Info,
            Some(raw::Level::Debug) => Level::Debug,
            Some(raw::Level::Trace) => Level::Trace,
        },
        format: match raw.format.and_then(|format| format.value) {
            None | Some(raw::LogFormat::Json) => LogFormat::Json,
            Some(raw::LogFormat::Text) => LogFormat::Text,
        },
        connections: match raw.connections.and_then(|connections| connections.value) {
            None | Some(raw::LogConnections::All) => LogConnections::All,
            Some(raw::LogConnections::Failed) => LogConnections::Failed,
            Some(raw::LogConnections::Off) => LogConnections::Off,
        },
    }
}

pub(super) fn reload(field: Field<raw::Reload>, top: &At<'_>, problems: &mut Problems) -> Reload {
    let (raw, at) = section(field, top, "reload");
    // Every poll reads all files.
    let poll = |text: raw::Duration| units::duration_in(Duration::from_millis(100)..=DAY)(&text.0);
    let poll = read(raw.poll, &at, "poll", problems, poll);
    Reload {
        watch: raw.watch.and_then(|watch| watch.value).unwrap_or(true),
        poll: poll.unwrap_or(Duration::from_secs(5)),
    }
}

fn number_in(number: u64, range: RangeInclusive<u32>) -> Result<u32, String> {
    let fits = u32::try_from(number).ok().filter(|number| range.contains(number));
    fits.ok_or_else(|| format!("must be from {} to {}", range.start(), range.end()))
}

/// The kernel's TCP_CA_NAME_MAX, without the final NUL.
const MAX_CONGESTION_BYTES: usize = 15;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// The kernel's own limit (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MAX_WORKERS: usize = 1_024;
