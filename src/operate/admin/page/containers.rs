//! The section about containers that were found by their labels.
//!
//! In:  [`Data`].
//! Out: a template; an empty section while the source is off.

use askama::Template;

use super::data::Data;
use super::format;
use super::tone::Tone;
use crate::operate::status::{At, ContainerStatus, DockerStatus};

#[derive(Template)]
#[template(path = "containers.html")]
pub(super) struct Containers<'d> {
    docker: Option<&'d DockerStatus>,
    rows: Vec<Row<'d>>,
    /// How many are not shown.
    left_off: usize,
    now: &'d At,
}

struct Row<'d> {
    status: &'d ContainerStatus,
    tone: Tone,
    word: &'static str,
    names: String,
}

impl Containers<'_> {
    fn clock(&self, at: &At) -> String {
        format::clock(at, self.now)
    }
}

pub(super) fn section(data: &Data) -> Containers<'_> {
    let docker = data.status.docker.as_ref();
    let all = docker.map_or(&[][..], |docker| &docker.containers);
    let rows: Vec<Row<'_>> = all.iter().take(ROWS).map(row).collect();
    let left_off = all.len() - rows.len() + docker.map_or(0, |docker| docker.containers_left_off);
    Containers { docker, rows, left_off, now: &data.status.at }
}

fn row(status: &ContainerStatus) -> Row<'_> {
    let (tone, word) = match (status.state.as_ref(), status.problems.is_empty()) {
        ("served", true) => (Tone::Ok, "served"),
        ("served", false) => (Tone::Warn, "served in part"),
        ("down", _) => (Tone::Bad, "down"),
        _ => (Tone::Warn, "left out"),
    };
    Row { status, tone, word, names: status.names.join(", ") }
}

const ROWS: usize = 100;
