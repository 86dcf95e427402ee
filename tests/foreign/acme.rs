//! Backends get their certificates through a snigate, by the challenges of ACME, from the server that Let's Encrypt
//! tests clients with.
//!
//! Source: RFC 8555 §8.3 (HTTP-01), RFC 8737 (TLS-ALPN-01).

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::json;

use crate::harness::nameserver::Nameserver;
use crate::harness::{Running, poll};
use crate::program::{Program, Started};
use crate::site::{Site, self_signed};

/// An ACME server that validates at the ports of a snigate.
struct Pebble {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    _nameserver: Nameserver,
}

impl Pebble {
    fn start(pebble: &Program, lb: &Running) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed("127.0.0.1", directory.path());
        let config = json!({ "pebble": {
            "listenAddress": "127.0.0.1:0", "managementListenAddress": "", "certificate": certificate, "privateKey": key,
            "tlsPort": lb.addresses()[0].port(), "httpPort": lb.addresses()[1].port(),
        } });
        let file = directory.path().join("pebble.json");
        fs::write(&file, config.to_string()).unwrap();
        let nameserver = Nameserver::start();
        nameserver.addresses("shop.test", 60, &["127.0.0.1"]);
        let mut command = pebble.command();
        command.arg("-config").arg(&file).arg("-dnsserver").arg(nameserver.address.to_string());
        command.env("PEBBLE_VA_NOSLEEP", "1").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Listening on")), "the server ended");
        // It must not fill its pipe.
        std::thread::spawn(move || lines.count());
        let port = poll(|| listening_port(child.id()).ok_or(())).expect("it listens");
        Self { child, directory, port, _nameserver: nameserver }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("127.0.0.1.pem")
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port of a process's one listening socket of IPv4: the server itself only says that it was to choose (proc(5)).
fn listening_port(pid: u32) -> Option<u16> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets: Vec<_> = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_its =
            targets.iter().any(|target| *target == Path::new(&format!("socket:[{}]", fields.get(9).unwrap_or(&""))));
        let port = fields.get(1)?.rsplit(':').next()?;
        (is_its && fields[3] == "0A").then(|| u16::from_str_radix(port, 16).ok()).flatten()
    })
}

/// An address that no other test uses, so that a client of ACME can have any port there.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// `shop.test` is at `backend`, where a client of ACME will listen.
fn lb(backend: SocketAddr, http_port: u16) -> Running {
    Running::start(&format!(
        "listeners:\n  - {{ name: https, bind: \"127.0.0.1:0\" }}\n  - {{ name: web, bind: \"127.0.0.1:0\", protocol: http }}\n\
         routes: [{{ sni: shop.test, pool: shop }}]\n\
         pools: {{ shop: {{ backends: [\"{backend}\"], http_port: {http_port} }} }}\nadmin: {{ bind: \"127.0.0.1:0\" }}\n"
    ))
}

const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;

#[test]
fn certbot_gets_a_certificate_by_http_01() {
    let (Some(pebble), Some(certbot)) = (Program::find("pebble"), Program::find("certbot")) else { return };
    let address = own_address();
    let lb = lb((address, HTTPS).into(), HTTP);
    let pebble = Pebble::start(&pebble, &lb);
    let directory = tempfile::tempdir().unwrap();
    let (path, port, address) = (directory.path().to_str().unwrap(), HTTP.to_string(), address.to_string());
    let mut command = certbot.command();
    command.args([
        "certonly",
        "--standalone",
        "-n",
        "--agree-tos",
        "--register-unsafely-without-email",
        "-d",
        "shop.test",
    ]);
    command.args(["--http-01-port", &port, "--http-01-address", &address, "--server", &pebble.url()]);
    command.args(["--config-dir", path, "--work-dir", path, "--logs-dir", path]);
    let output = Started::new(command.env("REQUESTS_CA_BUNDLE", pebble.certificate()), b"").end();
    assert!(output.success, "{output:?}");
    assert!(directory.path().join("live/shop.test/fullchain.pem").is_file(), "{output:?}");
    let line = lb.wait_for_line(|line| line["host"] == "shop.test");
    assert_eq!(
        (&line["listener"], &line["pool"], &line["method"]),
        (&"web".into(), &"shop".into(), &"GET".into()),
        "{line}"
    );
    lb.stop();
}

#[test]
fn lego_gets_a_certificate_by_http_01_and_by_tls_alpn_01() {
    let (Some(pebble), Some(lego)) = (Program::find("pebble"), Program::find("lego")) else { return };
    for (kind, listener) in [("http", "web"), ("tls", "https")] {
        let address = own_address();
        let lb = lb((address, HTTPS).into(), HTTP);
        let pebble = Pebble::start(&pebble, &lb);
        let directory = tempfile::tempdir().unwrap();
        let mut command = lego.command();
        command.args(["--accept-tos", "--email", "a@shop.test", "--domains", "shop.test", "--server", &pebble.url()]);
        command.args([
            format!("--{kind}"),
            format!("--{kind}.port"),
            format!("{address}:{}", if kind == "http" { HTTP } else { HTTPS }),
        ]);
        command.arg("--path").arg(directory.path()).arg("run").env("LEGO_CA_CERTIFICATES", pebble.certificate());
        let output = Started::new(&mut command, b"").end();
        assert!(output.success, "{kind}: {output:?}");
        assert!(directory.path().join("certificates/shop.test.crt").is_file(), "{kind}: {output:?}");
        let line = lb.wait_for_line(|line| line["listener"] == listener && line["pool"] == "shop");
        assert!(kind == "http" || line["offers"].to_string().contains("acme_tls"), "{line}");
        lb.stop();
    }
}

#[test]
fn curl_that_asks_for_http_arrives_over_https() {
    let (Some(node), Some(curl)) = (Program::find("node"), Program::find("curl")) else { return };
    let site = Site::start(&node);
    let config =
        site.lb().config().replacen("routes:", "  - { name: web, bind: \"127.0.0.1:0\", protocol: http }\nroutes:", 1);
    let lb = Running::start(&config);
    let [https, web] = [0, 1].map(|number| lb.addresses()[number].port());
    let trust = site.certificate("one.test");
    let to = [format!("one.test:443:127.0.0.1:{https}"), format!("one.test:80:127.0.0.1:{web}")];
    let common = [
        "-q",
        "-sS",
        "-L",
        "--noproxy",
        "*",
        "--cacert",
        trust.to_str().unwrap(),
        "--connect-to",
        &to[0],
        "--connect-to",
        &to[1],
    ];
    let asked = curl.run(common.iter().chain(&["http://one.test/", "http://one.test/"]));
    assert!(asked.success && asked.stdout.contains("one"), "{asked:?}");
    lb.wait_for_metric("connections_closed_total", &[("reason", "redirected")], 2.0);
    lb.stop();
}
