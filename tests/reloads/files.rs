//! Routing files that change in every way a file can change, and into everything a file can be.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{DEADLINE, Lb, Lines, Reload, poll};
use crate::trial::Trial;
use crate::wire::send;

#[test]
fn a_file_may_be_changed_in_every_way_and_is_applied_once() {
    let (one, two) = (Backend::answering(b"one"), Backend::answering(b"two"));
    let lb = Trial::of(Lb::new().route("a.test", &one));
    let texts = [Lb::new().route("a.test", &two).config(), Lb::new().route("a.test", &one).config()];
    let file = lb.config_file();
    type Way = (&'static str, fn(&Path, &str));
    let ways: [Way; 4] = [
        ("rename", |file, text| {
            let beside = file.with_file_name("next");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, file).unwrap();
        }),
        ("in place", |file, text| fs::write(file, text).unwrap()),
        ("delete and create", |file, text| {
            fs::remove_file(file).unwrap();
            fs::write(file, text).unwrap();
        }),
        ("in place, slowly", |file, text| {
            let mut file = fs::File::create(file).unwrap();
            for part in text.as_bytes().chunks(text.len() / 8) {
                file.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(30));
            }
        }),
    ];
    for (turn, (what, change)) in ways.into_iter().enumerate() {
        let seen = lb.log().len();
        change(&file, &texts[turn % 2]);
        assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied, "{what}");
        assert_eq!(lb.answer("a.test"), if turn % 2 == 0 { b"two" } else { b"one" }, "{what}");
        // An editor's own files beside it are nobody's business.
        fs::write(file.with_file_name(".config.yaml.swp"), "{").unwrap();
    }
    assert_eq!(lb.metric("config_reloads_total", &[("result", "applied")]), 1.0 + 4.0);
    assert_eq!(lb.metric("config_reloads_total", &[("result", "rejected")]), 0.0, "half a file was read");
    lb.end();
}

/// As kubelet does it: the file is a link through `..data`, which is swapped by rename.
#[test]
fn a_config_map_is_swapped_whole() {
    let (one, two) = (Backend::answering(b"one"), Backend::answering(b"two"));
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| {
        fs::create_dir(directory.path().join(name)).unwrap();
        fs::write(directory.path().join(name).join("config.yaml"), text).unwrap();
    };
    place("..1", &Lb::new().route("a.test", &one).config());
    symlink("..1", directory.path().join("..data")).unwrap();
    symlink("..data/config.yaml", directory.path().join("config.yaml")).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_snigate"))
        .args(["run", "--config"])
        .arg(directory.path().join("config.yaml"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = Lines::follow(child.stdout.take().unwrap());
    let ready = log.wait_for(0, DEADLINE, |line| line["msg"] == "ready");
    place("..2", &Lb::new().route("a.test", &two).config());
    symlink("..2", directory.path().join("..next")).unwrap();
    fs::rename(directory.path().join("..next"), directory.path().join("..data")).unwrap();
    fs::remove_dir_all(directory.path().join("..1")).unwrap();
    let applied = log.wait_for(0, DEADLINE, |line| line["msg"] == "reload applied");
    let rejected = log.all().iter().any(|line| line["msg"].as_str().is_some_and(|msg| msg.contains("rejected")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready.is_some() && applied.is_some() && !rejected, "{log}");
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
        let told = lines[seen..].iter().find(|line| line["level"] == "ERROR").unwrap();
        let told = told["msg"].as_str().unwrap();
        if !["other workers", "an address of nobody"].contains(&what) {
            assert!(has_place(told), "{what}: {told}");
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
    let huge = fs::File::create(lb.config_file()).unwrap();
    huge.set_len(100 << 20).unwrap();
    let seen = lb.log().len();
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
    let small_in_force = |line: &Value| line["msg"] == "reload applied" && line["routes"] == 1;
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
