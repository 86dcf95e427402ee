//! Parses pools: backends and how they are connected to.
//!
//! In:  the raw maps of all files.
//! Out: [`Pool`]s in the order of the files, their names for the routes, their places for warnings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::listeners::count_or;
use super::{FromFiles, Located, Names, each_of, name, only, read, refuse_unbuilt, require, section, settings};
use crate::config::address::{self, AddressError};
use crate::config::at::At;
use crate::config::located::Named;
use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::config::raw::{self, Field};
use crate::config::{Backend, Config, Connect, Destination, Pool, ProxyVersion, units};

/// The pools of all files.
pub struct Pools {
    pub parsed: Vec<Pool>,
    /// Also of those that could not be parsed, so that a route that names one is not told of it as well.
    pub names: Names,
    pub places: Vec<Place>,
}

pub fn parse(files: FromFiles<Named<raw::Pool>>, congestion: Option<&Arc<str>>, problems: &mut Problems) -> Pools {
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
                problems.error(&at, format_args!("another pool is called `{name}`, at {first}"));
            }
            pools.names.define(&name, pools.places.len());
            pools.places.push(at.place());
            if let Some(raw) = pool.value {
                pools.parsed.push(self::pool(name, raw, &at.moved(pool.spot), congestion, problems));
            }
        }
    }
    pools
}

fn pool(name: Arc<str>, raw: raw::Pool, at: &At<'_>, congestion: Option<&Arc<str>>, problems: &mut Problems) -> Pool {
    refuse_unbuilt(raw.health_check.as_ref(), at, "health_check", problems);
    only(raw.balance, at, "balance", (raw::Balance::RoundRobin, "round_robin"), problems);
    only(raw.when_all_down, at, "when_all_down", (raw::WhenAllDown::Try, "try"), problems);
    only(raw.transparent, at, "transparent", (false, "false"), problems);
    only_duration(raw.slow_start, at, "slow_start", (Duration::ZERO, "0s"), problems);
    only_default_ejection(raw.ejection, at, problems);
    only_default_resolve(raw.resolve, at, problems);
    let source_addresses = raw.source_addresses.and_then(|located| {
        let at = at.key("source_addresses", located.spot);
        Some(each_of(located.value?, &at, problems, |raw::IpAddress(text), at, problems| {
            address::ip(&text).map_err(|error| problems.error(at, error)).ok()
        }))
    });
    Pool {
        name,
        backends: backends(raw.backends, at, problems),
        connect: connect(raw.connect, at, problems),
        send_proxy_protocol: raw.send_proxy_protocol.and_then(|located| match located.value? {
            raw::SendProxyProtocol::Off => None,
            raw::SendProxyProtocol::V1 => Some(ProxyVersion::V1),
            raw::SendProxyProtocol::V2 => Some(ProxyVersion::V2),
        }),
        source_addresses: source_addresses.unwrap_or_default(),
        congestion: settings::congestion(raw.congestion, at, congestion, problems),
    }
}

fn backends(field: Field<Vec<Located<raw::Backend>>>, at: &At<'_>, problems: &mut Problems) -> Vec<Backend> {
    require(field.as_ref(), at, "backends", problems);
    let Some(Located { spot, value: Some(list) }) = field else { return Vec::new() };
    let at = at.key("backends", spot);
    if list.is_empty() {
        problems.error(&at, "the list is empty; at least one backend is needed");
    }
    let mut first: HashMap<SocketAddr, Place> = HashMap::new();
    each_of(list, &at, problems, |raw, at, problems| {
        let backend = backend(raw, at, problems)?;
        // A backend is known by its address, across reloads too.
        if let Some(first) = first.insert(backend.address, at.place()) {
            let address = backend.address;
            problems.error(at, format_args!("`{address}` is in this pool already, at {first}; give that a `weight`"));
        }
        Some(backend)
    })
}

