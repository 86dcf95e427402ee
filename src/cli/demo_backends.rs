//! The small HTTPS backends that `snigate demo` puts behind the proxy.
//!
//! In:  for each backend its name and the server names of its certificate.
//! Out: [`Backend`]: the address it listens on and the certificate that clients should trust.
//! Source: RFC 9112 §2–3 (the request head).
//!
//! Each answers one GET per connection with a few lines that show which backend answered and what it received, which
//! demonstrates that TLS ended here and not in the proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A running demo backend.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub name: Arc<str>,
    pub address: SocketAddr,
    /// Self-signed: a client that trusts exactly this certificate (`curl --cacert`) verifies the backend.
    pub certificate_pem: String,
}

/// Starts a backend for every `(name, port, server names)` on loopback, each with its own certificate; uses a free port
/// if the wanted one is taken. They run until the current runtime ends.
///
/// # Errors
/// A server name is not allowed in a certificate, or no port is available.
pub(crate) async fn spawn_backends(wanted: &[(&str, u16, &[&str])]) -> Result<Vec<Backend>, StartError> {
    let mut backends = Vec::with_capacity(wanted.len());
    for (name, port, names) in wanted {
        let certificate = Certificate::self_signed(name, names)?;
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
            bound => bound,
        };
        let listener = listener.map_err(StartError::Bind)?;
        backends.push(Backend {
            name: Arc::from(*name),
            address: listener.local_addr().map_err(StartError::Bind)?,
            certificate_pem: certificate.pem.clone(),
        });
        tokio::spawn(serve(listener, Arc::from(*name), certificate));
    }
    Ok(backends)
}

/// Serves `listener` as the backend called `name`, until dropped.
pub(crate) async fn serve(listener: TcpListener, name: Arc<str>, certificate: Certificate) {
    let acceptor = TlsAcceptor::from(certificate.tls);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Most likely out of descriptors: wait for some to be freed instead of spinning.
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, name) = (acceptor.clone(), Arc::clone(&name));
        tokio::spawn(async move {
            // Errors are only visible to the client; a demo backend has no log.
            let _ = timeout(DEADLINE, answer(stream, client, &acceptor, &name)).await;
            drop(place);
        });
    }
}

/// A new key with a self-signed certificate.
pub(crate) struct Certificate {
    pub pem: String,
    tls: Arc<ServerConfig>,
}

impl Certificate {
    /// Creates a certificate for the server names `names`, with `common_name` as the name that viewers display.
    ///
    /// # Errors
    /// A server name is not allowed in a certificate.
    pub(crate) fn self_signed(common_name: &str, names: &[&str]) -> Result<Self, StartError> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("snigate demo backend {common_name}"));
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { pem: certificate.pem(), tls: tls_config(certificate.der().clone(), der)? })
    }
}

fn tls_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, StartError> {
    // The provider is passed explicitly, so that no process-wide default needs to be installed first.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn answer(stream: TcpStream, client: SocketAddr, acceptor: &TlsAcceptor, name: &str) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let response = match read_head(&mut stream).await? {
        Head::Whole(head) => respond(&head, || describe(&stream, client, name)),
        Head::TooLong => response("431 Request Header Fields Too Large", "the request head is too long\n", Body::Sent),
        Head::CutShort => return Ok(()),
    };
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// The request head, as far as it was read.
enum Head {
    Whole(Vec<u8>),
    TooLong,
    CutShort,
}

async fn read_head(stream: &mut TlsStream<TcpStream>) -> io::Result<Head> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            return Ok(Head::TooLong);
        }
        let room = (MAX_HEAD_BYTES - head.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut head).await? == 0 {
            return Ok(Head::CutShort);
        }
    }
    Ok(Head::Whole(head))
}

fn respond(head: &[u8], describe: impl FnOnce() -> String) -> String {
    let request_line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = request_line.split(|byte| *byte == b' ').collect();
    match words[..] {
        [b"GET", _, b"HTTP/1.1" | b"HTTP/1.0"] => response("200 OK", &describe(), Body::Sent),
        [b"HEAD", _, b"HTTP/1.1" | b"HTTP/1.0"] => response("200 OK", &describe(), Body::LeftOut),
        [_, _, b"HTTP/1.1" | b"HTTP/1.0"] => {
            response("405 Method Not Allowed\r\nAllow: GET, HEAD", "this backend answers GET\n", Body::Sent)
        }
        _ => response("400 Bad Request", "this is not an HTTP/1.1 request\n", Body::Sent),
    }
}

