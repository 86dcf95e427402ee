//! Logs connections without ever blocking the caller: a line when each ends, and lines while long ones are open.
//!
//! In:  what is known about a connection.
//! Out: records, as `log.connections` and `log.probes` want them; of connections that were refused, at most `log.refusals`
//!      for each reason.
//! Source: docs/logs.md.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::format::Medium;
use super::line::ConnectionLine;
use super::open_line::OpenConnectionLine;
use super::output::Sink;
use super::outputs::Outputs;
use crate::settings::{Log, LogConnections};
use crate::telemetry::{Fault, LimitScope, Reason};

/// The connection log of a configuration. Clones write to the same outputs.
#[derive(Clone)]
pub struct ConnectionLog {
    outputs: To,
    which: LogConnections,
    probes: bool,
}

#[derive(Clone)]
enum To {
    Shared(&'static Outputs),
    Own(Arc<Outputs>),
}

impl ConnectionLog {
    /// Lines go to the outputs of the process, like the operator messages.
    pub fn shared(settings: &Log) -> Self {
        Self { outputs: To::Shared(Outputs::shared()), which: settings.connections, probes: settings.probes }
    }

    /// Lines go to `write`, for tests and benches. It is called as write(2) would be.
    pub fn to(write: impl FnMut(&[u8]) -> io::Result<usize> + Send + 'static, settings: &Log) -> Self {
        let outputs = Outputs::new(Sink::Stdout(Box::new(write)), Medium::Other, settings);
        Self { outputs: To::Own(Arc::new(outputs)), which: settings.connections, probes: settings.probes }
    }

    /// Whether a connection with this reason is logged; check it first to avoid recording a line in vain.
    pub fn wants(&self, reason: Reason) -> bool {
        match self.which {
            LogConnections::All => self.probes || reason != Reason::Probe,
            // Clients that left before their ClientHello, port scans and TCP checks are no fault: there are thousands.
            LogConnections::Failed => reason.fault() != Fault::None,
            LogConnections::Off => false,
        }
    }

    /// Notes a client that a limit which only counts would have refused, and not one too many of them. `of` is what has
    /// the limit, and its name.
    pub fn over_limit(&self, client: SocketAddr, (kind, name): (&str, &str), limit: LimitScope) {
        if self.outputs().refusals.admit_over_limit() {
            tracing::info!(
                event = "client_over_limit",
                %client,
                of = format_args!("{kind} {name}"),
                limit = limit.as_str(),
                "a client is over a limit that is not enforced"
            );
        }
    }

    /// Writes the line if it is wanted, and not one too many about refused clients.
    pub fn line(&self, line: &ConnectionLine<'_>) {
        if self.wants(line.reason) && self.outputs().refusals.admit(line.reason) {
            self.push(|record| line.record(record, SystemTime::now()));
        }
    }

    /// Writes the line of a connection that is still open.
    pub fn open_line(&self, line: &OpenConnectionLine<'_>) {
        self.push(|record| line.record(record, SystemTime::now()));
    }

    /// Waits until all lines are written, for at most a second and a half.
    pub fn flush(&self) {
        self.outputs().flush();
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        thread_local! {
            /// Used again for each line of the thread.
            static RECORD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut record = RECORD.take();
        record.clear();
        write(&mut record);
        // A connection cannot handle a write error; the queue counts the lines it drops.
        self.outputs().push(&record);
        RECORD.set(record);
    }

    fn outputs(&self) -> &Outputs {
        match &self.outputs {
            To::Shared(outputs) => outputs,
            To::Own(outputs) => outputs,
        }
    }
}

#[cfg(test)]
mod tests;
