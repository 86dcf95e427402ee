use proptest::prelude::*;

use super::*;

fn request<'a>(name: &'a ServerName, alpn: &'a Alpn) -> Lookup<'a> {
    Lookup {
        server_name: name,
        alpn,
        source: Some([127, 0, 0, 1].into()),
        listener: ListenerIndex(0),
        form: NameForm::Clear,
    }
}

fn table_of(patterns: &[&str]) -> RouteTable {
    let mut builder = Builder::default();
    for (route, pattern) in patterns.iter().enumerate() {
        builder.add(
            pattern.parse().expect("a pattern"),
            Conditions::default(),
            RouteIndex(u32::try_from(route).expect("few")),
        );
    }
    builder.build()
}

fn found(table: &RouteTable, name: &str) -> Option<u32> {
    table.find(&request(&name.parse().expect("a name"), &Alpn::default())).map(|found| found.route.0)
}

#[test]
fn the_most_specific_pattern_takes_a_name() {
    let table = table_of(&["a.example.com", "*.example.com", "**.example.com", "**.com", "*"]);
    assert_eq!(found(&table, "a.example.com"), Some(0));
    assert_eq!(found(&table, "b.example.com"), Some(1));
    assert_eq!(found(&table, "c.b.example.com"), Some(2));
    assert_eq!(found(&table, "example.com"), Some(3));
    assert_eq!(found(&table, "example.org"), Some(4));
    assert_eq!(found(&table, "com"), Some(4));
}

#[test]
fn no_wildcard_takes_the_apex() {
    let table = table_of(&["*.example.com", "**.example.com"]);
    assert_eq!(found(&table, "example.com"), None);
    assert_eq!(found(&table, "badexample.com"), None);
}

#[test]
fn a_longer_suffix_wins_over_a_shorter_one() {
    let table = table_of(&["**.example.com", "**.b.example.com", "*.example.com"]);
    assert_eq!(found(&table, "x.b.example.com"), Some(1));
    assert_eq!(found(&table, "b.example.com"), Some(2));
}

#[test]
fn more_conditions_come_first_and_failing_ones_fall_through() {
    let mut builder = Builder::default();
    let pattern = |text: &str| text.parse::<Pattern>().expect("a pattern");
    let h2 = Conditions { alpn: vec![(*b"h2").into()], ..Conditions::default() };
    let inside =
        Conditions { source: vec!["10.0.0.0/8".parse().expect("a net")], alpn: vec![(*b"h2").into()], ..h2.clone() };
    builder.add(pattern("a.test"), h2.clone(), RouteIndex(1));
    builder.add(pattern("a.test"), inside, RouteIndex(2));
    builder.add(pattern("*.test"), h2, RouteIndex(3));
    builder.add(pattern("**.test"), Conditions::default(), RouteIndex(4));
    let table = builder.build();
    let name: ServerName = "a.test".parse().expect("a name");
    let (plain, h2) = (Alpn::default(), Alpn::of(&["h2"]));
    assert_eq!(table.find(&request(&name, &h2)).map(|f| f.route.0), Some(1));
    assert_eq!(
        table.find(&Lookup { source: Some([10, 1, 1, 1].into()), ..request(&name, &h2) }).map(|f| f.route.0),
        Some(2)
    );
    let mut seen = Vec::new();
    let end = table.walk(&request(&name, &plain), |candidate| seen.push((candidate.route, candidate.unmet)));
    assert_eq!(end, Some(Found { route: RouteIndex(4), by: By::ManyLabels }));
    assert_eq!(
        seen,
        [(2, Some(Unmet::Source)), (1, Some(Unmet::Alpn)), (3, Some(Unmet::Alpn)), (4, None)]
            .map(|(route, unmet)| (RouteIndex(route), unmet))
    );
}

