//! `snigate init NAME=ADDRESS…`: writes a routing file for the services given, without asking questions.
//!
//! In:  server names, and the backends that serve each.
//! Out: a routing file with comments, which `snigate check` accepts.

use std::path::Path;
use std::process::ExitCode;

use super::Exit;
use super::output_file::Output;
use super::printable::printable;
use crate::config::Config;
use crate::import::scalar;
use crate::server_name::Pattern;
use crate::settings::{BackendAddress, Word};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// Server names and their backends, each separated by commas: shop.example.com=10.0.0.11:443,10.0.0.12:443
    #[arg(required = true, value_name = "NAME=ADDRESS", value_parser = Service::read)]
    services: Vec<Service>,
    /// The address to listen on; repeatable
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:443")]
    listen: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Names with the same backends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    names: Vec<String>,
    backends: Vec<String>,
}

impl Service {
    fn read(text: &str) -> Result<Self, String> {
        let form = "write NAME=ADDRESS, such as shop.example.com=10.0.0.11:443";
        let (names, backends) = text.split_once('=').ok_or(form)?;
        let name = |text: &str| match text.trim() {
            text if text.contains(char::is_whitespace) => Err("separate names by commas, without spaces".to_owned()),
            text => text.parse::<Pattern>().map(|name| name.to_string()).map_err(|error| error.to_string()),
        };
        let names = names.split(',').map(name).collect::<Result<_, _>>()?;
        let backend = |text: &str| BackendAddress::read(text.trim()).map(|address| address.to_string());
        let backends = backends.split(',').map(backend).collect::<Result<_, _>>()?;
        Ok(Self { names, backends })
    }
}

pub(super) fn run(options: &Options) -> ExitCode {
    let text = routing_file(&options.services, &options.listen);
    if let Err(problems) = Config::parse(&text, Path::new("result")) {
        // The lines are those of a file that the caller has not seen.
        problems.iter().for_each(|problem| eprintln!("snigate: {}", printable(&problem.message)));
        return Exit::Usage.into();
    }
    match options.output.write(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snigate: {}", printable(&error));
            Exit::Config.into()
        }
    }
}

fn routing_file(services: &[Service], listen: &[String]) -> String {
    let list = |texts: &[String]| texts.iter().map(|text| scalar(text)).collect::<Vec<_>>().join(", ");
    let mut routes = String::new();
    let mut pools = String::new();
    let mut taken: Vec<String> = Vec::new();
    for Service { names, backends } in services {
        let pool = pool_name(&names[0], &taken);
        routes.push_str(&format!("  - sni: [{}]\n    pool: {}\n", list(names), scalar(&pool)));
        pools.push_str(&format!(
            "  {}:\n    backends: [{}]\n    health_check: {{ kind: {} }}\n",
            scalar(&pool),
            list(backends),
            // A handshake needs a name.
            if names.iter().any(|name| !name.contains('*')) { "tls" } else { "tcp" }
        ));
        taken.push(pool);
    }
    let listen = list(listen);
    format!("{HEAD}{LISTENERS}    bind: [{listen}]\n\n{ROUTES}{routes}\n{POOLS}{pools}\n{REST}")
}

/// The first label that is not a star, with a number if another pool has it.
fn pool_name(name: &str, taken: &[String]) -> String {
    let label = name.split('.').find(|label| !label.starts_with('*')).unwrap_or("default");
    let numbered = (2..).map(|number| format!("{label}-{number}"));
    let mut names = std::iter::once(label.to_owned()).chain(numbered);
    names.find(|name| !taken.contains(name)).expect("there are infinitely many")
}

const HEAD: &str = "\
# The routing file of snigate. `snigate check FILE` checks it, and `snigate run FILE` runs snigate with it. While snigate
# runs, a saved change takes effect at once. docs/reference.md lists every key with its default.

";
const LISTENERS: &str = "\
# Where clients connect. [::] accepts IPv4 as well.
listeners:
  - name: https
";
const ROUTES: &str = "\
# Which server names go to which pool. *.example.com matches exactly one more label, **.example.com one or more; the most specific
# pattern wins.
routes:
";
const POOLS: &str = "\
# The backends. Each keeps its own certificate: snigate does not decrypt. Each is checked every 5 s.
pools:
";
const REST: &str = "\
# Clients that ask for another name, or for none. To relay them to a pool, write { pool: NAME }.
unmatched: { refuse: alert }
no_sni: { refuse: alert }
";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(arguments: &[&str]) -> Result<String, String> {
        let services = arguments.iter().map(|text| Service::read(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(routing_file(&services, &["[::]:443".to_owned()]))
    }

    #[test]
    fn the_result_is_valid_and_each_service_has_a_pool() {
        let text = written(&[
            "shop.example.com=10.0.0.11:443",
            "*.shop.example.com,shop.example.org=a.test:443,[::1]:8443",
            "*=10.0.0.1:443",
        ]);
        let text = text.expect("good arguments");
        let loaded = Config::parse(&text, Path::new("result")).expect("it is valid");
        assert_eq!(loaded.warnings.iter().count(), 0, "{:?}", loaded.warnings);
        let pools: Vec<_> = loaded.config.pools.iter().map(|pool| pool.name.to_string()).collect();
        assert_eq!(pools.len(), 3, "{pools:?}");
        assert!(pools.contains(&"shop-2".to_owned()) && pools.contains(&"default".to_owned()), "{pools:?}");
    }

    #[test]
    fn a_wrong_argument_says_what_is_wrong() {
        for (argument, part) in [
            ("a.test", "NAME=ADDRESS"),
            ("=10.0.0.1:443", "empty"),
            ("a.test=", "address"),
            ("a.test=10.0.0.1", "port"),
            ("a b=10.0.0.1:443", "commas"),
        ] {
            let error = written(&[argument]).expect_err(argument);
            assert!(error.contains(part), "{argument}: {error}");
        }
    }
}
