//! Asks a server for `/` as each foreign client does it.
//!
//! In:  where to connect, the name to ask for, the one certificate to trust.
//! Out: what the client printed; it fails unless certificate and name hold.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::program::{Output, Program};
use crate::site::script;

/// A TLS client that is installed.
pub enum Client {
    Curl(Program),
    OpenSsl(Program),
    Node(Program),
    Python(Program),
    /// With the directory that holds the compiled class.
    Java(Program, TempDir),
}

/// What to ask.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub to: SocketAddr,
    pub name: &'a str,
    pub trust: &'a Path,
    pub tls: Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Whatever both sides agree on.
    Any,
    V12,
    V13,
}

impl Client {
    pub fn curl() -> Option<Self> {
        Program::find("curl").map(Self::Curl)
    }

    pub fn openssl() -> Option<Self> {
        Program::find("openssl").map(Self::OpenSsl)
    }

    pub fn node() -> Option<Self> {
        Program::find("node").map(Self::Node)
    }

    pub fn python() -> Option<Self> {
        Program::find("python3").map(Self::Python)
    }

    pub fn java() -> Option<Self> {
        let (javac, java) = (Program::find("javac")?, Program::find("java")?);
        let classes = tempfile::tempdir().unwrap();
        let compiled = javac.run(["-d".as_ref(), classes.path().as_os_str(), script("Ask.java").as_os_str()]);
        assert!(compiled.success, "{compiled:?}");
        Some(Self::Java(java, classes))
    }

    /// Asks for `/`, trusting nothing but `question.trust`.
    #[track_caller]
    pub fn ask(&self, question: Question) -> Output {
        let Question { to, name, trust, tls } = question;
        let trust = trust.to_str().unwrap();
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        match self {
            Self::Curl(curl) => {
                let (url, resolve) = (format!("https://{name}:{port}/"), format!("{name}:{port}:{ip}"));
                let version = match tls {
                    Tls::Any => [].as_slice(),
                    Tls::V12 => &["--tlsv1.2", "--tls-max", "1.2"],
                    Tls::V13 => &["--tlsv1.3"],
                };
                let common = ["-q", "-sS", "--noproxy", "*", "--cacert", trust, "--resolve", &resolve, &url];
                curl.run(common.iter().chain(version))
            }
            Self::OpenSsl(openssl) => {
                let version = match tls {
                    Tls::Any => [].as_slice(),
                    Tls::V12 => &["-tls1_2"],
                    Tls::V13 => &["-tls1_3"],
                };
                s_client(openssl, question, version, &get(name))
            }
            Self::Node(node) => {
                let version = match tls {
                    Tls::Any => "",
                    Tls::V12 => "TLSv1.2",
                    Tls::V13 => "TLSv1.3",
                };
                node.run([script("ask.js").to_str().unwrap(), &ip, &port, name, trust, version])
            }
            Self::Python(python) => python.run([script("ask.py").to_str().unwrap(), &ip, &port, name, trust]),
            Self::Java(java, classes) => {
                let classes = classes.path().to_str().unwrap();
                // One short run: the quick compiler only, no second thread pool on a small machine.
                java.run([
                    "-XX:TieredStopAtLevel=1",
                    "-XX:+UseSerialGC",
                    "-cp",
                    classes,
                    "Ask",
                    &ip,
                    &port,
                    name,
                    trust,
                ])
            }
        }
    }
}

/// `openssl s_client` with name and certificate verified, reading to the end of what the server says.
#[track_caller]
pub fn s_client(openssl: &Program, question: Question, more: &[&str], input: &str) -> Output {
    let (to, trust) = (question.to.to_string(), question.trust.to_str().unwrap());
    let name = question.name;
    let common = ["s_client", "-connect", &to, "-servername", name, "-verify_hostname", name, "-CAfile", trust];
    let verify = ["-verify_return_error", "-ign_eof"];
    openssl.run_with_input(common.iter().chain(&verify).chain(more), input.as_bytes())
}

/// A request for those clients that leave HTTP to us.
pub fn get(name: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")
}
