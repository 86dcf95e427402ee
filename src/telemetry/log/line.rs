//! Records the connection line, which summarises a connection when it ends.
//!
//! In:  a [`ConnectionLine`]; unknown fields are `None`.
//! Out: one record, in the field order of docs/logs.md, without the unknown fields. Nothing is formatted here: that is
//!      the work of the thread that writes the log.
#![expect(missing_docs, reason = "docs/logs.md says what each means")]

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::keys::Key;
use super::record::{Entry, Kind, Severity};
use crate::alert::Alert;
use crate::ids::ConnectionId;
use crate::telemetry::{EchResult, Fault, Feature, FirstRecord, Match, Reason, Saw, State};

/// One connection, as it is logged.
#[derive(Clone)]
pub struct ConnectionLine<'a> {
    pub id: ConnectionId,
    pub listener: &'a str,
    /// The client's address: from a PROXY header, otherwise the same as `peer`.
    pub client: SocketAddr,
    /// The remote address of the TCP connection.
    pub peer: SocketAddr,
    /// From a PROXY header.
    pub endpoint: Endpoint<'a>,
    /// As parsed, even if no route matched.
    pub sni: Option<&'a str>,
    /// What the encrypted_client_hello extension turned out to be, on a listener that opens them.
    pub ech: Option<EchResult>,
    /// The name that everybody could read, if `sni` was encrypted.
    pub outer_sni: Option<&'a str>,
    pub alpn: Alpn<'a>,
    /// The highest version that the hello offers.
    pub tls: Option<&'static str>,
    /// Other features that it offers, of those that are counted.
    pub offers: &'a [Feature],
    pub hello_bytes: Option<usize>,
    pub hello_records: Option<usize>,
    /// From accept to the complete hello.
    pub hello_ms: Option<Duration>,
    /// What the first bytes look like, if they are not TLS.
    pub saw: Option<Saw>,
    /// The request, on a listener that speaks HTTP.
    pub request: Option<RequestLine<'a>>,
    pub route: Option<&'a str>,
    pub matched: Option<Match>,
    pub pool: Option<&'a str>,
    /// As written in the configuration.
    pub backend: Option<&'a str>,
    /// The address connected to, or tried last.
    pub address: Option<LoggedAddress<'a>>,
    /// Attempts to connect; omitted if there was none.
    pub attempts: u32,
    /// Which of them failed and why.
    pub failed: &'a [String],
    /// The backend's first record, and the alert if it is one.
    pub answer: Option<(FirstRecord, Option<Alert>)>,
    pub connect_ms: Option<Duration>,
    /// From the connect to the backend's first byte.
    pub first_byte_ms: Option<Duration>,
    /// From accept to the last close.
    pub duration_ms: Duration,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    /// The stage it had reached.
    pub phase: State,
    pub reason: Reason,
    /// The hash of the configuration that served it.
    pub config: &'a str,
    pub error: Option<&'a dyn fmt::Display>,
    /// `error` without the name in it, if there is one.
    pub nameless_error: Option<&'a str>,
}

/// The address of a backend, as it is logged.
#[derive(Clone, Copy)]
pub enum LoggedAddress<'a> {
    Inet(SocketAddr),
    /// Of a unix socket.
    Other(&'a dyn fmt::Display),
}

/// The endpoint in a client's own cloud network through which it came, as the PROXY header of the cloud's load balancer
/// names it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endpoint<'a> {
    /// AWS.
    pub vpc_endpoint: Option<&'a [u8]>,
    /// Azure.
    pub private_link_id: Option<u32>,
    /// Google Cloud.
    pub psc_connection_id: Option<u64>,
}

/// What is logged of an HTTP request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// `None`: the request is malformed.
    pub asked: Option<Asked<'a>>,
    /// Of the answer, if it does not come from a backend.
    pub status: Option<u16>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub host: &'a str,
    pub method: &'a str,
    /// Without the query, which may hold secrets.
    pub path: &'a str,
}

/// The ALPN protocols that a client offers, RFC 7301 §3.1.
#[derive(Clone, Copy, Debug, Default)]
pub enum Alpn<'a> {
    /// No ALPN extension, or no hello.
    #[default]
    Absent,
    /// The entries in wire format: a length byte and a name each.
    Wire(&'a [u8]),
    List(&'a [&'a [u8]]),
}

