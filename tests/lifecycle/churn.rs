//! Clients that come and go without pause, and some that stay; whatever does not come back as it was sent is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bytes::{hello, noise};
use crate::harness::DEADLINE;

/// Runs until [`Churn::end`]; behind the address must be an echo for `a.test`.
pub struct Churn {
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Churn {
    /// Three clients that come again and again, and two that stay for a second each time.
    pub fn at(address: SocketAddr) -> Self {
        let (over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |number: usize| {
            let (over, served) = (Arc::clone(&over), Arc::clone(&served));
            thread::spawn(move || {
                let mut lost = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let come = if number < 3 { come_and_go(address) } else { stay(address, number, &over) };
                    match come {
                        Ok(()) => _ = served.fetch_add(1, Ordering::Relaxed),
                        // What is refused once is refused for good.
                        Err(error) if error.contains("refused") => {
                            lost.push(error);
                            break;
                        }
                        Err(error) => lost.push(error),
                    }
                }
                lost
            })
        };
        Self { clients: (0..5).map(client).collect(), over, served }
    }

    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Lets `count` more clients be served.
    #[track_caller]
    pub fn go_on_for(&self, count: usize) {
        let (wanted, deadline) = (self.served() + count, Instant::now() + 3 * DEADLINE);
        while self.served() < wanted {
            assert!(Instant::now() < deadline, "only {} of {wanted} were served", self.served());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everybody is served to the end; nobody may have been lost. How many were served.
    #[track_caller]
    pub fn end(self) -> usize {
        let counted = Arc::clone(&self.served);
        let lost = self.lost();
        let served = counted.load(Ordering::Relaxed);
        assert!(lost.is_empty(), "{} lost, {served} served: {lost:?}", lost.len());
        println!("{served} served, none lost");
        served
    }

    /// As [`Self::end`], where some may be lost: what each of them saw.
    pub fn lost(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}

fn come_and_go(address: SocketAddr) -> Result<(), String> {
    let hello = hello("a.test");
    let mut client = connect(address)?;
    client.write_all(&hello).map_err(|error| format!("sending: {error}"))?;
    client.shutdown(Shutdown::Write).map_err(|error| format!("closing: {error}"))?;
    let mut back = Vec::new();
    client.read_to_end(&mut back).map_err(|error| format!("after {} bytes: {error}", back.len()))?;
    if back == hello { Ok(()) } else { Err(format!("{} bytes of {} came back", back.len(), hello.len())) }
}

/// Blocks there and back for a second, each as it was sent.
fn stay(address: SocketAddr, number: usize, over: &AtomicBool) -> Result<(), String> {
    let hello = hello("a.test");
    let mut client = connect(address)?;
    let block = noise(10_000 + 1000 * number);
    let mut echo = |sent: &[u8]| {
        let mut back = vec![0; sent.len()];
        client
            .write_all(sent)
            .and_then(|()| client.read_exact(&mut back))
            .map_err(|error| format!("staying: {error}"))?;
        if back == sent { Ok(()) } else { Err("staying: other bytes came back".to_owned()) }
    };
    echo(&hello)?;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end && !over.load(Ordering::Relaxed) {
        echo(&block)?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let client = TcpStream::connect(address).map_err(|error| format!("connecting: {error}"))?;
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    Ok(client)
}
