//! Resolves names with a real nameserver on loopback; tests that depend on long times use paused time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, UdpSocket};
use std::sync::Mutex;

use hickory_server::proto::rr::RecordType;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::nameserver::{Fails, Nameserver};
use super::lookup::{Host, Part};
use super::nameservers::{AnsweredBy, Kind};
use super::*;
use crate::settings::{self, Family, Span};
use crate::telemetry::DnsResult;

#[path = "../../../tests/harness/nameserver.rs"]
#[allow(unreachable_pub, reason = "in the harness it is public to the suites")]
mod nameserver;

const DEADLINE: Duration = Duration::from_secs(20);

/// The reports of a name that is being resolved.
struct Followed {
    reports: mpsc::UnboundedReceiver<Report>,
    kick: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    fn new(query: Query, settings: Resolve) -> Self {
        Self::from(query, settings, &[], |_| false)
    }

    fn from(
        query: Query,
        settings: Resolve,
        known: &[ResolvedAddress],
        is_ours: impl Fn(SocketAddr) -> bool + Send + 'static,
    ) -> Self {
        let known = known.into();
        let (tell, reports) = mpsc::unbounded_channel();
        let kick = Arc::new(Notify::new());
        let kicked = Arc::clone(&kick);
        let report = move |report| _ = tell.send(report);
        let task = tokio::spawn(follow(query, settings, known, kicked, is_ours, report));
        Self { reports, kick, task }
    }

    async fn report(&mut self) -> Report {
        timeout(DEADLINE, self.reports.recv()).await.expect("a report in time").expect("it is followed")
    }

    /// The first report with exactly these addresses.
    async fn until(&mut self, addresses: &[&str]) -> Report {
        loop {
            let report = self.report().await;
            if reported(&report) == addresses {
                return report;
            }
        }
    }

    /// The first look-up with this result.
    async fn until_result(&mut self, wanted: DnsResult) -> Report {
        loop {
            let report = self.report().await;
            if result(&report) == Some(wanted) {
                return report;
            }
        }
    }
}

fn reported(report: &Report) -> Vec<String> {
    report.found.iter().map(|found| found.address.to_string()).collect()
}

fn result(report: &Report) -> Option<DnsResult> {
    report.looked.as_ref().map(|looked| looked.as_ref().map_or_else(Failure::result, |_| DnsResult::Ok))
}

fn host(name: &str) -> Query {
    Query::Host { host: name.into(), port: 443 }
}

fn settings(nameserver: &Nameserver) -> Resolve {
    Resolve {
        family: Family::Any,
        min_ttl: Span(Duration::from_millis(50)),
        max_ttl: Span(Duration::from_millis(200)),
        stale: Span(Duration::from_secs(3600)),
        nameservers: vec![settings::Nameserver(nameserver.address)],
        allow: vec![settings::Text("127.0.0.0/8".parse().unwrap()), settings::Text("::1/128".parse().unwrap())],
    }
}

#[tokio::test]
async fn every_address_of_both_families_is_found_and_a_change_is_followed() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.2", "::1", "127.0.0.1"]);
    let mut shop = Followed::new(host("shop.test"), settings(&dns));
    let first = shop.report().await;
    assert_eq!(reported(&first), ["127.0.0.1:443", "127.0.0.2:443", "[::1]:443"]);
    assert!(first.changed);
    assert!(first.found.iter().all(|found| found.weight.is_none() && !found.backup));
    assert!(!shop.report().await.changed, "the same answer is no change");

    dns.addresses("shop.test", 0, &["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"]);
    let more = shop.until(&["127.0.0.1:443", "127.0.0.2:443", "127.0.0.3:443", "[::1]:443"]).await;
    assert!(more.changed);
    dns.addresses("shop.test", 0, &["127.0.0.3"]);
    shop.until(&["127.0.0.3:443"]).await;
}

