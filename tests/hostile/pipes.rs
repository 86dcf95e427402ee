//! The kernel's quota of pipes for an ordinary user (pipe(7), /proc/sys/fs/pipe-user-pages-soft).

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Running, poll};
use crate::wire::{fill, reset, send};

#[test]
fn an_ordinary_user_splices_more_transfers_than_large_pipes_fit_into_the_quota() {
    let backend = Backend::that(|stream| {
        fill(&stream);
        let _ = std::io::copy(&mut &stream, &mut std::io::sink());
    });
    let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 1 }");
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    if geteuid().is_root() {
        // Where that user may read it.
        let program = directory.path().join("snigate");
        fs::copy(env!("CARGO_BIN_EXE_snigate"), &program).unwrap();
        // A number that no other process has: the quota is that of the user.
        let user = (300_000 + std::process::id()).to_string();
        command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(program);
    }
    command.stdin(Stdio::null());
    let lb = Running::start_in(directory, command, &lb.config());
    // None of them reads, so each holds a pipe, unless its data stopped before it was bulk.
    let clients: Vec<TcpStream> = (0..160).map(|_| send(lb.address(), &hello("a.test"))).collect();
    let pipes = poll(|| match open_pipes(lb.pid()) {
        pipes if pipes >= 90 => Ok(()),
        pipes => Err(pipes),
    });
    assert_eq!(pipes, Ok(()), "of 160");
    clients.into_iter().for_each(reset);
    lb.wait_for_metric("connections_active", &[], 0.0);
    lb.stop();
}

/// Two descriptors each.
fn open_pipes(pid: u32) -> usize {
    let files =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    files.filter(|target| target.to_string_lossy().starts_with("pipe:")).count() / 2
}
