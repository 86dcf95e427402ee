//! How connections are spread over the workers.

use std::io::Read;
use std::net::TcpStream;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::Lb;
use crate::trial::Trial;
use crate::wire::send;

fn open(lb: &Trial) -> TcpStream {
    let sent = hello("a.test");
    let mut client = send(lb.address(), &sent);
    client.read_exact(&mut vec![0; sent.len()]).unwrap();
    client
}

/// Of each worker, how many connections are open now.
fn active(lb: &Trial, workers: usize) -> Vec<f64> {
    let of = |worker: usize| lb.metric("worker_connections_active", &[("worker", worker.to_string().as_str())]);
    (0..workers).map(of).collect()
}

#[test]
fn long_connections_are_spread_evenly_however_the_kernel_hashes_them() {
    let backend = Backend::echoing();
    let lb = Trial::of(Lb::new().route("a.test", &backend).with("runtime: { workers: 2 }"));
    // By the hash alone, all rounds would be even once in four thousand times.
    for round in 1..=12 {
        let clients = [open(&lb), open(&lb)];
        assert_eq!(active(&lb, 2), [1.0, 1.0], "round {round}");
        drop(clients);
        lb.wait_for_closed("ok", f64::from(2 * round));
    }
    lb.end();
}

#[test]
fn of_many_connections_no_worker_has_much_more_than_another() {
    let backend = Backend::echoing();
    let lb = Trial::of(Lb::new().route("a.test", &backend).with("runtime: { workers: 3 }"));
    let clients: Vec<_> = (0..30).map(|_| open(&lb)).collect();
    let active = active(&lb, 3);
    assert_eq!(active.iter().sum::<f64>(), 30.0);
    let (most, least) = (active.iter().copied().fold(0.0, f64::max), active.iter().copied().fold(30.0, f64::min));
    assert!(most <= least * 1.5 + 1.0, "{active:?}");
    drop(clients);
    lb.wait_for_closed("ok", 30.0);
    lb.end();
}
