use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::telemetry::Metrics;

fn snapshot(text: &str) -> Snapshot {
    let loaded = crate::config::Config::parse(text, Path::new("config.yaml"))
        .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    Snapshot::build(loaded.config, None, &Metrics::new())
}

fn ask(snapshot: &Snapshot, name: &str) -> Explanation {
    explain(snapshot, &Question { name: name.to_owned(), ..Question::default() }).expect("a good question")
}

const SHOP: &str = r#"
listeners: [{ name: https, bind: "127.0.0.1:0" }, { name: inner, bind: "127.0.0.1:0" }]
routes:
  - { name: office, sni: shop.test, source: [10.0.0.0/8], pool: staging }
  - { name: shop, sni: ["*.shop.test", shop.test], pool: shop }
  - { name: closed, sni: closed.test, refuse: close }
pools:
  shop: { backends: [10.0.0.1:443, { address: 10.0.0.2:443, weight: 3 }] }
  staging: { backends: [10.0.0.3:443] }
"#;

#[test]
fn it_tells_the_pattern_the_place_and_what_was_passed_over() {
    let reported = ask(&snapshot(SHOP), "Shop.TEST.");
    assert_eq!(reported.server_name.as_deref(), Some("shop.test"));
    assert_eq!((reported.route.as_deref(), reported.matched.as_deref()), (Some("shop"), Some("exact")));
    let taken = reported.taken.expect("a route takes it");
    assert_eq!((&*taken.pattern, taken.line, taken.column), ("shop.test", 5, 40));
    let [over] = reported.passed_over.as_slice() else { panic!("{:?}", reported.passed_over) };
    assert_eq!(
        (&*over.entry.route, &*over.unmet, &over.entry.source[..]),
        ("office", "source", &["10.0.0.0/8".to_owned()][..])
    );
    let backends = vec![
        Backend { address: "10.0.0.1:443".to_owned(), weight: 1, backup: false },
        Backend { address: "10.0.0.2:443".to_owned(), weight: 3, backup: false },
    ];
    assert_eq!(reported.pool, Some(Pool { name: "shop".to_owned(), backends, transparent: false, proxy_header: None }));
    assert_eq!(reported.assumed, ["alpn", "source", "listener"]);
    assert_eq!(reported.hints, ["`source` was assumed; the conditions of `office` depend on it"]);
}

#[test]
fn a_split_is_reported_with_its_shares() {
    let routes = SHOP
        .replace("source: [10.0.0.0/8], pool: staging", "source: [10.0.0.0/8], pool: shop")
        .replace("pool: shop }", "split: [{ pool: shop, weight: 2 }, { pool: staging, weight: 1 }] }");
    let reported = ask(&snapshot(&routes), "shop.test");
    assert!(reported.pool.is_none() && reported.refusal.is_none(), "{reported:?}");
    let shares = reported.split.expect("a split");
    let shares: Vec<_> = shares.iter().map(|share| (&*share.pool.name, share.weight, share.percent)).collect();
    assert_eq!(shares, [("shop", 2, 66.67), ("staging", 1, 33.33)]);
    assert!(reported.hints.iter().any(|hint| hint.contains("of one client may go to different pools")));
}

#[test]
fn a_name_is_asked_for_in_the_clear_unless_it_is_said_to_be_encrypted() {
    let text = SHOP.replace("sni: closed.test,", "sni: closed.test, ech: only,").replace("refuse: close", "pool: shop");
    let snapshot = snapshot(&text);
    let clear = ask(&snapshot, "closed.test");
    let over = &clear.passed_over[0];
    assert_eq!((clear.matched.as_deref(), over.unmet.as_str()), (Some("unmatched"), "ech"));
    assert!(super::text(&clear).contains("only with an encrypted name"), "{}", super::text(&clear));
    let question = Question { name: "closed.test".to_owned(), form: NameForm::Encrypted, ..Question::default() };
    let encrypted = explain(&snapshot, &question).expect("a good question");
    let taken = encrypted.taken.as_ref().and_then(|taken| taken.ech.as_deref());
    assert_eq!((encrypted.pool.as_ref().map(|pool| &*pool.name), taken), (Some("shop"), Some("only")));
    // There are no keys.
    assert!(encrypted.hints.iter().any(|hint| hint.contains("does not open Encrypted ClientHello")));
    assert!(super::text(&encrypted).contains("with an encrypted name"));
}

