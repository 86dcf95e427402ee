//! `snigate healthcheck`: checks whether a running snigate is ready, for containers that have no curl.
//!
//! In:  an admin address; or a routing file, by default that of process 1 in a container.
//! Out: nothing if `/readyz` answers 200; otherwise an error with the answer.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, fs};

use clap::Args;
use hyper::StatusCode;

use super::admin_client::{self, Answer};
use crate::operate::admin::FULL;
use crate::settings::Address;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// The routing file with the admin address; if not given, that of the snigate that runs as process 1
    #[arg(conflicts_with = "admin")]
    pub(super) file: Option<PathBuf>,
    /// Asks this admin address (HOST:PORT or unix:/PATH) instead of reading a file
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<String>,
}

/// The command line of process 1, if it is this program: in a container, the routing file that it was given is the one
/// in force.
pub(super) fn command_line_of_init() -> Option<Vec<OsString>> {
    let words = fs::read("/proc/1/cmdline").ok()?;
    arguments(&words, std::env::current_exe().ok()?.file_name()?.as_encoded_bytes())
}

/// The words of `/proc/PID/cmdline`, if the program is called `name`.
fn arguments(words: &[u8], name: &[u8]) -> Option<Vec<OsString>> {
    let words: Vec<&[u8]> = words.strip_suffix(&[0])?.split(|byte| *byte == 0).collect();
    let program = words.first()?.rsplit(|byte| *byte == b'/').next()?;
    (program == name).then(|| words.iter().map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// Asks the first of the addresses; all of them serve the same.
///
/// # Errors
///
/// Fails without an admin address, without an answer within two seconds, or if the status is not 200 for another reason
/// than that the process is full.
pub(crate) fn healthcheck(admin: &[Address]) -> Result<(), HealthcheckError> {
    let address = admin_client::reachable(admin.first().ok_or(HealthcheckError::NoAddress)?);
    let ask = admin_client::get(&address, "/readyz", LIMIT, MAX_ANSWER_BYTES);
    match ask {
        Err(source) => Err(HealthcheckError::Io { address, source }),
        Ok(Answer { status: StatusCode::OK, .. }) => Ok(()),
        // It works, for all the clients that it has: a restart would end their connections.
        Ok(Answer { body, .. }) if body.starts_with(FULL) => Ok(()),
        Ok(Answer { status, body }) => {
            Err(HealthcheckError::NotReady { address, status, body: body.trim().to_owned() })
        }
    }
}

#[derive(Debug)]
pub(crate) enum HealthcheckError {
    NoAddress,
    Io {
        address: Address,
        source: io::Error,
    },
    /// It answered, but not with 200.
    NotReady {
        address: Address,
        status: StatusCode,
        body: String,
    },
}

impl fmt::Display for HealthcheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("no admin address is configured"),
            Self::Io { address, .. } => write!(f, "no valid HTTP response from {}", page(address)),
            Self::NotReady { address, status, body } => {
                write!(f, "{} answered \"{status}\": {body:?}", page(address))
            }
        }
    }
}

impl Error for HealthcheckError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::NoAddress | Self::NotReady { .. } => None,
        }
    }
}

fn page(address: &Address) -> String {
    match address {
        Address::Tcp(address) => format!("http://{address}/readyz"),
        Address::Unix(path) => format!("{}:/readyz", path.display()),
    }
}

/// For the whole request and response.
const LIMIT: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Instant;

    use super::admin_client::reachable;
    use super::*;

    /// A server that reads one request and sends these bytes.
    fn answering(answer: &'static [u8]) -> Address {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer).unwrap();
        });
        Address::Tcp(address)
    }

    fn tcp(address: &str) -> Address {
        Address::Tcp(address.parse().unwrap())
    }

    #[test]
    fn two_hundred_is_healthy() {
        let address = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n");
        healthcheck(&[address]).unwrap();
    }

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        let Address::Tcp(address) = answering(b"HTTP/1.1 200 OK\r\n\r\n") else { unreachable!() };
        healthcheck(&[tcp(&format!("0.0.0.0:{}", address.port()))]).unwrap();
        assert_eq!(reachable(&tcp("[::]:9901")), tcp("[::1]:9901"));
        assert_eq!(reachable(&tcp("10.0.0.1:9901")), tcp("10.0.0.1:9901"));
        assert_eq!(reachable(&Address::Unix("/a".into())), Address::Unix("/a".into()));
    }

    #[test]
    fn the_error_says_what_was_seen() {
        let address = answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n");
        let error = healthcheck(&[address]).unwrap_err();
        let expected = r#"/readyz answered "503 Service Unavailable": "draining""#;
        assert!(error.to_string().ends_with(expected), "{error}");

        for other in [&b"SSH-2.0-OpenSSH 200 \r\n"[..], b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nready\n"] {
            let error = healthcheck(&[answering(other)]).unwrap_err();
            assert!(matches!(error, HealthcheckError::Io { .. }), "{error}");
        }
        assert!(matches!(healthcheck(&[]).unwrap_err(), HealthcheckError::NoAddress));
    }

    #[test]
    fn a_closed_port_and_a_silent_server_are_no_answer() {
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert!(matches!(healthcheck(&[Address::Tcp(closed)]).unwrap_err(), HealthcheckError::Io { .. }));

        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (asked, limit) = (Instant::now(), Duration::from_millis(100));
        assert!(admin_client::get(&Address::Tcp(silent.local_addr().unwrap()), "/readyz", limit, 1).is_err());
        assert!(asked.elapsed() >= limit && asked.elapsed() < LIMIT, "{:?}", asked.elapsed());
    }
}
