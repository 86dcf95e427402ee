//! Writes durations, addresses and networks as a routing file does.
//!
//! In:  values as other programs write them.
//! Out: text for the routing file, within the range of its key; or why there is none.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::settings::{BackendAddress, Span, Word};

/// `most`, if the duration is longer, and at least 1 ms, since other programs use 0 for various things.
pub(super) fn span(duration: Duration, most: Duration) -> String {
    Span(duration.clamp(Duration::from_millis(1), most)).to_string()
}

/// A number with a unit of `units`; without one, `unit` applies. Several in a row are added: `1h30m`.
pub(super) fn duration(text: &str, unit: Duration, units: &[(&str, Duration)]) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let factor = match &rest[..letters] {
            "" => unit,
            word => units.iter().find(|(name, _)| *name == word)?.1,
        };
        rest = rest[letters..].trim_start();
        sum = sum.checked_add(factor.checked_mul(number)?)?;
    }
    Some(sum)
}

/// The address of a backend.
pub(super) fn backend(text: &str) -> Result<String, String> {
    BackendAddress::read(text).map(|address| address.to_string())
}

/// An address or a network; bits beyond the prefix are dropped.
pub(super) fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical().into()),
        Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc()),
    }
}

/// A list of networks.
pub(super) fn networks(list: &[IpNet]) -> String {
    let list: Vec<_> = list.iter().map(|network| super::writer::scalar(&network.to_string())).collect();
    format!("[{}]", list.join(", "))
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// For health checks, the shortest time is longer.
pub(super) fn check_span(duration: Duration) -> String {
    span(duration.max(Duration::from_millis(100)), HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let units = [("s", SECOND), ("m", SECOND * 60), ("h", HOUR)];
        assert_eq!(duration("1h 30m", SECOND, &units), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("5", SECOND, &units), Some(SECOND * 5));
        for text in ["", "s", "5x", "99999999999s", "-1", "4294967295h4294967295h"] {
            let read = duration(text, SECOND, &units);
            assert!(read.is_none() || text.ends_with('h'), "{text} {read:?}");
        }
        assert_eq!(span(Duration::ZERO, HOUR), "1ms");
        assert_eq!(span(DAY, HOUR), "1h");
    }
}
