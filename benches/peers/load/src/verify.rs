//! Compares every byte that goes through a proxy, both ways at once, on several connections.
//!
//! Nothing is measured here, so it is written plainly: two blocking threads a connection end.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::arguments::Target;
use crate::report::Report;
use crate::world::HELLO;

/// # Errors
/// The first thing that is not as it was sent.
pub fn run(target: &Target) -> Result<Report, String> {
    let listener = TcpListener::bind(target.backend).map_err(|error| format!("{}: {error}", target.backend))?;
    let pattern = Pattern::new();
    thread::scope(|scope| {
        let backend = scope.spawn(|| serve(&listener, &pattern));
        let clients: Vec<_> = (0..CONNECTIONS).map(|number| scope.spawn(move || client(target, number))).collect();
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        backend.join().map_err(|_| "the backend panicked")?
    })?;
    Ok(Report::default())
}

fn client(target: &Target, number: u8) -> Result<(), String> {
    let pattern = Pattern::new();
    let socket = connect(target, number).map_err(|error| format!("client {number}: {error}"))?;
    both_ways(socket, &pattern, usize::from(number), TO_CLIENT).map_err(|what| format!("client {number}: {what}"))
}

/// Connects, and waits until the backend has said that it is there. The proxy may still be starting, so a connection
/// that is turned away before that is tried again.
fn connect(target: &Target, number: u8) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match greet(target, number) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

fn greet(target: &Target, number: u8) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(target.proxy)?;
    bounded(&socket)?;
    // The hello in two pieces, for good measure, and the number right behind it.
    socket.write_all(&HELLO[..100])?;
    socket.write_all(&[&HELLO[100..], &[number]].concat())?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    // A proxy that knows no route yet may answer for itself.
    if answer == [number] { Ok(socket) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn serve(listener: &TcpListener, pattern: &Pattern) -> Result<(), String> {
    thread::scope(|scope| {
        let mut ends = Vec::new();
        for _ in 0..CONNECTIONS {
            let socket = accept(listener).map_err(|error| format!("backend: {error}"))?;
            ends.push(scope.spawn(move || backend(socket, pattern)));
        }
        ends.into_iter().try_for_each(|end| end.join().map_err(|_| "the backend panicked")?)
    })
}

/// Waits for a connection, but not for ever: its client may have failed.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((socket, _)) => return socket.set_nonblocking(false).map(|()| socket),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock || Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn backend(mut socket: TcpStream, pattern: &Pattern) -> Result<(), String> {
    let reported = |error: io::Error| format!("backend: {error}");
    bounded(&socket).map_err(reported)?;
    let mut first = vec![0; HELLO.len() + 1];
    socket.read_exact(&mut first).map_err(reported)?;
    let (hello, number) = first.split_at(HELLO.len());
    if hello != HELLO {
        return Err("backend: the hello is not the one that was sent".to_owned());
    }
    socket.write_all(number).map_err(reported)?;
    let number = usize::from(number[0]);
    both_ways(socket, pattern, number + TO_CLIENT, 0).map_err(|what| format!("backend of {number}: {what}"))
}

/// Sends one stream and compares the other. `sent` tells which stream goes out; the one that comes in is its
/// counterpart: `offset` is what to add for it.
fn both_ways(socket: TcpStream, pattern: &Pattern, sent: usize, offset: usize) -> Result<(), String> {
    let received = sent % TO_CLIENT + offset;
    let mut to = socket.try_clone().map_err(|error| error.to_string())?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || pattern.send(&mut to, sent));
        pattern.compare(socket, received)?;
        sender.join().map_err(|_| "a sender panicked".to_owned())?.map_err(|error| format!("sending: {error}"))
    })
}

fn bounded(socket: &TcpStream) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

/// Noise of a prime length, over and over: a byte that is lost, doubled or out of place shows.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        let mut noise = 0x2545_f491_4f6c_dd1d_u64;
        let byte = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        };
        Self(std::iter::repeat_with(byte).take(PERIOD).collect())
    }

    /// What stream number `stream` holds from `position` on, up to `most` bytes of it.
    fn at(&self, stream: usize, position: usize, most: usize) -> &[u8] {
        let rest = &self.0[(position + stream * 7919) % PERIOD..];
        &rest[..rest.len().min(most)]
    }

    /// In pieces of all sizes, small ones first.
    fn send(&self, to: &mut TcpStream, stream: usize) -> io::Result<()> {
        let (mut position, mut piece) = (0, 1);
        while position < STREAM_BYTES {
            let bytes = self.at(stream, position, piece.min(STREAM_BYTES - position));
            to.write_all(bytes)?;
            position += bytes.len();
            piece = piece * 5 / 4 + 1;
        }
        Ok(())
    }

    fn compare(&self, mut from: TcpStream, stream: usize) -> Result<(), String> {
        let mut buffer = vec![0; 200_000];
        let mut position = 0;
        while position < STREAM_BYTES {
            let most = buffer.len().min(STREAM_BYTES - position);
            let bytes = from.read(&mut buffer[..most]).map_err(|error| format!("at byte {position}: {error}"))?;
            if bytes == 0 {
                return Err(format!("the stream ends at byte {position} of {STREAM_BYTES}"));
            }
            let mut left = &buffer[..bytes];
            while !left.is_empty() {
                let expected = self.at(stream, position, left.len());
                if !left.starts_with(expected) {
                    return Err(format!("wrong bytes within {} of byte {position}", expected.len()));
                }
                position += expected.len();
                left = &left[expected.len()..];
            }
        }
        Ok(())
    }
}

const CONNECTIONS: u8 = 8;
/// Streams to clients are numbered from here on.
const TO_CLIENT: usize = 100;
const STREAM_BYTES: usize = 32 << 20;
const PERIOD: usize = 65_521;
/// Nothing may take longer without a byte.
const PATIENCE: Duration = Duration::from_secs(20);
