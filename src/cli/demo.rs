//! `snigate demo`: a complete setup to try with curl right after the first build.
//!
//! In:  nothing; the routing file is the project's own `config.yaml`.
//! Out: two TLS backends with new certificates, the real proxy in front of them, and the commands to try.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::demo_backends::{Backend, spawn_backends};
use super::run::{serve, start_log};
use super::{Exit, run};
use crate::config::Config;
use crate::process::server::Server;
use crate::process::upgrade::Inheritance;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Options {
    /// Listens here instead of on 127.0.0.1:8443
    #[arg(long, value_name = "IP:PORT")]
    bind: Option<SocketAddr>,
    /// Uses free ports for the backends and the admin address, and for the listener unless --bind is given
    #[arg(long)]
    any_port: bool,
}

/// Runs the demo until a signal ends it.
pub(super) fn demo(options: &Options) -> ExitCode {
    match prepare(options) {
        Ok((directory, backends, runtime)) => {
            let file = directory.0.join("config.yaml");
            let exit = match Config::load(&file) {
                Ok(loaded) => match start_log(&loaded.config, &loaded.warnings) {
                    Ok(log) => serve(loaded, file, Inheritance::default(), log, |server| {
                        // The reader may have closed it; the demo keeps running.
                        let _ = io::stdout().lock().write_all(invitation(server, &backends, &directory.0).as_bytes());
                    }),
                    Err(error) => {
                        run::tell_failed(&error);
                        Exit::Bind.into()
                    }
                },
                Err(problems) => {
                    run::tell(&problems);
                    Exit::Config.into()
                }
            };
            drop(runtime);
            if exit == Exit::Bind.into() {
                advise(options);
            }
            exit
        }
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("snigate: the demo cannot start: {error}{cause}");
            advise(options);
            Exit::Bind.into()
        }
    }
}

/// What to do if an address cannot be bound.
fn advise(options: &Options) {
    match (options.bind, options.any_port) {
        (None, false) => eprintln!("snigate: `snigate demo --any-port` uses free ports"),
        (Some(_), false) => {
            eprintln!("snigate: choose another port for `--bind`; `--any-port` uses free ports for the rest")
        }
        (Some(_), true) => eprintln!("snigate: choose another port, or leave out `--bind`"),
        (None, true) => {}
    }
}

/// Starts the backends on a separate thread, and writes the routing file for them.
fn prepare(
    options: &Options,
) -> Result<(Directory, Vec<Backend>, tokio::runtime::Runtime), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let port = |port| if options.any_port { 0 } else { port };
    let backends = runtime.block_on(spawn_backends(&[
        ("one", port(ONE.port()), &["one.localhost"]),
        ("two", port(TWO.port()), &["two.localhost", "*.two.localhost"]),
    ]))?;
    let directory = Directory::make()?;
    let mut text = ROUTING_FILE.to_owned();
    for (wanted, backend) in [ONE, TWO].iter().zip(&backends) {
        fs::write(directory.0.join(format!("{}.pem", backend.name)), &backend.certificate_pem)?;
        text = text.replace(&wanted.to_string(), &backend.address.to_string());
    }
    let bind = options.bind.unwrap_or(SocketAddr::new(HTTPS.ip(), port(HTTPS.port())));
    // In quotes, since YAML takes the bracket of an IPv6 address for a list.
    text = text.replace(&HTTPS.to_string(), &format!("\"{bind}\""));
    if options.any_port {
        text = text.replace(&ADMIN.to_string(), &SocketAddr::new(ADMIN.ip(), 0).to_string());
    }
    text.push_str(
        "\nlog: { format: pretty }            # for people; `auto` is that on a terminal, and JSON lines elsewhere\n",
    );
    fs::write(directory.0.join("config.yaml"), text)?;
    Ok((directory, backends, runtime))
}

fn invitation(server: &Server, backends: &[Backend], directory: &Path) -> String {
    let address = server.listening.first().map_or(HTTPS, |(_, address)| *address);
    let admin = server.admin.first().map_or_else(|| ADMIN.to_string(), ToString::to_string);
    let port = address.port();
    let directory = directory.display();
    let mut text =
        format!("\nTwo HTTPS backends run behind snigate on {address}, each with a certificate of its own. Try:\n\n");
    for (name, certificate) in [("one", "one"), ("two", "two"), ("a.two", "two")] {
        text += &format!("  curl --cacert {directory}/{certificate}.pem https://{name}.localhost:{port}/\n");
    }
    text += &format!("  curl -k https://nobody.localhost:{port}/     # refused: no route matches the name\n\n");
    text += &format!("Routing file  {directory}/config.yaml  (save a change while this runs)\n");
    text += &format!("Metrics       http://{admin}/metrics\nStatus        http://{admin}/\n");
    text += &format!("Live          snigate top --admin {admin}\n");
    for backend in backends {
        text += &format!("Backend {}   {}\n", backend.name, backend.address);
    }
    text += "Ctrl-C ends the demo. What follows is the log.\n\n";
    text
}

/// A new directory, removed when the demo ends.
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("snigate-demo-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The project's own example; the addresses in it are replaced.
const ROUTING_FILE: &str = include_str!("../../config.yaml");
const HTTPS: SocketAddr = loopback(8443);
const ADMIN: SocketAddr = loopback(9901);
const ONE: SocketAddr = loopback(9443);
const TWO: SocketAddr = loopback(9444);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_holds_every_address_that_the_demo_moves() {
        for address in [HTTPS, ADMIN, ONE, TWO] {
            assert!(ROUTING_FILE.contains(&address.to_string()), "{address}");
        }
    }
}
