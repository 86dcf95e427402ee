//! Does a reload under load show in the time that a connection takes?
//!
//! In:  a snigate with many routes; clients that come at a steady pace; reloads, each of which swaps the whole table.
//! Out: how long connections took (from connect to the backend's answer) during reloads and between them, and the ratio
//!      of the 99th percentiles.
//!
//! `cargo bench --bench reload`; `ROUTES`, `SECONDS` and `RATE` (connections a second) may be set.

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/harness/bytes.rs"]
mod bytes;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let setting = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (routes, seconds, rate) = (setting("ROUTES", 100_000), setting("SECONDS", 60), setting("RATE", 400));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.yaml");
    let backend = backend();
    fs::write(&file, config(routes, 0, backend)).expect("written");
    let (mut child, lb, admin) = start(&file);
    let over = AtomicBool::new(false);
    let (samples, swaps) = thread::scope(|scope| {
        let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| visit(lb, routes, rate / 2, &over))).collect();
        let (began, mut swaps, mut turn) = (Instant::now(), Vec::new(), 0);
        while began.elapsed() < Duration::from_secs(seconds) {
            turn += 1;
            // As long as a swap, so that there are as many connections between swaps.
            thread::sleep(swaps.last().map_or(Duration::from_secs(2), |(from, to): &(Instant, Instant)| *to - *from));
            fs::write(&file, config(routes, turn, backend)).expect("written");
            let asked = Instant::now();
            reload(admin);
            // Taking the old table apart is a part of it.
            swaps.push((asked, Instant::now() + Duration::from_millis(300)));
            thread::sleep(Duration::from_millis(300));
        }
        over.store(true, Ordering::Relaxed);
        let samples: Vec<_> = clients.into_iter().flat_map(|client| client.join().expect("served")).collect();
        (samples, swaps)
    });
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let during = |(at, took): &(Instant, Duration)| swaps.iter().any(|(from, to)| *at < *to && *at + *took > *from);
    let (during, between): (Vec<_>, Vec<_>) = samples.into_iter().partition(during);
    let length: Duration = swaps.iter().map(|(from, to)| *to - *from).sum();
    println!(
        "{routes} routes, {} swaps of {:.0?} on average, {rate} connections a second",
        swaps.len(),
        length / swaps.len() as u32
    );
    let between = reported("between swaps", between);
    let during = reported("during swaps", during);
    println!("p99 during / between: {:.2}", during.as_secs_f64() / between.as_secs_f64());
}

/// Prints percentiles; the 99th.
fn reported(when: &str, samples: Vec<(Instant, Duration)>) -> Duration {
    let mut took: Vec<_> = samples.into_iter().map(|(_, took)| took).collect();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("{when}: {} connections, p50 {:.0?}, p99 {:.0?}, p99.9 {:.0?}", took.len(), at(0.5), at(0.99), at(0.999));
    at(0.99)
}

fn config(routes: u64, turn: u64, backend: SocketAddr) -> String {
    let mut text = String::from("listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\nadmin: { bind: \"127.0.0.1:0\" }\n");
    text += "log: { connections: off }\nreload: { watch: false, poll: 1h }\nroutes:\n";
    writeln!(text, "  - {{ sni: turn-{turn}.test, pool: p }}").expect("memory");
    for number in 0..routes {
        writeln!(text, "  - {{ sni: n{number}.example.test, pool: p }}").expect("memory");
    }
    writeln!(text, "pools: {{ p: {{ backends: [\"{backend}\"] }} }}").expect("memory");
    text
}

/// Answers whatever comes with one byte.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = listener.local_addr().expect("bound");
    for _ in 0..2 {
        let listener = listener.try_clone().expect("a descriptor");
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                    let _ = stream.write_all(b"!");
                }
            }
        });
    }
    address
}

/// Where it serves, and where it is asked.
fn start(file: &Path) -> (Child, SocketAddr, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let mut child = command.args(["run", "--config"]).arg(file).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut address = |msg: &str| -> SocketAddr {
        let line = lines.find(|line| line.contains(msg)).expect("it says so");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        value["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    };
    let (first, second) = (address("listening\""), address("listening\""));
    // Whichever comes first.
    let admin = [first, second].into_iter().find(|to| get(*to, "GET /healthz").contains("200 OK")).expect("an admin");
    lines.find(|line| line.contains("\"ready\"")).expect("it is ready");
    thread::spawn(move || lines.for_each(drop));
    (child, if admin == first { second } else { first }, admin)
}

fn get(to: SocketAddr, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(to) else { return String::new() };
    let _ = write!(stream, "{request} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn reload(admin: SocketAddr) {
    let answer = get(admin, "POST /api/v1/reload");
    assert!(answer.contains("\"applied\""), "{answer}");
}

/// Comes `rate` times a second, however long it takes, until it is over; when each began, and how long it took.
fn visit(lb: SocketAddr, routes: u64, rate: u64, over: &AtomicBool) -> Vec<(Instant, Duration)> {
    let (began, mut samples) = (Instant::now(), Vec::new());
    for number in 0.. {
        let due = began + Duration::from_micros(1_000_000 / rate * number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if over.load(Ordering::Relaxed) {
            break;
        }
        let hello = bytes::hello(&format!("n{}.example.test", number * 7919 % routes));
        let at = Instant::now();
        let mut stream = TcpStream::connect(lb).expect("it accepts");
        stream.write_all(&hello).expect("it reads");
        stream.read_exact(&mut [0]).expect("it answers");
        samples.push((at, at.elapsed()));
    }
    samples
}
