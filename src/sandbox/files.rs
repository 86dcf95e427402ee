//! Restricts files, ports and signals with Landlock.
//!
//! In:  [`Needs`].
//! Out: [`Entered`], as far as this kernel's version of Landlock can.
//! Source: landlock(7).

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Entered, Needs};

/// # Errors
/// The kernel has no Landlock, or it is not enabled.
pub(super) fn restrict(needs: &Needs) -> Result<Entered, String> {
    let restricted = ruleset(needs).and_then(RulesetCreated::restrict_self).map_err(|error| error.to_string())?;
    let version = match restricted.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled => return Err("Landlock is not enabled".to_owned()),
        LandlockStatus::NotImplemented => return Err("the kernel has no Landlock".to_owned()),
    };
    Ok(Entered {
        files: restricted.ruleset != RulesetStatus::NotEnforced,
        bind: needs.bind.is_some() && version >= ABI::V4,
        connect: needs.connect.is_some() && version >= ABI::V4,
        signals: version >= ABI::V6,
        ..Entered::default()
    })
}

fn ruleset(needs: &Needs) -> Result<RulesetCreated, RulesetError> {
    // Newer rights are left out on older kernels.
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::Signal)?;
    let ports = [(&needs.bind, AccessNet::BindTcp), (&needs.connect, AccessNet::ConnectTcp)];
    for (_, access) in ports.iter().filter(|(ports, _)| ports.is_some()) {
        ruleset = ruleset.handle_access(*access)?;
    }
    let mut ruleset = ruleset.create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let make_sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
    let make_files = AccessFs::MakeReg | AccessFs::WriteFile;
    let paths = [
        (&needs.read, read),
        (&needs.run, read | AccessFs::Execute),
        (&needs.write, AccessFs::ReadFile | AccessFs::WriteFile),
        (&needs.make_files, make_files),
        (&needs.make_sockets, make_sockets),
    ];
    for (paths, access) in paths {
        for path in paths {
            ruleset = allow(ruleset, path, access)?;
        }
    }
    for (ports, access) in ports {
        for port in ports.iter().flatten() {
            ruleset = ruleset.add_rule(NetPort::new(*port, access))?;
        }
    }
    Ok(ruleset)
}

/// What is not there is not allowed, and need not be: a rule is about an inode.
fn allow(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

/// The newest version whose rights are all known here.
const NEWEST: ABI = ABI::V6;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::{fs, thread};

    use super::*;

    /// The kind of error, or that there is none.
    fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn only_what_is_needed_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let [inside, logs, outside] = ["inside", "logs", "outside"].map(|name| directory.path().join(name));
        for made in [&inside, &logs, &outside] {
            fs::create_dir(made).unwrap();
            fs::write(made.join("file"), "x").unwrap();
        }
        let [one, other] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [one, other] = [one, other].map(|listener| (listener.local_addr().unwrap(), listener));
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let needs = Needs {
            read: BTreeSet::from([inside.clone()]),
            make_files: BTreeSet::from([logs.clone()]),
            make_sockets: BTreeSet::from([inside.clone()]),
            bind: Some(BTreeSet::from([0])),
            connect: Some(BTreeSet::from([one.0.port()])),
            ..Needs::default()
        };
        // Of this thread only.
        let restricted = thread::spawn(move || {
            let Ok(entered) = restrict(&needs) else { return println!("skipped: no Landlock here") };
            assert_eq!(kind(fs::read(inside.join("file"))), None);
            assert_eq!(kind(fs::read(outside.join("file"))), Some(ErrorKind::PermissionDenied));
            assert_eq!(kind(fs::read_dir(&outside)), Some(ErrorKind::PermissionDenied));
            assert_eq!(kind(fs::write(inside.join("file"), "y")), Some(ErrorKind::PermissionDenied));
            for file in ["file", "new"] {
                assert_eq!(kind(fs::OpenOptions::new().append(true).create(true).open(logs.join(file))), None);
            }
            assert_eq!(kind(fs::read(logs.join("file"))), Some(ErrorKind::PermissionDenied));
            assert_eq!(kind(fs::remove_file(logs.join("file"))), Some(ErrorKind::PermissionDenied));
            assert_eq!(kind(std::os::unix::net::UnixListener::bind(inside.join("socket"))), None);
            let elsewhere = std::os::unix::net::UnixListener::bind(outside.join("socket"));
            assert_eq!(kind(elsewhere), Some(ErrorKind::PermissionDenied));
            if entered.bind {
                assert_eq!(kind(TcpListener::bind("127.0.0.1:0")), None);
                assert_eq!(kind(TcpListener::bind(free)), Some(ErrorKind::PermissionDenied));
                assert_eq!(kind(TcpStream::connect(one.0)), None);
                assert_eq!(kind(TcpStream::connect(other.0)), Some(ErrorKind::PermissionDenied));
            }
        });
        restricted.join().unwrap();
    }
}
