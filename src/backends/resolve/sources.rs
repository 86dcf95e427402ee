//! Knows which nameservers to query, and which full names a relative name expands to.
//!
//! In:  the configured nameservers; or the system's own files, `/etc/resolv.conf` and `/etc/hosts`.
//! Out: the addresses of a host, the SRV records of a service; or a [`Failure`].
//! Source: resolv.conf(5), hosts(5), and how the C library interprets them; RFC 8305 §3.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_resolver::Hosts;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::Failure;
use super::nameservers::{Answer, AnsweredBy, Kind, Nameservers};
use crate::settings::{Family, Nameserver};

/// Where answers come from.
pub(super) struct Sources {
    nameservers: Nameservers,
    hosts: Hosts,
    search: Vec<Name>,
    /// A name with at least this many dots is first tried as absolute.
    ndots: usize,
    /// The files as of when they were read; empty for configured nameservers.
    read: Vec<(PathBuf, Look)>,
}

/// One SRV record.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: String,
}

/// The result for each family that was queried.
pub(super) type Addresses = Vec<(Kind, Result<Answer<IpAddr>, Failure>)>;

impl Sources {
    /// Queries only these servers; names are taken as absolute.
    pub(super) fn given(nameservers: &[Nameserver]) -> Self {
        let mut options = ResolverOpts::default();
        options.timeout = GIVEN_TIMEOUT;
        let server = |Nameserver(address): &Nameserver| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        };
        Self {
            nameservers: Nameservers::new(nameservers.iter().map(server).collect(), &options),
            hosts: Hosts::default(),
            search: Vec::new(),
            ndots: 1,
            read: Vec::new(),
        }
    }

    /// As the system's own programs do: the hosts file first, then the nameservers with the search domains.
    pub(super) fn system() -> Self {
        Self::of_files(Path::new("/etc/resolv.conf"), Path::new("/etc/hosts"))
    }

    fn of_files(resolv_conf: &Path, hosts_file: &Path) -> Self {
        let read = [resolv_conf, hosts_file].map(|file| (file.to_owned(), look(file))).into();
        let mut hosts = Hosts::default();
        // A missing hosts file does not prevent reading resolv.conf, and the other way round.
        if let Err(error) = fs::File::open(hosts_file).and_then(|file| hosts.read_hosts_conf(file)) {
            tracing::debug!(event = "resolver_file_unreadable", %error, file = %hosts_file.display(), "cannot read resolver file");
        }
        let config = read_resolv_conf(resolv_conf);
        let mut options = ResolverOpts::default();
        options.timeout = Duration::from_secs(config.timeout.into()).clamp(Duration::from_secs(1), LONGEST_TIMEOUT);
        options.attempts = config.attempts as usize;
        options.edns0 = config.edns0;
        let servers = config.nameservers.iter().map(|server| NameServerConfig::udp_and_tcp(server.into())).collect();
        let mut search: Vec<Name> =
            config.get_last_search_or_domain().filter_map(|domain| search_domain(domain)).collect();
        // resolv.conf(5): without a search list, the domain of the host's own name is used.
        if search.is_empty() {
            search.extend(config.get_system_domain().as_deref().and_then(search_domain));
        }
        let ndots = config.ndots as usize;
        Self { nameservers: Nameservers::new(servers, &options), hosts, search, ndots, read }
    }

    /// Whether the files are unchanged.
    pub(super) fn are_fresh(&self) -> bool {
        self.read.iter().all(|(file, before)| look(file) == *before)
    }

    /// The addresses of `host`; fails if there is none in any queried family.
    pub(super) async fn addresses(&self, host: &str, family: Family) -> Result<Addresses, Failure> {
        let kinds: &[Kind] = match family {
            Family::Any => &[Kind::A, Kind::Aaaa],
            Family::V4 => &[Kind::A],
            Family::V6 => &[Kind::Aaaa],
        };
        if let Some(addresses) = self.in_hosts_file(host, kinds) {
            return Ok(addresses);
        }
        let mut failed = None;
        for name in self.candidates(host)? {
            let answers = match kinds {
                [one] => vec![(*one, self.nameservers.ask(&name, (*one).into(), address).await)],
                _ => self.both(&name).await,
            };
            if answers.iter().any(|(_, answer)| answer.is_ok()) {
                return Ok(answers);
            }
            let failures = answers.into_iter().filter_map(|(_, answer)| answer.err());
            let failure = failures.reduce(Failure::or).unwrap_or(Failure::NoData);
            failed = also_failed(failed, failure)?;
        }
        Err(failed.unwrap_or(Failure::NoSuchName))
    }

    /// The SRV records of `name`.
    pub(super) async fn services(&self, name: &str) -> Result<Answer<Service>, Failure> {
        let mut failed = None;
        for name in self.candidates(name)? {
            match self.nameservers.ask(&name, RecordType::SRV, service).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failed = also_failed(failed, failure)?,
            }
        }
        Err(failed.unwrap_or(Failure::NoSuchName))
    }

    /// Queries both families in parallel. Once one has answered, the other gets one more second.
    async fn both(&self, name: &Name) -> Addresses {
        let v4 = self.nameservers.ask(name, RecordType::A, address);
        let v6 = self.nameservers.ask(name, RecordType::AAAA, address);
        tokio::pin!(v4, v6);
        let (v4, v6) = tokio::select! {
            v4 = &mut v4 => {
                let wait = if v4.is_ok() { OTHER_FAMILY } else { Duration::MAX };
                (v4, timeout(wait, v6).await.unwrap_or(Err(Failure::TimedOut)))
            }
            v6 = &mut v6 => {
                let wait = if v6.is_ok() { OTHER_FAMILY } else { Duration::MAX };
                (timeout(wait, v4).await.unwrap_or(Err(Failure::TimedOut)), v6)
            }
        };
        vec![(Kind::A, v4), (Kind::Aaaa, v6)]
    }

    fn in_hosts_file(&self, host: &str, kinds: &[Kind]) -> Option<Addresses> {
        let name = parse(host).ok()?;
        let look = |kind: &Kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), (*kind).into()))?;
            let data = found.answers().iter().filter_map(|record| address(&record.data)).collect();
            Some((*kind, Ok(Answer { data, ttl: HOSTS_TTL, by: AnsweredBy::HostsFile })))
        };
        let found: Addresses = kinds.iter().filter_map(look).collect();
        (!found.is_empty()).then_some(found)
    }

    /// The full names that `written` may expand to, in the order they are tried.
    fn candidates(&self, written: &str) -> Result<Vec<Name>, Failure> {
        let name = parse(written)?;
        let mut whole = name.clone();
        whole.set_fqdn(true);
        if name.is_fqdn() || self.search.is_empty() {
            return Ok(vec![whole]);
        }
        let searched = self.search.iter().filter_map(|domain| {
            let mut name = name.clone().append_domain(domain).ok()?;
            name.set_fqdn(true);
            Some(name)
        });
        let has_dots = usize::from(name.num_labels()) > self.ndots;
        Ok(if has_dots { [whole].into_iter().chain(searched).collect() } else { searched.chain([whole]).collect() })
    }
}

