//! What a table of a million routes costs: the memory that it keeps, and the work to build it, counted in allocations. The
//! CPU time is printed; docs/performance.md has it, and a busy machine must not decide a test.
//!
//! Run with `cargo test --profile optimized --test million_routes -- --ignored --nocapture`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::time::{ClockId, clock_gettime};
use snigate::internals::Alpn;
use snigate::internals::Metrics;
use snigate::internals::config::{Conditions, Config, Destination, Place, Route};
use snigate::internals::route::{self, Builder, Lookup, NameForm, RouteTable};
use snigate::internals::settings::{OnRemoved, Or, Origin};
use snigate::internals::snapshot::{RouteQuery, Snapshot};
use snigate::internals::{ListenerIndex, Pattern, RouteIndex, ServerName, Sni};

/// The counts are the whole process's, so whoever reads them must be alone.
static ALONE: Mutex<()> = Mutex::new(());

/// Counts what is allocated now, the most that was, and how often something was allocated.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static OFTEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's; the counts beside it allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        OFTEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The name of a pattern; every tenth is a wildcard.
fn name(number: usize) -> String {
    match number % 20 {
        0 => format!("*.c{number}.customers.example.com"),
        10 => format!("**.c{number}.customers.example.com"),
        _ => format!("shop-{number}.customers.example.com"),
    }
}

fn config(routes: usize) -> Config {
    let text = "listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\npools: { p: { backends: [127.0.0.1:1] } }\n\
                unmatched: { pool: p }\n";
    let mut config = Config::parse(text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
    let file: Arc<Path> = Path::new("f.yaml").into();
    config.routes.reserve_exact(routes);
    for number in 0..routes {
        let pattern: Pattern = name(number).parse().expect("a pattern");
        config.routes.push(Route {
            // As the file has it without a name: the first pattern.
            name: pattern.to_string().into(),
            patterns: vec![(pattern, Place { file: Arc::clone(&file), line: 1, column: 1 })],
            conditions: Conditions::default(),
            to: Destination::Pool(0),
            idle_timeout: None,
            max_age: None,
            max_connections: Or::default(),
            on_removed: OnRemoved::Keep,
            access: None,
            per_client: None,
            origin: Origin::File,
            listed: None,
        });
    }
    config
}

#[test]
#[ignore = "takes an optimized build and a quarter of a gigabyte: see above"]
fn a_million_routes_take_150_bytes_each() {
    let _alone = ALONE.lock();
    let metrics = Metrics::new();
    let config = config(ROUTES);
    let names: usize = config.routes.iter().flat_map(|route| &route.patterns).map(|(pattern, _)| base(pattern)).sum();
    // Beside the names in the table stands the name of each route, which here is its pattern once more.
    let route_names: usize = config.routes.iter().map(|route| route.name.len()).sum();
    let given = HELD.load(Ordering::Relaxed);
    MOST.store(given, Ordering::Relaxed);
    let (snapshot, took) = timed(|| Snapshot::build(config, None, &metrics));
    // The configuration was given away and is gone; what is held now is the snapshot.
    let left = HELD.load(Ordering::Relaxed);
    let peak = MOST.load(Ordering::Relaxed) - given;
    check_look_ups(&snapshot);
    drop(snapshot);
    let held = left - HELD.load(Ordering::Relaxed);
    let each = (held - names - route_names) as f64 / ROUTES as f64;
    println!(
        "snapshot of {ROUTES} routes: {took:?} of CPU, {each:.0} bytes a route beside {} bytes of names; {:.0} bytes a route \
         more than the file's own while it was built",
        (names + route_names) / ROUTES,
        peak as f64 / ROUTES as f64
    );
    assert!(each <= 150.0, "{each} bytes a route");
}

#[test]
#[ignore = "takes an optimized build: see above"]
fn the_table_alone_is_smaller_still() {
    let _alone = ALONE.lock();
    let patterns: Vec<Pattern> = (0..ROUTES).map(|number| name(number).parse().expect("a pattern")).collect();
    let names: usize = patterns.iter().map(base).sum();
    let before = HELD.load(Ordering::Relaxed);
    let (table, took) = timed(|| table_of(patterns.iter().cloned()));
    let each = (HELD.load(Ordering::Relaxed) - before - names) as f64 / ROUTES as f64;
    println!("table of {ROUTES} routes: {took:?} of CPU, {each:.0} bytes a route beside the names");
    assert!(each <= 100.0, "{each} bytes a route");
    drop(table);
}

#[test]
fn look_ups_go_on_while_tables_are_built_and_swapped() {
    let routes = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    let patterns = || (0..routes).map(|number| name(number).parse::<Pattern>().expect("a pattern"));
    let shared = Arc::new(ArcSwap::from_pointee(table_of(patterns())));
    let done = Arc::new(AtomicBool::new(false));
    let looking = {
        let (shared, done) = (Arc::clone(&shared), Arc::clone(&done));
        std::thread::spawn(move || {
            let (mut number, mut looked_up) = (0, 0_usize);
            while !done.load(Ordering::Relaxed) || looked_up < routes {
                number = (number + 7919) % routes;
                assert_eq!(find(&shared.load(), number), Some(number), "{}", name(number));
                looked_up += 1;
            }
            looked_up
        })
    };
    for _ in 0..5 {
        shared.store(Arc::new(table_of(patterns())));
    }
    done.store(true, Ordering::Relaxed);
    assert!(looking.join().expect("every name was found in every table") >= routes);
}

fn table_of(patterns: impl Iterator<Item = Pattern>) -> RouteTable {
    let mut builder = Builder::default();
    for (number, pattern) in (0..).map(RouteIndex).zip(patterns) {
        builder.add(pattern, route::Conditions::default(), number);
    }
    builder.build()
}

/// The number of the route that takes a name of pattern `number`.
fn find(table: &RouteTable, number: usize) -> Option<usize> {
    let name: ServerName = asked(number).parse().expect("a name");
    let request = Lookup {
        server_name: &name,
        alpn: &Alpn::default(),
        source: Some([127, 0, 0, 1].into()),
        listener: ListenerIndex(0),
        form: NameForm::Clear,
    };
    table.find(&request).map(|found| found.route.0 as usize)
}

/// A name that only pattern `number` takes.
fn asked(number: usize) -> String {
    name(number).replace("**.", "a.b.").replace("*.", "a.")
}

fn check_look_ups(snapshot: &Snapshot) {
    for number in (0..ROUTES).step_by(997) {
        let sni = Sni::from_wire(asked(number).as_bytes()).expect("a name");
        let asked = RouteQuery {
            sni: Some(&sni),
            alpn: &Alpn::default(),
            source: Some([127, 0, 0, 1].into()),
            listener: ListenerIndex(0),
            form: NameForm::Clear,
        };
        assert_eq!(&*snapshot.choose(asked).route.name, name(number));
    }
}

fn base(pattern: &Pattern) -> usize {
    pattern.base().map_or(0, |base| base.as_str().len())
}

/// How much CPU time this thread took, for work that allocates at most [`MOST_ALLOCATIONS`] times a route.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = OFTEN.load(Ordering::Relaxed);
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).expect("below a second"))
    };
    let started = now();
    let result = work();
    let (took, each) = (now() - started, (OFTEN.load(Ordering::Relaxed) - before) as f64 / ROUTES as f64);
    assert!(each <= MOST_ALLOCATIONS, "{each} allocations a route");
    (result, took)
}

const ROUTES: usize = 1_000_000;
/// One for the copy of its pattern, where the test makes one; the rest are the few of tables that grow.
const MOST_ALLOCATIONS: f64 = 1.1;
