//! Who is asked for what, and how it is told.

use serde_json::json;

use crate::server::{Authority, Behavior, nothing_there, says};
use crate::visit::Visit;

fn many_names(count: usize, backend: std::net::SocketAddr) -> Visit {
    let visit = (0..count).fold(Visit::default(), |visit, nth| visit.route(&format!("n{nth}.a.test"), "web"));
    visit.pool("web", &[backend])
}

#[test]
fn a_hundred_names_are_asked_for_and_all_on_demand() {
    let authority = Authority::new();
    let backend = authority.issue(&["*.a.test"]).serve(Behavior::default());
    let visit = many_names(103, backend).trusting(&authority.file());
    let cut = visit.reported();
    assert_eq!(cut.json["backends"][0]["names_answered"], 100);
    assert_eq!(cut.seen("names_left_out"), "100 of the 103 names that are routed to the pool were tested");
    let all = visit.argument("--all").reported();
    assert_eq!(all.json["backends"][0]["names_answered"], 103);
    assert!(!all.has("names_left_out"));
}

#[test]
fn what_it_cannot_test_of_a_transparent_pool_is_said() {
    let authority = Authority::new();
    let backend = authority.issue(&["a.test"]).serve(Behavior::default());
    let visit = Visit::default().route("a.test", "web").trusting(&authority.file());
    assert!(visit.clone().pool_with("web", &[backend], ", transparent: true").reported().has("transparent"));
    assert!(!visit.pool_with("web", &[backend], ", transparent: false").reported().has("transparent"));
}

#[test]
fn names_and_pools_narrow_it() {
    let authority = Authority::new();
    let [one, two] = [1, 2].map(|_| authority.issue(&["a.test", "*.b.test"]).serve(Behavior::default()));
    let visit =
        Visit::default().route("a.test", "one").route("*.b.test", "two").pool("one", &[one]).pool("two", &[two]);
    let pools = |visit: Visit| -> Vec<String> {
        let reported = visit.reported();
        let backends = reported.json["backends"].as_array().unwrap().iter();
        backends
            .map(|backend| format!("{} {}", backend["pool"].as_str().unwrap(), backend["certificates"][0]["shown_for"]))
            .collect()
    };
    assert_eq!(pools(visit.clone().argument("--pool").argument("one")), [r#"one ["a.test"]"#]);
    assert_eq!(pools(visit.clone().argument("--name").argument("X.b.test")), [r#"two ["x.b.test"]"#]);
    let nowhere = visit.clone().argument("--name").argument("c.test").run(&[]);
    assert_eq!(
        nowhere,
        (
            2,
            String::new(),
            "snigate: `c.test` is not routed to a pool; run `snigate explain c.test` for the reason\n".to_owned()
        )
    );
    let no_pool = visit.argument("--pool").argument("three").run(&[]);
    assert_eq!(no_pool, (2, String::new(), "snigate: there is no pool `three`; there is `one`, `two`\n".to_owned()));
}

#[test]
fn fallbacks_are_asked_as_their_clients_ask() {
    let authority = Authority::new();
    let backend = authority.issue(&["a.test"]).serve(Behavior::default());
    let visit = Visit::default().pool("web", &[backend]).line("no_sni: { pool: web }").line("unmatched: { pool: web }");
    let reported = visit.trusting(&authority.file()).reported();
    assert_eq!((reported.code, reported.findings()), (0, vec![]), "{:#}", reported.json);
    let shown = &reported.json["backends"][0]["certificates"][0]["shown_for"];
    assert_eq!(*shown, json!(["no name", "snigate-doctor.invalid (made up for any name)"]));
}

#[test]
fn a_name_that_no_client_sends() {
    let authority = Authority::new();
    let backend = authority.issue(&["a.test"]).serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() });
    let reported = Visit::one(&["a.test", "a.123"], backend).trusting(&authority.file()).reported();
    assert_eq!(
        (reported.code, reported.findings()),
        (7, vec![("warning", "name_not_sendable")]),
        "{:#}",
        reported.json
    );
    assert_eq!(reported.one("name_not_sendable")["names"], json!(["a.123"]));
}

#[test]
fn a_kind_can_be_left_out() {
    let authority = Authority::new();
    let backend = authority.issue(&["b.test"]).serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() });
    let visit = Visit::one(&["a.test"], backend).trusting(&authority.file());
    assert_eq!(visit.reported().code, 7);
    let ignored = visit.clone().argument("--ignore").argument("name_not_covered").reported();
    assert_eq!((ignored.code, ignored.findings()), (0, vec![]));
    let (code, _, stderr) = visit.argument("--ignore").argument("nonsense").run(&[]);
    assert!(code == 2 && stderr.contains("nonsense"), "{stderr}");
}

