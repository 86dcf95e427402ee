//! What does it cost to look up a client in a list of 500,000 networks, and to count it among a million others?
//!
//! `cargo bench --bench access`. The addresses are new ones every time, drawn at random, so that little of the list or the
//! table lies in the cache. It first prints the memory of each list, and how long it takes to build.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use divan::{Bencher, black_box};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use snigate::internals::settings::PerClient;
use snigate::internals::{ClientLimits, Networks};

fn main() {
    for kind in KINDS {
        let networks: Vec<IpNet> = networks(kind).collect();
        let began = Instant::now();
        let set: Networks = networks.into_iter().collect();
        let (took, each) = (began.elapsed(), set.bytes() as f64 / f64::from(NETWORKS));
        println!("{kind:?}: {} networks kept, {each:.1} bytes for each given, built in {took:?}", set.len());
    }
    divan::main();
}

/// One look-up.
#[divan::bench(args = KINDS, sample_size = 1000)]
fn look_up(bencher: Bencher, kind: Kind) {
    let set: Networks = networks(kind).collect();
    let mut random = fastrand::Rng::with_seed(2);
    bencher.with_inputs(|| kind.address(&mut random)).bench_local_values(|address| set.contains(black_box(address)));
}

/// One connection that is counted and ends, of a million clients that come at random, in a table with room for 65,536.
#[divan::bench(sample_size = 1000)]
fn connection_of_one_of_a_million(bencher: Bencher) {
    let settings = r#"{ "connections": "100", "rate": "50/s", "burst": "100" }"#;
    let settings: PerClient = serde_json::from_str(settings).expect("settings");
    let limits = ClientLimits::new(&settings, None);
    let now = tokio::time::Instant::now();
    let mut random = fastrand::Rng::with_seed(3);
    let mut client = || IpAddr::V4(Ipv4Addr::from(random.u32(0..1_000_000)));
    (0..1_000_000).for_each(|_| drop(limits.enter(client(), now)));
    bencher.with_inputs(client).bench_local_values(|client| drop(black_box(limits.enter(client, now))));
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    V4Addresses,
    V4Networks,
    V6Addresses,
    V6Networks,
}

impl Kind {
    fn address(self, random: &mut fastrand::Rng) -> IpAddr {
        match self {
            Self::V4Addresses | Self::V4Networks => Ipv4Addr::from(random.u32(..)).into(),
            // 2000::/3, where the addresses are.
            Self::V6Addresses | Self::V6Networks => Ipv6Addr::from(1 << 125 | random.u128(..) >> 3).into(),
        }
    }
}

fn networks(kind: Kind) -> impl Iterator<Item = IpNet> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..NETWORKS).map(move |_| match kind.address(&mut random) {
        IpAddr::V4(address) => {
            let prefix = if matches!(kind, Kind::V4Addresses) { 32 } else { random.u8(18..=32) };
            IpNet::V4(Ipv4Net::new_assert(address, prefix).trunc())
        }
        IpAddr::V6(address) => {
            let prefix = if matches!(kind, Kind::V6Addresses) { 128 } else { random.u8(32..=64) };
            IpNet::V6(Ipv6Net::new_assert(address, prefix).trunc())
        }
    })
}

const KINDS: [Kind; 4] = [Kind::V4Addresses, Kind::V4Networks, Kind::V6Addresses, Kind::V6Networks];
const NETWORKS: u32 = 500_000;
