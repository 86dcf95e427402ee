//! Finds the running snigate that a command is about, and asks it.
//!
//! In:  `--admin` and `--token-file`, the variable `SNIGATE_TOKEN`, or the routing file that it runs with.
//! Out: what its admin API answers, read into a type; or a [`Failure`] that says what to do.
//!
//! A unix socket is tried before an address, since it proves who asks. The token of the routing file is read only for
//! changes: reading needs none, and who may read the status is often not allowed to read the token.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::admin_client::{self, Answer, Request};
use super::remote_failure::{Failure, GivenToken};
use crate::config::{AdminSection, Config, Token};
use crate::settings::Address;

#[derive(Args, Clone, Debug)]
pub(super) struct RemoteOptions {
    /// Asks the snigate at this admin address (HOST:PORT or unix:/PATH) instead of the one in the routing file
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(super) admin: Option<String>,
    /// The file with the token for changes; if not given, the token in SNIGATE_TOKEN, or `admin.token_file`
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,
}

/// The running snigate that a command is about.
#[derive(Args, Clone, Debug)]
pub(super) struct Target {
    /// The routing file that it runs with
    #[arg(conflicts_with = "admin")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: RemoteOptions,
}

/// A running snigate.
#[derive(Debug)]
pub(super) struct Remote {
    /// In the order in which they are tried.
    addresses: Vec<Address>,
    /// The routing file that names them; `None`: the command line does.
    file: Option<PathBuf>,
    /// Of the command line or the environment.
    token: Option<Token>,
    /// Of the routing file.
    token_file: Option<PathBuf>,
    /// The routing file that may name other addresses, but cannot be read.
    guessed: Option<PathBuf>,
}

impl Remote {
    /// Finds it through `options`, or through the routing file that `file` returns.
    ///
    /// # Errors
    /// Neither leads to an address, or the given token cannot be read.
    pub(super) fn find(options: &RemoteOptions, file: impl FnOnce() -> Option<PathBuf>) -> Result<Self, Failure> {
        let token = given_token(options.token_file.as_deref())?;
        if let Some(given) = &options.admin {
            return Ok(Self {
                addresses: vec![given_address(given)?],
                file: None,
                token,
                token_file: None,
                guessed: None,
            });
        }
        let Some(file) = file() else {
            // `snigate demo` runs with these, too.
            let addresses = crate::settings::Admin::default().bind.to_vec();
            return Ok(Self { addresses, file: None, token, token_file: None, guessed: None });
        };
        let section = Config::admin_of(&file);
        let section = section.map_err(|problems| Failure::File { file: file.clone(), problems: Box::new(problems) })?;
        note_unreadable(&file, &section);
        let AdminSection { admin, token_file, unreadable } = section;
        let usable = |address: &Address| address.tcp().is_none_or(|tcp| tcp.port() != 0);
        let mut addresses: Vec<Address> = admin.bind.iter().filter(|address| usable(address)).cloned().collect();
        // Stable: the file's order otherwise.
        addresses.sort_by_key(|address| address.tcp().is_some());
        if addresses.is_empty() {
            let is_off = admin.bind.is_empty();
            return Err(Failure::NoAddress { file, is_off });
        }
        let is_named = unreadable.as_ref().is_none_or(|unreadable| !unreadable.is_default);
        let guessed = unreadable.is_some_and(|unreadable| unreadable.is_guess).then(|| file.clone());
        Ok(Self { addresses, file: is_named.then_some(file), token, token_file, guessed })
    }

    /// # Errors
    /// The routing file cannot be read and may name another address, so a change might reach another process.
    pub(super) fn is_certain(&self) -> Result<(), Failure> {
        self.guessed.as_ref().map_or(Ok(()), |file| Err(Failure::Guess(file.clone())))
    }

    /// Where it is asked: the first of its addresses.
    pub(super) fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Asks for `path`, and returns when the head of the answer has arrived.
    ///
    /// # Errors
    /// No address accepts the connection: the error of the last one. Or what answers does not speak HTTP.
    pub(super) async fn open(&self, path: &str) -> io::Result<Response<Incoming>> {
        let token = self.token.as_ref().map(|token| &**token.secret());
        let request = Request { token, ..Request::get(path) };
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for address in &self.addresses {
            match admin_client::open(&admin_client::reachable(address), &request).await {
                Err(error) if error.kind() != io::ErrorKind::Other => failed = error,
                opened => return opened,
            }
        }
        Err(failed)
    }

