//! curl with BoringSSL, rustls and Chromium through snigate to backends with OpenSSL 4.0; skipped if Python does not have
//! them (`real_parts.py`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{EchConfig, EchMode, EchStatus};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, EchConfigListBytes, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ServerConfig, ServerConnection,
    SignatureScheme, Stream,
};

use crate::harness::Running;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ech/real_parts.py");

struct Backends {
    process: Child,
    ports: Vec<u16>,
}

impl Drop for Backends {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `SNIGATE_PYTHON` names a Python with the packages.
fn python() -> Command {
    Command::new(std::env::var("SNIGATE_PYTHON").unwrap_or_else(|_| "python3".to_owned()))
}

/// A part of the script that prints `count` ports and serves there until it is dropped.
fn serving(arguments: &[&str], count: usize) -> Backends {
    let mut command = python();
    command.arg(SCRIPT).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().expect("Python starts");
    let printed = BufReader::new(process.stdout.take().expect("piped")).lines();
    let ports = printed.take(count).map(|line| line.expect("a port").parse().expect("a number")).collect();
    Backends { process, ports }
}

fn backends(names: &[&str]) -> Option<Backends> {
    let has_packages = "import curl_cffi, OpenSSL.SSL as s, cryptography; \
                        raise SystemExit(s.OpenSSL_version(0) < b'OpenSSL 4')";
    let found = python().args(["-c", has_packages]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("skipped: no Python with curl_cffi, pyOpenSSL and OpenSSL 4");
        return None;
    }
    Some(serving(&[&["backends"], names].concat(), names.len()))
}

fn ask(lb: &Running, name: &str, ech: &str) -> String {
    let port = lb.port().to_string();
    let output = python().arg(SCRIPT).args(["ask", &port, name, ech]).output().expect("it runs");
    String::from_utf8(output.stdout).expect("text")
}

fn snigate(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_snigate")).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The `ech` parameter of a new key in `file`.
pub(crate) fn published(file: &str) -> String {
    snigate(&["ech", "keygen", "--public-name", "public.test", "--out", file]);
    let shown: serde_json::Value = serde_json::from_str(&snigate(&["ech", "show", file, "--json"])).expect("JSON");
    format!("ecl:{}", shown["ech"].as_str().expect("text"))
}

/// The ECHConfigList in it.
pub(crate) fn list(published: &str) -> Vec<u8> {
    data_encoding::BASE64.decode(published.trim_start_matches("ecl:").as_bytes()).expect("base64")
}

#[test]
fn curl_reaches_hidden_names_and_backends_confirm_it() {
    let Some(backends) = backends(&["inner.test", "public.test", "p256.test"]) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (ours, other) = (published(&file("ours.pem")), published(&file("other.pem")));
    let [inner, public, p256] = backends.ports[..] else { panic!("three ports") };
    let lb = Running::start(&format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: {} }}\nroutes:\n\
         - {{ sni: inner.test, ech: only, pool: inner }}\n- {{ sni: public.test, pool: public }}\n\
         - {{ sni: p256.test, pool: p256 }}\n\
         pools:\n  inner: {{ backends: [\"127.0.0.1:{inner}\"] }}\n  public: {{ backends: [\"127.0.0.1:{public}\"] }}\n  \
         p256: {{ backends: [\"127.0.0.1:{p256}\"] }}\nadmin: {{ bind: \"127.0.0.1:0\" }}\n",
        file("ours.pem")
    ));
    assert_eq!(ask(&lb, "inner.test", &ours), "inner.test was asked for inner.test\n");
    assert!(ask(&lb, "inner.test", "off").contains("UNRECOGNIZED_NAME"));
    assert_eq!(ask(&lb, "public.test", "grease"), "public.test was asked for public.test\n");
    // It accepts one group only, so it answers with a HelloRetryRequest.
    assert_eq!(ask(&lb, "p256.test", &ours), "p256.test was asked for p256.test\n");
    // The server of the public name answers, so the client knows that its key is not the right one.
    assert!(ask(&lb, "inner.test", &other).contains("ECH_REJECTED"));
    let counts =
        [("accepted", 2.0), ("not_for_us", 2.0), ("retry_accepted", 1.0), ("illegal", 0.0), ("unconfirmed", 0.0)];
    for (result, count) in counts {
        assert_eq!(lb.metric("ech_hellos_total", &[("result", result)]), count, "{result}");
    }
    lb.stop();
}

/// The browser finds the key where all clients do: in the HTTPS record of the name.
#[test]
fn chromium_finds_the_key_by_dns_over_https_and_reaches_a_hidden_name() {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
    if !Command::new(&chromium).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return println!("skipped: no chromium");
    }
    let Some(backends) = backends(&["inner.test", "public.test"]) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("k.pem").display().to_string();
    let published = published(&file);
    let dns = serving(&["doh", published.trim_start_matches("ecl:")], 1);
    let [inner, public] = backends.ports[..] else { panic!("two ports") };
    let lb = Running::start(&format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: {file} }}\nroutes:\n\
         - {{ sni: inner.test, ech: only, pool: inner }}\n- {{ sni: public.test, pool: public }}\n\
         pools:\n  inner: {{ backends: [\"127.0.0.1:{inner}\"] }}\n  public: {{ backends: [\"127.0.0.1:{public}\"] }}\n\
         admin: {{ bind: \"127.0.0.1:0\" }}\n"
    ));
    let state = serde_json::json!({
        "dns_over_https": { "mode": "secure", "templates": format!("https://127.0.0.1:{}/dns-query", dns.ports[0]) }
    });
    let profile = directory.path().join("profile");
    std::fs::create_dir(&profile).expect("made");
    std::fs::write(profile.join("Local State"), state.to_string()).expect("written");
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--ignore-certificate-errors", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("https://inner.test:{}/", lb.port()))
        .output()
        .expect("it runs");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("inner.test was asked for inner.test"), "{page}{}", String::from_utf8_lossy(&output.stderr));
    let line = lb.wait_for_connection("inner.test");
    assert_eq!((&line["ech"], &line["outer_sni"]), (&"accepted".into(), &"public.test".into()));
    lb.stop();
}

