//! Backends that do what a test wants with each connection, and count how often they were contacted.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::harness::{Backends, DEADLINE};

/// A thread a connection; all end with the test's process.
pub struct Backend {
    pub address: SocketAddr,
    contacts: Arc<AtomicUsize>,
}

impl Backend {
    pub fn that(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), serve)
    }

    /// As [`Self::that`], where `listener` is bound.
    pub fn on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let contacts = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (Arc::clone(&contacts), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { address, contacts }
    }

    /// Reads each connection to its end and hands over what came.
    pub fn recording() -> (Self, Receiver<Vec<u8>>) {
        let (to, arrivals) = channel();
        let backend = Self::that(move |mut stream| {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            let _ = to.send(bytes);
        });
        (backend, arrivals)
    }

    /// Sends back `answer` as soon as something came, then reads to the end.
    pub fn answering(answer: &'static [u8]) -> Self {
        Self::that(move |mut stream| {
            if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                let _ = stream.write_all(answer);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        })
    }

    /// Sends everything back as it comes.
    pub fn echoing() -> Self {
        Self::that(|mut stream| {
            let mut back = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut back);
        })
    }

    /// Hands over each connection, to be played with by the test.
    pub fn handing_over() -> (Self, Receiver<TcpStream>) {
        let (to, arrivals) = channel();
        (Self::that(move |stream| drop(to.send(stream))), arrivals)
    }

    /// How many connections there were.
    pub fn contacts(&self) -> usize {
        self.contacts.load(Ordering::SeqCst)
    }
}

impl Backends for &Backend {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.address]
    }
}
