//! Checks the settings other than routing: timeouts, limits, sockets, threads, admin, reload.
//!
//! In:  the top of the main file.
//! Out: one section each; values outside the useful range are reported.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::listeners::claim_alone;
pub(super) use super::ranges::number_within;
use super::{Cursor, Names, per_client};
use crate::config::problem::Place;
use crate::config::{Token, ech_keys};
use crate::ech::Keys;
use crate::settings::{
    Address, Admin, AllowControl, Docker, Ech, FilePath, Kubernetes, KubernetesUnmatched, Limits, Log, LogFields,
    LogFormat, Relay, Reload, Runtime, Size, Span, Tcp, Timeouts,
};

pub(super) fn timeouts(top: &Cursor<'_>) -> Timeouts {
    let timeouts: Timeouts = top.section("timeouts");
    let Some(section) = top.key("timeouts") else { return timeouts };
    within(&section, "hello", timeouts.hello, MILLISECOND..=HOUR);
    within(&section, "idle", timeouts.idle, MILLISECOND..=WEEK);
    within(&section, "half_closed", timeouts.half_closed, MILLISECOND..=WEEK);
    if let Some(max_age) = *timeouts.max_age {
        within(&section, "max_age", max_age, AGES);
    }
    within(&section, "drain", timeouts.drain, Duration::ZERO..=DAY);
    within(&section, "pre_stop", timeouts.pre_stop, Duration::ZERO..=HOUR);
    within(&section, "upgrade", timeouts.upgrade, MILLISECOND..=HOUR);
    timeouts
}

pub(super) fn limits(top: &Cursor<'_>) -> Limits {
    let mut limits: Limits = top.section("limits");
    if let Some(section) = top.key("limits") {
        per_client::complete(&mut limits.per_client, &section, None);
        size_within(&section, "max_hello", limits.max_hello, 1 << 10..=16 << 20);
    }
    limits
}

pub(super) fn relay(top: &Cursor<'_>) -> Relay {
    let relay: Relay = top.section("relay");
    if let Some(section) = top.key("relay") {
        size_within(&section, "pipe_size", relay.pipe_size, 4 << 10..=16 << 20);
    }
    relay
}

pub(super) fn tcp(top: &Cursor<'_>) -> Tcp {
    let tcp: Tcp = top.section("tcp");
    let Some(section) = top.key("tcp") else { return tcp };
    if let Some(user_timeout) = *tcp.user_timeout {
        within(&section, "user_timeout", user_timeout, MILLISECOND..=DAY);
    }
    number_within(&section, "backlog", tcp.backlog, 1..=65_535);
    if let Some(section) = section.key("keepalive") {
        for (key, span) in [("idle", tcp.keepalive.idle), ("interval", tcp.keepalive.interval)] {
            within(&section, key, span, Duration::from_secs(1)..=MAX_KEEPALIVE);
            if span.subsec_nanos() != 0 && *span > Duration::from_secs(1) {
                section.error_at(key, "must be whole seconds");
            }
        }
        number_within(&section, "probes", tcp.keepalive.probes, 1..=127);
    }
    tcp
}

pub(super) fn runtime(top: &Cursor<'_>) -> Runtime {
    let runtime: Runtime = top.section("runtime");
    if let Some(section) = top.key("runtime")
        && runtime.workers.is_some_and(|workers| workers > MAX_WORKERS)
    {
        section.error_at("workers", format_args!("at most {MAX_WORKERS} workers are possible"));
    }
    runtime
}

/// The settings of the admin server, and its token. Adds its addresses to `bound`.
pub(super) fn admin(top: &Cursor<'_>, bound: &mut Vec<(SocketAddr, Place)>) -> (Admin, Option<Token>) {
    let admin: Admin = top.section("admin");
    let section = top.key("admin");
    let mut paths = Vec::new();
    let bind = section.as_ref().and_then(|section| section.key("bind"));
    match &bind {
        Some(bind) => {
            for (cursor, address) in bind.items().zip(admin.bind.iter()) {
                match address {
                    Address::Tcp(address) => claim_alone(*address, &cursor, bound),
                    Address::Unix(path) if paths.contains(&path) => cursor.error("the path is already in the list"),
                    Address::Unix(path) => paths.push(path),
                }
            }
        }
        None => {
            let at = section.unwrap_or(*top);
            admin.bind.iter().filter_map(Address::tcp).for_each(|address| claim_alone(address, &at, bound));
        }
    }
    let token = section.as_ref().and_then(|section| control(&admin, section));
    (admin, token)
}

/// Checks who may change state, and reads the token for it.
fn control(admin: &Admin, section: &Cursor<'_>) -> Option<Token> {
    match (admin.allow_control, admin.token_file.is_some()) {
        (AllowControl::Token, false) if !section.holds("token_file") => {
            section.error_at("allow_control", "this needs a token; set `token_file`");
        }
        (AllowControl::Never, true) => {
            section.warning_at("token_file", "the token has no effect, because `allow_control` is `never`");
        }
        _ => {}
    }
    let file = beside(&section.at.place().file, &admin.token_file.as_ref()?.0);
    Token::read(&file).map_err(|error| section.error_at("token_file", error)).ok()
}

