//! Servers of OpenSSL, Node.js and rustls as pods; `curl` and `openssl s_client` as clients. Skipped where one is missing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::backend::Backend;
use crate::cluster::{Cluster, Seen, wait_until};
use crate::harness::poll;
use crate::objects::{self, Endpoint};
use crate::program::{Output, Program};

in_a_namespace! {
    "real_parts":
    real_clients_reach_the_certificates_of_real_servers, clients_and_servers;
}

/// A server in a process of its own.
struct Pod(Child);

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The certificate and the key of a name, as files.
fn self_signed(name: &str, directory: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

fn openssl_server(openssl: &Program, (certificate, key): &(PathBuf, PathBuf), address: &str) -> Pod {
    let mut command = openssl.command();
    command.args(["s_server", "-www", "-accept", address, "-cert"]).arg(certificate).arg("-key").arg(key);
    let server = Pod(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    poll(|| TcpStream::connect(address)).expect("it listens");
    server
}

fn node_server(node: &Program, (certificate, key): &(PathBuf, PathBuf), (ip, port): (&str, u16)) -> Pod {
    let script = "const fs = require('fs'), [cert, key, ip, port] = process.argv.slice(1); \
        require('https').createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, \
            (_, answer) => answer.end('hello from Node.js')).listen(port, ip, () => console.log('listening'));";
    let mut command = node.command();
    command.args(["-e", script, "--"]).arg(certificate).arg(key).args([ip, &port.to_string()]);
    let mut server = Pod(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    server
}

fn rustls_server(name: &str, directory: &Path, address: (&str, u16)) -> Backend {
    let key = KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    Backend::on(TcpListener::bind(address).unwrap(), move |mut socket| {
        let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut connection, &mut socket);
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            let body = "hello from rustls";
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
            connection.send_close_notify();
            let _ = connection.complete_io(&mut socket);
        }
    })
}

fn ask_by_curl(curl: &Program, at: SocketAddr, name: &str, trust: &Path) -> Output {
    let (url, resolve) = (format!("https://{name}:{}/", at.port()), format!("{name}:{}:{}", at.port(), at.ip()));
    let arguments = ["-q", "-sS", "--noproxy", "*", "--resolve", &resolve, &url, "--cacert"];
    curl.run(arguments.iter().map(|it| (*it).as_ref()).chain([trust.as_os_str()]))
}

fn ask_by_openssl(openssl: &Program, at: SocketAddr, name: &str, trust: &Path) -> Output {
    let at = at.to_string();
    let arguments = ["s_client", "-connect", &at, "-servername", name, "-verify_hostname", name];
    let rest = ["-verify_return_error", "-quiet", "-no_ign_eof", "-CAfile"];
    let arguments = arguments.iter().chain(&rest).map(|it| (*it).as_ref()).chain([trust.as_os_str()]);
    openssl.run_with_input(arguments, b"")
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn clients_and_servers() {
    let (Some(openssl), Some(node), Some(curl)) =
        (Program::find("openssl"), Program::find("node"), Program::find("curl"))
    else {
        return;
    };
    let cluster = Cluster::new();
    let place = cluster.directory.path();
    let _of_openssl = openssl_server(&openssl, &self_signed("openssl.test", place), "10.244.0.2:8443");
    let _of_node = node_server(&node, &self_signed("node.test", place), ("10.244.0.3", 8443));
    let _of_rustls = rustls_server("rustls.test", place, ("10.244.0.4", 8443));
    let pods = [("openssl", "10.244.0.2:8443"), ("node", "10.244.0.3:8443"), ("rustls", "10.244.0.4:8443")];
    for (server, address) in pods {
        cluster.api.put(objects::service(server));
        cluster.api.put(objects::slice(server, &[Endpoint::ready(address.parse().unwrap())]));
        cluster.route(server, &format!("{server}.test"), server);
    }
    let lb = cluster.start();
    cluster.wait_for_gateway("edge", "Programmed=True/Programmed");
    let address = cluster.address("edge", 443);
    for (server, answer) in [("openssl", "s_server"), ("node", "hello from Node.js"), ("rustls", "hello from rustls")] {
        let (name, trust) = (format!("{server}.test"), place.join(format!("{server}.test.pem")));
        let said = ask_by_curl(&curl, address, &name, &trust);
        assert!(said.success && said.stdout.contains(answer), "{name}: {said:?}");
        let said = ask_by_openssl(&openssl, address, &name, &trust);
        assert!(said.success && said.stderr.contains("verify return:1"), "{name}: {said:?}");
    }

    // No route has the name: nothing is answered, and the connection is closed.
    wait_until(address, "other.test", Seen::Closed);
    let trust = place.join("node.test.pem");
    let said = ask_by_curl(&curl, address, "other.test", &trust);
    assert!(!said.success && said.stderr.contains("(35)"), "{said:?}");
    let said = ask_by_openssl(&openssl, address, "other.test", &trust);
    assert!(!said.success && said.stderr.contains("unexpected eof"), "{said:?}");

    // A route has a name that its server does not know: the client sees the certificate of that server.
    cluster.route("node", "other.test", "node");
    cluster.wait_for_route("node", "Accepted=True/Accepted");
    let said = poll(|| {
        let said = ask_by_curl(&curl, address, "other.test", &trust);
        if said.stderr.contains("(60)") { Ok(()) } else { Err(said) }
    });
    said.unwrap_or_else(|said| panic!("{said:?}"));
    lb.stop();
}
