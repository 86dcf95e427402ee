//! No text of a routing file makes loading panic, or cost more than its length; what loads can be put in force.
//!
//! Time and memory are bounded by libFuzzer's own limits, as `run.sh` sets them.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use snigate::internals::config::{Config, Severity};
use snigate::internals::route::NameForm;
use snigate::internals::snapshot::{RouteQuery, Snapshot};
use snigate::internals::{Alpn, ListenerIndex, Metrics, Sni};

fuzz_target!(|text: &str| {
    // Nothing stands beside it, and a text that reaches elsewhere on this disk is left alone.
    if text.contains("include") && text.contains(['/', '\\']) {
        return;
    }
    let file = Path::new("/nonexistent/snigate/config.yaml");
    match Config::parse(text, file) {
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|problem| problem.severity == Severity::Warning));
            assert!(loaded.warnings.iter().all(|problem| !problem.to_string().is_empty()));
            check_config(loaded.config);
        }
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.severity == Severity::Error), "refused without a word");
            assert!(problems.iter().all(|problem| problem.to_string().starts_with("/nonexistent/")), "without a place");
        }
    }
});

fn check_config(config: Config) {
    assert!(!config.listeners.is_empty());
    let listeners = config.listeners.len();
    let metrics = Metrics::new();
    let snapshot = Snapshot::build(config.clone(), None, &metrics);
    assert_eq!(snapshot.routes.len(), config.routes.len());
    for (pattern, _) in config.routes.iter().flat_map(|route| &route.patterns) {
        let Some(base) = pattern.base() else { continue };
        for name in [base.to_string(), format!("a.{base}"), format!("a.b.{base}")] {
            let Ok(sni) = Sni::from_wire(name.as_bytes()) else { continue };
            for listener in (0..listeners).map(ListenerIndex) {
                let asked = RouteQuery {
                    sni: Some(&sni),
                    alpn: &Alpn::default(),
                    source: Some([192, 0, 2, 1].into()),
                    listener,
                    form: NameForm::Clear,
                };
                snapshot.choose_watched(asked, |candidate| {
                    let place = snapshot.place(candidate.number());
                    let route = &config.routes[candidate.route.0 as usize];
                    assert!(route.patterns.iter().any(|(_, stands)| *stands == place), "{place} in {route:?}");
                });
            }
        }
    }
    // The one after it, which takes over its backends.
    Snapshot::build(config, Some(&snapshot), &metrics).retire_series();
}
