//! Queries a running snigate at its admin address.
//!
//! In:  the address (TCP or a unix socket), a path, limits for the time and for the size of the response.
//! Out: [`Answer`]: the status and the body. HTTP/1.1 over a blocking socket, for commands that send a single request.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::socket::Address;

/// The response, up to the size limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `None`: the response was not HTTP.
    pub status: Option<u16>,
    /// The first line as received.
    pub status_line: String,
    pub body: String,
}

/// Parses `HOST:PORT`, optionally with `http://` before it, or `unix:/PATH`.
///
/// # Errors
/// It is neither, or the host has no address.
pub(crate) fn address(told: &str) -> io::Result<Address> {
    if let Some(path) = told.strip_prefix("unix:") {
        return Ok(Address::Unix(path.into()));
    }
    let host = told.strip_prefix("http://").unwrap_or(told).trim_end_matches('/');
    let first = host.to_socket_addrs()?.next();
    first.map(Address::Tcp).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Sends `GET path` and reads the response until the server closes.
///
/// # Errors
/// There is no connection, or no complete response within `limit`.
pub(crate) fn get(address: &Address, path: &str, limit: Duration, most_bytes: usize) -> io::Result<Answer> {
    let deadline = Instant::now() + limit;
    let mut stream = Stream::connect(address, limit)?;
    stream.set_timeouts(left(deadline)?)?;
    // RFC 9110 §7.2: Host is empty for a socket without a host name.
    let host = if let Address::Tcp(address) = address { address.to_string() } else { String::new() };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() < most_bytes {
        stream.set_timeouts(left(deadline)?)?;
        match stream.read(&mut chunk)? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(Answer::read(&String::from_utf8_lossy(&answer)))
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &Address, limit: Duration) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => TcpStream::connect_timeout(address, limit).map(Self::Tcp),
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    fn set_timeouts(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status_line = head.lines().next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        Self { status, status_line: status_line.to_owned(), body: body.to_owned() }
    }
}

/// Encodes `value` for use in a query (RFC 3986 §2.3).
pub(crate) fn percent_encoded(value: &str) -> String {
    let encoded = value.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_or_is_no_http() {
        let answer = Answer::read("HTTP/1.1 404 Not Found\r\na: b\r\n\r\nno\n");
        assert_eq!((answer.status, &*answer.status_line, &*answer.body), (Some(404), "HTTP/1.1 404 Not Found", "no\n"));
        for other in ["SSH-2.0-OpenSSH 200 \r\n", "", "HTTP/2 200\r\n\r\n", "HTTP/1.1\r\n\r\n"] {
            assert_eq!(Answer::read(other).status, None, "{other:?}");
        }
    }

    #[test]
    fn what_has_a_meaning_in_a_query_is_encoded() {
        assert_eq!(percent_encoded("a-b_c.~9"), "a-b_c.~9");
        assert_eq!(percent_encoded("a&b=c+d %/ü"), "a%26b%3Dc%2Bd%20%25%2F%C3%BC");
    }
}