/// Reads what can be read. resolv.conf(5): without a nameserver, the one of this machine is used.
fn read_resolv_conf(file: &Path) -> resolv_conf::Config {
    let text = fs::read(file).unwrap_or_else(|error| {
        tracing::debug!(event = "resolver_file_unreadable", %error, file = %file.display(), "cannot read resolver file");
        Vec::new()
    });
    // The parser counts lines from 0: with an empty line before, it counts from 1.
    let (mut config, errors) = resolv_conf::Config::parse_with_errors(&[b"\n", &*text].concat());
    for error in errors {
        tracing::warn!(event = "resolver_file_invalid", %error, file = %file.display(), "part of resolver file ignored");
    }
    if config.nameservers.is_empty() {
        config.nameservers.push(resolv_conf::ScopedIp::V4(Ipv4Addr::LOCALHOST));
    }
    config
}

/// `--` is how some systems write an empty list.
fn search_domain(written: &str) -> Option<Name> {
    Name::from_str_relaxed(written).ok().filter(|domain| !domain.is_root() && written != "--")
}

fn address(data: &RData) -> Option<IpAddr> {
    data.ip_addr()
}

fn service(data: &RData) -> Option<Service> {
    match data {
        RData::SRV(srv) => {
            Some(Service { priority: srv.priority, weight: srv.weight, port: srv.port, target: srv.target.to_ascii() })
        }
        _ => None,
    }
}

fn parse(name: &str) -> Result<Name, Failure> {
    Name::from_ascii(name).map_err(|error| Failure::from(NetError::from(error)))
}

/// Decides whether to try the next candidate, as the C library does: yes after a negative answer or an error response
/// of the nameserver, no after a timeout.
fn also_failed(before: Option<Failure>, failure: Failure) -> Result<Option<Failure>, Failure> {
    match failure {
        Failure::TimedOut | Failure::Net(_) => Err(failure),
        failure => Ok(Some(before.map_or(failure.clone(), |before| before.or(failure)))),
    }
}

/// Detects a changed file without reading it.
type Look = Option<(u64, u64, Option<SystemTime>)>;

fn look(file: &Path) -> Look {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}

