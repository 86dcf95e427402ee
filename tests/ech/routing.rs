//! Connections are routed by the inner name, and the backend gets the inner hello.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
use rustls::crypto::hpke::{Hpke, HpkePublicKey, HpkeSealer};
use snigate::internals::ech::{Key, generate, read_key_file};

use crate::backend::Backend;
use crate::bytes::{HELLO_RETRY, SERVER_HELLO, alert, hello};
use crate::harness::{DEADLINE, Lb, Reload, Running};
use crate::sealing::{
    Client, INNER, PUBLIC, accepted, body, encoded, extension, key, keys, mark, message, outer_with, record, shared,
    sni, u16_prefixed, usual, versions,
};
use crate::wire::{Close, read_to_close, send};

const CHANGE_CIPHER_SPEC: &[u8] = &[20, 3, 3, 0, 1, 1];
const ILLEGAL_PARAMETER: u8 = 47;
const DECRYPT_ERROR: u8 = 51;
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;

/// A snigate with one key.
pub struct Fleet {
    pub lb: Running,
    pub key: Arc<Key>,
    pub directory: tempfile::TempDir,
}

impl Fleet {
    /// `rest`: the routes, in a file with the keys.
    pub fn start(lb: &Lb, listener_keys: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = add_key(&directory, "1.pem", 7);
        let ech = format!("ech: {{ keys: {} }}\nsandbox: off", directory.path().display());
        let mut lb = lb.clone().with(&ech);
        if !listener_keys.is_empty() {
            lb = lb.on_listener(listener_keys);
        }
        Self { lb: lb.start(), key, directory }
    }

    pub fn counted(&self, result: &str) -> f64 {
        self.lb.metric("ech_hellos_total", &[("result", result)])
    }
}

pub fn add_key(directory: &tempfile::TempDir, name: &str, id: u8) -> Arc<Key> {
    use std::os::unix::fs::PermissionsExt;
    let pem = generate(id, 64, PUBLIC).expect("a key").pem;
    let hidden = directory.path().join(".new");
    fs::write(&hidden, pem.as_bytes()).expect("written");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).expect("set");
    fs::rename(&hidden, directory.path().join(name)).expect("renamed");
    read_key_file(name, pem.as_bytes()).expect("usable").keys.remove(0)
}

/// Answers like TLS, and hands over all that came, once that is the end.
fn answering() -> (Backend, Receiver<Vec<u8>>) {
    let (to, arrivals) = channel();
    let backend = Backend::that(move |mut stream| {
        let mut got = vec![0; 65_536];
        let Ok(bytes) = stream.read(&mut got) else { return };
        got.truncate(bytes);
        if stream.write_all(SERVER_HELLO).is_ok() {
            let _ = stream.read_to_end(&mut got);
        }
        let _ = to.send(got);
    });
    (backend, arrivals)
}

/// Sends `wire`, reads the answer of the backend, and closes.
fn talk(fleet: &Fleet, wire: &[u8]) {
    let mut client = send(fleet.lb.address(), wire);
    let mut answer = vec![0; SERVER_HELLO.len()];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, SERVER_HELLO);
    client.shutdown(Shutdown::Write).expect("open");
    let _ = client.read_to_end(&mut answer);
}

#[test]
fn an_inner_hello_goes_to_its_name_and_everything_else_to_the_outer_one() {
    let ((inner, to_inner), (public, to_public)) = (answering(), answering());
    let fleet = Fleet::start(&Lb::new().route(INNER, &inner).route(PUBLIC, &public), "");
    let sealed = Client::of(&fleet.key).seal(&encoded(&usual()));
    let after = [&sealed[..], CHANGE_CIPHER_SPEC, b"\x17\x03\x03\x00\x04data"].concat();
    talk(&fleet, &after);
    let expected = accepted(&after, &keys(&[&fleet.key])).prefix;
    assert_eq!(to_inner.recv_timeout(DEADLINE).expect("a connection"), expected);
    let line = fleet.lb.wait_for_connection(INNER);
    let said = (&line["ech"], &line["outer_sni"], &line["sni"], &line["route"]);
    assert_eq!(said, (&"accepted".into(), &PUBLIC.into(), &INNER.into(), &INNER.into()));

    // GREASE with the id of the key, a hello for another key, and one without the extension: to the byte.
    let grease = outer_with(&[&[0, 0, 1, 0, 1, 7][..], &u16_prefixed(&[9; 32]), &u16_prefixed(&[5; 200])].concat());
    let stale = Client::of(&key(8)).seal(&encoded(&usual()));
    for wire in [&grease, &stale, &hello(PUBLIC)] {
        talk(&fleet, wire);
        assert_eq!(to_public.recv_timeout(DEADLINE).expect("a connection"), *wire);
    }
    assert_eq!((fleet.counted("accepted"), fleet.counted("not_for_us"), fleet.counted("illegal")), (1.0, 2.0, 0.0));
    assert_eq!(fleet.lb.metric("ech_key_opened_total", &[("key", "1.pem")]), 1.0);
    assert!(fleet.lb.metric("ech_key_last_opened_timestamp_seconds", &[("key", "1.pem")]) > 1e9);
    fleet.lb.stop();
}

