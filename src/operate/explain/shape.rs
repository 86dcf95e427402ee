//! A question about a name, and the shape of its answer.
//!
//! In:  nothing.
//! Out: the types that the command line and `/api/v1/explain` share. Their JSON is a stable interface.
//! Source: docs/cli.md, "The JSON".

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::access::Decision;
use crate::route::NameForm;

/// A hypothetical connection. Properties that are not given are assumed, and the answer says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    /// As a client sends it; [`NO_NAME`] for a client that sends none.
    pub name: String,
    pub alpn: Vec<String>,
    pub source: Option<IpAddr>,
    /// The name of a listener.
    pub listener: Option<String>,
    /// How the name is sent.
    pub form: NameForm,
}

/// Why a question is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadQuestion {
    NoListener {
        asked: String,
        known: Vec<String>,
    },
    /// All listeners are those of Gateways, and there is none yet.
    NoListenerAtAll,
    /// RFC 7301 §3.1: protocol names are 1 to 255 bytes.
    Protocol {
        bytes: usize,
    },
}

/// Where a connection goes. Its JSON is a stable interface: fields keep their names, new ones may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// As given in the question.
    pub name: String,
    /// The name that is routed: lower-case, without a trailing dot. `None`: there is none, or it is invalid.
    pub server_name: Option<String>,
    pub alpn: Vec<String>,
    pub source: IpAddr,
    pub listener: String,
    /// Whether the name is that of an inner hello.
    #[serde(default)]
    pub ech: bool,
    /// Which of `alpn`, `source` and `listener` were not given.
    pub assumed: Vec<String>,
    /// The kind of pattern or the fallback that decided, as in the log. `None`: the name is invalid.
    #[serde(rename = "match")]
    pub matched: Option<String>,
    /// The route or the fallback, as in the log.
    pub route: Option<String>,
    /// The entry of the route that matched. `None`: a fallback decided.
    pub taken: Option<Entry>,
    /// More specific entries, in the order they were checked.
    pub passed_over: Vec<PassedOver>,
    /// What `allow` and `deny` decide, first those of the listener, then those of the route. Empty if there are none, or
    /// if the source was not given.
    #[serde(default)]
    pub access: Vec<Decision>,
    /// The destination; one of this, `split` and `refusal` is set.
    pub pool: Option<Pool>,
    /// The pools that the connections are split over.
    #[serde(default)]
    pub split: Option<Vec<Share>>,
    pub refusal: Option<Refusal>,
    /// Further hints for people.
    pub hints: Vec<String>,
    pub config: Source,
}

/// One pattern of a route, with the conditions of the route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub route: String,
    pub pattern: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// An empty list means no condition, here and below.
    pub alpn: Vec<String>,
    pub source: Vec<String>,
    pub listeners: Vec<String>,
    /// `only` or `never`. `None`: no condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ech: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PassedOver {
    #[serde(flatten)]
    pub entry: Entry,
    /// The first condition that did not hold: `listeners`, `ech`, `source` or `alpn`.
    pub unmet: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub name: String,
    pub backends: Vec<Backend>,
    /// Whether the connections leave from the client's own address.
    #[serde(default)]
    pub transparent: bool,
    /// The PROXY header that the backends get.
    #[serde(default)]
    pub proxy_header: Option<SentHeader>,
}

/// The PROXY header that the backends of a pool get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentHeader {
    /// `v1` or `v2`.
    pub version: String,
    /// The types of values that are passed on, as `0xea`.
    pub relay: Vec<String>,
    /// The types of values that are added.
    pub add: Vec<String>,
}

/// A pool of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub pool: Pool,
    pub weight: u32,
    /// Of the connections, to two decimal places.
    pub percent: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backend {
    pub address: String,
    pub weight: u32,
    /// Used only while no other backend is available.
    #[serde(default)]
    pub backup: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// As in the log and the metrics.
    pub reason: String,
    /// `alert`, `close`, `reset` or `drop`; on a listener that speaks HTTP `status 404`, say.
    pub client_sees: String,
    /// The name of the alert in RFC 8446 §6.2.
    pub alert: Option<String>,
    /// The alert for a client that does not offer TLS 1.3, if it differs.
    pub alert_before_tls13: Option<String>,
    /// Why the name is invalid.
    pub detail: Option<String>,
}

/// The question, as answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub file: String,
    pub hash: String,
}

impl fmt::Display for BadQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener { asked, known } => {
                write!(f, "there is no listener `{}`; there is `{}`", asked.escape_debug(), known.join("`, `"))
            }
            Self::NoListenerAtAll => {
                f.write_str("there is no listener; ask `snigate kubernetes explain`, or the running process")
            }
            Self::Protocol { bytes } => write!(f, "an ALPN protocol is 1 to 255 bytes long, not {bytes}"),
        }
    }
}

impl std::error::Error for BadQuestion {}

/// Stands for a client that sends no server name.
pub(crate) const NO_NAME: &str = "-";
