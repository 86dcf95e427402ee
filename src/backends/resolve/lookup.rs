//! Looks a name up once, under one deadline.
//!
//! In:  a [`Query`]; the nameservers and files of [`Sources`].
//! Out: [`LookupResult`]: for each host and family its addresses, or why there are none; the lowest TTL of all answers.
//! Source: RFC 2782 (SRV: priority, weight, `.`), RFC 8305 §3 (waiting for the other family).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::nameservers::{Answer, AnsweredBy, Kind};
use super::sources::{Service, Sources};
use super::{Failure, Query};
use crate::settings::{Family, Nameserver, Resolve};

/// The result of a look-up; at least one part succeeded.
#[derive(Debug)]
pub(super) struct LookupResult {
    pub(super) parts: Vec<Part>,
    /// Not clamped yet.
    pub(super) ttl: Duration,
}

/// One family of one host.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) host: Host,
    pub(super) kind: Kind,
    pub(super) addresses: Result<Vec<IpAddr>, Failure>,
    pub(super) by: AnsweredBy,
}

/// The host the addresses belong to, and the fields of its SRV record.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: Arc<str>,
    pub(super) port: u16,
    pub(super) weight: Option<u32>,
    pub(super) backup: bool,
}

impl Host {
    /// Whether both are the same host and port; other fields are ignored.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.port == other.port && self.name == other.name
    }
}

/// Looks one name up, repeatedly.
pub(super) struct Lookup<'a> {
    query: &'a Query,
    family: Family,
    nameservers: &'a [Nameserver],
    /// Reloaded when the files have changed.
    sources: Option<Arc<Sources>>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(query: &'a Query, settings: &'a Resolve) -> Self {
        Self { query, family: settings.family, nameservers: &settings.nameservers, sources: None }
    }

    pub(super) async fn look(&mut self) -> Result<LookupResult, Failure> {
        let sources = match self.sources.take() {
            Some(sources) if sources.are_fresh() => sources,
            _ if self.nameservers.is_empty() => Arc::new(Sources::system()),
            _ => Arc::new(Sources::given(self.nameservers)),
        };
        self.sources = Some(Arc::clone(&sources));
        let looked = async {
            match self.query {
                Query::Host { host, port } => {
                    let host = Host { name: Arc::clone(host), port: *port, weight: None, backup: false };
                    one_host(&sources, host, self.family).await
                }
                Query::Service { name } => every_target(&sources, name, self.family).await,
            }
        };
        timeout(LONGEST_LOOKUP, looked).await.unwrap_or(Err(Failure::TimedOut))
    }
}

async fn one_host(sources: &Sources, host: Host, family: Family) -> Result<LookupResult, Failure> {
    let answers = sources.addresses(&host.name, family).await?;
    let ttl = answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.ttl)).min().unwrap_or_default();
    let part = |(kind, answer): (Kind, Result<Answer<IpAddr>, Failure>)| {
        let by = answer.as_ref().map_or(AnsweredBy::Nameserver, |answer| answer.by);
        Part { host: host.clone(), kind, addresses: answer.map(|answer| answer.data), by }
    };
    Ok(LookupResult { parts: answers.into_iter().map(part).collect(), ttl })
}

/// Looks up the SRV records, then their targets with bounded concurrency. Fails only if all targets fail.
async fn every_target(sources: &Arc<Sources>, name: &str, family: Family) -> Result<LookupResult, Failure> {
    let Answer { data: services, mut ttl, .. } = sources.services(name).await?;
    let hosts = hosts(services);
    let mut parts = Vec::new();
    let mut worst = Failure::NoData;
    for some in hosts.chunks(TARGETS_AT_ONCE) {
        let mut looking = JoinSet::new();
        for host in some.iter().cloned() {
            let sources = Arc::clone(sources);
            looking.spawn(async move { (host.clone(), one_host(&sources, host, family).await) });
        }
        while let Some(ended) = looking.join_next().await {
            // A task that panicked counts as a failed look-up; the panic itself is in the log.
            let Ok((host, looked)) = ended else { continue };
            match looked {
                Ok(looked) => {
                    ttl = ttl.min(looked.ttl);
                    parts.extend(looked.parts);
                }
                Err(failure) => {
                    let failed = |kind| Part {
                        host: host.clone(),
                        kind,
                        addresses: Err(failure.clone()),
                        by: AnsweredBy::Nameserver,
                    };
                    parts.extend([Kind::A, Kind::Aaaa].map(failed));
                    worst = worst.or(failure);
                }
            }
        }
    }
    if parts.iter().any(|part| part.addresses.is_ok()) { Ok(LookupResult { parts, ttl }) } else { Err(worst) }
}

/// The SRV targets as pool entries: those of the best priority are primaries, the others backups.
fn hosts(mut services: Vec<Service>) -> Vec<Host> {
    // Target `.` means that the service is not available; port 0 cannot be connected to.
    services.retain(|service| service.target != "." && service.port != 0);
    services.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
    let best = services.first().map_or(0, |service| service.priority);
    if services.len() > MOST_TARGETS {
        tracing::warn!(
            event = "dns_too_many_targets",
            targets = services.len(),
            most = MOST_TARGETS,
            "too many SRV targets: the rest are ignored"
        );
        services.truncate(MOST_TARGETS);
    }
    let host = |service: Service| Host {
        name: service.target.into(),
        port: service.port,
        weight: Some(u32::from(service.weight).max(1)),
        backup: service.priority != best,
    };
    services.into_iter().map(host).collect()
}

/// Holds even if every nameserver is silent and there are many search domains.
const LONGEST_LOOKUP: Duration = Duration::from_secs(15);
const MOST_TARGETS: usize = 128;
const TARGETS_AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
        Service { priority, weight, port, target: target.to_owned() }
    }

    #[test]
    fn the_best_priority_is_used_and_the_others_are_backups() {
        let hosts = hosts(vec![service(20, 5, 443, "c."), service(10, 0, 8443, "b."), service(10, 60, 443, "a.")]);
        let reported: Vec<_> = hosts.iter().map(|host| (&*host.name, host.port, host.weight, host.backup)).collect();
        let wanted = [("a.", 443, Some(60), false), ("b.", 8443, Some(1), false), ("c.", 443, Some(5), true)];
        assert_eq!(reported, wanted);
    }

    #[test]
    fn a_service_that_is_said_not_to_be_there_has_no_hosts() {
        assert!(hosts(vec![service(0, 0, 0, "."), service(0, 0, 443, "."), service(0, 1, 0, "a.")]).is_empty());
    }
}
