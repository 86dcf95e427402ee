//! An API server that goes away, answers with errors or nonsense, or lacks what it should have: nobody's connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api_path::Call;
use crate::api_server::Fault;
use crate::backend::Backend;
use crate::cluster::{Clients, Cluster, Seen, backend, seen, wait_until};
use crate::harness::{DEADLINE, Lb, Reload, Running, poll};
use crate::objects::{self, NAMESPACE};

in_a_namespace! {
    "outages":
    an_api_server_that_goes_away_changes_nothing, goes_away;
    bad_answers_change_nothing, bad_answers;
    an_api_server_that_fails_is_asked_less_and_less_often, no_busy_loop;
    retry_after_is_heeded, busy;
    other_settings_come_into_force_while_the_api_server_is_silent, silence;
    conflicts_are_written_again_and_nothing_of_others_is_lost, conflicts;
    a_history_that_is_gone_is_listed_again, history_gone;
    nothing_is_served_until_every_kind_is_known, missing_kind;
    a_restart_with_the_same_objects_writes_nothing, restart;
    a_service_that_may_not_be_made_is_told_to_its_gateway, forbidden;
    an_object_that_cannot_be_read_stops_no_other, unreadable;
}

fn status(lb: &Running) -> Value {
    let (code, body) = lb.admin_get("/api/v1/status");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["kubernetes"].take()
}

