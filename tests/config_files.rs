//! Holds `Config::load` to what it promises of files that are broken, hostile or many.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use snigate::internals::config::{Config, Destination, Loaded, Problem, Problems};
use snigate::internals::settings::Address;

/// A directory with files in it, gone at the end of the test.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, bytes).expect("written");
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Loaded, Problems> {
        Config::load(&self.path("config.yaml"))
    }

    fn refused(&self) -> Problems {
        self.load().expect_err("the file is refused")
    }
}

fn file(bytes: impl AsRef<[u8]>) -> Files {
    Files::new().with("config.yaml", bytes)
}

/// Expects exactly one problem: where, and what it says.
fn only(problems: &Problems, line: u32, column: u32, says: &str) {
    let all: Vec<&Problem> = problems.iter().collect();
    let [problem] = all.as_slice() else { panic!("one problem was expected:\n{problems}") };
    assert_eq!((problem.place.line, problem.place.column), (line, column), "{problem}");
    assert!(problem.message.contains(says), "{problem}");
}

/// A fixture beside this file.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(name)
}

const GOOD: &str = "listeners: [{ name: a, bind: 127.0.0.1:0 }]\n\
                    pools: { p: { backends: [127.0.0.1:1] } }\n\
                    routes: [{ sni: a.test, pool: p }]\n";

#[test]
fn a_slip_of_the_pen_gets_its_line_its_cause_and_its_cure() {
    let (listener, pools) =
        ("listeners: [{ name: a, bind: 127.0.0.1:0 }]\n", "pools: { p: { backends: [127.0.0.1:1] } }\n");
    let listen = "listeners:\n  - name: a\n    bind: ";
    for (text, line, column, says) in [
        (format!("{listen}[::]:443\n{pools}"), 3, 11, "write \"[::]:443\" in quotes"),
        (format!("{listen}[::1]:443\n    max_connections: 3\n{pools}"), 3, 11, "write \"[::1]:443\" in quotes"),
        (format!("{listener}{pools}routes:\n  - sni: a.test\n\tpool: p\n"), 5, 1, "indent with spaces"),
        (format!("{listener}{pools}routes:\n  - sni: a.test\n    pool:p\n"), 5, 5, "write `pool: p`"),
        (format!("{listener}{pools}routes:\n  - sni: [a.test, b.test\n    pool: p\n"), 4, 10, "a `]` is missing"),
        (format!("{listener}{pools}routes:\n  -sni: a.test\n   pool: p\n"), 4, 3, "write `- sni: a.test`"),
        (format!("{listener}{pools}routes:\n  - sni a.test\n    pool: p\n"), 4, 5, "write `sni: a.test`"),
        (format!("{listen}\"127.0.0.1:0\n{pools}"), 3, 11, "this `\"` is not closed in its line"),
        (
            format!("listeners: [{{ name: a, bind: 127.0.0.1:0, allow: [10.0.0.0/8, @lists/x] }}]\n{pools}"),
            1,
            63,
            "write \"@lists/x\" in quotes",
        ),
        (
            format!("{listen}127.0.0.1:0\n    deny:\n      - @lists/a b.txt   # banned\n{pools}"),
            5,
            9,
            "write \"@lists/a b.txt\" in quotes",
        ),
        (format!("{listener}{pools}routes:\n  - sni: @names\n    pool: p\n"), 4, 10, "write \"@names\" in quotes"),
        (
            format!("{listener}pools: {{ p: {{ backends: [{{ address: 127.0.0.1:1 weight: 2 }}] }} }}\n"),
            2,
            49,
            "a comma is missing before `weight`",
        ),
        (
            format!("{listener}{pools}routes:\n  - sni: a.test\n    pool: p\n   - sni: b.test\n     pool: p\n"),
            6,
            4,
            "the indentation fits no line above",
        ),
        (format!("{listener}{pools}routes:\n  - sni: a.test\n    pool: p: x\n"), 5, 11, "put the value in quotes"),
        (
            format!("{listener}pool: {{ p: {{ backends: [127.0.0.1:1] }} }}\nroutes: [{{ sni: a.test, pool: p }}]\n"),
            2,
            1,
            "did you mean `pools`?",
        ),
        (format!("{GOOD}admin: {{ bind: off }}\n"), 4, 16, "write `bind: []`"),
        (format!("{GOOD}timeouts: {{ connect: 5s }}\n"), 4, 13, "`pools.NAME.connect.timeout`"),
    ] {
        only(&file(text).refused(), line, column, says);
    }
}