#[tokio::test]
async fn only_the_family_that_is_wanted_is_asked_for() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.1", "::1"]);
    let mut v4 = Followed::new(host("shop.test"), Resolve { family: Family::V4, ..settings(&dns) });
    assert_eq!(reported(&v4.report().await), ["127.0.0.1:443"]);
    let mut v6 = Followed::new(host("shop.test"), Resolve { family: Family::V6, ..settings(&dns) });
    assert_eq!(reported(&v6.report().await), ["[::1]:443"]);
}

#[tokio::test]
async fn whatever_fails_the_last_answer_stays() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    let mut shop = Followed::new(host("shop.test"), settings(&dns));
    shop.until(&["127.0.0.1:443"]).await;
    let kept = |report: Report| assert_eq!(reported(&report), ["127.0.0.1:443"]);

    dns.fail("shop.test", None, Fails::ServFail);
    kept(shop.until_result(DnsResult::ServFail).await);
    dns.remove("shop.test");
    kept(shop.until_result(DnsResult::NoSuchName).await);
    dns.services("shop.test", 0, &[]);
    kept(shop.until_result(DnsResult::NoData).await);
    dns.addresses("shop.test", 0, &["127.0.0.2"]);
    shop.until(&["127.0.0.2:443"]).await;
}

#[tokio::test]
async fn what_is_gone_is_forgotten_when_it_is_stale() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    let stale = Duration::from_millis(600);
    let mut shop = Followed::new(host("shop.test"), Resolve { stale: Span(stale), ..settings(&dns) });
    shop.until(&["127.0.0.1:443"]).await;
    dns.remove("shop.test");
    let failed = shop.until_result(DnsResult::NoSuchName).await;
    assert_eq!(reported(&failed), ["127.0.0.1:443"]);
    let begun = Instant::now();
    let gone = shop.until(&[]).await;
    assert!(gone.changed && begun.elapsed() <= stale + DEADLINE / 2);
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    shop.until(&["127.0.0.1:443"]).await;
}

#[tokio::test]
async fn what_was_known_before_is_kept_like_an_answer() {
    let dns = Nameserver::start();
    let known = ["127.0.0.1:443", "[::1]:443"].map(|address| ResolvedAddress {
        address: address.parse().unwrap(),
        weight: None,
        backup: false,
    });
    let settings = Resolve { stale: Span(Duration::from_millis(300)), ..settings(&dns) };
    let mut gone = Followed::from(host("shop.test"), settings.clone(), &known, |_| false);
    let report = gone.report().await;
    assert_eq!((reported(&report).len(), report.changed), (2, false));
    assert!(gone.until(&[]).await.changed);
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    let mut moved = Followed::from(host("shop.test"), settings, &known, |_| false);
    assert!(moved.until(&["127.0.0.1:443"]).await.changed);
}

#[tokio::test]
async fn a_nameserver_that_never_answers_is_a_timeout() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dns = Nameserver::start();
    let settings = Resolve { nameservers: vec![settings::Nameserver(silent.local_addr().unwrap())], ..settings(&dns) };
    let mut shop = Followed::new(host("shop.test"), settings);
    let report = shop.report().await;
    assert_eq!(result(&report), Some(DnsResult::TimedOut));
    assert!(reported(&report).is_empty() && !report.changed);
}

#[tokio::test]
async fn the_next_nameserver_is_asked_when_one_is_silent_or_fails() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (failing, dns) = (Nameserver::start(), Nameserver::start());
    failing.fail("shop.test", None, Fails::Refused);
    dns.addresses("shop.test", 0, &["127.0.0.1"]);
    for first in [silent.local_addr().unwrap(), failing.address] {
        let settings = Resolve { nameservers: [first, dns.address].map(settings::Nameserver).into(), ..settings(&dns) };
        let mut shop = Followed::new(host("shop.test"), settings);
        assert_eq!(reported(&shop.report().await), ["127.0.0.1:443"], "{first}");
    }
    assert!(failing.asked("shop.test") > 0);
}

