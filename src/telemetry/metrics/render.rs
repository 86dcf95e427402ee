//! Writes metrics in the text format of Prometheus, sorted by name and labels.
//!
//! In:  samples.
//! Out: the text.
//! Source: the exposition format 0.0.4.

use std::fmt::Write;

use super::registry::{Distribution, Sample, Samples};
use super::table::{ALL, Kind};

pub(super) fn text(samples: &Samples) -> String {
    let mut out = String::new();
    let mut metrics = ALL.to_vec();
    metrics.sort_unstable_by_key(|metric| metric.name);
    for (metric, series) in metrics.iter().filter_map(|metric| Some((metric, samples.get(metric.name)?))) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} {kind}", metric.name, metric.help);
        for (labels, sample) in series {
            let _ = match sample {
                Sample::Count(count) => line(&mut out, metric.name, labels, count),
                Sample::Value(value) => line(&mut out, metric.name, labels, value),
                Sample::Histogram(distribution) => histogram(&mut out, metric.name, labels, distribution),
            };
        }
    }
    out
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) -> std::fmt::Result {
    if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") }
}

/// Its buckets count all samples up to their bound.
fn histogram(out: &mut String, name: &str, labels: &str, distribution: &Distribution) -> std::fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    let bounds = distribution.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    let mut count = 0;
    for (bound, more) in bounds.zip(&distribution.counts) {
        count += more;
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}")?;
    }
    line(out, &format!("{name}_sum"), labels, distribution.sum)?;
    line(out, &format!("{name}_count"), labels, count)
}
