use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::ids::{ConnectionId, ListenerIndex};
use crate::telemetry::*;
use crate::way::Way;

/// The value of one rendered series, or `None` if it is absent.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render();
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ').unwrap().1.parse().ok()
}

fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Metrics with one of every kind of object, each used at least once.
fn lived_in() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let listener = metrics.listener("https");
    let route = metrics.route("shop", "web", &["https"]);
    let mut active = listener.accepted();
    active.enter(State::Relaying);
    listener.whole_hello(ConnectionId(0x51), Duration::from_millis(2), 517, 1);
    listener.no_hello(HelloResult::Probe);
    listener.selected(Match::Exact);
    listener.accept_error(AcceptError::Descriptors);
    listener.accept_paused(Paused::Yes);
    listener.proxy_header(ProxyHeaderResult::V2);
    route.bytes(Way::ToClient, 4096);
    route.offers(Feature::Tls13);
    route.spliced(Way::ToBackend, 7);
    route.closed(ListenerIndex(0), Reason::Ok, Duration::from_secs(3), ConnectionId(0x51));
    drop(active);
    metrics.pool("web").connected(Duration::from_micros(300), ConnectionId(0x51));
    metrics.pool("web").first_byte(Duration::from_millis(3), ConnectionId(0x51));
    let backend = metrics.backend("web", "10.0.0.1:443");
    backend.connect(ConnectResult::Ok);
    backend.alert(Alert::HANDSHAKE_FAILURE);
    backend.certificate_expires(1_800_000_000);
    metrics.queue("web").waited(Duration::from_millis(3));
    metrics.dns("web").looked_up(DnsResult::TimedOut);
    metrics.ech_key("2026-01.pem").opened(1.0);
    metrics.limit_rejected(None, LimitScope::Listener, Enforced::Yes);
    metrics.limit_rejected(Some(&route), LimitScope::Route, Enforced::Yes);
    metrics.alert_sent(None, Alert::UNRECOGNIZED_NAME);
    metrics.alert_sent(Some(&route), Alert::ACCESS_DENIED);
    metrics.collect_with(|readings| {
        readings.worker(WorkerReading { number: 0, accepted: 5, active: 2, busy_s: Some(1.5) });
        readings.worker(WorkerReading { number: 1, accepted: 3, active: 1, busy_s: None });
        readings.accept_queue("https", AcceptQueueReading { length: 1, limit: 4096, dropped: 9 });
        readings.pipes(PipesReading { in_use: 3, idle: 2, limit: 256 });
        readings.hello_memory(2048, 1 << 20);
        readings.connections_limit(10_000);
        readings.listener_limit("https", 100);
        readings.route_limit("shop", 50);
        readings.route_limit("nobody knows", 50);
        readings.backend_limit("web", "10.0.0.1:443", 20);
        readings.backend_limit("web", "nobody knows", 20);
        readings.queue("web", 4, 64);
    });
    metrics.reload(ReloadResult::Applied, Trigger::Start, "abc123");
    metrics.log_lines_dropped(5);
    metrics
}

