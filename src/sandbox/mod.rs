//! Takes from the process what it never needs: files, ports, signals to other processes, system calls.
//!
//! In:  [`Needs`], before any thread starts: each inherits what this one has left.
//! Out: [`Entered`], what the kernel enforces from now on. It cannot be undone, and is inherited by the new process of an
//!      upgrade.
//! Source: landlock(7), seccomp(2).

#[cfg(target_os = "linux")]
mod calls;
#[cfg(not(target_os = "linux"))]
#[path = "calls_elsewhere.rs"]
mod calls;
#[cfg(target_os = "linux")]
mod files;
#[cfg(not(target_os = "linux"))]
#[path = "files_elsewhere.rs"]
mod files;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::settings::Sandbox;

/// All that the process may still do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Files, or directories with everything below them, to read.
    pub read: BTreeSet<PathBuf>,
    /// Files, or directories with everything below them, to read and execute.
    pub run: BTreeSet<PathBuf>,
    /// Files to read and write.
    pub write: BTreeSet<PathBuf>,
    /// Directories in which files are made and written.
    pub make_files: BTreeSet<PathBuf>,
    /// Directories in which sockets are made and removed.
    pub make_sockets: BTreeSet<PathBuf>,
    /// TCP ports to listen on; `None`: any.
    pub bind: Option<BTreeSet<u16>>,
    /// TCP ports to connect to; `None`: any.
    pub connect: Option<BTreeSet<u16>>,
}

/// What the kernel enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entered {
    pub files: bool,
    /// The ports to listen on.
    pub bind: bool,
    /// The ports to connect to.
    pub connect: bool,
    /// Signals reach no process outside of the sandbox.
    pub signals: bool,
    pub calls: bool,
    /// Why files or system calls are not restricted.
    pub missing: Vec<String>,
}

/// What `sandbox: require` asks for and this machine does not have.
#[derive(Debug)]
pub(crate) enum SandboxError {
    Files(String),
    Calls(String),
}

/// Restricts this thread and those that it will start.
///
/// # Errors
/// With [`Sandbox::Require`], if the kernel cannot restrict files or system calls. With [`Sandbox::Auto`], what cannot be
/// had is left out.
pub(crate) fn enter(needs: &Needs, demand: Sandbox) -> Result<Entered, SandboxError> {
    let mut entered = Entered::default();
    if demand == Sandbox::Off {
        return Ok(entered);
    }
    let is_required = demand == Sandbox::Require;
    match files::restrict(needs) {
        Ok(restricted) => entered = restricted,
        Err(error) if is_required => return Err(SandboxError::Files(error)),
        Err(error) => entered.missing.push(format!("files: {error}")),
    }
    match calls::restrict() {
        Ok(()) => entered.calls = true,
        Err(error) if is_required => return Err(SandboxError::Calls(error)),
        Err(error) => entered.missing.push(format!("system calls: {error}")),
    }
    let bits = [
        (entered.files, FILES),
        (entered.bind, BIND),
        (entered.connect, CONNECT),
        (entered.signals, SIGNALS),
        (entered.calls, CALLS),
    ];
    let bits = bits.iter().filter(|(is_on, _)| *is_on).fold(0, |all, (_, bit)| all | bit);
    RESTRICTED.store(bits, Ordering::Relaxed);
    if entered.connect {
        // Set once: a process enters once.
        let _ = CONNECT_PORTS.set(needs.connect.clone().unwrap_or_default());
    }
    Ok(entered)
}

/// What a new process inherits from this one, for its [`inherit`]; `None`: nothing.
pub(crate) fn passed_on() -> Option<String> {
    let bits = RESTRICTED.load(Ordering::Relaxed);
    let ports = CONNECT_PORTS.get().into_iter().flatten().map(|port| format!(" {port}"));
    (bits != 0).then(|| bits.to_string() + &ports.collect::<String>())
}

/// Takes note of what the process that started this one has restricted in it. Restricting it again would be in vain, and
/// the kernel allows that a few times only.
pub(crate) fn inherit(passed_on: &str) -> Entered {
    let mut parts = passed_on.split(' ');
    let bits: u8 = parts.next().and_then(|bits| bits.parse().ok()).unwrap_or_default();
    RESTRICTED.store(bits, Ordering::Relaxed);
    let has = |bit| bits & bit != 0;
    if has(CONNECT) {
        let _ = CONNECT_PORTS.set(parts.filter_map(|port| port.parse().ok()).collect());
    }
    Entered {
        files: has(FILES),
        bind: has(BIND),
        connect: has(CONNECT),
        signals: has(SIGNALS),
        calls: has(CALLS),
        missing: Vec::new(),
    }
}

/// The only ports that can be connected to; `None`: all can.
pub(crate) fn connect_ports() -> Option<&'static BTreeSet<u16>> {
    CONNECT_PORTS.get()
}

/// Whether a file that may not be opened may be the sandbox's doing.
pub(crate) fn restricts_files() -> bool {
    RESTRICTED.load(Ordering::Relaxed) & FILES != 0
}

/// Whether an address that may not be bound may be the sandbox's doing.
pub(crate) fn restricts_bind() -> bool {
    RESTRICTED.load(Ordering::Relaxed) & BIND != 0
}

/// The names of all system calls that are allowed.
pub fn system_calls() -> impl Iterator<Item = &'static str> {
    calls::allowed().filter_map(|(name, _)| name.strip_prefix("SYS_"))
}

/// What to do about a file that the sandbox refuses.
pub(crate) const ADVICE: &str = "or the sandbox forbids it: it allows the directories that the configuration named at the \
                                 start. Put the file into one of those, restart snigate, or write `sandbox: off`";
/// What to do about a port that the sandbox refuses.
pub(crate) const PORT_ADVICE: &str = "`sandbox: require` allows the ports that the configuration named at the start: \
                                      restart snigate, or write `sandbox: auto`";

/// Bits of [`RESTRICTED`].
const FILES: u8 = 1;
const BIND: u8 = 2;
const SIGNALS: u8 = 4;
const CALLS: u8 = 8;
const CONNECT: u8 = 16;
/// What the kernel has enforced since [`enter`].
static RESTRICTED: AtomicU8 = AtomicU8::new(0);
static CONNECT_PORTS: OnceLock<BTreeSet<u16>> = OnceLock::new();

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, why, cure) = match self {
            Self::Files(why) => ("files", why, "it needs Linux 5.13 with `landlock` in its `lsm=` list"),
            Self::Calls(why) => ("system calls", why, "it needs CONFIG_SECCOMP_FILTER"),
        };
        write!(
            f,
            "the kernel cannot restrict {what}, which `sandbox: require` asks for: {why} ({cure}); or write `sandbox: auto`"
        )
    }
}

impl std::error::Error for SandboxError {}
