//! A client that sees how its connection ends, and can end it in every way there is.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::harness::{DEADLINE, poll};

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    Fin,
    Reset,
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the listener accepts");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Connects and sends `bytes`; a reset while it sends is seen when it reads.
pub fn send(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(to);
    let _ = stream.write_all(bytes);
    stream
}

/// Sends `bytes`, keeps its own side open, and tells what came back until the other side ended it.
#[track_caller]
pub fn ask(to: SocketAddr, bytes: &[u8]) -> (Vec<u8>, Close) {
    let mut stream = connect(to);
    tell(&mut stream, bytes)
}

/// The same on a connection that is there already.
#[track_caller]
fn tell(stream: &mut TcpStream, bytes: &[u8]) -> (Vec<u8>, Close) {
    // A reset is told once, be it to the one who writes.
    let is_reset = stream.write_all(bytes).is_err();
    let (answer, close) = read_to_close(stream);
    (answer, if is_reset { Close::Reset } else { close })
}

#[track_caller]
pub fn read_to_close(stream: &mut TcpStream) -> (Vec<u8>, Close) {
    let mut bytes = Vec::new();
    let close = match stream.read_to_end(&mut bytes) {
        Ok(_) => Close::Fin,
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Close::Reset,
        Err(error) => panic!("neither FIN nor RST, {} bytes came: {error}", bytes.len()),
    };
    (bytes, close)
}

/// Ends the connection with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// As [`reset`], though other handles to the connection are still open.
pub fn abort(stream: &TcpStream) {
    rustix::net::connect_unspec(stream).unwrap();
}

/// Waits until the other side's kernel has all of what was sent.
pub fn wait_until_sent(stream: &TcpStream) {
    let sent = poll(|| match snigate::internals::unsent_bytes(stream).unwrap() {
        0 => Ok(()),
        unsent => Err(unsent),
    });
    sent.expect("the other side takes what was sent");
}

/// Writes without pause until nothing more goes in for a while; how many bytes went.
pub fn fill(stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let block = vec![0xa5; 64 << 10];
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(300) {
        match (&*stream).write(&block) {
            Ok(bytes) => (sent, last) = (sent + bytes, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => break,
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}
