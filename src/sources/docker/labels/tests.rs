use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn settings() -> Docker {
    serde_json::from_str(r#"{ "allow": ["**.example.com", "one.test"], "network": "none" }"#).unwrap()
}

fn container(labels: &[(&str, &str)]) -> Container {
    Container {
        id: "c0ffee".to_owned(),
        name: "web-1".to_owned(),
        labels: labels.iter().map(|(label, text)| ((*label).to_owned(), (*text).to_owned())).collect(),
        exposed: [443].into(),
        networks: BTreeMap::from([("edge".to_owned(), vec!["10.0.0.2".parse().unwrap()])]),
        ..Container::default()
    }
}

fn wish(labels: &[(&str, &str)]) -> Result<Wish, String> {
    of(&container(labels))
}

fn of(container: &Container) -> Result<Wish, String> {
    Wish::of(container, &settings()).map_err(|Mistake { label, message }| format!("{label}: {message}"))
}

#[test]
fn a_name_is_enough_for_a_container_with_one_port_and_one_network() {
    let wish = wish(&[("snigate.sni", "a.example.com")]).unwrap();
    assert_eq!(wish.patterns, ["a.example.com".parse().unwrap()]);
    assert_eq!(wish.address, Some("10.0.0.2:443".parse().unwrap()));
    assert_eq!((wish.pool.as_str(), wish.weight), ("web-1", 1));
    assert_eq!(wish.send_proxy_protocol, SendVersion::Off);
}

#[test]
fn every_label_is_read() {
    let labels = [
        ("snigate.sni", " A.example.com, *.b.example.com,**.c.example.com ,one.test,a.example.com"),
        ("snigate.port", "8443"),
        ("snigate.pool", "shop"),
        ("snigate.network", "edge"),
        ("snigate.weight", "7"),
        ("snigate.send_proxy_protocol", "v2"),
    ];
    let wish = wish(&labels).unwrap();
    let patterns: Vec<String> = wish.patterns.iter().map(ToString::to_string).collect();
    assert_eq!(patterns, ["a.example.com", "*.b.example.com", "**.c.example.com", "one.test"]);
    assert_eq!((wish.pool.as_str(), wish.weight), ("shop", 7));
    assert_eq!((wish.address, wish.send_proxy_protocol), (Some("10.0.0.2:8443".parse().unwrap()), SendVersion::V2));
}

#[test]
fn two_projects_with_a_service_of_one_name_have_two_pools() {
    let of = |project| {
        let labels = [(SNI, "a.example.com"), (COMPOSE_PROJECT, project), (COMPOSE_SERVICE, "web")];
        wish(&labels).unwrap().pool
    };
    assert_eq!((of("shop").as_str(), of("blog").as_str()), ("shop/web", "blog/web"));
    let odd = wish(&[(SNI, "a.example.com"), (COMPOSE_PROJECT, "../x"), (COMPOSE_SERVICE, "web")]);
    assert_eq!(odd.unwrap().pool, "web-1", "such a project is not from compose");
}

#[test]
fn each_wrong_label_is_named_with_the_cure() {
    let sni = ("snigate.sni", "a.example.com");
    let long = "a.example.com,".repeat(400);
    let many: String = (0..65).map(|number| format!("a{number}.example.com,")).collect();
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("snigate.sni", "")], "snigate.sni: write the names"),
        (&[("snigate.sni", " , ,")], "snigate.sni: write the names"),
        (&[("snigate.sni", "a b.example.com")], "snigate.sni: `a b.example.com`:"),
        (&[("snigate.sni", "a.*.example.com")], "snigate.sni: `a.*.example.com`:"),
        (&[("snigate.sni", "https://a.example.com/")], "snigate.sni: `https://a.example.com/`:"),
        (
            &[("snigate.sni", "a.other.com")],
            "snigate.sni: `docker.allow` does not cover `a.other.com`; it has `**.example.com`, `one.test`",
        ),
        (&[("snigate.sni", "example.com")], "does not cover `example.com`"),
        (&[("snigate.sni", "*")], "does not cover `*`"),
        (&[("snigate.sni", "**.com")], "does not cover `**.com`"),
        (&[("snigate.sni", "*.one.test")], "does not cover `*.one.test`"),
        (&[("snigate.sni", "badexample.com")], "does not cover `badexample.com`"),
        (&[("snigate.sni", "a.example.com, b.other.com")], "does not cover `b.other.com`"),
        (&[("snigate.sni", &many)], "at most 64 names"),
        (&[("snigate.sni", &long)], "snigate.sni: a label can have at most 4096 bytes"),
        (
            &[sni, ("snigate.prot", "443")],
            "snigate.prot: unknown label; the known ones are `snigate.sni`, `snigate.port`",
        ),
        (&[sni, ("snigate.\u{202e}x\n", "443")], "snigate.\\u{202e}x\\u{a}: unknown label"),
        (&[sni, ("snigate.port", "0")], "snigate.port: `0` is not a valid port; ports are 1 to 65535"),
        (&[sni, ("snigate.port", "+443")], "is not a valid port"),
        (&[sni, ("snigate.port", "443/tcp")], "is not a valid port"),
        (&[sni, ("snigate.port", "70000")], "is not a valid port"),
        (&[sni, ("snigate.pool", "a/b")], "snigate.pool: `a/b` is not a valid name"),
        (&[sni, ("snigate.pool", "")], "is not a valid name"),
        (&[sni, ("snigate.pool", "x@docker")], "is not a valid name"),
        (&[sni, ("snigate.weight", "0")], "weights are 1 to 1000"),
        (&[sni, ("snigate.weight", "many")], "weights are 1 to 1000"),
        (&[sni, ("snigate.send_proxy_protocol", "yes")], "write `off`, `v1` or `v2`"),
        (
            &[sni, ("snigate.network", "other")],
            "snigate.network: the container is not in the network `other`; it is in `edge`",
        ),
    ];
    for (labels, expected) in cases {
        let error = wish(labels).expect_err(expected);
        assert!(error.contains(expected), "{error}\nis not\n{expected}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn the_port_is_the_only_one_that_is_exposed_or_must_be_named() {
    let exposing = |exposed: &[u16]| {
        of(&Container { exposed: exposed.iter().copied().collect(), ..container(&[(SNI, "a.example.com")]) })
    };
    assert!(exposing(&[]).unwrap_err().contains("snigate.port: the container exposes no port; add this label"));
    assert!(exposing(&[443, 80]).unwrap_err().contains("exposes several ports (80, 443); add this label with one"));
    let labels = [(SNI, "a.example.com"), (PORT, "80")];
    let named = of(&Container { exposed: [443, 80].into(), ..container(&labels) });
    assert_eq!(named.unwrap().address, Some("10.0.0.2:80".parse().unwrap()));
}

#[test]
fn the_network_is_the_only_one_or_must_be_named() {
    let at = |networks: &[(&str, &[&str])], label: Option<&str>, project: &str| {
        let networks = networks.iter().map(|(name, addresses)| {
            ((*name).to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect())
        });
        let labels = [(SNI, "a.example.com"), (COMPOSE_PROJECT, project)];
        let labels: Vec<_> = labels.into_iter().chain(label.map(|label| (NETWORK, label))).collect();
        of(&Container { networks: networks.collect(), ..container(&labels) })
            .map(|wish| wish.address.unwrap().to_string())
    };
    let (a, b): (&[&str], &[&str]) = (&["10.0.0.2"], &["10.1.0.2", "2001:db8::2"]);
    assert_eq!(at(&[("a", a), ("none", &[])], None, "").unwrap(), "10.0.0.2:443");
    let several = at(&[("a", a), ("b", b)], None, "").unwrap_err();
    assert!(
        several.contains("several networks (`a`, `b`); add this label with one, or set `docker.network`"),
        "{several}"
    );
    assert_eq!(at(&[("a", a), ("b", b)], Some("b"), "").unwrap(), "10.1.0.2:443");
    assert_eq!(at(&[("shop_a", a), ("b", b)], Some("a"), "shop").unwrap(), "10.0.0.2:443", "as compose names it");
    assert_eq!(at(&[("b", &["2001:db8::2"])], None, "").unwrap(), "[2001:db8::2]:443");
    assert!(at(&[], None, "").unwrap_err().contains("no address in any network"));
    for own in [
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "::1",
        "fe80::1",
        "::ffff:127.0.0.1",
    ] {
        assert!(at(&[("a", &[own])], None, "").unwrap_err().contains("no usable address"), "{own}");
    }
}

#[test]
fn what_shares_the_network_of_the_host_has_no_address_of_its_own() {
    for network_mode in ["host", "container:abc"] {
        let shared = Container { network_mode: network_mode.to_owned(), ..container(&[(SNI, "a.example.com")]) };
        assert!(of(&shared).unwrap_err().contains("no address of its own"), "{network_mode}");
    }
}

#[test]
fn a_container_that_is_down_needs_no_address() {
    let down = Container {
        state: State::Down("it has stopped"),
        networks: BTreeMap::new(),
        exposed: [].into(),
        ..container(&[(SNI, "a.example.com")])
    };
    assert_eq!(of(&down).unwrap().address, None);
}

proptest! {
    /// Whatever a container says: names below the suffixes, its own address, and errors of one short line.
    #[test]
    fn no_label_leads_elsewhere(
        sni in "[a-z.*, ]{0,20}(\\.example\\.com|\\.com|)[,a-z.]{0,12}|\\PC{0,30}",
        others in prop::collection::btree_map("snigate\\.(port|pool|network|weight|x)", "[0-9a-z/@ ]{0,8}|\\PC{0,9}", 0..4),
    ) {
        let mut one = container(&[(SNI, &sni)]);
        one.labels.extend(others);
        match of(&one) {
            Ok(wish) => {
                prop_assert!(!wish.patterns.is_empty() && wish.patterns.len() <= 64);
                for pattern in wish.patterns {
                    let text = pattern.to_string();
                    prop_assert!(text.ends_with(".example.com") || text == "one.test", "{}", text);
                }
                prop_assert_eq!(wish.address.unwrap().ip().to_string(), "10.0.0.2");
                prop_assert!(!wish.pool.contains('@'));
            }
            Err(error) => prop_assert!(error.chars().count() < 600 && !error.contains(char::is_control), "{}", error),
        }
    }
}
