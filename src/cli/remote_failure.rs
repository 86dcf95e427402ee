//! Why a running snigate could not be asked, or refused, and what to do about it.
//!
//! In:  errors of the connection, and answers other than success.
//! Out: one message with the cure, and the exit code.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use hyper::StatusCode;
use serde_json::Value;

use super::Exit;
use super::admin_client::Answer;
use super::printable::printable;
use crate::config::Problems;
use crate::operate::admin::NEEDS_PROOF;
use crate::settings::Address;

#[derive(Debug)]
pub(super) enum Failure {
    /// `--admin` is not an address.
    Address {
        given: String,
        error: io::Error,
    },
    Https(String),
    /// The token of the command line or the environment cannot be used.
    Token(String),
    /// The routing file does not say where the admin server is.
    File {
        file: PathBuf,
        problems: Box<Problems>,
    },
    NoAddress {
        file: PathBuf,
        /// Otherwise its port is chosen when it starts.
        is_off: bool,
    },
    /// The routing file cannot be read, and the default address may be that of another process.
    Guess(PathBuf),
    /// No address accepted a connection, or answered in time.
    NoAnswer {
        failed: Vec<(Address, io::Error)>,
        file: Option<PathBuf>,
    },
    NotHttp {
        address: Address,
        error: io::Error,
    },
    NotSnigate {
        address: Address,
        why: String,
    },
    /// An answer other than success.
    Status {
        address: Address,
        answer: Answer,
        token: GivenToken,
        /// The addresses tried before.
        skipped: Vec<(Address, io::Error)>,
    },
    /// The command cannot do what was asked for.
    Usage(String),
}

/// The token that was sent.
#[derive(Debug)]
pub(super) enum GivenToken {
    /// From this file, or from the environment.
    Sent(PathBuf),
    /// None, because that of the routing file cannot be read.
    Unreadable(String),
    None,
}

impl Failure {
    /// Prints the message; returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        eprintln!("snigate: {self}");
        match self {
            Self::Address { .. } | Self::Https(_) | Self::Token(_) | Self::Usage(_) => Exit::Usage.into(),
            _ => Exit::Config.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { given, error } => {
                let given = printable(given);
                write!(f, "`{given}` is not a valid admin address (HOST:PORT or unix:/PATH): {error}")
            }
            Self::Https(given) => write!(
                f,
                "`{}`: the admin server speaks plain HTTP; use a tunnel, such as `ssh -L 9901:127.0.0.1:9901 HOST`, and \
                 `--admin 127.0.0.1:9901`",
                printable(given)
            ),
            Self::Token(error) => write!(f, "the token cannot be used: {}", printable(error)),
            Self::File { file, problems } => write!(
                f,
                "{} does not say where the admin server is; correct it, or use --admin ADDRESS\n{problems}",
                file.display()
            ),
            Self::NoAddress { file, is_off: true } => {
                write!(f, "{} turns the admin server off (`admin: {{ bind: [] }}`)", file.display())
            }
            Self::NoAddress { file, is_off: false } => write!(
                f,
                "in {} the admin server has port 0, so its port is not known; the log shows it (`admin_listening`): \
                 use --admin ADDRESS",
                file.display()
            ),
            Self::Guess(file) => write!(
                f,
                "nothing was changed: {} does not say which admin address is meant; use --admin ADDRESS, which may be the \
                 default, 127.0.0.1:9901",
                file.display()
            ),
            Self::NoAnswer { failed, file } => no_answer(failed, file.as_ref(), f),
            Self::NotHttp { address, error } => {
                let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
                write!(f, "{address} does not answer as snigate's admin server does: {}", printable(&cause))
            }
            Self::NotSnigate { address, why } => {
                write!(f, "{address} does not answer as snigate's admin server does: {}", printable(why))
            }
            Self::Status { address, answer, token, skipped } => refused(address, answer, token, skipped, f),
            Self::Usage(message) => f.write_str(message),
        }
    }
}

fn no_answer(failed: &[(Address, io::Error)], file: Option<&PathBuf>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, (address, error)) in failed.iter().enumerate() {
        let and = if at == 0 { "" } else { "\n  " };
        write!(f, "{and}no answer from the admin address {address}: {}", reason(error))?;
    }
    match (failed.first(), file) {
        (Some((Address::Unix(_), error)), _) if error.kind() == io::ErrorKind::PermissionDenied => {
            f.write_str("\n  Only the user that runs snigate, and root, can use its socket.")
        }
        (_, Some(file)) => write!(
            f,
            "\n  Is snigate running? {} names this address; `--admin ADDRESS` asks another one.",
            file.display()
        ),
        (_, None) => f.write_str(
            "\n  Is snigate running? `--admin ADDRESS` or `--config FILE` says where its admin server listens.",
        ),
    }
}

/// The words for the most common kinds, without the number of the system.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::TimedOut => "it did not answer in time".to_owned(),
        _ => error.to_string(),
    }
}

fn refused(
    address: &Address,
    answer: &Answer,
    token: &GivenToken,
    skipped: &[(Address, io::Error)],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let Some(said) = said(&answer.body) else {
        let status = answer.status;
        return write!(f, "{address} does not answer as snigate's admin server does: it answered \"{status}\"");
    };
    write!(f, "{address} refused: {}", printable(&said))?;
    for (address, error) in skipped {
        write!(f, "\n  {address} was tried first: {}", reason(error))?;
    }
    match (answer.status, token) {
        (StatusCode::UNAUTHORIZED, GivenToken::Sent(file)) => write!(
            f,
            "\n  The token from {} is not the one that the running process has (`admin.token_file`).",
            file.display()
        ),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, GivenToken::Unreadable(error)) => {
            write!(f, "\n  {}. Run the command as a user that can, or pass --token-file FILE.", printable(error))
        }
        (StatusCode::UNAUTHORIZED, GivenToken::None) => {
            f.write_str("\n  Pass it with --token-file FILE, or in the variable SNIGATE_TOKEN.")
        }
        (StatusCode::FORBIDDEN, _) if said == NEEDS_PROOF => f.write_str(HOW_TO_PROVE),
        (StatusCode::FORBIDDEN, _) => f.write_str(
            "\n  docs/admin.md describes who may change state: `admin.allow_control` and `admin.token_file`.",
        ),
        _ => Ok(()),
    }
}

const HOW_TO_PROVE: &str = "
  Either add a unix socket to the routing file, which needs no token:
    admin: { bind: [\"127.0.0.1:9901\", \"unix:/run/snigate/admin.sock\"] }
  or a token, and pass it with --token-file FILE:
    admin: { bind: \"127.0.0.1:9901\", token_file: /etc/snigate/token }
  Restart snigate if the reload says that the sandbox denies the new socket or file.
  A reload alone needs neither: save the file, or send SIGHUP to the process.";

/// What the admin server gives as the reason: `error`, or `detail` of a problem (RFC 9457).
pub(super) fn said(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    ["error", "detail", "title"].iter().find_map(|key| body[key].as_str()).map(str::to_owned)
}
