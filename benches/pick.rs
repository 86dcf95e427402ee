//! How long does it take to pick a backend, by each policy, out of 2, 100 and 10,000?
//!
//! `cargo bench --bench pick`. A pick is what a connection costs that finds its backend at the first try: the walk is
//! begun, a place is taken and given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use divan::{Bencher, black_box};
use snigate::internals::Metrics;
use snigate::internals::pool::{Address, Connect, Entry, Health, PickRequest, Policy, Pool, Settings, WhenAllDown};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [2, 100, 10_000];

fn pool(policy: Policy, backends: usize) -> Pool {
    let entry = |number: usize| {
        let ip = Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).expect("few"));
        let address = SocketAddr::from((ip, 443));
        Entry {
            name: address.to_string().into(),
            address: Some(Address::Inet(address)),
            weight: 1 + u32::try_from(number % 3).expect("small"),
            backup: false,
            max_connections: usize::MAX,
        }
    };
    let settings =
        Settings { policy, ejection: None, when_all_down: WhenAllDown::Try, slow_start: Duration::from_secs(10) };
    let connect = Connect {
        timeout: Duration::from_secs(3),
        attempts: 3,
        total: Duration::from_secs(10),
        first_byte: Duration::from_secs(5),
        fast_open: false,
        send_proxy_protocol: None,
        source_addresses: vec![],
        congestion: None,
    };
    Pool::new("p".into(), settings, connect, (0..backends).map(entry).collect(), &Metrics::new(), None)
}

fn picks(bencher: Bencher<'_, '_>, pool: &Pool) {
    let now = Instant::now();
    let mut client = 0_u32;
    bencher.bench_local(|| {
        client = client.wrapping_add(0x9e37_79b9);
        let request = PickRequest { client: IpAddr::V4(Ipv4Addr::from(client)), server_name: Some("shop.example.com") };
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
    round_robin: Policy::RoundRobin;
    least_connections: Policy::LeastConnections;
    power_of_two: Policy::PowerOfTwo;
    random: Policy::Random;
    source_hash: Policy::SourceHash;
    sni_hash: Policy::SniHash;
    first: Policy::First;
}

/// Nine of ten are down.
#[divan::bench(args = SIZES)]
fn round_robin_among_the_dead(bencher: Bencher<'_, '_>, backends: usize) {
    let pool = pool(Policy::RoundRobin, backends);
    let now = Instant::now();
    for (number, member) in pool.list().iter().enumerate() {
        if number % 10 != 1 {
            member.backend.standing.checked(Health::Down, now);
        }
    }
    picks(bencher, &pool);
}
