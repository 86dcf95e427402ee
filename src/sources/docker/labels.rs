//! Reads the labels of one container.
//!
//! In:  a [`Container`], whose labels nobody has checked; the settings of the source.
//! Out: [`Wish`], what the container asks for; or the first [`Mistake`], for which the container is left out.
//! Source: docs/docker.md.

use std::net::{IpAddr, SocketAddr};

use super::container::{COMPOSE_PROJECT, COMPOSE_SERVICE, Container, MOST_LABEL_BYTES, PREFIX, State};
use crate::server_name::Pattern;
use crate::settings::{Docker, MAX_WEIGHT, SendVersion};

/// What a container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub patterns: Vec<Pattern>,
    /// Without the suffix that all pools of containers have.
    pub pool: String,
    /// `None`: it is down, so it may have none.
    pub address: Option<SocketAddr>,
    pub weight: u32,
    pub send_proxy_protocol: SendVersion,
}

/// What is wrong with a container, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The label, such as `snigate.port`; [`INSPECT`] if they are not known.
    pub label: String,
    pub message: String,
}

impl Wish {
    /// # Errors
    /// The first label that cannot be used, or is missing.
    pub(super) fn of(container: &Container, settings: &Docker) -> Result<Self, Mistake> {
        if let Some(why) = &container.unreadable {
            let message =
                format!("the engine's answer cannot be used: {why}; see what `docker inspect {}` says", container.name);
            return mistake(INSPECT, message);
        }
        let labels = Labels(container);
        labels.check_all()?;
        let patterns = labels.patterns(settings)?;
        let (weight, send_proxy_protocol, pool) = (labels.weight()?, labels.send_proxy_protocol()?, labels.pool()?);
        let port = labels.port()?;
        let address = match container.state {
            State::Down(_) => None,
            State::Running => {
                Some(SocketAddr::new(labels.address(settings)?, port.map_or_else(|| labels.only_port(), Ok)?))
            }
        };
        Ok(Self { patterns, pool, address, weight, send_proxy_protocol })
    }
}

struct Labels<'c>(&'c Container);

