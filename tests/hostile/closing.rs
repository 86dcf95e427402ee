//! Half-closes and resets, on both sides, with both engines of the relay.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{DEADLINE, Lb, poll};
use crate::trial::Trial;
use crate::wire::{Close, abort, connect, fill, read_to_close, reset, send, wait_until_sent};

const ENGINES: [&str; 2] = ["relay: { splice: auto }", "relay: { splice: off }"];

#[test]
fn a_late_answer_comes_whole_after_the_clients_fin() {
    for engine in ENGINES {
        let answer = noise(4 << 20);
        let expected = answer.clone();
        let backend = Backend::that(move |mut stream| {
            // Only when the client has closed its side; then with pauses shorter than the timeout, longer in all.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            for part in answer.chunks(answer.len() / 8) {
                thread::sleep(Duration::from_millis(150));
                stream.write_all(part).unwrap();
            }
        });
        let lb = Trial::of(Lb::new().route("a.test", &backend).with("timeouts: { half_closed: 800ms }").with(engine));
        let mut client = send(lb.address(), &hello("a.test"));
        client.shutdown(Shutdown::Write).unwrap();
        let (came, close) = read_to_close(&mut client);
        assert!(came == expected && close == Close::Fin, "{} of {} bytes, {close:?}", came.len(), expected.len());
        lb.wait_for_closed("ok", 1.0);
        lb.end();
    }
}

#[test]
fn an_upload_goes_on_after_the_backends_fin() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
        let mut client = send(lb.address(), &hello("a.test"));
        let mut behind = streams.recv_timeout(DEADLINE).unwrap();
        behind.write_all(b"done").unwrap();
        behind.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (b"done".to_vec(), Close::Fin));
        let upload = noise(3 << 20);
        let sent = upload.clone();
        let sender = thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        let (came, close) = read_to_close(&mut behind);
        assert!(came == [hello("a.test"), upload].concat() && close == Close::Fin, "{} bytes, {close:?}", came.len());
        drop(sender.join().unwrap());
        lb.wait_for_closed("ok", 1.0);
        lb.end();
    }
}

#[test]
fn silence_after_a_half_close_ends_in_time_and_leaves_nothing_half_closed() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb = Trial::of(
            Lb::new()
                .route("a.test", &backend)
                .with(&format!("timeouts: {{ half_closed: 300ms, idle: 1m }}\n{engine}")),
        );
        // The client closes its side, the backend says nothing.
        let client = send(lb.address(), &hello("a.test"));
        client.shutdown(Shutdown::Write).unwrap();
        let behind = streams.recv_timeout(DEADLINE).unwrap();
        lb.wait_for_closed("half_close_timeout", 1.0);
        // The backend closes its side, the client says nothing.
        let other_client = send(lb.address(), &hello("a.test"));
        let other_behind = streams.recv_timeout(DEADLINE).unwrap();
        other_behind.shutdown(Shutdown::Write).unwrap();
        lb.wait_for_closed("half_close_timeout", 2.0);
        assert_eq!(in_state(&lb, CLOSE_WAIT), 0);
        assert_eq!(in_state(&lb, FIN_WAIT2), 0);
        drop((client, behind, other_client, other_behind));
        lb.end();
    }
}

#[test]
fn silence_on_both_sides_ends_in_time() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(&format!("timeouts: {{ idle: 300ms }}\n{engine}")));
        let mut client = send(lb.address(), &hello("a.test"));
        let behind = streams.recv_timeout(DEADLINE).unwrap();
        assert_eq!(read_to_close(&mut client).1, Close::Reset);
        lb.wait_for_closed("idle_timeout", 1.0);
        drop(behind);
        lb.end();
    }
}

#[test]
fn what_the_backend_sent_before_its_reset_arrives_and_then_the_reset() {
    for engine in ENGINES {
        for bytes in [0, 10, 100_000, 3 << 20] {
            let sent = noise(bytes);
            let answer = sent.clone();
            let backend = Backend::that(move |mut stream| {
                let _ = stream.read(&mut [0; 4096]);
                stream.write_all(&answer).unwrap();
                wait_until_sent(&stream);
                reset(stream);
            });
            let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
            let mut client = send(lb.address(), &hello("a.test"));
            let (came, close) = read_to_close(&mut client);
            assert!(came == sent, "{engine}: {} of {bytes} bytes came", came.len());
            assert_eq!(close, Close::Reset, "{engine}, {bytes} bytes");
            lb.wait_for_closed("backend_reset", 1.0);
            lb.end();
        }
    }
}

