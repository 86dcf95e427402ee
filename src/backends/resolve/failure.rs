//! Classifies why a name has no answer.
//!
//! In:  hickory's errors.
//! Out: [`Failure`]; of two failures, the more informative one; a metric label.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

use crate::telemetry::DnsResult;

/// Why a name has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// NXDOMAIN.
    NoSuchName,
    /// The name exists, but has no such record.
    NoData,
    /// The nameserver answered with an error such as SERVFAIL.
    Server(ResponseCode),
    Net(Arc<NetError>),
    TimedOut,
    /// There are addresses, but none that is used; the first of them, and why not.
    NotUsed {
        address: SocketAddr,
        why: &'static str,
    },
}

impl Failure {
    /// The metric label.
    pub(crate) fn result(&self) -> DnsResult {
        match self {
            Self::NoSuchName => DnsResult::NoSuchName,
            Self::NoData => DnsResult::NoData,
            Self::Server(_) => DnsResult::ServFail,
            Self::TimedOut => DnsResult::TimedOut,
            Self::Net(_) | Self::NotUsed { .. } => DnsResult::Failed,
        }
    }

    /// Whether this is an authoritative negative answer.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoData)
    }

    /// Of two failures the one that may be temporary, since that is what an operator should look into.
    pub(super) fn or(self, other: Self) -> Self {
        let rank = |failure: &Self| match failure {
            Self::NoSuchName => 1,
            Self::NoData => 2,
            Self::Server(_) => 3,
            Self::Net(_) => 4,
            Self::TimedOut => 5,
            Self::NotUsed { .. } => 6,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => Self::TimedOut,
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Server(code),
            NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
                Self::NoSuchName
            }
            NetError::Dns(DnsError::NoRecordsFound(_)) => Self::NoData,
            error => Self::Net(Arc::new(error)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("there is no such name"),
            Self::NoData => f.write_str("the name has no such record"),
            Self::Server(code) => write!(f, "the nameserver answered: {code}"),
            Self::Net(_) => f.write_str("cannot reach the nameserver"),
            Self::TimedOut => f.write_str("no nameserver answered in time"),
            Self::NotUsed { address, why } => write!(f, "its address {address} is not used: {why}"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Net(error) => Some(error),
            _ => None,
        }
    }
}