#[test]
fn every_metric_of_the_table_is_rendered_with_its_type_and_help() {
    let text = lived_in().render();
    for metric in table::ALL {
        let kind = match metric.kind {
            table::Kind::Counter | table::Kind::Seconds => "counter",
            table::Kind::Histogram(_) => "histogram",
            _ => "gauge",
        };
        assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{} {kind}:\n{text}", metric.name);
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(types, table::ALL.len(), "a metric that is not in the table");
}

#[test]
fn events_are_counted_where_they_belong() {
    let metrics = lived_in();
    for (series, expected) in [
        ("snigate_connections_accepted_total{listener=\"https\"}", 1.0),
        ("snigate_connections_active{listener=\"https\",state=\"relaying\"}", 0.0),
        ("snigate_dns_lookups_total{pool=\"web\",result=\"timeout\"}", 1.0),
        ("snigate_dns_lookups_total{pool=\"web\",result=\"ok\"}", 0.0),
        ("snigate_connections_closed_total{listener=\"https\",route=\"shop\",reason=\"ok\",fault=\"none\"}", 1.0),
        ("snigate_connection_duration_seconds_bucket{route=\"shop\",le=\"5\"}", 1.0),
        ("snigate_connection_duration_seconds_bucket{route=\"shop\",le=\"1\"}", 0.0),
        ("snigate_connection_duration_seconds_sum{route=\"shop\"}", 3.0),
        ("snigate_bytes_total{route=\"shop\",pool=\"web\",direction=\"to_client\"}", 4096.0),
        ("snigate_spliced_bytes_total{route=\"shop\",pool=\"web\",direction=\"to_backend\"}", 7.0),
        ("snigate_route_connections_active{route=\"shop\"}", 0.0),
        ("snigate_route_connections_limit{route=\"shop\"}", 50.0),
        ("snigate_backend_connections_limit{pool=\"web\",backend=\"10.0.0.1:443\"}", 20.0),
        ("snigate_backend_alerts_total{pool=\"web\",backend=\"10.0.0.1:443\",alert=\"handshake_failure\"}", 1.0),
        ("snigate_worker_busy_seconds_total{worker=\"0\"}", 1.5),
        ("snigate_worker_connections_active{worker=\"1\"}", 1.0),
        ("snigate_accept_queue_drops_total{listener=\"https\"}", 9.0),
        ("snigate_relay_pipes{state=\"in_use\"}", 3.0),
        ("snigate_client_hello_total{listener=\"https\",result=\"probe\"}", 1.0),
        ("snigate_client_hello_total{listener=\"https\",result=\"whole\"}", 1.0),
        ("snigate_client_hello_bytes_bucket{le=\"517\"}", 1.0),
        ("snigate_client_offers_total{route=\"shop\",feature=\"tls13\"}", 1.0),
        ("snigate_routes_selected_total{listener=\"https\",match=\"exact\"}", 1.0),
        ("snigate_alerts_sent_total{route=\"\",alert=\"unrecognized_name\"}", 1.0),
        ("snigate_alerts_sent_total{route=\"shop\",alert=\"access_denied\"}", 1.0),
        ("snigate_backend_connects_total{pool=\"web\",backend=\"10.0.0.1:443\",result=\"ok\"}", 1.0),
        ("snigate_backend_connect_duration_seconds_bucket{pool=\"web\",le=\"0.0005\"}", 1.0),
        ("snigate_limit_rejections_total{route=\"\",scope=\"listener\",enforced=\"true\"}", 1.0),
        ("snigate_limit_rejections_total{route=\"shop\",scope=\"route\",enforced=\"true\"}", 1.0),
        ("snigate_accept_errors_total{listener=\"https\",kind=\"descriptors\"}", 1.0),
        ("snigate_accept_paused{listener=\"https\"}", 1.0),
        ("snigate_proxy_headers_total{listener=\"https\",result=\"v2\"}", 1.0),
        ("snigate_config_reloads_total{result=\"applied\",trigger=\"start\"}", 1.0),
        ("snigate_config_last_reload_successful", 1.0),
        ("snigate_config_info{hash=\"abc123\"}", 1.0),
        ("snigate_log_lines_dropped_total", 5.0),
    ] {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }
    assert!(!metrics.render().contains("nobody knows"));
    assert_eq!(
        [LimitScope::Route, LimitScope::Listener, LimitScope::Pool].map(|scope| metrics.limited(scope)),
        [1, 1, 0]
    );
}

#[test]
fn what_is_not_known_has_no_series() {
    let metrics = Metrics::new();
    let backend = metrics.backend("p", "b");
    let expiry = "snigate_backend_certificate_expiry_timestamp_seconds{pool=\"p\",backend=\"b\"}";
    assert_eq!(value(&metrics, expiry), None);
    assert!(!metrics.render().contains("certificate_expiry"), "nor a head without series");
    backend.certificate_expires(1_800_000_000);
    assert_eq!(value(&metrics, expiry), Some(1.8e9));
}

#[test]
fn series_are_there_before_the_first_event() {
    let metrics = Metrics::new();
    let (_listener, _pool) = (metrics.listener("https"), metrics.pool("web"));
    let _route = metrics.route("shop", "web", &["https", "alt"]);
    let _backend = metrics.backend("web", "10.0.0.1:443");
    for series in [
        "snigate_connections_accepted_total{listener=\"https\"}",
        "snigate_connections_active{listener=\"https\",state=\"hello\"}",
        "snigate_connections_closed_total{listener=\"https\",route=\"\",reason=\"no_route\",fault=\"policy\"}",
        "snigate_connections_closed_total{listener=\"alt\",route=\"shop\",reason=\"connect_refused\",fault=\"backend\"}",
        "snigate_connection_duration_seconds_count{route=\"shop\"}",
        "snigate_backend_first_byte_seconds_bucket{pool=\"web\",le=\"+Inf\"}",
        "snigate_backend_connections_active{pool=\"web\",backend=\"10.0.0.1:443\"}",
        "snigate_alerts_sent_total{route=\"\",alert=\"other\"}",
        "snigate_limit_rejections_total{route=\"shop\",scope=\"pool\",enforced=\"true\"}",
    ] {
        assert_eq!(value(&metrics, series), Some(0.0), "{series}");
    }
}

#[test]
fn a_guard_counts_down_in_the_state_it_was_in() {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    let in_state = |state: State| {
        value(&metrics, &format!("snigate_connections_active{{listener=\"l\",state=\"{}\"}}", state.as_str())).unwrap()
    };
    let mut first = listener.accepted();
    let second = metrics.listener("l").accepted();
    assert_eq!(in_state(State::Hello), 2.0);
    first.enter(State::Connecting);
    first.enter(State::Relaying);
    assert_eq!((in_state(State::Hello), in_state(State::Connecting), in_state(State::Relaying)), (1.0, 0.0, 1.0));
    drop((first, second));
    assert!(State::ALL.iter().all(|state| in_state(*state) == 0.0));
}

#[test]
fn a_backend_is_in_one_state() {
    let metrics = Metrics::new();
    let series = |name: &str| value(&metrics, &format!("snigate_backend_{name}"));
    for state in BackendState::ALL.iter().copied() {
        let is_up = ["up", "unchecked"].contains(&state.as_str());
        metrics.backend("p", "b").standing(state, 2);
        assert_eq!(series("up{pool=\"p\",backend=\"b\"}"), Some(f64::from(u8::from(is_up))));
        assert_eq!(series("connections_active{pool=\"p\",backend=\"b\"}"), Some(2.0));
        for other in BackendState::ALL {
            let wanted = if *other == state { 1.0 } else { 0.0 };
            let name = format!("state{{pool=\"p\",backend=\"b\",state=\"{}\"}}", other.as_str());
            assert_eq!(series(&name), Some(wanted), "{name}");
        }
    }
}

#[test]
fn what_a_reload_removes_is_rendered_no_more_but_stays_in_the_sum() {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    let (kept, gone) = (metrics.route("kept", "p", &["l"]), metrics.route("gone", "q", &["l"]));
    let _pools = (metrics.pool("p"), metrics.pool("q"));
    let backends = [("p", "b"), ("p", "gone"), ("q", "b")].map(|(pool, name)| metrics.backend(pool, name));
    backends.iter().for_each(|backend| backend.connect(ConnectResult::Ok));
    for route in [&kept, &gone, &gone] {
        drop(listener.accepted());
        route.closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
    }

    metrics.retain(&HashSet::from(["kept"]), &HashSet::from(["p"]), &HashSet::from([("p", "b")]));
    // A connection of the removed route ends after the reload.
    drop(listener.accepted());
    gone.closed(ListenerIndex(0), Reason::RouteRemoved, Duration::ZERO, ConnectionId(1));

    let text = metrics.render();
    assert!(!text.contains("\"gone\"") && !text.contains("pool=\"q\""), "{text}");
    assert_eq!(sum(&text, "snigate_backend_connects_total"), 1.0);
    assert_eq!(sum(&text, "snigate_connections_accepted_total"), 4.0);
    assert_eq!(sum(&text, "snigate_connections_closed_total"), 4.0);
    let removed = "snigate_connections_closed_total{listener=\"l\",route=\"(removed)\",reason=\"ok\",fault=\"none\"}";
    assert_eq!(value(&metrics, removed), Some(2.0));

    let back = metrics.route("gone", "p", &["l"]);
    back.closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
    let series = "snigate_connections_closed_total{listener=\"l\",route=\"gone\",reason=\"ok\",fault=\"none\"}";
    assert_eq!(value(&metrics, series), Some(3.0), "the old count comes back");
    assert_eq!(value(&metrics, removed), None);
}

#[test]
fn series_of_removed_names_are_dropped_when_nothing_counts_there_any_more() {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    let count = |name: &str| {
        drop(listener.accepted());
        let route = metrics.route(name, "p", &["l"]);
        route.closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
        metrics.backend("p", name).connect(ConnectResult::Ok);
        route
    };
    let held = count("held");
    // More names than may have series of their own at once.
    for generation in 0..5_000 {
        let name = format!("r{generation}");
        drop(count(&name));
        metrics.retire_backend("p", &name);
        metrics.retain(&HashSet::new(), &HashSet::from(["p"]), &HashSet::new());
        metrics.upkeep();
    }
    let back = count("r7");
    let series = "snigate_connections_closed_total{listener=\"l\",route=\"r7\",reason=\"ok\",fault=\"none\"}";
    assert_eq!(value(&metrics, series), Some(1.0), "the old series is gone, and there is room for a new one");
    drop(back);
    held.closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
    drop(listener.accepted());
    let text = metrics.render();
    assert_eq!(sum(&text, "snigate_connections_closed_total"), 5_003.0);
    assert_eq!(sum(&text, "snigate_connections_accepted_total"), 5_003.0);
    let removed = "snigate_connections_closed_total{listener=\"l\",route=\"(removed)\",reason=\"ok\",fault=\"none\"}";
    assert_eq!(value(&metrics, removed), Some(5_002.0));
}

#[test]
fn with_many_routes_a_series_appears_when_it_is_first_used() {
    let metrics = Metrics::new();
    let routes: Vec<_> = (0..10_000).map(|n| metrics.route(&format!("r{n}"), "p", &["l"])).collect();
    let lines = |metrics: &Metrics| metrics.render().lines().filter(|line| line.contains("route=\"r")).count();
    let of_the_first_200 = lines(&metrics);
    assert!(of_the_first_200 <= 200 * 70, "{of_the_first_200}");

    routes[3000].closed(ListenerIndex(0), Reason::BackendReset, Duration::ZERO, ConnectionId(1));
    let series =
        "snigate_connections_closed_total{listener=\"l\",route=\"r3000\",reason=\"backend_reset\",fault=\"backend\"}";
    assert_eq!(value(&metrics, series), Some(1.0));
    // One reason, and the buckets, sum and count of the duration.
    assert_eq!(lines(&metrics), of_the_first_200 + 17);

    // Above the bound on names, routes share one series.
    routes[9000].closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
    routes[9999].closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
    let other = "snigate_connections_closed_total{listener=\"l\",route=\"(other)\",reason=\"ok\",fault=\"none\"}";
    assert_eq!(value(&metrics, other), Some(2.0));
}

#[test]
fn with_many_backends_a_counter_appears_when_it_is_first_used() {
    let metrics = Metrics::new();
    let backends: Vec<_> = (0..2000).map(|n| metrics.backend("p", &format!("b{n}"))).collect();
    let of = |backend: &str| {
        let label = format!("backend=\"{backend}\"");
        metrics.render().lines().filter(|line| line.contains(&label)).count()
    };
    let (first, last) = (of("b0"), of("b1999"));
    assert!(first > 30 && last < 12, "{first} {last}");
    backends[1999].connect(ConnectResult::Refused);
    assert_eq!((of("b1999"), backends[1999].attempts()), (last + 1, (1, 1)));
}

#[test]
fn open_metrics_is_as_its_specification_wants_it() {
    let metrics = lived_in();
    let text = metrics.render_as(Format::OpenMetrics);
    assert!(text.ends_with("} 1\n# EOF\n") || text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
    let mut family = "";
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(head) = line.strip_prefix("# HELP ") {
            family = head.split(' ').next().unwrap();
            assert!(!family.ends_with("_total") && !family.ends_with("_info"), "{line}");
        } else if let Some(head) = line.strip_prefix("# UNIT ") {
            assert!(family.ends_with(head.split(' ').nth(1).unwrap()), "{line}");
        } else if !line.starts_with("# TYPE ") {
            assert!(line.starts_with(family), "{line} of {family}");
        }
    }
    for line in [
        "# TYPE snigate_build info",
        "# TYPE snigate_config info",
        "# TYPE snigate_bytes counter",
        "# UNIT snigate_bytes bytes",
        "# TYPE process_cpu_seconds counter",
        "# UNIT snigate_connection_duration_seconds seconds",
        "snigate_bytes_total{route=\"shop\",pool=\"web\",direction=\"to_client\"} 4096",
        "snigate_connection_duration_seconds_bucket{route=\"shop\",le=\"1.0\"} 0",
        "snigate_connection_duration_seconds_bucket{route=\"shop\",le=\"5.0\"} 1 # {connection_id=\"0000000000000051\"} 3",
        "snigate_backend_connect_duration_seconds_bucket{pool=\"web\",le=\"0.0005\"} 1 # {connection_id=\"0000000000000051\"} 0.0003",
        "snigate_client_hello_bytes_bucket{le=\"517.0\"} 1",
    ] {
        assert!(text.lines().any(|has| has == line), "{line} is missing in\n{text}");
    }
    // The same samples as in the other format, which has no exemplars.
    let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples(&text), samples(&metrics.render()));
    assert!(!metrics.render().contains(" # "));
}

