//! Records the line of a connection that is still open (`log.interval`).
//!
//! In:  an [`OpenConnectionLine`]; unknown fields are `None`.
//! Out: one record, with the fields of docs/logs.md in the order of the connection line.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::keys::Key;
use super::line::LoggedAddress;
use super::record::{Entry, Kind, Severity};
use crate::ids::ConnectionId;
use crate::telemetry::State;

/// An open connection, as it is logged. The fields mean what they mean in the line at its end.
#[derive(Clone)]
pub struct OpenConnectionLine<'a> {
    pub id: ConnectionId,
    pub listener: &'a str,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub sni: Option<&'a str>,
    /// `sni` was encrypted.
    pub sni_is_inner: bool,
    pub route: Option<&'a str>,
    pub pool: Option<&'a str>,
    pub backend: Option<&'a str>,
    pub address: Option<LoggedAddress<'a>>,
    /// Since accept.
    pub duration_ms: Duration,
    /// So far.
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    pub phase: State,
    pub config: &'a str,
}

impl OpenConnectionLine<'_> {
    /// Appends the entry.
    pub(super) fn record(&self, out: &mut Vec<u8>, now: SystemTime) {
        let mut entry = Entry::new(out, now, Severity::Info, Kind::Open);
        entry.text(Key::Event, "connection_open");
        entry.text(Key::Listener, self.listener);
        entry.socket(Key::Client, self.client);
        if self.peer != self.client {
            entry.socket(Key::Peer, self.peer);
        }
        let sni = if self.sni_is_inner { Key::InnerSni } else { Key::Sni };
        let known = [(sni, self.sni), (Key::Route, self.route), (Key::Pool, self.pool), (Key::Backend, self.backend)];
        for (key, value) in known {
            value.into_iter().for_each(|value| entry.text(key, value));
        }
        if let Some(address) = self.address {
            address.record(&mut entry);
        }
        entry.duration(Key::DurationMs, self.duration_ms);
        entry.number(Key::BytesToBackend, self.bytes_to_backend);
        entry.number(Key::BytesToClient, self.bytes_to_client);
        entry.text(Key::Phase, self.phase.as_str());
        entry.id(Key::Id, self.id.0);
        entry.text(Key::Config, self.config);
        entry.finish();
    }
}
