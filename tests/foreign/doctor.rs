//! `snigate doctor` before Node.js and OpenSSL servers that are set up wrongly, and once they are mended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::Program;
use crate::site::Site;

/// Runs the doctor over routes `(name, backend)`, each with a pool of its own.
fn doctor(routes: &[(&str, SocketAddr)], arguments: &[&str]) -> (i32, Value) {
    let mut text = "listeners: [{ name: https, bind: \"127.0.0.1:0\" }]\nroutes:\n".to_owned();
    for (nth, (name, _)) in routes.iter().enumerate() {
        text += &format!("  - {{ sni: {name}, pool: p{nth} }}\n");
    }
    text += "pools:\n";
    for (nth, (_, backend)) in routes.iter().enumerate() {
        text += &format!("  p{nth}: {{ backends: [\"{backend}\"] }}\n");
    }
    doctor_of(&text, arguments)
}

/// Runs the doctor over a whole file.
pub fn doctor_of(text: &str, arguments: &[&str]) -> (i32, Value) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let output = command.args(["doctor", "--json", "--config"]).arg(&config).args(arguments).output().unwrap();
    let reported = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), reported.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// The kinds of the errors and warnings.
pub fn faults(reported: &Value) -> Vec<&str> {
    let findings = reported["findings"].as_array().unwrap().iter();
    findings.filter(|one| one["severity"] != "info").map(|one| one["kind"].as_str().unwrap()).collect()
}

#[test]
fn node_js_with_the_wrong_and_the_right_routes() {
    let Some(node) = Program::find("node") else { return };
    let site = Site::start(&node);
    let (one, three) = (site.address("one"), site.address("three"));
    let (code, wrong) = doctor(&[("one.test", three), ("drei.test", three)], &[]);
    assert_eq!((code, faults(&wrong)), (7, vec!["name_not_covered"]), "{wrong:#}");
    assert!(wrong["findings"][0]["names"][0] == "one.test" && wrong["findings"][0]["pool"] == "p0", "{wrong:#}");
    let (code, right) = doctor(&[("one.test", one), ("three.test", three), ("drei.test", three)], &[]);
    assert_eq!((code, faults(&right)), (0, vec![]), "{right:#}");
    let backend = &right["backends"][0];
    assert_eq!((&backend["tls"], &backend["alpn"]), (&serde_json::json!(["1.2", "1.3"]), &Value::from("http/1.1")));
    // Each certificate is trusted by those who were given it.
    let trust = site.certificate("one.test");
    let (code, trusted) = doctor(&[("one.test", one)], &["--ca", trust.to_str().unwrap()]);
    assert_eq!((code, faults(&trusted)), (0, vec![]), "{trusted:#}");
    let (code, distrusted) = doctor(&[("three.test", three)], &["--ca", trust.to_str().unwrap()]);
    assert_eq!((code, faults(&distrusted)), (7, vec!["self_signed"]), "{distrusted:#}");
}

/// `openssl s_server` with a certificate for a.test.
pub struct Server {
    openssl: Child,
    pub address: SocketAddr,
    _directory: TempDir,
}

impl Server {
    pub fn start(openssl: &Program, expires: i32, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(expires, 1, 1);
        let key = KeyPair::generate().unwrap();
        let (certificate_file, key_file) = (directory.path().join("a.pem"), directory.path().join("a.key"));
        fs::write(&certificate_file, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        let mut command = openssl.command();
        command
            .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-cert"])
            .arg(&certificate_file)
            .arg("-key")
            .arg(&key_file);
        command.args(arguments).args(second_certificate(arguments, &certificate_file, &key_file));
        let mut openssl = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(openssl.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ")?.parse().ok()).expect("it says its port");
        // What it says further is read away, or it would block on a full pipe.
        std::thread::spawn(move || lines.count());
        Self { openssl, address, _directory: directory }
    }
}

/// `-servername` needs a second certificate, for that name.
fn second_certificate(arguments: &[&str], certificate: &Path, key: &Path) -> Vec<String> {
    if !arguments.contains(&"-servername") {
        return Vec::new();
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    vec!["-cert2".to_owned(), text(certificate), "-key2".to_owned(), text(key)]
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.openssl.kill();
        let _ = self.openssl.wait();
    }
}

/// Every finding about a server with these arguments, by kind.
fn found(openssl: &Program, expires: i32, arguments: &[&str]) -> Vec<String> {
    let server = Server::start(openssl, expires, arguments);
    let (_, reported) = doctor(&[("a.test", server.address)], &[]);
    let findings = reported["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn openssl_with_one_thing_wrong_at_a_time() {
    let Some(openssl) = Program::find("openssl") else { return };
    // What is always so, if nothing is wrong.
    let usual = ["self_signed", "default_certificate"];
    assert_eq!(found(&openssl, 4000, &[]), usual);
    for (arguments, expires, kind) in [
        (&["-tls1_2"][..], 4000, "old_tls"),
        (&["-tls1_3"], 4000, "no_tls12"),
        (&["-Verify", "1"], 4000, "client_certificate"),
        (&["-alpn", "imap"], 4000, "alpn_refused"),
        (&[], 2002, "expired"),
    ] {
        let found = found(&openssl, expires, arguments);
        assert!(found.iter().any(|found| found == kind), "{kind}: {found:?}");
        assert!(found.iter().all(|found| found == kind || usual.contains(&found.as_str())), "{kind}: {found:?}");
    }
}

#[test]
fn openssl_that_refuses_other_names_and_then_is_given_the_name() {
    let Some(openssl) = Program::find("openssl") else { return };
    let server = Server::start(&openssl, 4000, &["-servername", "a.test", "-servername_fatal"]);
    let (code, refused) = doctor(&[("b.test", server.address)], &[]);
    assert_eq!((code, faults(&refused)), (7, vec!["name_refused"]), "{refused:#}");
    let (code, right) = doctor(&[("a.test", server.address)], &[]);
    assert_eq!((code, faults(&right)), (0, vec![]), "{right:#}");
    assert!(!right.to_string().contains("default_certificate"), "{right:#}");
}
