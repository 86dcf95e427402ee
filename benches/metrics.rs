//! How long does it take to render the metrics of ten thousand backends, and how much memory?

use std::sync::Arc;
use std::time::Duration;

use divan::AllocProfiler;
use snigate::internals::log::{FirstRecord, Reason};
use snigate::internals::{Alert, BackendState, ConnectionId, Format, ListenerIndex, Metrics};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const POOLS: usize = 100;

/// Each backend has been used, checked and ejected; the handles stay with the metrics.
fn used(backends: usize) -> (Arc<Metrics>, Vec<impl Sized>) {
    let metrics = Metrics::new();
    let mut held = Vec::new();
    for pool in (0..POOLS).map(|number| format!("pool-{number}")) {
        let route = metrics.route(&format!("*.{pool}.example.com"), &pool, &["https"]);
        route.closed(ListenerIndex(0), Reason::Ok, Duration::from_millis(20), ConnectionId(7));
        metrics.pool(&pool).first_byte(Duration::from_millis(3), ConnectionId(7));
        for number in 0..backends / POOLS {
            let backend = metrics.backend(&pool, &format!("10.20.{number}.1:443"));
            backend.standing(BackendState::Up, 3);
            backend.weight(1);
            backend.certificate_expires(1_800_000_000);
            backend.first_record(FirstRecord::ServerHello);
            backend.first_record(FirstRecord::HelloRetry);
            backend.alert(Alert::INTERNAL_ERROR);
            backend.ejected();
            held.push(backend);
        }
    }
    (metrics, held)
}

#[divan::bench(args = [1_000, 10_000], sample_count = 20)]
fn text(bencher: divan::Bencher, backends: usize) {
    render(bencher, backends, Format::Text);
}

#[divan::bench(args = [1_000, 10_000], sample_count = 20)]
fn open_metrics(bencher: divan::Bencher, backends: usize) {
    render(bencher, backends, Format::OpenMetrics);
}

fn render(bencher: divan::Bencher, backends: usize, format: Format) {
    let (metrics, _held) = used(backends);
    let text = metrics.render_as(format);
    println!("{format:?}, {backends} backends: {} bytes, {} lines", text.len(), text.lines().count());
    bencher.bench(|| metrics.render_as(format));
}
