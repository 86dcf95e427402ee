//! A process that runs out of file descriptors.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{DEADLINE, Lb, Lines, poll};
use crate::trial::Trial;
use crate::wire::{Close, connect, read_to_close, send};

#[test]
fn out_of_descriptors_the_accept_loop_pauses_and_recovers() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("timeouts: { hello: 1m }\nlimits: { max_connections: 10000 }");
    let lb = Trial::of(lb.with("runtime: { workers: 1 }"));
    let started = Instant::now();
    allow_files(&lb, 60);
    let held: Vec<TcpStream> = (0..100).map(|_| connect(lb.address())).collect();
    let taken = poll(|| match std::fs::read_dir(lb.proc("fd")).unwrap().count() {
        60.. => Ok(()),
        files => Err(files),
    });
    taken.expect("all descriptors are taken");
    let cpu = lb.cpu();
    thread::sleep(Duration::from_secs(1));
    let cpu = lb.cpu().saturating_sub(cpu);
    assert!(cpu < Duration::from_millis(200), "{cpu:?} of CPU in a second");
    drop(held);
    let freed = Instant::now();
    served(&lb);
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    // Only now, since a look at the metrics costs a descriptor too.
    let (errors, elapsed) = (lb.metric("accept_errors_total", &[("kind", "descriptors")]), started.elapsed());
    assert!(errors >= 5.0 && errors <= 100.0 * elapsed.as_secs_f64(), "{errors} failed accepts in {elapsed:?}");
    allow_files(&lb, 20_000);
    lb.wait_for_metric("accept_paused", &[], 0.0);
    lb.end();
}

#[test]
fn without_a_descriptor_for_the_backend_the_client_is_reset() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let mut client = connect(lb.address());
    lb.wait_for_metric("connections_active", &[], 1.0);
    let files = std::fs::read_dir(lb.proc("fd")).unwrap().count();
    allow_files(&lb, u64::try_from(files).unwrap() - 3);
    std::io::Write::write_all(&mut client, &hello("a.test")).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Reset));
    allow_files(&lb, 20_000);
    lb.wait_for_closed("connect_failed", 1.0);
    served(&lb);
    lb.end();
}

#[test]
fn without_a_descriptor_for_a_pipe_bulk_is_copied() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let sent = [hello("a.test"), noise(16 << 20)].concat();
    let client = send(lb.address(), &hello("a.test"));
    lb.wait_for_metric("connections_active", &[("state", "relaying")], 1.0);
    allow_files(&lb, 3);
    std::io::Write::write_all(&mut &client, &sent[hello("a.test").len()..]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(arrivals.recv_timeout(DEADLINE).unwrap() == sent);
    allow_files(&lb, 20_000);
    lb.wait_for_closed("ok", 1.0);
    assert_eq!(lb.metric("spliced_bytes_total", &[]), 0.0);
    lb.end();
}

/// With `max_connections: auto`, what is set aside for pipes must not be all there is.
#[test]
fn a_low_hard_limit_leaves_room_for_connections() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 4 }");
    std::fs::write(&file, lb.config()).unwrap();
    for (limit, clients) in [(256, 40), (1024, 200)] {
        // A limit cannot be raised again, so a shell takes it on, not this process.
        let run = format!("ulimit -n {limit}; exec \"$0\" run --config \"$1\"");
        let binary = env!("CARGO_BIN_EXE_snigate");
        let mut child =
            Command::new("sh").args(["-c", &run, binary]).arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let log = Lines::follow(child.stdout.take().unwrap());
        let listening = log.wait_for(0, DEADLINE, |line| line["event"] == "listening").expect("it listens");
        let address = listening["address"].as_str().unwrap().parse().unwrap();
        let held: Vec<TcpStream> = (0..clients).map(|_| send(address, &hello("a.test"))).collect();
        // Nobody leaves, so the first that is not served will never be.
        let served = held.iter().take_while(|client| {
            client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            (&mut &**client).read_exact(&mut [0; 6]).is_ok()
        });
        let served = served.count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(served, clients, "under a limit of {limit} files");
    }
}

fn served(lb: &Trial) {
    let mut client = send(lb.address(), &hello("a.test"));
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"served");
}

pub fn allow_files(lb: &Trial, most: u64) {
    let pid = Pid::from_raw(i32::try_from(lb.pid()).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum: Some(20_000) }).unwrap();
}
