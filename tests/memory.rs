//! What clients cost that never complete their hello: resident bytes each, and an attack within the memory of a small
//! container.
//!
//! Run with `cargo test --profile optimized --test memory -- --ignored --nocapture --test-threads 1`; times are printed, and a
//! busy machine must not decide a test.

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::harness::backend::Backend;
use self::harness::bytes::{hello, padded};
use self::harness::trial::Trial;
use self::harness::wire::{reset, send};
use self::harness::{Lb, Running, poll};

/// With everything that a client costs: its task, its account, its slot in the registry, its bytes.
#[test]
#[ignore = "takes an optimized build: see above"]
fn a_stalled_hello_holds_its_bytes_and_little_else() {
    raise_open_files();
    // The message, and the most that each client may cost, some pages more than measured. The first is 64 KiB with its 4
    // record headers; the second takes a page more.
    for (bytes, most) in [((64 << 10) - 20, 72_000), (64 << 10, 77_000), (1800, 4_400), (512, 2_900)] {
        let wire = padded("a.test", bytes);
        let keys = "limits: { hello_memory: 1GiB }\ntimeouts: { hello: 2m }\nlog: { connections: off }";
        let lb = Trial::of(Lb::new().route("a.test", &Backend::answering(b"served")).with(keys));
        stall(&lb, 300, &wire).into_iter().for_each(reset);
        lb.settle();
        let before = lb.resident_bytes();
        let stalled = stall(&lb, CLIENTS, &wire);
        let each = lb.resident_bytes().saturating_sub(before) / CLIENTS as u64;
        let held = lb.metric("hello_memory_bytes", &[]) as usize / CLIENTS;
        println!("a hello of {bytes} bytes without its last: {each} bytes resident, {held} of them counted");
        assert!(each <= most, "{each} bytes for a hello of {bytes}");
        stalled.into_iter().for_each(reset);
        lb.end();
    }
}

/// Opens `clients` and waits until all that they send has been read.
fn stall(lb: &Running, clients: usize, wire: &[u8]) -> Vec<TcpStream> {
    let stalled: Vec<_> = (0..clients).map(|_| send(lb.address(), &wire[..wire.len() - 1])).collect();
    let least = (clients * (wire.len() - 1)) as f64;
    let held = || lb.metric("hello_memory_bytes", &[]);
    poll(|| if held() >= least { Ok(()) } else { Err(held()) }).unwrap();
    stalled
}

/// 1,000 relays are open when 3,000 clients of one address stall at the last byte of 64 KiB each, again and again.
#[test]
#[ignore = "takes an optimized build: see above"]
fn an_attack_with_large_hellos_fits_into_a_small_container() {
    raise_open_files();
    let Some(group) = MemoryGroup::of(64 << 20) else { return println!("skipped: no cgroup for memory can be made") };
    let (relayed, backends_ends) = Backend::handing_over();
    let served = Backend::answering(b"served");
    let lb = Lb::new().route("relay.test", &relayed).route("a.test", &served);
    let lb = lb.with("timeouts: { hello: 1m }\nlog: { connections: failed }");
    let lb = Running::start_by(group.command(), &lb.config());
    let before = group.used();
    let relays: Vec<_> = (0..1000).map(|_| send(lb.address(), &hello("relay.test"))).collect();
    lb.wait_for_metric("connections_active", &[("state", "relaying")], 1000.0);
    println!("{} bytes before, {} with 1000 relays, kernel memory included", before, group.used());
    let (is_over, large) = (AtomicBool::new(false), padded("a.test", 64 << 10));
    let (address, large) = (lb.address(), &large[..large.len() - 1]);
    let mut waits = thread::scope(|scope| {
        let honest = scope.spawn(|| honest(address, &is_over));
        for _ in 0..ROUNDS {
            let attackers: Vec<_> = (0..CLIENTS).map(|_| send(address, large)).collect();
            attackers.into_iter().for_each(reset);
        }
        is_over.store(true, Ordering::Relaxed);
        honest.join().unwrap()
    });
    waits.sort();
    let part = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    println!("{} honest clients: median {:?}, p99 {:?}, most {:?}", waits.len(), part(50), part(99), part(100));
    println!("{} attackers refused for the memory", lb.metric("connections_closed_total", &[("reason", "memory")]));
    println!("{} bytes at most; killed for memory: {}", group.peak(), group.killed());
    assert_eq!(group.killed(), 0);
    // The relays live, and the last honest client is gone.
    lb.wait_for_metric("connections_active", &[("state", "relaying")], 1000.0);
    assert!(lb.metric("connections_closed_total", &[("reason", "memory")]) > 0.0);
    drop((relays, backends_ends));
    lb.wait_for_metric("connections_active", &[], 0.0);
    lb.stop();
}

/// How long clients waited that connect one after the other and send their hello in two pieces; each is served.
fn honest(to: SocketAddr, is_over: &AtomicBool) -> Vec<Duration> {
    let (hello, mut waits) = (hello("a.test"), Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut client = send(to, &hello[..100]);
        client.write_all(&hello[100..]).unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        waits.push(begun.elapsed());
    }
    waits
}

/// A cgroup whose memory is limited; removed when dropped.
struct MemoryGroup {
    directory: PathBuf,
    is_v1: bool,
}

impl MemoryGroup {
    /// `None` where none can be made: no root, or a file system that is read-only.
    fn of(limit_bytes: usize) -> Option<Self> {
        let (v1, v2) = (PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("/sys/fs/cgroup"));
        let is_v1 = v1.join("memory.limit_in_bytes").exists();
        let root = if is_v1 { v1 } else { v2 };
        let group = Self { directory: root.join(format!("snigate-test-{}", std::process::id())), is_v1 };
        fs::create_dir(&group.directory).ok()?;
        if !is_v1 {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let file = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(group.directory.join(file), limit_bytes.to_string()).ok()?;
        // Whether a process may move into it is seen only by trying.
        let tried = group.wrapped("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success()).then_some(group)
    }

    fn command(&self) -> Command {
        self.wrapped(env!("CARGO_BIN_EXE_snigate"))
    }

    fn wrapped(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(&self.directory).arg(program);
        command.stdin(Stdio::null());
        command
    }

    fn number(&self, v1: &str, v2: &str) -> u64 {
        let text = fs::read_to_string(self.directory.join(if self.is_v1 { v1 } else { v2 })).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.or(text.lines().next()).unwrap().trim().parse().unwrap()
    }

    fn used(&self) -> u64 {
        self.number("memory.usage_in_bytes", "memory.current")
    }

    fn peak(&self) -> u64 {
        self.number("memory.max_usage_in_bytes", "memory.peak")
    }

    /// How many processes of it the kernel killed.
    fn killed(&self) -> u64 {
        self.number("memory.oom_control", "memory.events")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // It is busy until the kernel is done with the process.
        let _ = poll(|| match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Err(()),
            _ => Ok(()),
        });
    }
}

/// Both ends of the clients' connections are open here, or nearly.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

const CLIENTS: usize = 3000;
const ROUNDS: usize = 10;
