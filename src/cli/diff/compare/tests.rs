use std::net::IpAddr;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::ids::ListenerIndex;

fn snapshot(routes: &str) -> Side {
    let text = format!(
        "listeners: [{{ name: one, bind: \"127.0.0.1:0\" }}, {{ name: two, bind: \"127.0.0.1:0\" }}]\n\
         pools:\n  a: {{ backends: [10.0.0.1:443] }}\n  b: {{ backends: [10.0.0.2:443] }}\n{routes}\n"
    );
    let config = Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    Side::new(config.config)
}

/// Formats every change of names as one line: sign, pattern, when, from, to.
fn reported(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (snapshot(old), snapshot(new));
    let report = compare(&old, &new);
    let target = |target: &Target<'_>| target.pool.or(target.refuse).unwrap_or_default().to_owned();
    let line = |change: &PatternChange<'_>| {
        let effect = |effect: &Effect<'_>| {
            let When { alpn, source, listener, name } = effect.when.clone();
            let parts = [alpn.map(|alpn| format!("[{}]", alpn.join(","))), source, listener, name.map(str::to_owned)];
            let when: Vec<String> = parts.into_iter().flatten().collect();
            format!("{} {}>{}", when.join(" "), target(&effect.from), target(&effect.to)).trim().to_owned()
        };
        let effects: Vec<String> = change.effects.iter().map(effect).collect();
        format!("{:?} {} {}", change.kind, change.pattern, effects.join("; "))
    };
    report.patterns.iter().map(line).collect()
}

