//! Routing files that change in every way a file can change, and into everything a file can be.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{DEADLINE, Lb, Lines, Reload, poll};
use crate::trial::Trial;
use crate::wire::send;

type Way = (&'static str, fn(&Path, &str));

/// As programs write files: each leaves the file with `text` in it.
const WAYS: &[Way] = &[
    ("rename", |file, text| {
        fs::write(file.with_file_name("next"), text).unwrap();
        fs::rename(file.with_file_name("next"), file).unwrap();
    }),
    ("in place", |file, text| fs::write(file, text).unwrap()),
    ("delete and create", |file, text| {
        fs::remove_file(file).unwrap();
        fs::write(file, text).unwrap();
    }),
    ("delete, wait, create", |file, text| {
        fs::remove_file(file).unwrap();
        thread::sleep(Duration::from_millis(500));
        fs::write(file, text).unwrap();
    }),
    ("truncate, wait, write", |file, text| {
        fs::write(file, "").unwrap();
        thread::sleep(Duration::from_millis(500));
        fs::write(file, text).unwrap();
    }),
    ("in place, slowly", |file, text| in_parts(file, text, 8, Duration::from_millis(30))),
    // Half of it is good by itself, and the pause is longer than it takes to see a change.
    ("in place, with long pauses", |file, text| in_parts(file, text, 3, Duration::from_millis(700))),
    ("vim", |file, text| {
        fs::write(file.with_file_name("4913"), "").unwrap();
        fs::remove_file(file.with_file_name("4913")).unwrap();
        fs::write(file.with_file_name(".config.yaml.swp"), "{").unwrap();
        fs::rename(file, file.with_file_name("config.yaml~")).unwrap();
        fs::write(file, text).unwrap();
        fs::remove_file(file.with_file_name("config.yaml~")).unwrap();
        fs::remove_file(file.with_file_name(".config.yaml.swp")).unwrap();
    }),
    ("emacs", |file, text| {
        symlink("somebody@somewhere.1234", file.with_file_name(".#config.yaml")).unwrap();
        fs::write(file.with_file_name("#config.yaml#"), "{").unwrap();
        fs::copy(file, file.with_file_name("config.yaml~")).unwrap();
        fs::write(file, text).unwrap();
        fs::remove_file(file.with_file_name("#config.yaml#")).unwrap();
        fs::remove_file(file.with_file_name(".#config.yaml")).unwrap();
    }),
    ("sed -i, kate, and a link over it", |file, text| {
        fs::write(file.with_file_name("sedQ7xk2f"), text).unwrap();
        fs::hard_link(file.with_file_name("sedQ7xk2f"), file.with_file_name("config.yaml.kYzq12")).unwrap();
        fs::rename(file.with_file_name("sedQ7xk2f"), file).unwrap();
        fs::remove_file(file.with_file_name("config.yaml.kYzq12")).unwrap();
    }),
];

fn in_parts(file: &Path, text: &str, parts: usize, pause: Duration) {
    let mut file = fs::File::create(file).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (number, part) in lines.chunks(lines.len().div_ceil(parts)).enumerate() {
        if number > 0 {
            thread::sleep(pause);
        }
        file.write_all(part.concat().as_bytes()).unwrap();
    }
}

/// Every way, one after the other; each is to be applied once.
#[track_caller]
fn go_every_way(with: &str, ways: &[Way]) {
    let (one, two) = (Backend::answering(b"one"), Backend::answering(b"two"));
    // Comments make the parts of the file good YAML, and a good configuration from the second third on.
    let text = |backend: &Backend| {
        let padding = "# a line of a file that is written slowly\n".repeat(40);
        Lb::new().route("a.test", backend).with(with).config() + &padding + "unmatched: { pool: pool-0 }\n"
    };
    let (text_one, text_two) = (text(&one), text(&two));
    let lb = Trial::with(&text_one);
    let file = lb.config_file();
    for (turn, (what, change)) in ways.iter().enumerate() {
        let (next, answer): (_, &[u8]) = if turn % 2 == 0 { (&text_two, b"two") } else { (&text_one, b"one") };
        let seen = lb.log().len();
        change(&file, next);
        assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied, "{what}");
        // The last line of the file counts.
        assert_eq!(lb.answer("unmatched.test"), answer, "{what}");
    }
    // One more change is seen after all that was to be seen of those before.
    let next = if ways.len().is_multiple_of(2) { &text_two } else { &text_one };
    assert_eq!(lb.edit(next), Reload::Applied);
    assert_eq!(lb.metric("config_reloads_total", &[("result", "applied")]), 2.0 + ways.len() as f64);
    assert_eq!(lb.metric("config_reloads_total", &[("result", "rejected")]), 0.0, "half a file was read");
    assert_eq!(lb.metric("config_reloads_total", &[("result", "unchanged")]), 0.0);
    lb.end();
}

