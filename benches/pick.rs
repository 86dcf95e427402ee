//! How long does it take to pick a backend, by each policy, out of 2, 100 and 10,000?
//!
//! `cargo bench --bench pick`. A pick is what a connection costs that finds its backend at the first try: the walk is
//! begun, a place is taken and given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use divan::{Bencher, black_box};
use snigate::internals::Metrics;
use snigate::internals::pool::{Health, PickRequest, Pool};
use snigate::internals::settings::{self, Backend, BackendAddress, Balance, Or, OrOff, Span};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [2, 100, 10_000];

fn pool(balance: Balance, backends: usize) -> Pool {
    let backend = |number: usize| {
        let ip = Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).expect("few"));
        Backend {
            address: BackendAddress::Inet(SocketAddr::from((ip, 443))),
            weight: 1 + u32::try_from(number % 3).expect("small"),
            backup: false,
            max_connections: Or::default(),
        }
    };
    let backends = (0..backends).map(backend).collect();
    let slow_start = Span::from_secs(10);
    let settings = settings::Pool {
        name: "p".into(),
        balance,
        backends,
        ejection: OrOff(None),
        slow_start,
        ..settings::Pool::default()
    };
    Pool::new(settings, &Metrics::new(), None)
}

fn picks(bencher: Bencher<'_, '_>, pool: &Pool) {
    let now = Instant::now();
    let mut client = 0_u32;
    bencher.bench_local(|| {
        client = client.wrapping_add(0x9e37_79b9);
        let request = PickRequest {
            client: IpAddr::V4(Ipv4Addr::from(client)),
            server_name: Some("shop.example.com"),
            is_inner: false,
        };
        black_box(pool.picks(request).next(now))
    });
}

macro_rules! policies {
    ($($name:ident: $policy:expr;)*) => {$(
        #[divan::bench(args = SIZES)]
        fn $name(bencher: Bencher<'_, '_>, backends: usize) {
            picks(bencher, &pool($policy, backends));
        }
    )*};
}

policies! {
    round_robin: Balance::RoundRobin;
    least_connections: Balance::LeastConnections;
    power_of_two: Balance::PowerOfTwo;
    random: Balance::Random;
    source_hash: Balance::SourceHash;
    sni_hash: Balance::SniHash;
    first: Balance::First;
}

/// Nine of ten are down.
#[divan::bench(args = SIZES)]
fn round_robin_among_the_dead(bencher: Bencher<'_, '_>, backends: usize) {
    let pool = pool(Balance::RoundRobin, backends);
    let now = Instant::now();
    for (number, member) in pool.list().iter().enumerate() {
        if number % 10 != 1 {
            member.backend.standing.checked(Health::Down, now);
        }
    }
    picks(bencher, &pool);
}