#[test]
fn allow_and_deny_are_compared_by_network() {
    let reported = |old: &str, new: &str| {
        let [old, new] =
            [old, new].map(|keys| snapshot(&format!("routes: [{{ name: r, sni: a.test, pool: a{keys} }}]")));
        let report = compare(&old, &new);
        assert_eq!(report.changes, !report.lists.is_empty());
        report.lists.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let deny = ", deny: [10.0.0.0/9, 10.128.0.0/9, 192.0.2.1]";
    assert_eq!(reported("", ""), "");
    assert_eq!(reported("", deny), "deny of route r: nobody -> 2 networks (+10.0.0.0/9, +10.128.0.0/9, +192.0.2.1/32)");
    assert_eq!(reported(deny, ", deny: [192.0.2.1, 10.0.0.0/8]"), "");
    assert_eq!(
        reported(deny, ", deny: [10.0.0.0/8, \"::1\"]"),
        "deny of route r: 1 network added, 1 removed (+10.0.0.0/8, +::1/128, -10.0.0.0/9, -10.128.0.0/9, -192.0.2.1/32)"
    );
    let many: Vec<String> = (0..12).map(|number| format!("10.0.{number}.1")).collect();
    let many = reported(deny, &format!(", deny: [10.0.0.0/9, {}]", many.join(", ")));
    assert!(many.ends_with("+10.0.9.1/32 and 4 more entries)"), "{many}");
    assert_eq!(reported(", allow: [10.0.0.1]", ""), "allow of route r: 1 network -> everybody (-10.0.0.1/32)");
}

#[test]
fn equal_files_differ_in_nothing() {
    let text = "routes: [{ sni: [a.test, \"*.a.test\"], source: [10.0.0.0/8], pool: a }, { sni: a.test, pool: b }]";
    let (old, new) = (snapshot(text), snapshot(text));
    let report = compare(&old, &new);
    assert!(!report.changes && report.patterns.is_empty() && report.other_settings.is_empty(), "{report:?}");
}

#[test]
fn a_name_that_falls_to_a_wildcard_is_reported_with_the_pool_it_falls_to() {
    let old = "routes: [{ sni: x.a.test, pool: a }, { sni: \"*.a.test\", pool: b }]";
    let new = "routes: [{ sni: \"*.a.test\", pool: b }]\nunmatched: { pool: a }";
    assert_eq!(reported(old, new), ["Removed x.a.test a>b"]);
    assert_eq!(reported(new, old), ["Added x.a.test b>a"]);
}

#[test]
fn a_pattern_that_changes_nothing_is_reported_as_such() {
    let old = "routes: [{ sni: \"*.a.test\", pool: a }]";
    let new = "routes: [{ sni: \"*.a.test\", pool: a }, { sni: x.a.test, pool: a }, { sni: b.test, refuse: alert }]";
    assert_eq!(reported(old, new), ["Added x.a.test a>a", "Added b.test alert>alert"]);
}

#[test]
fn a_share_that_changes_is_reported_and_one_that_is_written_otherwise_has_no_effect() {
    let split = |blue, green| {
        let shares = format!("[{{ pool: a, weight: {blue} }}, {{ pool: b, weight: {green} }}]");
        snapshot(&format!("routes: [{{ sni: a.test, split: {shares} }}]\nno_sni: {{ split: {shares} }}"))
    };
    let changed = |old: &Side, new: &Side| {
        let report = compare(old, new);
        let effects = |change: &PatternChange<'_>| change.effects.iter().filter(|effect| effect.changes()).count();
        (report.patterns.iter().map(effects).collect::<Vec<_>>(), report.fallbacks.len())
    };
    let old = split(90, 10);
    assert_eq!(changed(&old, &split(90, 10)), (vec![], 0));
    assert_eq!(changed(&old, &split(9, 1)), (vec![0], 0));
    assert_eq!(changed(&old, &split(10, 90)), (vec![1], 1));
    assert_eq!(changed(&old, &split(90, 0)), (vec![1], 1));
    assert_eq!(changed(&split(90, 0), &snapshot("routes: [{ sni: a.test, pool: a }]")), (vec![0], 1));
    let json = serde_json::to_value(compare(&old, &split(1, 0))).unwrap();
    let to = &json["patterns"][0]["effects"][0]["to"];
    assert_eq!(to["split"], serde_json::json!([{ "pool": "a", "weight": 1 }, { "pool": "b", "weight": 0 }]));
    assert!(to["pool"].is_null() && to["refuse"].is_null(), "{to}");
}

#[test]
fn a_route_may_be_called_otherwise_and_move() {
    let old = "routes: [{ name: x, sni: a.test, pool: a }, { sni: b.test, pool: b }]";
    let new = "routes: [{ sni: b.test, pool: b }, { name: y, sni: a.test, pool: a }]";
    assert_eq!(reported(old, new), [] as [String; 0]);
}

#[test]
fn only_the_conditions_that_matter_are_named() {
    let old = "routes: [{ sni: a.test, source: [10.0.0.0/8], listeners: [one], pool: a }, { sni: a.test, pool: b }]";
    let new = "routes: [{ sni: a.test, source: [10.0.0.0/8], pool: a }, { sni: a.test, pool: b }]";
    assert_eq!(reported(old, new), ["Changed a.test 10.0.0.0/8 other b>a"]);
    let new = "routes: [{ sni: a.test, source: [10.0.0.0/9], listeners: [one], pool: a }, { sni: a.test, pool: b }]";
    assert_eq!(reported(old, new), ["Changed a.test 10.0.0.0/8 one a>b"]);
    let new = "routes: [{ sni: a.test, alpn: [h2], pool: a }, { sni: a.test, pool: b }]";
    let moved = "[] 10.0.0.0/8 one a>b; [h2] other b>a; [h2] other one b>a";
    assert_eq!(reported(old, new), [format!("Changed a.test {moved}")]);
}

#[test]
fn conditions_that_are_written_otherwise_and_mean_the_same_are_reported_without_effect() {
    let old = "routes: [{ sni: a.test, source: [10.0.0.0/8], pool: a }]";
    let new = "routes: [{ sni: a.test, source: [10.0.0.0/9, 10.128.0.0/9], pool: a }]";
    assert_eq!(reported(old, new).len(), 1);
    let (old, new) = (snapshot(old), snapshot(new));
    assert!(compare(&old, &new).patterns.iter().all(|change| !change.effects.iter().any(Effect::changes)));
}

#[test]
fn what_a_condition_lets_through_reaches_a_changed_wildcard() {
    let old = "routes: [{ sni: x.a.test, alpn: [h2], pool: a }, { sni: \"**.test\", pool: a }]";
    let new = "routes: [{ sni: x.a.test, alpn: [h2], pool: a }, { sni: \"**.test\", pool: b }]";
    assert_eq!(reported(old, new), ["Changed x.a.test [] a>b", "Changed **.test a>b"]);
}

#[test]
fn a_name_that_must_be_encrypted_is_another_for_clients_that_send_it_in_the_clear() {
    let (old, new) = ("routes: [{ sni: a.test, pool: a }]", "routes: [{ sni: a.test, ech: only, pool: a }]");
    assert_eq!(reported(old, new), ["Changed a.test clear a>alert"]);
    assert_eq!(reported(new, new), [""; 0]);
}

#[test]
fn listeners_are_compared_by_name() {
    let text = |listeners: &str| {
        format!(
            "listeners: [{listeners}]\nroutes: [{{ sni: a.test, listeners: [two], pool: a }}]\n\
             pools: {{ a: {{ backends: [10.0.0.1:443] }} }}\n"
        )
    };
    let (one, two) = ("{ name: one, bind: \"127.0.0.1:0\" }", "{ name: two, bind: \"127.0.0.1:0\" }");
    let build = |text: String| {
        let config = Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
        Side::new(config.config)
    };
    let (old, new) = (build(text(&format!("{one}, {two}"))), build(text(&format!("{two}, {one}"))));
    let report = compare(&old, &new);
    assert!(!report.changes, "{report:?}");
    assert_eq!(report.other_settings, ["listeners"]);
}

#[test]
fn fallbacks_and_pools_are_compared_too() {
    let pools = |pools: &str, rest: &str| {
        let text = format!("listeners: [{{ name: l, bind: \"127.0.0.1:0\" }}]\npools: {{ {pools} }}\n{rest}\n");
        let config = Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
        Side::new(config.config)
    };
    let old =
        pools("p: { backends: [10.0.0.1:1, { address: 10.0.0.2:1, weight: 3 }] }, q: { backends: [10.0.0.9:1] }", "");
    let new = pools(
        "p: { backends: [10.0.0.3:1, 10.0.0.2:1], send_proxy_protocol: v2 }, r: { backends: [10.0.0.9:1] }",
        "no_sni: { pool: p }\ntimeouts: { idle: 1m }",
    );
    let report = compare(&old, &new);
    let fallback = report.fallbacks.iter().map(|change| (change.fallback, change.from.refuse, change.to.pool));
    assert_eq!(fallback.collect::<Vec<_>>(), [("no_sni", Some("alert"), Some("p"))]);
    let pools: Vec<_> =
        report.pools.iter().map(|change| (change.pool, change.kind, change.settings.join(","))).collect();
    let (changed, added, removed) = (Kind::Changed, Kind::Added, Kind::Removed);
    let none = String::new;
    assert_eq!(pools, [("p", changed, "send_proxy_protocol".to_owned()), ("r", added, none()), ("q", removed, none())]);
    let backends: Vec<_> = report.pools[0].backends.iter().map(|b| (&*b.address, b.old_weight, b.new_weight)).collect();
    let expected = [("10.0.0.1:1", Some(1), None), ("10.0.0.2:1", Some(3), Some(1)), ("10.0.0.3:1", None, Some(1))];
    assert_eq!(backends, expected);
    assert_eq!(report.other_settings, ["timeouts"]);
}

/// Routes with random patterns and conditions, in any valid order.
fn routes() -> impl Strategy<Value = String> {
    let pattern = "(\\*\\*?\\.)?[ab](\\.[ab]){0,2}|\\*";
    let condition = |values: &'static [&'static str]| prop_oneof![3 => Just(None), 1 => proptest::sample::select(values).prop_map(Some)];
    let conditions =
        (condition(&["alpn: [h2]"]), condition(&["source: [10.0.0.0/8]"]), condition(&["listeners: [one]"]));
    let to = proptest::sample::select(vec!["pool: a", "pool: b", "refuse: reset"]);
    proptest::collection::hash_map((pattern, conditions), to, 0..12).prop_map(|routes| {
        let route = |((pattern, (alpn, source, listener)), to): (_, &str)| {
            let conditions: Vec<&str> = [alpn, source, listener].into_iter().flatten().collect();
            let conditions = conditions.iter().map(|condition| format!("{condition}, ")).collect::<String>();
            let pattern: String = pattern;
            format!("  - {{ sni: \"{pattern}\", {conditions}{to} }}\n")
        };
        let routes: String = routes.into_iter().map(route).collect();
        if routes.is_empty() { String::new() } else { format!("routes:\n{routes}") }
    })
}

