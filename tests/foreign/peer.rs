//! Other proxies with a configuration of their own, and backends that say who they are.
//!
//! In:  the files of `tests/data/import`, in which `@NAME@` stands for the port of the backend NAME, and `@PORT@` for the
//!      proxy's own.
//! Out: [`Peer`], a directory with the files and the program that runs with them; whom a client reaches through it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::backend::Backend;
use crate::harness::bytes::{MOST_IN_RECORD, alpn, groups, hello, message, records, versions};
use crate::harness::{DEADLINE, poll};

/// Backends by name, and files that name their ports.
pub struct Site {
    pub directory: TempDir,
    backends: BTreeMap<String, Backend>,
    port: u16,
    /// Holds the port until the program takes it.
    listener: Option<TcpListener>,
}

impl Site {
    /// Copies files of `tests/data/import`, and starts a backend for each that they name.
    pub fn of(files: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let mut site = Self { directory, backends: BTreeMap::new(), port, listener: Some(listener) };
        for file in files {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(file);
            let text = fs::read_to_string(from).unwrap();
            fs::write(site.path(file), site.filled_in(&text)).unwrap();
        }
        site
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The program gets a socket that listens already as its stdin.
    pub fn start(&mut self, command: &mut Command) -> Peer {
        let listener = self.listener.take().expect("one program for a site");
        self.run(command.stdin(OwnedFd::from(listener)))
    }

    /// The program binds the port itself, which was free a moment ago.
    pub fn start_and_bind(&mut self, command: &mut Command) -> Peer {
        drop(self.listener.take());
        let peer = self.run(command);
        let connects = poll(|| TcpStream::connect(self.address()).map(drop));
        assert!(connects.is_ok(), "{connects:?}: {}", peer.said());
        peer
    }

    fn run(&self, command: &mut Command) -> Peer {
        let said = File::create(self.path("said")).unwrap();
        command.current_dir(self.directory.path()).stdout(said.try_clone().unwrap()).stderr(said);
        Peer { child: command.spawn().expect("an installed program starts"), said: self.path("said") }
    }

    /// `text` with ports in place of names between `@`.
    fn filled_in(&mut self, text: &str) -> String {
        let mut parts = text.split('@');
        let mut out = parts.next().unwrap_or_default().to_owned();
        while let (Some(name), Some(rest)) = (parts.next(), parts.next()) {
            let port = if name == "PORT" { self.port } else { self.backend(name).port() };
            out.push_str(&port.to_string());
            out.push_str(rest);
        }
        out
    }

    fn backend(&mut self, name: &str) -> SocketAddr {
        let start = || {
            let answer = named_answer(name);
            Backend::that(move |mut stream| {
                if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                    let _ = stream.write_all(&answer);
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = std::io::copy(&mut stream, &mut std::io::sink());
                }
            })
        };
        self.backends.entry(name.to_owned()).or_insert_with(start).address
    }
}

/// A program that is running; ended when dropped.
pub struct Peer {
    child: Child,
    said: PathBuf,
}

impl Peer {
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Not SIGKILL: some have children, which would live on.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the program said\n{}", self.said());
        }
    }
}

/// What a client sends first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    Hello(String),
    WithoutName,
    NotTls,
}

impl First {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Hello(name) => hello(name),
            Self::WithoutName => records(&message(&[alpn(&["h2"]), groups(), versions()].concat()), MOST_IN_RECORD),
            Self::NotTls => b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        }
    }
}

/// The name of the backend that answers a client; `None`: it is refused.
pub fn reached(proxy: SocketAddr, first: &First) -> Option<String> {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&first.bytes()).unwrap();
    let mut answer = Vec::new();
    // A refusal may be a reset. A proxy that decrypts waits for more after its own ServerHello.
    let _ = stream.take(RANDOM as u64 + 32).read_to_end(&mut answer);
    let random = answer.get(RANDOM..RANDOM + 32).filter(|_| answer.starts_with(&[0x16, 3, 3]))?;
    let name = random.split(|&byte| byte == 0).next()?;
    // Anything else is the ServerHello of a proxy that decrypts.
    String::from_utf8(name.to_vec()).ok()
}

/// A ServerHello (RFC 8446 §4.1.3) with the name in place of random bytes.
fn named_answer(name: &str) -> Vec<u8> {
    let mut answer = vec![0x16, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
    let mut random = name.as_bytes().to_vec();
    random.resize(32, 0);
    answer.extend(random);
    answer.extend([0, 0x13, 1, 0]);
    answer
}

/// Where a ServerHello has its random bytes.
const RANDOM: usize = 11;