#[test]
fn a_file_may_be_changed_in_every_way_and_is_applied_once() {
    go_every_way("", WAYS);
}

/// The poll alone has to do; it does not see who is still writing, so that pauses are to be short.
#[test]
fn without_a_watch_the_poll_sees_every_change() {
    let ways: Vec<Way> = WAYS.iter().filter(|(what, _)| *what != "in place, with long pauses").copied().collect();
    go_every_way("reload: { watch: false, poll: 200ms }", &ways);
}

/// The half of a file that cannot be used is not told of while its writer is still at it.
#[test]
fn a_writer_that_takes_long_is_waited_for() {
    let (one, two) = (Backend::answering(b"one"), Backend::answering(b"two"));
    let lb = Trial::of(Lb::new().route("a.test", &one));
    let text = Lb::new().route("a.test", &two).config();
    let seen = lb.log().len();
    // The first half ends in the middle of a line.
    let (first, second) = text.split_at(text.find("backends: [").unwrap() + 12);
    let mut file = fs::File::create(lb.config_file()).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    thread::sleep(Duration::from_secs(3));
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    assert_eq!(lb.answer("a.test"), b"two");
    assert_eq!(lb.metric("config_reloads_total", &[("result", "rejected")]), 0.0);
    lb.end();
}

/// A file that breaks by and by is told of once each time it is other than before.
#[test]
fn a_rejected_file_is_looked_at_again_when_it_changes_further() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let good = lb.config_text();
    let append = |text: &str| {
        let seen = lb.log().len();
        fs::OpenOptions::new().append(true).open(lb.config_file()).unwrap().write_all(text.as_bytes()).unwrap();
        lb.wait_for_reload_after(seen)
    };
    assert_eq!(append("unmatched: { pool: nowhere"), Reload::Rejected);
    assert_eq!(append(", refuse: close }\n"), Reload::Rejected);
    assert_eq!(lb.edit(&good), Reload::Unchanged, "back to what is in force");
    assert_eq!(append("unmatched: { refuse: close }\n"), Reload::Applied);
    assert_eq!(lb.metric("config_reloads_total", &[("result", "rejected")]), 2.0);
    lb.end();
}

/// A snigate whose routing file stands where a test wants it, started by whatever command.
struct Placed {
    child: Child,
    log: Lines,
}

impl Placed {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let log = Lines::follow(child.stdout.take().unwrap());
        let placed = Self { child, log };
        assert!(placed.log.wait_for(0, DEADLINE, |line| line["event"] == "ready").is_some(), "{}", placed.log);
        placed
    }

    fn run(file: &Path) -> Self {
        Self::start(Command::new(env!("CARGO_BIN_EXE_snigate")).args(["run", "--config"]).arg(file))
    }

    /// The one line that comes of `change`.
    #[track_caller]
    fn applies(&self, what: &str, change: impl FnOnce()) {
        let seen = self.log.len();
        change();
        let reported = |line: &Value| line["event"].as_str().is_some_and(|event| event.starts_with("reload_"));
        let line = self.log.wait_for(seen, DEADLINE, reported);
        assert_eq!(line.map(|line| line["event"].clone()), Some("reload_applied".into()), "{what}\n{}", self.log);
    }

    fn applied(&self) -> usize {
        self.log.all().iter().filter(|line| line["event"] == "reload_applied").count()
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As kubelet does it: the file is a link through `..data`, which is swapped by rename, again and again.
#[test]
fn a_config_map_is_swapped_whole() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let place = |turn: usize| {
        fs::create_dir(at(&format!("..{turn}"))).unwrap();
        let text = Lb::new().route(&format!("turn-{turn}.test"), &backend).config();
        fs::write(at(&format!("..{turn}/config.yaml")), text).unwrap();
    };
    place(0);
    symlink("..0", at("..data")).unwrap();
    symlink("..data/config.yaml", at("config.yaml")).unwrap();
    let lb = Placed::run(&at("config.yaml"));
    for turn in 1..=10 {
        lb.applies(&format!("swap {turn}"), || {
            place(turn);
            symlink(format!("..{turn}"), at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            fs::remove_dir_all(at(&format!("..{}", turn - 1))).unwrap();
        });
    }
    assert_eq!(lb.applied(), 10);
}

#[test]
fn a_linked_directory_is_followed() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text = |name: &str| Lb::new().route(name, &backend).config();
    for (version, name) in [("v1", "one.test"), ("v2", "two.test")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(&format!("{version}/config.yaml")), text(name)).unwrap();
    }
    symlink("v1", at("current")).unwrap();
    let lb = Placed::run(&at("current/config.yaml"));
    lb.applies("the link leads elsewhere", || {
        symlink("v2", at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
    });
    lb.applies("a file there changes", || fs::write(at("v2/config.yaml"), text("three.test")).unwrap());
    // What it led to before is nobody's business any more.
    fs::write(at("v1/config.yaml"), "{").unwrap();
    lb.applies("and again", || fs::write(at("v2/config.yaml"), text("four.test")).unwrap());
}

