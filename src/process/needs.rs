//! Lists what the process needs of the machine, for the sandbox.
//!
//! In:  the configuration at the start.
//! Out: [`Needs`]. Directories rather than files: a file may be replaced by another, and others may join it.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::{Config, Settings, Sources};
use crate::process::upgrade;
use crate::sandbox::Needs;
use crate::settings::{AcmeChallenge, Address, BackendAddress, Pool, Sandbox};

/// What `config` needs, and reloads that stay within its directories.
pub(crate) fn of(config: &Config) -> Needs {
    let paths = |paths: &[&str]| -> BTreeSet<PathBuf> { paths.iter().map(PathBuf::from).collect() };
    let mut needs = Needs { read: paths(READ), run: paths(LIBRARIES), write: paths(WRITE), ..Needs::default() };
    needs.read.extend(sources(&config.sources));
    let ca_files = config.pools.iter().filter_map(|pool| pool.health_check.as_ref()?.ca_file.as_ref());
    needs.read.extend(ca_files.flat_map(|file| around(&file.0)));
    // Its place is often a link into a directory where it is replaced.
    needs.read.extend(RESOLVER_FILES.iter().flat_map(|file| around(Path::new(file))));
    needs.read.extend(["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().filter_map(env::var_os).map(PathBuf::from));
    if config.kubernetes.is_some() {
        needs.read.extend(kubernetes_files().iter().flat_map(|file| around(file)));
    }
    needs.run.extend(program().iter().flat_map(|program| around(program)));
    let sockets = config.admin.bind.iter().filter_map(|address| match address {
        Address::Unix(path) => path.parent(),
        Address::Tcp(_) => None,
    });
    needs.make_sockets = sockets.map(here).collect();
    needs.make_files = config.log.file.iter().flat_map(|file| around(&file.0)).collect();
    if config.sandbox == Sandbox::Require {
        needs.bind = bind_ports(config);
        needs.connect = connect_ports(config);
    }
    needs
}

/// What the client of a Kubernetes API reads: the files that `KUBECONFIG` names, or that of the user; the service account of
/// a pod, which is replaced from time to time.
fn kubernetes_files() -> Vec<PathBuf> {
    let named = env::var_os("KUBECONFIG").map(|named| env::split_paths(&named).collect::<Vec<_>>());
    let of_user = env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    let account = PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token");
    named.into_iter().flatten().chain(of_user).chain([account]).filter(|file| file.exists()).collect()
}

fn sources(sources: &Sources) -> BTreeSet<PathBuf> {
    let files = sources.present();
    files.iter().flat_map(|file| around(file)).chain(sources.directories().map(|directory| here(&directory))).collect()
}

/// The directories of `file`, of what it leads to, and of every symlink on the way, which may lead to another place beside
/// it later. Not the root, below which is everything.
fn around(file: &Path) -> Vec<PathBuf> {
    let is_link = |path: &&Path| path.is_symlink() && path.components().count() > MOST_SHARED;
    let links = file.ancestors().skip(1).filter(is_link).map(Path::to_path_buf);
    let places: Vec<PathBuf> = [file.to_path_buf()].into_iter().chain(file.canonicalize()).chain(links).collect();
    places
        .into_iter()
        .map(|place| match place.parent() {
            Some(directory) if directory != Path::new("/") => here(directory),
            _ => place,
        })
        .collect()
}

fn here(directory: &Path) -> PathBuf {
    if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_path_buf() }
}

/// The executable that an upgrade would start, found as it will be.
fn program() -> Option<PathBuf> {
    let name = upgrade::program().ok()?;
    if name.components().count() > 1 {
        return Some(name);
    }
    let path: OsString = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(&name)).find(|file| file.is_file())
}

/// The ports of listeners and admin addresses; 0 also for backends that are connected to from given addresses or
/// the client's. `None` if the kernel chooses the port of a listener: all workers bind it, whatever it is.
fn bind_ports(config: &Config) -> Option<BTreeSet<u16>> {
    let listeners = config.listeners.iter().flat_map(|listener| listener.bind.iter()).map(|bind| bind.0.port());
    let listeners: BTreeSet<u16> = listeners.collect();
    // The objects of a cluster name ports.
    if listeners.contains(&0) || config.kubernetes.is_some() {
        return None;
    }
    let admin = config.admin.bind.iter().filter_map(|address| Some(address.tcp()?.port()));
    let from = |pool: &Pool| pool.transparent || !pool.source_addresses.is_empty();
    let from_anywhere = config.pools.iter().any(from).then_some(0);
    Some(listeners.into_iter().chain(admin).chain(from_anywhere).collect())
}

