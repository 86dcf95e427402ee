//! Reads the command line.

use std::net::SocketAddr;
use std::time::Duration;

/// What to do, and to whom.
#[derive(Debug)]
pub struct Arguments {
    pub target: Target,
    pub task: Task,
}

#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where clients connect to.
    pub proxy: SocketAddr,
    /// Where this tool listens as the backend.
    pub backend: SocketAddr,
    /// The proxy's process, its children counted in; none when clients connect to the backend itself.
    pub pid: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub enum Task {
    Load(Plan),
    /// Every byte is compared; nothing is measured.
    Verify,
}

/// How many connections of each kind are open at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Open, hello, short answer, close; then the next.
    pub short: usize,
    pub bulk: usize,
    pub flow: Flow,
    /// One message there and one back, over and over.
    pub trips: usize,
    /// Open, answered, silent.
    pub idle: usize,
    pub warm_up: Duration,
    pub measure: Duration,
    /// Ends after so many connections, round trips or bytes, whichever the plan has, and not by time.
    pub count: Option<u64>,
}

/// Which way bulk streams carry bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    #[default]
    Down,
    Up,
    Both,
}

/// # Errors
/// What is wrong with the command line.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut plan = Plan { warm_up: Duration::from_millis(500), measure: Duration::from_secs(2), ..Plan::default() };
    let (mut proxy, mut backend, mut pid) = (None, None, None);
    let mut verify = false;
    while let Some(word) = words.next() {
        if word == "--verify" {
            verify = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let bad = |_| format!("{word} {value}: not understood");
        match word.as_str() {
            "--proxy" => proxy = Some(value.parse().map_err(|_| bad(()))?),
            "--backend" => backend = Some(value.parse().map_err(|_| bad(()))?),
            "--pid" => pid = Some(value.parse().map_err(|_| bad(()))?),
            "--short" => plan.short = value.parse().map_err(|_| bad(()))?,
            "--bulk" => plan.bulk = value.parse().map_err(|_| bad(()))?,
            "--flow" => plan.flow = flow(&value).ok_or_else(|| bad(()))?,
            "--trips" => plan.trips = value.parse().map_err(|_| bad(()))?,
            "--idle" => plan.idle = value.parse().map_err(|_| bad(()))?,
            "--warm-up" => plan.warm_up = seconds(&value).ok_or_else(|| bad(()))?,
            "--count" => plan.count = Some(value.parse().map_err(|_| bad(()))?),
            "--seconds" => plan.measure = seconds(&value).ok_or_else(|| bad(()))?,
            _ => return Err(format!("{word}: unknown")),
        }
    }
    let target =
        Target { proxy: proxy.ok_or("--proxy is needed")?, backend: backend.ok_or("--backend is needed")?, pid };
    Ok(Arguments { target, task: if verify { Task::Verify } else { Task::Load(plan) } })
}

fn flow(word: &str) -> Option<Flow> {
    match word {
        "down" => Some(Flow::Down),
        "up" => Some(Flow::Up),
        "both" => Some(Flow::Both),
        _ => None,
    }
}

fn seconds(word: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(word.parse().ok()?).ok()
}

pub const USAGE: &str = "\
usage: peers-load --proxy IP:PORT --backend IP:PORT [--pid PID] [what] [how long]
  --short N       N connections at a time: open, hello, short answer, close
  --bulk N        N streams, --flow down | up | both
  --trips N       N connections with 512 B round trips
  --idle N        N connections held open; alone, resident memory is what is measured
  --verify        compare every byte instead
  --warm-up S     default 0.5
  --seconds S     default 2
  --count N       instead: until N connections, round trips or bulk bytes are done";
