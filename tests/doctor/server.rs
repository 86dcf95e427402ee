//! A TLS backend that can be told to misbehave.
//!
//! In:  certificates, and [`Behavior`]: whom it answers, and which hellos it cannot take.
//! Out: its address. It serves until the test ends.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// Signs certificates; its root lies in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: TempDir,
}

pub static TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
pub static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// A chain, the leaf first, and the key to it.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("the root")
    }

    pub fn named(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let root = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("root.pem"), root.pem()).unwrap();
        Self { root: root.der().clone(), issuer: Issuer::new(params, key), directory }
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    pub fn issue_with(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (params, key) = (leaf(names, edit), KeyPair::generate().unwrap());
        Identity { chain: vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()], key }
    }

    /// By an intermediate authority, which stands in the chain.
    pub fn issue_indirectly(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (mut params, middle_key) = (authority("the intermediate"), KeyPair::generate().unwrap());
        edit(&mut params);
        let middle = params.signed_by(&middle_key, &self.issuer).unwrap().der().clone();
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(names, |_| {}).signed_by(&key, &Issuer::new(params, middle_key)).unwrap().der().clone();
        Identity { chain: vec![leaf, middle], key }
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }
}

pub fn self_signed(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Identity {
    self_signed_in_pem(names, edit).0
}

/// The second is the certificate, for `--ca`.
pub fn self_signed_in_pem(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> (Identity, String) {
    let (params, key) = (leaf(names, edit), KeyPair::generate().unwrap());
    let certificate = params.self_signed(&key).unwrap();
    (Identity { chain: vec![certificate.der().clone()], key }, certificate.pem())
}

fn leaf(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a leaf");
    edit(&mut params);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// What the backend does. The default serves everybody, whatever the hello looks like.
pub struct Behavior {
    pub versions: &'static [&'static SupportedProtocolVersion],
    pub alpn: &'static [&'static str],
    /// Refuses other names than these, and hellos without one, by `unrecognized_name`.
    pub only: Option<&'static [&'static str]>,
    /// Hangs up on a hello of more bytes.
    pub most_hello_bytes: usize,
    /// Hangs up on a hello that is cut into records.
    pub takes_records: bool,
    /// Hangs up on a hello that does not come with one read.
    pub takes_segments: bool,
    /// Reads a PROXY header first, and hangs up without one.
    pub wants_proxy_header: bool,
    pub asks_for_certificate: Option<CertificateDer<'static>>,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            versions: rustls::ALL_VERSIONS,
            alpn: &["h2", "http/1.1"],
            only: None,
            most_hello_bytes: usize::MAX,
            takes_records: true,
            takes_segments: true,
            wants_proxy_header: false,
            asks_for_certificate: None,
        }
    }
}

impl Identity {
    /// Serves with this certificate.
    pub fn serve(self, behavior: Behavior) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (config, behavior) = (Arc::new(self.config(&behavior)), Arc::new(behavior));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, behavior) = (Arc::clone(&config), Arc::clone(&behavior));
                thread::spawn(move || answer(client, config, &behavior));
            }
        });
        address
    }

    fn config(self, behavior: &Behavior) -> ServerConfig {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(behavior.versions)
            .unwrap();
        let builder = match &behavior.asks_for_certificate {
            Some(root) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(root.clone()).unwrap();
                let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(clients.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        // Not `with_single_cert`, which looks whether the certificate is right.
        let key = any_supported_type(&key).unwrap();
        let shown = SingleCertAndKey::from(CertifiedKey::new(self.chain, key));
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = behavior.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// `None` wherever it hangs up.
fn answer(mut client: TcpStream, config: Arc<ServerConfig>, behavior: &Behavior) -> Option<()> {
    if behavior.wants_proxy_header {
        read_proxy_header(&mut client)?;
    }
    let mut first = vec![0; 16 * 1024];
    let length = client.read(&mut first).ok()?;
    first.truncate(length);
    let number = |at: usize| first.get(at..at + 2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
    // Record header: type, version (2), length (2). Handshake header: type, length (3).
    let (record, hello) = (number(3)?, number(7)?);
    if hello > behavior.most_hello_bytes
        || (record < hello + 4 && !behavior.takes_records)
        || (first.len() < record + 5 && !behavior.takes_segments)
    {
        return None;
    }
    let mut acceptor = Acceptor::default();
    let mut reader = Cursor::new(first).chain(client.try_clone().ok()?);
    let accepted = loop {
        acceptor.read_tls(&mut reader).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            break accepted;
        }
    };
    let name = accepted.client_hello().server_name().map(str::to_owned);
    if behavior.only.is_some_and(|only| name.is_none_or(|name| !only.contains(&&*name))) {
        return client.write_all(&[21, 3, 3, 0, 2, 2, 112]).ok();
    }
    let mut tls = match accepted.into_connection(config) {
        Ok(tls) => tls,
        Err((_, mut alert)) => return alert.write_all(&mut client).ok(),
    };
    while !tls.is_handshaking() || tls.wants_write() || tls.wants_read() {
        match tls.complete_io(&mut client) {
            // The client's goodbye.
            Ok((0, 0)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut client).ok()?;
    }
    Some(())
}

/// Version 2: 12 bytes of signature, two, and a length.
fn read_proxy_header(client: &mut TcpStream) -> Option<()> {
    let mut fixed = [0; 16];
    client.read_exact(&mut fixed).ok()?;
    if !fixed.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        return None;
    }
    let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
    client.read_exact(&mut rest).ok()
}

/// Says `bytes` to everybody, whatever they say, and closes.
pub fn says(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(bytes);
        }
    });
    address
}

/// Listens at `path`, and carries every connection on to `backend`.
pub fn relay_unix(path: &Path, backend: SocketAddr) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let backend = TcpStream::connect(backend).unwrap();
            let (client_too, backend_too) = (client.try_clone().unwrap(), backend.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut &client_too, &mut &backend_too);
                let _ = backend_too.shutdown(Shutdown::Write);
            });
            thread::spawn(move || {
                let _ = std::io::copy(&mut &backend, &mut &client);
                let _ = client.shutdown(Shutdown::Write);
            });
        }
    });
}

/// An address where nothing listens: bound to the end of the test, so that nobody else gets it.
pub fn nothing_there() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// Takes every connection and never says a word.
pub fn says_nothing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    address
}
