//! Sends requests to a running snigate at its admin address.
//!
//! In:  the address (TCP or a unix socket), a request, limits for the time and for the size of the response.
//! Out: [`Answer`]: the status and the body; or a response whose body is still arriving. Blocks unless it is async.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Response, StatusCode, header};
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

/// A request to send.
#[derive(Clone, Debug)]
pub(crate) struct Request<'r> {
    pub method: Method,
    /// With its query.
    pub path: &'r str,
    pub body: &'r str,
    pub token: Option<&'r str>,
}

impl<'r> Request<'r> {
    pub(crate) fn get(path: &'r str) -> Self {
        Self { method: Method::GET, path, body: "", token: None }
    }
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

/// The address to connect to: a wildcard address is replaced by loopback.
pub(crate) fn reachable(address: &Address) -> Address {
    match address {
        Address::Tcp(address) if address.ip().is_unspecified() => {
            let loopback = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
            Address::Tcp(SocketAddr::new(loopback, address.port()))
        }
        other => other.clone(),
    }
}

/// Sends `GET path` and reads the response.
///
/// # Errors
/// As for [`send`].
pub(crate) fn get(address: &Address, path: &str, limit: Duration, most_bytes: usize) -> io::Result<Answer> {
    send(address, &Request::get(path), limit, most_bytes)
}

/// Sends a request and reads the response.
///
/// # Errors
/// There is no connection, or no complete response in HTTP of at most `most_bytes` within `limit`.
pub(crate) fn send(address: &Address, request: &Request<'_>, limit: Duration, most_bytes: usize) -> io::Result<Answer> {
    let exchange = async {
        let response = open(address, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most_bytes).collect().await.map_err(io::Error::other)?;
        Ok(Answer { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        timeout(limit, exchange).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
    })
}

/// Sends a request and reads the head of the response.
///
/// # Errors
/// There is no connection, or what answers does not speak HTTP. The kind of the error is `Other` once connected.
pub(crate) async fn open(address: &Address, request: &Request<'_>) -> io::Result<Response<Incoming>> {
    match address {
        Address::Tcp(tcp) => head(TcpStream::connect(tcp).await?, &tcp.to_string(), request).await,
        // RFC 9110 §7.2: Host is empty for a socket without a host name.
        Address::Unix(file) => head(UnixStream::connect(file).await?, "", request).await,
    }
}

async fn head(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    Request { method, path, body, token }: &Request<'_>,
) -> io::Result<Response<Incoming>> {
    let mut request = hyper::Request::builder().method(method).uri(*path).header(header::HOST, host);
    if !method.is_safe() {
        // Through a unix socket the server asks for proof that no web page sent this.
        request = request.header("x-snigate-control", "1");
    }
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Moves the bytes until the response has ended.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}
