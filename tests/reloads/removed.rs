//! What becomes of live connections when their route or their backend goes away.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::Reload;
use crate::trial::Trial;
use crate::wire::{Close, connect, read_to_close};

/// Routes as they stand in the file, to one pool.
fn config(routes: &[&str], backends: &[&Backend]) -> String {
    let routes: String = routes.iter().map(|route| format!("  - {{ {route}, pool: p }}\n")).collect();
    let addresses: Vec<_> = backends.iter().map(|backend| format!("\"{}\"", backend.address)).collect();
    format!(
        "listeners:\n  - {{ name: https, bind: \"127.0.0.1:0\" }}\nadmin: {{ bind: \"127.0.0.1:0\" }}\n\
         timeouts: {{ drain: 1s }}\nroutes:\n{routes}pools: {{ p: {{ backends: [{}] }} }}\n",
        addresses.join(", ")
    )
}

#[test]
fn a_route_that_goes_says_what_becomes_of_its_connections() {
    let backend = Backend::answering(b"served");
    let routes = [
        "name: keep, sni: keep.test",
        "name: drain, sni: drain.test, on_removed: drain",
        "name: close, sni: close.test, on_removed: close",
        "name: old, sni: renamed.test, on_removed: close",
        "name: stays, sni: stays.test, on_removed: close",
    ];
    let lb = Trial::with(&config(&routes, &[&backend]));
    let [mut keep, mut drain, mut close, mut renamed, mut stays] =
        ["keep", "drain", "close", "renamed", "stays"].map(|name| lb.open(&format!("{name}.test"), b"served"));
    // One that has not said yet where it wants to go, and is served by what was in force when it came.
    let mut late = connect(lb.address());
    lb.wait_for_metric("connections_active", &[], 6.0);

    let after = ["name: new, sni: renamed.test", "name: stays, sni: other.test, on_removed: close"];
    assert_eq!(lb.edit(&config(&after, &[&backend])), Reload::Applied);
    let applied = Instant::now();
    assert_eq!(read_to_close(&mut close), (vec![], Close::Reset));
    assert_eq!(read_to_close(&mut renamed), (vec![], Close::Reset), "a route is its name");
    let at_once = applied.elapsed();
    late.write_all(&hello("close.test")).unwrap();
    assert_eq!(read_to_close(&mut late).1, Close::Reset);
    assert_eq!(read_to_close(&mut drain), (vec![], Close::Reset));
    let drained = applied.elapsed();
    assert!(at_once < drained && drained > Duration::from_millis(700), "{at_once:?}, {drained:?}");
    lb.wait_for_closed("route_removed", 4.0);
    assert_eq!(lb.wait_for_connection("drain.test")["reason"], "route_removed");
    lb.wait_for_metric("connections_active", &[], 2.0);
    for stream in [&mut keep, &mut stays] {
        stream.write_all(b"still there").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_close(stream), (vec![], Close::Fin));
    }
    lb.end();
}

#[test]
fn a_backend_that_goes_takes_connections_along_if_the_route_says_so() {
    let (one, two) = (Backend::answering(b"1"), Backend::answering(b"2"));
    let routes = ["sni: keep.test", "sni: close.test, on_removed: close"];
    let lb = Trial::with(&config(&routes, &[&one]));
    let (mut keep, mut close) = (lb.open("keep.test", b"1"), lb.open("close.test", b"1"));
    assert_eq!(lb.edit(&config(&routes, &[&one, &two])), Reload::Applied);
    assert_eq!(lb.edit(&config(&routes, &[&two])), Reload::Applied);
    assert_eq!(read_to_close(&mut close), (vec![], Close::Reset));
    lb.wait_for_closed("route_removed", 1.0);
    let mut kept = lb.open("close.test", b"2");
    for stream in [&mut keep, &mut kept] {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_close(stream), (vec![], Close::Fin));
    }
    lb.end();
}

#[test]
fn a_route_that_is_back_before_the_drain_is_over_keeps_its_connections() {
    let backend = Backend::answering(b"served");
    let all = ["sni: a.test, on_removed: drain", "sni: b.test, on_removed: drain"];
    let lb = Trial::with(&config(&all, &[&backend]));
    let (mut spared, mut drained) = (lb.open("a.test", b"served"), lb.open("b.test", b"served"));
    assert_eq!(lb.edit(&config(&["sni: c.test"], &[&backend])), Reload::Applied);
    assert_eq!(lb.edit(&config(&["sni: a.test"], &[&backend])), Reload::Applied);
    assert_eq!(read_to_close(&mut drained), (vec![], Close::Reset), "the drain is over");
    lb.wait_for_closed("route_removed", 1.0);
    spared.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut spared), (vec![], Close::Fin));
    lb.end();
}