#[test]
#[ignore = "needs the Python package prometheus_client"]
fn the_parser_of_prometheus_reads_open_metrics() {
    let program = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as f; \
                   n = [(m.name, s.exemplar) for m in f(sys.stdin.read()) for s in m.samples]; \
                   assert len(n) > 300, len(n); assert sum(e is not None for _, e in n) == 4, n";
    let mut python = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(lived_in().render_as(Format::OpenMetrics).as_bytes()).unwrap();
    assert!(python.wait().unwrap().success());
}

#[test]
fn an_unused_lazy_route_is_small() {
    // One snapshot can have a million of them.
    assert!(size_of::<RouteMetrics>() <= 400, "{}", size_of::<RouteMetrics>());
}

#[test]
fn no_name_breaks_the_format() {
    let metrics = Metrics::new();
    for name in ["a\"b", "a\\b", "a\\\\b", "a\nb", "a\u{7f}b", "grüße {x=\"y\"} 1", "*.example.com", ""] {
        metrics.route(name, name, &[name]).closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
        metrics.backend(name, name).connect(ConnectResult::Ok);
    }
    let text = metrics.render();
    let mut series = HashSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
        assert_eq!(name.matches('"').count() % 2, 0, "{line}");
        assert!(series.insert(name), "twice: {line}");
    }
    assert!(text.contains("route=\"*.example.com\""));
}

