//! Files that cannot be read like files: FIFOs, devices, and file systems that never answer. And a process that has no
//! threads left to read them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::backend::Backend;
use crate::harness::{Lb, Reload, Running};
use crate::trial::Trial;

fn with_token(lb: &Lb, file: &str) -> String {
    lb.clone().with(&format!("admin: {{ bind: \"127.0.0.1:0\", token_file: \"{file}\" }}")).config()
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The newest of the problems that were logged.
fn problem(lb: &Running) -> String {
    let is_problem = |line: &&Value| line["event"] == "config_problem";
    let line = lb.log();
    line.iter().rev().find(is_problem).and_then(|line| line["msg"].as_str()).expect("a problem").to_owned()
}

#[test]
fn what_is_not_a_file_is_refused_by_its_type() {
    let backend = Backend::answering(b"served");
    let plain = Lb::new().route("a.test", &backend);
    let lb = Trial::of(plain.clone());
    fifo(&lb.directory().join("fifo"));
    fs::create_dir(lb.directory().join("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(lb.directory().join("socket")).unwrap();
    symlink("fifo", lb.directory().join("link")).unwrap();
    for (file, kind) in [
        ("fifo", "a FIFO, not a regular file"),
        ("link", "a FIFO, not a regular file"),
        ("socket", "a socket, not a regular file"),
        ("/dev/zero", "a device, not a regular file"),
        ("directory", "a directory, not a file"),
    ] {
        assert_eq!(lb.edit(&with_token(&plain, file)), Reload::Rejected, "{file}");
        let said = problem(&lb);
        assert!(said.contains("admin.token_file") && said.contains(kind), "{said}");
        let include = format!("include: \"{file}\"\n{}", plain.config());
        assert_eq!(lb.edit(&include), Reload::Rejected, "{file}");
        assert!(problem(&lb).contains(kind), "{}", problem(&lb));
    }
    assert_eq!(lb.answer("a.test"), b"served");

    // The routing file itself.
    let seen = lb.log().len();
    fs::remove_file(lb.config_file()).unwrap();
    fifo(&lb.config_file());
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected);
    assert!(problem(&lb).contains("a FIFO"), "{}", problem(&lb));
    fs::remove_file(lb.config_file()).unwrap();
    let seen = lb.log().len();
    fs::write(lb.config_file(), format!("{}# again\n", plain.config())).unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    lb.end();
}

#[test]
fn a_start_on_a_fifo_fails_at_once() {
    let directory = tempfile::tempdir().unwrap();
    fifo(&directory.path().join("token"));
    let file = directory.path().join("config.yaml");
    fs::write(&file, with_token(&Lb::new().unmatched(SocketAddr::from(([127, 0, 0, 1], 1))), "token")).unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_snigate")).args(["run", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("token` cannot be used: this is a FIFO"), "{said}");
}

/// A shell that mounts a file system that nobody serves at its directory, and becomes the program.
fn beside_a_dead_mount(directory: &Path) -> Command {
    // Whoever mounts FUSE answers its requests, by this descriptor; the program that inherits it does not.
    let script = format!(
        "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 none '{}' && exec \"$@\"",
        directory.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]).stdin(Stdio::null());
    command
}

/// A directory that can be mounted over, unless that is impossible here.
fn mountable() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let tried = beside_a_dead_mount(directory.path()).arg("true").output();
    if tried.is_ok_and(|tried| tried.status.success()) {
        return Some(directory);
    }
    assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "cannot mount FUSE here");
    println!("skipped: cannot mount FUSE here");
    None
}

#[test]
fn a_file_system_that_never_answers_fails_the_reload_and_holds_up_nothing_else() {
    let Some(dead) = mountable() else { return };
    let dead = dead.path();
    let backend = Backend::answering(b"served");
    let plain = Lb::new().route("a.test", &backend).route("b.test", &backend);
    let mut command = beside_a_dead_mount(dead);
    command.arg(env!("CARGO_BIN_EXE_snigate"));
    let mut lb = Running::start_by(command, &plain.config());

    let included = format!("include: \"{}/*.yaml\"\n{}", dead.display(), plain.config());
    let token = with_token(&plain, &format!("{}/token", dead.display()));
    for (config, place) in [(token, "admin.token_file"), (included, "include:")] {
        assert_eq!(lb.edit(&config), Reload::Rejected, "{place}");
        let said = problem(&lb);
        assert!(
            said.contains(place) && said.contains("did not answer within 5 s") && said.contains("findmnt"),
            "{said}"
        );
        assert_eq!(lb.answer("a.test"), b"served");
    }
    // What does not read there works as ever.
    assert_eq!(lb.edit(&plain.config().replace("b.test", "c.test")), Reload::Applied);
    assert_eq!(lb.answer("c.test"), b"served");
    // One thread is kept for the directory, and one for the directory above it at most.
    let stuck = threads(lb.pid()).into_iter().filter(|name| name == "files").count();
    assert!((1..=4).contains(&stuck), "{stuck}");
    lb.signal(Signal::TERM);
    assert!(lb.wait_for_exit().success());
}

#[test]
fn a_start_on_a_file_system_that_never_answers_fails() {
    let Some(dead) = mountable() else { return };
    let dead = dead.path();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let lb = Lb::new().unmatched(SocketAddr::from(([127, 0, 0, 1], 1)));
    fs::write(&file, with_token(&lb, &format!("{}/token", dead.display()))).unwrap();
    for file in [file, dead.join("config.yaml")] {
        let mut command = beside_a_dead_mount(dead);
        let ended = command.args([env!("CARGO_BIN_EXE_snigate"), "run", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("did not answer within 5 s"), "{said}");
    }
}

fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).map(|name| name.trim().to_owned()).collect()
}

/// A control group that holds at most so many threads; removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Self> {
        let places = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        let group = places.iter().map(|place| Self(Path::new(place).join(name))).find(|group| {
            let _ = fs::create_dir(&group.0);
            group.0.join("pids.max").exists()
        });
        if group.is_none() {
            assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "no pids control group here");
            println!("skipped: no pids control group here");
        }
        group
    }

    fn set(&self, file: &str, value: impl ToString) {
        fs::write(self.0.join(file), value.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn without_a_thread_to_be_had_reloads_go_on() {
    let Some(group) = Group::new(&format!("snigate-test-{}", std::process::id())) else { return };
    let backend = Backend::answering(b"served");
    let plain = Lb::new().route("a.test", &backend).controlled();
    let mut lb = Running::start(&plain.config());
    lb.scrape();
    group.set("cgroup.procs", lb.pid());
    group.set("pids.max", threads(lb.pid()).len());
    let before = threads(lb.pid());

    // Directories and files that were not there before, and changes in them.
    fs::create_dir(lb.directory().join("routes.d")).unwrap();
    fs::create_dir(lb.directory().join("secrets")).unwrap();
    fs::write(lb.directory().join("secrets/token"), "first").unwrap();
    let config = plain.config().replace("token_file: token", "token_file: secrets/token");
    assert_eq!(lb.edit(&format!("include: routes.d/*.yaml\n{config}")), Reload::Applied);
    for turn in 0..3 {
        let seen = lb.log().len();
        let route = format!("routes: [{{ sni: \"n{turn}.test\", pool: pool-0 }}]\n");
        fs::write(lb.directory().join("routes.d/a.yaml"), route).unwrap();
        assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied, "{turn}");
        assert_eq!(lb.answer(&format!("n{turn}.test")), b"served");
    }
    let seen = lb.log().len();
    fs::write(lb.directory().join("secrets/token"), "second").unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    assert_eq!(lb.admin_get("/readyz").0, 200);
    lb.scrape();
    assert_eq!(threads(lb.pid()).len(), before.len(), "{before:?}");
    assert_eq!(lb.metric("task_panics_total", &[]), 0.0);
    lb.signal(Signal::TERM);
    assert!(lb.wait_for_exit().success());
    drop(lb);
    // The kernel forgets its last thread a moment later.
    while group.0.exists() && fs::remove_dir(&group.0).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
