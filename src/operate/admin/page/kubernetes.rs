//! The section about the objects of a Kubernetes cluster.
//!
//! In:  [`Data`].
//! Out: a template; an empty section while the source is off.

use askama::Template;

use super::data::Data;
use super::format;
use super::tone::Tone;
use crate::operate::status::{At, KubernetesObjectStatus, KubernetesStatus};

#[derive(Template)]
#[template(path = "kubernetes.html")]
pub(super) struct Kubernetes<'d> {
    kubernetes: Option<&'d KubernetesStatus>,
    /// Those that are not accepted first.
    rows: &'d [KubernetesObjectStatus],
    /// How many are not shown.
    left_off: usize,
    now: &'d At,
}

impl Kubernetes<'_> {
    fn clock(&self, at: &At) -> String {
        format::clock(at, self.now)
    }
}

pub(super) fn section(data: &Data) -> Kubernetes<'_> {
    let kubernetes = data.status.kubernetes.as_ref();
    let all = kubernetes.map_or(&[][..], |kubernetes| &kubernetes.objects);
    let rows = &all[..all.len().min(ROWS)];
    let left_off = all.len() - rows.len() + kubernetes.map_or(0, |kubernetes| kubernetes.objects_left_off);
    Kubernetes { kubernetes, rows, left_off, now: &data.status.at }
}

const ROWS: usize = 100;