#[test]
fn an_illegal_hello_gets_its_alert_unless_the_listener_opens_none() {
    let (backend, arrivals) = answering();
    let lb = Lb::new().route(INNER, &backend).route(PUBLIC, &backend);
    let fleet = Fleet::start(&lb, "");
    let no_mark = Client::of(&fleet.key).seal(&encoded(&[sni(INNER), versions(&[0x0304])].concat()));
    let bad_name = Client::of(&fleet.key).seal(&encoded(&[sni("-"), versions(&[0x0304]), mark()].concat()));
    // What a client-facing server sends.
    let inner = outer_with(&[1]);
    for (count, wire) in (1..).zip([&no_mark, &bad_name, &inner]) {
        let mut client = send(fleet.lb.address(), wire);
        assert_eq!(read_to_close(&mut client), (alert(ILLEGAL_PARAMETER), Close::Fin));
        fleet.lb.wait_for_metric("ech_hellos_total", &[("result", "illegal")], f64::from(count));
    }
    let line = fleet.lb.wait_for_line(|line| line["ech"] == "illegal");
    assert_eq!((&line["reason"], &line["sni"]), (&"bad_hello".into(), &PUBLIC.into()));
    assert!(
        line["error"].as_str().is_some_and(|error| error.contains("no encrypted_client_hello of type inner")),
        "{line}"
    );
    fleet.lb.stop();

    let second_tier = Fleet::start(&lb, "ech: off");
    talk(&second_tier, &inner);
    assert_eq!(arrivals.recv_timeout(DEADLINE).expect("a connection"), inner);
    assert_eq!(second_tier.counted("illegal"), 0.0);
    second_tier.lb.stop();
}

#[test]
fn a_route_may_take_only_encrypted_names_or_none() {
    let ((hidden, to_hidden), (open, to_open), (rest, to_rest)) = (answering(), answering(), answering());
    let text = |lb: &Lb, routes: &str| lb.config().replace("routes: []\n", &format!("routes:\n{routes}"));
    let directory = tempfile::tempdir().expect("a directory");
    let key = add_key(&directory, "1.pem", 7);
    let lb = Lb::new().unmatched(&rest).with(&format!("ech: {{ keys: {} }}\nsandbox: off", directory.path().display()));
    let pools = format!(
        "  hidden: {{ backends: [\"{}\"] }}\n  open: {{ backends: [\"{}\"] }}\npools:\n",
        hidden.address, open.address
    );
    let routes = format!(
        "  - {{ sni: {INNER}, ech: only, pool: hidden }}\n  - {{ sni: open.example, ech: never, pool: open }}\n"
    );
    let config = text(&lb, &routes);
    let (head, tail) = config.split_once("pools:\n").expect("pools");
    let (own, _) = pools.split_once("pools:\n").expect("pools");
    let lb = Running::start(&format!("{head}pools:\n{own}{tail}"));
    let fleet = Fleet { lb, key, directory };
    let sealed = |name: &str| Client::of(&fleet.key).seal(&encoded(&[sni(name), versions(&[0x0304]), mark()].concat()));
    for (wire, arrivals) in [
        (sealed(INNER), &to_hidden),
        (hello(INNER), &to_rest),
        (hello("open.example"), &to_open),
        (sealed("open.example"), &to_rest),
    ] {
        talk(&fleet, &wire);
        arrivals.recv_timeout(DEADLINE).expect("a connection");
    }
    fleet.lb.stop();
    drop(fleet.directory);
}