#[tokio::test]
async fn a_nameserver_without_edns_is_asked_again_without_it_and_then_only_so() {
    let answers: [nameserver::ToEdns; 4] = [
        |_| None,
        // FORMERR and NOTIMP; the question is repeated, or not even that.
        |query| Some(nameserver::error_response(query, 1, 0)),
        |query| {
            let name_bytes = query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
            Some([&nameserver::error_response(query, 1, 1)[..], &query[12..12 + name_bytes + 4]].concat())
        },
        |query| {
            let name_bytes = query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
            Some([&nameserver::error_response(query, 4, 1)[..], &query[12..12 + name_bytes + 4]].concat())
        },
    ];
    for (number, to_edns) in answers.into_iter().enumerate() {
        let (address, with_edns) = nameserver::without_edns(to_edns);
        let settings = Resolve {
            family: Family::V4,
            nameservers: vec![settings::Nameserver(address)],
            ..settings(&Nameserver::start())
        };
        let mut shop = Followed::new(host("shop.test"), settings);
        for _ in 0..3 {
            assert_eq!(reported(&shop.report().await), ["127.0.0.1:443"], "{number}");
        }
        let ids: std::collections::BTreeSet<_> = with_edns.try_iter().collect();
        assert_eq!(ids.len(), 1, "{number}: one query with EDNS, which may have been repeated");
    }
}

#[tokio::test]
async fn a_nameserver_that_fails_is_not_asked_again_for_lack_of_edns() {
    let dns = Nameserver::start();
    for fails in [Fails::ServFail, Fails::Refused] {
        let asked = dns.asked("shop.test");
        dns.fail("shop.test", None, fails);
        let settings =
            Resolve { family: Family::V4, min_ttl: Span(DEADLINE), max_ttl: Span(DEADLINE), ..settings(&dns) };
        let mut shop = Followed::new(host("shop.test"), settings);
        assert_eq!(result(&shop.report().await), Some(DnsResult::ServFail));
        assert_eq!(dns.asked("shop.test") - asked, 1);
    }
}

#[tokio::test]
async fn a_family_that_is_not_answered_costs_a_second_and_does_not_lose_the_other() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.1", "::1"]);
    let mut shop = Followed::new(host("shop.test"), settings(&dns));
    shop.until(&["127.0.0.1:443", "[::1]:443"]).await;
    dns.addresses("shop.test", 0, &["127.0.0.2", "::1"]).fail("shop.test", Some(RecordType::AAAA), Fails::Silent);
    let report = shop.until(&["127.0.0.2:443", "[::1]:443"]).await;
    assert_eq!(result(&report), Some(DnsResult::Ok));
    // A temporary failure is not the same as a negative answer.
    dns.addresses("shop.test", 0, &["127.0.0.2"]);
    shop.until(&["127.0.0.2:443"]).await;
    dns.addresses("shop.test", 0, &["127.0.0.2", "::1"]).fail("shop.test", Some(RecordType::A), Fails::ServFail);
    shop.until(&["127.0.0.2:443", "[::1]:443"]).await;
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let dns = Nameserver::start();
    let many: Vec<String> = (1..=200).map(|last| format!("127.0.1.{last}")).collect();
    dns.addresses("shop.test", 0, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut shop = Followed::new(host("shop.test"), settings(&dns));
    assert_eq!(shop.report().await.found.len(), 200);
    assert!(dns.asked_over_tcp("shop.test") > 0);
}