#[test]
fn a_rejected_reload_keeps_the_hash_and_says_so() {
    let metrics = Metrics::new();
    metrics.reload(ReloadResult::Rejected, Trigger::Start, "bad");
    assert_eq!(value(&metrics, "snigate_config_info{hash=\"bad\"}"), None);
    metrics.reload(ReloadResult::Applied, Trigger::File, "one");
    let good = value(&metrics, "snigate_config_last_reload_success_timestamp_seconds").unwrap();
    assert!(good > 1.7e9, "{good}");
    metrics.reload(ReloadResult::Rejected, Trigger::Signal, "two");
    assert_eq!(value(&metrics, "snigate_config_last_reload_successful"), Some(0.0));
    assert_eq!(value(&metrics, "snigate_config_last_reload_success_timestamp_seconds"), Some(good));
    assert_eq!(value(&metrics, "snigate_config_info{hash=\"one\"}"), Some(1.0));
    assert_eq!(metrics.last_reload().unwrap().hash, "one");
    metrics.reload(ReloadResult::Unchanged, Trigger::Poll, "one");
    assert_eq!(value(&metrics, "snigate_config_last_reload_successful"), Some(1.0));
    assert_eq!(metrics.render().matches("snigate_config_info{").count(), 1);
}

#[test]
fn an_alert_that_nobody_sends_has_a_label_all_the_same() {
    let metrics = Metrics::new();
    let route = metrics.route("r", "p", &["l"]);
    let backend = metrics.backend("p", "b");
    for alert in (0..=255).map(Alert::new) {
        metrics.alert_sent(None, alert);
        metrics.alert_sent(Some(&route), alert);
        backend.alert(alert);
    }
    let text = metrics.render();
    assert_eq!(sum(&text, "snigate_alerts_sent_total"), 512.0);
    assert_eq!(sum(&text, "snigate_backend_alerts_total"), 256.0);
    assert_eq!(value(&metrics, "snigate_alerts_sent_total{route=\"\",alert=\"decode_error\"}"), Some(1.0));
    let others = (256 - Alert::ALL.len()) as f64;
    assert_eq!(value(&metrics, "snigate_alerts_sent_total{route=\"r\",alert=\"other\"}"), Some(others));
}