/// As `docker run -v FILE:FILE` does it: the inode stays, and its directory tells nothing.
#[test]
fn a_file_that_is_mounted_alone_is_seen() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text = |name: &str| Lb::new().route(name, &backend).with("reload: { poll: 1h }").config();
    fs::create_dir(at("inside")).unwrap();
    fs::write(at("inside/config.yaml"), "").unwrap();
    fs::write(at("outside.yaml"), text("one.test")).unwrap();
    let script = r#"mount --bind "$1" "$2" && exec "$3" run --config "$2""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.args([at("outside.yaml"), at("inside/config.yaml"), env!("CARGO_BIN_EXE_snigate").into()]);
    if !can_unshare("--mount") {
        return;
    }
    let lb = Placed::start(&mut command);
    lb.applies("written in place", || fs::write(at("outside.yaml"), text("two.test")).unwrap());
    lb.applies("and again", || fs::write(at("outside.yaml"), text("three.test")).unwrap());
    assert_eq!(lb.applied(), 2);
}

/// The kernel gives no watch; it says so once, and polls.
#[test]
fn without_inotify_the_poll_has_to_do() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let text = |name: &str| Lb::new().route(name, &backend).with("reload: { poll: 300ms }").config();
    fs::write(&file, text("one.test")).unwrap();
    let script = r#"echo 0 > /proc/sys/user/max_inotify_instances && exec "$1" run --config "$2""#;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_snigate")]).arg(&file);
    if !can_unshare("--user") {
        return;
    }
    let lb = Placed::start(&mut command);
    for name in ["two.test", "three.test"] {
        lb.applies(name, || fs::write(&file, text(name)).unwrap());
    }
    let warned = lb.log.all().iter().filter(|line| line["level"] == "WARN").count();
    assert_eq!(warned, 1, "{}", lb.log);
}

/// Whether this machine lets us make namespaces; where nothing may be missing, it must.
fn can_unshare(kind: &str) -> bool {
    let made = Command::new("unshare").args([kind, "--map-root-user", "true"]).stderr(Stdio::null()).status();
    let can = made.is_ok_and(|status| status.success());
    assert!(can || std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "no namespaces here");
    can
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_and_says_where() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let good = lb.config_text();
    let quad = {
        // 44 kB of aliases that would unfold to the fourth power.
        let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (name, before) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
            text += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 1000].join(","));
        }
        text
    };
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("no YAML", b"{{{{".to_vec()),
        ("an unknown key", good.replace("routes:", "rotues:").into_bytes()),
        ("a duplicate key", format!("{good}\npools: {{}}\n").into_bytes()),
        ("a dangling pool", good.replace("pool: pool-0", "pool: pool-9").into_bytes()),
        ("no UTF-8", [good.as_bytes(), b"# \xff\xfe\n"].concat()),
        ("a byte order mark", [b"\xef\xbb\xbf", good.as_bytes()].concat()),
        ("two documents", format!("{good}\n---\n{good}").into_bytes()),
        ("brackets", vec![b'['; 100_000]),
        ("aliases", quad.into_bytes()),
        ("a NUL", [good.as_bytes(), b"\0"].concat()),
        ("other workers", format!("{good}\nruntime: {{ workers: 3 }}\n").into_bytes()),
        ("an address of nobody", good.replacen("127.0.0.1:0", "192.0.2.1:0", 1).into_bytes()),
    ];
    let resident = lb.resident_bytes();
    let rejected = table.len();
    for (what, text) in table {
        let seen = lb.log().len();
        let beside = lb.directory().join("next");
        fs::write(&beside, &text).unwrap();
        fs::rename(&beside, lb.config_file()).unwrap();
        assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected, "{what}");
        let lines = lb.log();
        let reported = lines[seen..].iter().find(|line| line["level"] == "ERROR").unwrap();
        let reported = reported["msg"].as_str().unwrap();
        if !["other workers", "an address of nobody"].contains(&what) {
            assert!(has_place(reported), "{what}: {reported}");
        }
        assert_eq!(lb.metric("config_last_reload_successful", &[]), 0.0, "{what}");
        assert_eq!(lb.answer("a.test"), b"served", "{what}");
    }
    // What is no file at all.
    let seen = lb.log().len();
    fs::remove_file(lb.config_file()).unwrap();
    fs::create_dir(lb.config_file()).unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected, "a directory");
    fs::remove_dir(lb.config_file()).unwrap();
    let seen = lb.log().len();
    symlink(lb.config_file(), lb.config_file()).unwrap();
    lb.signal(Signal::HUP);
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected, "a link to itself");
    // Put in its place whole: one that grows while it is read is read as far as a file may be large.
    let huge = lb.directory().join("huge");
    fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    let seen = lb.log().len();
    fs::rename(&huge, lb.config_file()).unwrap();
    lb.signal(Signal::HUP);
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected, "100 MiB");
    assert_eq!(lb.answer("a.test"), b"served");
    let grown = lb.resident_bytes().saturating_sub(resident);
    assert!(grown < 64 << 20, "{grown} bytes for files that were refused");
    assert!(lb.metric("config_reloads_total", &[("result", "rejected")]) >= rejected as f64 + 2.0);
    // And back: what is in force already.
    lb.edit(&good);
    // The huge file may be looked at once more before, since the watch has seen it too.
    lb.wait_for_metric("config_last_reload_successful", &[], 1.0);
    lb.end();
}

