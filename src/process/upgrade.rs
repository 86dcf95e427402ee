//! Hands the listening sockets to the new process of an upgrade, so that no client notices.
//!
//! In:  listening sockets; in the new process, descriptor 0, which the old one set up.
//! Out: [`Successor`]: the new process, and when it starts serving; [`Predecessor`]: the old process, which waits for
//!      that report.
//!
//! ```text
//! old                                     new
//!  | starts it, with a socket as stdin ---> |
//!  | the listening sockets, by SCM_RIGHTS -> | loads, adopts, binds the rest, accepts
//!  | <------------ serving, except for these |
//!  | drains and ends                        | serves
//! ```
//!
//! In between, both accept from the same queues, so there is no gap. Any failure before `serving` ends the new process
//! and leaves the old one unchanged.
//! Source: unix(7), SCM_RIGHTS.

use std::env;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::process::systemd;
use crate::sandbox;
use crate::socket::{Kind, Label};

/// A listening socket inherited by this process.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub label: Label,
    pub socket: OwnedFd,
    /// Its index among the sockets that the old process handed over; `None` for a socket of the service manager.
    pub number: Option<usize>,
}

/// The sockets that were open before this process, and the process that serves on them now.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    pub sockets: Vec<Inherited>,
    pub predecessor: Option<Predecessor>,
}

impl Inheritance {
    /// Takes the sockets of the old process or of the service manager. Call it once, before anything is opened.
    ///
    /// # Errors
    /// The sockets are missing or invalid.
    pub(crate) fn take() -> io::Result<Self> {
        let lent = systemd::sockets()?.into_iter().map(|(name, socket)| {
            let label = Label { kind: Kind::Unknown, name, wanted: None, lent: true };
            Inherited { label, socket, number: None }
        });
        let mut sockets: Vec<_> = lent.collect();
        let predecessor = Predecessor::find()?;
        if let Some(predecessor) = &predecessor {
            sockets.extend(predecessor.receive()?);
        }
        Ok(Self { sockets, predecessor })
    }
}

/// The old process, which serves until this one does.
#[derive(Debug)]
pub(crate) struct Predecessor(OwnedFd);

impl Predecessor {
    fn find() -> io::Result<Option<Self>> {
        let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().to_string());
        // Ignore a variable that was set for another process.
        if parent.is_none() || env::var(FROM).ok() != parent {
            return Ok(None);
        }
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Some(Self(socket)))
    }

    /// The restrictions that this process has from the old one, if any.
    pub(crate) fn sandbox(&self) -> Option<String> {
        env::var(SANDBOX).ok()
    }

    fn receive(&self) -> io::Result<Vec<Inherited>> {
        let mut inherited = Vec::new();
        loop {
            let (part, sockets) = receive_part(self.0.as_fd())?;
            if part.sockets.len() != sockets.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "sockets were lost during the handover"));
            }
            for (label, socket) in part.sockets.into_iter().zip(sockets) {
                inherited.push(Inherited { label, socket, number: Some(inherited.len()) });
            }
            if part.last {
                return Ok(inherited);
            }
        }
    }

    /// Reports that this process serves, and which sockets it does not use; waits until the old process has read it.
    ///
    /// # Errors
    /// The old process is gone. This one serves regardless.
    pub(crate) async fn serving(self, unwanted: Vec<usize>) -> io::Result<()> {
        let said = serde_json::to_vec(&Serving { unwanted })?;
        send(&self.0, &said, SendFlags::NOSIGNAL)?;
        let socket = watched(self.0)?;
        // Both an acknowledgement and a closed socket mean that this process may continue.
        let _ = timeout(PATIENCE, socket.readable()).await;
        Ok(())
    }
}

/// The new process. Dropping this before it serves kills it.
#[derive(Debug)]
pub(crate) struct Successor {
    child: Option<Child>,
    socket: UnixStream,
}