#[test]
fn what_the_client_sent_before_its_reset_arrives_and_then_the_reset() {
    for engine in ENGINES {
        for bytes in [0, 10, 100_000, 3 << 20] {
            let (backend, streams) = Backend::handing_over();
            let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
            let sent = [hello("a.test"), noise(bytes)].concat();
            let upload = sent.clone();
            let mut client = connect(lb.address());
            let sender = thread::spawn(move || {
                client.write_all(&upload).unwrap();
                wait_until_sent(&client);
                reset(client);
            });
            let mut behind = streams.recv_timeout(DEADLINE).unwrap();
            let (came, close) = read_to_close(&mut behind);
            sender.join().unwrap();
            assert!(came == sent, "{engine}: {} of {} bytes came", came.len(), sent.len());
            assert_eq!(close, Close::Reset, "{engine}, {bytes} bytes");
            lb.wait_for_closed("client_reset", 1.0);
            lb.end();
        }
    }
}

#[test]
fn a_reset_in_the_middle_of_a_transfer_is_counted_to_its_side() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
        for (reset_by_client, reason) in [(true, "client_reset"), (false, "backend_reset")] {
            let client = send(lb.address(), &hello("a.test"));
            let behind = streams.recv_timeout(DEADLINE).unwrap();
            // Both send as fast as they can until one is gone.
            let pumps = [&client, &behind].map(|stream| pump(stream.try_clone().unwrap()));
            wait_for_bytes(&lb, 1 << 20);
            abort(if reset_by_client { &client } else { &behind });
            for pump in pumps {
                pump.join().unwrap();
            }
            lb.wait_for_closed(reason, 1.0);
        }
        lb.end();
    }
}

#[test]
fn a_reset_after_a_half_close_is_seen_though_nobody_reads() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb =
            Trial::of(Lb::new().route("a.test", &backend).with(&format!("timeouts: {{ half_closed: 1m }}\n{engine}")));
        let mut client = send(lb.address(), &hello("a.test"));
        client.write_all(b"bye").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut behind = streams.recv_timeout(DEADLINE).unwrap();
        assert_eq!(read_to_close(&mut behind).1, Close::Fin);
        reset(client);
        lb.wait_for_closed("client_reset", 1.0);
        assert_eq!(read_to_close(&mut behind.try_clone().unwrap()).1, Close::Fin, "it had its FIN");
        drop(behind);
        lb.end();
    }
}

#[test]
fn a_client_that_has_everything_may_reset() {
    for engine in ENGINES {
        for (answer_bytes, pause_us) in [(100, 0), (100, 300), (5000, 0), (300_000, 0), (300_000, 300)] {
            let answer = noise(answer_bytes);
            let backend = Backend::that(move |mut stream| {
                let _ = stream.read(&mut [0; 4096]);
                stream.write_all(&answer).unwrap();
                thread::sleep(Duration::from_micros(pause_us));
                // A close_notify, which many clients leave unread.
                stream.write_all(&[0x15; 24]).unwrap();
            });
            let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
            for _ in 0..20 {
                let mut client = send(lb.address(), &hello("a.test"));
                client.read_exact(&mut vec![0; answer_bytes]).unwrap();
                // The FIN has come as well, behind bytes that stay unread; nothing need be acknowledged yet.
                let mut polled = [PollFd::new(&client, PollFlags::RDHUP)];
                assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
            }
            lb.wait_for_closed("ok", 20.0);
            lb.end();
        }
    }
}

#[test]
fn a_client_that_resets_before_it_has_everything_is_counted_so() {
    for engine in ENGINES {
        let backend = Backend::that(|mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(&noise(400_000)).unwrap();
        });
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
        let mut client = with_window(lb.address(), 8 << 10);
        client.write_all(&hello("a.test")).unwrap();
        // The backend has finished, and the rest waits in our kernel.
        lb.wait_for_metric("bytes_total", &[("direction", "to_client")], 400_000.0);
        reset(client);
        lb.wait_for_closed("client_reset", 1.0);
        lb.end();
    }
}

