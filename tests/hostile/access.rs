//! Who may come in: `allow` and `deny` of listeners and routes, and the files of networks that they name.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::backend::Backend;
use crate::bytes::{alert, hello};
use crate::harness::{DEADLINE, Lb, Reload, Running};
use crate::trial::Trial;
use crate::wire::{Close, read_to_close};

/// A client at 127.0.0.`last`.
pub fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What comes back to a client at 127.0.0.`last`, and how it ends.
#[track_caller]
fn ask_from(last: u8, to: SocketAddr, bytes: &[u8]) -> (Vec<u8>, Close) {
    let mut stream = connect_from(last, to);
    let is_reset = stream.write_all(bytes).is_err();
    let (answer, close) = read_to_close(&mut stream);
    (answer, if is_reset { Close::Reset } else { close })
}

#[track_caller]
fn is_served(last: u8, to: SocketAddr, bytes: &[u8]) {
    let mut stream = connect_from(last, to);
    stream.write_all(bytes).unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"served");
}

#[test]
fn a_listener_resets_whom_it_denies_before_a_byte_is_read() {
    let backend = Backend::answering(b"served");
    let keys = "allow: [127.0.0.0/30], deny: [127.0.0.2, \"::1\"]";
    let lb = Trial::on_listener(keys, Lb::new().route("a.test", &backend));
    is_served(1, lb.address(), &hello("a.test"));
    is_served(3, lb.address(), &hello("a.test"));
    // Nothing is sent: the reset does not wait for it.
    for last in [2, 4] {
        assert_eq!(read_to_close(&mut connect_from(last, lb.address())), (vec![], Close::Reset), "{last}");
    }
    lb.wait_for_closed("denied", 2.0);
    let error = |last: u8| {
        let client = format!("127.0.0.{last}:");
        let line = lb.wait_for_line(|line| line["client"].as_str().is_some_and(|text| text.starts_with(&client)));
        line["error"].as_str().unwrap().to_owned()
    };
    assert_eq!(error(2), "the client's address is in `deny`");
    assert_eq!(error(4), "the client's address is not in `allow`");
    assert_eq!(lb.metric("client_hello_total", &[]), 2.0, "no hello of theirs was waited for");
    lb.end();
}

#[test]
fn a_route_answers_whom_it_denies_with_access_denied() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("open.test", &backend).with("unmatched: { refuse: reset }").config();
    let route =
        "routes:\n  - { name: closed, sni: closed.test, pool: pool-0, deny: [127.0.0.2], allow: [127.0.0.0/8] }\n";
    let lb = Trial::with(&lb.replace("routes:\n", route));
    assert_eq!(ask_from(2, lb.address(), &hello("closed.test")), (alert(49), Close::Fin));
    is_served(1, lb.address(), &hello("closed.test"));
    is_served(2, lb.address(), &hello("open.test"));
    let denied = [("reason", "denied"), ("route", "closed"), ("fault", "policy")];
    lb.wait_for_metric("connections_closed_total", &denied, 1.0);
    lb.wait_for_metric("alerts_sent_total", &[("alert", "access_denied")], 1.0);
    lb.end();
}

#[test]
fn the_client_that_a_proxy_announces_counts_and_one_without_an_address_never_comes_in() {
    let backend = Backend::answering(b"served");
    let ask = |lb: &Running, header: &str| ask_from(1, lb.address(), &[header.as_bytes(), &hello("a.test")].concat());
    let deny = "proxy_protocol: { trusted: [127.0.0.1] }, deny: [192.0.2.0/24]";
    let lb = Trial::on_listener(deny, Lb::new().route("a.test", &backend));
    let tcp4 = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 5 6\r\n");
    assert_eq!(ask(&lb, &tcp4("192.0.2.7")), (vec![], Close::Reset));
    assert_eq!(ask(&lb, "PROXY TCP6 ::ffff:192.0.2.7 ::1 5 6\r\n"), (vec![], Close::Reset));
    assert_eq!(ask(&lb, "PROXY UNKNOWN\r\n"), (vec![], Close::Reset));
    is_served(1, lb.address(), &[tcp4("198.51.100.7").as_bytes(), &hello("a.test")].concat());
    lb.wait_for_closed("denied", 3.0);
    lb.end();

    // Behind the proxy, its own address lets nobody in.
    let allow = "proxy_protocol: { trusted: [127.0.0.1] }, allow: [127.0.0.0/8]";
    let lb = Trial::on_listener(allow, Lb::new().route("a.test", &backend));
    assert_eq!(ask(&lb, &tcp4("192.0.2.7")), (vec![], Close::Reset));
    assert_eq!(ask(&lb, "PROXY UNKNOWN\r\n"), (vec![], Close::Reset));
    is_served(1, lb.address(), &[tcp4("127.9.9.9").as_bytes(), &hello("a.test")].concat());
    lb.end();
}

