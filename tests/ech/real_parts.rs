//! curl with BoringSSL through snigate to backends with OpenSSL 4.0; skipped if Python does not have them (`real_parts.py`).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

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

fn backends(names: &[&str]) -> Option<Backends> {
    let has_packages = "import curl_cffi, OpenSSL.SSL as s, cryptography; \
                        raise SystemExit(s.OpenSSL_version(0) < b'OpenSSL 4')";
    let found = python().args(["-c", has_packages]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("skipped: no Python with curl_cffi, pyOpenSSL and OpenSSL 4");
        return None;
    }
    let mut command = python();
    command.arg(SCRIPT).arg("backends").args(names).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().expect("Python starts");
    let printed = BufReader::new(process.stdout.take().expect("piped")).lines();
    let ports = printed.take(names.len()).map(|line| line.expect("a port").parse().expect("a number")).collect();
    Some(Backends { process, ports })
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
fn published(file: &str) -> String {
    snigate(&["ech", "keygen", "--public-name", "public.test", "--out", file]);
    let shown: serde_json::Value = serde_json::from_str(&snigate(&["ech", "show", file, "--json"])).expect("JSON");
    format!("ecl:{}", shown["ech"].as_str().expect("text"))
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
    for (result, count) in [("accepted", 2.0), ("not_for_us", 2.0), ("retry_accepted", 1.0), ("illegal", 0.0)] {
        assert_eq!(lb.metric("ech_hellos_total", &[("result", result)]), count, "{result}");
    }
    lb.stop();
}
