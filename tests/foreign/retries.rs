//! A server that wants another key share asks for a second hello, and gets it: nobody notices us in between.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use crate::client::{Question, Tls, get, s_client};
use crate::harness::Lb;
use crate::program::Program;
use crate::site::self_signed;

#[test]
fn a_hello_retry_of_openssl_is_answered() {
    let Some(openssl) = Program::find("openssl") else { return };
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = self_signed("a.test", directory.path());
    let server = || Server::start(&openssl, &certificate.display().to_string(), &key.display().to_string());
    let (one, other) = (server(), server());
    // With another one to try, the answer is awaited before the relay begins.
    for backends in [vec![one.address], vec![one.address, other.address]] {
        let lb = Lb::new().route("a.test", backends).start();
        let question = Question { to: lb.address(), name: "a.test", trust: &certificate, tls: Tls::V13 };
        // A key share for the first group only, which the server does not take.
        let reported = s_client(&openssl, question, &["-tls1_3", "-groups", "P-256:X25519"], &get("a.test"));
        assert!(reported.success && reported.stdout.contains("HTTP/1.0 200"), "{reported:?}");
        lb.wait_for_metric("backend_first_record_total", &[("kind", "hello_retry")], 1.0);
        assert_eq!(lb.wait_for_connection("a.test")["reason"], "ok");
        lb.stop();
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(openssl: &Program, certificate: &str, key: &str) -> Self {
        let arguments = ["s_server", "-accept", "127.0.0.1:0", "-www", "-groups", "X25519"];
        let mut command = openssl.command();
        command.args(arguments).args(["-cert", certificate, "-key", key]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        let address = lines.filter_map(|line| line.strip_prefix("ACCEPT ").and_then(|at| at.parse().ok())).next();
        Self { child, address: address.expect("the server says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
