//! Writes the connection line, which summarises a connection when it ends.
//!
//! In:  a [`ConnectionLine`]; unknown fields are `None`.
//! Out: one line, in the field order of docs/logs.md, without the unknown fields.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::Reason;
use super::escape::{Bytes, Fields};
use super::labels::{Feature, FirstRecord, Match, Saw, State};
use super::timestamp::Timestamp;
use crate::alert::Alert;
use crate::ids::ConnectionId;
use crate::settings::LogFormat;

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
    pub address: Option<&'a dyn fmt::Display>,
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

impl<'a> ConnectionLine<'a> {
    /// Appends the line, including its newline.
    pub(super) fn write(&self, out: &mut String, format: LogFormat, now: SystemTime) {
        let mut fields = Fields::new(out, format);
        fields.text("ts", Timestamp(now));
        fields.text("event", "connection");
        // A string in JSON too: parsers that use doubles would round an id above 2^53.
        fields.text("id", self.id);
        fields.text("listener", self.listener);
        fields.text("client", self.client);
        fields.text("peer", self.peer);
        self.endpoint.write(&mut fields);
        self.write_hello(&mut fields);
        self.write_destination(&mut fields);
        fields.plain("duration_ms", Millis(self.duration_ms));
        fields.plain("bytes_to_backend", self.bytes_to_backend);
        fields.plain("bytes_to_client", self.bytes_to_client);
        fields.text("phase", self.phase.as_str());
        fields.text("reason", self.reason.as_str());
        fields.text("config", self.config);
        if let Some(error) = self.error {
            fields.text("error", error);
        }
        fields.finish();
    }

    fn write_hello(&self, fields: &mut Fields<'_>) {
        if let Some(sni) = self.sni {
            fields.text("sni", sni);
        }
        if !matches!(self.alpn, Alpn::Absent) {
            let shown = |name: &'a [u8]| Bytes(&name[..name.len().min(MAX_ALPN_NAME_BYTES)]);
            fields.list("alpn", self.alpn.names().take(MAX_ALPN_NAMES).map(shown));
        }
        if let Some(tls) = self.tls {
            fields.text("tls", tls);
        }
        if !self.offers.is_empty() {
            fields.list("offers", self.offers.iter().map(|feature| feature.as_str()));
        }
        if let Some(bytes) = self.hello_bytes {
            fields.plain("hello_bytes", bytes);
        }
        if let Some(records) = self.hello_records {
            fields.plain("hello_records", records);
        }
        if let Some(after) = self.hello_ms {
            fields.plain("hello_ms", Millis(after));
        }
        if let Some(saw) = self.saw {
            fields.text("saw", saw.as_str());
        }
        if let Some(request) = self.request {
            request.write(fields);
        }
    }

    fn write_destination(&self, fields: &mut Fields<'_>) {
        if let Some(route) = self.route {
            fields.text("route", route);
        }
        if let Some(matched) = self.matched {
            fields.text("match", matched.as_str());
        }
        if let Some(pool) = self.pool {
            fields.text("pool", pool);
        }
        if let Some(backend) = self.backend {
            fields.text("backend", backend);
        }
        if let Some(address) = self.address {
            fields.text("address", address);
        }
        if self.attempts > 0 {
            fields.plain("attempts", self.attempts);
        }
        if !self.failed.is_empty() {
            fields.list("failed", self.failed.iter());
        }
        if let Some(after) = self.connect_ms {
            fields.plain("connect_ms", Millis(after));
        }
        if let Some(after) = self.first_byte_ms {
            fields.plain("first_byte_ms", Millis(after));
        }
        match self.answer {
            Some((kind, Some(alert))) => fields.text("answer", format_args!("{} {}", kind.as_str(), alert.name())),
            Some((kind, None)) => fields.text("answer", kind.as_str()),
            None => {}
        }
    }
}

impl Endpoint<'_> {
    fn write(self, fields: &mut Fields<'_>) {
        if let Some(id) = self.vpc_endpoint {
            fields.text("vpc_endpoint", Bytes(&id[..id.len().min(MAX_ENDPOINT_BYTES)]));
        }
        if let Some(id) = self.private_link_id {
            fields.plain("private_link_id", id);
        }
        if let Some(id) = self.psc_connection_id {
            // A string in JSON too: parsers that use doubles would round it.
            fields.text("psc_connection_id", id);
        }
    }
}

impl RequestLine<'_> {
    fn write(self, fields: &mut Fields<'_>) {
        if let Some(Asked { host, method, path }) = self.asked {
            fields.text("host", host);
            fields.text("method", method);
            fields.text("path", Bytes(&path.as_bytes()[..path.len().min(MAX_PATH_BYTES)]));
        }
        if let Some(status) = self.status {
            fields.plain("status", status);
        }
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

/// Milliseconds with microsecond precision.
pub(super) struct Millis(pub(super) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
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
#[path = "line/tests.rs"]
mod tests;