fn wait_until_connected(lb: &Running, wanted: bool) {
    let last = poll(|| match status(lb) {
        now if now["connected"] == wanted => Ok(()),
        now => Err(now),
    });
    last.unwrap_or_else(|now| panic!("{now:#}"));
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn goes_away() {
    let (cluster, pod, lb, address) = serving();
    assert_eq!(lb.metric("kubernetes_synced", &[]), 1.0);
    assert_eq!(lb.metric("kubernetes_objects", &[("kind", "TLSRoute")]), 1.0);

    cluster.api.vanish();
    wait_until_connected(&lb, false);
    assert_eq!(seen(address, "shop.example.com"), Seen::Served, "what was in force goes on");
    assert_eq!(lb.metric("kubernetes_synced", &[]), 0.0);
    assert!(lb.metric("kubernetes_away_since_timestamp_seconds", &[]) > 0.0);
    assert!(lb.metric("kubernetes_watch_errors_total", &[]) > 0.0);
    let lost = lb.wait_for_line(|line| line["event"] == "kubernetes_lost");
    assert!(lost["msg"].as_str().unwrap().contains("what is in force stays"), "{lost}");
    let (_, body) = lb.admin_get("/api/v1/status");
    assert!(body.contains("kubernetes_failing"), "{body}");
    let (code, _) = lb.admin_get("/readyz");
    assert_eq!(code, 200, "ready all the same");

    // Meanwhile something changes.
    cluster.service("blog", &[&pod]);
    cluster.route("blog", "blog.example.com", "blog");
    cluster.api.delete("tlsroutes", NAMESPACE, "shop");
    cluster.api.come_back();
    wait_until(address, "blog.example.com", Seen::Served);
    wait_until(address, "shop.example.com", Seen::Closed);
    wait_until_connected(&lb, true);
    assert_eq!(lb.metric("kubernetes_away_since_timestamp_seconds", &[]), 0.0);
    lb.stop();
}

/// A cluster with a route, and a snigate that serves it.
fn serving() -> (Cluster, Backend, Running, SocketAddr) {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    wait_until_connected(&lb, true);
    (cluster, pod, lb, address)
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn bad_answers() {
    let (cluster, pod, lb, address) = serving();
    let clients = Clients::start(address, "shop.example.com", 50);
    let faults =
        [Fault::Status(500), Fault::Status(403), Fault::Garbage, Fault::HalfLine, Fault::ShortWatches, Fault::Busy(1)];
    for (number, fault) in faults.into_iter().enumerate() {
        let seen_errors = lb.metric("kubernetes_watch_errors_total", &[]);
        cluster.api.fault(fault);
        poll(|| match lb.metric("kubernetes_watch_errors_total", &[]) {
            now if now > seen_errors => Ok(()),
            now => Err(now),
        })
        .unwrap_or_else(|now| panic!("{fault:?}: {now} errors"));
        // What changes meanwhile is not lost: a route comes, and endpoints.
        let name = format!("after-{number}");
        cluster.route(&name, &format!("{name}.example.com"), &name);
        cluster.service(&name, &[&pod]);
        cluster.api.fault(Fault::None);
        wait_until(address, &format!("{name}.example.com"), Seen::Served);
        wait_until_connected(&lb, true);
    }
    clients.were_all_served(50);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn no_busy_loop() {
    let (cluster, _pod, lb, address) = serving();
    for fault in [Fault::Status(500), Fault::Garbage, Fault::HalfLine, Fault::ShortWatches] {
        let began = Instant::now();
        cluster.api.fault(fault);
        // Each pause is about twice as long as the one before.
        let reads = poll(|| match cluster.api.reads_since(began, "tlsroutes") {
            reads if reads.len() >= 5 => Ok(reads),
            reads => Err(reads.len()),
        });
        let reads = reads.unwrap_or_else(|count| panic!("{fault:?}: given up after {count} requests"));
        let took = reads[4] - reads[0];
        assert!(took >= Duration::from_millis(700), "{fault:?}: five requests in {took:?}");
        assert!(!status(&lb)["connected"].as_bool().unwrap(), "{fault:?}");
        assert_eq!(seen(address, "shop.example.com"), Seen::Served, "{fault:?}");
        cluster.api.fault(Fault::None);
        wait_until_connected(&lb, true);
    }
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn busy() {
    let (cluster, _pod, lb, address) = serving();
    let began = Instant::now();
    cluster.api.fault(Fault::Busy(3));
    let reads = poll(|| match cluster.api.reads_since(began, "tlsroutes") {
        reads if reads.len() >= 2 => Ok(reads),
        reads => Err(reads.len()),
    });
    let reads = reads.expect("it is asked again");
    assert!(reads[1] - reads[0] >= Duration::from_secs(3), "{:?}", reads[1] - reads[0]);
    assert_eq!(seen(address, "shop.example.com"), Seen::Served);
    cluster.api.fault(Fault::None);
    wait_until_connected(&lb, true);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn silence() {
    let (cluster, _pod, lb, address) = serving();
    let clients = Clients::start(address, "shop.example.com", 50);
    cluster.api.fault(Fault::Silence);
    // Other settings come into force meanwhile: what is known stays, without a word from the API server.
    let edited = Lb::new().with("kubernetes: { unmatched: reset }");
    assert_eq!(lb.edit(&edited.config()), Reload::Applied);
    wait_until(address, "unknown.example.com", Seen::Reset);
    assert_eq!(seen(address, "shop.example.com"), Seen::Served);
    cluster.api.vanish();
    wait_until_connected(&lb, false);
    let edited = Lb::new().with("kubernetes: { unmatched: close }");
    assert_eq!(lb.edit(&edited.config()), Reload::Applied);
    wait_until(address, "unknown.example.com", Seen::Closed);
    cluster.api.fault(Fault::None);
    cluster.api.come_back();
    wait_until_connected(&lb, true);
    clients.were_all_served(50);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn conflicts() {
    let (cluster, _pod, lb, _) = serving();
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    cluster.api.conflict(3);
    cluster.route("late", "late.example.com", "shop");
    cluster.wait_for_route("late", "Accepted=True/Accepted");
    assert!(lb.metric("kubernetes_status_writes_total", &[("result", "conflict")]) > 0.0);
    // Somebody else writes the same object: neither is lost.
    cluster.api.write_along("tlsroutes", NAMESPACE, "late", "theirs");
    cluster.route("late", "later.example.com", "shop");
    cluster.api.wait_for("tlsroutes", NAMESPACE, "late", |route| {
        let parents = route["status"]["parents"].as_array()?;
        let of_other = parents.iter().any(|parent| parent["controllerName"] == "example.com/other");
        let ours = parents.iter().find(|parent| parent["controllerName"] == objects::CONTROLLER)?;
        let accepted = ours["conditions"].as_array()?.iter().find(|it| it["type"] == "Accepted")?;
        (of_other && accepted["observedGeneration"] == 2).then_some(())
    });
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn history_gone() {
    let (cluster, _pod, lb, address) = serving();
    // A change that no watch has shown, in a history that is gone at once.
    let began = Instant::now();
    cluster.api.fault(Fault::Status(500));
    cluster.route("blog", "blog.example.com", "shop");
    cluster.api.delete("tlsroutes", NAMESPACE, "shop");
    cluster.api.compact();
    cluster.api.fault(Fault::None);
    wait_until(address, "blog.example.com", Seen::Served);
    wait_until(address, "shop.example.com", Seen::Closed);
    wait_until_connected(&lb, true);
    let listed = cluster.api.listed_since(began);
    assert_eq!(listed.len(), 8, "{listed:?}");
    // From there on, changes are watched again.
    cluster.route("news", "news.example.com", "shop");
    wait_until(address, "news.example.com", Seen::Served);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn missing_kind() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.api.without("tlsroutes");
    let lb = cluster.spawn();
    let line = lb.wait_for_line(|line| line["event"] == "kubernetes_kind_missing");
    assert!(line["msg"].as_str().unwrap().contains("install Gateway API 1.5"), "{line}");
    cluster.api.wait_for("gatewayclasses", "", "snigate", |class| {
        let (status, reason, message) = crate::objects::condition(&class["status"]["conditions"], "SupportedVersion")?;
        (status == "False" && reason == "UnsupportedVersion" && message.contains("1.5")).then_some(())
    });
    assert!(!lb.lines.all().iter().any(|line| line["event"] == "ready"), "not ready");
    // It is installed.
    cluster.api.with("tlsroutes");
    cluster.route("shop", "shop.example.com", "shop");
    lb.wait_for_line(|line| line["event"] == "ready");
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    cluster.api.wait_for("gatewayclasses", "", "snigate", |class| {
        let (status, ..) = crate::objects::condition(&class["status"]["conditions"], "SupportedVersion")?;
        (status == "True").then_some(())
    });
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn restart() {
    let (cluster, _pod, lb, address) = serving();
    cluster.wait_for_route("shop", "Accepted=True/Accepted");
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    lb.stop();
    let settled = cluster.api.writes().len();
    let lb = cluster.start();
    assert_eq!(seen(address, "shop.example.com"), Seen::Served, "the same target port, from the start");
    lb.wait_for_metric("kubernetes_leader", &[], 1.0);
    // The leader has looked at everything once it has carried out a change that came later. That one is about a Gateway
    // of its own: nothing else has a reason to be written.
    cluster.api.put(objects::gateway("later"));
    cluster.api.put(objects::route("later", "later", "later.example.com", &[("shop", 1)]));
    cluster.wait_for_route("later", "Accepted=True/Accepted");
    cluster.wait_for_gateway("later", "Programmed=True/Programmed");
    let writes = cluster.api.writes();
    // What is created has no name in its URL.
    let (of_later, of_others): (Vec<&Call>, Vec<&Call>) =
        writes[settled..].iter().partition(|call| ["later", ""].contains(&&*call.target.name));
    assert!(of_others.is_empty(), "{of_others:?}");
    let created: Vec<_> = of_later.iter().filter(|call| call.verb == "create").map(|it| &*it.target.resource).collect();
    assert_eq!(created, ["services"], "its own Service");
    assert_eq!(cluster.address("edge", 443), address);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn forbidden() {
    let (cluster, _pod, lb, address) = serving();
    let of = |namespace: &'static str, kind: &'static str, reason: &'static str| {
        cluster.api.wait_for("gateways", namespace, "second", |gateway| {
            let (_, found, message) = objects::condition(&gateway["status"]["conditions"], kind)?;
            (found == reason).then_some(message)
        })
    };
    // No Service could lead to this process from there.
    cluster.api.put(objects::namespace("far", "red"));
    cluster.api.put(objects::within("far", objects::gateway("second")));
    let message = of("far", "Accepted", "Invalid");
    assert!(message.contains("in the namespace default"), "{message}");
    assert_eq!(cluster.api.get("services", "far", "second-snigate"), None);

    cluster.api.forbid_services(NAMESPACE, true);
    cluster.api.put(objects::gateway("second"));
    let message = cluster.api.wait_for("gateways", NAMESPACE, "second", |gateway| {
        let (_, _, message) = objects::condition(&gateway["status"]["conditions"], "Programmed")?;
        message.contains("forbidden").then_some(message)
    });
    assert!(message.contains("allow snigate to write Services"), "{message}");
    assert_eq!(seen(address, "shop.example.com"), Seen::Served, "other Gateways serve on");
    cluster.api.forbid_services(NAMESPACE, false);
    cluster.wait_for_gateway("second", "Programmed=True/Programmed");
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn unreadable() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    let old = |name: &str| {
        let mut route = objects::route(name, "edge", "old.example.com", &[("shop", 1)]);
        route["spec"].as_object_mut().unwrap().remove("hostnames");
        route
    };
    // One is listed, another one is watched, and a third one was served before.
    cluster.api.put_unchecked(old("listed"));
    cluster.route("shop", "shop.example.com", "shop");
    cluster.route("spoilt", "spoilt.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "spoilt.example.com", Seen::Served);
    cluster.api.put_unchecked(old("watched"));
    cluster.api.put_unchecked(old("spoilt"));
    cluster.route("blog", "blog.example.com", "shop");
    wait_until(address, "blog.example.com", Seen::Served);
    for name in ["default/listed", "default/watched", "default/spoilt"] {
        let is_it = |line: &Value| line["event"] == "kubernetes_object_unreadable" && line["name"] == name;
        let line = lb.lines().wait_for(0, DEADLINE, is_it).unwrap_or_else(|| panic!("{}", lb.lines()));
        assert!(line["error"].as_str().unwrap().contains("hostnames"), "{line}");
    }
    assert_eq!(seen(address, "spoilt.example.com"), Seen::Served, "what it said before stays in force");
    // After a list, too; but not once it is deleted.
    let compacted = Instant::now();
    cluster.api.compact();
    poll(|| if cluster.api.listed_since(compacted).contains("tlsroutes") { Ok(()) } else { Err(()) }).expect("a list");
    cluster.route("news", "news.example.com", "shop");
    wait_until(address, "news.example.com", Seen::Served);
    assert_eq!(seen(address, "spoilt.example.com"), Seen::Served);
    cluster.api.delete("tlsroutes", NAMESPACE, "spoilt");
    wait_until(address, "spoilt.example.com", Seen::Closed);
    lb.stop();
}
