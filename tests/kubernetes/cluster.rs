//! A cluster of a test: the API server, pods, and processes of snigate that follow it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api_server::ApiServer;
use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::{DEADLINE, Lb, Lines, Running, poll};
use crate::objects::{self, Endpoint, NAMESPACE, condition};
use crate::wire::{Close, read_to_close};

/// The addresses of the pods, for the network namespace of a test.
pub const ADDRESSES: &str = "for n in 2 3 4 5; do ip addr add 10.244.0.$n/32 dev lo; done";

/// A cluster with one Gateway, and a snigate that follows it.
pub struct Cluster {
    pub api: ApiServer,
    pub directory: tempfile::TempDir,
}

impl Cluster {
    pub fn new() -> Self {
        let cluster = Self { api: ApiServer::start(), directory: tempfile::tempdir().unwrap() };
        cluster.api.put(objects::class());
        cluster.api.put(objects::gateway("edge"));
        cluster
    }

    #[track_caller]
    pub fn start(&self) -> Running {
        self.start_with(Lb::new().with("kubernetes: {}"))
    }

    #[track_caller]
    pub fn start_with(&self, lb: Lb) -> Running {
        Running::start_by(self.command(), &lb.config())
    }

    /// As [`Self::start`], but does not wait until it is ready.
    pub fn spawn(&self) -> Spawned {
        let file = self.directory.path().join("spawned.yaml");
        std::fs::write(&file, Lb::new().with("kubernetes: {}").config()).unwrap();
        let mut command = self.command();
        let mut child = command.args(["run", "--config"]).arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        Spawned { lines: Lines::follow(child.stdout.take().unwrap()), child }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.stdin(Stdio::null()).env("KUBECONFIG", self.api.kubeconfig(self.directory.path()));
        command
    }

    /// A Service with these endpoints, all ready.
    pub fn service(&self, name: &str, backends: &[&Backend]) {
        self.api.put(objects::service(name));
        let endpoints: Vec<Endpoint> = backends.iter().map(|backend| Endpoint::ready(backend.address)).collect();
        self.api.put(objects::slice(name, &endpoints));
    }

    /// As [`Self::service`], in another namespace.
    pub fn service_in(&self, namespace: &str, name: &str, backends: &[&Backend]) {
        let endpoints: Vec<Endpoint> = backends.iter().map(|backend| Endpoint::ready(backend.address)).collect();
        self.api.put(objects::within(namespace, objects::service(name)));
        self.api.put(objects::within(namespace, objects::slice(name, &endpoints)));
    }

    pub fn route(&self, name: &str, hostname: &str, service: &str) {
        self.api.put(objects::route(name, "edge", hostname, &[(service, 1)]));
    }

    /// Where snigate listens for a port of the Gateway: the target port of its Service.
    #[track_caller]
    pub fn address(&self, gateway: &str, port: u16) -> SocketAddr {
        let name = format!("{gateway}-{}", objects::CLASS);
        let target = self.api.wait_for("services", NAMESPACE, &name, |service: &Value| {
            let ports = service["spec"]["ports"].as_array()?;
            ports.iter().find(|it| it["port"] == port)?["targetPort"].as_u64()
        });
        (Ipv4Addr::LOCALHOST, u16::try_from(target).unwrap()).into()
    }

    /// Waits until a route, as it is now, says about its Gateway what is wanted of a condition: `Accepted=True/Accepted`.
    #[track_caller]
    pub fn wait_for_route(&self, name: &str, wanted: &str) {
        self.wait_for_route_in(NAMESPACE, name, wanted);
    }

    #[track_caller]
    pub fn wait_for_route_in(&self, namespace: &str, name: &str, wanted: &str) {
        self.api.wait_for("tlsroutes", namespace, name, |route| {
            is_as_wanted(route, &route["status"]["parents"][0]["conditions"], wanted)
        });
    }

    /// Waits until a route has no entry of ours any more.
    #[track_caller]
    pub fn wait_for_no_parents(&self, name: &str) {
        self.api.wait_for("tlsroutes", NAMESPACE, name, |route| {
            route["status"]["parents"].as_array()?.is_empty().then_some(())
        });
    }

