//! Turns the objects of a Kubernetes cluster into listeners, routes, pools and statuses.
//!
//! In:  [`Objects`], the settings of the source, and what the processes [`Observed`].
//! Out: a [`Translation`]. Pure: no I/O, no clock, and the order of the objects has no effect.
//! Source: <https://gateway-api.sigs.k8s.io/reference/spec/>, docs/kubernetes.md.

mod annotations;
mod attach;
mod backends;
mod class;
mod client;
mod controller;
mod data_planes;
pub(crate) mod endpoints;
mod events;
mod follower;
mod gateway;
mod hostname;
mod join;
mod lease;
pub(crate) mod manifests;
mod members;
mod objects;
mod own_addresses;
mod reports;
mod request;
mod section;
mod service;
pub(crate) mod status;
mod translate;
mod translation;
mod watch;
mod wish;
mod writes;

pub(crate) use self::follower::ClusterFollower;
pub(crate) use self::join::{Cluster, join};
pub(crate) use self::objects::{ObjectName, Objects, Observed};
pub(crate) use self::translation::Translation;

#[cfg(test)]
mod tests;
