//! `snigate doctor` as a shell sees it, before backends that are wrong in every way, and once they are mended.

mod certificates;
mod connecting;
mod pools;
mod protocol;
mod questions;
mod server;
mod visit;
