//! Writes metrics as text, sorted by name and labels.
//!
//! In:  the registered series; figures that are read for this rendering; which format.
//! Out: the text.
//! Source: the Prometheus exposition format 0.0.4; OpenMetrics 1.0
//!         (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>).

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::instruments::{Distribution, Exemplar};
use super::names::{Owner, REMOVED};
use super::readings::Samples;
use super::registry::{Family, Registry, Same, Value, without_route};
use super::table::{Kind, Metric};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Of Prometheus, version 0.0.4.
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Format {
    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// `capacity`: how long the text probably is.
pub(super) fn text(
    registry: &Registry,
    readings: &Samples,
    is_in_force: impl Fn(&Owner) -> bool,
    format: Format,
    capacity: usize,
) -> String {
    let mut out = Text { out: String::with_capacity(capacity), format, begun: false };
    for family in registry.families() {
        out.begun = false;
        out.family(family, &is_in_force);
        for (labels, value) in readings.get(family.metric.name).into_iter().flatten() {
            out.line(family.metric, "", labels, value);
        }
    }
    if format == Format::OpenMetrics {
        out.out.push_str("# EOF\n");
    }
    out.out
}

struct Text {
    out: String,
    format: Format,
    /// Whether the family has a line already.
    begun: bool,
}

impl Text {
    fn family(&mut self, family: &Family, is_in_force: impl Fn(&Owner) -> bool) {
        let (metric, mut same) = (family.metric, Same::default());
        let mut removed: BTreeMap<String, u64> = BTreeMap::new();
        family.visit(|labels, series| {
            let in_force = same.is_in_force(&series.owner, &is_in_force);
            match &series.value {
                Value::Counter(counter) if !in_force || series.owner.route.as_deref() == Some(REMOVED) => {
                    if let Some(labels) = without_route(family, labels, series) {
                        *removed.entry(labels).or_default() += counter.get();
                    }
                }
                _ if !in_force => {}
                Value::Counter(counter) => self.line(metric, "", labels, counter.get()),
                Value::Level(level) => self.line(metric, "", labels, level.get()),
                Value::Gauge(gauge) => gauge.get().into_iter().for_each(|value| self.line(metric, "", labels, value)),
                Value::Histogram(histogram) => self.histogram(metric, labels, &histogram.read()),
            }
        });
        for (labels, count) in removed.into_iter().filter(|(_, count)| *count > 0) {
            self.line(metric, "", &labels, count);
        }
    }

    fn line(&mut self, metric: &Metric, suffix: &str, labels: &str, value: impl fmt::Display) {
        self.begin(metric);
        let name = metric.name;
        // Writing to a String cannot fail.
        let _ = if labels.is_empty() {
            writeln!(self.out, "{name}{suffix} {value}")
        } else {
            writeln!(self.out, "{name}{suffix}{{{labels}}} {value}")
        };
    }

    /// Its buckets count all values up to their bound.
    fn histogram(&mut self, metric: &Metric, labels: &str, read: &Distribution) {
        self.begin(metric);
        let (name, comma) = (metric.name, if labels.is_empty() { "" } else { "," });
        let bounds = read.bounds.iter().copied().map(Some).chain([None]);
        let mut count = 0;
        for ((bound, more), exemplar) in bounds.zip(&read.counts).zip(&read.exemplars) {
            count += more;
            let _ = write!(self.out, "{name}_bucket{{{labels}{comma}le=\"");
            let _ = match (bound, self.format) {
                (None, _) => self.out.write_str("+Inf"),
                (Some(bound), Format::Text) => write!(self.out, "{bound}"),
                // With a point: `1.0`.
                (Some(bound), Format::OpenMetrics) => write!(self.out, "{bound:?}"),
            };
            let _ = write!(self.out, "\"}} {count}");
            if let (Some(Exemplar { id, value }), Format::OpenMetrics) = (exemplar, self.format) {
                let _ = write!(self.out, " # {{connection_id=\"{id}\"}} {value}");
            }
            self.out.push('\n');
        }
        self.line(metric, "_sum", labels, read.sum);
        self.line(metric, "_count", labels, count);
    }

    /// Writes what stands before the first line of a family.
    fn begin(&mut self, metric: &Metric) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let is_open = self.format == Format::OpenMetrics;
        // OpenMetrics calls a family what its names have in common.
        let family = match metric.kind {
            Kind::Counter | Kind::Seconds if is_open => metric.name.trim_end_matches("_total"),
            Kind::Info if is_open => metric.name.trim_end_matches("_info"),
            _ => metric.name,
        };
        let kind = match metric.kind {
            Kind::Counter | Kind::Seconds => "counter",
            Kind::Info if is_open => "info",
            Kind::Gauge | Kind::GaugeIfKnown | Kind::Level | Kind::Info => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let _ = writeln!(self.out, "# HELP {family} {}\n# TYPE {family} {kind}", metric.help);
        let unit = ["seconds", "bytes"].into_iter().find(|unit| family.rsplit('_').next() == Some(unit));
        if let Some(unit) = unit.filter(|_| is_open) {
            let _ = writeln!(self.out, "# UNIT {family} {unit}");
        }
    }
}