#[test]
fn off_that_a_tool_turned_into_false_is_off() {
    file(format!("{GOOD}log: {{ connections: false }}\n")).load().expect("usable");
}

#[test]
fn a_backend_of_host_and_port_is_one_mistake() {
    let text = GOOD.replace("[127.0.0.1:1]", "[{ host: shop.internal, port: 443 }]");
    only(&file(text).refused(), 2, 28, "write `address: HOST:PORT`");
}

#[test]
fn a_collection_of_the_wrong_shape_is_one_mistake() {
    let map = GOOD.replace(GOOD.lines().next().expect("three"), "listeners: { a: { bind: 127.0.0.1:0 } }");
    only(&file(map).refused(), 1, 12, "expected a list, found a map");
    only(&file(format!("{GOOD}log: {{ level: warning }}\n")).refused(), 4, 15, "did you mean `warn`?");
}

#[test]
fn a_listener_for_http_says_what_is_wrong_with_it() {
    for (keys, column, says) in [
        ("protocol: quic", 53, "`quic` is not supported yet; write `tls` or `http`"),
        ("protocol: https", 53, "expected one of `tls`, `http`"),
        ("protocol: [http]", 53, "expected one of"),
        ("otherwise: refuse", 54, "only a listener with `protocol: http` uses this"),
        ("protocol: tls, acme_challenge: off", 74, "only a listener with `protocol: http` uses this"),
        ("protocol: http, otherwise: proxy", 70, "expected `redirect`, `refuse` or `{ pool: NAME }`, found `proxy`"),
        ("protocol: http, otherwise: { pool: q }", 78, "there is no pool `q`"),
        ("protocol: http, otherwise: { pool: p, x: 1 }", 81, "unknown key"),
        ("protocol: http, otherwise: { }", 70, "`pool` is missing"),
        ("protocol: http, acme_challenge: on", 75, "expected one of `off`, `pool`"),
        ("protocol: http, starttls: postgres", 69, "HTTP has no such exchange"),
        ("protocol: http, silent: { pool: p }", 67, "in HTTP the client speaks first"),
    ] {
        let text = GOOD.replace("bind: 127.0.0.1:0", &format!("bind: 127.0.0.1:0, {keys}"));
        only(&file(text).refused(), 1, column, says);
    }
    for port in ["0", "65536", "http", "-1"] {
        let text = GOOD.replace("{ backends", &format!("{{ http_port: {port}, backends"));
        only(&file(text).refused(), 2, 26, "a port from 1 to 65535");
    }
    let web = GOOD.replace("bind: 127.0.0.1:0", "bind: \"[::]:80\", protocol: http");
    let warnings = file(&web).load().expect("usable").warnings;
    only(&warnings, 2, 10, "ACME challenges for `127.0.0.1:1` go to its port 80, where snigate itself listens");
    let off = web.replace("protocol: http", "protocol: http, acme_challenge: false");
    assert!(file(off).load().expect("usable").warnings.is_empty());
}

#[test]
fn values_may_name_environment_variables() {
    let with = |bind: &str| GOOD.replace("127.0.0.1:0", &format!("\"{bind}\""));
    let loaded = file(with("127.0.0.1:${SNIGATE_TEST_UNSET:-8443}")).load().expect("usable");
    assert_eq!(loaded.config.listeners[0].bind[0].port(), 8443);
    let unset = file(with("127.0.0.1:${SNIGATE_TEST_UNSET}")).refused();
    only(&unset, 1, 30, "the environment variable `SNIGATE_TEST_UNSET` is not set");
    only(&file(with("127.0.0.1:${8443}")).refused(), 1, 30, "write an environment variable as `${NAME}`");
    let bare = GOOD.replace("127.0.0.1:0", "${SNIGATE_TEST_UNSET:-127.0.0.1:0}");
    only(&file(bare).refused(), 1, 30, "must be in quotes");
    let text = GOOD.replace("[127.0.0.1:1]", "[{ address: 127.0.0.1:1, weight: \"${SNIGATE_TEST_UNSET:-7}\" }]");
    let text = text.replace("name: a", "name: \"${SNIGATE_TEST_UNSET:-8}\"");
    let config = file(text).load().expect("usable").config;
    assert_eq!((config.pools[0].backends[0].weight, &*config.listeners[0].name), (7, "8"));
    // Another value is another configuration.
    let name = |default: &str| file(GOOD.replace("a.test", &format!("\"${{SNIGATE_TEST_UNSET:-{default}}}\""))).load();
    assert_ne!(name("a.test").expect("usable").config.hash, name("b.test").expect("usable").config.hash);
}

