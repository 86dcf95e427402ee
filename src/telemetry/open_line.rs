//! Writes the line of a connection that is still open (`log.interval`).
//!
//! In:  an [`OpenConnectionLine`]; unknown fields are `None`.
//! Out: one line, with the fields of docs/logs.md in the order of the connection line.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::escape::Fields;
use super::labels::State;
use super::line::Millis;
use super::timestamp::Timestamp;
use crate::ids::ConnectionId;
use crate::settings::LogFormat;

/// An open connection, as it is logged. The fields mean what they mean in the line at its end.
#[derive(Clone)]
pub struct OpenConnectionLine<'a> {
    pub id: ConnectionId,
    pub listener: &'a str,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub sni: Option<&'a str>,
    pub route: Option<&'a str>,
    pub pool: Option<&'a str>,
    pub backend: Option<&'a str>,
    pub address: Option<&'a dyn fmt::Display>,
    /// Since accept.
    pub duration_ms: Duration,
    /// So far.
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    pub phase: State,
    pub config: &'a str,
}

impl OpenConnectionLine<'_> {
    /// Appends the line, including its newline.
    pub(super) fn write(&self, out: &mut String, format: LogFormat, now: SystemTime) {
        let mut fields = Fields::new(out, format);
        fields.text("ts", Timestamp(now));
        fields.text("event", "connection_open");
        fields.text("id", self.id);
        fields.text("listener", self.listener);
        fields.text("client", self.client);
        fields.text("peer", self.peer);
        let known = [("sni", self.sni), ("route", self.route), ("pool", self.pool), ("backend", self.backend)];
        for (key, value) in known {
            value.into_iter().for_each(|value| fields.text(key, value));
        }
        if let Some(address) = self.address {
            fields.text("address", address);
        }
        fields.plain("duration_ms", Millis(self.duration_ms));
        fields.plain("bytes_to_backend", self.bytes_to_backend);
        fields.plain("bytes_to_client", self.bytes_to_client);
        fields.text("phase", self.phase.as_str());
        fields.text("config", self.config);
        fields.finish();
    }
}
