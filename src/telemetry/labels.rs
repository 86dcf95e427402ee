//! Names every closed set of label values, so that no label can ever come from the wire.
//!
//! In:  nothing.
//! Out: one small enum a label; `as_str` is the value in the metrics and in the log.
//! Source: docs/metrics.md, docs/logs.md.

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

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

labels! {
    /// How far an open connection has come.
    State {
        /// Waiting for the whole hello (and a PROXY header before it).
        Hello => "hello",
        Connecting => "connecting",
        Relaying => "relaying",
        /// A refusal is on the wire and the client has not closed yet.
        Refusing => "refusing",
    }

    /// What became of reading a ClientHello. The words are those of `Reason`.
    HelloResult {
        Whole => "whole",
        NotTls => "not_tls",
        BadHello => "bad_hello",
        InvalidSni => "invalid_sni",
        TooLarge => "hello_too_large",
        TimedOut => "hello_timeout",
        /// No byte came at all.
        Probe => "probe",
        ClientGone => "client_gone",
    }

    /// Which kind of pattern, or which fallback, decided.
    Match {
        Exact => "exact",
        /// `*.` and a suffix.
        OneLabel => "one_label",
        /// `**.` and a suffix.
        ManyLabels => "many_labels",
        /// `*`
        Any => "any",
        NoSni => "no_sni",
        Unmatched => "unmatched",
        NotTls => "not_tls",
    }

    /// What a client's hello offers.
    Feature {
        Tls13 => "tls13",
        Tls12Only => "tls12_only",
        X25519MlKem768 => "x25519mlkem768",
        Ech => "ech",
        H2 => "h2",
        Http11 => "http11",
        AcmeTls => "acme_tls",
    }

    /// What became of one attempt to connect to a backend.
    ConnectResult {
        /// It took the client's first bytes, and nothing showed that another would do better.
        Ok => "ok",
        Refused => "refused",
        TimedOut => "timeout",
        Unreachable => "unreachable",
        /// No local port is left, or no descriptor: our own lack, not the backend's.
        Exhausted => "exhausted",
        /// It took the hello and said nothing for too long.
        Silent => "silent",
        /// It took the hello and closed without a byte.
        Closed => "closed",
        /// It reset the connection before it said anything.
        Reset => "reset",
        /// What it said first is no TLS.
        NotTls => "not_tls",
        Failed => "failed",
    }
    /// What a backend said first.
    FirstRecord {
        ServerHello => "server_hello",
        /// A ServerHello that asks for another ClientHello, RFC 8446 §4.1.4.
        HelloRetry => "hello_retry",
        Alert => "alert",
        Other => "other",
        /// It closed, or was reset, without a byte.
        None => "none",
    }
    /// What is thought of a backend.
    BackendState {
        Up => "up",
        /// Its checks fail.
        Failing => "failing",
        /// Its connections failed: it is left out for a while.
        Ejected => "ejected",
        /// So the operator wants it: no new connections.
        Drain => "drain",
        /// So the operator wants it: no new connections and no checks.
        Down => "down",
    }
    /// What became of one active check.
    CheckResult {
        Ok => "ok",
        /// Nothing was there: refused, unreachable, reset.
        Connect => "connect",
        TimedOut => "timeout",
        /// The handshake failed: an alert, or no TLS.
        Tls => "tls",
        /// The certificate is not to be trusted, or is another name's.
        Certificate => "certificate",
    }

    /// What became of one look-up of a DNS name.
    DnsResult {
        Ok => "ok",
        NoSuchName => "nxdomain",
        /// There is such a name, but without such a record.
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
        /// The client went away while it was queued.
        Aborted => "aborted",
        Other => "other",
    }

    /// Whether a listener holds back from accepting.
    Paused {
        No => "no",
        Yes => "yes",
    }

    /// What became of reading a PROXY header.
    ProxyHeaderResult {
        V1 => "v1",
        V2 => "v2",
        /// A v2 LOCAL or a v1 UNKNOWN: the connection speaks for itself.
        Local => "local",
        Malformed => "malformed",
        Untrusted => "untrusted",
    }

    /// Which limit a connection ran into.
    LimitScope {
        Global => "global",
        Listener => "listener",
        ClientConnections => "client_connections",
        ClientRate => "client_rate",
        Backend => "backend",
    }

    /// Whether the limit turned the connection away or was only counted.
    Enforced {
        Yes => "true",
        No => "false",
    }

    /// What became of a reload.
    ReloadResult {
        Applied => "applied",
        Rejected => "rejected",
        /// The file holds what is already in force.
        Unchanged => "unchanged",
    }

    /// What asked for a reload.
    Trigger {
        Start => "start",
        File => "file",
        Poll => "poll",
        Signal => "signal",
        Api => "api",
    }
}