#[test]
fn the_example_at_the_root_is_good() {
    let loaded = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).expect("usable");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(
        loaded.config.listeners[0].bind[..].iter().map(|address| address.0).collect::<Vec<_>>(),
        ["127.0.0.1:8443".parse().expect("an address")]
    );
    assert_eq!(loaded.config.admin.bind[..], [Address::Tcp("127.0.0.1:9901".parse().expect("an address"))]);
    let names: Vec<&str> = loaded.config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_of_that_file() {
    only(&Files::new().refused(), 1, 1, "cannot be read");
    let files = Files::new();
    fs::create_dir(files.path("config.yaml")).expect("made");
    only(&files.refused(), 1, 1, "directory");
    only(&Config::load(Path::new("/dev/zero")).expect_err("refused"), 1, 1, "not a regular file");
}

#[cfg(unix)]
#[test]
fn a_file_without_permission_is_a_problem_of_that_file() {
    use std::os::unix::fs::PermissionsExt;
    let files = file(GOOD);
    fs::set_permissions(files.path("config.yaml"), fs::Permissions::from_mode(0o000)).expect("set");
    // Root reads everything.
    if fs::read(files.path("config.yaml")).is_err() {
        only(&files.refused(), 1, 1, "cannot be read");
    }
}

#[test]
fn what_is_no_text_is_reported_with_its_place() {
    only(&file(b"listeners:\n  - \xffname: a\n").refused(), 2, 5, "not UTF-8: found the byte 0xff");
    only(&file(b"\xef\xbb\xbflisteners: []\n").refused(), 1, 1, "byte order mark");
    only(&file(b"\xff\xfel\0i\0").refused(), 1, 1, "UTF-16");
    assert!(file(b"listeners: \0\n").load().is_err());
}

#[test]
fn what_is_no_map_is_reported() {
    only(&file("").refused(), 1, 1, "the file is empty");
    only(&file("# nothing\n").refused(), 1, 1, "the file is empty");
    only(&file("just words\n").refused(), 1, 1, "expected a map");
    only(&file("\n- a\n").refused(), 2, 1, "expected a map");
    only(&file(format!("{GOOD}---\n{GOOD}")).refused(), 4, 1, "a second YAML document");
    only(&file(format!("{GOOD}...\n---\nrest\n")).refused(), 5, 1, "a second YAML document");
    only(&file("listeners:\n\t- name: a\n").refused(), 2, 1, "indent with spaces");
    only(&file("listeners: [{ name: a\n").refused(), 1, 13, "a `}` is missing");
}

#[test]
fn clients_that_say_nothing_need_a_pool_and_a_time_before_they_are_probes() {
    let with = |keys: &str| {
        let listener = format!("listeners:\n  - name: a\n    bind: 127.0.0.1:0\n    silent: {keys}\n");
        file(format!("{listener}pools: {{ p: {{ backends: [127.0.0.1:1] }} }}\ntimeouts: {{ hello: 3s }}\n"))
    };
    for (keys, column, says) in [
        (
            "{ pool: p, after: 3s }",
            31,
            "must be shorter than `timeouts.hello`, after which a silent client is closed: 3s",
        ),
        ("{ pool: p, after: 0s }", 31, "must be from 1ms to 1h"),
        ("{ pool: P }", 21, "there is no pool `P`; did you mean `p`?"),
        ("{ after: 1s }", 13, "`pool` is missing"),
        ("off", 13, "expected a map with the keys `after`, `pool`, found `off`"),
    ] {
        let problems = with(keys).refused();
        let found = problems.iter().find(|problem| problem.message.contains(says));
        let found = found.unwrap_or_else(|| panic!("{keys}: {problems}"));
        assert_eq!((found.place.line, found.place.column), (4, column), "{found}");
        assert_eq!(problems.errors(), 1, "{problems}");
    }
    // It uses the pool, and the listener is of use.
    let loaded = with("{ pool: p }").load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings.to_string(), "");
    let checked = "listeners: [{ name: a, bind: 127.0.0.1:0, silent: { pool: p } }]\n\
                   pools: { p: { backends: [127.0.0.1:1], health_check: {} } }\n";
    let warnings = file(checked).load().unwrap_or_else(|problems| panic!("{problems}")).warnings;
    only(&warnings, 2, 10, "set `kind: tcp`");
}