#[test]
fn a_listener_that_speaks_http_explains_what_a_request_gets() {
    let text = SHOP.replace(
        "listeners: [",
        "listeners: [{ name: web, bind: \"127.0.0.1:0\", protocol: http, otherwise: { pool: staging } }, { name: red, bind: \"127.0.0.1:0\", protocol: http }, ",
    );
    let snapshot = snapshot(&text);
    let ask = |name: &str, listener: &str| {
        let question = Question { name: name.to_owned(), listener: Some(listener.to_owned()), ..Question::default() };
        let explanation = explain(&snapshot, &question).expect("a good question");
        let sees = explanation.refusal.map(|refusal| (refusal.reason, refusal.client_sees, refusal.alert));
        (explanation.hints.last().cloned().expect("a hint"), sees)
    };
    let (hint, sees) = ask("www.shop.test", "red");
    assert!(hint.contains("port 80 of the backends, and all other requests are redirected"), "{hint}");
    assert_eq!(sees, None);
    assert!(ask("www.shop.test", "web").0.contains("all other requests go to pool `staging`"));
    let refused = |reason: &str, sees: &str| Some((reason.to_owned(), sees.to_owned(), None));
    assert_eq!(ask("nope.test", "red").1, refused("no_route", "status 404"));
    assert_eq!(ask("a b", "red").1, refused("bad_request", "status 400"));
    assert_eq!(ask("closed.test", "red").1, refused("refused", "close"));
}

#[test]
fn refusals_are_reported_as_the_client_sees_them() {
    let snapshot = snapshot(SHOP);
    let refusal = |name| {
        let refusal = ask(&snapshot, name).refusal.expect("refused");
        (refusal.reason, refusal.client_sees, refusal.alert.unwrap_or_default(), refusal.alert_before_tls13)
    };
    let alert = |reason: &str, name: &str| (reason.to_owned(), "alert".to_owned(), name.to_owned(), None);
    assert_eq!(refusal("nope.test"), alert("no_route", "unrecognized_name"));
    assert_eq!(refusal("b\u{fc}cher.test"), alert("invalid_sni", "illegal_parameter"));
    assert_eq!(refusal("closed.test"), ("refused".to_owned(), "close".to_owned(), String::new(), None));
    let no_sni =
        ("no_sni".to_owned(), "alert".to_owned(), "missing_extension".to_owned(), Some("handshake_failure".to_owned()));
    assert_eq!([refusal(NO_NAME), refusal("192.0.2.7")], [no_sni.clone(), no_sni]);
}

#[test]
fn who_asked_for_something_else_than_meant_is_reported() {
    let snapshot = snapshot(SHOP);
    for (name, hint) in [
        ("a.b.shop.test", "`**.shop.test` would take this name"),
        ("https://shop.test/basket", "`shop.test` is what clients send"),
        ("shop.test:443", "`shop.test` is what clients send"),
        ("b\u{fc}cher.test", "clients send this name as `xn--bcher-kva.test`"),
        ("*.shop.test", "a pattern is not a name"),
        ("192.0.2.7", "an address is not a server name"),
    ] {
        let hints = ask(&snapshot, name).hints;
        assert!(hints.iter().any(|reported| reported.contains(hint)), "{name}: {hints:?}");
    }
    let apex = snapshot_of_wildcard();
    assert!(ask(&apex, "a.test").hints[0].contains("matches names below `a.test`, not `a.test` itself"));
}

fn snapshot_of_wildcard() -> Snapshot {
    snapshot("listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\nroutes: [{ sni: \"**.a.test\", refuse: reset }]\n")
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    let snapshot = snapshot(SHOP);
    let ask = |alpn: &[String], listener: Option<&str>| {
        let listener = listener.map(str::to_owned);
        explain(
            &snapshot,
            &Question { name: "a".to_owned(), alpn: alpn.to_vec(), source: None, listener, form: NameForm::Clear },
        )
    };
    let error = ask(&[], Some("http")).expect_err("no such listener");
    assert_eq!(error.to_string(), "there is no listener `http`; there is `https`, `inner`");
    assert_eq!(ask(&["a".repeat(256)], None), Err(BadQuestion::Protocol { bytes: 256 }));
    assert_eq!(ask(&[String::new()], None), Err(BadQuestion::Protocol { bytes: 0 }));
}

/// One entry of a routing file: a pattern, and at most one value for each kind of condition. Entries with the same
/// pattern and kinds of conditions never match at the same time, as the configuration requires.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    pattern: String,
    alpn: Option<&'static str>,
    source: Option<&'static str>,
    listener: Option<&'static str>,
}

impl Line {
    fn any() -> impl Strategy<Value = Self> {
        let pattern = "(\\*\\*?\\.)?[ab](\\.[ab]){0,3}|\\*";
        let alpn = prop_oneof![3 => Just(None), 1 => Just(Some("h2"))];
        let source = prop_oneof![3 => Just(None), 1 => Just(Some("10.0.0.0/8")), 1 => Just(Some("fd00::/8"))];
        let listener = prop_oneof![3 => Just(None), 1 => Just(Some("one")), 1 => Just(Some("two"))];
        (pattern, alpn, source, listener).prop_map(|(pattern, alpn, source, listener)| Self {
            pattern,
            alpn,
            source,
            listener,
        })
    }

