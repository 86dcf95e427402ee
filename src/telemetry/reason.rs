//! Defines every reason for a connection to end; the label of `snigate_connections_closed_total`.
//!
//! Invariant: accepted = active + the sum over these. docs/logs.md explains each.
#![expect(missing_docs, reason = "docs/logs.md says what each means")]

use std::fmt;

/// Whose fault it was that a connection ended as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody's: nothing failed, or nothing had begun.
    None,
    Client,
    Backend,
    /// Required by the configuration or by an operator.
    Policy,
    /// Ours.
    Proxy,
}

impl Fault {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Policy => "policy",
            Self::Proxy => "proxy",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $label:literal, $fault:ident;)*) => {
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

            /// Whose fault it was.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }
        }
    };
}

reasons! {
    /// No route matches the name.
    NoRoute => "no_route", Policy;
    /// A route or a fallback refuses it.
    Refused => "refused", Policy;
    /// `allow` or `deny` of a listener or a route keep it out.
    Denied => "denied", Policy;
    NoSni => "no_sni", Policy;
    NotTls => "not_tls", Client;
    BadHello => "bad_hello", Client;
    InvalidSni => "invalid_sni", Client;
    /// On a listener that speaks HTTP.
    BadRequest => "bad_request", Client;
    HelloTooLarge => "hello_too_large", Client;
    /// The hello that answers a HelloRetryRequest has another server name.
    NameChanged => "name_changed", Client;
    HelloTimeout => "hello_timeout", Client;
    /// The largest, or oldest small one, of the unfinished hellos, which together are over the budget.
    Memory => "memory", Policy;
    /// The peer sent nothing at all before it closed or the deadline passed.
    Probe => "probe", None;
    /// The client disconnected before routing.
    ClientGone => "client_gone", None;
    ProxyHeader => "proxy_header", Client;
    ProxyUntrusted => "proxy_untrusted", Client;
    LimitClient => "limit_client", Policy;
    LimitListener => "limit_listener", Policy;
    LimitRoute => "limit_route", Policy;
    /// The queue of the pool is full.
    LimitPool => "limit_pool", Policy;
    /// No place became free while it waited in the queue of the pool.
    QueueTimeout => "queue_timeout", Policy;
    LimitBackend => "limit_backend", Policy;
    NoBackend => "no_backend", Backend;
    ConnectRefused => "connect_refused", Backend;
    ConnectTimeout => "connect_timeout", Backend;
    ConnectUnreachable => "connect_unreachable", Backend;
    ConnectFailed => "connect_failed", Backend;
    /// The connection came back through the backends it was passed to.
    SelfLoop => "self_loop", Policy;
    Ok => "ok", None;
    /// A request was sent to https.
    Redirected => "redirected", None;
    ClientReset => "client_reset", Client;
    BackendReset => "backend_reset", Backend;
    /// The backend closed the connection without a byte in answer.
    NoAnswer => "no_answer", Backend;
    IdleTimeout => "idle_timeout", Policy;
    HalfCloseTimeout => "half_close_timeout", Policy;
    /// It was open for `max_age`.
    MaxAge => "max_age", Policy;
    PeerDead => "peer_dead", Client;
    Drained => "drained", Policy;
    Killed => "killed", Policy;
    RouteRemoved => "route_removed", Policy;
    /// Its backend failed its health checks.
    BackendDown => "backend_down", Backend;
    Panic => "panic", Proxy;
}

impl Reason {
    /// Whether the client was turned away: it did not get the answer of a backend, and that is somebody's fault.
    pub fn is_turned_away(self) -> bool {
        (self as usize) < Self::Ok as usize && self.fault() != Fault::None
    }

    /// Whether a limit of a route, a pool or its backends was reached.
    pub fn is_limit(self) -> bool {
        matches!(self, Self::LimitRoute | Self::LimitPool | Self::QueueTimeout | Self::LimitBackend)
    }

    /// Whether the client was turned away, or left, before it cost a backend anything: anybody can cause any number of
    /// these.
    pub(crate) fn is_refusal(self) -> bool {
        // They stand first.
        (self as usize) < Self::NoBackend as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