impl ConnectionLine<'_> {
    /// Appends the entry, in the field order of docs/logs.md.
    pub(super) fn record(&self, out: &mut Vec<u8>, now: SystemTime) {
        let mut entry = Entry::new(out, now, severity(self.reason), Kind::Connection);
        entry.text(Key::Event, "connection");
        entry.text(Key::Reason, self.reason.as_str());
        if let Some(error) = self.error {
            if let Some(nameless) = self.nameless_error {
                entry.text(Key::NamelessError, nameless);
            }
            entry.display(Key::Error, error);
        }
        entry.text(Key::Listener, self.listener);
        entry.socket(Key::Client, self.client);
        if self.peer != self.client {
            entry.socket(Key::Peer, self.peer);
        }
        self.endpoint.record(&mut entry);
        if let Some(sni) = self.sni {
            let was_encrypted = self.ech.is_some_and(EchResult::is_inner);
            entry.text(if was_encrypted { Key::InnerSni } else { Key::Sni }, sni);
        }
        if let Some(ech) = self.ech {
            entry.text(Key::Ech, ech.as_str());
        }
        if let Some(outer) = self.outer_sni {
            entry.text(Key::OuterSni, outer);
        }
        if let Some(request) = self.request {
            request.record(&mut entry);
        }
        self.record_destination(&mut entry);
        entry.duration(Key::DurationMs, self.duration_ms);
        self.connect_ms.into_iter().for_each(|after| entry.duration(Key::ConnectMs, after));
        self.first_byte_ms.into_iter().for_each(|after| entry.duration(Key::FirstByteMs, after));
        entry.number(Key::BytesToBackend, self.bytes_to_backend);
        entry.number(Key::BytesToClient, self.bytes_to_client);
        entry.text(Key::Phase, self.phase.as_str());
        self.record_hello(&mut entry);
        entry.id(Key::Id, self.id.0);
        entry.text(Key::Config, self.config);
        entry.finish();
    }

    fn record_destination(&self, entry: &mut Entry<'_>) {
        if let Some(route) = self.route {
            entry.text(Key::Route, route);
        }
        if let Some(matched) = self.matched {
            entry.text(Key::Match, matched.as_str());
        }
        if let Some(pool) = self.pool {
            entry.text(Key::Pool, pool);
        }
        if let Some(backend) = self.backend {
            entry.text(Key::Backend, backend);
        }
        if let Some(address) = self.address {
            address.record(entry);
        }
        if self.attempts > 0 {
            entry.number(Key::Attempts, self.attempts.into());
        }
        if !self.failed.is_empty() {
            entry.list(Key::Failed, self.failed.iter().map(String::as_bytes));
        }
        match self.answer {
            Some((kind, Some(alert))) => entry.display(Key::Answer, format_args!("{} {}", kind.as_str(), alert.name())),
            Some((kind, None)) => entry.text(Key::Answer, kind.as_str()),
            None => {}
        }
    }

    fn record_hello(&self, entry: &mut Entry<'_>) {
        if let Some(tls) = self.tls {
            entry.text(Key::Tls, tls);
        }
        if !matches!(self.alpn, Alpn::Absent) {
            let shown = |name: &'_ [u8]| name.len().min(MAX_ALPN_NAME_BYTES);
            entry.list(Key::Alpn, self.alpn.names().take(MAX_ALPN_NAMES).map(|name| &name[..shown(name)]));
        }
        if !self.offers.is_empty() {
            entry.list(Key::Offers, self.offers.iter().map(|feature| feature.as_str().as_bytes()));
        }
        self.hello_bytes.into_iter().for_each(|bytes| entry.number(Key::HelloBytes, bytes as u64));
        self.hello_records.into_iter().for_each(|records| entry.number(Key::HelloRecords, records as u64));
        self.hello_ms.into_iter().for_each(|after| entry.duration(Key::HelloMs, after));
        if let Some(saw) = self.saw {
            entry.text(Key::Saw, saw.as_str());
        }
    }
}

impl Endpoint<'_> {
    fn record(self, entry: &mut Entry<'_>) {
        if let Some(id) = self.vpc_endpoint {
            entry.bytes(Key::VpcEndpoint, &id[..id.len().min(MAX_ENDPOINT_BYTES)]);
        }
        if let Some(id) = self.private_link_id {
            entry.number(Key::PrivateLinkId, id.into());
        }
        if let Some(id) = self.psc_connection_id {
            // A string in JSON too: parsers that use doubles would round it.
            entry.display(Key::PscConnectionId, id);
        }
    }
}

impl RequestLine<'_> {
    fn record(self, entry: &mut Entry<'_>) {
        if let Some(Asked { host, method, path }) = self.asked {
            entry.text(Key::Host, host);
            entry.text(Key::Method, method);
            entry.bytes(Key::Path, &path.as_bytes()[..path.len().min(MAX_PATH_BYTES)]);
        }
        if let Some(status) = self.status {
            entry.number(Key::Status, status.into());
        }
    }
}

impl LoggedAddress<'_> {
    pub(super) fn record(self, entry: &mut Entry<'_>) {
        match self {
            Self::Inet(address) => entry.socket(Key::Address, address),
            Self::Other(address) => entry.display(Key::Address, address),
        }
    }
}

/// A backend's fault is for an operator to look at; a client's, or what the configuration requires, is not.
const fn severity(reason: Reason) -> Severity {
    match reason.fault() {
        Fault::Proxy => Severity::Error,
        Fault::Backend => Severity::Warn,
        Fault::None | Fault::Client | Fault::Policy => Severity::Info,
    }
}

impl<'a> Alpn<'a> {
    fn names(self) -> impl Iterator<Item = &'a [u8]> {
        let (mut wire, list): (&[u8], &[&[u8]]) = match self {
            Self::Absent => (&[], &[]),
            Self::Wire(entries) => (entries, &[]),
            Self::List(names) => (&[], names),
        };
        let from_wire = std::iter::from_fn(move || {
            let (length, rest) = wire.split_first()?;
            // A length beyond the end terminates the list; validation is the parser's job.
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            wire = rest;
            Some(name)
        });
        from_wire.chain(list.iter().copied())
    }
}

/// Those of AWS have 22.
const MAX_ENDPOINT_BYTES: usize = 64;
/// A path of a challenge has 71.
const MAX_PATH_BYTES: usize = 128;
/// The client chooses the list, and a hello has space for thousands. Browsers offer two.
pub(crate) const MAX_ALPN_NAMES: usize = 8;
/// Registered names have at most 17 bytes.
pub(crate) const MAX_ALPN_NAME_BYTES: usize = 32;

#[cfg(test)]
pub(super) mod tests;
