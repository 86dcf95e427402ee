//! A backend that keeps every byte it was sent, and a port where nobody answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;

use socket2::{Domain, Socket, Type};

/// One connection that a [`record`]ing backend had, from first byte to FIN.
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded {
    pub backend: String,
    pub bytes: Vec<u8>,
}

/// Starts a backend that reads each connection to its end, answers with its own name, closes, and then tells `to`
/// what came. It takes one connection after another and ends with the test's process.
pub fn record(backend: &str, to: &Sender<Recorded>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (backend, to) = (backend.to_owned(), to.clone());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = Vec::new();
            // A reset is no end to speak of: what came before it is told all the same.
            let _ = stream.read_to_end(&mut bytes);
            let _ = stream.write_all(backend.as_bytes());
            if to.send(Recorded { backend: backend.clone(), bytes }).is_err() {
                return;
            }
        }
    });
    address
}

/// Sends `bytes`, then FIN, and reads what comes back until the other side closes too.
pub fn send(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(super::DEADLINE))?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A loopback port that refuses every connection as long as this lives: bound, so that nobody else gets it, and
/// never listening.
pub struct ClosedPort {
    socket: Socket,
    pub address: SocketAddr,
}

impl ClosedPort {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { socket, address }
    }

    /// Takes connections from now on, as long as what it gives lives; nobody answers on them.
    pub fn open(self) -> Socket {
        self.socket.listen(4096).unwrap();
        self.socket
    }
}