/// A client that takes any certificate.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client that seals its hellos for one of the configurations of `list`.
pub(crate) fn sealing(list: &[u8]) -> ClientConfig {
    let list = EchConfigListBytes::from(list);
    let ech = EchConfig::new(list, aws_lc_rs::hpke::ALL_SUPPORTED_SUITES).expect("a suite that both have");
    // A HelloRetryRequest for a group that the backend likes better would rule out early data.
    let kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_ech(EchMode::Enable(ech))
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth()
}

/// Asks for a page with rustls, which seals its hello; with early data, if it may be sent.
pub(crate) fn ask_by_rustls(
    lb: &Running,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> io::Result<(ClientConnection, String)> {
    let mut client =
        ClientConnection::new(Arc::clone(config), ServerName::try_from(name).expect("a name")).expect("one");
    let mut socket = TcpStream::connect(lb.address()).expect("connected");
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
    let sent = match client.early_data() {
        Some(mut early) => early.write(request.as_bytes()).expect("room"),
        None => 0,
    };
    let mut stream = Stream::new(&mut client, &mut socket);
    stream.write_all(&request.as_bytes()[sent..])?;
    let mut answer = Vec::new();
    // The backend closes without close_notify.
    let _ = stream.read_to_end(&mut answer);
    Ok((client, String::from_utf8(answer).expect("text")))
}

#[test]
fn a_session_is_resumed_with_early_data_and_its_hello_is_encrypted_again() {
    let Some(backends) = backends(&["early.test"]) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("k.pem").display().to_string();
    let published = published(&file);
    let list = list(&published);
    let lb = Running::start(&format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: {file} }}\n\
         routes: [{{ sni: early.test, ech: only, pool: early }}]\n\
         pools: {{ early: {{ backends: [\"127.0.0.1:{}\"] }} }}\nadmin: {{ bind: \"127.0.0.1:0\" }}\n",
        backends.ports[0]
    ));
    let mut config = sealing(&list);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let (first, answer) = ask_by_rustls(&lb, &config, "early.test").expect("answered");
    assert!(answer.ends_with("\r\n\r\nearly.test was asked for early.test\n"), "{answer}");
    assert_eq!((first.ech_status(), first.handshake_kind()), (EchStatus::Accepted, Some(HandshakeKind::Full)));
    let (second, answer) = ask_by_rustls(&lb, &config, "early.test").expect("answered");
    assert!(answer.ends_with("\r\n\r\nearly.test was asked for early.test early\n"), "{answer}");
    assert_eq!((second.ech_status(), second.handshake_kind()), (EchStatus::Accepted, Some(HandshakeKind::Resumed)));
    assert!(second.is_early_data_accepted());
    for (result, count) in [("accepted", 2.0), ("unconfirmed", 0.0), ("illegal", 0.0)] {
        assert_eq!(lb.metric("ech_hellos_total", &[("result", result)]), count, "{result}");
    }
    lb.stop();
}

/// A server that knows nothing of inner hellos; its port.
fn rustls_server() -> u16 {
    let certified = rcgen::generate_simple_self_signed(["inner.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key);
    let config = Arc::new(config.expect("a key for the certificate"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            thread::spawn(move || Stream::new(&mut connection, &mut socket).read_to_end(&mut Vec::new()));
        }
    });
    port
}

#[test]
fn the_doctor_finds_the_backends_that_do_not_accept_inner_hellos() {
    // Without OpenSSL 4, only those that do not.
    let accepting = backends(&["inner.test"]);
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name).display().to_string();
    published(&file("k.pem"));
    let ignoring = rustls_server();
    let accepting_port = accepting.as_ref().map_or(ignoring, |backends| backends.ports[0]);
    let text = format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: k.pem }}\nroutes:\n\
         - {{ sni: inner.test, ech: only, pool: only }}\n- {{ sni: any.test, pool: any }}\n\
         - {{ sni: never.test, ech: never, pool: never }}\npools:\n  \
         only: {{ backends: [\"127.0.0.1:{ignoring}\", \"127.0.0.1:{accepting_port}\"] }}\n  \
         any: {{ backends: [\"127.0.0.1:{ignoring}\"] }}\n  never: {{ backends: [\"127.0.0.1:{ignoring}\"] }}\n"
    );
    let text = if accepting.is_some() { text } else { text.replacen(&format!(", \"127.0.0.1:{ignoring}\""), "", 1) };
    std::fs::write(file("c.yaml"), text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_snigate"))
        .args(["doctor", &file("c.yaml"), "--json", "--timeout", "20s"])
        .output()
        .expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").iter();
    let found: Vec<_> = findings
        .filter(|finding| finding["kind"] == "ech_unconfirmed")
        .map(|finding| (finding["severity"].as_str(), finding["pool"].as_str(), finding["backends"].clone()))
        .collect();
    let backends = serde_json::json!([format!("127.0.0.1:{ignoring}")]);
    let expected = [(Some("error"), Some("only"), backends.clone()), (Some("warning"), Some("any"), backends)];
    assert_eq!(found, expected, "{report:#}");
}
