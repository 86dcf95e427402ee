//! Parses pools: their backends, and how these are resolved, balanced and connected to.
//!
//! In:  the raw maps of all files.
//! Out: [`Pool`]s in the order of the files, their names for the routes, their places for warnings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{FromFiles, Located, Names, backends, checks, each_of, name, only, read, section, settings};
use crate::config::address::{self, AddressError};
use crate::config::at::At;
use crate::config::located::Named;
use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::config::raw::{self, Field};
use crate::config::{Balance, Config, Connect, Destination, Family, Pool, ProxyVersion, Resolve, WhenAllDown, units};

/// The pools of all files.
pub(super) struct Pools {
    pub parsed: Vec<Pool>,
    /// Includes pools that failed to parse, so that a route that names one is not reported as well.
    pub names: Names,
    pub places: Vec<Place>,
}

/// The parts of the file outside a pool that pools depend on.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The addresses of the listeners, which no backend may use.
    pub bound: &'a [(SocketAddr, Place)],
    pub congestion: Option<&'a Arc<str>>,
}

pub(super) fn parse(files: FromFiles<Named<raw::Pool>>, around: Around<'_>, problems: &mut Problems) -> Pools {
    let mut pools = Pools { parsed: Vec::new(), names: Names::default(), places: Vec::new() };
    let mut first: HashMap<Arc<str>, Place> = HashMap::new();
    for (file, field) in files {
        let top = At::top(&file);
        let Some(Located { spot, value: Some(Named(entries)) }) = field else { continue };
        let at = top.key("pools", spot);
        for (key, pool) in entries {
            let Some(text) = key.value else { continue };
            let at = at.key(&text, key.spot);
            let Some(name) = name(&text).map_err(|error| problems.error(&at, error)).ok() else { continue };
            if let Some(first) = first.insert(Arc::clone(&name), at.place()) {
                problems.error(&at, format_args!("a pool named `{name}` is already defined, at {first}"));
            }
            pools.names.define(&name, pools.places.len());
            pools.places.push(at.place());
            if let Some(raw) = pool.value {
                pools.parsed.push(self::pool(name, raw, &at.moved(pool.spot), around, problems));
            }
        }
    }
    pools
}

fn pool(name: Arc<str>, raw: raw::Pool, at: &At<'_>, around: Around<'_>, problems: &mut Problems) -> Pool {
    only(raw.transparent, at, "transparent", (false, "false"), problems);
    let source_addresses = raw.source_addresses.and_then(|located| {
        let at = at.key("source_addresses", located.spot);
        Some(each_of(located.value?, &at, problems, |raw::IpAddress(text), at, problems| {
            address::ip(&text).map_err(|error| problems.error(at, error)).ok()
        }))
    });
    Pool {
        name,
        balance: balance(raw.balance),
        backends: backends::parse(raw.backends, at, around.bound, problems),
        resolve: resolve(raw.resolve, at, problems),
        connect: connect(raw.connect, at, problems),
        health_check: checks::health_check(raw.health_check, at, problems),
        ejection: checks::ejection(raw.ejection, at, problems),
        when_all_down: match raw.when_all_down.and_then(|located| located.value) {
            Some(raw::WhenAllDown::Refuse) => WhenAllDown::Refuse,
            Some(raw::WhenAllDown::Try) | None => WhenAllDown::Try,
        },
        slow_start: read(raw.slow_start, at, "slow_start", problems, |text| units::duration(&text.0))
            .unwrap_or_default(),
        send_proxy_protocol: raw.send_proxy_protocol.and_then(|located| match located.value? {
            raw::SendProxyProtocol::Off => None,
            raw::SendProxyProtocol::V1 => Some(ProxyVersion::V1),
            raw::SendProxyProtocol::V2 => Some(ProxyVersion::V2),
        }),
        source_addresses: source_addresses.unwrap_or_default(),
        congestion: settings::congestion(raw.congestion, at, around.congestion, problems),
    }
}

fn balance(field: Field<raw::Balance>) -> Balance {
    match field.and_then(|located| located.value).unwrap_or(raw::Balance::RoundRobin) {
        raw::Balance::RoundRobin => Balance::RoundRobin,
        raw::Balance::LeastConnections => Balance::LeastConnections,
        raw::Balance::PowerOfTwo => Balance::PowerOfTwo,
        raw::Balance::Random => Balance::Random,
        raw::Balance::SourceHash => Balance::SourceHash,
        raw::Balance::SniHash => Balance::SniHash,
        raw::Balance::First => Balance::First,
    }
}