fn backend(raw: raw::Backend, at: &At<'_>, problems: &mut Problems) -> Option<Backend> {
    let raw = match raw {
        raw::Backend::Address(Located { spot, value }) => {
            let address = backend_address(value?).map_err(|error| problems.error(&at.moved(spot), error)).ok()?;
            return Some(Backend { address, weight: DEFAULT_WEIGHT });
        }
        raw::Backend::Keys(raw) => raw,
    };
    require(raw.address.as_ref(), at, "address", problems);
    only(raw.backup, at, "backup", (false, "false"), problems);
    let unlimited = |raw::CountOrNone(text)| match count_or(&text, "none") {
        Ok(Some(_)) => Err("not supported yet; only `none` is".to_owned()),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    read(raw.max_connections, at, "max_connections", problems, unlimited);
    let weight = read(raw.weight, at, "weight", problems, |weight| match u32::try_from(weight) {
        Ok(weight @ 1..=MAX_WEIGHT) => Ok(weight),
        Ok(0) => Err("a weight is 1 to 1000; leave the backend out to give it nothing"),
        _ => Err("a weight is 1 to 1000"),
    });
    let address = read(raw.address, at, "address", problems, backend_address)?;
    Some(Backend { address, weight: weight.unwrap_or(DEFAULT_WEIGHT) })
}

fn backend_address(raw::Address(text): raw::Address) -> Result<SocketAddr, String> {
    match address::socket(&text) {
        Ok(address) if address.port() == 0 => Err("port 0 cannot be connected to".to_owned()),
        Ok(address) => Ok(address),
        Err(AddressError::Name(name)) => {
            Err(format!("`{name}` is a DNS name, which is not supported yet; write the address, as `IP:PORT`"))
        }
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
        _ => Err("1 to 16 attempts can be made"),
    });
    if timeout > total {
        let (timeout, total) = (units::show_duration(timeout), units::show_duration(total));
        let message = format_args!("one attempt may take {timeout}, but all together get {total}");
        problems.warning(&at.key("timeout", spot), message);
    }
    Connect { timeout, attempts: attempts.unwrap_or(DEFAULT_CONNECT.attempts), total }
}

fn only_default_ejection(field: Field<raw::Ejection>, at: &At<'_>, problems: &mut Problems) {
    let Some(Located { spot, value: Some(raw) }) = field else { return };
    let at = at.key("ejection", spot);
    let raw = match raw {
        raw::Ejection::Off(_) => return problems.error(&at, "not supported yet; leave it out"),
        raw::Ejection::Keys(raw) => raw,
    };
    only(raw.failures, &at, "failures", (3, "3"), problems);
    only_duration(raw.base, &at, "base", (Duration::from_secs(10), "10s"), problems);
    only_duration(raw.max, &at, "max", (Duration::from_secs(300), "5m"), problems);
}

fn only_default_resolve(field: Field<raw::Resolve>, at: &At<'_>, problems: &mut Problems) {
    let Some(Located { spot, value: Some(raw) }) = field else { return };
    let at = at.key("resolve", spot);
    only(raw.family, &at, "family", (raw::Family::Any, "any"), problems);
    only_duration(raw.min_ttl, &at, "min_ttl", (Duration::from_secs(5), "5s"), problems);
    only_duration(raw.max_ttl, &at, "max_ttl", (Duration::from_secs(300), "5m"), problems);
    only_duration(raw.stale, &at, "stale", (Duration::from_secs(3600), "1h"), problems);
}

fn only_duration(
    field: Field<raw::Duration>,
    at: &At<'_>,
    key: &str,
    (default, written): (Duration, &str),
    problems: &mut Problems,
) {
    read(field, at, key, problems, |raw::Duration(text)| match units::duration(&text) {
        Ok(duration) if duration == default => Ok(()),
        Ok(_) => Err(format!("not supported yet; only `{written}` is")),
        Err(error) => Err(error.to_string()),
    });
}

/// Warns of a pool that nothing leads to.
pub fn warn_of_unused(config: &Config, places: &[Place], problems: &mut Problems) {
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

const DEFAULT_CONNECT: Connect =
    Connect { timeout: Duration::from_secs(3), attempts: 3, total: Duration::from_secs(10) };
const MAX_ATTEMPTS: usize = 16;
const DEFAULT_WEIGHT: u32 = 1;
const MAX_WEIGHT: u32 = 1_000;
