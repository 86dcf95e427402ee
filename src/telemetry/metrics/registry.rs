//! Registers the series of the table, and removes those of routes, pools and backends that are gone.
//!
//! In:  a [`Metric`] and its label values.
//! Out: the counter, gauge or histogram of a series, registered once; all series in the order of their labels.
//!
//! Own code rather than the registry of the metrics-util crate: that one keeps a list of labels for each series, in no
//! order, so that each rendering would have to write and sort them. Here a series is its rendered labels and an atomic,
//! and no lock is held for longer than some microseconds, since a connection may be the first to use a series.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::instruments::{Counter, Gauge, Histogram, Level};
use super::names::{Owner, REMOVED, label_value};
use super::table::{ALL, CLOSED, Kind, Metric};

/// The series of one process, or of one test.
pub(super) struct Registry {
    /// In the order of their names.
    families: Vec<Family>,
    owners: Mutex<HashSet<Arc<Owner>>>,
}

/// All series of one metric.
pub(super) struct Family {
    pub metric: &'static Metric,
    /// By their labels, as they are rendered.
    series: Mutex<BTreeMap<Box<str>, Series>>,
}

/// One series.
pub(super) struct Series {
    pub owner: Arc<Owner>,
    pub value: Value,
}

/// What is counted or shown.
#[derive(Clone)]
pub(super) enum Value {
    Counter(Counter),
    Level(Level),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Registry {
    pub(super) fn new() -> Self {
        let mut families: Vec<Family> = ALL.iter().map(|metric| Family { metric, series: Mutex::default() }).collect();
        families.sort_unstable_by_key(|family| family.metric.name);
        Self { families, owners: Mutex::default() }
    }

    /// The same labels return the same counter.
    pub(super) fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        match self.value(metric, values) {
            Value::Counter(counter) => counter,
            _ => unreachable!("{} is not a counter", metric.name),
        }
    }

    pub(super) fn level(&self, metric: &Metric, values: &[&str]) -> Level {
        match self.value(metric, values) {
            Value::Level(level) => level,
            _ => unreachable!("{} is not a level", metric.name),
        }
    }

