//! Writes a routing file as the configuration of another program.
//!
//! In:  a [`Config`].
//! Out: [`Exported`]: the text, and what it does not say.

mod gateway_api;
mod haproxy;

use crate::config::{Config, Destination, Route};
use crate::server_name::Pattern;
use crate::settings::{EchCondition, OpenEch};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A configuration of HAProxy 2.6 or later
    Haproxy,
    /// Kubernetes manifests: Gateway, TLSRoute, Service, EndpointSlice
    GatewayApi,
}

/// A text, and a line for each thing that it does not say.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    pub text: String,
    pub left_out: Vec<String>,
}

impl Exported {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn left_out(&mut self, what: impl std::fmt::Display, why: &str) {
        self.left_out.push(format!("{what} was left out: {why}"));
    }
}

/// Why a configuration is not written at all: other programs try names one after the other, and leaving some out would
/// send them to a wildcard.
pub(crate) fn too_many_names(config: &Config) -> Option<String> {
    let from_files = |route: &Route| {
        route.patterns.len() - route.listed.as_ref().map_or(route.patterns.len(), |listed| listed.inline)
    };
    let names: usize = config.routes.iter().map(from_files).sum();
    (names > MOST_NAMES_FROM_FILES).then(|| {
        format!(
            "the files of names have {names} names; at most {MOST_NAMES_FROM_FILES} can be exported, since each becomes a \
             line that the other program tries in turn"
        )
    })
}

/// Writes `config`.
pub(crate) fn export(config: &Config, format: Format) -> Exported {
    let mut out = match format {
        Format::Haproxy => haproxy::export(config),
        Format::GatewayApi => gateway_api::export(config),
    };
    common(config, &mut out);
    out
}

/// What no other program does as snigate does.
fn common(config: &Config, out: &mut Exported) {
    for route in &config.routes {
        match route.conditions.ech {
            EchCondition::Any => {}
            EchCondition::Only => out.left_out(
                format_args!("route {}: ech: only (and the whole route)", route.name),
                "Encrypted ClientHello is not opened there, and the name in the clear must not be served",
            ),
            EchCondition::Never => out.left_out(
                format_args!("route {}: ech: never", route.name),
                "Encrypted ClientHello is not opened there, so this is always true",
            ),
        }
        if route.max_age.is_some() {
            out.left_out(format_args!("route {}: max_age", route.name), "connections have no greatest age there");
        }
    }
    if config.ech.is_some() {
        out.left_out("ech", "Encrypted ClientHello is not opened there; its clients are routed by the public name");
    }
    for listener in config.listeners.iter().filter(|listener| listener.ech != OpenEch::Auto) {
        out.left_out(format_args!("listener {}: ech", listener.name), "Encrypted ClientHello is not opened there");
    }
    if config.timeouts.max_age.0.is_some() {
        out.left_out("timeouts.max_age", "connections have no greatest age there");
    }
    if config.docker.is_some() {
        out.left_out("docker", "routes from the labels of containers change while snigate runs");
    }
}

/// The most specific pattern is the greatest.
fn specificity(pattern: &Pattern) -> (u8, usize, u8) {
    let labels = pattern.base().map_or(0, |name| name.as_str().split('.').count());
    match pattern {
        Pattern::Exact(_) => (2, labels, 0),
        Pattern::OneLabel(_) => (1, labels, 1),
        Pattern::ManyLabels(_) => (1, labels, 0),
        Pattern::Any => (0, 0, 0),
    }
}

/// The name of the pool that gets most connections.
fn largest<'c>(config: &'c Config, to: &Destination) -> Option<&'c str> {
    let pool = match to {
        Destination::Pool(pool) => *pool,
        Destination::Split(shares) => shares.iter().max_by_key(|share| share.weight)?.pool,
        Destination::Refuse(_) => return None,
    };
    Some(&config.pools[pool].name)
}

const MOST_NAMES_FROM_FILES: usize = 10_000;
