use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const FILE: &str = "listeners: [{ name: l, bind: \"127.0.0.1:1\" }]\n\
    routes: [{ name: admin, sni: [admin.example.com, \"*.kept.example.com\"], source: [10.0.0.0/8], pool: web@docker }]\n\
    pools: { web@docker: { backends: [\"10.9.9.9:1\"] } }\n\
    docker: { allow: [\"**.example.com\"] }\n";

fn file() -> Config {
    Config::parse(FILE, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config
}

fn container(number: u8, labels: &[(&str, &str)]) -> Container {
    Container {
        id: format!("{number:064x}"),
        name: format!("c{number}"),
        created: i64::from(number),
        labels: labels.iter().map(|(label, text)| (format!("snigate.{label}"), (*text).to_owned())).collect(),
        exposed: [443].into(),
        networks: BTreeMap::from([("edge".to_owned(), vec![format!("10.0.0.{number}").parse().unwrap()])]),
        ..Container::default()
    }
}

fn down(container: Container) -> Container {
    Container { state: State::Down("it has stopped"), networks: BTreeMap::new(), ..container }
}

fn translated(containers: &[Container]) -> Translation {
    let file = file();
    translate(file.docker.as_ref().unwrap(), containers, &file, &|address| address.port() == 9901)
}

/// `NAME -> POOL [ADDRESSES]` for each route.
fn routes(translation: &Translation) -> Vec<String> {
    let route = |FoundRoute { pool, patterns }: &FoundRoute| {
        let patterns: Vec<String> = patterns.iter().map(|(pattern, _)| pattern.to_string()).collect();
        let backends: Vec<String> = pool.backends.iter().map(|backend| backend.address.to_string()).collect();
        format!("{} -> {} [{}]", patterns.join(" "), pool.name, backends.join(" "))
    };
    translation.contribution.routes.iter().map(route).collect()
}

/// `CONTAINER: LABEL: MESSAGE` for each mistake.
fn mistakes(translation: &Translation) -> Vec<String> {
    let of = |report: &Report| {
        let name = report.name.clone();
        let line = move |mistake: &Mistake| format!("{name}: {}: {}", mistake.label, mistake.message);
        report.mistakes.iter().map(line).collect::<Vec<_>>()
    };
    translation.reports.iter().flat_map(of).collect()
}

fn fates(translation: &Translation) -> Vec<Fate> {
    translation.reports.iter().map(|report| report.fate).collect()
}

#[test]
fn containers_of_one_pool_share_their_names() {
    let found = translated(&[
        container(2, &[("sni", "b.example.com, a.example.com"), ("pool", "shop"), ("weight", "5")]),
        container(1, &[("sni", "a.example.com"), ("pool", "shop")]),
        container(3, &[("sni", "**.c.example.com")]),
    ]);
    let expected = [
        "**.c.example.com -> c3@docker [10.0.0.3:443]",
        "a.example.com b.example.com -> shop@docker [10.0.0.1:443 10.0.0.2:443]",
    ];
    assert_eq!(routes(&found), expected);
    assert_eq!(fates(&found), [Fate::Served; 3]);
    let shop = &found.contribution.routes[1];
    assert_eq!(shop.pool.backends[1].weight, 5);
    let places: Vec<String> = shop.patterns.iter().map(|(_, place)| place.to_string()).collect();
    assert_eq!(places, ["container c1", "container c2"]);
}

#[test]
fn a_container_that_is_down_keeps_its_names() {
    let stopped = translated(&[down(container(1, &[("sni", "a.example.com")]))]);
    assert_eq!(routes(&stopped), ["a.example.com -> c1@docker []"]);
    assert_eq!((stopped.reports[0].fate, stopped.reports[0].why), (Fate::Down, Some("it has stopped")));
    let labels = [("sni", "a.example.com"), ("pool", "p")];
    let half = translated(&[down(container(1, &labels)), container(2, &labels)]);
    assert_eq!(routes(&half), ["a.example.com -> p@docker [10.0.0.2:443]"]);
    assert_eq!(fates(&half), [Fate::Down, Fate::Served]);
}

#[test]
fn of_two_that_want_a_name_the_older_has_it_even_if_it_is_down() {
    let found = translated(&[
        container(2, &[("sni", "a.example.com, b.example.com")]),
        down(container(1, &[("sni", "a.example.com")])),
        container(3, &[("sni", "a.example.com")]),
    ]);
    assert_eq!(routes(&found), ["a.example.com -> c1@docker []", "b.example.com -> c2@docker [10.0.0.2:443]"]);
    let expected = [
        "c2: snigate.sni: `a.example.com` goes to the older container c1",
        "c3: snigate.sni: `a.example.com` goes to the older container c1",
    ];
    assert_eq!(mistakes(&found), expected);
    assert_eq!(fates(&found), [Fate::Down, Fate::Served, Fate::LeftOut]);
}

#[test]
fn the_file_wins_whatever_the_conditions_of_its_route() {
    let found = translated(&[container(1, &[("sni", "admin.example.com, *.kept.example.com, x.kept.example.com")])]);
    assert_eq!(routes(&found), ["x.kept.example.com -> c1@docker [10.0.0.1:443]"]);
    let first = "c1: snigate.sni: `admin.example.com` goes to route `admin` of the file, at f.yaml:2:31";
    assert_eq!(mistakes(&found)[0], first);
    assert_eq!(mistakes(&found).len(), 2);
    let pool = translated(&[container(1, &[("sni", "a.example.com"), ("pool", "web")])]);
    assert!(routes(&pool).is_empty());
    assert!(mistakes(&pool)[0].contains("the file has a pool or a route named `web@docker`"));
}

#[test]
fn a_broken_label_leaves_out_that_container_alone() {
    let found = translated(&[
        container(1, &[("sni", "a.other.com")]),
        container(2, &[("sni", "b.example.com"), ("port", "x")]),
        container(3, &[("sni", "c.example.com")]),
        container(4, &[("sni", "d.example.com"), ("port", "9901")]),
    ]);
    assert_eq!(routes(&found), ["c.example.com -> c3@docker [10.0.0.3:443]"]);
    assert_eq!(fates(&found), [Fate::LeftOut, Fate::LeftOut, Fate::Served, Fate::LeftOut]);
    assert!(mistakes(&found)[2].contains("snigate itself listens at 10.0.0.4:9901"), "{:?}", mistakes(&found));
}

#[test]
fn all_of_a_pool_get_the_same_header() {
    let labels = |version| [("sni", "a.example.com"), ("pool", "p"), ("send_proxy_protocol", version)];
    let found = translated(&[container(1, &labels("v2")), container(2, &labels("off")), container(3, &labels("v2"))]);
    assert_eq!(routes(&found), ["a.example.com -> p@docker [10.0.0.1:443 10.0.0.3:443]"]);
    assert_eq!(
        mistakes(&found),
        [
            "c2: snigate.send_proxy_protocol: container c1 of the same pool has `v2`; all containers of a pool need the same value"
        ]
    );
}

#[test]
fn a_container_that_gets_no_name_decides_nothing_for_its_pool() {
    let labels = |sni, version| [("sni", sni), ("pool", "shop"), ("send_proxy_protocol", version)];
    let found = translated(&[
        container(1, &labels("admin.example.com", "v2")),
        container(2, &labels("a.example.com", "off")),
        container(3, &labels("b.example.com", "v1")),
        container(4, &[("sni", "b.example.com")]),
    ]);
    // Nor does one that is left out keep a name from others.
    let expected = ["b.example.com -> c4@docker [10.0.0.4:443]", "a.example.com -> shop@docker [10.0.0.2:443]"];
    assert_eq!(routes(&found), expected);
    assert_eq!(fates(&found), [Fate::LeftOut, Fate::Served, Fate::LeftOut, Fate::Served]);
    assert!(
        mistakes(&found)[1].starts_with("c3: snigate.send_proxy_protocol: container c2 of the same pool has `off`")
    );
}

#[test]
fn a_container_that_cannot_be_read_is_left_out_and_named() {
    let unreadable = Container { unreadable: Some("no `State`".to_owned()), ..container(1, &[]) };
    let found = translated(&[unreadable, container(2, &[("sni", "a.example.com")])]);
    assert_eq!(fates(&found), [Fate::LeftOut, Fate::Served]);
    assert_eq!(
        mistakes(&found),
        ["c1: inspect: the engine's answer cannot be used: no `State`; see what `docker inspect c1` says"]
    );
}

#[test]
fn what_is_merged_can_be_taken_apart_again() {
    let file = file();
    let containers = [container(1, &[("sni", "a.example.com")]), down(container(2, &[("sni", "b.example.com")]))];
    let found = crate::sources::Found { docker: Some(containers.as_slice().into()), ..Default::default() };
    let merged = crate::sources::merge(file.clone(), &found, &|_| false);
    assert_eq!((merged.config.routes.len(), merged.config.pools.len()), (3, 3));
    assert_eq!(merged.config.routes[2].to.pools().collect::<Vec<_>>(), [2]);
    assert_eq!(crate::sources::only_file(merged.config.clone()), file);
    let metrics = crate::telemetry::Metrics::new();
    let snapshot = crate::snapshot::Snapshot::build(merged.config.clone(), None, &metrics);
    assert_eq!(snapshot.effective(), merged.config, "also after it was in force");
    let off = crate::sources::merge(
        Config { settings: crate::config::Settings { docker: None, ..file.settings.clone() }, ..file },
        &found,
        &|_| false,
    );
    assert!(off.reports.docker.is_none() && off.config.routes.len() == 1);
}

fn some_container() -> impl Strategy<Value = Container> {
    let names = prop::sample::subsequence(
        vec!["a.example.com", "b.example.com", "*.example.com", "admin.example.com", "a.other.com", "x y"],
        1..4,
    );
    (0_u8..6, names, prop::option::of("[pq]"), any::<bool>()).prop_map(|(number, names, pool, is_down)| {
        let names = names.join(",");
        let labels: Vec<(&str, &str)> =
            [("sni", names.as_str())].into_iter().chain(pool.as_deref().map(|pool| ("pool", pool))).collect();
        let one = container(number, &labels);
        if is_down { down(one) } else { one }
    })
}

proptest! {
    #[test]
    fn the_order_in_which_containers_are_found_does_not_matter(
        (found, shuffled) in prop::collection::btree_map(0_u8..20, some_container(), 0..10).prop_map(|found| {
            // Each has an identity of its own; several are of the same age.
            found.into_iter().map(|(number, one)| Container { id: format!("{number:02x}"), ..one }).collect::<Vec<_>>()
        }).prop_flat_map(|found| (Just(found.clone()), Just(found).prop_shuffle()))
    ) {
        prop_assert_eq!(translated(&found), translated(&shuffled));
    }

    #[test]
    fn each_name_has_one_pool_none_of_the_file_and_a_container_that_wants_it(
        found in prop::collection::vec(some_container(), 0..10)
    ) {
        let translation = translated(&found);
        let mut seen = HashSet::new();
        for FoundRoute { pool, patterns } in &translation.contribution.routes {
            prop_assert!(!patterns.is_empty() && pool.name.ends_with(SUFFIX));
            for (pattern, _) in patterns {
                prop_assert!(seen.insert(pattern.clone()), "{} twice", pattern);
                let text = pattern.to_string();
                prop_assert!(text.ends_with(".example.com") && text != "admin.example.com");
                prop_assert!(found.iter().any(|one| one.labels["snigate.sni"].split(',').any(|name| name == text)));
            }
            for backend in &pool.backends {
                let mut own = found.iter().flat_map(|one| one.networks.values().flatten());
                let address = backend.address.to_string();
                let is_own = own.any(|ip| address == format!("{ip}:443"));
                prop_assert!(is_own, "{}", address);
            }
        }
        // Every container is accounted for, and one that is left out has a reason.
        prop_assert_eq!(translation.reports.len(), found.len());
        for report in &translation.reports {
            prop_assert!(report.fate != Fate::LeftOut || !report.mistakes.is_empty());
        }
    }
}
