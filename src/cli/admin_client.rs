//! Queries a running snigate at its admin address.
//!
//! In:  the address (TCP or a unix socket), a path, limits for the time and for the size of the response.
//! Out: [`Answer`]: the status and the body. It blocks, for commands that send a single request.

use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio::time::timeout;

use crate::settings::Address;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: String,
}

/// Parses `HOST:PORT`, optionally with `http://` before it, or `unix:/PATH`.
///
/// # Errors
/// It is neither, or the host has no address.
pub(crate) fn address(reported: &str) -> io::Result<Address> {
    if let Some(path) = reported.strip_prefix("unix:") {
        return Ok(Address::Unix(path.into()));
    }
    let host = reported.strip_prefix("http://").unwrap_or(reported).trim_end_matches('/');
    let first = host.to_socket_addrs()?.next();
    first.map(Address::Tcp).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Sends `GET path` and reads the response.
///
/// # Errors
/// There is no connection, or no complete response in HTTP of at most `most_bytes` within `limit`.
pub(crate) fn get(address: &Address, path: &str, limit: Duration, most_bytes: usize) -> io::Result<Answer> {
    let ask = async {
        match address {
            Address::Tcp(tcp) => exchange(TcpStream::connect(tcp).await?, &tcp.to_string(), path, most_bytes).await,
            // RFC 9110 §7.2: Host is empty for a socket without a host name.
            Address::Unix(file) => exchange(UnixStream::connect(file).await?, "", path, most_bytes).await,
        }
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(limit, ask).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))? })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
    most_bytes: usize,
) -> io::Result<Answer> {
    let request =
        Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most_bytes).collect().await.map_err(io::Error::other)?;
        Ok(Answer { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    // The connection moves the bytes; it ends last, if at all.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}
