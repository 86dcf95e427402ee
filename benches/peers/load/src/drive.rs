//! Walks a run: wait for the proxy, fill up, warm up, measure, empty.

use std::time::{Duration, Instant};

use crate::arguments::{Plan, Target};
use crate::process::{Processes, machine_cpu};
use crate::report::{Measured, Memory, Report};
use crate::world::{Counts, Kind, World};

/// # Errors
/// The proxy does not answer, or a stage does not come to its end in time.
pub fn run(target: &Target, plan: &Plan) -> Result<Report, String> {
    let mut run = Run { world: World::new(*target).map_err(|error| format!("{}: {error}", target.backend))?, plan };
    if plan.bulk > 0 && plan.trips > 0 {
        run.world.mix();
    }
    run.wait_for_answer()?;
    let proxy = target.pid.map_or_else(Processes::own, Processes::under);
    let memory_alone = plan.idle > 0 && plan.short + plan.bulk + plan.trips == 0;
    run.touch()?;
    let before = proxy.resident_bytes();
    run.fill(Kind::Idle, plan.idle)?;
    if memory_alone {
        run.turns(SETTLE)?;
    }
    let held = proxy.resident_bytes();
    let measured = if memory_alone { None } else { Some(run.measure(&proxy)?) };
    let missing = plan.idle - run.world.open(Kind::Idle);
    run.empty()?;
    if memory_alone {
        run.turns(SETTLE_GONE)?;
    }
    let memory = (plan.idle > 0 && target.pid.is_some()).then(|| Memory {
        connections: plan.idle as u64,
        before,
        held,
        after: proxy.resident_bytes(),
    });
    if !proxy.alive() {
        return Err("the proxy ended".to_owned());
    }
    Ok(Report { measured, memory, errors: run.world.counts.errors + missing as u64 })
}

struct Run<'a> {
    world: World,
    plan: &'a Plan,
}

impl Run<'_> {
    /// Proxies take their time to start; what fails meanwhile is no error.
    fn wait_for_answer(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        while self.world.counts.connections == 0 {
            if Instant::now() > deadline {
                return Err(format!("no answer through the proxy within {} s", START.as_secs()));
            }
            if self.world.open(Kind::Short) == 0 && self.world.start(Kind::Short).is_err() {
                std::thread::sleep(LOOK);
            }
            let failures = self.world.counts.errors;
            self.world.turn(LOOK).map_err(|error| error.to_string())?;
            if self.world.counts.errors > failures {
                std::thread::sleep(LOOK);
            }
        }
        self.world.counts = Counts::default();
        Ok(())
    }

    /// Takes the proxy over its path a few times, so that what it sets up once does not count as a connection's.
    fn touch(&mut self) -> Result<(), String> {
        while self.world.counts.connections < TOUCHES {
            if self.world.open(Kind::Short) == 0 {
                self.start(Kind::Short)?;
            }
            self.world.turn(LOOK).map_err(|error| error.to_string())?;
        }
        self.turns(LOOK)
    }

    /// Opens `count` clients and waits for their answers.
    fn fill(&mut self, kind: Kind, count: usize) -> Result<(), String> {
        let deadline = Instant::now() + FILL;
        while self.world.open(kind) < count || self.world.opening() > 0 {
            if Instant::now() > deadline || self.world.counts.errors > MOST_ERRORS {
                return Err(format!("{} of {count} connections were opened", self.world.open(kind)));
            }
            while self.world.open(kind) < count && self.world.opening() < AT_ONCE {
                self.start(kind)?;
            }
            self.world.turn(LOOK).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn measure(&mut self, proxy: &Processes) -> Result<Measured, String> {
        if self.plan.count.is_none() {
            self.work(self.plan.warm_up)?;
        }
        self.world.latencies = Some(Vec::with_capacity(LATENCIES));
        let own = Processes::own();
        let (cpu, own_cpu, machine) = (proxy.cpu(), own.cpu(), machine_cpu());
        let (counts, at) = (self.world.counts, Instant::now());
        if let Some(count) = self.plan.count {
            self.work_off(count)?
        } else {
            self.work(self.plan.measure)?
        }
        let now = self.world.counts;
        let measured = Measured {
            took: at.elapsed(),
            proxy_cpu: proxy.cpu() - cpu,
            own_cpu: own.cpu() - own_cpu,
            machine_cpu: machine_cpu() - machine,
            connections: now.connections - counts.connections,
            bytes_down: now.bytes_down - counts.bytes_down,
            bytes_up: now.bytes_up - counts.bytes_up,
            trips: now.trips - counts.trips,
            latencies: self.world.latencies.take().unwrap_or_default(),
        };
        Ok(measured)
    }

    /// Keeps as many clients of each kind as the plan says, until so much more is done.
    fn work_off(&mut self, count: u64) -> Result<(), String> {
        let done = |counts: Counts, plan: &Plan| match plan {
            Plan { bulk: 1.., .. } => counts.bytes_down + counts.bytes_up,
            Plan { trips: 1.., .. } => counts.trips,
            _ => counts.connections,
        };
        let enough = done(self.world.counts, self.plan) + count;
        while done(self.world.counts, self.plan) < enough {
            self.work(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Keeps as many clients of each kind as the plan says, for so long.
    fn work(&mut self, time: Duration) -> Result<(), String> {
        let kinds = [
            (Kind::Short, self.plan.short),
            (Kind::Trips, self.plan.trips),
            (Kind::Bulk(self.plan.flow), self.plan.bulk),
        ];
        let until = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            for (kind, count) in kinds {
                while self.world.open(kind) < count {
                    self.start(kind)?;
                }
            }
            if self.world.counts.errors > MOST_ERRORS {
                return Err(format!("more than {MOST_ERRORS} errors"));
            }
            self.world.turn((until - now).min(LOOK)).map_err(|error| error.to_string())?;
        }
    }

    /// Closes every client, and waits until the backend has seen the last of them go.
    fn empty(&mut self) -> Result<(), String> {
        for kind in [Kind::Short, Kind::Trips, Kind::Bulk(self.plan.flow), Kind::Idle] {
            self.world.close(kind);
        }
        let deadline = Instant::now() + EMPTY;
        while self.world.connections() > 0 && Instant::now() < deadline {
            self.world.turn(LOOK).map_err(|error| error.to_string())?;
        }
        match self.world.connections() {
            0 => Ok(()),
            left => Err(format!("{left} connections are still open at the backend")),
        }
    }

    /// Lets events come for so long.
    fn turns(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.world.turn(left).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn start(&mut self, kind: Kind) -> Result<(), String> {
        self.world.start(kind).map_err(|error| format!("a client cannot connect: {error}"))
    }
}

/// How long a proxy may take to start; under callgrind, with long lists, that is a while.
const START: Duration = Duration::from_secs(60);
const FILL: Duration = Duration::from_secs(60);
const EMPTY: Duration = Duration::from_secs(30);
/// Before resident memory is read: what a proxy frees late is free by then.
const SETTLE: Duration = Duration::from_millis(500);
const SETTLE_GONE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
const TOUCHES: u64 = 50;
/// Opened at once while filling up; well below every listening queue.
const AT_ONCE: usize = 128;
const MOST_ERRORS: u64 = 1000;
const LATENCIES: usize = 1 << 20;
