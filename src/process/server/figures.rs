//! Reads the figures that others keep, whenever somebody asks for the metrics.
//!
//! In:  what the workers share; the kernel's queues.
//! Out: limits, and what is in use of them; the state of backends; how busy the workers are.

use crate::hello_memory;
use crate::listener::Shared;
use crate::process::accept_queues::AcceptQueues;
use crate::relay::{self, Pipes};
use crate::telemetry::{PipesReading, Readings};

/// Has them read before each rendering, on the thread that renders.
pub(super) fn collect(shared: &Shared, queues: AcceptQueues) {
    let (snapshot, registries, budget) = (shared.snapshot.clone(), shared.registries.clone(), shared.budget);
    shared.metrics.collect_with(move |readings: &mut Readings<'_>| {
        let snapshot = snapshot.load_full();
        snapshot.publish(readings);
        readings.connections_limit(snapshot.max_connections.unwrap_or_else(|| budget.max_connections()));
        let hello_memory_limit = snapshot.terms.hello_memory_bytes.unwrap_or_else(hello_memory::auto_bytes);
        readings.hello_memory(hello_memory::all().bytes(), hello_memory_limit);
        registries.loads().into_iter().for_each(|worker| readings.worker(worker));
        queues.read().into_iter().for_each(|(listener, queue)| readings.accept_queue(&listener, queue));
        let Pipes { in_use, idle, most: limit } = relay::pipes();
        readings.pipes(PipesReading { in_use, idle, limit });
    });
}