#[tokio::test]
async fn an_alias_is_followed_and_its_ttl_counts() {
    let dns = Nameserver::start();
    dns.alias("www.test", 1, "shop.test").addresses("shop.test", 60, &["127.0.0.1"]);
    let settings = Resolve { max_ttl: Span(Duration::from_secs(300)), family: Family::V4, ..settings(&dns) };
    let mut www = Followed::new(host("www.test"), settings.clone());
    let report = www.report().await;
    assert_eq!(reported(&report), ["127.0.0.1:443"]);
    assert_eq!(report.looked.unwrap().unwrap(), Duration::from_secs(1));
    assert_eq!(dns.asked("shop.test"), 0, "the nameserver had followed it");
    dns.leave_aliases();
    let mut www = Followed::new(host("www.test"), settings.clone());
    let report = www.report().await;
    assert_eq!(reported(&report), ["127.0.0.1:443"]);
    assert_eq!(report.looked.unwrap().unwrap(), Duration::from_secs(1));
    assert_eq!(dns.asked("shop.test"), 1, "we followed it");
    dns.alias("www.test", 1, "gone.test");
    www.until_result(DnsResult::NoSuchName).await;
    dns.alias("www.test", 1, "www.test");
    let mut circle = Followed::new(host("www.test"), settings);
    assert_eq!(result(&circle.report().await), Some(DnsResult::NoData));
}

#[tokio::test]
async fn ttls_of_none_and_of_years_are_clamped() {
    let dns = Nameserver::start();
    dns.addresses("brief.test", 0, &["127.0.0.1"]);
    dns.addresses("long.test", i32::MAX as u32, &["127.0.0.1"]);
    dns.addresses("odd.test", u32::MAX, &["127.0.0.1"]);
    for (name, wanted) in [("brief.test", 50), ("long.test", 200), ("odd.test", 50)] {
        let mut followed = Followed::new(host(name), settings(&dns));
        let report = followed.report().await;
        assert_eq!(report.looked.unwrap().unwrap(), Duration::from_millis(wanted), "{name}");
        assert_eq!(reported(&followed.report().await), ["127.0.0.1:443"], "it is looked up again");
    }
}

#[tokio::test]
async fn services_give_port_weight_and_backups() {
    let dns = Nameserver::start();
    let records =
        [(10, 60, 8443, "a.test"), (10, 0, 9443, "b.test"), (20, 10, 443, "c.test"), (10, 1, 443, "gone.test")];
    dns.services("_https._tcp.shop.test", 0, &records);
    dns.alias("_https._tcp.www.test", 0, "_https._tcp.shop.test");
    dns.addresses("a.test", 0, &["127.0.0.1", "127.0.0.2"]).addresses("b.test", 0, &["::1"]);
    dns.addresses("c.test", 0, &["127.0.0.3"]);
    for name in ["_https._tcp.shop.test", "_https._tcp.www.test"] {
        let mut shop = Followed::new(Query::Service { name: name.into() }, settings(&dns));
        let report = shop.report().await;
        let found = |address: &str, weight, backup| {
            let address = address.parse().unwrap();
            ResolvedAddress { address, weight: Some(weight), backup }
        };
        let wanted = [
            found("127.0.0.1:8443", 60, false),
            found("127.0.0.2:8443", 60, false),
            found("[::1]:9443", 1, false),
            found("127.0.0.3:443", 10, true),
        ];
        assert_eq!(*report.found, wanted, "{name}");
    }
    dns.services("_https._tcp.shop.test", 0, &[(0, 0, 0, ".")]);
    let mut none = Followed::new(Query::Service { name: "_https._tcp.shop.test".into() }, settings(&dns));
    assert_eq!(result(&none.report().await), Some(DnsResult::NoData));
}

#[tokio::test]
async fn a_kick_brings_the_next_look_up_forward() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 3600, &["127.0.0.1"]);
    let max_ttl = Duration::from_secs(3600);
    let mut shop = Followed::new(host("shop.test"), Resolve { max_ttl: Span(max_ttl), ..settings(&dns) });
    shop.until(&["127.0.0.1:443"]).await;
    dns.addresses("shop.test", 3600, &["127.0.0.2"]);
    shop.kick.notify_one();
    shop.until(&["127.0.0.2:443"]).await;
}

