//! The numbers that name connections, listeners and routes. Each has a type, so that none is passed for another.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// Names one connection in the log, the admin API and the PROXY header: 16 hexadecimal digits. Unique in a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names a listener of one snapshot: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerIndex(pub usize);

/// Names a route of one snapshot: its place in the configuration. Below 2³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteIndex(pub u32);

impl RouteIndex {
    /// No route: a name that an entry with this one matches is treated as one that none matches.
    pub(crate) const NOWHERE: Self = Self((1 << 31) - 1);
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ConnectionId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}