    /// Asks for `path`, and reads the answer into a type.
    ///
    /// # Errors
    /// There is no answer, or not the expected one.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let (address, answer) = self.exchange(Method::GET, path, "", READ_LIMIT)?;
        parsed(&address, &answer.body)
    }

    /// Sends a change; returns the status, a success or one of `accepted`, and the answer.
    ///
    /// # Errors
    /// As for [`Self::read`], or the change was refused, or it is not known for certain which process is meant.
    pub(super) fn change(
        &self,
        method: Method,
        path: &str,
        body: &str,
        limit: Duration,
        accepted: &[StatusCode],
    ) -> Result<(StatusCode, Value), Failure> {
        self.is_certain()?;
        let (address, answer) = match self.exchange(method, path, body, limit) {
            Err(Failure::Status { address, answer, .. }) if accepted.contains(&answer.status) => (address, answer),
            other => other?,
        };
        Ok((answer.status, parsed(&address, &answer.body)?))
    }

    /// Tries the addresses until one accepts the connection.
    fn exchange(&self, method: Method, path: &str, body: &str, limit: Duration) -> Result<(Address, Answer), Failure> {
        let (token, of) = if method.is_safe() { (self.token.clone(), None) } else { self.token_for_changes() };
        let request = Request { method, path, body, token: token.as_ref().map(|token| &**token.secret()) };
        let mut failed = Vec::new();
        for address in &self.addresses {
            let address = admin_client::reachable(address);
            match admin_client::send(&address, &request, limit, MOST_ANSWER_BYTES) {
                Ok(answer) if answer.status.is_success() => return Ok((address, answer)),
                Ok(answer) => {
                    let token = match (&token, of) {
                        (Some(token), _) => GivenToken::Sent(token.file().to_path_buf()),
                        (None, Some(error)) => GivenToken::Unreadable(error),
                        (None, None) => GivenToken::None,
                    };
                    let skipped = failed;
                    return Err(Failure::Status { address, answer, token, skipped });
                }
                Err(error) if error.kind() == io::ErrorKind::Other => return Err(Failure::NotHttp { address, error }),
                Err(error) => failed.push((address, error)),
            }
        }
        Err(Failure::NoAnswer { failed, file: self.file.clone() })
    }

    /// The token to send with a change, or why that of the routing file cannot be read. A client of the unix socket may
    /// need none.
    fn token_for_changes(&self) -> (Option<Token>, Option<String>) {
        match (&self.token, &self.token_file) {
            (Some(token), _) => (Some(token.clone()), None),
            (None, Some(file)) => match Token::read(file) {
                Ok(token) => (Some(token), None),
                Err(error) => (None, Some(error.to_string())),
            },
            (None, None) => (None, None),
        }
    }
}

/// Says which address is asked for a routing file that cannot be read, and why it cannot: the process may well serve
/// an earlier version of it.
pub(super) fn note_unreadable(file: &Path, section: &AdminSection) {
    let Some(unreadable) = &section.unreadable else { return };
    let asked = if unreadable.is_default {
        format!("the default admin address is asked, {}; --admin ADDRESS asks another one", section.admin.bind[0])
    } else {
        "the admin address is that of its `admin` section".to_owned()
    };
    eprintln!("snigate: {} cannot be read as a whole: {asked}\n{}", file.display(), unreadable.problems);
}

fn given_address(given: &str) -> Result<Address, Failure> {
    if given.starts_with("https://") {
        return Err(Failure::Https(given.to_owned()));
    }
    admin_client::address(given).map_err(|error| Failure::Address { given: given.to_owned(), error })
}

/// The token of `--token-file`, or else of the environment.
fn given_token(file: Option<&Path>) -> Result<Option<Token>, Failure> {
    let from_environment = || env::var_os(VARIABLE).filter(|value| !value.is_empty());
    let token = match file {
        Some(file) => Some(Token::read(file)),
        None => from_environment().map(|value| Token::parse(value.as_encoded_bytes(), Path::new(VARIABLE))),
    };
    token.transpose().map_err(|error| Failure::Token(error.to_string()))
}

fn parsed<T: DeserializeOwned>(address: &Address, body: &str) -> Result<T, Failure> {
    serde_json::from_str(body)
        .map_err(|error| Failure::NotSnigate { address: address.clone(), why: format!("unexpected answer: {error}") })
}

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    // A form's encoding, except that a path does not turn `+` into a space.
    form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

const VARIABLE: &str = "SNIGATE_TOKEN";
/// For a status or a page of a list.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Enough for the status of ten thousand backends.
const MOST_ANSWER_BYTES: usize = 64 << 20;
