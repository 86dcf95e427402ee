//! `snigate run`: serves until a signal ends it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Exit;
use crate::config::{self, Config, Loaded, Problems, Severity};
use crate::process::apply::ApplyError;
use crate::process::needs;
use crate::process::server::Server;
use crate::process::upgrade::{Inheritance, Predecessor};
use crate::sandbox::{self, Entered, SandboxError};
use crate::supervise::vital_thread;
use crate::telemetry::{LogFile, LogGuard, log};

/// Runs with `file` until drained.
pub(super) fn run(file: PathBuf) -> ExitCode {
    // Before any thread starts, since each inherits it. A new process of an upgrade keeps the capabilities of this one.
    // If the kernel does not support it, snigate runs anyway.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_no_new_privs(true);
    // Must come first, before another descriptor can reuse one of these numbers.
    let inheritance = match Inheritance::take() {
        Ok(inheritance) => inheritance,
        Err(error) => {
            eprintln!("snigate: cannot take over the inherited sockets: {error}");
            return Exit::Bind.into();
        }
    };
    let loaded = Config::load(&file);
    // Reloads read files on another thread.
    config::end_thread();
    match loaded {
        Ok(loaded) => {
            let sandbox = match enter_sandbox(&loaded.config, &inheritance) {
                Ok(sandbox) => sandbox,
                Err(error) => {
                    eprintln!("snigate: {error}");
                    return Exit::Bind.into();
                }
            };
            let log = match start_log(&loaded.config, &loaded.warnings) {
                Ok(log) => log,
                Err(error) => {
                    tell_failed(&error);
                    return Exit::Bind.into();
                }
            };
            log_sandbox(&sandbox);
            serve(loaded, file, inheritance, log, |_| {})
        }
        Err(problems) => {
            tell(&problems);
            Exit::Config.into()
        }
    }
}

/// Restricts the process to what `config` needs, before it starts a thread, which would not be restricted.
fn enter_sandbox(config: &Config, inheritance: &Inheritance) -> Result<Entered, SandboxError> {
    match inheritance.predecessor.as_ref().and_then(Predecessor::sandbox) {
        Some(inherited) => Ok(sandbox::inherit(&inherited)),
        None => sandbox::enter(&needs::of(config), config.sandbox),
    }
}

fn log_sandbox(entered: &Entered) {
    let Entered { files, bind, connect, signals, calls, ref missing } = *entered;
    let missing = missing.join("; ");
    tracing::info!(
        event = "sandbox",
        files,
        bind,
        connect,
        signals,
        calls,
        missing,
        "the process has restricted itself"
    );
}

/// Serves `loaded`; calls `started` before the first connection is accepted.
pub(super) fn serve(
    loaded: Loaded,
    file: PathBuf,
    inheritance: Inheritance,
    log: LogGuard,
    started: impl FnOnce(&Server),
) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return start_failed(&ApplyError::Io(error), log),
    };
    vital_thread("the control thread", || {
        let ended = runtime.block_on(async {
            match Server::start(loaded, file, inheritance).await {
                Ok(server) => {
                    started(&server);
                    server.run(Some(log)).await;
                    ExitCode::SUCCESS
                }
                Err(error) => start_failed(&error, log),
            }
        });
        // Waits for nothing that may still be blocked.
        runtime.shutdown_background();
        ended
    })
}

/// Starts logging as configured; the file's warnings are its first lines.
///
/// # Errors
/// The log file cannot be opened.
pub(super) fn start_log(config: &Config, warnings: &Problems) -> Result<LogGuard, ApplyError> {
    let file = config.log.file.as_ref().map(|path| LogFile::open(&path.0)).transpose();
    let guard = log::init(&config.log, file.map_err(|error| ApplyError::log_file(&config.log, error))?);
    log::log_panics();
    for warning in warnings.iter() {
        tracing::warn!(event = "config_problem", "{warning}");
    }
    Ok(guard)
}

/// Prints the problems of an unusable file, one per line, to stderr.
pub(super) fn tell(problems: &Problems) {
    for problem in problems.iter() {
        eprintln!("{problem}");
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    eprintln!(
        "snigate: {errors} problem{} in the configuration; nothing was started",
        if errors == 1 { "" } else { "s" }
    );
}

/// Finds the routing file: the given one, then the working directory, then /etc.
///
/// # Errors
/// Where it was searched for.
pub(super) fn find_config(given: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(given) = given {
        return Ok(given);
    }
    let places = ["config.yaml", "/etc/snigate/config.yaml"].map(Path::new);
    // After an error the file may still exist; reading it reports what is wrong.
    places.iter().find(|place| place.try_exists().unwrap_or(true)).map(|place| place.to_path_buf()).ok_or_else(|| {
        "no configuration: neither --config nor SNIGATE_CONFIG is given, and there is no ./config.yaml and no \
         /etc/snigate/config.yaml; `snigate demo` needs none"
            .to_owned()
    })
}

fn start_failed(error: &ApplyError, log: LogGuard) -> ExitCode {
    // Queued lines are written first.
    drop(log);
    tell_failed(error);
    match error {
        ApplyError::SelfLoop { .. } | ApplyError::TooManyConnections(_) => Exit::Config.into(),
        _ => Exit::Bind.into(),
    }
}

/// Prints why the process cannot start, and the cause.
pub(super) fn tell_failed(error: &ApplyError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    eprintln!("snigate: {error}{cause}");
}
