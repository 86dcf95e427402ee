//! Backends that are odd in every way at once: each client is served by one that is not, and the accounts hold.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello, noise};
use crate::connecting::SilentPort;
use crate::harness::recorder::ClosedPort;
use crate::harness::{DEADLINE, Lb, poll};
use crate::stalled::Echo;
use crate::trial::Trial;
use crate::wire::{self, Close, ask, read_to_close, send};

/// What a plain HTTP server makes of a hello.
const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";

/// Fails a client in each way that another backend can make up for.
fn odd() -> Vec<Backend> {
    let hold = |mut stream: TcpStream| drop(stream.read_to_end(&mut Vec::new()));
    vec![
        // Accepts, and closes or resets before it has read.
        Backend::that(drop),
        Backend::that(wire::reset),
        // Takes the hello, and says nothing, closes, resets.
        Backend::that(hold),
        Backend::that(|mut stream| drop(stream.read(&mut [0; 4096]))),
        Backend::that(|mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            wire::reset(stream);
        }),
        // Speaks first: a line, or without end.
        Backend::that(move |mut stream| {
            let _ = stream.write_all(b"220 mail.test ESMTP\r\n");
            hold(stream);
        }),
        Backend::that(|mut stream| while stream.write_all(&[0x5a; 32 << 10]).is_ok() {}),
        // No TLS, with a FIN right behind it.
        Backend::that(|mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(HTTP);
        }),
    ]
}

#[test]
fn among_backends_that_are_odd_in_every_way_each_client_finds_the_good_one() {
    let (odd, refusing, unanswering) = (odd(), ClosedPort::new(), SilentPort::new());
    let good = Backend::answering(SERVER_HELLO);
    let addresses: Vec<SocketAddr> = odd.iter().map(|backend| backend.address).collect();
    let addresses: [SocketAddr; 8] = addresses.try_into().unwrap();
    let [a, b, c, d, e, f, g, h] = addresses;
    let all = [a, b, c, d, e, f, g, h, refusing.address, unanswering.address, good.address];
    let keys = "balance: random\nejection: off\n\
                connect: { attempts: 16, timeout: 150ms, first_byte: 150ms, total: 15s }";
    // A pool for each client, since failovers have a budget.
    let clients = 100;
    let name = |client| format!("{client}.a.test");
    let lb = Trial::of((0..clients).fold(Lb::new(), |lb, client| lb.route_with(&name(client), all, keys)));
    let served = (0..clients).map(|client| {
        let to = lb.address();
        thread::spawn(move || {
            let mut client = send(to, &hello(&name(client)));
            let mut answer = [0; SERVER_HELLO.len()];
            client.read_exact(&mut answer).map(|()| {
                client.shutdown(Shutdown::Write).unwrap();
                (answer == *SERVER_HELLO, read_to_close(&mut client))
            })
        })
    });
    let served: Vec<_> = served.collect();
    for client in served {
        assert_eq!(client.join().unwrap().expect("an answer"), (true, (vec![], Close::Fin)));
    }
    lb.wait_for_closed("ok", f64::from(clients));
    let connects = |result| lb.metric("backend_connects_total", &[("result", result)]);
    assert_eq!(connects("ok"), f64::from(clients));
    for result in ["refused", "timeout", "silent", "closed", "reset", "not_tls"] {
        assert!(connects(result) > 0.0, "{result}");
    }
    let attempts = lb.metric("backend_connects_total", &[]);
    let logged = || lb.log().iter().filter_map(|line| line["attempts"].as_u64()).sum::<u64>() as f64;
    poll(|| if logged() == attempts { Ok(()) } else { Err(logged()) }).expect("each attempt has one result");
    lb.end();
}

#[test]
fn when_all_refuse_it_takes_milliseconds() {
    let refusing = [ClosedPort::new(), ClosedPort::new(), ClosedPort::new()];
    let lb = Trial::of(Lb::new().route("a.test", refusing.each_ref().map(|port| port.address)));
    let waited = (0..20).map(|_| {
        let started = Instant::now();
        assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
        started.elapsed()
    });
    // The machine may be busy with other tests; not each time.
    let fastest = waited.min().unwrap();
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    lb.wait_for_closed("connect_refused", 20.0);
    lb.end();
}