/// The settings of Encrypted ClientHello, and the keys that their files hold.
pub(super) fn ech(top: &Cursor<'_>) -> (Option<Ech>, Option<Arc<Keys>>) {
    let Some(section) = top.key("ech") else { return (None, None) };
    let Some(ech) = section.read::<Ech>() else { return (None, None) };
    if section.required_list("keys", "key file").is_none() || ech.keys.is_empty() {
        return (Some(ech), None);
    }
    let keys = match ech_keys::read(&ech_paths(top)) {
        Ok(read) => {
            read.skipped.iter().for_each(|skipped| section.warning_at("keys", skipped));
            read.remarks.iter().for_each(|remark| section.warning_at("keys", remark));
            Some(Arc::new(Keys::new(read.keys, ech.try_all, ech.check_public_name)))
        }
        Err(error) => {
            section.error_at("keys", error);
            None
        }
    };
    (Some(ech), keys)
}

/// Where the keys are, whether or not there are any.
pub(super) fn ech_paths(top: &Cursor<'_>) -> Vec<PathBuf> {
    let Some(section) = top.key("ech") else { return Vec::new() };
    let Some(keys) = section.key("keys") else { return Vec::new() };
    let main = top.at.place().file;
    keys.items().filter_map(|item| Some(beside(&main, Path::new(item.text()?)))).collect()
}

/// The path of the token file, whether or not the file exists.
pub(super) fn token_file(top: &Cursor<'_>) -> Option<PathBuf> {
    let admin = top.key("admin")?;
    let file = admin.key("token_file")?;
    let named = file.text()?;
    (named != "none").then(|| beside(&top.at.place().file, Path::new(named)))
}

fn beside(main: &Path, file: &Path) -> PathBuf {
    main.parent().unwrap_or(Path::new("")).join(file)
}

pub(super) fn log(top: &Cursor<'_>) -> Log {
    let mut log: Log = top.section("log");
    let Some(section) = top.key("log") else { return log };
    if let Some(interval) = *log.interval {
        within(&section, "interval", interval, Duration::from_secs(1)..=WEEK);
    }
    if log.fields != LogFields::Native && !matches!(log.format, LogFormat::Auto | LogFormat::Json) {
        section.error_at("fields", "only JSON lines have these names; write `format: json`, or `fields: native`");
    }
    if let Some(file) = log.file.as_ref() {
        if file.0.as_os_str().is_empty() || file.0.file_name().is_none() {
            section.error_at("file", "this is not the path of a file; write one, or `none`");
        }
        log.file = FilePath(beside(&section.at.place().file, &file.0)).into();
    }
    log
}

pub(super) fn reload(top: &Cursor<'_>) -> Reload {
    let reload: Reload = top.section("reload");
    if let Some(section) = top.key("reload") {
        // Every poll reads all files.
        within(&section, "poll", reload.poll, Duration::from_millis(100)..=DAY);
    }
    reload
}

/// The source of containers; `None`: off. Whether the socket answers is for the process that runs to find out.
pub(super) fn docker(top: &Cursor<'_>) -> Option<Docker> {
    let section = top.key("docker")?;
    let docker: Docker = section.read()?;
    section.required_list("allow", "name or suffix, such as `**.example.com`,");
    if !docker.socket.0.is_absolute() {
        section.error_at("socket", "write the absolute path of the socket: `/run/docker.sock`");
    }
    Some(docker)
}

/// The source of Gateways; `None`: off. Whether there is a cluster is for the process that runs to find out.
pub(super) fn kubernetes(top: &Cursor<'_>, pools: &Names) -> Option<Kubernetes> {
    let section = top.key("kubernetes")?;
    if !cfg!(feature = "kubernetes") {
        top.error_at("kubernetes", "this snigate was built without Kubernetes; build it with the feature `kubernetes`");
        return None;
    }
    let kubernetes: Kubernetes = section.read()?;
    let pool = section.key("unmatched").and_then(|unmatched| unmatched.key("pool").map(|pool| pool.at.place()));
    if let (KubernetesUnmatched::Pool(name), Some(_)) = (&kubernetes.unmatched, pool)
        && let Err(dangling) = pools.find(name, "pool")
    {
        section.error_at("unmatched", dangling);
    }
    Some(kubernetes)
}

/// Reports a duration outside `range`.
pub(super) fn within(section: &Cursor<'_>, key: &str, span: Span, range: RangeInclusive<Duration>) {
    if !range.contains(&*span) {
        let (least, most) = (Span(*range.start()), Span(*range.end()));
        section.error_at(key, format_args!("must be from {least} to {most}"));
    }
}

fn size_within(section: &Cursor<'_>, key: &str, size: Size, range: RangeInclusive<usize>) {
    if !range.contains(&*size) {
        let (least, most) = (Size(*range.start()), Size(*range.end()));
        section.error_at(key, format_args!("must be from {least} to {most}"));
    }
}

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// With its jitter, it fits in the 32 bits that a relay has for it.
pub(super) const AGES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(28 * 24 * 3600);
/// The kernel's own limit (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MAX_WORKERS: usize = 1_024;
