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
        ports: needs.bind.is_some() && version >= ABI::V4,
        signals: version >= ABI::V6,
        ..Entered::default()
    })
}

fn ruleset(needs: &Needs) -> Result<RulesetCreated, RulesetError> {
    // Newer rights are left out on older kernels.
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::Signal)?;
    if needs.bind.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    let mut ruleset = ruleset.create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let make_sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
    let paths = [
        (&needs.read, read),
        (&needs.run, read | AccessFs::Execute),
        (&needs.write, AccessFs::ReadFile | AccessFs::WriteFile),
        (&needs.make_sockets, make_sockets),
    ];
    for (paths, access) in paths {
        for path in paths {
            ruleset = allow(ruleset, path, access)?;
        }
    }
    for port in needs.bind.iter().flatten() {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
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
