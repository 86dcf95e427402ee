//! Limits per client, as the routing file has them.
//!
//! In:  the map `per_client` of the limits, of a listener or of a route.
//! Out: [`PerClient`]. `config` fills in what a listener or a route does not set; getters know the defaults.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NetworkList;
use super::text::{Auto, Nothing, Off, Or, Word, serde_as_word};

/// Limits per client address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PerClient {
    /// The maximum number of concurrent connections of one client. Default: `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Or<Nothing, usize>>,
    /// How many connections one client may open: `50/s`, `100/m` or `1000/h`. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Or<Off, Rate>>,
    /// How many of these may come at once. Default: `auto`, the number in `rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Or<Auto, usize>>,
    /// Which addresses are one client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefixes>,
    /// Networks that are not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt: Option<NetworkList>,
    /// `false`: count and log what would have been refused. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// For how many clients there is room, 64 to 16,777,216. Each takes 32 bytes, used or not. Default: 65,536.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 16_777_216))]
    pub tracked: Option<u32>,
}

impl PerClient {
    /// Sets what is not set as in `base`, or to its default.
    #[must_use]
    pub fn over(self, base: Option<&Self>) -> Self {
        let base = base.cloned().unwrap_or_default();
        Self {
            connections: self.connections.or(base.connections).or(Some(Or::default())),
            rate: self.rate.or(base.rate).or(Some(Or::default())),
            burst: self.burst.or(base.burst).or(Some(Or::default())),
            prefix: self.prefix.or(base.prefix).or(Some(Prefixes::default())),
            exempt: self.exempt.or(base.exempt).or(Some(NetworkList::default())),
            enforce: self.enforce.or(base.enforce).or(Some(true)),
            tracked: self.tracked.or(base.tracked).or(Some(DEFAULT_TRACKED)),
        }
    }

    /// `None`: any number.
    pub fn connections(&self) -> Option<u32> {
        let connections = self.connections.and_then(|connections| *connections)?;
        Some(u32::try_from(connections).unwrap_or(u32::MAX))
    }

    /// `None`: any.
    pub fn rate(&self) -> Option<Rate> {
        self.rate.and_then(|rate| *rate)
    }

    /// How many connections may come at once at this `rate`.
    pub fn burst(&self, rate: Rate) -> u32 {
        let burst = self.burst.and_then(|burst| *burst);
        burst.map_or(rate.count, |burst| u32::try_from(burst).unwrap_or(u32::MAX))
    }

    /// Which addresses are one client.
    pub fn prefixes(&self) -> Prefixes {
        self.prefix.unwrap_or_default()
    }

    /// Whether clients over a limit are refused.
    pub fn enforce(&self) -> bool {
        self.enforce.unwrap_or(true)
    }

    /// For how many clients there is room.
    pub fn tracked(&self) -> u32 {
        self.tracked.unwrap_or(DEFAULT_TRACKED)
    }
}

/// The lengths of the prefixes that make clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prefixes {
    /// Of an IPv4 address, 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub v4: u32,
    /// Of an IPv6 address, 1 to 128.
    #[schemars(range(min = 1, max = 128))]
    pub v6: u32,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// So many in a second, a minute or an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From 1 to 100,000.
    pub count: u32,
    per: char,
}

impl Rate {
    pub(crate) const PER_SECOND_100: Self = Self { count: 100, per: 's' };

    /// The time for `count`.
    pub fn period(self) -> Duration {
        Duration::from_secs(match self.per {
            's' => 1,
            'm' => 60,
            _ => 3600,
        })
    }
}

impl Word for Rate {
    const EXPECTED: &'static str = "a rate";
    const SCHEMA: &'static str =
        r#"{ "type": "string", "pattern": "^[0-9]+/(s|m|h)$", "description": "`50/s`, `100/m` or `1000/h`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        let read = || {
            let (count, per) = text.split_once('/')?;
            let count = Some(count).filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
            matches!(per, "s" | "m" | "h").then_some((count, per.chars().next()?))
        };
        match read() {
            Some((count @ 1..=MOST_PER_PERIOD, per)) => Ok(Self { count, per }),
            Some(_) => Err(format!("a rate must be from 1 to {MOST_PER_PERIOD}")),
            None => Err(format!("`{}` is not a rate; write `50/s`, `100/m` or `1000/h`", text.escape_debug())),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

serde_as_word!(Rate as "Rate");

const DEFAULT_TRACKED: u32 = 65_536;
/// The time between two connections is measured in ticks of 128 ns.
const MOST_PER_PERIOD: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for text in ["1/s", "50/s", "100/m", "100000/h"] {
            assert_eq!(Rate::read(text).map(|rate| rate.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "50", "/s", "50/", "50/d", "50 /s", "+5/s", "-1/s", "1.5/s", "50/s/s"] {
            assert!(Rate::read(text).unwrap_err().contains("`100/m`"), "{text}");
        }
        for text in ["0/s", "100001/s"] {
            assert!(Rate::read(text).unwrap_err().contains("from 1 to 100000"), "{text}");
        }
    }
}