#[tokio::test]
async fn an_answer_that_is_one_of_our_listeners_is_refused() {
    let dns = Nameserver::start();
    dns.addresses("shop.test", 0, &["127.0.0.1", "127.0.0.2", "0.0.0.0"]);
    let ours: SocketAddr = "127.0.0.1:443".parse().unwrap();
    let mut shop = Followed::from(host("shop.test"), settings(&dns), &[], move |address| address == ours);
    assert_eq!(reported(&shop.report().await), ["127.0.0.2:443"]);
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_nameserver() {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !hosts.lines().any(|line| line.starts_with("127.0.0.1") && line.contains("localhost")) {
        eprintln!("no localhost in /etc/hosts: nothing to see here");
        return;
    }
    let dns = Nameserver::start();
    let settings = Resolve { nameservers: Vec::new(), allow: Vec::new(), family: Family::V4, ..settings(&dns) };
    let mut local = Followed::new(host("localhost"), settings);
    assert_eq!(reported(&local.report().await), ["127.0.0.1:443"]);
}

// On paused time, with a list of look-up results.

fn one(address: &str) -> Result<LookupResult, Failure> {
    let host = Host { name: "shop.test".into(), port: 443, weight: None, backup: false };
    let addresses = Ok(vec![address.parse::<IpAddr>().unwrap()]);
    Ok(LookupResult {
        parts: vec![Part { host, kind: Kind::A, addresses, by: AnsweredBy::Nameserver }],
        ttl: Duration::from_secs(60),
    })
}

#[tokio::test(start_paused = true)]
async fn between_two_look_ups_what_failed_is_forgotten_in_time() {
    let settings = Resolve {
        family: Family::Any,
        min_ttl: Span(Duration::from_secs(5)),
        max_ttl: Span(Duration::from_secs(300)),
        stale: Span(Duration::from_secs(100)),
        nameservers: Vec::new(),
        allow: Vec::new(),
    };
    let begun = Instant::now();
    let reports = RefCell::new(Vec::new());
    let report = |report: Report| {
        reports.borrow_mut().push((
            begun.elapsed().as_secs(),
            report.found.len(),
            report.changed,
            report.looked.is_some(),
        ));
    };
    let mut follower = Follower::new("shop.test", &settings, Arc::default(), |_| false, report);
    let mut answers = VecDeque::from([one("10.0.0.1")]);
    let kick = Notify::new();
    while begun.elapsed() < Duration::from_secs(180) {
        let looked = answers.pop_front().unwrap_or(Err(Failure::TimedOut));
        follower.learn(looked, Instant::now(), 0.5);
        follower.wait(&kick).await;
    }
    let reports = reports.into_inner();
    // The answer is valid for 60 s; then come retries after 1, 2, 4, 8, 16 and 30 s. At 100 s it expires.
    let wanted = [
        (0, 1, true, true),
        (60, 1, false, true),
        (61, 1, false, true),
        (63, 1, false, true),
        (67, 1, false, true),
        (75, 1, false, true),
        (91, 1, false, true),
        (100, 0, true, false),
        (121, 0, false, true),
        (151, 0, false, true),
    ];
    assert_eq!(reports, wanted);
}

#[tokio::test(start_paused = true)]
async fn kicks_in_numbers_cost_one_look_up_per_least_ttl() {
    let settings = Resolve {
        family: Family::Any,
        min_ttl: Span(Duration::from_secs(5)),
        max_ttl: Span(Duration::from_secs(300)),
        stale: Span(Duration::ZERO),
        nameservers: Vec::new(),
        allow: Vec::new(),
    };
    let looks = Mutex::new(0);
    let mut follower =
        Follower::new("shop.test", &settings, Arc::default(), |_| false, |_| *looks.lock().unwrap() += 1);
    let kick = Notify::new();
    let begun = Instant::now();
    let following = async {
        loop {
            follower.learn(one("10.0.0.1"), Instant::now(), 0.5);
            follower.wait(&kick).await;
        }
    };
    let kicking = async {
        while begun.elapsed() < Duration::from_secs(29) {
            kick.notify_one();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = kicking => {}
    }
    assert_eq!(*looks.lock().unwrap(), 6);
}
