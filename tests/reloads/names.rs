//! Files of names change while snigate serves.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::backend::Backend;
use crate::harness::{Lb, Reload, poll};
use crate::trial::Trial;

fn replace(file: &Path, text: &str) {
    let beside = file.with_file_name("next");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, file).unwrap();
}

#[test]
fn a_file_of_names_is_watched_and_applied_as_a_whole_or_not_at_all() {
    let (first, second) = (Backend::answering(b"first"), Backend::answering(b"second"));
    let directory = tempfile::tempdir().unwrap();
    let names = directory.path().join("names.txt");
    fs::write(&names, "a.test\n*.b.test pool-1\n").unwrap();
    let lb = Lb::new().route(&format!("@{}", names.display()), &first).route("other.test", &second);
    let lb = Trial::of(lb);
    assert_eq!((lb.answer("a.test"), lb.answer("x.b.test")), (b"first".to_vec(), b"second".to_vec()));

    let seen = lb.log().len();
    replace(&names, "# moved\na.test pool-1\nc.test\n");
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    assert_eq!((lb.answer("a.test"), lb.answer("c.test")), (b"second".to_vec(), b"first".to_vec()));

    let seen = lb.log().len();
    replace(&names, "c.test pool-1\nd.test pool-7\nc.test\n");
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Rejected);
    let problems: Vec<String> =
        lb.log().iter().filter(|line| line["event"] == "config_problem").map(|line| line["msg"].to_string()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("names.txt:2:8: there is no pool `pool-7`"), "{problems:?}");
    assert!(problems[1].contains("names.txt:3:1: route `@") && problems[1].contains("names.txt:1:1"), "{problems:?}");
    assert_eq!((lb.answer("a.test"), lb.answer("c.test")), (b"second".to_vec(), b"first".to_vec()));
    lb.end();
}

#[test]
fn a_call_does_not_read_files_again_that_have_not_changed() {
    let backend = Backend::answering(b"served");
    let directory = tempfile::tempdir().unwrap();
    let names = directory.path().join("names.txt");
    // Large, so that a look at its time is enough to see that it is the same; but of little work.
    let text = format!("# {}\nname-7.example.test\n", "x".repeat(2 << 20));
    fs::write(&names, &text).unwrap();
    let lb = Lb::new().route(&format!("@{}", names.display()), &backend).controlled();
    let lb = Trial::of(lb.with("reload: { watch: false, poll: 1h }"));
    let call = || {
        let read = || -> usize {
            let io = fs::read_to_string(lb.proc("io")).unwrap();
            let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
            line.parse().unwrap()
        };
        let before = read();
        let (status, answer) = lb.call("POST /api/v1/reload", "");
        assert_eq!(status, 200, "{answer}");
        (answer["result"].clone(), read() - before)
    };
    // A file that has changed less than two seconds ago is read: its time may be that of two versions.
    let unchanged = poll(|| match call() {
        (result, read) if read < text.len() => Ok(result),
        more => Err(more),
    });
    assert_eq!(unchanged, Ok(json!("unchanged")));
    replace(&names, &text.replace("name-7.", "other-7."));
    assert_eq!(call().0, json!("applied"));
    assert_eq!(lb.answer("other-7.example.test"), b"served");
    lb.end();
}