fn resolve(field: Field<raw::Resolve>, at: &At<'_>, problems: &mut Problems) -> Resolve {
    let (raw, at) = section(field, at, "resolve");
    let moment = units::duration_in(Duration::from_millis(100)..=Duration::from_secs(24 * 3600));
    let max_spot = raw.max_ttl.as_ref().map_or(at.spot, |max| max.spot);
    let min_ttl = read(raw.min_ttl, &at, "min_ttl", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_MIN_TTL);
    let max_ttl = read(raw.max_ttl, &at, "max_ttl", problems, |text| moment(&text.0));
    let max_ttl = max_ttl.unwrap_or(DEFAULT_MAX_TTL.max(min_ttl));
    if max_ttl < min_ttl {
        let (min, max) = (units::show_duration(min_ttl), units::show_duration(max_ttl));
        problems.error(
            &at.key("max_ttl", max_spot),
            format_args!("must not be shorter than `min_ttl`: {max} is less than {min}"),
        );
    }
    let any_time = units::duration_in(Duration::ZERO..=Duration::from_secs(30 * 24 * 3600));
    let stale = read(raw.stale, &at, "stale", problems, |text| any_time(&text.0)).unwrap_or(DEFAULT_STALE);
    let family = match raw.family.and_then(|located| located.value) {
        Some(raw::Family::V4) => Family::V4,
        Some(raw::Family::V6) => Family::V6,
        Some(raw::Family::Any) | None => Family::Any,
    };
    let allow = raw.allow.and_then(|located| {
        let at = at.key("allow", located.spot);
        Some(each_of(located.value?, &at, problems, |raw::Network(text), at, problems| {
            address::network(&text).map_err(|error| problems.error(at, error)).ok()
        }))
    });
    let nameservers = raw.nameservers.and_then(|located| {
        let at = at.key("nameservers", located.spot);
        Some(each_of(located.value?, &at, problems, |raw::Nameserver(text), at, problems| {
            nameserver(&text).map_err(|error| problems.error(at, error)).ok()
        }))
    });
    let (allow, nameservers) = (allow.unwrap_or_default(), nameservers.unwrap_or_default());
    Resolve { family, min_ttl, max_ttl, stale, allow, nameservers }
}

/// Parses `10.0.0.53` or `10.0.0.53:5353`.
fn nameserver(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = address::ip(text) {
        return Ok(SocketAddr::new(address, DNS_PORT));
    }
    match address::socket(text) {
        Ok(address) if address.port() == 0 || address.ip().is_unspecified() => {
            Err("a nameserver cannot have this address or port".to_owned())
        }
        Ok(address) => Ok(address),
        Err(AddressError::Name(_)) => Err("a nameserver must be an address: `IP` or `IP:PORT`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn connect(field: Field<raw::Connect>, at: &At<'_>, problems: &mut Problems) -> Connect {
    let (raw, at) = section(field, at, "connect");
    let spot = raw.timeout.as_ref().map_or(at.spot, |timeout| timeout.spot);
    let moment = units::duration_in(Duration::from_millis(1)..=Duration::from_secs(3600));
    let timeout =
        read(raw.timeout, &at, "timeout", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_CONNECT.timeout);
    let total = read(raw.total, &at, "total", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_CONNECT.total);
    let attempts = read(raw.attempts, &at, "attempts", problems, |attempts| match usize::try_from(attempts) {
        Ok(attempts @ 1..=MAX_ATTEMPTS) => Ok(attempts),
        _ => Err("must be from 1 to 16"),
    });
    let first_byte =
        read(raw.first_byte, &at, "first_byte", problems, |text| moment(&text.0)).unwrap_or(DEFAULT_CONNECT.first_byte);
    if timeout > total {
        let (timeout, total) = (units::show_duration(timeout), units::show_duration(total));
        let message = format_args!("one attempt may take {timeout}, but all attempts together get only {total}");
        problems.warning(&at.key("timeout", spot), message);
    }
    let fast_open = raw.fast_open.and_then(|located| located.value).unwrap_or(DEFAULT_CONNECT.fast_open);
    Connect { timeout, attempts: attempts.unwrap_or(DEFAULT_CONNECT.attempts), total, first_byte, fast_open }
}

/// Warns about a pool that nothing routes to.
pub(super) fn warn_of_unused(config: &Config, places: &[Place], problems: &mut Problems) {
    let mut used = vec![false; config.pools.len()];
    let fallbacks = [config.no_sni, config.unmatched, config.not_tls];
    for to in config.routes.iter().map(|route| route.to).chain(fallbacks) {
        if let Destination::Pool(pool) = to {
            used[pool] = true;
        }
    }
    for ((pool, place), _) in config.pools.iter().zip(places).zip(&used).filter(|(_, used)| !**used) {
        problems.push(Problem {
            severity: Severity::Warning,
            place: place.clone(),
            path: format!("pools.{}", pool.name),
            message: "no route leads to this pool".to_owned(),
        });
    }
}

const DEFAULT_CONNECT: Connect = Connect {
    timeout: Duration::from_secs(3),
    attempts: 3,
    total: Duration::from_secs(10),
    first_byte: Duration::from_secs(5),
    fast_open: false,
};
const DEFAULT_MIN_TTL: Duration = Duration::from_secs(5);
const DEFAULT_MAX_TTL: Duration = Duration::from_secs(300);
const DEFAULT_STALE: Duration = Duration::from_secs(3600);
const DNS_PORT: u16 = 53;
const MAX_ATTEMPTS: usize = 16;