#[test]
fn what_yaml_allows_beyond_a_tree_is_reported() {
    let aliases = file("listeners: &a [{ name: a, bind: 127.0.0.1:0 }]\nroutes: *a\n").refused();
    let lines: Vec<u32> = aliases.iter().map(|problem| problem.place.line).collect();
    assert_eq!(lines, [1, 2], "{aliases}");
    only(&file(format!("{GOOD}no_sni: !custom {{ refuse: alert }}\n")).refused(), 4, 17, "tags");
    only(&file(format!("{GOOD}? [a]\n: b\n")).refused(), 4, 3, "a key must be plain text");
    let duplicate = file(format!("{GOOD}routes: []\n")).refused();
    only(&duplicate, 4, 1, "duplicate key `routes`; first used in line 3, column 1");
    only(&file(format!("{GOOD}<<: {{ log: {{}} }}\n")).refused(), 4, 1, "unknown key");
    let unquoted = file("listeners: [{ name: a, bind: 127.0.0.1:0 }]\nroutes: [{ sni: *.a.test, refuse: alert }]\n");
    only(&unquoted.refused(), 2, 17, "write \"*.a.test\" in quotes");
}

/// A file that is to take neither time nor room.
fn cheap(bytes: impl AsRef<[u8]>, says: &str) {
    let files = file(bytes);
    let mut fastest = Duration::MAX;
    // The machine may be busy; what counts is how fast it can be. A bound far below what a bomb takes that goes off.
    for _ in 0..3 {
        let start = Instant::now();
        let problems = files.refused();
        fastest = fastest.min(start.elapsed());
        assert!(problems.iter().any(|problem| problem.message.contains(says)), "{says}:\n{problems}");
    }
    assert!(fastest < Duration::from_secs(1), "{says} took {fastest:?}");
}

#[test]
fn a_hostile_file_is_refused_at_once() {
    // References to references: 9 levels of 9 each would be 387 million values.
    let mut bomb = String::from("a0: &a0 [x]\n");
    for level in 1..10 {
        let inner = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [inner.as_str(); 9].join(", ")));
    }
    cheap(bomb, "anchors and aliases");
    // One long value, referred to many times.
    let quadratic = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(22_000), ["*a"; 5_500].join(", "));
    cheap(quadratic, "anchors and aliases");
    cheap("[".repeat(100_000), "more than 16 deep");
    cheap("{a: ".repeat(100_000), "more than 16 deep");
    cheap("- ".repeat(100_000), "more than 16 deep");
    cheap("a: b: ".repeat(10_000), "invalid YAML");
    cheap((0..2_000).map(|n| format!("key{n}: 1\n")).collect::<String>(), "unknown key");
    cheap("same: 1\n".repeat(2_000), "duplicate key");
    cheap("x".repeat(1_000_000), "expected a map");
    cheap(format!("{GOOD}log: {{ level: {} }}\n", "x".repeat(100_000)), "expected one of");
}

#[test]
fn a_huge_file_is_refused_for_its_size() {
    let files = Files::new();
    let huge = fs::File::create(files.path("config.yaml")).expect("created");
    huge.set_len(100_000_000).expect("sparse");
    only(&files.refused(), 1, 1, "larger than 64 MiB");
}

#[test]
fn problems_are_counted_but_not_hoarded() {
    let text = "routes:\n".to_owned() + &"  - { sni: a.test, pool: nowhere }\n".repeat(10_000);
    let problems = file(text).refused();
    assert!(problems.errors() > 10_000);
    assert_eq!(problems.iter().count(), 100);
    assert!(problems.to_string().ends_with(&format!("and {} more", problems.left_off())));
}

