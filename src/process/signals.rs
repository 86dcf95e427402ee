//! Receives signals on a thread of its own, so that a second stop signal ends the process whatever the others do.
//!
//! In:  SIGTERM and SIGINT to stop, SIGHUP to reload, SIGUSR2 to upgrade.
//! Out: [`Requested`], one for each. If a second stop is not answered, this ends the process.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, interval, sleep};

use crate::process::reload::Asker;
use crate::process::systemd;
use crate::supervise::{BROKEN, vital_thread};
use crate::telemetry::{Trigger, log};

/// The control runtime's end.
pub(crate) struct Signals {
    requests: mpsc::UnboundedReceiver<Requested>,
    is_stopping_now: Arc<AtomicBool>,
    /// When to send a watchdog keep-alive. Sent only while waiting for requests, so that it proves they are handled.
    beat: Option<Interval>,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    Reload,
    Stop,
    Upgrade,
}

impl Signals {
    /// Starts the thread. From here on, no signal has its default action.
    ///
    /// # Errors
    /// The thread or a descriptor cannot be created.
    pub(crate) fn listen() -> io::Result<Self> {
        let (sender, requests) = mpsc::unbounded_channel();
        let is_stopping_now = Arc::<AtomicBool>::default();
        let (begun, result) = sync_channel(1);
        let answered = Arc::clone(&is_stopping_now);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            vital_thread("the signal thread", move || {
                let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = begun.send(Err(error));
                        return;
                    }
                };
                runtime.block_on(async {
                    match Streams::open() {
                        Ok(streams) => {
                            let _ = begun.send(Ok(()));
                            streams.pass_on(&sender, &answered).await;
                        }
                        Err(error) => _ = begun.send(Err(error)),
                    }
                });
            });
        })?;
        result.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread ended immediately")))?;
        Ok(Self { requests, is_stopping_now, beat: systemd::watchdog().map(|limit| interval(limit / 2)) })
    }

    pub(crate) async fn next(&mut self) -> Requested {
        tokio::select! {
            requested = self.requests.recv() => match requested {
                Some(requested) => requested,
                // The thread is gone only when the process is.
                None => std::future::pending().await,
            },
            never = beat(&mut self.beat) => match never {},
        }
    }

    /// Waits for a request to stop. Reload requests are passed on; upgrade requests are ignored.
    pub(crate) async fn stop(&mut self, reloads: &Asker) {
        loop {
            match self.next().await {
                Requested::Stop => return,
                Requested::Reload => reloads.ask(Trigger::Signal),
                Requested::Upgrade => {}
            }
        }
    }

    /// Reports that the second request to stop was received, and that connections are being ended.
    pub(crate) fn stopping_now(&self) {
        self.is_stopping_now.store(true, Ordering::Relaxed);
    }
}

/// Sends watchdog keep-alives; never returns.
async fn beat(every: &mut Option<Interval>) -> Infallible {
    match every {
        None => std::future::pending().await,
        Some(every) => loop {
            every.tick().await;
            systemd::alive();
        },
    }
}

/// The thread's end.
struct Streams {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
}

impl Streams {
    fn open() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Requested {
        tokio::select! {
            _ = self.hangup.recv() => Requested::Reload,
            _ = self.terminate.recv() => Requested::Stop,
            _ = self.interrupt.recv() => Requested::Stop,
            _ = self.upgrade.recv() => Requested::Upgrade,
        }
    }

    async fn pass_on(mut self, to: &mpsc::UnboundedSender<Requested>, is_stopping_now: &AtomicBool) {
        let mut stops = 0;
        while stops < 2 {
            let requested = self.next().await;
            stops += u32::from(requested == Requested::Stop);
            if requested == Requested::Reload {
                // Here, since a reload may have to wait for others: whoever has moved the file away waits for this.
                log::reopen();
            }
            // Without a receiver, the process is about to end.
            let _ = to.send(requested);
        }
        let patience = async {
            sleep(ANSWER).await;
            if is_stopping_now.load(Ordering::Relaxed) {
                sleep(END).await;
            }
        };
        tokio::select! {
            () = patience => {
                tracing::error!(event = "stop_unanswered", "the process does not stop after a second signal: exiting");
                log::flush();
            }
            () = async { while self.next().await != Requested::Stop {} } => {}
        }
        eprintln!("snigate: the process did not stop after a second signal; exiting without ending its connections");
        std::process::exit(BROKEN)
    }
}

/// For the control runtime to answer a second stop.
const ANSWER: Duration = Duration::from_secs(1);
/// For everything after the answer: connections are ended, workers stop, the log is written.
const END: Duration = Duration::from_secs(5);