/// Why an upgrade failed; the old process keeps serving.
#[derive(Debug)]
pub(crate) enum UpgradeError {
    /// We are the first process of a container: when it ends, all others are killed.
    FirstProcess,
    /// This process is not serving yet itself.
    NotReady,
    /// The new process could not be started.
    Start(io::Error),
    /// The new process ended before it served.
    Ended(Option<ExitStatus>),
    /// The new process did not serve within this time.
    Hung(Duration),
}

impl Successor {
    /// Starts the current version of this process's executable, with the same arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start() -> Result<Self, UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::FirstProcess);
        }
        Self::spawn().map_err(UpgradeError::Start)
    }

    fn spawn() -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let socket = watched(ours)?;
        let mut command = Command::new(program()?);
        systemd::OWN_VARIABLES.iter().for_each(|name| _ = command.env_remove(name));
        command.args(env::args_os().skip(1)).env(FROM, std::process::id().to_string()).stdin(Stdio::from(theirs));
        match sandbox::passed_on() {
            Some(state) => command.env(SANDBOX, state),
            None => command.env_remove(SANDBOX),
        };
        Ok(Self { child: Some(command.spawn()?), socket })
    }

    /// Hands over `sockets` and waits until the new process serves; returns the numbers of those it does not use.
    ///
    /// # Errors
    /// It ended, or did not serve within `limit`.
    pub(crate) async fn serve(
        &mut self,
        sockets: &[(Label, BorrowedFd<'_>)],
        limit: Duration,
    ) -> Result<Vec<usize>, UpgradeError> {
        let served = async {
            self.give(sockets).await?;
            self.hear().await
        };
        match timeout(limit, served).await {
            Ok(Ok(Some(Serving { unwanted }))) => Ok(unwanted),
            Ok(Ok(None) | Err(_)) => Err(UpgradeError::Ended(self.status().await)),
            Err(_elapsed) => Err(UpgradeError::Hung(limit)),
        }
    }

    async fn give(&self, sockets: &[(Label, BorrowedFd<'_>)]) -> io::Result<()> {
        let mut parts: Vec<_> = sockets.chunks(MOST_SOCKETS_AT_ONCE).collect();
        let last = parts.pop().unwrap_or_default();
        let parts = parts.into_iter().map(|part| (part, Last::No)).chain([(last, Last::Yes)]);
        for (part, last) in parts {
            loop {
                self.socket.writable().await?;
                match self.socket.try_io(Interest::WRITABLE, || send_part(self.socket.as_fd(), part, last)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => break sent?,
                }
            }
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap_or_default()
    }

    /// Acknowledges the report and lets the new process outlive this one.
    pub(crate) fn release(mut self) {
        let _ = send(&self.socket, b"{}", SendFlags::NOSIGNAL);
        self.child = None;
    }

    async fn hear(&self) -> io::Result<Option<Serving>> {
        let mut bytes = vec![0; MOST_BYTES];
        loop {
            self.socket.readable().await?;
            let receive = || Ok(recv(&self.socket, &mut bytes, RecvFlags::empty())?.0);
            match self.socket.try_io(Interest::READABLE, receive) {
                Ok(0) => return Ok(None),
                Ok(length) => return Ok(Some(serde_json::from_slice(&bytes[..length])?)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Its exit status. Its socket closes a moment before it exits, so this waits up to [`EXIT`].
    async fn status(&mut self) -> Option<ExitStatus> {
        timeout(EXIT, self.child.as_mut()?.wait()).await.ok()?.ok()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // tokio reaps it. (Its `kill_on_drop` would end a released one as well.)
            let _ = child.start_kill();
        }
    }
}

/// Registers a SOCK_SEQPACKET socket with tokio for readiness only; tokio has no seqpacket type, so rustix reads and
/// writes.
fn watched(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// `argv[0]` rather than /proc/self/exe: a symlink that now points at a new version must be resolved again.
pub(crate) fn program() -> io::Result<PathBuf> {
    match env::args_os().next().filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.into()),
        None => env::current_exe(),
    }
}

/// A message to the new process, sent with its sockets.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    protocol: u32,
    sockets: Vec<Label>,
    last: bool,
}

/// The only message from it.
#[derive(Debug, Serialize, Deserialize)]
struct Serving {
    unwanted: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

fn send_part(to: BorrowedFd<'_>, sockets: &[(Label, BorrowedFd<'_>)], last: Last) -> io::Result<()> {
    let labels = sockets.iter().map(|(label, _)| label.clone()).collect();
    let part = serde_json::to_vec(&Part { protocol: PROTOCOL, sockets: labels, last: last == Last::Yes })?;
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| *socket).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS_AT_ONCE))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(&part)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_part(from: BorrowedFd<'_>) -> io::Result<(Part, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS_AT_ONCE))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let sockets = beside
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect();
    let part: Part = serde_json::from_slice(&bytes[..received.bytes])?;
    if part.protocol != PROTOCOL {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the old process uses another handover protocol"));
    }
    Ok((part, sockets))
}

impl std::fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FirstProcess => {
                f.write_str("the first process of a container cannot be upgraded: replace the container")
            }
            Self::NotReady => f.write_str("this process is not ready"),
            Self::Start(error) => {
                write!(f, "the new process cannot be started: {error}")?;
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
                if is_denied && sandbox::restricts_files() { f.write_str(OUTSIDE) } else { Ok(()) }
            }
            Self::Ended(Some(status)) => write!(f, "the new process ended before it served, with {status}"),
            Self::Ended(None) => f.write_str("the new process gave up before it served"),
            Self::Hung(limit) => write!(f, "the new process did not serve within {limit:?} and was ended"),
        }
    }
}

