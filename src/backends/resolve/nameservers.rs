//! Queries nameservers for the records of a name.
//!
//! In:  the servers, in query order; a fully qualified name.
//! Out: an [`Answer`] with its TTL, or a [`Failure`].
//! Source: RFC 1035 §4.2 (UDP, and TCP for what is truncated), RFC 1034 §3.6.2 (CNAME), RFC 2181 §8 (TTL),
//!         RFC 6891 §7 (servers that do not know EDNS).
//!
//! hickory's own resolver is not used: its cache would override our TTLs, and it does not follow a CNAME to SRV
//! records. Its messages, sockets and retransmissions are used.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;

pub(super) struct Nameservers {
    servers: Vec<Server>,
    options: DnsRequestOptions,
}

struct Server {
    /// Pools of its own, so that we control the order and when the next is queried. A pool joins a query to one under
    /// way that differs in EDNS only: hence two, for queries without and with it.
    pools: [NameServerPool<TokioRuntimeProvider>; 2],
    /// It has answered a query without EDNS after it had not answered the same one with EDNS.
    lacks_edns: AtomicBool,
}

/// Records of one kind, at least one.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) data: Vec<T>,
    /// The lowest TTL of the records and of the aliases leading to them.
    pub(super) ttl: Duration,
    pub(super) by: AnsweredBy,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnsweredBy {
    Nameserver,
    /// The operator, in the hosts file: believed whatever it says.
    HostsFile,
}

/// The address record types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
}

impl From<Kind> for RecordType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::A => Self::A,
            Kind::Aaaa => Self::AAAA,
        }
    }
}

impl Nameservers {
    pub(super) fn new(servers: Vec<NameServerConfig>, options: &ResolverOpts) -> Self {
        let mut request = DnsRequestOptions::default();
        request.use_edns = options.edns0;
        let provider = TokioRuntimeProvider::default();
        let server = |server: NameServerConfig| {
            let context = Arc::new(PoolContext::new(options.clone(), TlsConfig::new().ok()?));
            let pool = |server| NameServerPool::from_config([server], Arc::clone(&context), provider.clone());
            Some(Server { pools: [pool(server.clone()), pool(server)], lacks_edns: AtomicBool::new(false) })
        };
        Self { servers: servers.into_iter().filter_map(server).collect(), options: request }
    }

    /// Queries records of one kind, following aliases.
    pub(super) async fn ask<T>(
        &self,
        name: &Name,
        kind: RecordType,
        read: fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, Failure> {
        let mut name = name.clone();
        let mut ttl = u32::MAX;
        for _ in 0..MOST_ALIASES {
            let response = self.exchange(&name, kind).await?;
            let walked = walk(&response.answers, &name, read);
            ttl = ttl.min(walked.ttl);
            if !walked.data.is_empty() {
                let ttl = Duration::from_secs(ttl.into());
                return Ok(Answer { data: walked.data, ttl, by: AnsweredBy::Nameserver });
            }
            match walked.end {
                _ if response.response_code == ResponseCode::NXDomain => return Err(Failure::NoSuchName),
                // The nameserver did not follow the alias for us.
                end if end != name => name = end,
                _ => break,
            }
        }
        Err(Failure::NoData)
    }

    /// Queries the nameservers one after the other: moves on at once when one fails, and queries the next in parallel
    /// when one is slow. The first answer wins, even a negative one. Those that do not answer a query with EDNS, or
    /// answer that they do not understand it, then get it once without.
    async fn exchange(&self, name: &Name, kind: RecordType) -> Result<DnsResponse, Failure> {
        let query = Query::query(name.clone(), kind);
        let mut asked = JoinSet::new();
        let mut turns = self.turns();
        let mut failure: Option<Failure> = None;
        loop {
            if let Some((number, use_edns)) = turns.pop_front() {
                let mut options = self.options;
                options.use_edns = use_edns;
                let answer =
                    self.servers[number].pools[usize::from(use_edns)].lookup(query.clone(), options).first_answer();
                let answer = async { timeout(LONGEST_EXCHANGE, answer).await.unwrap_or(Err(NetError::Timeout)) };
                asked.spawn(async move { (number, use_edns, answer.await.map_err(Failure::from)) });
            }
            let patience = if turns.is_empty() { LONGEST_EXCHANGE } else { PATIENCE };
            // If one is slow, the next is queried as well. A task that panicked counts as a server without an answer; the panic itself is in the log.
            let Ok(ended) = timeout(patience, asked.join_next()).await else { continue };
            let (number, use_edns, answer) = match ended {
                Some(Ok(ended)) => ended,
                Some(Err(_)) => continue,
                None => return Err(failure.unwrap_or(Failure::TimedOut)),
            };
            match answer {
                Err(failed) if !failed.is_final() => {
                    if use_edns && !may_lack_edns(&failed) {
                        turns.retain(|turn| *turn != (number, false));
                    }
                    failure = Some(match failure {
                        Some(before) => failed.or(before),
                        None => failed,
                    });
                }
                answer => {
                    self.servers[number].lacks_edns.store(self.options.use_edns && !use_edns, Ordering::Relaxed);
                    return answer;
                }
            }
        }
    }

    /// Which server to query, and whether with EDNS, in order.
    fn turns(&self) -> VecDeque<(usize, bool)> {
        let all = 0..self.servers.len();
        let with = |number: usize| self.options.use_edns && !self.servers[number].lacks_edns.load(Ordering::Relaxed);
        let first = all.clone().map(|number| (number, with(number)));
        first.chain(all.filter(|number| with(*number)).map(|number| (number, false))).collect()
    }
}

fn may_lack_edns(failure: &Failure) -> bool {
    use ResponseCode::{BADVERS, FormErr, NotImp};
    matches!(failure, Failure::TimedOut | Failure::Server(FormErr | NotImp | BADVERS))
}

/// The end of the alias chain in an answer, and its records.
struct Walked<T> {
    end: Name,
    data: Vec<T>,
    ttl: u32,
}

/// Records of other names are ignored: they were not queried.
fn walk<T>(answers: &[Record], name: &Name, read: fn(&RData) -> Option<T>) -> Walked<T> {
    let mut walked = Walked { end: name.clone(), data: Vec::new(), ttl: u32::MAX };
    for _ in 0..MOST_ALIASES {
        let mut alias = None;
        for record in answers.iter().filter(|record| record.name == walked.end) {
            let data = read(&record.data);
            if let RData::CNAME(target) = &record.data {
                alias = Some(target.0.clone());
            } else if data.is_none() {
                continue;
            }
            walked.data.extend(data);
            walked.ttl = walked.ttl.min(seconds(record.ttl));
        }
        match alias {
            Some(target) if walked.data.is_empty() => walked.end = target,
            _ => break,
        }
    }
    walked
}

/// RFC 2181 §8: a TTL with the highest bit set counts as 0.
fn seconds(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// Covers UDP and, after a truncated answer, TCP.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(10);
/// How long to wait for a server before the next is queried as well.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_ALIASES: usize = 16;
