//! Checks limits per client, and fills in what a listener or a route does not set.
//!
//! In:  `per_client` as one place has it, and as `limits` have it.
//! Out: the same with every key set.

use super::ranges::number_within;
use super::{Cursor, lists};
use crate::settings::{OrOff, PerClient};

/// Completes `per_client` of `section` with what `base` sets.
pub(super) fn complete(per_client: &mut Option<OrOff<PerClient>>, section: &Cursor<'_>, base: Option<&PerClient>) {
    let (Some(OrOff(Some(own))), Some(cursor)) = (per_client, section.key("per_client")) else { return };
    if let Some(exempt) = &mut own.exempt {
        lists::load(exempt, &cursor, "exempt");
    }
    if let (Some(prefix), Some(cursor)) = (own.prefix, cursor.key("prefix")) {
        number_within(&cursor, "v4", prefix.v4, 1..=32);
        number_within(&cursor, "v6", prefix.v6, 1..=128);
    }
    if let Some(tracked) = own.tracked {
        number_within(&cursor, "tracked", tracked, 64..=16_777_216);
    }
    if let Some(burst) = own.burst.and_then(|burst| *burst) {
        number_within(&cursor, "burst", u32::try_from(burst).unwrap_or(u32::MAX), 1..=MOST_BURST);
    }
    let has_burst = own.burst.is_some();
    *own = std::mem::take(own).over(base);
    let is_free = own.connections().is_none() && own.rate().is_none();
    // A limit with a wrong value has been reported.
    if is_free && ["connections", "rate"].iter().all(|key| cursor.has(key) || !cursor.holds(key)) {
        cursor.error("this limits nothing; set `connections`, `rate` or both, or write `off`");
    } else if has_burst && own.rate().is_none() {
        cursor.warning_at("burst", "this has no effect without `rate`");
    }
}

const MOST_BURST: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Loaded, Problems};
    use crate::settings::PerClient;

    fn parse(limits: &str, listener: &str, route: &str) -> Result<Loaded, Problems> {
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0{listener} }}]\nlimits: {{ {limits} }}\n\
             routes: [{{ sni: a.test, pool: p{route} }}]\npools: {{ p: {{ backends: [10.0.0.1:443] }} }}\n"
        );
        Config::parse(&text, Path::new("c.yaml"))
    }

    #[test]
    fn what_a_listener_or_a_route_does_not_set_is_as_in_the_limits() {
        let limits = "per_client: { connections: 9, rate: 50/m, exempt: [10.0.0.0/8], prefix: { v6: 56 } }";
        let listener = ", per_client: { connections: 3, exempt: [] }";
        let loaded = parse(limits, listener, ", per_client: { rate: off, enforce: false }");
        let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
        let all = |limits: &PerClient| {
            let rate = limits.rate();
            let burst = rate.map(|rate| limits.burst(rate));
            let exempt = limits.exempt.as_ref().map(|exempt| exempt.entries.len());
            let prefixes = limits.prefixes();
            (limits.connections(), rate.map(|rate| rate.to_string()), burst, exempt, (prefixes.v4, prefixes.v6))
        };
        let rate = Some("50/m".to_owned());
        let global = config.limits.per_client.as_ref().and_then(|limits| limits.0.as_ref()).expect("set");
        assert_eq!(all(global), (Some(9), rate.clone(), Some(50), Some(1), (32, 56)));
        let listener = config.listeners[0].per_client.as_ref().and_then(|limits| limits.0.as_ref()).expect("set");
        assert_eq!(all(listener), (Some(3), rate, Some(50), Some(0), (32, 56)));
        let route = config.routes[0].per_client.as_ref().expect("set");
        assert_eq!(all(route), (Some(9), None, None, Some(1), (32, 56)));
        assert!(listener.enforce() && !route.enforce());
    }

    #[test]
    fn wrong_limits_are_reported_once_and_with_a_cure() {
        for (limits, reported) in [
            ("{}", "limits.per_client: this limits nothing; set `connections`, `rate` or both, or write `off`"),
            (
                "{ rate: off }",
                "limits.per_client: this limits nothing; set `connections`, `rate` or both, or write `off`",
            ),
            (
                "{ rate: 50 }",
                "limits.per_client.rate: `50` is not a rate; write `50/s`, `100/m` or `1000/h`; or write `off`",
            ),
            (
                "{ connections: 0 }",
                "limits.per_client.connections: expected a whole number from 1 up, found `0`; or write `none`",
            ),
            ("{ connections: 1, prefix: { v4: 0 } }", "limits.per_client.prefix.v4: must be from 1 to 32"),
            ("{ connections: 1, prefix: { v6: 129 } }", "limits.per_client.prefix.v6: must be from 1 to 128"),
            ("{ connections: 1, tracked: 63 }", "limits.per_client.tracked: must be from 64 to 16777216"),
            ("{ rate: 1/s, burst: 1000001 }", "limits.per_client.burst: must be from 1 to 1000000"),
            ("{ connections: 1, burst: 5 }", "warning: limits.per_client.burst: this has no effect without `rate`"),
            (
                "{ connections: 1, exempt: [10.0.0.1/8] }",
                "limits.per_client.exempt[0]: the address has bits beyond the prefix",
            ),
            (
                "{ connections: 1, exempt: [\"@gone\"] }",
                "limits.per_client.exempt[0]: `gone` does not exist; create it",
            ),
        ] {
            let problems = parse(&format!("per_client: {limits}"), "", "").map(|loaded| loaded.warnings);
            let problems = problems.unwrap_or_else(|problems| problems);
            let text = problems.to_string();
            assert_eq!(problems.iter().count(), 1, "{limits}: {text}");
            assert!(
                text.splitn(4, ':').nth(3).is_some_and(|text| text.trim().starts_with(reported)),
                "{limits}: {text}"
            );
        }
        assert!(parse("per_client: off", ", per_client: off", ", per_client: off").is_ok());
    }
}