#[test]
fn a_name_that_is_only_sealed_does_not_exist_in_the_clear() {
    let (public, _arrivals) = answering();
    let fleet = Fleet::start(&Lb::new().route(PUBLIC, &public), "");
    let sealed = Client::of(&fleet.key).seal(&encoded(&usual()));
    let mut client = send(fleet.lb.address(), &sealed);
    assert_eq!(read_to_close(&mut client), (alert(UNRECOGNIZED_NAME), Close::Fin));
    fleet.lb.stop();
}

#[test]
fn a_new_key_is_used_at_once_and_one_that_is_gone_no_longer() {
    let ((inner, to_inner), (public, to_public)) = (answering(), answering());
    let fleet = Fleet::start(&Lb::new().route(INNER, &inner).route(PUBLIC, &public), "");
    let seen = fleet.lb.log().len();
    let new = add_key(&fleet.directory, "2.pem", 9);
    assert_eq!(fleet.lb.wait_for_reload_after(seen), Reload::Applied);
    for key in [&fleet.key, &new] {
        talk(&fleet, &Client::of(key).seal(&encoded(&usual())));
        to_inner.recv_timeout(DEADLINE).expect("a connection");
    }
    let seen = fleet.lb.log().len();
    fs::remove_file(fleet.directory.path().join("1.pem")).expect("removed");
    assert_eq!(fleet.lb.wait_for_reload_after(seen), Reload::Applied);
    talk(&fleet, &Client::of(&fleet.key).seal(&encoded(&usual())));
    to_public.recv_timeout(DEADLINE).expect("a connection");

    // Without a usable key, the reload is rejected and the old one stays.
    let seen = fleet.lb.log().len();
    fs::write(fleet.directory.path().join("2.pem"), "half").expect("written");
    assert_eq!(fleet.lb.wait_for_reload_after(seen), Reload::Rejected);
    talk(&fleet, &Client::of(&new).seal(&encoded(&usual())));
    to_inner.recv_timeout(DEADLINE).expect("a connection");
    fleet.lb.stop();
}

#[test]
fn a_proxy_header_carries_the_name_that_the_backend_reads() {
    let (backend, arrivals) = answering();
    let lb = Lb::new().route_with(INNER, &backend, "send_proxy_protocol: v2").route(PUBLIC, &backend);
    let fleet = Fleet::start(&lb, "");
    talk(&fleet, &Client::of(&fleet.key).seal(&encoded(&usual())));
    let got = arrivals.recv_timeout(DEADLINE).expect("a connection");
    let authority = [&[2][..], &u16_prefixed(INNER.as_bytes())].concat();
    assert!(got.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21"), "{}", got.escape_ascii());
    assert!(got.windows(authority.len()).any(|part| part == authority), "{}", got.escape_ascii());
    fleet.lb.stop();
}

/// A client that seals two hellos with one context.
struct Twice<'a> {
    client: Client<'a>,
    sealer: Box<dyn HpkeSealer>,
    first: Vec<u8>,
}

impl<'a> Twice<'a> {
    fn new(key: &'a Key) -> Self {
        let client = Client::of(key);
        let info = [b"tls ech\0", client.config].concat();
        let public = HpkePublicKey(client.public_key.to_vec());
        let (enc, mut sealer) = DH_KEM_X25519_HKDF_SHA256_AES_128.setup_sealer(&info, &public).expect("a key");
        let first = sealed(&mut *sealer, client.id, 1, &enc.0, &encoded(&usual()));
        Self { client, sealer, first }
    }

    fn second(&mut self, id: u8, aead: u8, enc: &[u8], inner: &[u8]) -> Vec<u8> {
        sealed(&mut *self.sealer, id, aead, enc, inner)
    }
}

fn sealed(sealer: &mut dyn HpkeSealer, id: u8, aead: u8, enc: &[u8], inner: &[u8]) -> Vec<u8> {
    let outer = |payload: &[u8]| {
        let content = [&[0, 0, 1, 0, aead, id][..], &u16_prefixed(enc), &u16_prefixed(payload)].concat();
        let extensions = [sni(PUBLIC), versions(&[0x0304, 0x0303]), shared(), extension(0xfe0d, &content)].concat();
        body(&[7; 32], &extensions)
    };
    let payload = sealer.seal(&outer(&vec![0; inner.len() + 16]), inner).expect("sealed");
    record(&message(&outer(&payload)))
}

/// Asks for another hello, and hands over what came after the first.
fn retrying(first_bytes: usize) -> (Backend, Receiver<Vec<u8>>) {
    let (to, arrivals) = channel();
    let backend = Backend::that(move |mut stream| {
        let mut first = vec![0; first_bytes];
        if stream.read_exact(&mut first).is_ok() {
            stream.write_all(HELLO_RETRY).expect("written");
            let mut second = Vec::new();
            let _ = stream.read_to_end(&mut second);
            let _ = to.send(second);
        }
    });
    (backend, arrivals)
}

