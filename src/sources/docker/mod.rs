//! Finds containers by their labels, through the Docker API.
//!
//! In:  the settings in force; the socket of a Docker engine, or of podman, which is only read.
//! Out: the containers that have our labels, whenever they change; what was found last goes on while the API is away.
//! Source: <https://docs.docker.com/reference/api/engine/>, docs/docker.md.

mod api;
mod container;
mod error;
mod events;
mod follower;
mod labels;
mod session;
mod translate;

pub(crate) use self::api::ping;
pub(crate) use self::container::Container;
pub(crate) use self::follower::Containers;
pub(crate) use self::translate::{Translation, translate};
