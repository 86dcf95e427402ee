//! psql and PostgreSQL servers, with snigate between them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::doctor::{doctor_of, faults};
use crate::harness::{DEADLINE, Lb, Running};
use crate::program::{Output, Program};
use crate::site::{script, self_signed};

/// A server with a certificate for the name that is also its `cluster_name`; ended when dropped.
struct Postgres {
    server: Child,
    directory: TempDir,
    address: SocketAddr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ssl {
    On,
    Off,
}

impl Postgres {
    fn start(programs: &Programs, name: &str, ssl: Ssl) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(name, directory.path());
        give_away(directory.path());
        let data = directory.path().join("data");
        let made = as_postgres(&programs.initdb)
            .args(["--auth=trust", "--username=tester", "--no-sync", "--locale=C", "--encoding=UTF8", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        // It cannot be given a socket, so it may lose a race for its port.
        for _ in 0..9 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
            let mut command = as_postgres(&programs.postgres);
            command.arg("-D").arg(&data).arg("-p").arg(free.port().to_string());
            let (certificate, key) = (certificate.display(), key.display());
            for setting in [
                "listen_addresses=127.0.0.1".to_owned(),
                "unix_socket_directories=".to_owned(),
                "fsync=off".to_owned(),
                "shared_buffers=1MB".to_owned(),
                "max_connections=20".to_owned(),
                format!("cluster_name={name}"),
                format!("ssl={}", if ssl == Ssl::On { "on" } else { "off" }),
                format!("ssl_cert_file={certificate}"),
                format!("ssl_key_file={key}"),
            ] {
                command.arg("-c").arg(setting);
            }
            if let Some(server) = ready(&mut command) {
                return Self { server, directory, address: free };
            }
        }
        panic!("no port was free long enough");
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pem"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.server), Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// Starts the server and waits until it serves; `None` if it ended before.
fn ready(command: &mut Command) -> Option<Child> {
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(server.stderr.take().unwrap());
    let (to, lines) = channel();
    // To its end, so that the server never blocks on its log.
    thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(to.send(line))));
    let mut said = Vec::new();
    while let Ok(line) = lines.recv_timeout(DEADLINE) {
        if line.contains("ready to accept connections") {
            return Some(server);
        }
        said.push(line);
    }
    let _ = server.kill();
    let _ = server.wait();
    assert!(said.iter().any(|line| line.contains("in use")), "{said:#?}");
    None
}

/// The server refuses to run as root, and wants its files for itself.
fn as_postgres(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"]).arg(program);
    command
}

fn give_away(directory: &Path) {
    let key_files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    for file in key_files.filter(|file| file.extension().is_some_and(|extension| extension == "key")) {
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    if geteuid().is_root() {
        assert!(Command::new("chown").args(["-R", "postgres:postgres"]).arg(directory).status().unwrap().success());
    }
}

struct Programs {
    psql: Program,
    initdb: PathBuf,
    postgres: PathBuf,
}

impl Programs {
    fn find() -> Option<Self> {
        let psql = Program::find("psql")?;
        // Debian keeps those of each version in a directory of its own.
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
        let newest =
            versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").is_file()).max();
        match newest {
            Some(bin) => Some(Self { psql, initdb: bin.join("initdb"), postgres: bin.join("postgres") }),
            None => Program::find("initdb").and_then(|_| Program::find("postgres")).map(|_| Self {
                psql,
                initdb: "initdb".into(),
                postgres: "postgres".into(),
            }),
        }
    }

    /// Asks the server that `name` leads to for its own name, and whether the connection is encrypted.
    fn ask(&self, lb: &Running, name: &str, keys: &str) -> Output {
        let (port, timeout) = (lb.port(), DEADLINE.as_secs());
        let to = format!(
            "host={name} hostaddr=127.0.0.1 port={port} user=tester dbname=postgres connect_timeout={timeout} {keys}"
        );
        let query = "SELECT current_setting('cluster_name'), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        self.psql.run(["--no-psqlrc", "--no-align", "--tuples-only", "--command", query, &to])
    }
}

fn leading(routes: &[(&str, &Postgres)]) -> Lb {
    let routes = routes.iter().fold(Lb::new(), |lb, (name, server)| lb.route(name, server.address));
    routes.on_listener("starttls: postgres")
}

#[test]
fn psql_reaches_the_server_of_the_name_in_every_mode_that_has_tls() {
    let Some(programs) = Programs::find() else { return };
    let [one, two] = ["one.test", "two.test"].map(|name| Postgres::start(&programs, name, Ssl::On));
    let lb = leading(&[("one.test", &one), ("two.test", &two)]).start();
    for (name, server) in [("one.test", &one), ("two.test", &two)] {
        let root = server.certificate(name);
        let verify = format!("sslmode=verify-full sslrootcert={}", root.display());
        // With `allow` it begins without TLS, is refused, and comes again.
        for keys in ["", "sslmode=prefer", "sslmode=require", "sslmode=allow", &verify] {
            let answer = programs.ask(&lb, name, keys);
            assert_eq!(answer.stdout, format!("{name}|t\n"), "{keys}: {answer:?}");
        }
    }
    let other = format!("sslmode=verify-full sslrootcert={}", one.certificate("one.test").display());
    let answer = programs.ask(&lb, "two.test", &other);
    assert!(!answer.success && answer.stderr.contains("certificate verify failed"), "{answer:?}");
    if let Some(python) = Program::find("python3") {
        let direct = script("postgres_direct.py");
        for name in ["one.test", "two.test"] {
            let answer = python.run([direct.to_str().unwrap(), &lb.port().to_string(), name]);
            assert_eq!(answer.stdout, format!("{name}\n"), "{answer:?}");
        }
    }
    lb.wait_for_metric("connections_active", &[], 0.0);
    lb.stop();
}

#[test]
fn psql_shows_why_it_was_refused() {
    let Some(programs) = Programs::find() else { return };
    let one = Postgres::start(&programs, "one.test", Ssl::On);
    let lb = leading(&[("one.test", &one)]).start();
    for (name, keys, says) in [
        ("one.test", "sslmode=disable", "FATAL:  this port requires TLS and a server name (SNI)"),
        ("other.test", "sslmode=require", "unrecognized name"),
        ("one.test", "sslmode=require sslsni=0", "SSL error"),
    ] {
        let answer = programs.ask(&lb, name, keys);
        assert!(!answer.success && answer.stderr.contains(says), "{keys}: {answer:?}");
    }
    for (reason, count) in [("not_tls", 1.0), ("no_route", 1.0), ("no_sni", 1.0)] {
        lb.wait_for_metric("connections_closed_total", &[("reason", reason)], count);
    }
    lb.stop();
}

#[test]
fn a_server_without_tls_is_skipped_by_connections_and_found_by_checks_and_the_doctor() {
    let Some(programs) = Programs::find() else { return };
    let (on, off) = (Postgres::start(&programs, "one.test", Ssl::On), Postgres::start(&programs, "one.test", Ssl::Off));
    let pool = Lb::new().route_with("one.test", [off.address, on.address], "balance: first");
    let lb = pool.on_listener("starttls: postgres").start();
    assert_eq!(programs.ask(&lb, "one.test", "sslmode=require").stdout, "one.test|t\n");
    let backend = off.address.to_string();
    lb.wait_for_metric("backend_connects_total", &[("backend", &backend), ("result", "starttls")], 1.0);
    lb.stop();

    let check = format!(
        "health_check: {{ interval: 10s, timeout: 9s, rise: 1, fall: 1, verify: true, ca_file: {} }}",
        on.certificate("one.test").display()
    );
    let lb = Lb::new().route_with("one.test", [off.address, on.address], &check).on_listener("starttls: postgres");
    let lb = lb.start();
    for (server, result, up) in [(&on, "ok", 1.0), (&off, "tls", 0.0)] {
        let backend = server.address.to_string();
        lb.wait_for_metric("health_checks_total", &[("backend", &backend), ("result", result)], 1.0);
        lb.wait_for_metric("backend_up", &[("backend", &backend)], up);
    }
    lb.stop();

    for (server, found) in [(&on, &[][..]), (&off, &["not_tls"])] {
        let (_, reported) = doctor_of(&leading(&[("one.test", server)]).config(), &[]);
        assert_eq!(faults(&reported), found, "{reported:#}");
    }
}