fn asked_again(fleet: &Fleet, first: &[u8]) -> TcpStream {
    let mut client = send(fleet.lb.address(), first);
    let mut answer = vec![0; HELLO_RETRY.len()];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, HELLO_RETRY);
    client
}

#[test]
fn the_hello_after_a_retry_request_is_opened_with_the_same_context() {
    let some = key(1);
    let inner_bytes = accepted(&Client::of(&some).seal(&encoded(&usual())), &keys(&[&some])).prefix.len();
    let (backend, arrivals) = retrying(inner_bytes);
    let fleet = Fleet::start(&Lb::new().route(INNER, &backend), "");
    let inner = [sni(INNER), extension(0x0a0a, b"cookie"), versions(&[0x0304]), mark()].concat();
    let expected = record(&message(&body(&[7; 32], &inner)));
    for step in [1, 7, 10_000] {
        let mut twice = Twice::new(&fleet.key);
        let mut client = asked_again(&fleet, &twice.first);
        let second = twice.second(7, 1, &[], &encoded(&inner));
        let all = [CHANGE_CIPHER_SPEC, &second, b"\x17\x03\x03\0\x02xy"].concat();
        client.set_nodelay(true).expect("set");
        all.chunks(step).for_each(|part| client.write_all(part).expect("written"));
        client.shutdown(Shutdown::Write).expect("open");
        let got = arrivals.recv_timeout(DEADLINE).expect("a connection");
        assert_eq!(got, [CHANGE_CIPHER_SPEC, &expected, b"\x17\x03\x03\0\x02xy"].concat(), "{step}");
    }
    fleet.lb.wait_for_metric("ech_hellos_total", &[("result", "retry_accepted")], 3.0);
    assert_eq!(fleet.counted("retry_refused"), 0.0);
    fleet.lb.stop();
}

#[test]
fn a_hello_after_a_retry_request_that_is_not_sealed_as_the_first_gets_its_alert() {
    let some = key(1);
    let inner_bytes = accepted(&Client::of(&some).seal(&encoded(&usual())), &keys(&[&some])).prefix.len();
    let (backend, arrivals) = retrying(inner_bytes);
    let fleet = Fleet::start(&Lb::new().route(INNER, &backend).route(PUBLIC, &backend), "");
    let other_name = encoded(&[sni("other.example"), versions(&[0x0304]), mark()].concat());
    let second = |which: usize, twice: &mut Twice<'_>| match which {
        0 => hello(PUBLIC),
        1 => twice.second(8, 1, &[], &encoded(&usual())),
        2 => twice.second(7, 2, &[], &encoded(&usual())),
        3 => twice.second(7, 1, &[9; 32], &encoded(&usual())),
        4 => {
            let mut wire = twice.second(7, 1, &[], &encoded(&usual()));
            let last = wire.len() - 1;
            wire[last] ^= 1;
            wire
        }
        // Sealed with another context.
        5 => Client::of(&fleet.key).seal(&encoded(&usual())),
        6 => twice.second(7, 1, &[], &encoded(&[sni(INNER), versions(&[0x0304])].concat())),
        _ => twice.second(7, 1, &[], &other_name),
    };
    let alerts = [
        MISSING_EXTENSION,
        ILLEGAL_PARAMETER,
        ILLEGAL_PARAMETER,
        ILLEGAL_PARAMETER,
        DECRYPT_ERROR,
        ILLEGAL_PARAMETER,
        ILLEGAL_PARAMETER,
        ILLEGAL_PARAMETER,
    ];
    for (which, code) in alerts.into_iter().enumerate() {
        let mut twice = Twice::new(&fleet.key);
        let mut client = asked_again(&fleet, &twice.first);
        let wire = second(which, &mut twice);
        client.write_all(&wire).expect("written");
        assert_eq!(read_to_close(&mut client), (alert(code), Close::Fin), "{which}");
        drop(client);
        assert_eq!(arrivals.recv_timeout(DEADLINE).expect("a connection"), b"", "{which}");
        assert_eq!(twice.client.id, 7);
    }
    fleet.lb.wait_for_metric("ech_hellos_total", &[("result", "retry_refused")], 8.0);
    fleet.lb.stop();
}
