//! Defines every closed set of label values, so that a label can never come from the wire.
//!
//! In:  nothing.
//! Out: one small enum per label; `as_str` is its value in the metrics and in the log.
//! Source: docs/metrics.md, docs/logs.md.

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = concat!("`", $label, "`")] $(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The label value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    )*};
}

/// One `T` per label, in the order of the discriminants, so that a label can be used as index.
pub(super) fn each<L: Copy, T>(labels: &[L], make: impl FnMut(L) -> T) -> Vec<T> {
    labels.iter().copied().map(make).collect()
}

labels! {
    /// A background task that goes on after a panic.
    Task {
        Health => "health",
        Discovery => "discovery",
        Containers => "containers",
        Kubernetes => "kubernetes",
        Reload => "reload",
        Admin => "admin",
        Upkeep => "upkeep",
    }

    /// The stage of an open connection.
    State {
        /// Waiting for the whole hello (and a PROXY header before it).
        Hello => "hello",
        /// Waiting in the queue of a pool for a place on a backend.
        Queued => "queued",
        Connecting => "connecting",
        Relaying => "relaying",
        /// A refusal was sent and the client has not closed yet.
        Refusing => "refusing",
    }

    /// The result of reading a ClientHello. The values are those of `Reason`, if one follows from it.
    HelloResult {
        Whole => "whole",
        NotTls => "not_tls",
        BadHello => "bad_hello",
        InvalidSni => "invalid_sni",
        TooLarge => "hello_too_large",
        TimedOut => "hello_timeout",
        Memory => "memory",
        /// No byte was received.
        Probe => "probe",
        /// No byte was received for `silent.after`: the server speaks first.
        Silent => "silent",
        ClientGone => "client_gone",
    }

    /// What the first bytes of a client look like that does not speak TLS.
    Saw {
        Http => "http",
        Ssh => "ssh",
        /// A PROXY header, where none is expected.
        Proxy => "proxy",
        Postgres => "postgres",
        Other => "other",
    }

    /// The kind of pattern, or the fallback, that decided.
    Match {
        Exact => "exact",
        /// `*.` followed by a suffix.
        OneLabel => "one_label",
        /// `**.` followed by a suffix.
        ManyLabels => "many_labels",
        /// `*`
        Any => "any",
        NoSni => "no_sni",
        Unmatched => "unmatched",
        NotTls => "not_tls",
        /// The client said nothing, and its listener has a pool for that.
        Silent => "silent",
    }

    /// A feature that a client's hello offers.
    Feature {
        Tls13 => "tls13",
        Tls12Only => "tls12_only",
        X25519MlKem768 => "x25519mlkem768",
        Ech => "ech",
        H2 => "h2",
        Http11 => "http11",
        AcmeTls => "acme_tls",
        /// To resume an earlier session.
        Resumption => "resumption",
        /// Data of the client right behind its hello, RFC 8446 §4.2.10.
        EarlyData => "early_data",
    }

    /// What an encrypted_client_hello extension turned out to be, on a listener that opens them.
    EchResult {
        /// No key opened it: GREASE, or a key that is gone. The outer hello was routed.
        NotForUs => "not_for_us",
        /// The inner hello was routed.
        Accepted => "accepted",
        /// The client was refused: the extension or the inner hello violates RFC 9849.
        Illegal => "illegal",
        /// The hello after a HelloRetryRequest was opened too.
        RetryAccepted => "retry_accepted",
        /// The hello after a HelloRetryRequest was refused.
        RetryRefused => "retry_refused",
        /// The backend answered, but did not accept the inner hello.
        Unconfirmed => "unconfirmed",
        /// The inner hello was opened, but its pool has no backend that accepts one. The outer hello was routed.
        FellBack => "fell_back",
    }

    /// The result of one attempt to connect to a backend.
    ConnectResult {
        /// The backend took the client's first bytes, and there was no reason to try another.
        Ok => "ok",
        Refused => "refused",
        TimedOut => "timeout",
        Unreachable => "unreachable",
        /// No local port or descriptor is available: our own shortage, not the backend's fault.
        Exhausted => "exhausted",
        /// The backend accepted the hello and sent nothing for too long.
        Silent => "silent",
        /// Another backend, tried earlier, answered first.
        Overtaken => "overtaken",
        /// The backend accepted the hello and closed without sending a byte.
        Closed => "closed",
        /// The backend reset the connection before sending anything.
        Reset => "reset",
        /// The backend's first bytes are not TLS.
        NotTls => "not_tls",
        /// The exchange before TLS failed.
        Starttls => "starttls",
        Failed => "failed",
    }
    /// The first record from a backend.
    FirstRecord {
        ServerHello => "server_hello",
        /// A HelloRetryRequest, RFC 8446 §4.1.4.
        HelloRetry => "hello_retry",
        Alert => "alert",
        Other => "other",
        /// Closed or reset without a byte.
        None => "none",
    }
    /// The state of a backend.
    BackendState {
        /// It has answered a client or a check.
        Up => "up",
        /// It has answered neither a client nor a check yet, and has not failed often either.
        Unchecked => "unchecked",
        /// Its health checks fail, or so many connections in a row.
        Failing => "failing",
        /// Its connections failed: no new ones for a while.
        Ejected => "ejected",
        /// Set by the operator: no new connections.
        Drain => "drain",
        /// Set by the operator: no new connections and no checks.
        Down => "down",
    }
    /// The result of one active check.
    CheckResult {
        Ok => "ok",
        /// Passed as well: the backend answered in TLS, but rejected something that only this check offers or lacks.
        Incompatible => "incompatible",
        /// Not reachable: refused, unreachable, reset.
        Connect => "connect",
        TimedOut => "timeout",
        /// The handshake failed: an alert, or not TLS.
        Tls => "tls",
        /// The certificate is untrusted, or for another name.
        Certificate => "certificate",
        /// An HTTP answer with another status, or not the text that was expected.
        Answer => "answer",
    }

    /// The result of one DNS look-up.
    DnsResult {
        Ok => "ok",
        NoSuchName => "nxdomain",
        /// The name exists, but has no such record.
        NoData => "no_data",
        TimedOut => "timeout",
        /// The nameserver answered with an error.
        ServFail => "servfail",
        Failed => "failed",
    }

    /// Why `accept` failed.
    AcceptError {
        /// The process or the system is out of file descriptors.
        Descriptors => "descriptors",
        Memory => "memory",
        /// The client disconnected while it was queued.
        Aborted => "aborted",
        Other => "other",
    }

    /// Whether a listener has paused accepting.
    Paused {
        No => "no",
        Yes => "yes",
    }

    /// The result of reading a PROXY header.
    ProxyHeaderResult {
        V1 => "v1",
        V2 => "v2",
        /// A v2 LOCAL or v1 UNKNOWN header: the peer's own address is used.
        Local => "local",
        Malformed => "malformed",
        Untrusted => "untrusted",
    }

    /// The limit that a connection exceeded.
    LimitScope {
        Global => "global",
        Listener => "listener",
        Route => "route",
        Pool => "pool",
        ClientConnections => "client_connections",
        ClientRate => "client_rate",
        Backend => "backend",
    }

    /// Whether the connection was rejected because of the limit or only counted.
    Enforced {
        Yes => "true",
        No => "false",
    }

    /// The result of a reload.
    ReloadResult {
        Applied => "applied",
        Rejected => "rejected",
        /// The file has the configuration already in force.
        Unchanged => "unchanged",
    }

    /// Whether a container gets connections.
    ContainerState {
        Served => "served",
        /// It is stopped or unhealthy: its names are known, and refused.
        Down => "down",
        /// Its labels cannot be used.
        LeftOut => "left_out",
    }

    /// The result of a look at the containers.
    DockerResult {
        Ok => "ok",
        Failed => "failed",
    }

    /// A kind of objects of a Kubernetes cluster.
    KubernetesKind {
        GatewayClass => "GatewayClass",
        Gateway => "Gateway",
        TlsRoute => "TLSRoute",
        ReferenceGrant => "ReferenceGrant",
        Service => "Service",
        EndpointSlice => "EndpointSlice",
        Namespace => "Namespace",
        Ingress => "Ingress",
    }

    /// The result of a write to a Kubernetes API.
    WriteResult {
        Ok => "ok",
        /// Somebody else was faster; it is tried again with the new version.
        Conflict => "conflict",
        Failed => "failed",
    }

    /// What triggered a reload.
    Trigger {
        Start => "start",
        File => "file",
        Poll => "poll",
        Signal => "signal",
        Api => "api",
    }
}

impl EchResult {
    /// Whether the connection was routed by a name that was encrypted.
    pub const fn is_inner(self) -> bool {
        matches!(self, Self::Accepted | Self::Unconfirmed)
    }
}