/// The rule of docs/routing.md without a table: matches every pattern against the name, and the best one wins.
fn naive(entries: &[(Pattern, Conditions)], request: &Lookup<'_>) -> Option<u32> {
    let name = request.server_name.as_str();
    let rank = |pattern: &Pattern| {
        let labels_more = |base: &ServerName| {
            let front = name.strip_suffix(base.as_str())?.strip_suffix('.')?;
            Some(front.split('.').count())
        };
        match pattern {
            Pattern::Exact(base) => (base.as_str() == name).then_some((3, 0, 0)),
            Pattern::OneLabel(base) => (labels_more(base)? == 1).then_some((2, base.as_str().len(), 1)),
            Pattern::ManyLabels(base) => labels_more(base).map(|_| (2, base.as_str().len(), 0)),
            Pattern::Any => Some((1, 0, 0)),
        }
    };
    let holds = |conditions: &Conditions| {
        (conditions.alpn.is_empty() || conditions.alpn.iter().any(|p| request.alpn.protocols().any(|o| o == &p[..])))
            && (conditions.source.is_empty()
                || conditions.source.iter().any(|net| net.contains(&request.source.unwrap())))
            && (conditions.listeners.is_empty() || conditions.listeners.contains(&request.listener))
            && (conditions.ech != EchCondition::Only || request.form == NameForm::Encrypted)
            && (conditions.ech != EchCondition::Never || request.form == NameForm::Clear)
    };
    let takes = |(number, (pattern, conditions)): (usize, &(Pattern, Conditions))| {
        let rank = rank(pattern).filter(|_| holds(conditions))?;
        Some(((rank, conditions.rank(), usize::MAX - number), u32::try_from(number).expect("few")))
    };
    entries.iter().enumerate().filter_map(takes).max().map(|(_, route)| route)
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let alpn = prop_oneof![3 => Just(vec![]), 1 => Just(vec![Box::from(*b"h2")])];
    let source = prop_oneof![3 => Just(vec![]), 1 => Just(vec!["10.0.0.0/8".parse().expect("a net")])];
    let listeners = prop_oneof![3 => Just(vec![]), 1 => Just(vec![ListenerIndex(1)])];
    let ech = prop_oneof![3 => Just(EchCondition::Any), 1 => Just(EchCondition::Only), 1 => Just(EchCondition::Never)];
    (alpn, source, listeners, ech).prop_map(|(alpn, source, listeners, ech)| Conditions {
        alpn,
        source,
        listeners,
        ech,
    })
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_matcher(
        entries in proptest::collection::vec(("(\\*\\*?\\.)?[ab](\\.[ab]){0,3}|\\*", conditions()), 0..24),
        name in "[ab](\\.[ab]){0,4}",
        h2: bool, inside: bool, listener in 0_usize..2, encrypted: bool,
    ) {
        let entries: Vec<(Pattern, Conditions)> =
            entries.into_iter().map(|(pattern, conditions)| (pattern.parse().expect("a pattern"), conditions)).collect();
        let mut builder = Builder::default();
        for (number, (pattern, conditions)) in entries.iter().enumerate() {
            builder.add(pattern.clone(), conditions.clone(), RouteIndex(u32::try_from(number).expect("few")));
        }
        let name = name.parse().expect("a name");
        let alpn = if h2 { Alpn::of(&["h2"]) } else { Alpn::default() };
        let source = Some(if inside { [10, 0, 0, 1] } else { [192, 0, 2, 1] }.into());
        let form = if encrypted { NameForm::Encrypted } else { NameForm::Clear };
        let request = Lookup { server_name: &name, alpn: &alpn, source, listener: ListenerIndex(listener), form };
        let table = builder.build();
        let (mut last, expected) = (None, naive(&entries, &request));
        let explained = table.walk(&request, |candidate| last = Some(candidate));
        prop_assert_eq!(table.find(&request).map(|found| found.route.0), expected);
        prop_assert_eq!(explained.map(|found| found.route.0), expected);
        prop_assert_eq!(last.filter(|last| last.unmet.is_none()).map(|last| last.route.0), expected);
    }
}