/// A refused file that names another one is mended in that other one.
#[test]
fn an_included_file_that_is_mended_is_seen() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let included = lb.directory().join("routes.d");
    fs::create_dir(&included).unwrap();
    fs::write(included.join("b.yaml"), "routes: [{ sni: b.test, pool: nowhere }]\n").unwrap();
    assert_eq!(lb.edit(&format!("include: routes.d/*.yaml\n{}", lb.config_text())), Reload::Rejected);
    let seen = lb.log().len();
    fs::write(included.join("b.yaml"), "routes: [{ sni: b.test, pool: pool-0 }]\n").unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    assert_eq!(lb.answer("b.test"), b"served");
    lb.end();
}

#[test]
fn the_first_file_of_an_included_directory_is_seen() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let included = lb.directory().join("routes.d");
    fs::create_dir(&included).unwrap();
    assert_eq!(lb.edit(&format!("include: routes.d/*.yaml\n{}", lb.config_text())), Reload::Applied);
    let seen = lb.log().len();
    fs::write(included.join("b.yaml"), "routes: [{ sni: b.test, pool: pool-0 }]\n").unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    assert_eq!(lb.answer("b.test"), b"served");
    lb.end();
}

/// Reading and building take their time, and the file may change meanwhile.
#[test]
fn a_change_while_the_one_before_it_is_read_is_not_lost() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend).with("reload: { poll: 1s }"));
    let small = lb.config_text().replace("a.test", "b.test");
    let many: Vec<String> = (0..20_000).map(|i| format!("  - {{ sni: n{i}.test, pool: pool-0 }}")).collect();
    let large = small.replace("routes:\n", &format!("routes:\n{}\n", many.join("\n")));
    let (seen, cpu) = (lb.log().len(), lb.cpu());
    fs::write(lb.config_file(), &large).unwrap();
    poll(|| if lb.cpu() > cpu + Duration::from_millis(100) { Ok(()) } else { Err(()) }).expect("it is being read");
    fs::write(lb.config_file(), &small).unwrap();
    let small_in_force = |line: &Value| line["event"] == "reload_applied" && line["routes"] == 1;
    lb.wait_for_line_after(seen, small_in_force);
    assert_eq!(lb.answer("b.test"), b"served");
    lb.end();
}

/// The series of a route go with it, but not the connections that were counted in them, or still will be.
#[test]
fn the_accounts_hold_when_a_route_goes_under_its_connections() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend).route("b.test", &backend));
    assert_eq!(lb.answer("a.test"), b"served");
    let mut open = send(lb.address(), &hello("a.test"));
    open.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(lb.edit(&Lb::new().route("b.test", &backend).config()), Reload::Applied);
    lb.check_accounts();
    assert_eq!(lb.metric("connections_active", &[]), 1.0);
    drop(open);
    lb.settle();
    assert_eq!(lb.edit(&Lb::new().route("a.test", &backend).config()), Reload::Applied);
    assert_eq!(lb.answer("a.test"), b"served");
    lb.wait_for_metric("connections_closed_total", &[], 3.0);
    lb.end();
}

impl Trial {
    fn config_text(&self) -> String {
        fs::read_to_string(self.config_file()).unwrap()
    }
}

/// Whether a message has `:LINE:COLUMN` in it.
fn has_place(message: &str) -> bool {
    let mut parts = message.split(':').map(|part| part.trim().parse::<u32>().is_ok());
    let mut before = false;
    parts.any(|number| std::mem::replace(&mut before, number) && number)
}