#[test]
fn all_problems_of_a_file_are_reported_at_once_in_order() {
    let problems = Config::load(&fixture("many-problems.yaml")).expect_err("refused");
    let reported: Vec<String> = problems
        .iter()
        .map(|problem| {
            let (line, column) = (problem.place.line, problem.place.column);
            format!("{line}:{column}: {}: {}\n", problem.path, problem.message)
        })
        .collect();
    let reported =
        reported.concat().replace(&fixture("many-problems.yaml").display().to_string(), "many-problems.yaml");
    let expected = fs::read_to_string(fixture("many-problems.txt")).expect("readable");
    assert_eq!(reported, expected);
}

#[test]
fn included_files_add_routes_and_pools_in_the_order_of_their_names() {
    let loaded = Config::load(&fixture("include/config.yaml")).expect("usable");
    let names: Vec<&str> = loaded.config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["main.test", "a.test", "b.test"]);
    let pools: Vec<&str> = loaded.config.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(pools, ["main", "b"]);
    assert_eq!(loaded.config.routes[2].to, Destination::Pool(1));
    let files = ["config.yaml", "routes.d/a.yaml", "routes.d/b.yaml"].map(|name| fixture("include").join(name));
    assert_eq!(loaded.config.files, files);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn a_problem_of_an_included_file_is_placed_in_it() {
    let files = file(format!("{GOOD}include: [more/*.yaml]\n"))
        .with("more/1.yaml", "routes:\n  - { sni: b.test, pool: q }\n")
        .with("more/2.yaml", "\ninclude: other.yaml\n")
        .with("more/3.yaml", "routes: [{ sni: a.test, pool: p }]\n")
        .with("more/4.yaml", "pools: { p: { backends: [127.0.0.1:2] } }\n")
        .with("more/.hidden.yaml", "nonsense")
        .with("more/5.yaml~", "nonsense");
    let problems = files.refused();
    let reported: Vec<String> = problems
        .iter()
        .map(|problem| {
            let file = problem.place.file.file_name().expect("a name").display().to_string();
            format!("{file}:{}: {}", problem.place.line, problem.path)
        })
        .collect();
    assert_eq!(
        reported,
        ["1.yaml:2: routes[0].pool", "2.yaml:2: include", "3.yaml:1: routes[0].sni", "4.yaml:1: pools.p"]
    );
    assert!(problems.to_string().contains(&files.path("config.yaml").display().to_string()), "{problems}");
}

#[test]
fn an_include_that_names_nothing_is_reported() {
    let loaded = file(format!("{GOOD}include: [none.d/*.yaml]\n")).load().expect("usable");
    only(&loaded.warnings, 4, 11, "no file matches");
    only(&file(format!("{GOOD}include: none.yaml\n")).refused(), 4, 10, "none.yaml`: the file cannot be read: ");
    only(&file(format!("{GOOD}include: \"*/a.yaml\"\n")).refused(), 4, 10, "not in the directory");
    only(&file(format!("{GOOD}include: \"*.yaml\"\n")).refused(), 4, 10, "includes itself");
    only(&file(format!("{GOOD}include: ..\n")).refused(), 4, 10, "does not name a file");
}

#[test]
fn equal_text_gives_an_equal_hash() {
    let hash = |text: &str| file(text).load().expect("usable").config.settings.hash;
    assert_eq!(hash(GOOD), hash(GOOD));
    assert_ne!(hash(GOOD), hash(&format!("{GOOD}# a comment\n")));
    assert_eq!(hash(GOOD).len(), 16);
}

#[test]
fn nothing_else_chooses_the_address_of_a_transparent_pool() {
    let with = |pool: &str| {
        let text = "listeners: [{ name: l, bind: \"127.0.0.1:0\", freebind: true }]\nunmatched: { pool: p }\npools:\n";
        file(format!("{text}  p: {pool}\n"))
    };
    assert!(with("{ backends: [127.0.0.1:1, \"a.test:1\"], transparent: true }").load().is_ok());
    assert!(with("{ backends: [\"unix:/run/a\"], transparent: false }").load().is_ok());
    let both = with("{ backends: [127.0.0.1:1], transparent: true, source_addresses: [127.0.0.2] }").refused();
    only(&both, 4, 70, "has no effect with `transparent`");
    let unix = with("{ backends: [127.0.0.1:1, \"unix:/run/a\"], transparent: true }").refused();
    only(&unix, 4, 32, "`unix:/run/a` cannot be connected to from a client's address");
    only(&with("{ backends: [127.0.0.1:1], transparent: yes }").refused(), 4, 46, "true");
}
