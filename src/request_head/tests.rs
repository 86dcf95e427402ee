use proptest::prelude::*;

use super::*;

const MOST: usize = 1000;

fn read(bytes: &[u8]) -> Result<RequestHead, BadRequest> {
    match Reader::new(MOST).read(bytes)? {
        Head::Whole(head) => Ok(head),
        Head::Needs(_) => panic!("not whole: {}", bytes.escape_ascii()),
    }
}

fn malformed(bytes: &[u8]) {
    assert!(matches!(read(bytes), Err(BadRequest::Malformed(_))), "{}: {:?}", bytes.escape_ascii(), read(bytes));
}

fn get(target: &str) -> Result<RequestHead, BadRequest> {
    read(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes())
}

fn with_host(host: &str) -> Result<String, BadRequest> {
    read(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).map(|head| head.host().to_owned())
}

#[test]
fn the_host_is_routed_by_the_rules_of_server_names() {
    for (host, name) in [
        ("a.test", "a.test"),
        ("A.Test.", "a.test"),
        ("a.test:80", "a.test"),
        ("a.test:", "a.test"),
        ("a.test:8080", "a.test"),
        ("  a.test \t", "a.test"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
    ] {
        assert_eq!(with_host(host).as_deref(), Ok(name), "{host}");
    }
    assert!(read(b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n").expect("good").name().is_none());
    for host in
        ["", "a test", "a,b", "a.test, b.test", "*.test", "u@a.test", "a..test", "[a.test]", "[::1", "::1", "a%2e.test"]
    {
        assert!(matches!(with_host(host), Err(BadRequest::Host { .. } | BadRequest::Port)), "{host}");
    }
    for host in ["a.test:x", "a.test:-1", "a.test:65536", "a.test:80:80", "[::1]80"] {
        assert_eq!(with_host(host), Err(BadRequest::Port), "{host}");
    }
    assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n"), Err(BadRequest::NoHost));
    assert_eq!(read(b"GET / HTTP/1.0\r\n\r\n"), Err(BadRequest::NoHost));
    assert_eq!(read(b"GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n"), Err(BadRequest::TwoHosts));
}

#[test]
fn an_absolute_target_names_the_host_that_the_field_names() {
    let head = get("http://A.test:80?q").expect("good");
    assert_eq!((head.host(), &*head.target, head.path()), ("a.test", "/?q", "/"));
    assert_eq!(&*get("HTTP://a.test/x/y?q").expect("good").target, "/x/y?q");
    assert_eq!(get("http://b.test/"), Err(BadRequest::OtherHost));
    assert_eq!(get("http://a.test:81/"), Err(BadRequest::OtherHost));
    assert!(matches!(get("http://a@a.test/"), Err(BadRequest::Host { .. })));
    assert!(matches!(get("https://a.test/"), Err(BadRequest::Malformed(_))));
    assert_eq!(read(b"GET http://a.test/ HTTP/1.0\r\n\r\n").expect("good").host(), "a.test");
    assert_eq!(read(b"GET http://a.test/ HTTP/1.1\r\n\r\n"), Err(BadRequest::NoHost));
}

#[test]
fn requests_that_are_not_for_a_resource_are_not_allowed() {
    for line in ["CONNECT a.test:443", "CONNECT /", "OPTIONS *", "GET *"] {
        let head = format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(read(head.as_bytes()), Err(BadRequest::Method), "{line}");
    }
}

#[test]
fn what_two_programs_may_read_differently_is_malformed() {
    for bytes in [
        &b"GET / HTTP/1.1\nHost: a.test\n\n"[..],
        b"GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nA: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nA: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\x7fA: b\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n",
        b"GET /\tHTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /\r\nHost: a.test\r\n\r\n",
        b"GET / http/1.1\r\nHost: a.test\r\n\r\n",
        b"GET a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"G\xc3T / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        malformed(bytes);
    }
    malformed(format!("{} / HTTP/1.1\r\nHost: a.test\r\n\r\n", "M".repeat(33)).as_bytes());
    assert_eq!(read(&[0x16, 3, 1]), Err(BadRequest::Tls));
}

#[test]
fn other_versions_are_named() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/2\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
    ] {
        assert_eq!(read(bytes), Err(BadRequest::Version), "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_limit_holds_for_the_line_and_for_the_head() {
    let line = |path: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(path));
    let whole = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a.test\r\nA: ";
        format!("{start}{}\r\n\r\n", "a".repeat(bytes - start.len() - 4))
    };
    assert_eq!(read(whole(MOST).as_bytes()).expect("good").bytes, MOST);
    assert_eq!(read(whole(MOST + 1).as_bytes()), Err(BadRequest::LongHead));
    assert_eq!(read(line(MOST).as_bytes()), Err(BadRequest::LongLine));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "A:b\r\n".repeat(count));
    assert!(read(fields(99).as_bytes()).is_ok());
    assert_eq!(read(fields(100).as_bytes()), Err(BadRequest::TooManyFields));
}