#[test]
fn an_attempt_that_times_out_gives_its_place_back() {
    let (unanswering, good) = (SilentPort::new(), Backend::answering(SERVER_HELLO));
    let backends = format!("backends: [{{ address: {}, max_connections: 1 }}, {}]", unanswering.address, good.address);
    let keys = "balance: first\n    ejection: off\n    connect: { timeout: 200ms }";
    let config = Lb::new().route_with("a.test", good.address, keys).config();
    let plain = format!("backends: [\"{}\"]", good.address);
    assert!(config.contains(&plain));
    let lb = Trial::with(&config.replace(&plain, &backends).replace("\n        ", "\n    "));
    for turn in 1..=4 {
        assert_eq!(answer(&lb), SERVER_HELLO);
        // Were its place not given back, it would be passed over.
        assert_eq!(lb.metric("backend_connects_total", &[("result", "timeout")]), f64::from(turn));
    }
    lb.end();
}

#[test]
fn a_backend_frozen_during_the_handshake_is_passed_over_and_its_late_answer_goes_nowhere() {
    let Some(frozen) = Echo::start() else { return println!("skipped: no python3") };
    let good = Backend::answering(SERVER_HELLO);
    let keys = "balance: first\nejection: off\nconnect: { first_byte: 1s }";
    let lb = Trial::of(Lb::new().route_with("a.test", [frozen.address, good.address], keys));
    frozen.signal(Signal::STOP);
    let mut client = send(lb.address(), &hello("a.test"));
    let mut first = [0; SERVER_HELLO.len()];
    client.read_exact(&mut first).expect("an answer");
    frozen.signal(Signal::CONT);
    // It is well again, and echoes what it is sent: the next client's hello, which is no answer of a TLS server.
    assert_eq!(answer(&lb), SERVER_HELLO);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&first[..], read_to_close(&mut client)), (SERVER_HELLO, (vec![], Close::Fin)));
    let connects = |result| lb.metric("backend_connects_total", &[("result", result)]);
    assert_eq!((connects("silent"), connects("not_tls"), connects("ok")), (1.0, 1.0, 2.0));
    lb.end();
}

#[test]
fn a_backend_that_dies_in_the_middle_of_its_answer_is_not_made_up_for() {
    let (half, good) = (SERVER_HELLO[..7].to_vec(), Backend::answering(SERVER_HELLO));
    for (then, close) in [(drop as fn(TcpStream), Close::Fin), (wire::reset, Close::Reset)] {
        let half = half.clone();
        let sent = half.clone();
        let dying = Backend::that(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(&half).unwrap();
            wire::wait_until_sent(&stream);
            then(stream);
        });
        let lb = Trial::of(Lb::new().route_with("a.test", [dying.address, good.address], "balance: first"));
        let mut client = send(lb.address(), &hello("a.test"));
        if close == Close::Fin {
            client.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(read_to_close(&mut client), (sent, close));
        assert_eq!(good.contacts(), 0, "the client has seen a byte of another");
        lb.end();
    }
}

/// The answer is far more than one read, and more than the client's socket takes at once.
#[test]
fn what_follows_the_answer_of_a_second_backend_comes_whole_both_ways() {
    let (odd, up, down) = (Backend::that(drop), noise(1 << 20), [SERVER_HELLO, &noise(8 << 20)].concat());
    let (expected, sent) = ([hello("a.test"), up.clone()].concat(), down.clone());
    let (to, came) = std::sync::mpsc::channel();
    let good = Backend::that(move |mut stream| {
        let mut upload = vec![0; hello("a.test").len()];
        stream.read_exact(&mut upload).unwrap();
        let (mut writer, down) = (stream.try_clone().unwrap(), down.clone());
        let writer = thread::spawn(move || {
            writer.write_all(&down).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut upload).unwrap();
        writer.join().unwrap();
        let _ = to.send(upload);
    });
    let keys = "balance: first\nejection: off";
    let lb = Trial::of(Lb::new().route_with("a.test", [odd.address, good.address], keys));
    for _ in 0..5 {
        let mut client = send(lb.address(), &hello("a.test"));
        let mut first = [0; 1];
        client.read_exact(&mut first).unwrap();
        let (mut writer, up) = (client.try_clone().unwrap(), up.clone());
        let writer = thread::spawn(move || {
            writer.write_all(&up).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let (rest, close) = read_to_close(&mut client);
        writer.join().unwrap();
        assert!([&first[..], &rest].concat() == sent && close == Close::Fin, "{} bytes, {close:?}", rest.len());
        assert!(came.recv_timeout(DEADLINE).unwrap() == expected, "the upload differs");
    }
    lb.end();
}

/// One client's whole exchange.
#[track_caller]
fn answer(lb: &Trial) -> Vec<u8> {
    let mut client = send(lb.address(), &hello("a.test"));
    client.shutdown(Shutdown::Write).unwrap();
    let (answer, close) = read_to_close(&mut client);
    assert_eq!(close, Close::Fin);
    answer
}
