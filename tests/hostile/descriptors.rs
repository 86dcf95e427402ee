//! A process that runs out of file descriptors.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{DEADLINE, Lb, Lines, Reload, poll};
use crate::trial::Trial;
use crate::wire::{Close, connect, read_to_close, send};

#[test]
fn out_of_descriptors_the_accept_loop_pauses_and_recovers() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("timeouts: { hello: 1m }\nlimits: { max_connections: 9000 }");
    let lb = Trial::of(lb.with("runtime: { workers: 1 }"));
    let started = Instant::now();
    allow_files(&lb, 60);
    let held: Vec<TcpStream> = (0..100).map(|_| connect(lb.address())).collect();
    let taken = poll(|| match std::fs::read_dir(lb.proc("fd")).unwrap().count() {
        53.. => Ok(()),
        files => Err(files),
    });
    taken.expect("clients have all descriptors that they may have");
    let cpu = lb.cpu();
    thread::sleep(Duration::from_secs(1));
    let cpu = lb.cpu().saturating_sub(cpu);
    assert!(cpu < Duration::from_millis(200), "{cpu:?} of CPU in a second");
    drop(held);
    let freed = Instant::now();
    served(&lb);
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    let (errors, elapsed) = (lb.metric("accept_errors_total", &[("kind", "descriptors")]), started.elapsed());
    assert!(errors >= 5.0 && errors <= 100.0 * elapsed.as_secs_f64(), "{errors} failed accepts in {elapsed:?}");
    allow_files(&lb, 20_000);
    lb.wait_for_metric("accept_paused", &[], 0.0);
    lb.end();
}

/// The last descriptors are not for clients.
#[test]
fn while_clients_have_all_others_the_admin_server_answers_and_files_are_read() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("timeouts: { hello: 1m }\nlimits: { max_connections: 8000 }");
    let config = lb.config();
    let lb = Trial::of(lb);
    allow_files(&lb, 128);
    let held: Vec<TcpStream> = (0..200).map(|_| connect(lb.address())).collect();
    let paused = || lb.metric("accept_errors_total", &[("kind", "descriptors")]);
    poll(|| if paused() >= 3.0 { Ok(()) } else { Err(paused()) })
        .expect("clients have all descriptors that they may have");
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/status"] {
        let answers: Vec<u16> = (0..5).map(|_| lb.admin_get(path).0).collect();
        assert_eq!(answers, [200; 5], "{path}");
    }
    let more = config.replace("routes:", "routes:\n  - { sni: \"b.test\", pool: pool-0 }");
    assert_eq!(lb.edit(&more), Reload::Applied);
    let listens_elsewhere = more.replacen("127.0.0.1:0", "127.0.0.2:0", 1);
    assert_eq!(lb.edit(&listens_elsewhere), Reload::Applied);
    let broken = more.replace("routes:", "rotes:");
    assert_eq!(lb.edit(&broken), Reload::Rejected);
    drop(held);
    assert_eq!(lb.edit(&config), Reload::Applied);
    allow_files(&lb, 20_000);
    lb.stop();
}

#[test]
fn more_connections_than_descriptors_are_refused_at_start_and_at_reload() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 2 }");
    let of = |most: usize| format!("{}limits: {{ max_connections: {most} }}\n", lb.config());
    let reported = |most: usize| {
        let needed = 2 * most + 80;
        format!(
            "limits.max_connections: {most} connections need 2 x {most} + 80 = {needed} open files, and this process may open 256: write at most 88"
        )
    };
    let run = |most: usize| {
        std::fs::write(&file, of(most)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 256; exec \"$0\" run \"$1\"", env!("CARGO_BIN_EXE_snigate")]).arg(&file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let output = run(89).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains(&reported(89)), "{said}");

    let mut child = run(88);
    let log = Lines::follow(child.stdout.take().unwrap());
    assert!(log.wait_for(0, DEADLINE, |line| line["event"] == "ready").is_some(), "{log}");
    std::fs::write(&file, of(5000)).unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let rejected = log.wait_for(0, DEADLINE, |line| line["event"] == "reload_rejected");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(rejected.expect("rejected")["why"].as_str().unwrap().contains(&reported(5000)), "{log}");
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