#[test]
fn a_reset_waits_for_a_client_that_pauses() {
    for engine in ENGINES {
        let sent = noise(2 << 20);
        let answer = sent.clone();
        let backend = Backend::that(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(&answer).unwrap();
            wait_until_sent(&stream);
            reset(stream);
        });
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
        let mut client = with_window(lb.address(), 32 << 10);
        client.write_all(&hello("a.test")).unwrap();
        thread::sleep(Duration::from_millis(1500));
        let (came, close) = read_to_close(&mut client);
        assert!(came == sent && close == Close::Reset, "{engine}: {} bytes came, {close:?}", came.len());
        lb.wait_for_closed("backend_reset", 1.0);
        lb.end();
    }
}

#[test]
fn a_clients_reset_is_seen_though_its_backend_takes_nothing() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
        // One backend takes nothing at all, the other goes on after a moment: it gets what was sent, and the reset.
        let clients = [(); 2].map(|()| send(lb.address(), &hello("a.test")));
        let [stuck, mut behind] = [(); 2].map(|()| streams.recv_timeout(DEADLINE).unwrap());
        let started = Instant::now();
        for client in clients {
            fill(&client);
            reset(client);
        }
        behind.read_exact(&mut [0; 1 << 20]).unwrap();
        assert_eq!(read_to_close(&mut behind).1, Close::Reset, "{engine}");
        lb.wait_for_closed("client_reset", 2.0);
        assert!(started.elapsed() < Duration::from_secs(10), "{engine}: {:?}", started.elapsed());
        drop(stuck);
        lb.end();
    }
}

/// A client that takes no more than about `bytes` at once.
fn with_window(to: SocketAddr, bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// One leg torn away from outside, as `ss -K` does (needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY).
#[test]
fn a_leg_that_is_destroyed_ends_the_other() {
    for engine in ENGINES {
        let (backend, streams) = Backend::handing_over();
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(engine));
        let mut client = send(lb.address(), &hello("a.test"));
        let behind = streams.recv_timeout(DEADLINE).unwrap();
        let leg = format!("sport = :{} and dport = :{}", behind.peer_addr().unwrap().port(), backend.address.port());
        let killed = Command::new("ss").args(["-K", &leg]).output();
        if !killed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("ESTAB")) {
            drop((client, behind));
            lb.end();
            return println!("skipped: ss -K does nothing here");
        }
        assert_eq!(read_to_close(&mut client).1, Close::Reset);
        drop(behind);
        lb.wait_for_metric("connections_closed_total", &[], 1.0);
        lb.end();
    }
}

/// Waits until a transfer is under way.
fn wait_for_bytes(lb: &Trial, bytes: u32) {
    let moved = poll(|| match lb.metric("bytes_total", &[]) {
        now if now >= f64::from(bytes) => Ok(()),
        now => Err(now),
    });
    moved.expect("bytes move");
}

/// Reads and writes without end on threads of its own.
fn pump(stream: TcpStream) -> thread::JoinHandle<()> {
    let mut reader = stream.try_clone().unwrap();
    thread::spawn(move || drop(std::io::copy(&mut reader, &mut std::io::sink())));
    thread::spawn(move || {
        let block = [0x5a; 32 << 10];
        while (&stream).write_all(&block).is_ok() {}
    })
}

/// How many of the process's TCP sockets are in `state` of /proc/net/tcp.
fn in_state(lb: &Trial, state: &str) -> usize {
    let text = std::fs::read_to_string(lb.proc("net/tcp")).unwrap();
    let port = format!(":{:04X}", lb.port());
    let inodes: Vec<String> = std::fs::read_dir(lb.proc("fd"))
        .unwrap()
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|fields| fields[1].ends_with(&port) || inodes.iter().any(|inode| inode == fields[9]));
    ours.filter(|fields| fields[3] == state).count()
}

const CLOSE_WAIT: &str = "08";
const FIN_WAIT2: &str = "05";
