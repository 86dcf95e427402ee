//! Defines every reason for a connection to end; the label of `snigate_connections_closed_total`.
//!
//! Invariant: accepted = active + the sum over these. docs/logs.md explains each.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $label:literal,)*) => {
        /// Why a connection ended. A closed set: every accepted connection ends with exactly one of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The metric label and log value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// No route matches the name.
    NoRoute => "no_route",
    /// A route or a fallback refuses it.
    Refused => "refused",
    NoSni => "no_sni",
    NotTls => "not_tls",
    BadHello => "bad_hello",
    InvalidSni => "invalid_sni",
    HelloTooLarge => "hello_too_large",
    /// The hello that answers a HelloRetryRequest has another server name.
    NameChanged => "name_changed",
    HelloTimeout => "hello_timeout",
    /// The peer sent nothing at all before it closed or the deadline passed.
    Probe => "probe",
    /// The client disconnected before routing.
    ClientGone => "client_gone",
    ProxyHeader => "proxy_header",
    ProxyUntrusted => "proxy_untrusted",
    LimitClient => "limit_client",
    LimitListener => "limit_listener",
    LimitBackend => "limit_backend",
    NoBackend => "no_backend",
    ConnectRefused => "connect_refused",
    ConnectTimeout => "connect_timeout",
    ConnectUnreachable => "connect_unreachable",
    ConnectFailed => "connect_failed",
    Ok => "ok",
    ClientReset => "client_reset",
    BackendReset => "backend_reset",
    IdleTimeout => "idle_timeout",
    HalfCloseTimeout => "half_close_timeout",
    PeerDead => "peer_dead",
    Drained => "drained",
    Killed => "killed",
    RouteRemoved => "route_removed",
    Panic => "panic",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
