//! What we write in a PROXY header is what HAProxy and nginx read, and what HAProxy writes is what we read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use snigate::internals::proxy_header::{Addresses, Values, Version, encode, local};

use crate::client::{Client, Question, Tls};
use crate::harness::bytes::hello;
use crate::harness::{DEADLINE, Lb, Reload, Running, was_served};
use crate::names::body;
use crate::program::Program;
use crate::reader::{Over, Reader};

#[test]
fn haproxy_is_reported_the_client_the_name_as_sent_and_the_id_of_the_log() {
    for version in ["v1", "v2"] {
        let Some(haproxy) = Reader::haproxy(Over::Tls("a.test")) else { return };
        let Some((reported, line, local)) = ask_through(&haproxy, version, "A.Test") else { return };
        assert_eq!((&reported["server"], &reported["client"]), (&"haproxy".into(), &line["client"]), "{version}");
        assert_eq!(reported["local"], local, "{version}");
        let of_version_2 = |value: &Value| if version == "v2" { value.clone() } else { "".into() };
        assert_eq!(reported["authority"], of_version_2(&"A.Test".into()));
        assert_eq!(reported["unique_id"], of_version_2(&line["id"]));
    }
}

#[test]
fn nginx_is_reported_the_client() {
    for version in ["v1", "v2"] {
        let Some(nginx) = Reader::nginx("a.test") else { return };
        let Some((reported, line, local)) = ask_through(&nginx, version, "a.test") else { return };
        assert_eq!((&reported["server"], &reported["client"]), (&"nginx".into(), &line["client"]), "{version}");
        assert_eq!(reported["local"], local, "{version}");
    }
}

#[test]
fn haproxy_refuses_a_header_of_ours_once_a_bit_of_it_is_changed() {
    let Some(haproxy) = Reader::haproxy(Over::Plain) else { return };
    let [client, local] = ["192.0.2.1:5", "198.51.100.2:443"].map(|address| address.parse::<SocketAddr>().unwrap());
    let values = Values {
        unique_id: Some(snigate::internals::ConnectionId(0xa11ce)),
        authority: Some(b"a.test"),
        alpn: Some(b"h2"),
        ..Values::default()
    };
    let header = encode(Version::V2, Addresses { client, local }, &values);
    let reported = get(haproxy.address, &header).expect("an answer");
    assert_eq!(reported["client"], client.to_string());
    assert_eq!(reported["local"], local.to_string());
    assert_eq!(reported["authority"], "a.test");
    assert_eq!(reported["unique_id"], "00000000000a11ce");

    // One bit in each part: an address, the id, the name, the protocol, the checksum.
    for at in [17, 35, 55, 63, header.len() - 1] {
        let mut changed = header.clone();
        changed[at] ^= 1;
        assert_eq!(get(haproxy.address, &changed), None, "byte {at}");
    }
}

#[test]
fn haproxy_takes_a_header_that_speaks_for_no_client() {
    let Some(haproxy) = Reader::haproxy(Over::Plain) else { return };
    for version in [Version::V1, Version::V2] {
        let reported = get(haproxy.address, &local(version, None)).expect("an answer");
        assert_eq!(reported["local"], haproxy.address.to_string(), "{version:?}");
        assert_eq!(reported["authority"], "", "{version:?}");
    }
}

#[test]
fn what_a_haproxy_in_front_tells_is_reported_on_and_the_id_is_ours() {
    let Some(behind) = Reader::haproxy(Over::Tls("a.test")) else { return };
    let Some(curl) = Client::curl() else { return };
    let lb = Lb::new().on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }");
    let lb = lb.route_with("a.test", behind.address, "send_proxy_protocol: v2").start();
    let Some(front) = Reader::haproxy_in_front_of(lb.address()) else { return };
    let trust = behind.certificate("a.test");
    let output = curl.ask(Question { to: front.address, name: "a.test", trust: &trust, tls: Tls::Any });
    assert!(output.success, "{output:?}");
    let reported = body(&output.stdout);
    let line = lb.wait_for_connection("a.test");
    assert!(was_served(&line) && line["client"] != line["peer"], "{line}");
    assert_eq!((&reported["client"], &reported["local"]), (&line["client"], &front.address.to_string().into()));
    assert_eq!((&reported["authority"], &reported["unique_id"]), (&"a.test".into(), &line["id"]));
    lb.wait_for_metric("proxy_headers_total", &[("result", "v2")], 1.0);
    lb.stop();
}

#[test]
fn a_loop_through_a_haproxy_is_ended() {
    let config = |backend: SocketAddr| {
        let lb = Lb::new().on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }");
        lb.route("a.test", backend).config()
    };
    let lb = Running::start(&config(([127, 0, 0, 1], 1).into()));
    let Some(front) = Reader::haproxy_in_front_of(lb.address()) else { return };
    assert_eq!(lb.edit(&config(front.address)), Reload::Applied);
    let mut client = TcpStream::connect(front.address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&hello("a.test")).unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    // HAProxy hands on a FIN, and each connection waits for that of its client.
    drop(client);
    assert_eq!(answer, b"");
    lb.wait_for_metric("connections_closed_total", &[("reason", "self_loop")], 1.0);
    lb.wait_for_metric("connections_active", &[], 0.0);
    let accepted = lb.metric("connections_accepted_total", &[]);
    assert!(accepted < 150.0, "{accepted}");
    lb.stop();
}

/// What `reader` was told when asked for `sni` through a snigate, what that logged, and where the client connected to.
fn ask_through(reader: &Reader, version: &str, sni: &str) -> Option<(Value, Value, String)> {
    let openssl = Program::find("openssl")?;
    let lb = Lb::new().route_with("a.test", reader.address, &format!("send_proxy_protocol: {version}")).start();
    let trust = reader.certificate("a.test");
    let (to, trust) = (lb.address().to_string(), trust.to_str().unwrap());
    // curl would write the name in lower case.
    let arguments = ["s_client", "-connect", &to, "-servername", sni, "-verify_hostname", sni, "-CAfile", trust];
    let arguments = arguments.iter().chain(&["-verify_return_error", "-ign_eof", "-alpn", "http/1.1"]);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let output = openssl.run_with_input(arguments, request.as_bytes());
    assert!(output.success, "{output:?}");
    let line = lb.wait_for_connection("a.test");
    assert!(was_served(&line), "{line}");
    let local = lb.address().to_string();
    lb.stop();
    Some((body(&output.stdout), line, local))
}

/// The answer to a plain request behind `header`; `None` when the server would not have it.
fn get(from: SocketAddr, header: &[u8]) -> Option<Value> {
    let mut stream = TcpStream::connect(from).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[header, b"GET / HTTP/1.0\r\n\r\n"].concat()).unwrap();
    let mut answer = Vec::new();
    // A server that refuses the header may reset, as it leaves the request unread.
    let _ = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then(|| body(std::str::from_utf8(&answer).unwrap()))
}