#[test]
fn people_are_reported_the_same() {
    let authority = Authority::new();
    let backend = authority.issue(&["b.test"]).serve(Behavior { only: Some(&["a.test"]), ..Behavior::default() });
    let (code, text, stderr) = Visit::one(&["a.test"], backend).trusting(&authority.file()).run(&[]);
    assert_eq!((code, stderr.as_str()), (7, ""));
    let expected = format!(
        "pool web\n  {backend}  TLS 1.2 and 1.3, h2, X25519MLKEM768, certificate until 4096-01-01\n\n\
         error    pool web, {backend}, a.test: the certificate does not cover the name; it covers b.test\n         \
         [name_not_covered]\n         \
         Clients refuse this certificate for this name. Give the backend a certificate that covers it, or\n         \
         route the name to the pool that has one.\n\n\
         1 backend tested with 1 name: 1 error, 0 warnings, 0 notes\n"
    );
    // Where a line is full depends on how many digits the port has.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&text), words(&expected));
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
}

#[test]
fn an_explanation_stands_once_below_all_that_it_explains() {
    let authority = Authority::new();
    let only: Option<&'static [&'static str]> = Some(&["a.test", "c.test"]);
    let [one, two] = [1, 2].map(|_| authority.issue(&["b.test"]).serve(Behavior { only, ..Behavior::default() }));
    let visit =
        Visit::default().route("a.test", "web").route("c.test", "more").pool("web", &[one]).pool("more", &[two]);
    let (code, text, _) = visit.trusting(&authority.file()).run(&[]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = format!(
        "error pool web, {one}, a.test: the certificate does not cover the name; it covers b.test [name_not_covered] \
         error pool more, {two}, c.test: the certificate does not cover the name; it covers b.test [name_not_covered] \
         Clients refuse this certificate for this name. Give the backend a certificate that covers it, or route the name \
         to the pool that has one. 2 backends tested with 2 names: 2 errors, 0 warnings, 0 notes"
    );
    assert!(code == 7 && text.ends_with(&expected), "{text}");
}

/// The example of docs/cli.md, with the documented configuration; its addresses stand for those of the test.
#[test]
fn the_documented_example_is_real() {
    let docs = include_str!("../../docs/cli.md");
    let fenced = |opening: &str| docs.split_once(opening).unwrap().1.split_once("\n```").unwrap().0;
    let (config, example) =
        (fenced("```yaml config.yaml\n"), fenced("```text doctor\n$ snigate doctor --ca our-root.pem\n"));
    let authority = Authority::new();
    let only: Option<&'static [&'static str]> = Some(&["shop.example.com", "snigate-doctor.shop.example.com"]);
    let shop = authority.issue(&["shop.example.com"]).serve(Behavior { only, ..Behavior::default() });
    let backends = [
        ("10.0.0.11:443", shop),
        ("10.0.0.12:443", nothing_there()),
        ("10.0.9.1:443", says(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ];
    let here = |text: &str| {
        backends.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, &here.to_string()))
    };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.yaml"), here(config)).unwrap();
    std::fs::copy(authority.file(), directory.path().join("our-root.pem")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_snigate"));
    let ended = command
        .args(["doctor", "--ca", "our-root.pem"])
        .current_dir(directory.path())
        .env_remove("SNIGATE_CONFIG")
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(7));
    // Where a line is full depends on how many digits the ports have.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&String::from_utf8(ended.stdout).unwrap()), words(&here(example)));
}

#[test]
fn a_file_with_problems_is_reported_as_by_check() {
    let (code, stdout, stderr) = Visit::default().route("a.test", "nowhere").line("limts: {}").run(&[]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("there is no pool `nowhere`"), "{stderr}");
}