    /// Whether the pattern matches `name`, determined by splitting both; higher means more specific.
    fn takes(&self, name: &str) -> Option<(usize, usize, usize)> {
        let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (stars, base) = match self.pattern.trim_start_matches('*') {
            "" => return Some((0, 0, 0)),
            base => (self.pattern.len() - base.len(), labels(base.trim_start_matches('.'))),
        };
        let name = labels(name);
        let more = name.len().checked_sub(base.len()).filter(|more| name[*more..] == base[..])?;
        match (stars, more) {
            (0, 0) => Some((2, 0, 0)),
            (1, 1) => Some((1, base.len(), 1)),
            (2, 1..) => Some((1, base.len(), 0)),
            _ => None,
        }
    }

    fn holds(&self, question: &Question) -> bool {
        let inside = |network: &str| match question.source.expect("asked") {
            IpAddr::V4(address) => network == "10.0.0.0/8" && address.octets()[0] == 10,
            IpAddr::V6(address) => network == "fd00::/8" && address.octets()[0] == 0xfd,
        };
        self.alpn.is_none_or(|alpn| question.alpn.iter().any(|offered| offered == alpn))
            && self.source.is_none_or(inside)
            && self.listener.is_none_or(|listener| question.listener.as_deref() == Some(listener))
    }

    /// More kinds of conditions come first; with equally many, `source` before `alpn` before `listeners`.
    fn conditions(&self) -> (usize, bool, bool) {
        let count = [self.alpn, self.source, self.listener].iter().flatten().count();
        (count, self.source.is_some(), self.alpn.is_some())
    }
}

/// The rule of docs/routing.md, without any table: the best of all entries whose pattern and conditions match.
fn naive<'l>(lines: &'l [Line], question: &Question) -> Option<(usize, &'l Line)> {
    let candidates = lines.iter().enumerate().filter(|(_, line)| line.holds(question));
    let ranked = candidates.filter_map(|(number, line)| Some((line.takes(&question.name)?, number, line)));
    let best = ranked.max_by_key(|(rank, number, line)| (*rank, line.conditions(), usize::MAX - number));
    best.map(|(_, number, line)| (number, line))
}

fn file(lines: &[Line]) -> String {
    let mut text = "listeners: [{ name: one, bind: \"127.0.0.1:0\" }, { name: two, bind: \"127.0.0.1:0\" }]\n\
                    unmatched: { refuse: reset }\nroutes:\n"
        .to_owned();
    for (number, Line { pattern, alpn, source, listener }) in lines.iter().enumerate() {
        let condition =
            |key: &str, value: &Option<&str>| value.map_or(String::new(), |v| format!("{key}: [\"{v}\"], "));
        let conditions = condition("alpn", alpn) + &condition("source", source) + &condition("listeners", listener);
        text.push_str(&format!("  - {{ name: r{number}, sni: \"{pattern}\", {conditions}pool: p{number} }}\n"));
    }
    text.push_str("pools:\n  unused: { backends: [\"127.0.0.1:1\"] }\n");
    for number in 0..lines.len() {
        text.push_str(&format!("  p{number}: {{ backends: [\"127.0.0.1:{}\"] }}\n", number + 1));
    }
    text
}

proptest! {
    #[test]
    fn explain_and_choose_and_a_naive_matcher_agree(
        lines in proptest::collection::hash_set(Line::any(), 1..20),
        name in "[ab](\\.[ab]){0,4}",
        alpn in proptest::sample::subsequence(vec!["h2".to_owned(), "h3".to_owned(), "x".to_owned()], 0..=3),
        source in proptest::sample::select(vec!["10.1.2.3", "11.0.0.1", "fd00::1", "2001:db8::1"]),
        listener in proptest::sample::select(vec!["one", "two"]),
    ) {
        let lines: Vec<Line> = lines.into_iter().collect();
        let snapshot = snapshot(&file(&lines));
        let source = source.parse().expect("an address");
        let question = Question { name: name.clone(), alpn, source: Some(source), listener: Some(listener.to_owned()), form: NameForm::Clear };
        let expected = naive(&lines, &question);

        let sni = Sni::from_wire(name.as_bytes()).expect("a name");
        let (alpn, listener) = (Alpn::of(&question.alpn), usize::from(listener == "two"));
        let chosen = snapshot.choose(RouteQuery { sni: Some(&sni), alpn: &alpn, source: Some(source), listener: ListenerIndex(listener), form: NameForm::Clear });
        let chosen_name = expected.map_or("unmatched".to_owned(), |(number, _)| format!("r{number}"));
        prop_assert_eq!(&*chosen.route.name, chosen_name.as_str());

        let reported = explain(&snapshot, &question).expect("a good question");
        prop_assert_eq!(reported.route.as_deref(), Some(chosen_name.as_str()));
        prop_assert_eq!(reported.matched.as_deref(), Some(chosen.matched.as_str()));
        let pool = expected.map(|(number, _)| format!("p{number}"));
        prop_assert_eq!(reported.pool.map(|pool| pool.name), pool);
        prop_assert_eq!(reported.refusal.is_some(), expected.is_none());
        prop_assert_eq!(reported.taken.as_ref().map(|taken| &taken.pattern), expected.map(|(_, line)| &line.pattern));

        // Skipped entries match the name but not the conditions, and include every more specific entry.
        let best = expected.map(|(number, line)| (line.takes(&name), line.conditions(), usize::MAX - number));
        let more_specific = lines.iter().enumerate().filter(|(number, line)| {
            let rank = line.takes(&name);
            rank.is_some() && best.is_none_or(|best| (rank, line.conditions(), usize::MAX - number) > best)
        });
        let mut more_specific: Vec<String> = more_specific.map(|(number, _)| format!("r{number}")).collect();
        let mut passed_over: Vec<String> = reported.passed_over.iter().map(|over| over.entry.route.clone()).collect();
        more_specific.sort();
        passed_over.sort();
        prop_assert_eq!(passed_over, more_specific);
    }
}

