//! The one table of metrics: names with their units, kinds, labels, help and buckets.
//!
//! In:  nothing.
//! Out: a [`Metric`] for each, and [`ALL`] of them, which tests compare with the user docs.
//! Source: docs/metrics.md; <https://prometheus.io/docs/practices/naming/>.

/// The name and meaning of a metric. The unit is the last word of the name before `_total`.
#[derive(Debug)]
pub(super) struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    /// A counter of seconds, which has fractions.
    Seconds,
    Gauge,
    /// A gauge whose series is absent while there is no value.
    GaugeIfKnown,
    /// A gauge that counts what there is now.
    Level,
    /// Always 1; the labels have the information.
    Info,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

macro_rules! table {
    ($($id:ident: $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(pub(super) const $id: Metric = Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*

        /// Every metric that is rendered.
        pub(super) const ALL: &[&Metric] = &[$(&$id),*];
    };
}

use Kind::{Counter, Gauge, GaugeIfKnown, Histogram, Info, Level, Seconds};

table! {
    BUILD_INFO: Info, "snigate_build_info", ["version", "revision"], "Always 1; the labels show the version and the revision.";
    START_TIME: Gauge, "snigate_start_time_seconds", [], "When the process started, in seconds since 1970.";

    ACCEPTED: Counter, "snigate_connections_accepted_total", ["listener"], "Connections accepted.";
    ACTIVE: Level, "snigate_connections_active", ["listener", "state"], "Connections open now, by state.";
    CLOSED: Counter, "snigate_connections_closed_total", ["listener", "route", "reason", "fault"], "Connections ended, by reason and by whose fault it was; route is empty if none was selected.";
    DURATION: Histogram(LIFETIMES), "snigate_connection_duration_seconds", ["route"], "How long connections lived, from accept to the last close.";
    BYTES: Counter, "snigate_bytes_total", ["route", "pool", "direction"], "Bytes relayed, counted while connections are open.";
    SPLICED: Counter, "snigate_spliced_bytes_total", ["route", "pool", "direction"], "Bytes relayed by splice, without a copy into the process.";

    ROUTED: Counter, "snigate_route_connections_total", ["route"], "Connections routed to the route.";
    ROUTE_ACTIVE: Gauge, "snigate_route_connections_active", ["route"], "Connections of the route open now.";

    HELLOS: Counter, "snigate_client_hello_total", ["listener", "result"], "Attempts to read a ClientHello, by result.";
    HELLO_DURATION: Histogram(WAITS), "snigate_client_hello_duration_seconds", [], "From accept to the whole ClientHello; whole ones only.";
    HELLO_BYTES: Histogram(HELLO_SIZES), "snigate_client_hello_bytes", [], "Size of whole ClientHellos with their record headers.";
    HELLO_RECORDS: Histogram(HELLO_PARTS), "snigate_client_hello_records", [], "TLS records that a whole ClientHello was split into.";
    LIMIT_REACHED: Gauge, "snigate_connection_limit_reached", [], "1 while no client is accepted because limits.max_connections is reached.";
    HELLOS_ENDED: Counter, "snigate_hellos_ended_early_total", [], "Clients ended before their hello was complete, because others waited for a place at limits.max_connections.";
    HELLO_MEMORY: Gauge, "snigate_hello_memory_bytes", [], "Memory of the ClientHellos that are not complete yet, limited by limits.hello_memory.";
    HELLO_MEMORY_LIMIT: Gauge, "snigate_hello_memory_limit_bytes", [], "The limit of that memory: limits.hello_memory, or what snigate has chosen.";
    OFFERS: Counter, "snigate_client_offers_total", ["route", "feature"], "Connections whose ClientHello offers the feature.";
    ECH_HELLOS: Counter, "snigate_ech_hellos_total", ["listener", "result"], "Hellos with an encrypted_client_hello extension on listeners that open them, by result.";
    ECH_OPEN: Histogram(OPENINGS), "snigate_ech_open_seconds", [], "Time to open an inner hello, of those that were opened.";
    ECH_KEY_OPENED: Counter, "snigate_ech_key_opened_total", ["key"], "Inner hellos that the key has opened.";
    ECH_KEY_LAST: Gauge, "snigate_ech_key_last_opened_timestamp_seconds", ["key"], "When the key last opened an inner hello, in seconds since 1970; 0 before the first.";
    SELECTED: Counter, "snigate_routes_selected_total", ["listener", "match"], "Routing decisions, by the kind of pattern or fallback that decided.";
    ALERTS: Counter, "snigate_alerts_sent_total", ["route", "alert"], "TLS alerts sent to clients that were refused; route is empty if none was selected.";

    CONNECTS: Counter, "snigate_backend_connects_total", ["pool", "backend", "result"], "Attempts to connect to a backend.";
    CONNECT_DURATION: Histogram(WAITS), "snigate_backend_connect_duration_seconds", ["pool"], "Time of successful connects to a backend.";
    BACKEND_ACTIVE: Gauge, "snigate_backend_connections_active", ["pool", "backend"], "Connections open to the backend now.";
    FIRST_BYTE: Histogram(WAITS), "snigate_backend_first_byte_seconds", ["pool"], "From the connect to the backend's first byte.";
    FIRST_RECORD: Counter, "snigate_backend_first_record_total", ["pool", "backend", "kind"], "Connections of TLS clients, by the kind of the first record from the backend.";
    BACKEND_ALERTS: Counter, "snigate_backend_alerts_total", ["pool", "backend", "alert"], "TLS alerts that the backend sent in place of a ServerHello.";
    BACKEND_UP: Gauge, "snigate_backend_up", ["pool", "backend"], "1 while the backend is up or unchecked, 0 while it is failing, ejected, drained or down.";
    BACKEND_WEIGHT: Gauge, "snigate_backend_weight", ["pool", "backend"], "The weight of the backend: that of the configuration, or the one that an operator has set.";
    BACKEND_STATE: Gauge, "snigate_backend_state", ["pool", "backend", "state"], "1 for the state that the backend is in.";
    EJECTIONS: Counter, "snigate_backend_ejections_total", ["pool", "backend"], "How often the backend was ejected because its connections failed.";
    CERTIFICATE_EXPIRY: GaugeIfKnown, "snigate_backend_certificate_expiry_timestamp_seconds", ["pool", "backend"], "Expiry time of the certificate presented in the last TLS check, in seconds since 1970; absent before the first.";
    CHECKS: Counter, "snigate_health_checks_total", ["pool", "backend", "result"], "Completed active checks, by result.";
    CHECK_DURATION: Histogram(WAITS), "snigate_health_check_duration_seconds", ["pool"], "How long active checks took.";

    QUEUE_LENGTH: Gauge, "snigate_pool_queue_length", ["pool"], "Clients that wait for a place on a backend now.";
    QUEUE_WAIT: Histogram(WAITS), "snigate_pool_queue_wait_seconds", ["pool"], "How long clients that got a place had waited.";
    QUEUE_TIMEOUTS: Counter, "snigate_pool_queue_timeouts_total", ["pool"], "Clients that waited until the timeout of the queue.";

    QUEUE_LIMIT: Gauge, "snigate_pool_queue_limit", ["pool"], "How many clients may wait there.";

    DNS_LOOKUPS: Counter, "snigate_dns_lookups_total", ["pool", "result"], "Look-ups of the DNS names among a pool's backends.";

    DOCKER_CONNECTED: Gauge, "snigate_docker_connected", [], "1 while the Docker API answers, 0 while it does not or docker is off.";
    DOCKER_LOOKS: Counter, "snigate_docker_looks_total", ["result"], "Looks at the containers through the Docker API, after an event or in between, by result.";
    DOCKER_LOOK_TIME: Gauge, "snigate_docker_last_look_timestamp_seconds", [], "When the containers were last looked at successfully, in seconds since 1970; 0 before the first time.";
    DOCKER_CONTAINERS: Gauge, "snigate_docker_containers", ["state"], "Containers with our labels, by whether they get connections.";
    DOCKER_CHANGES: Counter, "snigate_docker_changes_total", ["result"], "Changes of containers that were put in force, or could not be.";

    KUBERNETES_OBJECTS: Gauge, "snigate_kubernetes_objects", ["kind"], "Objects of the Kubernetes cluster that were seen last, by kind.";
    KUBERNETES_SYNCED: Gauge, "snigate_kubernetes_synced", [], "1 while the objects of all kinds are known and followed, 0 while some are not or kubernetes is off.";
    KUBERNETES_AWAY: Gauge, "snigate_kubernetes_away_since_timestamp_seconds", [], "Since when some kind of objects cannot be followed, in seconds since 1970; 0 while all can.";
    KUBERNETES_ERRORS: Counter, "snigate_kubernetes_watch_errors_total", ["kind"], "Failed attempts to list or watch objects, by kind.";
    KUBERNETES_APPLY: Histogram(WAITS), "snigate_kubernetes_apply_seconds", [], "From the first event of a change until it was in force.";
    KUBERNETES_WRITES: Counter, "snigate_kubernetes_status_writes_total", ["kind", "result"], "Statuses written to objects, by result.";
    KUBERNETES_LEADER: Gauge, "snigate_kubernetes_leader", [], "1 while this process is the one that writes statuses and Services.";

    LIMITED: Counter, "snigate_limit_rejections_total", ["route", "scope", "enforced"], "Connections that hit a limit; enforced is false where a limit only counts, and route is empty if none was selected.";
    UNTRACKED: Counter, "snigate_client_limit_untracked_total", [], "Connections let in without a limit per client, because the table of clients had no room.";
    CONNECTIONS_LIMIT: Gauge, "snigate_connections_limit", [], "The most connections open at once: limits.max_connections, or what snigate has chosen.";
    LISTENER_LIMIT: GaugeIfKnown, "snigate_listener_connections_limit", ["listener"], "The most connections open at once on the listener; absent without a limit.";
    ROUTE_LIMIT: GaugeIfKnown, "snigate_route_connections_limit", ["route"], "The most connections of the route open at once; absent without a limit.";
    BACKEND_LIMIT: GaugeIfKnown, "snigate_backend_connections_limit", ["pool", "backend"], "The most connections open to the backend at once; absent without a limit.";
    ACCEPT_ERRORS: Counter, "snigate_accept_errors_total", ["listener", "kind"], "Failed accepts.";
    ACCEPT_PAUSED: Gauge, "snigate_accept_paused", ["listener"], "1 while the listener has paused accepting.";
    ACCEPT_QUEUE: Gauge, "snigate_accept_queue_length", ["listener"], "Clients that the kernel has connected and snigate has not accepted yet.";
    ACCEPT_QUEUE_LIMIT: Gauge, "snigate_accept_queue_limit", ["listener"], "How many clients may wait there: tcp.backlog of each socket of the listener.";
    ACCEPT_QUEUE_DROPS: Counter, "snigate_accept_queue_drops_total", ["listener"], "Connection attempts that the kernel has dropped, mostly because that queue was full.";
    PROXY_HEADERS: Counter, "snigate_proxy_headers_total", ["listener", "result"], "PROXY headers read from clients.";

    WORKER_ACCEPTED: Counter, "snigate_worker_connections_accepted_total", ["worker"], "Connections accepted by the worker.";
    WORKER_ACTIVE: Gauge, "snigate_worker_connections_active", ["worker"], "Connections of the worker open now.";
    WORKER_BUSY: Seconds, "snigate_worker_busy_seconds_total", ["worker"], "CPU time of the worker's thread, user and system.";
    PIPES: Gauge, "snigate_relay_pipes", ["state"], "Pipes for splicing: those that hold bytes in transit, and those kept for the next transfer.";
    PIPES_LIMIT: Gauge, "snigate_relay_pipes_limit", [], "The most pipes of all workers.";

    RELOADS: Counter, "snigate_config_reloads_total", ["result", "trigger"], "Loads of the configuration, including the one at startup.";
    RELOAD_OK: Gauge, "snigate_config_last_reload_successful", [], "1 if the file as last read is in force, 0 if it was rejected.";
    RELOAD_TIME: Gauge, "snigate_config_last_reload_success_timestamp_seconds", [], "When a file was last read and found valid, in seconds since 1970.";
    CONFIG_INFO: Info, "snigate_config_info", ["hash"], "Always 1; the label is the hash of the configuration in force.";
    TASK_PANICS: Counter, "snigate_task_panics_total", ["task"], "Panics of background tasks, which are restarted.";
    LOG_DROPPED: Counter, "snigate_log_lines_dropped_total", [], "Log lines lost because the output was not read fast enough or could not be written.";

    PROCESS_CPU: Seconds, "process_cpu_seconds_total", [], "CPU time of the process, user and system.";
    PROCESS_OPEN_FDS: Gauge, "process_open_fds", [], "Open file descriptors.";
    PROCESS_MAX_FDS: Gauge, "process_max_fds", [], "Limit of open file descriptors.";
    PROCESS_RESIDENT: Gauge, "process_resident_memory_bytes", [], "Resident memory.";
    PROCESS_VIRTUAL: Gauge, "process_virtual_memory_bytes", [], "Virtual memory.";
}

/// In seconds, from a cache hit on the same host to a peer that needs several SYN retries.
const WAITS: &[f64] = &[0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// In seconds, from a single request to a WebSocket open for a day.
const LIFETIMES: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0];
/// In bytes. 517 is the classic padded hello, 1.8 kB a post-quantum one; 16 KiB is one full record.
const HELLO_SIZES: &[f64] = &[256.0, 517.0, 768.0, 1024.0, 1536.0, 2048.0, 3072.0, 4096.0, 8192.0, 16384.0, 65536.0];
/// In seconds, from one key to all keys of a full directory.
const OPENINGS: &[f64] = &[0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02];
const HELLO_PARTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_their_kind() {
        for (at, metric) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|earlier| earlier.name != metric.name), "{} twice", metric.name);
            assert_eq!(metric.name.ends_with("_total"), matches!(metric.kind, Counter | Seconds), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_info"), matches!(metric.kind, Info), "{}", metric.name);
            // Nothing in it needs to be escaped.
            assert!(metric.help.ends_with('.') && !metric.help.contains(['"', '\\', '\n']), "{}", metric.name);
            if let Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }

    #[test]
    fn the_docs_name_every_metric() {
        let docs = include_str!("../../../docs/metrics.md");
        for metric in ALL {
            let cell = if metric.labels.is_empty() {
                format!("`{}`", metric.name)
            } else {
                format!("`{}{{{}}}`", metric.name, metric.labels.join(","))
            };
            assert!(docs.contains(&cell), "docs/metrics.md does not have {cell}");
        }
    }
}