/// The hosts file has no TTLs, and checking it costs little.
const HOSTS_TTL: Duration = Duration::ZERO;
/// Per server; hickory sends the query up to three times within it.
const GIVEN_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for one family once the other has answered.
const OTHER_FAMILY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn files(resolv_conf: &str, hosts: &str) -> (tempfile::TempDir, Sources) {
        let directory = tempfile::tempdir().unwrap();
        let [resolv, hosts_file] = ["resolv.conf", "hosts"].map(|name| directory.path().join(name));
        fs::write(&resolv, resolv_conf).unwrap();
        fs::write(&hosts_file, hosts).unwrap();
        let sources = Sources::of_files(&resolv, &hosts_file);
        (directory, sources)
    }

    fn candidates(sources: &Sources, name: &str) -> Vec<String> {
        sources.candidates(name).unwrap().iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn search_domains_and_ndots_are_those_of_resolv_conf() {
        // As in a Kubernetes pod.
        let text = "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n";
        let (_directory, sources) = files(text, "");
        let tried = ["shop.ns.svc.cluster.local.", "shop.svc.cluster.local.", "shop."];
        assert_eq!(candidates(&sources, "shop"), tried);
        assert_eq!(candidates(&sources, "shop.ns.svc.cluster.local")[2], "shop.ns.svc.cluster.local.");
        assert_eq!(candidates(&sources, "a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
        assert_eq!(candidates(&sources, "shop.ns.svc.cluster.local."), ["shop.ns.svc.cluster.local."]);
    }

    #[test]
    fn with_few_ndots_a_name_with_a_dot_is_tried_as_it_stands_first() {
        let (_directory, sources) = files("nameserver 127.0.0.11\nsearch lan\n", "");
        assert_eq!(candidates(&sources, "_https._tcp.shop"), ["_https._tcp.shop.", "_https._tcp.shop.lan."]);
        assert_eq!(candidates(&sources, "shop"), ["shop.lan.", "shop."]);
    }

    #[test]
    fn given_nameservers_are_asked_for_names_as_they_stand() {
        let sources = Sources::given(&[Nameserver("127.0.0.1:53".parse().unwrap())]);
        assert_eq!(candidates(&sources, "shop"), ["shop."]);
        assert!(sources.are_fresh());
    }

    #[tokio::test]
    async fn the_hosts_file_comes_first_and_its_changes_are_seen() {
        let (directory, sources) = files("", "10.0.0.1 shop shop.lan\n10.0.0.2 shop # two\nfd00::1 Shop\n");
        let addresses = sources.addresses("shop", Family::Any).await.unwrap();
        let reported = |(_, answer): &(Kind, Result<Answer<IpAddr>, Failure>)| answer.as_ref().unwrap().data.len();
        assert_eq!(addresses.iter().map(reported).collect::<Vec<_>>(), [2, 1]);
        assert!(sources.in_hosts_file("shop.lan", &[Kind::Aaaa]).is_none());
        assert!(sources.are_fresh());
        fs::write(directory.path().join("hosts"), "10.0.0.1 shop\n").unwrap();
        assert!(!sources.are_fresh());
    }

    #[test]
    fn what_resolv_conf_does_not_say_is_the_nameserver_of_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        let servers = |text: &str| {
            fs::write(&file, text).unwrap();
            let servers = read_resolv_conf(&file).nameservers;
            servers.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for empty in ["", "# nothing\n", "search lan\n", "nameserver\n", "nameserver x\n"] {
            assert_eq!(servers(empty), ["127.0.0.1"], "{empty:?}");
        }
        assert_eq!(servers("nameserver x\nnameserver 10.0.0.1\n"), ["10.0.0.1"]);
        assert_eq!(read_resolv_conf(Path::new("/nonexistent")).nameservers.len(), 1);
    }

    #[test]
    fn a_wrong_line_of_resolv_conf_is_counted_from_one_and_costs_itself_only() {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let text = "nameserver 10.0.0.1\nwrong\nsearch lan a..b -- b\noptions ndots:x timeout:3\n";
        let (_directory, sources) = tracing::subscriber::with_default(subscriber, || files(text, ""));
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains("line 2") && log.contains("line 4") && log.lines().count() == 2, "{log}");
        assert!(
            log.lines().all(|line| line.contains("resolver_file_invalid") && line.contains("/resolv.conf")),
            "{log}"
        );
        assert_eq!(candidates(&sources, "shop"), ["shop.lan.", "shop.b.", "shop."]);
    }

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn missing_files_are_no_end() {
        let nowhere = Path::new("/nonexistent");
        let sources = Sources::of_files(nowhere, nowhere);
        assert!(sources.are_fresh());
        assert!(!sources.candidates("shop").unwrap().is_empty());
    }
}