#[test]
fn a_file_of_networks_is_followed_and_one_that_is_wrong_changes_nothing() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("banned.txt");
    let write = |text: &str| {
        fs::write(list.with_extension("new"), text).unwrap();
        fs::rename(list.with_extension("new"), &list).unwrap();
    };
    write("# nobody yet\n");
    let keys = format!("deny: [\"@{}\"]", list.display());
    let lb = Trial::on_listener(&keys, Lb::new().route("a.test", &backend));
    is_served(2, lb.address(), &hello("a.test"));
    let denied = |last: u8| {
        assert_eq!(ask_from(last, lb.address(), &hello("a.test")), (vec![], Close::Reset), "{last}");
    };

    let seen = lb.log().len();
    write("127.0.0.2\r\n\r\n  127.0.0.4/31 # both\r\n");
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    denied(2);
    denied(5);
    is_served(3, lb.address(), &hello("a.test"));

    type Spoil<'a> = Box<dyn Fn() + 'a>;
    let wrong: [(&str, Spoil<'_>, &str); 3] = [
        ("a wrong line", Box::new(|| write("127.0.0.3\n 127.0.0.1/8\n")), "banned.txt:2:2: the address has bits"),
        ("missing", Box::new(|| fs::remove_file(&list).unwrap()), "banned.txt` does not exist; create it"),
        ("a directory", Box::new(|| fs::create_dir(&list).unwrap()), "banned.txt`: this is a directory"),
    ];
    for (what, spoil, reported) in &wrong {
        let seen = lb.log().len();
        spoil();
        assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected, "{what}");
        let problem = |line: &serde_json::Value| line["msg"].as_str().is_some_and(|text| text.contains(reported));
        assert!(lb.log()[seen..].iter().any(problem), "{what}: {:?}", &lb.log()[seen..]);
        denied(2);
        is_served(3, lb.address(), &hello("a.test"));
    }
    fs::remove_dir(&list).unwrap();
    let seen = lb.log().len();
    write("127.0.0.3\n");
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    denied(3);
    is_served(2, lb.address(), &hello("a.test"));
    lb.end();
}

#[test]
fn the_running_process_shows_the_entry_that_decided() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("banned.txt");
    fs::write(&list, "# banned\n10.0.0.0/8\n").unwrap();
    let keys = format!("deny: [192.0.2.1, \"@{}\"]", list.display());
    let lb = Trial::on_listener(&keys, Lb::new().route("a.test", &backend));
    let explain = |query: &str| -> serde_json::Value {
        let (status, body) = lb.admin_get(&format!("/api/v1/explain?name=a.test{query}"));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let denied = explain("&source=10.1.2.3");
    assert_eq!(denied["refusal"]["reason"], "denied", "{denied}");
    assert_eq!((&denied["access"][0]["network"], &denied["pool"]), (&"10.0.0.0/8".into(), &serde_json::Value::Null));
    assert_eq!(denied["access"][0]["place"], format!("{}:2:1", list.display()));
    assert!(explain("&source=192.0.2.1")["access"][0]["place"].as_str().unwrap().contains("config.yaml:2:"));
    assert_eq!(explain("&source=192.0.2.9")["pool"]["name"], "pool-0");
    // Who comes from nowhere is told that the lists were left out.
    let assumed = explain("");
    assert_eq!((&assumed["pool"]["name"], &assumed["access"]), (&"pool-0".into(), &serde_json::json!([])));
    assert!(assumed["hints"][0].as_str().unwrap().contains("`allow` and `deny` of listener https"), "{assumed}");
    lb.end();
}
