//! Three Node.js `https` servers on ports of their own, each with its own certificate.
//!
//! In:  nothing but Node.js.
//! Out: [`Site`]: four names on three servers (`three` picks between two certificates by SNICallback).

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::Lb;
use crate::program::Program;

pub struct Site {
    node: Child,
    ports: HashMap<String, u16>,
    directory: TempDir,
}

/// The names and the server that each leads to.
pub const NAMES: [(&str, &str); 4] =
    [("one.test", "one"), ("two.test", "two"), ("three.test", "three"), ("drei.test", "three")];

impl Site {
    /// Starts the servers and waits until they listen.
    pub fn start(node: &Program) -> Self {
        Self::of(node, &NAMES)
    }

    /// One name on two servers, `east` and `west`: they share the certificate, and not the key of their tickets, which
    /// Node.js makes up at its start.
    pub fn twins(node: &Program, name: &'static str) -> Self {
        Self::of(node, &[(name, "east"), (name, "west")])
    }

    fn of(node: &Program, names: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut files = HashMap::new();
        let mut servers = HashMap::<_, Vec<_>>::new();
        for &(name, server) in names {
            let (certificate, key) = files.entry(name).or_insert_with(|| self_signed(name, directory.path()));
            servers.entry(server).or_default().push(json!({ "name": name, "certificate": certificate, "key": key }));
        }
        let mut node = node
            .command()
            .arg(script("servers.js"))
            .arg(json!(servers).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports = serde_json::from_str(&line).expect("the servers say their ports");
        Self { node, ports, directory }
    }

    /// Every name routed to its server.
    pub fn lb(&self) -> Lb {
        NAMES.into_iter().fold(Lb::new(), |lb, (name, server)| lb.route(name, self.address(server)))
    }

    pub fn address(&self, server: &str) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[server]).into()
    }

    /// The one certificate a client of `name` is to trust.
    pub fn certificate(&self, name: &str) -> PathBuf {
        certificate_file(name, self.directory.path())
    }

    /// A place for a test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

/// The path of a script that lies beside these tests.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/scripts").join(name)
}

/// Makes a certificate of its own for `name`: its file and its key's.
pub fn self_signed(name: &str, directory: &Path) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let (certificate_file, key_file) = (certificate_file(name, directory), directory.join(format!("{name}.key")));
    fs::write(&certificate_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    (certificate_file, key_file)
}

fn certificate_file(name: &str, directory: &Path) -> PathBuf {
    directory.join(format!("{name}.pem"))
}
