//! A container as the Docker API describes it.
//!
//! In:  the JSON of `GET /containers/json` and `GET /containers/ID/json`.
//! Out: [`Container`], with the few fields that routing needs; all of them bounded.
//! Source: <https://docs.docker.com/reference/api/engine/>, ContainerList and ContainerInspect.
//!
//! Whoever starts a container decides what its labels say, so nothing here trusts them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::ApiError;

/// A container with our labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub id: String,
    /// Without the slash before it; unique on its engine.
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    pub state: State,
    /// Ours, and those of compose.
    pub labels: BTreeMap<String, String>,
    /// TCP ports that its image or its start declares.
    pub exposed: BTreeSet<u16>,
    /// Its addresses by network; none while it does not run.
    pub networks: BTreeMap<String, Vec<IpAddr>>,
    /// Such as `bridge`, `host`, `container:ID`.
    pub network_mode: String,
    /// Why the engine's answer about it cannot be used; then only its identity, name and age are known.
    pub unreadable: Option<String>,
}

/// Whether a container may get connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    #[default]
    Running,
    /// It does not run, or its health check fails; with the reason in words.
    Down(&'static str),
}

/// One of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub id: String,
    #[serde(default)]
    pub created: i64,
    #[serde(default)]
    pub names: Option<Vec<String>>,
}

/// The answer of `GET /containers/ID/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    #[serde(default)]
    name: Option<String>,
    state: InspectedState,
    #[serde(default)]
    config: Option<InspectedConfig>,
    #[serde(default)]
    host_config: Option<HostConfig>,
    #[serde(default)]
    network_settings: Option<NetworkSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`; podman has a few more.
    #[serde(default)]
    status: String,
    #[serde(default)]
    health: Option<InspectedHealth>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealth {
    /// `none`, `starting`, `healthy` or `unhealthy`; empty without a check.
    #[serde(default)]
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedConfig {
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    network_mode: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Option<Endpoint>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    #[serde(rename = "IPAddress")]
    ip_address: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: Option<String>,
}

impl Container {
    pub(super) fn new(listed: &Listed, inspected: Inspected) -> Self {
        let Inspected { name, state, config, host_config, network_settings } = inspected;
        let config = config.unwrap_or_default();
        let networks = network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let exposed = config.exposed_ports.unwrap_or_default();
        let tcp = |port: &String| port.strip_suffix("/tcp").unwrap_or(port).parse().ok();
        Self {
            id: listed.id.clone(),
            name: shown(name.unwrap_or_default().trim_start_matches('/'), &listed.id),
            created: listed.created,
            state: State::of(&state),
            labels: ours(config.labels.unwrap_or_default()),
            exposed: exposed.keys().filter_map(tcp).filter(|port| *port != 0).take(MOST_PORTS).collect(),
            networks: networks.into_iter().take(MOST_NETWORKS).map(|(name, at)| (name, addresses(at))).collect(),
            network_mode: host_config.and_then(|host| host.network_mode).unwrap_or_default(),
            unreadable: None,
        }
    }

    /// One that is known from the list alone.
    pub(super) fn unreadable(listed: &Listed, error: &ApiError) -> Self {
        let why = crate::telemetry::readable(&error.to_string(), MOST_WHY_CHARACTERS);
        let name = listed.names.iter().flatten().next().map_or("", |name| name.trim_start_matches('/'));
        let (id, name, created) = (listed.id.clone(), shown(name, &listed.id), listed.created);
        Self { id, name, created, unreadable: Some(why), ..Self::default() }
    }

    /// As `docker ps` shows it.
    pub(crate) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

impl State {
    fn of(InspectedState { status, health }: &InspectedState) -> Self {
        let health = health.as_ref().map_or("", |health| health.status.as_str());
        match (status.as_str(), health) {
            ("running", "unhealthy") => Self::Down("its health check fails"),
            ("running", "starting") => Self::Down("its health check has not passed yet"),
            ("running", _) => Self::Running,
            ("paused", _) => Self::Down("it is paused"),
            ("restarting", _) => Self::Down("it is restarting"),
            ("created" | "configured" | "initialized", _) => Self::Down("it has not been started"),
            ("removing", _) => Self::Down("it is being removed"),
            _ => Self::Down("it has stopped"),
        }
    }
}

/// The labels that are read. Of a label that is too long, one byte more than is allowed stays, so that it is refused.
fn ours(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_ours = |label: &str| label.starts_with(PREFIX);
    let (ours, others): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(label, _)| is_ours(label));
    let others = others.into_iter().filter(|(label, _)| [COMPOSE_PROJECT, COMPOSE_SERVICE].contains(&label.as_str()));
    let cut = |(label, text): (String, String)| (cut(label, MOST_LABEL_BYTES + 1), cut(text, MOST_LABEL_BYTES + 1));
    ours.into_iter().take(MOST_LABELS).chain(others).map(cut).collect()
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}

/// The name, if it is one that Docker allows; otherwise the identity.
fn shown(name: &str, id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    match name.len() {
        1..=MOST_NAME_BYTES if name.chars().all(is_plain) => name.to_owned(),
        _ => id.chars().filter(char::is_ascii_alphanumeric).take(12).collect(),
    }
}

fn addresses(endpoint: Option<Endpoint>) -> Vec<IpAddr> {
    let Endpoint { ip_address, global_ipv6_address } = endpoint.unwrap_or_default();
    [ip_address, global_ipv6_address].into_iter().flatten().filter_map(|address| address.parse().ok()).collect()
}

pub(super) const PREFIX: &str = "snigate.";
pub(super) const COMPOSE_PROJECT: &str = "com.docker.compose.project";
pub(super) const COMPOSE_SERVICE: &str = "com.docker.compose.service";
/// Of the answer about one. Docker itself allows labels and environment of a container to be large.
pub(super) const MOST_CONTAINER_BYTES: usize = 1 << 20;
/// Of one label.
pub(super) const MOST_LABEL_BYTES: usize = 4096;
const MOST_LABELS: usize = 32;
const MOST_NAME_BYTES: usize = 128;
const MOST_WHY_CHARACTERS: usize = 300;
const MOST_PORTS: usize = 64;
const MOST_NETWORKS: usize = 64;