/// The ports of backends, their checks and nameservers. `None` if only DNS, a container or a Service knows the port of some backend.
pub(crate) fn connect_ports(config: &Settings) -> Option<BTreeSet<u16>> {
    if config.docker.is_some() || config.kubernetes.is_some() {
        return None;
    }
    let mut ports = BTreeSet::from([DNS_PORT]);
    let challenges = config.listeners.iter().any(|listener| listener.acme_challenge == Some(AcmeChallenge::Pool));
    for pool in &config.pools {
        ports.extend(challenges.then_some(pool.http_port.0));
        for backend in &pool.backends {
            match &backend.address {
                BackendAddress::Inet(address) => _ = ports.insert(address.port()),
                BackendAddress::Name { port, .. } => _ = ports.insert(*port),
                BackendAddress::Unix(_) => {}
                BackendAddress::Srv { .. } | BackendAddress::Service(_) => return None,
            }
        }
        ports.extend(pool.health_check.iter().filter_map(|check| *check.port));
        ports.extend(pool.resolve.nameservers.iter().map(|nameserver| nameserver.0.port()));
    }
    Some(ports)
}

/// Of the nameservers of the system.
const DNS_PORT: u16 = 53;
/// Files of the system: the resolver's, kernel parameters, control groups, and trusted certificates. A resolver file in
/// /etc is replaced by another, so the whole directory can be read, as far as the user may.
const READ: &[&str] = &["/etc", "/proc", "/sys", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"];
const RESOLVER_FILES: &[&str] = &["/etc/resolv.conf", "/etc/hosts"];
/// For the dynamic linker of a new version.
const LIBRARIES: &[&str] =
    &["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store"];
/// Components of a path such as /var/run, which is a link on many systems: what lies beside it belongs to others.
const MOST_SHARED: usize = 3;
const WRITE: &[&str] = &["/dev/null"];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_needed_where_a_file_is_and_where_it_leads() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for made in ["conf/v1", "conf/v2", "routes", "secrets/..1", "run", "logs"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        fs::write(root.join("secrets/..1/token"), "x").unwrap();
        symlink("..1/token", root.join("secrets/token")).unwrap();
        symlink("v1", root.join("conf/current")).unwrap();
        let file = root.join("conf/current/config.yaml");
        let text = format!(
            "listeners: [{{ name: l, bind: \"127.0.0.1:7001\" }}]\nsandbox: require\n\
             include: {0}/routes/*.yaml\nadmin: {{ bind: [\"127.0.0.1:0\", \"unix:{0}/run/a.sock\"], \
             token_file: {0}/secrets/token }}\nlog: {{ file: {0}/logs/a.log }}\n",
            root.display()
        );
        fs::write(&file, text).unwrap();
        let needs = of(&Config::load(&file).unwrap_or_else(|problems| panic!("{problems}")).config);
        let canonical: BTreeSet<PathBuf> = needs.read.iter().filter_map(|path| path.canonicalize().ok()).collect();
        for read in ["conf", "conf/v1", "routes", "secrets", "secrets/..1"] {
            assert!(canonical.contains(&root.join(read)), "{read}: {needs:?}");
        }
        assert!(!canonical.contains(&root) && !canonical.contains(Path::new("/")), "{needs:?}");
        assert_eq!(needs.make_files, BTreeSet::from([root.join("logs")]));
        assert_eq!(needs.make_sockets, BTreeSet::from([root.join("run")]));
        assert_eq!(needs.bind, Some(BTreeSet::from([0, 7001])));
        assert!(needs.run.contains(env::current_exe().unwrap().parent().unwrap()), "{needs:?}");
    }

    #[test]
    fn ports_to_connect_to_are_known_unless_dns_knows_them() {
        let ports = |pool: &str| {
            let text = format!(
                "listeners: [{{ name: l, bind: \"127.0.0.1:1\" }}]\nunmatched: {{ pool: p }}\npools: {{ p: {{ {pool} }} }}\n"
            );
            let config =
                Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
            connect_ports(&config)
        };
        let pool = "backends: [\"10.0.0.1:7001\", \"b.test:7002\", \"unix:/run/b\"], health_check: { port: 7003, kind: tcp }, \
                    resolve: { nameservers: [\"10.0.0.2:7004\"] }";
        assert_eq!(ports(pool), Some(BTreeSet::from([53, 7001, 7002, 7003, 7004])));
        assert_eq!(ports("backends: [\"srv:_a._tcp.b.test\"]"), None);
        let text = "listeners: [{ name: l, bind: \"127.0.0.1:1\" }]\ndocker: { allow: [\"**.b.test\"] }\n";
        let config = Config::parse(text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
        assert_eq!(connect_ports(&config), None, "a label may name any");
        let text = "listeners: [{ name: l, bind: \"127.0.0.1:1\", protocol: http }]\nunmatched: { pool: p }\n\
                    pools: { p: { backends: [\"10.0.0.1:7001\"], http_port: 7005 } }\n";
        let config = Config::parse(text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
        assert_eq!(connect_ports(&config), Some(BTreeSet::from([53, 7001, 7005])));
    }

    /// A new key that names a port is connected to, or is none of those.
    #[test]
    fn every_port_of_a_pool_is_known_here() {
        let schema = Config::json_schema();
        let keys: BTreeSet<&str> = schema.split('"').filter(|word| word.ends_with("port")).collect();
        assert_eq!(keys, BTreeSet::from(["http_port", "port"]), "see `connect_ports`");
    }

    #[test]
    fn a_file_in_the_root_is_not_everything() {
        assert_eq!(around(Path::new("/config.yaml")), [Path::new("/config.yaml")]);
        assert_eq!(around(Path::new("config.yaml"))[0], Path::new("."));
    }
}
