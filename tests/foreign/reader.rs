//! HAProxy and nginx as servers that read a PROXY header and tell what it said.
//!
//! In:  a program, whether it speaks TLS.
//! Out: [`Reader`], on a loopback port; each answers any request with one line of JSON.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::program::Program;
use crate::site::self_signed;

/// A server that is running; ended when dropped.
pub struct Reader {
    child: Child,
    directory: TempDir,
    pub address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// With a certificate for this name.
    Tls(&'static str),
    Plain,
}

impl Reader {
    /// HAProxy knows the server name and the connection's id, and refuses a wrong checksum.
    pub fn haproxy(over: Over) -> Option<Self> {
        let program = Program::find("haproxy")?;
        Some(Self::start(|directory, _| {
            let tls = match over {
                Over::Tls(name) => {
                    let (certificate, key) = self_signed(name, directory);
                    let both = directory.join("both.pem");
                    fs::write(&both, [fs::read(certificate).unwrap(), fs::read(key).unwrap()].concat()).unwrap();
                    format!("ssl crt {}", both.display())
                }
                Over::Plain => String::new(),
            };
            let reported = r#"{"server":"haproxy","client":"%[src]:%[src_port]","local":"%[dst]:%[dst_port]","authority":"%[fc_pp_authority]","unique_id":"%[fc_pp_unique_id]"}"#;
            let config = format!(
                "global\n nbthread 1\n maxconn 100\n\
                 defaults\n mode http\n timeout client 20s\n timeout server 20s\n timeout connect 20s\n\
                 frontend tell\n bind fd@0 accept-proxy {tls}\n \
                 http-request return status 200 content-type application/json lf-string '{reported}'\n"
            );
            haproxy(&program, directory, &config)
        }))
    }

    /// HAProxy as a proxy in front: it writes a header of version 2 with every value that it can.
    pub fn haproxy_in_front_of(backend: SocketAddr) -> Option<Self> {
        let program = Program::find("haproxy")?;
        Some(Self::start(|directory, _| {
            let config = format!(
                "global\n nbthread 1\n maxconn 100\n\
                 defaults\n mode tcp\n timeout client 20s\n timeout server 20s\n timeout connect 20s\n\
                 frontend in\n bind fd@0\n unique-id-format of-the-one-in-front\n default_backend out\n\
                 backend out\n server one {backend} send-proxy-v2 proxy-v2-options unique-id,crc32c\n"
            );
            haproxy(&program, directory, &config)
        }))
    }

    /// nginx knows the addresses; what else is in the header it walks over.
    pub fn nginx(name: &str) -> Option<Self> {
        let program = Program::find("nginx")?;
        Some(Self::start(|directory, address| {
            let (certificate, key) = self_signed(name, directory);
            let reported = r#"{"server":"nginx","client":"$proxy_protocol_addr:$proxy_protocol_port","local":"$proxy_protocol_server_addr:$proxy_protocol_server_port"}"#;
            let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|what| format!("{what}_temp_path {};\n", directory.join(what).display()))
                .concat();
            let config = format!(
                "daemon off;\nworker_processes 1;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\n{places}access_log off;\n\
                 server {{\nlisten {address} ssl proxy_protocol;\nssl_certificate {};\nssl_certificate_key {};\n\
                 location / {{ return 200 '{reported}'; }}\n}}\n}}\n",
                directory.join("pid").display(),
                certificate.display(),
                key.display(),
            );
            let mut command = program.command();
            // The socket that it inherits, by nginx's own way of an upgrade.
            command
                .env("NGINX", "0;")
                .args(["-e", "stderr", "-p"])
                .arg(directory)
                .arg("-c")
                .arg(write(directory, &config));
            command
        }))
    }

    /// The program gets a socket that listens already as its stdin, so that nobody waits for it and no port is guessed.
    fn start(command: impl FnOnce(&Path, SocketAddr) -> Command) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let said = File::create(directory.path().join("said")).unwrap();
        let mut command = command(directory.path(), address);
        command.stdin(OwnedFd::from(listener)).stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().expect("an installed program starts");
        Self { child, directory, address }
    }

    /// The file of the certificate for `name`, which it was started with.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pem"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Not SIGKILL: nginx has a child, which would live on.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- it said\n{}", fs::read_to_string(self.directory.path().join("said")).unwrap_or_default());
        }
    }
}

fn haproxy(program: &Program, directory: &Path, config: &str) -> Command {
    let mut command = program.command();
    command.arg("-db").arg("-f").arg(write(directory, config));
    command
}

fn write(directory: &Path, config: &str) -> PathBuf {
    let file = directory.join("config");
    fs::write(&file, config).unwrap();
    file
}