#[test]
fn allow_and_deny_are_applied_to_a_source_that_is_given() {
    let snapshot = snapshot(
        r#"
listeners: [{ name: https, bind: "127.0.0.1:0", deny: [10.9.0.0/16] }]
routes:
  - { name: shop, sni: shop.test, pool: shop, allow: [10.0.0.0/8, 192.0.2.0/24], deny: [10.1.0.0/16] }
pools: { shop: { backends: [10.0.0.1:443] } }
"#,
    );
    let from = |source: &str| {
        let question = Question { source: Some(source.parse().unwrap()), ..Question::default() };
        explain(&snapshot, &Question { name: "shop.test".to_owned(), ..question }).expect("a good question")
    };
    let decided = |explanation: &Explanation| {
        let last = explanation.access.last().expect("a decision").clone();
        (last.of, last.list, last.admitted, last.network.unwrap_or_default(), last.place.unwrap_or_default())
    };
    let is = |of: &str, list: &str, admitted, network: &str, place: &str| {
        (of.to_owned(), list.to_owned(), admitted, network.to_owned(), place.to_owned())
    };
    let listener = from("10.9.9.9");
    assert_eq!(decided(&listener), is("listener https", "deny", false, "10.9.0.0/16", "config.yaml:2:56"));
    assert_eq!(listener.refusal.map(|refusal| refusal.client_sees).as_deref(), Some("reset"));
    let route = from("10.1.2.3");
    assert_eq!(decided(&route), is("route shop", "deny", false, "10.1.0.0/16", "config.yaml:4:89"));
    assert_eq!(route.refusal.and_then(|refusal| refusal.alert).as_deref(), Some("access_denied"));
    assert_eq!(decided(&from("198.51.100.1")), is("route shop", "allow", false, "", ""));
    assert_eq!(decided(&from("192.0.2.7")), is("route shop", "allow", true, "192.0.2.0/24", "config.yaml:4:67"));
    assert!(from("10.0.0.1").pool.is_some());
}

#[test]
fn what_is_unusual_about_connections_to_the_backends_is_reported() {
    let text = r#"
listeners: [{ name: https, bind: "127.0.0.1:0", proxy_protocol: { trusted: [10.0.0.0/8], others: plain } }]
routes: [{ sni: a.test, pool: a }, { sni: b.test, pool: b }]
pools:
  a: { backends: [10.0.0.1:443], transparent: true }
  b:
    backends: [10.0.0.1:443]
    send_proxy_protocol: { version: v2, relay: [0xEA, 5], add: { 0xe4: "edge" } }
"#;
    let snapshot = snapshot(text);
    let ask = |name: &str| {
        let question = Question { name: name.to_owned(), ..Question::default() };
        explain(&snapshot, &question).unwrap_or_else(|error| panic!("{error}"))
    };
    let (a, b) = (ask("a.test"), ask("b.test"));
    let hint = "listener `https` takes the client's address from PROXY headers of 10.0.0.0/8; peers elsewhere are known by their own address";
    assert_eq!((&*a.hints, &*b.hints), (&[hint.to_owned()][..], &[hint.to_owned()][..]));
    let (a, b) = (a.pool.expect("a pool"), b.pool.expect("a pool"));
    assert_eq!((a.transparent, a.proxy_header), (true, None));
    let sent = SentHeader { version: "v2".into(), relay: vec!["0xea".into(), "0x05".into()], add: vec!["0xe4".into()] };
    assert_eq!((b.transparent, b.proxy_header), (false, Some(sent)));
}
