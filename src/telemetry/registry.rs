//! Registers the metrics of the table with a Prometheus recorder of their own and renders it.
//!
//! In:  a [`Metric`] and its label values.
//! Out: a handle for which an event is an atomic add; the exposition text for Prometheus.
//! Source: metrics-exporter-prometheus; the text format 0.0.4.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::table::{ALL, Kind, Metric};

/// A recorder that is never installed globally: a process can have several, as tests do.
pub(super) struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Registry {
    pub(super) fn new() -> Self {
        let builder = ALL.iter().fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
            Kind::Histogram(bounds) => builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
                .expect("every histogram of the table has buckets"),
            Kind::Counter | Kind::Gauge => builder,
        });
        let recorder = builder.build_recorder();
        for metric in ALL {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        let handle = recorder.handle();
        Self { recorder, handle }
    }

    /// The same labels return the same counter.
    pub(super) fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        debug_assert!(matches!(metric.kind, Kind::Counter));
        self.recorder.register_counter(&key(metric, values), &METADATA)
    }

    pub(super) fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        debug_assert!(matches!(metric.kind, Kind::Gauge));
        self.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    pub(super) fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        debug_assert!(matches!(metric.kind, Kind::Histogram(_)));
        self.recorder.register_histogram(&key(metric, values), &METADATA)
    }

    /// Everything registered, in the recorder's own (random) order.
    pub(super) fn render(&self) -> String {
        self.handle.render()
    }

    /// Sorts histogram samples into their buckets; until then each takes 16 bytes.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels = metric.labels.iter().zip(values).map(|(name, value)| Label::new(*name, label_value(value)));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}

/// A name as label value. The few characters that the text format escapes become `_`, so that two spellings cannot
/// collide after escaping and a rendered line can be parsed without unescaping.
pub(super) fn label_value(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '"' | '\\') || c.is_control() { '_' } else { c }).collect()
}

/// Required by the trait but unused: this recorder does not filter.
const METADATA: Metadata<'static> = Metadata::new("snigate", Level::INFO, None);
