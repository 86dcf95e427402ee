//! Limits how many connections one client may have open, and how fast it may open them.
//!
//! In:  `per_client` of the limits, of a listener or of a route; the address of each client.
//! Out: a [`Place`] while the connection is open; or the limit that the client exceeds.
//!
//! All workers share one table, without a lock. It outlives reloads, as long as its size and the prefixes stay the same.

mod table;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

pub use self::table::Exceeded;
use self::table::{Counted, Enforce, Index, Limits, Rate, Table, ticks};
use crate::settings::{NetworkList, PerClient, Prefixes};

/// The limits of one scope: of all listeners, of one listener, or of one route.
pub struct ClientLimits {
    clients: Arc<Clients>,
    limits: Limits,
    enforce: Enforce,
    settings: PerClient,
    exempt: NetworkList,
}

/// The clients of one scope.
#[derive(Debug)]
struct Clients {
    table: Table,
    began: Instant,
    prefixes: Prefixes,
    tracked: u32,
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    index: Index,
}

/// What the limits say about a new connection.
#[derive(Debug)]
pub enum Entered {
    /// Within the limits.
    Counted(Place),
    /// Over a limit that only counts.
    NotEnforced(Place, Exceeded),
    /// In a network that is not limited.
    Exempt,
    /// The table has no room: the client is not limited.
    Untracked,
}

/// A client is over a limit that is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over(pub Exceeded);

impl ClientLimits {
    /// The limits that `settings` set. Clients that `before` knows keep what they have used.
    pub fn new(settings: &PerClient, before: Option<&Self>) -> Arc<Self> {
        let (prefixes, tracked) = (settings.prefixes(), settings.tracked());
        let known = before.map(|before| &before.clients);
        let known = known.filter(|known| known.prefixes == prefixes && known.tracked == tracked);
        let fresh = || Arc::new(Clients { table: Table::new(tracked), began: Instant::now(), prefixes, tracked });
        let rate = settings.rate().map(|rate| Rate::new(rate.count, rate.period(), settings.burst(rate)));
        Arc::new(Self {
            clients: known.map_or_else(fresh, Arc::clone),
            limits: Limits { connections: settings.connections().unwrap_or(u32::MAX), rate },
            enforce: if settings.enforce() { Enforce::Yes } else { Enforce::No },
            exempt: settings.exempt.clone().unwrap_or_default(),
            settings: settings.clone(),
        })
    }

    /// As the configuration has them.
    pub fn settings(&self) -> &PerClient {
        &self.settings
    }

    /// Counts a connection of `client`, whose address is canonical, at `now`.
    ///
    /// # Errors
    /// The client is over a limit.
    pub fn enter(&self, client: IpAddr, now: Instant) -> Result<Entered, Over> {
        if self.exempt.contains(client) {
            return Ok(Entered::Exempt);
        }
        let clients = &self.clients;
        let now = ticks(now.saturating_duration_since(clients.began));
        let place = |index| Place { clients: Arc::clone(clients), index };
        match clients.table.enter(prefix(client, clients.prefixes), now, self.limits, self.enforce) {
            Counted::At(index, None) => Ok(Entered::Counted(place(index))),
            Counted::At(index, Some(exceeded)) => Ok(Entered::NotEnforced(place(index), exceeded)),
            Counted::Untracked => Ok(Entered::Untracked),
            Counted::Over(exceeded) => Err(Over(exceeded)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.table.leave(self.index);
    }
}

/// The part of an address that clients are told apart by. An IPv4 address is one number with its IPv4-mapped address.
fn prefix(client: IpAddr, Prefixes { v4, v6 }: Prefixes) -> u128 {
    let (bits, kept) = match client {
        IpAddr::V4(client) => (client.to_ipv6_mapped().to_bits(), 96 + v4),
        IpAddr::V6(client) => (client.to_bits(), v6),
    };
    bits & u128::MAX.checked_shl(128 - kept).unwrap_or(0)
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Exceeded::Connections => "the client has `per_client.connections` open",
            Exceeded::Rate => "the client opens connections faster than `per_client.rate`",
        })
    }
}

impl std::error::Error for Over {}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> PerClient {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    fn enter(limits: &ClientLimits, client: &str) -> Result<Entered, Over> {
        limits.enter(client.parse().expect("an address"), Instant::now())
    }

    #[tokio::test]
    async fn clients_are_told_apart_by_their_prefix() {
        let limits = ClientLimits::new(&settings(r#"{ "connections": "1", "prefix": { "v4": 24 } }"#), None);
        let _held =
            ["192.0.2.1", "198.51.100.1", "2001:db8::1"].map(|client| enter(&limits, client).expect("the first"));
        for again in ["192.0.2.255", "198.51.100.0", "2001:db8::ffff:ffff:ffff:ffff"] {
            assert_eq!(enter(&limits, again).expect_err("the second"), Over(Exceeded::Connections), "{again}");
        }
        for other in ["192.0.3.1", "2001:db8:0:1::1"] {
            assert!(matches!(enter(&limits, other), Ok(Entered::Counted(_))), "{other}");
        }
    }

    #[tokio::test]
    async fn exempt_clients_are_not_counted_and_others_may_be_counted_only() {
        let mut limits = settings(r#"{ "connections": "1", "enforce": false }"#);
        let networks = std::iter::once("10.0.0.0/8".parse().expect("a network"));
        limits.exempt = Some(NetworkList { sets: vec![Arc::new(networks.collect())], ..NetworkList::default() });
        let limits = ClientLimits::new(&limits, None);
        assert!((0..9).all(|_| matches!(enter(&limits, "10.1.2.3"), Ok(Entered::Exempt))));
        let _first = enter(&limits, "192.0.2.1").expect("the first");
        let second = enter(&limits, "192.0.2.1");
        assert!(matches!(second, Ok(Entered::NotEnforced(_, Exceeded::Connections))), "{second:?}");
    }

    #[tokio::test]
    async fn a_reload_keeps_what_clients_have_open_unless_they_are_told_apart_in_another_way() {
        let before = ClientLimits::new(&settings(r#"{ "connections": "1" }"#), None);
        let first = enter(&before, "192.0.2.1").expect("the first");
        let after =
            ClientLimits::new(&settings(r#"{ "connections": "2", "rate": "1/h", "burst": "1" }"#), Some(&before));
        let _second = enter(&after, "192.0.2.1").expect("the second");
        assert!(enter(&after, "192.0.2.1").is_err());
        drop(first);
        assert_eq!(enter(&after, "192.0.2.1").expect_err("the rate"), Over(Exceeded::Rate));
        for other in [r#"{ "connections": "1", "tracked": 1024 }"#, r#"{ "connections": "1", "prefix": { "v4": 31 } }"#]
        {
            let other = ClientLimits::new(&settings(other), Some(&after));
            assert!(enter(&other, "192.0.2.1").is_ok());
        }
    }
}