impl std::error::Error for UpgradeError {}

const OUTSIDE: &str = ", or the sandbox forbids it: the new program must lie in the directory of the old one, and not be \
                       a script; restart snigate instead";
/// Set to what the old process has left of itself, which the new one inherits.
const SANDBOX: &str = "SNIGATE_SANDBOX";
/// Set to the process id of the old process.
const FROM: &str = "SNIGATE_UPGRADE_FROM";
/// Version of the messages sent with the sockets.
const PROTOCOL: u32 = 1;
/// Below SCM_MAX_FD, 253.
const MOST_SOCKETS_AT_ONCE: usize = 64;
/// For one message: far more than this many labels need.
const MOST_BYTES: usize = 128 << 10;
const EXIT: Duration = Duration::from_secs(1);
/// How long to wait for a message that the other process is about to send.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_arrive_with_their_labels_and_are_the_same() {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let label = |number: usize| Label {
            kind: Kind::Listener,
            name: format!("l{number}"),
            wanted: Some("127.0.0.1:0".to_owned()),
            lent: false,
        };
        let sockets: Vec<_> = (0..).map(label).zip(listeners.iter().map(AsFd::as_fd)).collect();
        send_part(one.as_fd(), &sockets, Last::Yes).expect("sent");
        let (part, received) = receive_part(other.as_fd()).expect("received");
        assert!(part.last);
        assert_eq!(part.sockets, (0..3).map(label).collect::<Vec<_>>());
        let address = |socket: TcpListener| socket.local_addr().expect("bound");
        let came: Vec<_> = received.into_iter().map(|socket| address(TcpListener::from(socket))).collect();
        assert_eq!(came, listeners.into_iter().map(address).collect::<Vec<_>>());
    }

    #[test]
    fn another_language_is_not_understood() {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
        for said in [&b"{\"protocol\":2,\"sockets\":[],\"last\":true}"[..], b"hello", b"{}"] {
            send(&one, said, SendFlags::empty()).expect("sent");
            assert!(receive_part(other.as_fd()).is_err());
        }
        drop(one);
        assert!(receive_part(other.as_fd()).is_err());
    }
}
