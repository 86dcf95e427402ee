//! An API server that goes away, answers with errors or nonsense, or lacks what it should have: nobody's connection.

use serde_json::Value;

use crate::api_server::Fault;
use crate::cluster::{ADDRESSES, Cluster, Seen, backend, seen, wait_until};
use crate::harness::{Running, poll};
use crate::namespace;
use crate::objects::NAMESPACE;

macro_rules! in_a_namespace {
    ($($name:ident, $inside:ident;)*) => {$(
        #[test]
        fn $name() {
            namespace::run_test(ADDRESSES, concat!("outages::", stringify!($inside)));
        }
    )*};
}

in_a_namespace! {
    an_api_server_that_goes_away_changes_nothing, goes_away;
    bad_answers_change_nothing, bad_answers;
    a_history_that_is_gone_is_listed_again, history_gone;
    nothing_is_served_until_every_kind_is_known, missing_kind;
    a_restart_with_the_same_objects_writes_nothing, restart;
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
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    wait_until_connected(&lb, true);
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

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn bad_answers() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    let faults = [Fault::Status(429), Fault::Status(500), Fault::Status(403), Fault::Garbage, Fault::HalfLine];
    for (number, fault) in faults.into_iter().enumerate() {
        let seen_errors = lb.metric("kubernetes_watch_errors_total", &[]);
        cluster.api.fault(fault);
        poll(|| match lb.metric("kubernetes_watch_errors_total", &[]) {
            now if now > seen_errors => Ok(()),
            now => Err(now),
        })
        .unwrap_or_else(|now| panic!("{fault:?}: {now} errors"));
        assert_eq!(seen(address, "shop.example.com"), Seen::Served, "{fault:?}");
        cluster.api.fault(Fault::None);
        let name = format!("after-{number}");
        cluster.route(&name, &format!("{name}.example.com"), "shop");
        wait_until(address, &format!("{name}.example.com"), Seen::Served);
    }
    wait_until_connected(&lb, true);
    // Silence is no answer either.
    cluster.api.fault(Fault::Silence);
    assert_eq!(seen(address, "shop.example.com"), Seen::Served);
    cluster.api.vanish();
    cluster.api.fault(Fault::None);
    cluster.api.come_back();
    wait_until_connected(&lb, true);
    // Conflicts and writes that fail are tried again.
    cluster.api.conflict(3);
    cluster.route("late", "late.example.com", "shop");
    cluster.wait_for_route("late", "Accepted=True/Accepted");
    assert!(lb.metric("kubernetes_status_writes_total", &[("result", "conflict")]) > 0.0);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn history_gone() {
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    let lists = || cluster.api.requests().iter().filter(|call| call.verb == "list").count();
    let before = lists();
    cluster.api.compact();
    poll(|| if lists() > before { Ok(()) } else { Err(()) }).expect("objects are listed again");
    cluster.route("blog", "blog.example.com", "shop");
    wait_until(address, "blog.example.com", Seen::Served);
    assert_eq!(seen(address, "shop.example.com"), Seen::Served);
    wait_until_connected(&lb, true);
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
    let cluster = Cluster::new();
    let pod = backend("10.244.0.2", 8443);
    cluster.service("shop", &[&pod]);
    cluster.route("shop", "shop.example.com", "shop");
    let lb = cluster.start();
    let address = cluster.address("edge", 443);
    wait_until(address, "shop.example.com", Seen::Served);
    cluster.wait_for_route("shop", "Accepted=True/Accepted");
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    lb.stop();
    let settled = cluster.api.writes().len();
    let lb = cluster.start();
    assert_eq!(seen(address, "shop.example.com"), Seen::Served, "the same target port, from the start");
    lb.wait_for_metric("kubernetes_leader", &[], 1.0);
    // The leader has looked at everything once it has carried out a change that came later.
    cluster.route("blog", "blog.example.com", "shop");
    cluster.wait_for_route("blog", "Accepted=True/Accepted");
    let writes = cluster.api.writes();
    let of_others: Vec<_> = writes[settled..].iter().filter(|call| call.target.name != "blog").collect();
    assert!(of_others.iter().all(|call| call.target.resource == "gateways"), "{of_others:?}");
    lb.stop();
}