/// Whether the body follows the head (the response to HEAD has only its length).
enum Body {
    Sent,
    LeftOut,
}

fn response(status: &str, body: &str, send: Body) -> String {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    match send {
        Body::Sent => head + body,
        Body::LeftOut => head,
    }
}

fn describe(stream: &TlsStream<TcpStream>, client: SocketAddr, name: &str) -> String {
    let tls = stream.get_ref().1;
    let version = match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "unknown",
    };
    let server_name = tls.server_name().unwrap_or("none");
    format!("backend: {name}\nserver name: {server_name}\nTLS version: {version}\nconnection from: {client}\n")
}

/// Why a backend could not be started.
#[derive(Debug)]
pub(crate) enum StartError {
    Certificate(rcgen::Error),
    Tls(rustls::Error),
    Bind(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate(_) => "cannot make a certificate for the demo backend",
            Self::Tls(_) => "cannot use the certificate of the demo backend",
            Self::Bind(_) => "cannot listen on a loopback port for the demo backend",
        })
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certificate(cause) => Some(cause),
            Self::Tls(cause) => Some(cause),
            Self::Bind(cause) => Some(cause),
        }
    }
}

impl From<rcgen::Error> for StartError {
    fn from(cause: rcgen::Error) -> Self {
        Self::Certificate(cause)
    }
}

impl From<rustls::Error> for StartError {
    fn from(cause: rustls::Error) -> Self {
        Self::Tls(cause)
    }
}

/// From accept to the last byte of the response.
const DEADLINE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_CONNECTIONS: usize = 256;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
    use tokio_rustls::TlsConnector;

    use super::*;

    #[tokio::test]
    async fn each_backend_answers_with_its_own_certificate_and_what_it_saw() {
        let backends =
            spawn_backends(&[("blue", 0, &["blue.test", "navy.test"]), ("green", 0, &["green.test"])]).await.unwrap();
        for (backend, asked) in [(&backends[0], "blue.test"), (&backends[0], "navy.test"), (&backends[1], "green.test")]
        {
            let answer =
                ask(backend, asked, &rustls::version::TLS13, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(&format!("backend: {}\nserver name: {asked}\n", backend.name)), "{answer}");
            assert!(answer.contains("TLS version: 1.3\nconnection from: 127.0.0.1:"), "{answer}");
        }
    }

    #[tokio::test]
    async fn tls_1_2_is_spoken_too() {
        let backends = spawn_backends(&[("blue", 0, &["blue.test"])]).await.unwrap();
        let answer = ask(&backends[0], "blue.test", &rustls::version::TLS12, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(answer.contains("TLS version: 1.2\n"), "{answer}");
    }

    #[tokio::test]
    async fn the_certificate_of_one_backend_is_not_that_of_another() {
        let mut backends = spawn_backends(&[("blue", 0, &["blue.test"]), ("green", 0, &["blue.test"])]).await.unwrap();
        backends[0].certificate_pem = backends[1].certificate_pem.clone();
        let refused = ask(&backends[0], "blue.test", &rustls::version::TLS13, b"").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn what_is_not_a_get_is_reported_so() {
        let backends = spawn_backends(&[("blue", 0, &["blue.test"])]).await.unwrap();
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; MAX_HEAD_BYTES]].concat();
        for (request, status) in [
            (b"DELETE / HTTP/1.1\r\n\r\n".as_slice(), "405 "),
            (b"\r\n\r\n", "400 "),
            (b"GET /\r\n\r\n", "400 "),
            (&long[..MAX_HEAD_BYTES], "431 "),
        ] {
            let answer = ask(&backends[0], "blue.test", &rustls::version::TLS13, request).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_head_request_gets_the_length_and_no_body() {
        let backends = spawn_backends(&[("blue", 0, &["blue.test"])]).await.unwrap();
        let answer = ask(&backends[0], "blue.test", &rustls::version::TLS13, b"HEAD / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    /// Sends a request as a client that trusts only the backend's certificate, and reads to a clean end.
    async fn ask(
        backend: &Backend,
        server_name: &str,
        version: &'static SupportedProtocolVersion,
        request: &[u8],
    ) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_reader(Cursor::new(&backend.certificate_pem)).unwrap();
        roots.add(certificate).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(backend.address).await?;
        let server_name = ServerName::try_from(server_name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(server_name, stream).await?;
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
