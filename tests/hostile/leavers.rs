//! Clients that go away before they are routed.

use std::net::Shutdown;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::Lb;
use crate::trial::Trial;
use crate::wire::{Close, connect, read_to_close, reset, send, wait_until_sent};

#[test]
fn a_client_that_leaves_before_its_hello_is_whole_is_counted_and_dialled_for_nowhere() {
    let backend = Backend::answering(b"never");
    let lb = Trial::of(Lb::new().route("*", &backend).unmatched(&backend));
    let hello = hello("leaving.test");
    let (mut gone, mut probes) = (0.0, 0.0);
    for bytes in [0, 1, 5, 6, 40, 70, hello.len() - 1] {
        let mut client = send(lb.address(), &hello[..bytes]);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin), "FIN after {bytes} bytes");
        let client = send(lb.address(), &hello[..bytes]);
        wait_until_sent(&client);
        reset(client);
        *(if bytes == 0 { &mut probes } else { &mut gone }) += 2.0;
    }
    lb.wait_for_metric("connections_closed_total", &[], gone + probes);
    // A RST that comes before the bytes were read may take them along: then nothing was said.
    assert_eq!(lb.closed("client_gone") + lb.closed("probe"), gone + probes);
    assert!(lb.closed("client_gone") >= gone / 2.0 && lb.closed("probe") >= probes);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

/// With a peek that waits for more readiness than there will ever be, this is a worker at 100 % for ever.
#[test]
fn part_of_a_hello_and_fin_leaves_no_worker_spinning() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("honest.test", &backend).with("runtime: { workers: 1 }"));
    let hello = hello("honest.test");
    let half_closed: Vec<_> = (1..20)
        .map(|bytes| {
            let client = send(lb.address(), &hello[..bytes]);
            client.shutdown(Shutdown::Write).unwrap();
            client
        })
        .collect();
    lb.wait_for_metric("connections_accepted_total", &[], 19.0);
    // A worker that spins never goes to sleep; one that has nothing to do sleeps between two clients.
    let before = lb.worker_sleeps();
    let fell_asleep = (0..500).any(|_| {
        let mut client = send(lb.address(), &hello);
        std::io::Read::read_exact(&mut client, &mut [0; 6]).unwrap();
        lb.worker_sleeps() > before + 25
    });
    assert!(fell_asleep, "{} sleeps in 500 clients", lb.worker_sleeps() - before);
    drop(half_closed);
    lb.wait_for_closed("client_gone", 19.0);
    lb.end();
}

#[test]
fn a_client_that_leaves_while_its_backend_is_dialled_is_counted_once() {
    let backend = Backend::that(drop);
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    for i in 0..200 {
        let client = send(lb.address(), &hello("a.test"));
        match i % 3 {
            0 => reset(client),
            1 => drop(client),
            // It is not connected any more if the backend was faster.
            _ => drop(client.shutdown(Shutdown::Both)),
        }
    }
    drop(connect(lb.address()));
    lb.wait_for_metric("connections_closed_total", &[], 201.0);
    lb.end();
}