impl Labels<'_> {
    fn get(&self, label: &str) -> Option<&str> {
        self.0.labels.get(label).map(|text| text.trim())
    }

    /// Unknown labels are refused, as unknown keys of the file are: most are misspelt.
    fn check_all(&self) -> Result<(), Mistake> {
        for (label, text) in self.0.labels.iter().filter(|(label, _)| label.starts_with(PREFIX)) {
            if label.len().max(text.len()) > MOST_LABEL_BYTES {
                return mistake(&shortened(label), format!("a label can have at most {MOST_LABEL_BYTES} bytes"));
            }
            if !KNOWN.contains(&label.as_str()) {
                return mistake(
                    &shortened(label),
                    format!("unknown label; the known ones are `{}`", KNOWN.join("`, `")),
                );
            }
        }
        Ok(())
    }

    fn patterns(&self, settings: &Docker) -> Result<Vec<Pattern>, Mistake> {
        let mut patterns = Vec::new();
        for name in self.get(SNI).unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let pattern: Pattern = match name.parse() {
                Ok(pattern) => pattern,
                Err(error) => return mistake(SNI, format!("`{}`: {error}", shortened(name))),
            };
            if !settings.allow.iter().any(|allowed| allowed.covers(&pattern)) {
                let allowed: Vec<String> =
                    settings.allow.iter().take(8).map(|allowed| format!("`{}`", allowed.0)).collect();
                let message = format!(
                    "`docker.allow` does not cover `{pattern}`; it has {}; change the label, or add the name there",
                    allowed.join(", ")
                );
                return mistake(SNI, message);
            }
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
            if patterns.len() > MOST_PATTERNS {
                return mistake(SNI, format!("a container can have at most {MOST_PATTERNS} names"));
            }
        }
        match patterns.is_empty() {
            true => {
                mistake(SNI, "write the names that clients ask for: `shop.example.com, *.shop.example.com`".to_owned())
            }
            false => Ok(patterns),
        }
    }

    fn port(&self) -> Result<Option<u16>, Mistake> {
        let Some(text) = self.get(PORT) else { return Ok(None) };
        match text.parse() {
            Ok(port @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(port)),
            _ => mistake(PORT, format!("`{}` is not a valid port; ports are 1 to 65535", shortened(text))),
        }
    }

    fn only_port(&self) -> Result<u16, Mistake> {
        let mut ports = self.0.exposed.iter();
        match (ports.next(), ports.next()) {
            (Some(port), None) => Ok(*port),
            (None, _) => {
                mistake(PORT, "the container exposes no port; add this label with the port that speaks TLS".to_owned())
            }
            (Some(_), Some(_)) => {
                let ports: Vec<String> = self.0.exposed.iter().take(8).map(ToString::to_string).collect();
                mistake(
                    PORT,
                    format!("the container exposes several ports ({}); add this label with one", ports.join(", ")),
                )
            }
        }
    }

    fn pool(&self) -> Result<String, Mistake> {
        let is_plain = |text: &str| (1..=MOST_POOL_BYTES).contains(&text.len()) && text.chars().all(is_of_a_name);
        match self.get(POOL) {
            Some(pool) if is_plain(pool) => Ok(pool.to_owned()),
            Some(pool) => {
                let message = format!(
                    "`{}` is not a valid name; it has 1 to {MOST_POOL_BYTES} letters, digits, `_`, `.` or `-`",
                    shortened(pool)
                );
                mistake(POOL, message)
            }
            // Two projects may each have a service `web`; a slash keeps them apart from every other name.
            None => Ok(match (self.get(COMPOSE_PROJECT), self.get(COMPOSE_SERVICE)) {
                (Some(project), Some(service)) if is_plain(project) && is_plain(service) => {
                    format!("{project}/{service}")
                }
                _ => self.0.name.clone(),
            }),
        }
    }

    fn weight(&self) -> Result<u32, Mistake> {
        let Some(text) = self.get(WEIGHT) else { return Ok(1) };
        match text.parse() {
            Ok(weight @ 1..=MAX_WEIGHT) => Ok(weight),
            _ => mistake(WEIGHT, format!("`{}` is not a valid weight; weights are 1 to {MAX_WEIGHT}", shortened(text))),
        }
    }

    fn send_proxy_protocol(&self) -> Result<SendVersion, Mistake> {
        let Some(text) = self.get(SEND_PROXY_PROTOCOL) else { return Ok(SendVersion::Off) };
        let versions = [SendVersion::Off, SendVersion::V1, SendVersion::V2];
        match versions.into_iter().find(|version| version.as_str() == text) {
            Some(version) => Ok(version),
            None => mistake(SEND_PROXY_PROTOCOL, format!("`{}`: write `off`, `v1` or `v2`", shortened(text))),
        }
    }

    /// The container's own address.
    fn address(&self, settings: &Docker) -> Result<IpAddr, Mistake> {
        let Container { networks, network_mode, .. } = self.0;
        if network_mode == "host" || network_mode.starts_with("container:") {
            let message = "the container has no address of its own, since it uses the network of the host or of another \
                           container; write a route in the file";
            return mistake(NETWORK, message.to_owned());
        }
        let named = self.get(NETWORK).or_else(|| settings.network.as_ref().map(|network| &*network.0));
        let found = match named {
            Some(named) => match self.network(named) {
                Some(found) => found,
                None => {
                    return mistake(
                        NETWORK,
                        format!("the container is not in the network `{}`; it is in {}", shortened(named), self.all()),
                    );
                }
            },
            None => {
                let mut usable = networks.values().filter(|addresses| !addresses.is_empty());
                match (usable.next(), usable.next()) {
                    (Some(only), None) => only,
                    (None, _) => return mistake(
                        NETWORK,
                        "the container has no address in any network; connect it to one, or write a route in the file"
                            .to_owned(),
                    ),
                    (Some(_), Some(_)) => {
                        return mistake(
                            NETWORK,
                            format!(
                                "the container is in several networks ({}); add this label with one, or set `docker.network`",
                                self.all()
                            ),
                        );
                    }
                }
            }
        };
        match found.iter().find(|address| is_of_a_container(**address)) {
            Some(address) => Ok(*address),
            None => {
                let message = "the container has no usable address in that network; loopback, link-local and multicast \
                               addresses are not used";
                mistake(NETWORK, message.to_owned())
            }
        }
    }

    /// Compose writes `PROJECT_NETWORK` for the NETWORK of its file.
    fn network(&self, named: &str) -> Option<&Vec<IpAddr>> {
        let networks = &self.0.networks;
        let of_the_project = || networks.get(&format!("{}_{named}", self.get(COMPOSE_PROJECT)?));
        networks.get(named).or_else(of_the_project)
    }

    fn all(&self) -> String {
        let names: Vec<String> = self.0.networks.keys().take(8).map(|name| format!("`{}`", shortened(name))).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// Addresses at which other things than the container may answer are refused, whatever the engine says.
fn is_of_a_container(address: IpAddr) -> bool {
    let is_wrong = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    !(is_wrong || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

fn mistake<T>(label: &str, message: String) -> Result<T, Mistake> {
    Err(Mistake { label: label.to_owned(), message })
}

/// For messages: on one line, without what could mislead a reader.
fn shortened(text: &str) -> String {
    crate::telemetry::readable(text, MOST_CHARACTERS)
}

pub(super) const SNI: &str = "snigate.sni";
pub(super) const PORT: &str = "snigate.port";
pub(super) const POOL: &str = "snigate.pool";
const NETWORK: &str = "snigate.network";
const WEIGHT: &str = "snigate.weight";
pub(super) const SEND_PROXY_PROTOCOL: &str = "snigate.send_proxy_protocol";
/// In place of a label, for a container whose labels cannot be read.
const INSPECT: &str = "inspect";
const KNOWN: [&str; 6] = [SNI, PORT, POOL, NETWORK, WEIGHT, SEND_PROXY_PROTOCOL];
const MOST_PATTERNS: usize = 64;
const MOST_POOL_BYTES: usize = 63;
const MOST_CHARACTERS: usize = 80;

#[cfg(test)]
#[path = "labels/tests.rs"]
mod tests;