proptest! {
    /// A client is reported if and only if it is routed differently.
    #[test]
    fn a_client_goes_elsewhere_just_if_a_change_says_so(
        old in routes(), new in routes(), fallback in proptest::sample::select(vec!["", "unmatched: { pool: a }"]),
        name in "[abc](\\.[abc]){0,4}", h2: bool, inside: bool, listener in 0_usize..2,
    ) {
        let (old, new) = (snapshot(&old), snapshot(&format!("{new}{fallback}")));
        let sni = Sni::from_wire(name.as_bytes()).expect("a name");
        let alpn = if h2 { Alpn::of(&["h2"]) } else { Alpn::default() };
        let source = IpAddr::from(if inside { [10, 0, 0, 1] } else { [192, 0, 2, 1] });
        let asked = RouteQuery { sni: Some(&sni), alpn: &alpn, source: Some(source), listener: ListenerIndex(listener), form: NameForm::Clear };
        let (from, to) = (target(old.snapshot.choose(asked)), target(new.snapshot.choose(asked)));

        let report = compare(&old, &new);
        // The most specific pattern of either file for this name, under which the name is reported.
        let patterns = old.config.routes.iter().chain(&new.config.routes).flat_map(|route| &route.patterns);
        let most_specific = patterns.filter_map(|(pattern, _)| Some((rank(pattern, &name)?, pattern.to_string()))).max();
        let says = |effect: &&Effect<'_>| {
            effect.when.alpn.as_ref().is_none_or(|offered| offered.is_empty() != h2)
                && effect.when.source.as_ref().is_none_or(|network| (network == "other") != inside)
                && effect.when.listener.as_ref().is_none_or(|reported| reported == if listener == 0 { "one" } else { "other" })
                && effect.changes()
        };
        let reported = match most_specific {
            Some((_, pattern)) => {
                let change = report.patterns.iter().find(|change| change.pattern == pattern);
                change.and_then(|change| change.effects.iter().find(says)).map(|effect| (effect.from, effect.to))
            }
            None => report.fallbacks.iter().find(|change| change.fallback == "unmatched").map(|c| (c.from, c.to)),
        };
        match reported {
            Some((reported_from, reported_to)) => {
                prop_assert!(reported_from.is_same_for_clients(&from) && reported_to.is_same_for_clients(&to), "{report:#?}");
            }
            None => prop_assert!(from.is_same_for_clients(&to), "{from:?} -> {to:?} is not in {report:#?}"),
        }
    }
}

/// How specific `pattern` is for `name`, if it matches.
fn rank(pattern: &Pattern, name: &str) -> Option<(usize, usize, usize)> {
    let more = |base: &ServerName| {
        let before = name.strip_suffix(base.as_str())?.strip_suffix('.')?;
        Some(before.split('.').count())
    };
    match pattern {
        Pattern::Exact(exact) => (exact.as_str() == name).then_some((2, 0, 0)),
        Pattern::OneLabel(base) => (more(base)? == 1).then_some((1, base.as_str().len(), 1)),
        Pattern::ManyLabels(base) => more(base).map(|_| (1, base.as_str().len(), 0)),
        Pattern::Any => Some((0, 0, 0)),
    }
}
