//! Queries nameservers for the records of a name.
//!
//! In:  the servers, in query order; a fully qualified name.
//! Out: an [`Answer`] with its TTL, or a [`Failure`].
//! Source: RFC 1035 §4.2 (UDP, and TCP for what is truncated), RFC 1034 §3.6.2 (CNAME), RFC 2181 §8 (TTL).
//!
//! hickory's own resolver is not used: its cache would override our TTLs, and it does not follow a CNAME to SRV
//! records. Its messages, sockets and retransmissions are used.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;

pub(super) struct Nameservers {
    /// One pool per server, so that we control the order and when the next is queried.
    servers: Vec<NameServerPool<TokioRuntimeProvider>>,
    options: DnsRequestOptions,
}

/// Records of one kind, at least one.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) data: Vec<T>,
    /// The lowest TTL of the records and of the aliases leading to them.
    pub(super) ttl: Duration,
}

impl Nameservers {
    pub(super) fn new(servers: Vec<NameServerConfig>, options: &ResolverOpts) -> Self {
        let mut request = DnsRequestOptions::default();
        request.use_edns = options.edns0;
        let provider = TokioRuntimeProvider::default();
        let pool = |server| {
            let context = Arc::new(PoolContext::new(options.clone(), TlsConfig::new().ok()?));
            Some(NameServerPool::from_config([server], context, provider.clone()))
        };
        Self { servers: servers.into_iter().filter_map(pool).collect(), options: request }
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
                return Ok(Answer { data: walked.data, ttl: Duration::from_secs(ttl.into()) });
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
    /// when one is slow. The first answer wins, even a negative one.
    async fn exchange(&self, name: &Name, kind: RecordType) -> Result<DnsResponse, Failure> {
        let query = Query::query(name.clone(), kind);
        let mut asked = JoinSet::new();
        let mut servers = self.servers.iter();
        let mut failure = Failure::NoNameserver;
        loop {
            if let Some(server) = servers.next() {
                let answer = server.lookup(query.clone(), self.options).first_answer();
                asked.spawn(timeout(LONGEST_EXCHANGE, answer));
            }
            let patience = if servers.len() > 0 { PATIENCE } else { LONGEST_EXCHANGE };
            match timeout(patience, asked.join_next()).await {
                // Slow: query the next one as well.
                Err(_) if servers.len() > 0 => {}
                Ok(Some(Ok(Ok(Ok(response))))) => return Ok(response),
                Ok(Some(Ok(Ok(Err(error))))) => match Failure::from(error) {
                    said_no if said_no.is_final() => return Err(said_no),
                    failed => failure = failed.or(failure),
                },
                Err(_) | Ok(Some(Ok(Err(_)))) => failure = Failure::TimedOut,
                Ok(Some(Err(_))) => {}
                Ok(None) => return Err(failure),
            }
        }
    }
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
