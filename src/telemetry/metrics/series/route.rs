//! The series of one route, each registered when first used, or all at once while there are few routes.
//!
//! In:  events, one function each.
//! Out: counts. A million routes that are not used cost nothing.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Registering;
use crate::alert::Alert;
use crate::ids::{ConnectionId, ListenerIndex};
use crate::telemetry::metrics::alerts::{PLACES, label, place};
use crate::telemetry::metrics::ends::RouteCounts;
use crate::telemetry::metrics::instruments::{Counter, Histogram};
use crate::telemetry::metrics::registry::Registry;
use crate::telemetry::metrics::table;
use crate::telemetry::{Enforced, Feature, LimitScope, Reason};
use crate::way::Way;

/// The series of one route. Each is registered when first used, or all at once while there are few.
pub struct RouteMetrics {
    registry: Arc<Registry>,
    route: String,
    pool: String,
    listeners: Vec<ClosedOnListener>,
    counts: Arc<RouteCounts>,
    lived: OnceLock<Histogram>,
    bytes: [OnceLock<Counter>; Way::ALL.len()],
    spliced: [OnceLock<Counter>; Way::ALL.len()],
    offers: [OnceLock<Counter>; Feature::ALL.len()],
    /// Boxed when first used, like those above.
    refusals: OnceLock<Box<Refusals>>,
}

/// What a route counts of the clients that it turns away.
#[derive(Default)]
struct Refusals {
    alerts: [OnceLock<Counter>; PLACES],
    limited: [[OnceLock<Counter>; Enforced::ALL.len()]; LimitScope::ALL.len()],
}

/// `connections_closed_total` of one route on one listener.
struct ClosedOnListener {
    listener: String,
    /// Boxed when first used: the row of counters is a hundred times the size of an unused route's handle.
    by_reason: OnceLock<Box<[OnceLock<Counter>; Reason::ALL.len()]>>,
}

impl RouteMetrics {
    pub(in crate::telemetry::metrics) fn new(
        registry: Arc<Registry>,
        route: String,
        pool: String,
        listeners: Vec<String>,
        registering: Registering,
        counts: Arc<RouteCounts>,
    ) -> Self {
        let listeners =
            listeners.into_iter().map(|listener| ClosedOnListener { listener, by_reason: OnceLock::new() }).collect();
        let this = Self {
            registry,
            route,
            pool,
            listeners,
            counts,
            lived: OnceLock::new(),
            bytes: Default::default(),
            spliced: Default::default(),
            offers: Default::default(),
            refusals: OnceLock::new(),
        };
        if registering == Registering::AtOnce {
            this.register_all();
        }
        this
    }

    /// A connection was routed here.
    pub fn routed(&self) {
        self.counts.routed();
    }

    /// A connection routed here ended; `listener` is an index into the listeners passed to `Metrics::route`.
    pub fn closed(&self, listener: ListenerIndex, reason: Reason, lived: Duration, id: ConnectionId) {
        self.closed_counter(listener, reason).increment(1);
        self.counts.closed(reason);
        self.lived().record_of(lived.as_secs_f64(), id);
    }

    /// Call it while the connection is open, with the bytes since the last call.
    pub fn bytes(&self, way: Way, n: u64) {
        self.bytes_counter(way).increment(n);
        self.counts.carried(way, n);
    }

    /// Bytes that were spliced in the kernel.
    pub fn spliced(&self, way: Way, bytes: u64) {
        self.spliced_counter(way).increment(bytes);
    }

    pub fn offers(&self, feature: Feature) {
        self.offers_counter(feature).increment(1);
    }

    /// A refusal sent this alert.
    pub(in crate::telemetry::metrics) fn alert_sent(&self, alert: Alert) {
        let counter = &self.refusals().alerts[place(alert)];
        let register = || self.registry.counter(&table::ALERTS, &[&self.route, label(alert)]);
        counter.get_or_init(register).increment(1);
    }

    /// A connection was over a limit.
    pub(in crate::telemetry::metrics) fn limit_rejected(&self, scope: LimitScope, enforced: Enforced) {
        self.limited_counter(scope, enforced).increment(1);
    }

    fn register_all(&self) {
        self.lived();
        for way in Way::ALL {
            self.bytes_counter(*way);
            self.spliced_counter(*way);
        }
        for scope in [LimitScope::Route, LimitScope::Pool, LimitScope::Backend] {
            self.limited_counter(scope, Enforced::Yes);
        }
        for scope in [LimitScope::ClientConnections, LimitScope::ClientRate] {
            Enforced::ALL.iter().for_each(|enforced| _ = self.limited_counter(scope, *enforced));
        }
        Feature::ALL.iter().for_each(|feature| _ = self.offers_counter(*feature));
        for listener in (0..self.listeners.len()).map(ListenerIndex) {
            for reason in Reason::ALL.iter().filter(|reason| ends_routed(**reason)) {
                self.closed_counter(listener, *reason);
            }
        }
    }

    fn closed_counter(&self, ListenerIndex(listener): ListenerIndex, reason: Reason) -> &Counter {
        let on = &self.listeners[listener];
        let by_reason = on.by_reason.get_or_init(|| Box::new([const { OnceLock::new() }; Reason::ALL.len()]));
        by_reason[reason as usize].get_or_init(|| {
            let labels = [&on.listener, &self.route, reason.as_str(), reason.fault().as_str()];
            self.registry.counter(&table::CLOSED, &labels)
        })
    }

    fn lived(&self) -> &Histogram {
        self.lived.get_or_init(|| self.registry.histogram(&table::DURATION, &[&self.route]))
    }

    fn bytes_counter(&self, way: Way) -> &Counter {
        self.bytes[way as usize]
            .get_or_init(|| self.registry.counter(&table::BYTES, &[&self.route, &self.pool, way.as_str()]))
    }

    fn spliced_counter(&self, way: Way) -> &Counter {
        self.spliced[way as usize]
            .get_or_init(|| self.registry.counter(&table::SPLICED, &[&self.route, &self.pool, way.as_str()]))
    }

    fn limited_counter(&self, scope: LimitScope, enforced: Enforced) -> &Counter {
        self.refusals().limited[scope as usize][enforced as usize]
            .get_or_init(|| self.registry.counter(&table::LIMITED, &[&self.route, scope.as_str(), enforced.as_str()]))
    }

    fn refusals(&self) -> &Refusals {
        self.refusals.get_or_init(Box::default)
    }

    fn offers_counter(&self, feature: Feature) -> &Counter {
        self.offers[feature as usize]
            .get_or_init(|| self.registry.counter(&table::OFFERS, &[&self.route, feature.as_str()]))
    }
}

/// Whether a routed connection can end with this reason. The others need no series per route.
const fn ends_routed(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::NoRoute
            | Reason::NoSni
            | Reason::NotTls
            | Reason::BadHello
            | Reason::InvalidSni
            | Reason::HelloTooLarge
            | Reason::HelloTimeout
            | Reason::Memory
            | Reason::Probe
            | Reason::ProxyHeader
            | Reason::ProxyUntrusted
            | Reason::LimitListener
    )
}