#[test]
fn a_challenge_is_a_plain_name_without_anything_behind_the_head() {
    let check = |head: Result<RequestHead, BadRequest>| {
        let head = head.expect("good");
        assert!(head.is_challenge());
        head.check_challenge()
    };
    for token in ["token", "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0", "test.txt", "a~b_c-d", "..."] {
        assert_eq!(check(get(&format!("/.well-known/acme-challenge/{token}"))), Ok(()), "{token}");
    }
    assert_eq!(check(get("http://a.test/.well-known/acme-challenge/x")), Ok(()));
    for token in
        ["", ".", "..", "../admin", "x/../../admin", "x/y", "%2e%2e", "%2E%2e/admin", "x;y", "x?y", "x\\y", "/x"]
    {
        let checked = check(get(&format!("/.well-known/acme-challenge/{token}")));
        assert!(matches!(checked, Err(BadRequest::Malformed(_))), "{token}: {checked:?}");
    }
    for other in
        ["/", "//.well-known/acme-challenge/x", "/%2ewell-known/acme-challenge/x", "/.well-known/acme-challenge"]
    {
        assert!(!get(other).expect("good").is_challenge(), "{other}");
    }
    let with = |method: &str, field: &str| {
        let head = format!("{method} /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.test\r\n{field}\r\n\r\n");
        check(read(head.as_bytes()))
    };
    for (method, field, wanted) in [
        ("HEAD", "Content-Length: 0", Ok(())),
        ("POST", "Content-Length: 0", Err(BadRequest::ChallengeMethod)),
        ("get", "A: b", Err(BadRequest::ChallengeMethod)),
        ("GET", "Content-Length: 1", Err(BadRequest::ChallengeBody)),
        ("GET", "content-length: 00", Err(BadRequest::ChallengeBody)),
        ("GET", "Content-Length: 0\r\nContent-Length: 5", Err(BadRequest::ChallengeBody)),
        ("GET", "Transfer-Encoding: identity", Err(BadRequest::ChallengeBody)),
        ("GET", "TRANSFER-ENCODING: chunked", Err(BadRequest::ChallengeBody)),
    ] {
        assert_eq!(with(method, field), wanted, "{method} {field}");
    }
    assert!(matches!(with("GET", "Upgrade: h2c"), Err(BadRequest::Malformed(_))));
}

proptest! {
    /// Every prefix of a good head needs more; what follows it changes nothing; and pieces make no difference.
    #[test]
    fn a_head_is_read_the_same_however_it_arrives(
        name in "[a-z]{1,9}\\.test", path in "/[a-z/?]{0,30}", fields in prop::collection::vec("[A-Za-z]{1,9}: [!-~ ]{0,20}", 0..5),
        after in prop::collection::vec(any::<u8>(), 0..20), cut in any::<prop::sample::Index>()
    ) {
        let fields: String = fields.iter().filter(|f| !f.to_lowercase().starts_with("host:")).map(|f| format!("{f}\r\n")).collect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n{fields}\r\n").into_bytes();
        let whole = read(&head).expect("good");
        prop_assert_eq!(whole.bytes, head.len());
        prop_assert_eq!(&read(&[&head[..], &after].concat()).expect("good"), &whole);
        let cut = cut.index(head.len());
        let mut reader = Reader::new(MOST);
        prop_assert!(matches!(reader.read(&head[..cut]), Ok(Head::Needs(_))));
        let Ok(Head::Whole(pieces)) = reader.read(&head) else { panic!("whole") };
        prop_assert_eq!(&pieces, &whole);
    }

    #[test]
    fn random_bytes_neither_panic_nor_ask_beyond_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        if let Ok(Head::Needs(_)) = Reader::new(MOST).read(&bytes) {
            prop_assert!(bytes.len() < MOST);
        }
    }
}
