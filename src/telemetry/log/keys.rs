//! The keys of log fields: their own names, and those of the Elastic Common Schema and of OpenTelemetry.
//!
//! In:  nothing.
//! Out: [`Key`], in the order in which a person wants to read them. docs/logs.md has the same table.
//! Source: ECS 8.17, <https://www.elastic.co/docs/reference/ecs>; OpenTelemetry semantic conventions 1.36,
//!         <https://opentelemetry.io/docs/specs/semconv/registry/attributes>. What neither has a name for is below
//!         `snigate.`.

use crate::settings::LogFields;

macro_rules! keys {
    ($($variant:ident: $native:literal, $ecs:literal, $otel:literal;)*) => {
        /// A field of a connection line, or one that all lines have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Key { $($variant,)* }

        impl Key {
            /// All of them, in the order of their discriminants.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name of the field. That of an address is completed by `.ip`, `.address` and `.port`.
            pub(super) const fn name(self, fields: LogFields) -> &'static str {
                match (self, fields) {
                    $(
                        (Self::$variant, LogFields::Native) => $native,
                        (Self::$variant, LogFields::Ecs) => $ecs,
                        (Self::$variant, LogFields::Otel) => $otel,
                    )*
                }
            }
        }
    };
}

keys! {
    Ts: "ts", "@timestamp", "timestamp";
    Level: "level", "log.level", "severity_text";
    Event: "event", "event.action", "event_name";
    Msg: "msg", "message", "body";
    Reason: "reason", "event.reason", "snigate.reason";
    Error: "error", "error.message", "error.message";
    Listener: "listener", "snigate.listener", "snigate.listener";
    Client: "client", "client", "client";
    Peer: "peer", "source", "network.peer";
    VpcEndpoint: "vpc_endpoint", "snigate.vpc_endpoint", "snigate.vpc_endpoint";
    PrivateLinkId: "private_link_id", "snigate.private_link_id", "snigate.private_link_id";
    PscConnectionId: "psc_connection_id", "snigate.psc_connection_id", "snigate.psc_connection_id";
    Sni: "sni", "tls.client.server_name", "server.address";
    Ech: "ech", "snigate.ech", "snigate.ech";
    OuterSni: "outer_sni", "snigate.outer_sni", "snigate.outer_sni";
    Host: "host", "url.domain", "url.domain";
    Method: "method", "http.request.method", "http.request.method";
    Path: "path", "url.path", "url.path";
    Status: "status", "http.response.status_code", "http.response.status_code";
    Route: "route", "snigate.route", "snigate.route";
    Match: "match", "snigate.match", "snigate.match";
    Pool: "pool", "snigate.pool", "snigate.pool";
    Backend: "backend", "snigate.backend", "snigate.backend";
    Address: "address", "destination", "destination";
    Attempts: "attempts", "snigate.attempts", "snigate.attempts";
    Failed: "failed", "snigate.failed", "snigate.failed";
    Answer: "answer", "snigate.answer", "snigate.answer";
    DurationMs: "duration_ms", "event.duration", "snigate.duration_ms";
    ConnectMs: "connect_ms", "snigate.connect_ms", "snigate.connect_ms";
    FirstByteMs: "first_byte_ms", "snigate.first_byte_ms", "snigate.first_byte_ms";
    BytesToBackend: "bytes_to_backend", "client.bytes", "snigate.bytes_to_backend";
    BytesToClient: "bytes_to_client", "server.bytes", "snigate.bytes_to_client";
    Phase: "phase", "snigate.phase", "snigate.phase";
    Tls: "tls", "snigate.tls", "snigate.tls";
    Alpn: "alpn", "snigate.alpn", "snigate.alpn";
    Offers: "offers", "snigate.offers", "snigate.offers";
    HelloBytes: "hello_bytes", "snigate.hello_bytes", "snigate.hello_bytes";
    HelloRecords: "hello_records", "snigate.hello_records", "snigate.hello_records";
    HelloMs: "hello_ms", "snigate.hello_ms", "snigate.hello_ms";
    Saw: "saw", "snigate.saw", "snigate.saw";
    Id: "id", "snigate.id", "snigate.id";
    Config: "config", "snigate.config", "snigate.config";
    // Takes the place of `sni` if the name was encrypted.
    InnerSni: "sni", "tls.client.server_name", "server.address";
    // Takes the place of `error` where names are hidden.
    NamelessError: "error", "error.message", "error.message";
}

impl Key {
    /// The key of a field of a message that means what it means in a connection line.
    pub(super) fn of_message(name: &str) -> Option<Self> {
        match name {
            "reason" => Some(Self::Reason),
            "id" => Some(Self::Id),
            "error" => Some(Self::Error),
            "client" => Some(Self::Client),
            "peer" => Some(Self::Peer),
            "sni" => Some(Self::Sni),
            _ => None,
        }
    }

    /// Whether the value is a socket address, which other schemas keep in two fields.
    pub(super) const fn is_address(self) -> bool {
        matches!(self, Self::Client | Self::Peer | Self::Address)
    }
}
