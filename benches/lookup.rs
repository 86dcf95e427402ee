//! What does finding the route of a name cost, with 10, 10,000 and 1,000,000 routes?
//!
//! `cargo bench --bench lookup`. The names are new ones every time, drawn from all of the table at random, so that of a
//! large one little lies in the cache. Two answers:
//!
//! - `cost`: one lookup among many, as a busy worker does them: the processor waits for the memory of several at once.
//! - `latency`: a thousand lookups of which each waits for the one before; so a microsecond is a nanosecond each. It is
//!   how often a lookup waits for memory that counts here, not what it computes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use divan::{Bencher, black_box};
use snigate::internals::Alpn;
use snigate::internals::route::{Builder, By, Conditions, Found, Lookup, NameForm, RouteTable};
use snigate::internals::{ListenerIndex, RouteIndex, ServerName};

fn main() {
    divan::main();
}

mod cost {
    use super::*;

    #[divan::bench(args = SIZES, sample_size = 1000)]
    fn exact(bencher: Bencher, routes: u64) {
        cost(bencher, routes, &EXACT);
    }

    #[divan::bench(args = SIZES, sample_size = 1000)]
    fn one_label(bencher: Bencher, routes: u64) {
        cost(bencher, routes, &ONE_LABEL);
    }

    #[divan::bench(args = SIZES, sample_size = 1000)]
    fn many_labels(bencher: Bencher, routes: u64) {
        cost(bencher, routes, &MANY_LABELS);
    }

    #[divan::bench(args = SIZES, sample_size = 1000)]
    fn miss(bencher: Bencher, routes: u64) {
        cost(bencher, routes, &MISS);
    }
}

mod latency {
    use super::*;

    #[divan::bench(args = SIZES)]
    fn exact(bencher: Bencher, routes: u64) {
        latency(bencher, routes, &EXACT);
    }

    #[divan::bench(args = SIZES)]
    fn one_label(bencher: Bencher, routes: u64) {
        latency(bencher, routes, &ONE_LABEL);
    }

    #[divan::bench(args = SIZES)]
    fn many_labels(bencher: Bencher, routes: u64) {
        latency(bencher, routes, &MANY_LABELS);
    }

    #[divan::bench(args = SIZES)]
    fn miss(bencher: Bencher, routes: u64) {
        latency(bencher, routes, &MISS);
    }
}

fn cost(bencher: Bencher, routes: u64, asked: &Asked) {
    let (table, mut names) = (table(routes), asked.names(routes));
    bencher
        .with_inputs(|| names.next().expect("there are always more"))
        .bench_local_refs(|name| assert_eq!(find(&table, name).map(|found| found.by), asked.by));
}

fn latency(bencher: Bencher, routes: u64, asked: &Asked) {
    let (table, mut names) = (table(routes), asked.names(routes));
    bencher.with_inputs(|| names.by_ref().take(1000).collect::<Vec<_>>()).bench_local_refs(|names| {
        let mut at = 0;
        while let Some(name) = names.get(at) {
            let found = find(&table, name);
            assert_eq!(found.map(|found| found.by), asked.by);
            // Numbers of routes are below 2³¹, so this is the next name; but not before the route is known.
            at += 1 + (black_box(found.map_or(0, |found| found.route.0)) >> 31) as usize;
        }
    });
}

fn find(table: &RouteTable, server_name: &ServerName) -> Option<Found> {
    static ALPN: LazyLock<Alpn> = LazyLock::new(Alpn::default);
    table.find(&Lookup {
        server_name,
        alpn: &ALPN,
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        listener: ListenerIndex(0),
        form: NameForm::Clear,
    })
}

/// A kind of name to ask for: `front` before the site of a pattern that has it, and what is to take it.
struct Asked {
    front: &'static str,
    site: Site,
    by: Option<By>,
}

enum Site {
    /// Every third one of the table, from this one on.
    From(u64),
    Unknown,
}

const EXACT: Asked = Asked { front: "www.", site: Site::From(0), by: Some(By::Exact) };
const ONE_LABEL: Asked = Asked { front: "api.", site: Site::From(1), by: Some(By::OneLabel) };
const MANY_LABELS: Asked = Asked { front: "a.b.", site: Site::From(2), by: Some(By::ManyLabels) };
const MISS: Asked = Asked { front: "www.", site: Site::Unknown, by: None };

impl Asked {
    fn names(&self, routes: u64) -> impl Iterator<Item = ServerName> {
        let mut random = Random(1);
        std::iter::repeat_with(move || {
            let third = random.next() % (routes / KINDS) * KINDS;
            let number = match self.site {
                Site::From(first) => third + first,
                Site::Unknown => third + routes,
            };
            format!("{}{}", self.front, site(number)).parse().expect("a name")
        })
    }
}

/// Of three sites, one has a route for a name, one for `*.` and one for `**.`.
fn table(routes: u64) -> RouteTable {
    let mut builder = Builder::default();
    for (number, route) in (0..routes).zip(0..) {
        let pattern = match number % KINDS {
            0 => format!("www.{}", site(number)),
            1 => format!("*.{}", site(number)),
            _ => format!("**.{}", site(number)),
        };
        builder.add(pattern.parse().expect("a pattern"), Conditions::default(), RouteIndex(route));
    }
    builder.build()
}

fn site(number: u64) -> String {
    format!("shop-{number}.customers.example.com")
}

/// Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

const SIZES: [u64; 3] = [10, 10_000, 1_000_000];
const KINDS: u64 = 3;
