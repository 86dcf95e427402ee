//! What does the registry of live connections cost the path?

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use snigate::internals::Way;
use snigate::internals::config::Config;
use snigate::internals::registry::{self, Ticket};
use snigate::internals::snapshot::{Snapshot, Terms};
use snigate::internals::{ConnectionId, ListenerIndex, Metrics, State};
use tokio::time::Instant;

fn main() {
    divan::main();
}

fn snapshot() -> Snapshot {
    let text = "listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\nunmatched: { pool: p }\n\
                pools: { p: { backends: [127.0.0.1:1] } }\nlog: { connections: off }\n";
    let config = Config::parse(text, Path::new("f.yaml")).expect("usable").config;
    Snapshot::build(config, None, &Metrics::new())
}

fn enter(terms: &Arc<Terms>, at: Instant) -> Ticket {
    let peer: SocketAddr = ([127, 0, 0, 1], 7).into();
    registry::enter(ConnectionId(1), peer, at, Arc::clone(terms), ListenerIndex(0))
}

/// All that one connection does, with so many others open.
#[divan::bench(args = [0, 1_000, 30_000])]
fn a_connection(bencher: divan::Bencher, others: usize) {
    let (snapshot, at) = (snapshot(), Instant::now());
    let (terms, route) = (Arc::clone(&snapshot.terms), Arc::<str>::from("route"));
    let backend = snapshot.pools[0].list().remove(0).backend;
    let crowd: Vec<Ticket> = (0..others).map(|_| enter(&terms, at)).collect();
    bencher.bench_local(|| {
        let mut ticket = enter(&terms, at);
        ticket.update(|live| live.sni = Some("shop.example.com".into()));
        ticket.update(|live| (live.route, live.pool) = (Some(Arc::clone(&route)), Some(Arc::clone(&route))));
        ticket.update(|live| live.state = State::Connecting);
        ticket.update(|live| live.state = State::Relaying);
        ticket.relays_to(Arc::clone(&backend));
        for way in [Way::ToBackend, Way::ToClient, Way::ToBackend, Way::ToClient] {
            ticket.carried(way, 100);
        }
        ticket.leave()
    });
    drop(crowd);
}

/// What each turn of a relay adds.
#[divan::bench]
fn bytes_carried(bencher: divan::Bencher) {
    let ticket = enter(&snapshot().terms, Instant::now());
    bencher.bench_local(|| ticket.carried(Way::ToClient, divan::black_box(100)));
}
