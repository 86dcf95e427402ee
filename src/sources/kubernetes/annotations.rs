//! Reads the annotations of a Service.
//!
//! In:  the annotations whose names begin with `snigate.dev/`.
//! Out: the settings of its pools; what is wrong, with the right form. A wrong annotation has no effect.
//! Source: docs/kubernetes.md.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::settings::{Balance, Connect, Nothing, Or, SendProxyProtocol, SendVersion, Span};

/// What a Service sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Annotations {
    pub balance: Balance,
    pub send_proxy_protocol: SendProxyProtocol,
    pub max_connections: Or<Nothing, usize>,
    pub connect: Connect,
    pub idle_timeout: Option<Span>,
}

/// Reads `annotations`; also returns the wrong ones.
pub(super) fn read(annotations: Option<&BTreeMap<String, String>>) -> (Annotations, Vec<String>) {
    let (mut read, mut wrong) = (Annotations::default(), Vec::new());
    for (name, value) in annotations.into_iter().flatten() {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if let Err(why) = read.set(key, value) {
            let value: String = value.chars().take(MAX_SHOWN).collect();
            wrong.push(format!("`{name}: {}`: {why}", value.escape_debug()));
        }
    }
    (read, wrong)
}

impl Annotations {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "balance" => {
                self.balance = word(value).ok_or(
                    "write `round_robin`, `least_connections`, `power_of_two`, `random`, `source_hash`, `sni_hash` or `first`",
                )?;
            }
            "send-proxy-protocol" => {
                let version: SendVersion = word(value).ok_or("write `off`, `v1` or `v2`")?;
                self.send_proxy_protocol = SendProxyProtocol { version, ..SendProxyProtocol::default() };
            }
            "max-connections" => {
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                let most = value.parse().ok().filter(|most: &usize| *most > 0 && is_number);
                self.max_connections = most.map(Or::from).ok_or("write a whole number from 1 up")?;
            }
            "connect-timeout" => {
                let timeout = span(value, Duration::from_secs(3600))?;
                let total = self.connect.total.max(timeout);
                self.connect = Connect { timeout, total, ..self.connect };
            }
            "idle-timeout" => self.idle_timeout = Some(span(value, Duration::from_secs(7 * 24 * 3600))?),
            _ => {
                return Err(
                    "there is no such annotation; there is `balance`, `send-proxy-protocol`, `max-connections`, \
                     `connect-timeout` and `idle-timeout`"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// A word as the routing file has it.
fn word<'de, T: Deserialize<'de>>(value: &'de str) -> Option<T> {
    let words: StrDeserializer<'de, Error> = value.into_deserializer();
    T::deserialize(words).ok()
}

fn span(value: &str, most: Duration) -> Result<Span, String> {
    let span = word::<Span>(value).filter(|span| (Duration::from_millis(1)..=most).contains(&**span));
    span.ok_or_else(|| format!("write a duration from `1ms` to `{}`, such as `5s`", Span(most)))
}

/// Of the names of our annotations.
pub(super) const PREFIX: &str = "snigate.dev/";
/// In characters.
const MAX_SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> (Annotations, Vec<String>) {
        let pairs = pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        read(Some(&pairs.chain([("other.example/balance".to_owned(), "x".to_owned())]).collect()))
    }

    #[test]
    fn each_annotation_sets_what_the_key_of_the_file_does() {
        let (read, wrong) = of(&[
            ("balance", "sni_hash"),
            ("send-proxy-protocol", "v2"),
            ("max-connections", "7"),
            ("connect-timeout", "20s"),
            ("idle-timeout", "5m"),
        ]);
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!((read.balance, read.send_proxy_protocol.version), (Balance::SniHash, SendVersion::V2));
        assert_eq!((*read.max_connections, read.idle_timeout), (Some(7), Some(Span::from_secs(300))));
        // No attempt may last longer than all of them.
        assert_eq!((read.connect.timeout, read.connect.total), (Span::from_secs(20), Span::from_secs(20)));
    }

    #[test]
    fn a_wrong_one_has_no_effect_and_is_reported_with_the_right_form() {
        for (name, value, cure) in [
            ("balance", "roundrobin", "`round_robin`"),
            ("send-proxy-protocol", "true", "`v2`"),
            ("max-connections", "0", "from 1 up"),
            ("max-connections", "+5", "from 1 up"),
            ("connect-timeout", "5", "`5s`"),
            ("idle-timeout", "0s", "from `1ms`"),
            ("ballance", "random", "there is `balance`"),
        ] {
            let (read, wrong) = of(&[(name, value)]);
            assert_eq!(read, Annotations::default(), "{name}");
            assert!(wrong.len() == 1 && wrong[0].contains(cure) && wrong[0].contains(name), "{wrong:?}");
        }
    }
}