    #[track_caller]
    pub fn wait_for_gateway(&self, name: &str, wanted: &str) {
        self.api.wait_for("gateways", NAMESPACE, name, |gateway| {
            is_as_wanted(gateway, &gateway["status"]["conditions"], wanted)
        });
    }
}

/// Whether one of the conditions is as `wanted`, and about the object as it is now.
fn is_as_wanted(object: &Value, conditions: &Value, wanted: &str) -> Option<()> {
    let (kind, rest) = wanted.split_once('=').unwrap();
    let found = conditions.as_array()?.iter().find(|condition| condition["type"] == kind)?;
    let (status, reason, _) = condition(conditions, kind)?;
    let is_new = found["observedGeneration"] == object["metadata"]["generation"];
    (is_new && format!("{status}/{reason}") == rest).then_some(())
}

/// A snigate that may not be ready yet.
pub struct Spawned {
    child: Child,
    pub lines: Lines,
}

impl Spawned {
    #[track_caller]
    pub fn wait_for_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.lines.wait_for(0, DEADLINE, wanted).unwrap_or_else(|| panic!("no such line:\n{}", self.lines))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend at the address of a pod. It answers with a ServerHello, and closes.
pub fn backend(ip: &str, port: u16) -> Backend {
    let listener = TcpListener::bind((ip, port)).unwrap();
    Backend::on(listener, |mut stream| {
        use std::io::{Read, Write};
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            let _ = stream.write_all(SERVER_HELLO);
        }
    })
}

/// How a client that asks for a name is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Served,
    /// Closed, without a byte.
    Closed,
    Reset,
    NotListening,
}

pub fn seen(address: SocketAddr, name: &str) -> Seen {
    use std::io::Write;
    let Ok(mut stream) = TcpStream::connect(address) else { return Seen::NotListening };
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // A reset is told once, be it to the one who writes.
    let is_reset = stream.write_all(&hello(name)).is_err();
    match read_to_close(&mut stream) {
        (answer, _) if answer == SERVER_HELLO => Seen::Served,
        (answer, Close::Fin) if answer.is_empty() && !is_reset => Seen::Closed,
        (answer, _) if answer.is_empty() => Seen::Reset,
        (answer, _) => panic!("{name} got {answer:?}"),
    }
}

#[track_caller]
pub fn wait_until(address: SocketAddr, name: &str, wanted: Seen) {
    let last = poll(|| match seen(address, name) {
        now if now == wanted => Ok(()),
        now => Err(now),
    });
    last.unwrap_or_else(|now| panic!("{name} is {now:?}, not {wanted:?}"));
}

/// Clients that connect again and again, from threads of their own.
pub struct Clients {
    is_over: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    /// When each connection was that was not served, and what was seen instead.
    threads: Vec<JoinHandle<Vec<(Duration, Seen)>>>,
}

impl Clients {
    /// About `rate` connections a second in all.
    pub fn start(address: SocketAddr, name: &'static str, rate: u32) -> Self {
        let (is_over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        let client = |_| {
            let (is_over, made) = (Arc::clone(&is_over), Arc::clone(&made));
            std::thread::spawn(move || {
                let (mut failed, mut next) = (Vec::new(), Instant::now());
                while !is_over.load(Ordering::SeqCst) {
                    match seen(address, name) {
                        Seen::Served => {}
                        other => failed.push((began.elapsed(), other)),
                    }
                    made.fetch_add(1, Ordering::SeqCst);
                    next += Duration::from_secs(THREADS.into()) / rate;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                failed
            })
        };
        let threads = (0..THREADS).map(client).collect();
        Self { is_over, made, threads }
    }

    /// How many connections there were so far.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// Ends them once there were `at_least` so many connections. Every one was served.
    #[track_caller]
    pub fn were_all_served(self, at_least: usize) {
        let enough = poll(|| if self.made() >= at_least { Ok(()) } else { Err(self.made()) });
        self.is_over.store(true, Ordering::SeqCst);
        let failed = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>();
        let made = self.made.load(Ordering::SeqCst);
        assert!(failed.is_empty(), "{} of {made}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
        assert!(enough.is_ok(), "{made} connections are too few to say anything");
    }
}

const THREADS: u32 = 4;