    pub(super) fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        match self.value(metric, values) {
            Value::Gauge(gauge) => gauge,
            _ => unreachable!("{} is not a gauge", metric.name),
        }
    }

    pub(super) fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        match self.value(metric, values) {
            Value::Histogram(histogram) => histogram,
            _ => unreachable!("{} is not a histogram", metric.name),
        }
    }

    /// In the order of their names.
    pub(super) fn families(&self) -> &[Family] {
        &self.families
    }

    /// Drops the series of what is gone once nothing can count there any more. Their closed connections move to the route
    /// [`REMOVED`].
    pub(super) fn purge(&self, is_in_force: impl Fn(&Owner) -> bool) {
        for family in &self.families {
            for labels in family.gone(&is_in_force) {
                let Some(series) = family.remove_unless_held(&labels) else { continue };
                if let (Value::Counter(counter), Some(labels)) =
                    (&series.value, without_route(family, &labels, &series))
                {
                    let owner = Owner { route: Some(REMOVED.into()), ..Owner::default() };
                    if let Value::Counter(sum) = family.value(labels.into(), || self.intern(owner)) {
                        sum.increment(counter.get());
                    }
                }
            }
        }
        self.owners().retain(|owner| Arc::strong_count(owner) > 1);
    }

    fn value(&self, metric: &Metric, values: &[&str]) -> Value {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let at = self.families.binary_search_by_key(&metric.name, |family| family.metric.name);
        let family = &self.families[at.expect("a metric of the table")];
        let values: Vec<String> = values.iter().map(|value| label_value(value)).collect();
        let of = |wanted: &str| {
            let at = metric.labels.iter().position(|name| *name == wanted)?;
            Some(values[at].as_str().into())
        };
        let owner =
            || self.intern(Owner { route: of("route"), pool: of("pool"), backend: of("backend"), ech_key: of("key") });
        family.value(rendered(metric.labels, &values), owner)
    }

    /// One for all series about the same.
    fn intern(&self, owner: Owner) -> Arc<Owner> {
        let mut owners = self.owners();
        if let Some(known) = owners.get(&owner) {
            return Arc::clone(known);
        }
        let owner = Arc::new(owner);
        owners.insert(Arc::clone(&owner));
        owner
    }

    fn owners(&self) -> MutexGuard<'_, HashSet<Arc<Owner>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    /// Visits the series in the order of their labels. Those that are added meanwhile may be left out.
    pub(super) fn visit(&self, mut see: impl FnMut(&str, &Series)) {
        let mut last: Option<Box<str>> = None;
        loop {
            let series = self.series();
            let after = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut seen = None;
            for (labels, one) in series.range::<str, _>((after, Bound::Unbounded)).take(AT_ONCE) {
                see(labels, one);
                seen = Some(labels);
            }
            let Some(seen) = seen.cloned() else { return };
            last = Some(seen);
        }
    }

    fn value(&self, labels: Box<str>, owner: impl FnOnce() -> Arc<Owner>) -> Value {
        let mut series = self.series();
        let one =
            series.entry(labels).or_insert_with(|| Series { owner: owner(), value: Value::new(self.metric.kind) });
        one.value.clone()
    }

    /// The labels of what is gone and can count nothing any more.
    fn gone(&self, is_in_force: impl Fn(&Owner) -> bool) -> Vec<Box<str>> {
        let (mut gone, mut same) = (Vec::new(), Same::default());
        self.visit(|labels, series| {
            if !same.is_in_force(&series.owner, &is_in_force) && !series.value.is_held() {
                gone.push(labels.into());
            }
        });
        gone
    }

    fn remove_unless_held(&self, labels: &str) -> Option<Series> {
        let mut series = self.series();
        // It may be in use again.
        let is_held = series.get(labels)?.value.is_held();
        if is_held { None } else { series.remove(labels) }
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers the answer about the last owner: series that stand together are mostly about the same.
#[derive(Default)]
pub(super) struct Same(Option<(Arc<Owner>, bool)>);

impl Same {
    pub(super) fn is_in_force(&mut self, owner: &Arc<Owner>, ask: impl Fn(&Owner) -> bool) -> bool {
        match &self.0 {
            Some((last, answer)) if Arc::ptr_eq(last, owner) => *answer,
            _ => {
                let answer = ask(owner);
                self.0 = Some((Arc::clone(owner), answer));
                answer
            }
        }
    }
}

impl Value {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Counter::default()),
            Kind::Level => Self::Level(Level::default()),
            Kind::Gauge | Kind::Info | Kind::Seconds => Self::Gauge(Gauge::new(Some(0.0))),
            Kind::GaugeIfKnown => Self::Gauge(Gauge::new(None)),
            Kind::Histogram(bounds) => Self::Histogram(Histogram::new(bounds)),
        }
    }

    /// Whether something can still count here.
    fn is_held(&self) -> bool {
        match self {
            Self::Counter(counter) => counter.is_held(),
            Self::Level(level) => level.is_held(),
            Self::Gauge(gauge) => gauge.is_held(),
            Self::Histogram(histogram) => histogram.is_held(),
        }
    }
}

/// The labels under which the closed connections of a route are counted once it is gone; `None` for other series.
pub(super) fn without_route(family: &Family, labels: &str, series: &Series) -> Option<String> {
    let route = series.owner.route.as_ref().filter(|_| family.metric.name == CLOSED.name)?;
    // No value has a quotation mark, so nothing else can look like this label.
    Some(labels.replacen(&format!("route=\"{route}\""), &format!("route=\"{REMOVED}\""), 1))
}

/// `a="b",c="d"`. [`label_value`] has replaced what would need escaping.
fn rendered(names: &[&str], values: &[String]) -> Box<str> {
    let pairs = names.iter().zip(values).map(|(name, value)| format!("{name}=\"{value}\""));
    pairs.collect::<Vec<_>>().join(",").into()
}

/// How many series are read under one lock.
const AT_ONCE: usize = 256;
