//! Ends that stop reading, and backends that freeze: the other end is held back, and nothing piles up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{DEADLINE, Lb};
use crate::trial::{Trial, soaking};
use crate::wire::{Close, fill, read_to_close, reset, send};

#[test]
fn readers_that_stall_hold_their_senders_back() {
    let pairs = if soaking() { 1000 } else { 200 };
    for engine in ["auto", "off"] {
        let backend = Backend::that(|stream| {
            fill(&stream);
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        });
        let lb = Lb::new().route("a.test", &backend).with(&format!("relay: {{ splice: {engine} }}"));
        let lb = Trial::of(lb);
        let resident = lb.resident_bytes();
        let hello = hello("a.test");
        let stalled: Vec<TcpStream> = (0..pairs).map(|_| send(lb.address(), &hello)).collect();
        lb.wait_for_metric("connections_active", &[("state", "relaying")], f64::from(pairs));
        // A client that does read is served beside them, from a backend that goes on.
        let moved = crate::harness::poll(|| {
            let before = lb.metric("bytes_total", &[("direction", "to_client")]);
            thread::sleep(std::time::Duration::from_millis(400));
            let after = lb.metric("bytes_total", &[("direction", "to_client")]);
            if after > 0.0 && after == before { Ok(()) } else { Err(after - before) }
        });
        moved.expect("the senders come to a stop");
        let grown = lb.resident_bytes().saturating_sub(resident);
        // What was read and cannot be written is at most one read, and that of one direction.
        let most = pairs as u64 * (256 << 10) + (16 << 20);
        assert!(grown <= most, "splice: {engine}: {grown} bytes for {pairs} stalled pairs");
        println!("splice: {engine}: {} KiB a stalled pair", grown / pairs as u64 / 1024);
        stalled.into_iter().for_each(reset);
        lb.wait_for_metric("connections_closed_total", &[], f64::from(pairs));
        lb.end();
    }
}

#[test]
fn a_client_that_reads_on_after_a_stall_gets_every_byte() {
    for engine in ["auto", "off"] {
        let answer = noise(24 << 20);
        let expected = answer.clone();
        let backend = Backend::that(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(&answer).unwrap();
        });
        let lb = Trial::of(Lb::new().route("a.test", &backend).with(&format!("relay: {{ splice: {engine} }}")));
        let clients: Vec<TcpStream> = (0..4).map(|_| send(lb.address(), &hello("a.test"))).collect();
        crate::harness::poll(|| {
            if lb.metric("bytes_total", &[("direction", "to_client")]) > 1e6 { Ok(()) } else { Err(()) }
        })
        .expect("they have begun");
        for mut client in clients {
            client.shutdown(Shutdown::Write).unwrap();
            let (came, close) = read_to_close(&mut client);
            assert!(came == expected && close == Close::Fin, "{} of {} bytes, {close:?}", came.len(), expected.len());
        }
        lb.wait_for_closed("ok", 4.0);
        lb.end();
    }
}

/// Frozen before it has accepted and in the middle of an echo; a frozen process still accepts in its kernel.
#[test]
fn a_backend_that_freezes_and_thaws_loses_nothing() {
    let Some(backend) = Echo::start() else { return println!("skipped: no python3") };
    let lb = Trial::of(Lb::new().route("a.test", backend.address));
    let sent = [hello("a.test"), noise(8 << 20)].concat();
    backend.signal(Signal::STOP);
    let mut client = send(lb.address(), &hello("a.test"));
    let (mut writer, rest) = (client.try_clone().unwrap(), sent[hello("a.test").len()..].to_vec());
    let sender = thread::spawn(move || {
        writer.write_all(&rest).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    lb.wait_for_metric("connections_active", &[("state", "relaying")], 1.0);
    backend.signal(Signal::CONT);
    let mut first = vec![0; 1 << 20];
    client.read_exact(&mut first).unwrap();
    backend.signal(Signal::STOP);
    let resident = lb.resident_bytes();
    thread::sleep(std::time::Duration::from_millis(200));
    assert!(lb.resident_bytes().saturating_sub(resident) < 2 << 20);
    backend.signal(Signal::CONT);
    let (rest, close) = read_to_close(&mut client);
    sender.join().unwrap();
    assert!([first, rest].concat() == sent && close == Close::Fin, "{close:?}");
    lb.wait_for_closed("ok", 1.0);
    lb.end();
}

/// An echo in a process of its own, so that it can be stopped.
pub struct Echo {
    child: Child,
    pub address: std::net::SocketAddr,
}

impl Echo {
    pub fn start() -> Option<Self> {
        let child = Command::new("python3").args(["-c", ECHO]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.ok()?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take()?), &mut line).ok()?;
        let address = line.trim().parse().ok()?;
        Some(Self { child, address })
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ECHO: &str = "
import socket
s = socket.create_server(('127.0.0.1', 0))
print('127.0.0.1:%d' % s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    try:
        while b := c.recv(65536):
            c.sendall(b)
    except OSError:
        pass # It was given up.
    c.close()
";

/// A client whose RST comes while its backend takes nothing: nothing more can be delivered, and it must end.
#[test]
fn a_client_that_resets_behind_a_stalled_backend_does_not_stay() {
    let (backend, streams) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend).with("timeouts: { idle: 3s }"));
    let client = send(lb.address(), &hello("a.test"));
    let behind = streams.recv_timeout(DEADLINE).unwrap();
    fill(&client);
    reset(client);
    lb.wait_for_metric("connections_active", &[], 0.0);
    drop(behind);
    lb.end();
}