#[test]
fn families_and_series_are_in_order_and_together() {
    let text = lived_in().render();
    let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.is_sorted(), "{families:?}");
    assert!(text.lines().all(|line| !line.is_empty()));
    let bounds: Vec<_> = text.lines().filter(|line| line.starts_with("snigate_client_hello_records_bucket")).collect();
    assert!(bounds[0].contains("le=\"1\"") && bounds.last().unwrap().contains("le=\"+Inf\""), "{bounds:?}");
}

#[test]
fn counting_goes_on_beside_rendering_and_upkeep() {
    let metrics = Metrics::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let listener = metrics.listener("l");
                    let route = metrics.route("r", "p", &["l"]);
                    for _ in 0..5_000 {
                        let mut active = listener.accepted();
                        active.enter(State::Relaying);
                        route.bytes(Way::ToClient, 3);
                        drop(active);
                        route.closed(ListenerIndex(0), Reason::Ok, Duration::from_millis(1), ConnectionId(1));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                metrics.upkeep();
                metrics.render();
            }
        });
        counting.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Release);
    });
    let text = metrics.render();
    assert_eq!(sum(&text, "snigate_connections_accepted_total"), 10_000.0);
    assert_eq!(sum(&text, "snigate_connections_active"), 0.0);
    assert_eq!(sum(&text, "snigate_connections_closed_total"), 10_000.0);
    assert_eq!(sum(&text, "snigate_bytes_total"), 30_000.0);
    assert_eq!(sum(&text, "snigate_connection_duration_seconds_count"), 10_000.0);
}

#[test]
#[ignore = "needs promtool, which comes with Prometheus"]
fn promtool_finds_no_fault() {
    let mut promtool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    let metrics = lived_in();
    metrics.route("gone", "web", &["https"]).closed(ListenerIndex(0), Reason::Ok, Duration::ZERO, ConnectionId(1));
    metrics.retain(&HashSet::from(["shop"]), &HashSet::from(["web"]), &HashSet::from([("web", "10.0.0.1:443")]));
    promtool.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
    assert!(promtool.wait().unwrap().success());
}
